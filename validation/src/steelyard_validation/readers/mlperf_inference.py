"""``mlperf_inference``: the language-model rows, tokens (or samples) per second of a whole system.

Lengths are the means of the benchmark's data set. Offline is an unbounded queue; Server and Interactive are the largest
load whose time between tokens stays within the limit of the rules. Submitters choose the tensor-parallel degree that
serves most, and so does the prediction; weights are in the narrowest format of the generation unless the row says more.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard.errors import SteelyardError
from steelyard.measurements.reader import (
    Ask,
    Comparison,
    comparison,
    guarded,
    machine_name,
    machine_of,
    read_frame,
)
from steelyard.scenario.recipes import find_recipe
from steelyard.traffic.lengths import parse_lengths
from steelyard_validation.readers._serve import Load, Service
from steelyard_validation.readers._whole import deploy

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["read"]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A data set: model, its recipe, mean output in tokens, beams, and the limit on the time between tokens, s."""

    model: str
    recipe: str
    """What says the load: ``mlperf-inference/NAME``."""
    osl: float
    """Mean tokens of an answer, which rates in samples are turned into tokens by."""
    beams: float = 1.0
    server_tpot_s: float = 0.2
    interactive_tpot_s: float = 0.04


#: MLCommons inference rules and reference token counts (OpenOrca, CNN/DailyMail, mixed, LongBench and reasoning sets).
#: GPT-J and the 8B model summarise CNN/DailyMail; GPT-J searches with four beams and answers within 20 s in all.
BENCHMARKS = {
    "llama2-70b": Benchmark("Llama-2-70b", "llama2-70b", 294),
    "gptj": Benchmark("EleutherAI/gpt-j-6b", "gptj-6b", 69, beams=4, server_tpot_s=0.25),
    "mixtral-8x7b": Benchmark("mistralai/Mixtral-8x7B-v0.1", "mixtral-8x7b", 146),
    "llama3.1-405b": Benchmark(
        "meta-llama/Llama-3.1-405B", "llama3.1-405b", 685, server_tpot_s=0.175, interactive_tpot_s=0.08
    ),
    "llama3.1-8b": Benchmark("Llama-3.1-8B", "llama3.1-8b", 128, server_tpot_s=0.1, interactive_tpot_s=0.03),
    "deepseek-r1": Benchmark("deepseek-ai/DeepSeek-R1", "deepseek-r1", 3880, server_tpot_s=0.08),
}
#: Share of the limit a mean may take so that the 99th percentile keeps it (guess).
HEADROOM = 0.7
#: Steps that shrink a load to a limit on its TPOT.
BISECTIONS = 4


def read(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """Results of a round; rows of other networks are left to other readers."""
    for path in ask.files(folder, "v*_results.csv"):
        if ask.wants(path.stem):
            yield from guarded(ask, path, partial(_table, path, ask))


def _columns(path: Path) -> pd.DataFrame:
    """The rounds' two shapes as one: name, scenario, accelerator, count, types, samples_per_s, tokens_per_s, valid."""
    frame = read_frame(path)
    lower = {c: c.lower() for c in frame.columns}
    frame = frame.rename(columns={**lower, "Model": "benchmark", "Nodes": "nodes", "Software": "framework"})
    if "performance_result" in frame:
        units = frame["performance_units"].astype(str).str.lower()
        value = frame["performance_result"].astype(float)
        frame["tokens_per_s"] = np.where(units.str.contains("token"), value, np.nan)
        frame["samples_per_s"] = np.where(units.str.contains("sample|quer"), value, np.nan)
    frame = frame.rename(columns={"accelerators_per_node": "accel_per_node"})
    for name in ("benchmark", "scenario", "accelerator", "weight_data_types", "division"):
        frame[name] = frame[name].fillna("").astype(str) if name in frame else ""
    for name in ("completed_samples_per_s", "samples_per_s", "tokens_per_s", "valid"):
        if name not in frame:
            frame[name] = np.nan
    frame["samples_per_s"] = frame["samples_per_s"].fillna(frame["completed_samples_per_s"])
    return frame


def _known(benchmark: str) -> Benchmark | None:
    name = re.sub(r"-interactive", "", str(benchmark).lower())
    name = re.sub(r"-99(\.9)?$", "", name).replace("llama3_1", "llama3.1")
    return BENCHMARKS.get(name)


def _table(path: Path, ask: Ask) -> Iterator[Comparison]:
    frame = _columns(path)
    language = frame["benchmark"].map(lambda b: _known(b) is not None)
    open_division = frame["division"].astype(str).str.lower() == "open"
    frame = frame[language & ~open_division & (frame["scenario"].astype(str).str.lower() != "singlestream")]
    rate = frame["tokens_per_s"].fillna(
        frame["samples_per_s"] * frame["benchmark"].map(lambda b: getattr(_known(b), "osl", np.nan))
    )
    frame = frame.assign(rate=rate).reset_index(drop=True)
    chosen = ask.pick(len(frame), path.stem)
    frame = frame.iloc[chosen].reset_index(drop=True)
    count = frame["accel_per_node"].fillna(0).astype(float) * frame["nodes"].fillna(1).astype(float)
    table, why = np.full((3, len(frame)), np.nan), np.full(len(frame), "", dtype=object)
    keys = [
        frame["benchmark"].astype(str),
        frame["scenario"].astype(str),
        frame["accelerator"].astype(str),
        count,
        frame["weight_data_types"].astype(str),
    ]
    for values, rows in frame.groupby(keys, dropna=False).groups.items():
        answer = _system(*values)
        if isinstance(answer, str):
            why[np.asarray(rows)] = answer
        else:
            table[:, np.asarray(rows)] = np.array(answer)[:, None]
    predicted, low, high = table
    yield comparison(
        ask,
        path.stem,
        metric="tokens_per_s",
        phase="serve",
        machine=[_machine(a) for a in frame["accelerator"]],
        family=frame["benchmark"].astype(str) + " " + frame["scenario"].astype(str).str.lower(),
        measured=frame["rate"].to_numpy(dtype=np.float64),
        predicted=predicted,
        low=low,
        high=high,
        why=why.astype(np.str_),
    )


def _machine(accelerator: Any) -> str:
    text = re.sub(r" ?\(x\d+\)| x ?\d+$|-CTS$", "", str(accelerator))
    return machine_name(text) if text else "not stated"


def _weights(machine: str, types: str) -> str:
    """The narrowest format of the generation, or what the row states."""
    stated = types.lower()
    for key, name in (
        ("fp4", "nvfp4"),
        ("fp8", "fp8"),
        ("int4", "int4"),
        ("int8", "int8"),
        ("bf16", "bf16"),
        ("fp16", "fp16"),
    ):
        if key in stated:
            return name
    device = machine_of(machine)
    formats = {f for c in device.compute for f in c.peak} if device else set()
    return "nvfp4" if "fp4" in formats or "nvfp4" in formats else "fp8" if "fp8" in formats else "int8"


def _system(benchmark: str, scenario: str, accelerator: str, count: float, types: str) -> tuple[float, ...] | str:
    """Tokens/s and its interval of a whole system, or why not."""
    known = _known(benchmark)
    assert known is not None
    machine = _machine(accelerator)
    if machine_of(machine) is None:
        return f"unknown machine {accelerator!r}"
    if not count >= 1:
        return "number of accelerators not stated"
    weights = _weights(machine, types)
    kind = scenario.lower()
    interactive = "interactive" in kind or "interactive" in benchmark
    limit = 0.0 if kind == "offline" else known.interactive_tpot_s if interactive else known.server_tpot_s
    best, reason = (0.0, 0.0, 0.0), "the model does not fit"
    for tp in (1, 2, 4, 8):
        if tp > count:
            break
        found = _replica(known, machine, tp, weights, limit)
        if isinstance(found, str):
            reason = found
        else:
            low, middle, high = sorted(x / known.beams * (count // tp) for x in found)
            best = max(best, (middle, low, high))
    return best if best[0] > 0 else reason


@cache
def _replica(known: Benchmark, machine: str, tp: int, weights: str, limit_s: float) -> tuple[float, ...] | str:
    """Output tokens/s of one replica, and at both ends of its interval: all that is queued, or within a limit."""
    words, said = find_recipe(f"mlperf-inference/{known.recipe}").said({"weights": weights})
    at = deploy(known.model, machine, tp=tp, weights=weights, kv=words.get("kv", ""), engine=words["engine"])
    if isinstance(at, str):
        return at
    prompts, answers = (parse_lengths(words[name], name) for name in ("isl", "osl"))
    isl, osl, queued, flags = int(prompts.high), int(answers.high), int(words["requests"]), tuple(said.items())
    shortest = prompts.low / prompts.high

    def rates(clients: int, requests: int) -> tuple[float, ...]:
        played = service.closed(Load(clients, requests, isl, osl, shortest, flags))
        return tuple(x.tokens_per_s for x in played.outcomes)

    def tpot_s(clients: int, requests: int) -> float:
        return service.closed(Load(clients, requests, isl, osl, shortest, flags), interval=False).outcomes[0].tpot_s

    service = Service.of(at, [Load(queued, queued, isl, osl, shortest, flags)])
    try:
        best = rates(queued, queued)
        clients, slowness = queued, tpot_s(queued, queued) / (limit_s * HEADROOM) if limit_s else 0.0
        for _ in range(BISECTIONS):
            if slowness <= 1.0 or clients == 1:
                break
            clients = max(1, int(clients / slowness))
            slowness = tpot_s(clients, 4 * clients + 64) / (limit_s * HEADROOM)
        if clients < queued:  # a limit never raises the rate
            best = tuple(min(x) for x in zip(best, rates(clients, 4 * clients + 64), strict=True))
    except SteelyardError as error:
        return str(error)
    return best
