"""``vidur_profiling/mlp_linear``: the linear layers, norms and small ops of eight models against tokens and TP degree.

fp16 kernels of PyTorch and vLLM, medians of CUDA kernel times; products are already sharded. The next op of a real
layer lies between two calls of one op, so weights are cold and activations may be cached.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard.cost.site import site_for
from steelyard.errors import SteelyardError
from steelyard.measurements.reader import Ask, Comparison, comparison, guarded, machine_of, read_frame
from steelyard_validation.readers import _ops

if TYPE_CHECKING:
    import pandas as pd

    from steelyard.machine.component import Machine

__all__ = ["read"]

ELEMENT = 2.0
GPUS = {"A100": "a100_sxm", "H100": "h100_sxm", "A40": "a40"}
_COLUMNS = (
    "gpu",
    "model",
    "n_head",
    "n_kv_head",
    "n_embd",
    "n_expanded_embd",
    "vocab_size",
    "use_gated_mlp",
    "num_tokens",
    "num_tensor_parallel_workers",
)
#: Measured column (without ``_ms_median``) and its kind.
OPS = {
    "attn_pre_proj": "linear",
    "attn_post_proj": "linear",
    "mlp_up_proj": "linear",
    "mlp_down_proj": "linear",
    "input_layernorm": "norm",
    "post_attention_layernorm": "norm",
    "mlp_act": "activation",
    "add": "add",
    "attn_rope": "rope",
    "emb": "embedding",
}
#: s of products that say what an engine holds.
LONG_S = 1e-3
#: Elements a unit copies per clock in PyTorch's indexing kernel of 2023. Its rate follows units and clock, not
#: bandwidth: instructions (an integer division per element, one may infer) limit the embedding.
#: Source: 4,096 tokens on the A100.
INDEXED_PER_CLOCK = 0.5


def read(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """``mlp_*.parquet``."""
    for path in ask.files(folder, "mlp_*.parquet"):
        if ask.wants(path.stem):
            yield from guarded(ask, path, _table, path, ask)


def _table(path: Path, ask: Ask) -> Iterator[Comparison]:
    frame = read_frame(path, _COLUMNS, optional=tuple(f"{op}_ms_median" for op in OPS))
    frame = frame.iloc[ask.pick(len(frame), path.stem)]
    for gpu, part in frame.groupby("gpu"):
        machine = machine_of(GPUS.get(str(gpu), str(gpu)))
        for op, kind in OPS.items():
            measured = part[f"{op}_ms_median"].to_numpy(float) * 1e-3
            rows = part[np.isfinite(measured) & (measured > 0)]
            if rows.empty:
                continue
            about: dict[str, Any] = {
                "metric": "time_s",
                "phase": kind,
                "machine": machine.name if machine else str(gpu),
                "family": rows["model"].to_numpy(np.str_),
                "measured": rows[f"{op}_ms_median"].to_numpy(float) * 1e-3,
            }
            try:
                answer = _answer(machine, op, rows) if machine else None
                why = "" if answer else "machine not in the catalogue"
            except SteelyardError as error:
                answer, why = None, str(error)
            split: Any = "fit" if op == "emb" and gpu == "A100" else "left-out" if op == "emb" else "all"
            if kind == "linear":  # what long products hold was read off them (calibration/_families/sustained.toml)
                long = gpu in ("A100", "H100") and answer is not None and answer.time_s > LONG_S
                split = np.where(long, "fit", "left-out")
            yield comparison(ask, path.stem, why=why, split=split, **about, **(answer.columns if answer else {}))


def _answer(machine: Machine, op: str, rows: pd.DataFrame) -> _ops.Answer:
    def column(name: str) -> Any:
        return rows[name].to_numpy(float)

    tokens, tp, hidden, inter = (
        column("num_tokens"),
        column("num_tensor_parallel_workers"),
        column("n_embd"),
        column("n_expanded_embd"),
    )
    dim = hidden / column("n_head")
    query, cached = column("n_head") * dim / tp, np.maximum(column("n_kv_head") / tp, 1.0) * dim
    ups = np.where(rows["use_gated_mlp"].to_numpy(bool), 2.0, 1.0)
    linear = {
        "attn_pre_proj": (query + 2 * cached, hidden),
        "attn_post_proj": (hidden, query),
        "mlp_up_proj": (ups * inter / tp, hidden),
        "mlp_down_proj": (hidden, inter / tp),
    }
    if op in linear:
        n, k = linear[op]
        return _ops.gemm(machine, "fp16", tokens, n, k, hot=False, running=True)
    width = tokens * hidden * ELEMENT
    if op == "emb":
        answer, where = _ops.vector(machine, "gather", width, width, 0.0), site_for(machine)
        indexing = tokens * hidden / (INDEXED_PER_CLOCK * where.units * where.clock_hz)
        slower = np.maximum(indexing / answer.time_s, 1.0)
        return replace(
            answer, time_s=answer.time_s * slower, low_s=answer.low_s * slower, high_s=answer.high_s * slower
        )
    if op == "mlp_act":
        made = tokens * inter / tp * ELEMENT
        return _ops.vector(machine, "elementwise_scalar", ups * made, made, made, hot=True)
    if op == "attn_rope":
        turned = tokens * (query + cached) * ELEMENT
        return _ops.vector(machine, "elementwise_scalar", turned, turned, turned, hot=True)
    if op == "add":
        return _ops.vector(machine, "elementwise", 2 * width, width, width / ELEMENT, hot=True)
    return _ops.vector(machine, "norm_scalar", width, width, width, rows=tokens, hot=True)
