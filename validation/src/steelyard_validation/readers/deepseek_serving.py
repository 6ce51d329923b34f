"""``deepseek_serving/published_serving_numbers.csv``: tokens per second and GPU of large expert-parallel deployments.

Answered are the two figures of DeepSeek's published profiles, whose settings are known: a prefill of 4096-token
prompts, 16384 tokens per GPU, experts over 32 devices; and a decode of 128 sequences per GPU at 4096 tokens, experts
over 128.
Averages over a day of production depend on traffic and cache hits that the table does not state.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from steelyard.measurements.reader import (
    Ask,
    Comparison,
    comparison,
    guarded,
    machine_name,
    read_frame,
)
from steelyard_validation.readers._whole import Shown, deploy

__all__ = ["read"]

#: (devices, sequences per device, prompt) of DeepSeek's published profiles.
PROFILES = {"prefill_tgs_profile_data": (32, 4.0, 4096.0), "decode_tgs_profile_data": (128, 128.0, 4096.0)}


def read(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """The published figures."""
    for path in ask.files(folder, "*.csv"):
        if ask.wants(path.stem):
            yield from guarded(ask, path, partial(_table, path, ask))


def _rate(model: str, gpu: str, metric: str) -> Shown | str:
    """Tokens/s per GPU, or why not."""
    if metric not in PROFILES:
        return "batch, lengths or traffic not stated"
    devices, batch, tokens = PROFILES[metric]
    at = deploy(model.split("/R1")[0], gpu, dp=devices, ep=devices, weights="fp8_block", engine="sglang")
    if isinstance(at, str):
        return at
    prefill = metric.startswith("prefill")
    step = at.prefill(batch, tokens) if prefill else at.decode(batch, tokens)
    return step.rate(batch * tokens if prefill else batch)


def _table(path: Path, ask: Ask) -> Iterator[Comparison]:
    frame = read_frame(path, ["model", "gpu", "metric", "value", "unit"])
    frame = frame[frame["unit"].astype(str).str.startswith("tok/s")].reset_index(drop=True)
    named = zip(frame["model"].astype(str), frame["gpu"].astype(str), frame["metric"].astype(str), strict=True)
    answers = [_rate(*row) for row in named]
    figures = np.array([[np.nan] * 4 if isinstance(x, str) else [float(v[0]) for v in x] for x in answers])
    predicted, low, high, roofline = figures.T
    yield comparison(
        ask,
        path.stem,
        metric="tokens_per_s_per_device",
        phase="serve",
        machine=frame["gpu"].map(machine_name),
        family=frame["metric"],
        measured=frame["value"].to_numpy(dtype=np.float64),
        predicted=predicted,
        low=low,
        high=high,
        roofline=roofline,
        why=[x if isinstance(x, str) else "" for x in answers],
    )
