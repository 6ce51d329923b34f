"""``deepseek_serving/published_serving_numbers.csv``: tokens per second and GPU of large expert-parallel deployments.

Answered are the two figures of published profiles, whose settings are known (a prefill of 4096-token prompts,
16384 tokens per GPU, experts over 32 devices; a decode of 128 sequences per GPU at 4096 tokens, experts over 128), and
the decode rate of its service: the largest batch at which a user gets the published speed, at the published mean length
of the cache. All run two halves of a batch, one computing while the other is exchanged (``--overlap tokenweave``).
Prompt rates of the service depend on its load and on cache hits; rows of InferSim state neither batch nor lengths.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from steelyard.cost.step_table import build_step_table
from steelyard.deployment.engine_config import engine_config
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
PROFILES = {"prefill_tgs_profile_data": (32, 4, 4096), "decode_tgs_profile_data": (128, 128, 4096)}
#: Of the service: tokens/s of a user and tokens of the cache, both as published; devices of a node.
SPEED, CONTEXT, NODE = 21.0, 4989, 8
#: Of a step: tokens, sequences.
STEP_TOKENS, MOST = 16384, 256


def read(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """The published figures."""
    for path in ask.files(folder, "*.csv"):
        if ask.wants(path.stem):
            yield from guarded(ask, path, partial(_table, path, ask))


def _rate(model: str, gpu: str, metric: str) -> Shown | str:
    """Tokens/s per GPU (of the service per node), or why not."""
    if metric not in PROFILES and metric != "decode_output_throughput_per_node":
        return "batch, lengths or traffic not stated"
    devices, batch, tokens = PROFILES.get(metric, (128, 0, CONTEXT))
    at = deploy(model.split("/R1")[0], gpu, dp=devices, ep=devices, weights="fp8_block", engine="sglang")
    if isinstance(at, str):
        return at
    limits = {"max_num_batched_tokens": STEP_TOKENS, "max_num_seqs": MOST}
    config = engine_config(at.engine, at.cluster.machine, limits)
    table = build_step_table(at.replica, config, max_context=2 * CONTEXT, overlap="tokenweave")

    def shown(time_s: float, count: float) -> Shown:
        return Shown.time(np.array([time_s]), table.spread, time_s * table.limit_frac).rate(count)

    def decode_s(n: int) -> float:
        return table.time_s(n, n, n, n * float(tokens))

    if metric.startswith("prefill"):
        new = batch * tokens
        return shown(table.time_s(new, batch, chunks=batch, new=new, pairs=batch * tokens**2 / 2), new)
    if batch:
        return shown(decode_s(batch), batch)
    most = max((n for n in range(1, MOST + 1) if decode_s(n) <= 1 / SPEED), default=1)
    return shown(decode_s(most), NODE * most)


def _table(path: Path, ask: Ask) -> Iterator[Comparison]:
    frame = read_frame(path, ["model", "gpu", "metric", "value", "unit"])
    frame = frame[frame["unit"].astype(str).str.startswith("tok/s")].reset_index(drop=True)
    named = zip(frame["model"].astype(str), frame["gpu"].astype(str), frame["metric"].astype(str), strict=True)
    answers = [_rate(*row) for row in named]
    figures = np.array([[np.nan] * 4 if isinstance(x, str) else [float(np.ravel(v)[0]) for v in x] for x in answers])
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
