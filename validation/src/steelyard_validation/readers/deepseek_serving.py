"""``deepseek_serving/published_serving_numbers.csv``: tokens per second of large expert-parallel deployments.

Profiles: 4096-token prompts, 16384 tokens per GPU and step, experts over 32 devices; a decode of 128 sequences per GPU
at 4096 tokens, experts over 128. Rows that state no sizes (Qwen3 on H20) are asked at the same.

The service of DeepSeek-V3 on H800: prompts over 32 devices, answers over 144, 288 places for 256 experts. Lengths
follow from its totals: the cache holds 4989 tokens at an average token of an answer, which is a prompt and half an
answer, and prompts and answers are 608 to 168. Of the decode nodes: the rate at the published speed of a user (the
largest batch that keeps it), and the speed of a user at the published rate. Of the prompt nodes: the rate of full steps
of what the cache does not hold, of which a service that grows and shrinks with its load uses :data:`USED` (assumed: no
promise is published). All run two halves of a batch, one computing while the other is exchanged (``--overlap
tokenweave``).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from steelyard.cost.step_table import StepTable, build_step_table
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

#: Of the profiles: sequences per GPU of a decode, prompt tokens; devices that share experts.
SEQUENCES, PROMPT = 128, 4096
PROFILES = {"prefill_tgs_profile_data": 32, "decode_tgs_profile_data": 128}
#: Of the service, as published: devices that share experts, tokens/s of a user and of a node, tokens of the cache at an
#: average token of an answer, tokens of prompts and answers (1e9 a day), share of prompts in the cache; GPUs of a node.
PROMPT_DEVICES, ANSWER_DEVICES = 32, 144
SPEED, RATE, CONTEXT = 21.0, 14800.0, 4989
READ, WRITTEN, HIT = 608, 168, 342 / 608
NODE = 8
#: Share of the rate of full steps that a service with a promise to keep uses.
USED = 0.7
#: Of a step: tokens, sequences.
STEP_TOKENS, MOST = 16384, 256


def read(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """The published figures."""
    for path in ask.files(folder, "*.csv"):
        if ask.wants(path.stem):
            yield from guarded(ask, path, partial(_table, path, ask))


def _steps(model: str, gpu: str, devices: int) -> StepTable | str:
    """Steps of a model over so many data-parallel devices, in the format of its name or as published."""
    name, weights = model.split("/R1")[0], ""
    for ending, written in (("-BF16", "bf16"), ("-FP8", "fp8")):
        if name.endswith(ending):
            name, weights = name.removesuffix(ending), written
    at = deploy(name, gpu, dp=devices, ep=devices, weights=weights, engine="sglang")
    if isinstance(at, str):
        return at
    limits = {"max_num_batched_tokens": STEP_TOKENS, "max_num_seqs": MOST}
    config = engine_config(at.engine, at.cluster.machine, limits)
    overlap = "tokenweave" if devices > 1 else ""
    return build_step_table(at.replica, config, max_context=2 * CONTEXT, overlap=overlap)


def _rate(model: str, gpu: str, metric: str) -> Shown | str:
    """Tokens/s per GPU, of the service per node or user."""
    prompts, service = metric.startswith("prefill"), metric not in PROFILES and "tgs" not in metric
    devices = (PROMPT_DEVICES if prompts else ANSWER_DEVICES) if service else PROFILES.get(metric, 1)
    table = _steps(model, gpu, devices)
    if isinstance(table, str):
        return table

    def shown(time_s: float, count: float) -> Shown:
        return Shown.time(np.array([time_s]), table.spread, time_s * table.limit_frac).rate(count)

    def prefill_s(prompt: float, held: float) -> float:
        batch = round(STEP_TOKENS / (prompt - held))
        pairs = batch * (prompt**2 - held**2) / 2
        return table.time_s(STEP_TOKENS, batch, chunks=batch, new=STEP_TOKENS, pairs=pairs)

    def decode_s(n: int, context: float = CONTEXT) -> float:
        return table.time_s(n, n, n, n * context)

    if prompts and not service:
        return shown(prefill_s(PROMPT, 0.0), STEP_TOKENS)
    if prompts:
        prompt = CONTEXT * READ / (READ + WRITTEN / 2)
        return shown(prefill_s(prompt, HIT * prompt), USED * NODE * STEP_TOKENS / (1 - HIT))
    if not service:
        return shown(decode_s(SEQUENCES, PROMPT), SEQUENCES)
    batches = range(1, MOST + 1)
    if metric == "decode_output_throughput_per_node":
        most = max((n for n in batches if decode_s(n) <= 1 / SPEED), default=1)
        return shown(decode_s(most), NODE * most)
    if not metric.startswith("avg_output_speed"):
        return "not a rate of prompts, answers or users"
    least = next((n for n in batches if NODE * n / decode_s(n) >= RATE), MOST)
    return shown(decode_s(least), 1.0)


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
