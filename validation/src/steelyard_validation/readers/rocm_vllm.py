"""``rocm_vllm_mi300x``: vLLM on MI300X as AMD publishes it, offline throughput and static batches.

Throughput rows queue ``num_prompts`` equal requests at once under ``max_num_seqs`` and are played through the
simulator; rows with a ``batch_size`` are one static batch from its prompts to its last token.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from steelyard.measurements.reader import Ask, Comparison, comparison, guarded, machine_name, read_frame
from steelyard_validation.readers._serve import Load, offline
from steelyard_validation.readers._whole import Placed, Shown, deploy, predict, static_batch

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["read"]

NEEDED: Final = ("model", "gpu", "isl", "osl", "value")
OPTIONAL: Final = ("tp", "precision", "num_prompts", "max_num_seqs", "metric", "batch_size")
#: Prompts queued where a row states none: what AMD's benchmark script sends for equal lengths.
PROMPTS: Final = 1000
#: Token budget of a step in AMD's published commands (``--max-num-batched-tokens``).
BUDGET: Final = 65536


def read(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """Every table of the folder."""
    for path in ask.files(folder, "*.csv"):
        if ask.wants(path.stem):
            yield from guarded(ask, path, partial(_table, path, ask))


def _table(path: Path, ask: Ask) -> Iterator[Comparison]:
    import pandas as pd

    frame = read_frame(path, NEEDED, OPTIONAL)
    frame = frame.iloc[ask.pick(len(frame), path.stem)].reset_index(drop=True)
    for name in ("tp", "isl", "osl", "num_prompts", "max_num_seqs", "batch_size", "value"):
        frame[name] = pd.to_numeric(frame[name], errors="coerce").astype(np.float64)
    frame = frame.assign(tp=frame["tp"].fillna(1.0), precision=_words(frame["precision"]))
    rate = _rates(frame)
    for part, metric, question in (
        (frame[rate], "tokens_per_s", _offline),
        (frame[~rate], "e2e_s", _static),
    ):
        if len(part):
            rows = part.reset_index(drop=True)
            found = predict(rows, ["model", "gpu", "tp", "precision"], _place, question)
            why = np.where((found.why == "") & np.isnan(found.predicted), "lengths or load not stated", found.why)
            yield comparison(
                ask,
                path.stem,
                metric=metric,
                phase="serve",
                machine=rows["gpu"].astype(str).map(machine_name),
                family=rows["model"].astype(str).str.rpartition("/")[2] + " " + rows["precision"],
                measured=rows["value"].to_numpy(),
                predicted=found.predicted,
                low=found.low,
                high=found.high,
                roofline=found.roofline,
                why=why,
            )


def _words(column: pd.Series[Any]) -> pd.Series[str]:
    return column.astype(object).where(column.notna(), "").astype(str).str.lower()


def _rates(frame: pd.DataFrame) -> Any:
    """Which rows are tokens per second (else seconds): by the metric's name, else by what they state."""
    name = _words(frame["metric"])
    tokens, times = name.str.contains("tok|through"), name.str.contains("latency|second|e2e|end")
    return np.asarray(np.where(tokens, True, np.where(times, False, frame["batch_size"].isna())), dtype=np.bool_)


def _place(model: str, gpu: str, tp: float, precision: str) -> Placed | str:
    named, _, more = precision.partition(" ")  # such as "fp8 weights, fp16 kv (...)"
    weights = {"float16": "fp16", "bfloat16": "bf16"}.get(named, named)
    # the published commands keep an 8-bit cache beside 8-bit weights where the row does not say otherwise
    kv = "" if weights != "fp8" or re.search("(fp|bf|float)16 kv", more) else "fp8"
    bare = model.removesuffix("-KV").removesuffix("-FP8")
    return deploy(bare, gpu, tp=int(tp), weights=weights, kv=kv, engine="vllm")


def _offline(at: Placed, rows: pd.DataFrame) -> Shown:
    known = np.isfinite(rows["isl"] + rows["osl"]).to_numpy()
    loads = [_load(row) for row, stated in zip(rows.to_dict("records"), known, strict=True) if stated]
    table = np.full((4, len(rows)), np.nan)
    if loads:
        table[:, known] = offline(at, loads, prompts=0.0)
    return Shown(*table)


def _load(row: dict[Any, Any]) -> Load:
    prompts = PROMPTS if np.isnan(row["num_prompts"]) else int(row["num_prompts"])
    flags: dict[str, Any] = {"gpu_memory_utilization": 0.9, "max_num_batched_tokens": BUDGET}
    if np.isfinite(row["max_num_seqs"]):
        flags["max_num_seqs"] = int(row["max_num_seqs"])
    return Load(prompts, prompts, int(row["isl"]), int(row["osl"]), flags=tuple(flags.items()))


def _static(at: Placed, rows: pd.DataFrame) -> Shown:
    return static_batch(at, rows["batch_size"].fillna(1.0).clip(lower=1.0), rows["isl"], rows["osl"]).e2e
