"""``ml_energy_v3/llm_energy_latency.csv``: vLLM in steady state, time between tokens, output rate, energy per token.

``avg_batch_size`` sequences run over all data-parallel ranks. Prompt lengths are not in the file: means of the three
kinds of requests are guessed. Energy is that of the devices alone. Rows of picture and video requests are language
models with prompts of unknown length and are not answered.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard.measurements.reader import Ask, Comparison, comparison, guarded, machine_name, read_frame
from steelyard_validation.readers._whole import Asked, Deployment, deploy, eight_bit, loaded_step, predict_all

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["read"]

#: Mean prompt of a request by task, tokens (guesses: a chat turn with some history, a question with choices, a file).
PROMPT = {"lm-arena-chat": 300.0, "gpqa": 300.0, "sourcegraph-fim": 600.0}
FORMATS = {"bfloat16": "bf16", "bf16": "bf16", "fp8": "fp8", "mxfp4": "", "nvfp4": "nvfp4", "fp4": "nvfp4"}
KEYS = [
    "model",
    "task",
    "gpu_model",
    "weight_precision",
    "num_gpus",
    "par_tensor_parallel",
    "par_data_parallel",
    "par_expert_parallel",
]
#: Log-space spread of energy beside that of time (guess until power is calibrated).
ENERGY_SPREAD = 0.35


def read(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """Time between tokens, rate, and energy per token."""
    for path in ask.files(folder, "llm_energy_latency*.csv"):
        if ask.wants(path.stem):
            yield from guarded(ask, path, partial(_table, path, ask))


def _place(model: str, task: str, gpu: str, precision: str, gpus: float, tp: Any, dp: Any, ep: Any) -> Deployment | str:
    if task not in PROMPT:
        return f"prompt lengths of {task!r} are not stated"
    weights = FORMATS.get(str(precision))
    if weights == "fp8":
        weights = eight_bit(model)
    if weights is None:
        return f"unknown precision {precision!r}"
    degrees = [1 if not np.isfinite(x) else int(x) for x in (tp, dp, ep)]
    if degrees[0] * degrees[1] < gpus:  # its degrees are those of the experts; attention is split over all devices
        degrees[0] = int(gpus) // degrees[1]
    return deploy(model, gpu, tp=degrees[0], dp=degrees[1], ep=degrees[2], weights=weights, engine="vllm")


def _answers(at: Deployment, rows: pd.DataFrame) -> list[Asked]:
    batch = np.maximum(1.0, np.round(rows["avg_batch_size"].to_numpy(dtype=np.float64) / at.plan.dp))
    osl = rows["avg_output_len"].to_numpy(dtype=np.float64)
    isl = np.full(len(rows), PROMPT[str(rows["task"].iloc[0])])
    step, _ = loaded_step(at, batch, isl, osl)
    alone = at.decode(batch, np.round(isl + osl / 2))
    calm = batch / osl < 0.5  # then more than half of the steps carry no prompt, and so does the median
    median = np.where(calm, alone.time_s, step.time_s)
    rate = batch * at.plan.dp / step.time_s
    energy = step.energy_j / (batch * at.plan.dp)
    spread = np.sqrt(step.spread**2 + ENERGY_SPREAD**2)
    return [
        (median, np.where(calm, alone.limit_s, step.limit_s), step.spread),
        (rate, batch * at.plan.dp / step.limit_s, step.spread),
        (energy, np.full(len(rows), np.nan), spread),
    ]


def _table(path: Path, ask: Ask) -> Iterator[Comparison]:
    measured = ["median_itl_ms", "output_throughput_tokens_per_sec", "energy_per_token_joules"]
    frame = read_frame(path, [*KEYS, "avg_batch_size", "avg_output_len", *measured])
    frame = frame.iloc[ask.pick(len(frame), path.stem)].reset_index(drop=True)
    answers = predict_all(frame, KEYS, _place, _answers, 3)
    metrics = (
        ("tpot_s", "median_itl_ms", 1e-3),
        ("tokens_per_s", "output_throughput_tokens_per_sec", 1.0),
        ("energy_j", "energy_per_token_joules", 1.0),
    )
    for (metric, column, unit), found in zip(metrics, answers, strict=True):
        yield comparison(
            ask,
            path.stem,
            metric=metric,
            phase="serve",
            machine=frame["gpu_model"].map(machine_name),
            family=frame["model"].str.rpartition("/")[2] + " " + frame["task"],
            measured=frame[column].to_numpy(dtype=np.float64) * unit,
            predicted=found.predicted,
            low=found.low,
            high=found.high,
            roofline=found.roofline,
            why=found.why,
        )
