"""``*/kv_capacity.csv``: what vLLM printed of its KV cache when it started.

The size it prints (``kv_tokens``) and, where it says so, the requests of the longest length that fit
(``kv_concurrency``). The share of memory, limits and length are those of the row; what is not stated is the engine's
own, of the release that is named (of builds without a number that of 0.12). Rows of builds whose attention backend held
2 GiB more (Triton on gfx1201, unified attention) are a family apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from steelyard.cost.kv_pages import Printed
from steelyard.cost.kv_pool import engine_prints
from steelyard.deployment.engine_config import engine_config
from steelyard.errors import SteelyardError
from steelyard.measurements.reader import Ask, Comparison, comparison, guarded, read_frame
from steelyard_validation.readers._whole import deploy, eight_bit

__all__ = ["read"]

FLAGS = ("max_model_len", "gpu_memory_utilization", "max_num_batched_tokens", "max_num_seqs")
FORMATS = {"fp8": "fp8", "nvfp4": "nvfp4", "mxfp4": "", "bf16": "", "gptq-int4": "gptq", "awq-int4": "awq"}
#: Names of checkpoints, and the model they quantise.
OF = {
    "nvidia/Qwen3-8B-NVFP4": "Qwen/Qwen3-8B",
    "RedHatAI/Qwen3-14B-FP8-dynamic": "Qwen/Qwen3-14B",
    "cpatonn/Qwen3-Coder-30B-A3B-Instruct-GPTQ-4bit": "Qwen/Qwen3-Coder-30B-A3B-Instruct",
}
#: Attention backends of older builds.
OLDER = ("triton", "uv+pl")


def read(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """Tokens of the cache, and requests of the longest length."""
    for path in ask.files(folder, "kv_capacity*.csv"):
        if ask.wants(path.stem):
            yield from guarded(ask, path, partial(_table, path, ask))


def _started(model: str, quant: str, machine: str, tp: Any, pp: Any, notes: str, version: str) -> Printed | str:
    said = dict(part.split("=", 1) for part in str(notes).split(";") if "=" in part)
    weights = FORMATS.get(str(quant).lower(), str(quant).lower())
    weights = eight_bit(model) if weights == "fp8" and "FP8-dynamic" not in model else weights
    at = deploy(
        OF.get(model, model),
        machine,
        tp=int(tp) if np.isfinite(tp) else 1,
        pp=int(pp) if np.isfinite(pp) else 1,
        weights=weights,
        kv="fp8" if "fp8" in said.get("kv_cache_dtype", "") else "",
        engine=f"vllm@{version}" if re.fullmatch(r"0\.\d+(\.\d+)?", str(version)) else "vllm@0.12",
    )
    if isinstance(at, str):
        return at
    flags = {"gpu_memory_utilization": 0.9}
    flags |= {n: float(said[n]) for n in FLAGS if said.get(n, "").replace(".", "").isdigit()}
    machine_ = at.cluster.machine
    try:
        config = engine_config(at.engine, machine_, flags, at.transformer)
        return engine_prints(at.transformer, at.plan, machine_, at.engine, config)
    except SteelyardError as error:
        return str(error)


def _table(path: Path, ask: Ask) -> Iterator[Comparison]:
    keys = ["model", "quant", "machine", "tp", "pp", "notes", "engine_version"]
    frame = read_frame(path, [*keys, "metric", "value"])
    for metric, ours in (("kv_cache_capacity", "kv_tokens"), ("kv_max_concurrency", "kv_concurrency")):
        rows = frame[frame["metric"] == metric].reset_index(drop=True)
        rows = rows.iloc[ask.pick(len(rows), path.stem)].reset_index(drop=True)
        found = [_started(*row) for row in rows[keys].itertuples(index=False)]
        good = [x if isinstance(x, Printed) else None for x in found]
        value = [np.nan if x is None else x.tokens if ours == "kv_tokens" else x.concurrency for x in good]
        scale = np.array([np.nan if x is None else v / max(x.tokens, 1) for x, v in zip(good, value, strict=True)])
        low, high = (np.array([np.nan if x is None else getattr(x, end) for x in good]) for end in ("low", "high"))
        older = rows["notes"].astype(str).str.contains("|".join(f"attention={x}".replace("+", "\\+") for x in OLDER))
        yield comparison(
            ask,
            path.stem,
            metric=ours,
            phase="start",
            machine=rows["machine"],
            family=rows["model"].str.rpartition("/")[2] + np.where(older, ", older attention", ""),
            measured=rows["value"].to_numpy(dtype=np.float64),
            predicted=np.array(value, dtype=np.float64),
            low=low * scale,
            high=high * scale,
            why=[x if isinstance(x, str) else "" for x in found],
        )
