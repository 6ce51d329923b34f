"""``ml_energy_v3/llm_energy_latency.csv``: vLLM in steady state, time between tokens, output rate, energy per token.

All requests are queued at the start and ``max_num_seqs`` of them run, over all data-parallel ranks; means are of the
time when they do (``avg_batch_size`` is the limit to a part in a thousand where the cache holds so many, which a
closed loop of as many clients would never reach). The release is vLLM 0.11.1 (the project's own account of v3.0);
tokens are drawn as each model's `generation_config.json` says. Prompt lengths are not in the file: means of the three
kinds of requests are guessed, that of chats from what prompts cost a step on H100 (the mean gap between tokens less
the median). Energy is that of the devices alone. Rows of picture and video requests are language models with prompts
of unknown length and are not answered.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard.measurements.reader import Ask, Comparison, comparison, guarded, machine_name, read_frame
from steelyard_validation.readers._serve import Load, Service, played_all, shown
from steelyard_validation.readers._whole import Placed, Shown, chosen, deploy, eight_bit, predict_all

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["read"]

#: Mean prompt of a request by task, tokens (guesses: a chat turn with some history, a question with choices, a file).
PROMPT = {"lm-arena-chat": 200.0, "gpqa": 300.0, "sourcegraph-fim": 600.0}
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
#: Lengths are uniform from this share of the longest up to it (a guess: chats are a word or pages). Each place takes
#: so many requests, all of them at least so many: the file states means of a steady state, and an end of run is none.
SHORTEST, ROUNDS, FEWEST = 0.05, 12, 200


def read(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """Time between tokens, rate, and energy per token."""
    for path in ask.files(folder, "llm_energy_latency*.csv"):
        if ask.wants(path.stem):
            yield from guarded(ask, path, partial(_table, path, ask))


def _place(model: str, task: str, gpu: str, precision: str, gpus: float, tp: Any, dp: Any, ep: Any) -> Placed | str:
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
    return deploy(model, gpu, tp=degrees[0], dp=degrees[1], ep=degrees[2], weights=weights, engine="vllm@0.11.1")


def _flags(model: str, sequences: int) -> tuple[tuple[str, Any], ...]:
    return ("max_num_seqs", max(2, sequences)), ("sampling", chosen(model))


def _answers(at: Placed, rows: pd.DataFrame) -> list[Shown]:
    """Median time between tokens, output tokens/s, energy of the devices per token of closed loops."""
    ranks = at.plan.dp
    seats = np.maximum(1, np.round(rows["max_num_seqs"].to_numpy(dtype=np.float64) / ranks)).astype(int) * ranks
    requests = np.maximum(ROUNDS * seats, FEWEST)
    osl = np.maximum(2, np.round(rows["avg_output_len"].to_numpy(dtype=np.float64) * 2 / (1 + SHORTEST))).astype(int)
    isl = int(PROMPT[str(rows["task"].iloc[0])] * 2 / (1 + SHORTEST))
    loads = [
        Load(int(n), int(n), isl, int(length), SHORTEST, _flags(rows["model"].iloc[0], int(places) // ranks))
        for n, places, length in zip(requests, seats, osl, strict=True)
    ]
    service = Service.of(at, loads)
    runs = played_all(loads, service.closed)
    held = np.maximum(1.0, np.floor(rows["avg_batch_size"].to_numpy(dtype=np.float64) / ranks))
    step = at.decode(held, isl + np.floor(osl / 2)).limit
    return [
        shown(runs, "itl_median_s", step),
        shown(runs, "tokens_per_s", held * ranks / step),
        shown(runs, "energy_j_per_token", np.nan),
    ]


def _table(path: Path, ask: Ask) -> Iterator[Comparison]:
    measured = ["median_itl_ms", "output_throughput_tokens_per_sec", "energy_per_token_joules"]
    frame = read_frame(path, [*KEYS, "max_num_seqs", "avg_batch_size", "avg_output_len", *measured])
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
            **found.columns,
        )
