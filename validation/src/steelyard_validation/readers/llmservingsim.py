"""``llmservingsim_vllm_runs``: logs of single requests and of the engine, one open loop per model and machine.

The requests are sent through the simulator at their own arrival times with the run's flags. Compared are every request
(times to first token, between tokens, whole), the mean and 99th percentile of whole latencies, and the engine's running
requests once a second.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard.errors import InputError, SteelyardError
from steelyard.measurements.reader import (
    Ask,
    Comparison,
    Floats,
    comparison,
    guarded,
    machine_name,
    read_frame,
)
from steelyard.traffic.trace import Trace
from steelyard_validation.readers._serve import Service, ranged
from steelyard_validation.readers._whole import Placed, deploy

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["read"]

#: Exponent of expert popularity, as published synthetic routers have it (``--skew``).
SKEW = 1.01
NEEDED = ["gpu", "model", "tp", "input_toks", "output_toks", "arrival_s", "ttft_ms", "tpot_ms", "e2e_ms"]
RUN = ["gpu", "model", "tp"]
TIMES = ("tpot_s", "ttft_s", "e2e_s")


@dataclass(frozen=True, eq=False)
class Replay:
    """A run played again; per request, s. NaN everywhere and a reason when it cannot be."""

    name: str
    family: str
    arrived_at: Floats
    scheduled_at: Floats
    times_s: Mapping[str, Floats]
    """``ttft_s``, ``tpot_s`` and ``e2e_s``, ``[3, n]`` each: predicted, and at both ends of the steps' interval."""
    why: str = ""


def read(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """Requests of every run, their summary, and the engine's log once a second."""
    series = ask.files(folder, "timeseries*.csv")
    for path in ask.files(folder, "requests.csv"):
        if ask.wants(path.stem) or any(ask.wants(p.stem) for p in series):
            yield from guarded(ask, path, partial(_table, path, series, ask))


def _flags(folder: Path, gpu: str, model: str, tp: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """``(engine flags, degrees and formats of the plan)`` of a run, where they are known."""
    path = folder / "runs_meta.json"
    runs = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else ()
    runs = list(runs.values()) if isinstance(runs, dict) else runs
    mine = [x for x in runs if isinstance(x, dict) and str(x.get("gpu")) == gpu and str(x.get("model")) == model]
    run = next((x for x in mine if x.get("tp") in (None, tp)), mine[0] if mine else {})
    given = run.get("engine_kwargs") or {}
    flags = {k: given.get(k) for k in ("max_num_seqs", "max_num_batched_tokens", "max_model_len")}
    cache = run.get("kv_cache")
    blocks = cache.get("num_gpu_blocks") if isinstance(cache, dict) else None
    dp = int(given.get("data_parallel_size") or 1)
    kv = str(given.get("kv_cache_dtype") or "auto")
    plan = {"dp": dp, "ep": tp * dp if given.get("enable_expert_parallel") else 1, "kv": "fp8" if "fp8" in kv else ""}
    weights = str(given.get("quantization") or "")
    plan["weights"] = weights if weights in ("fp8", "fp8_block", "nvfp4") else ""
    return {k: v for k, v in {**flags, "num_gpu_blocks_override": blocks}.items() if v}, plan


def replay(
    run: pd.DataFrame, gpu: str, model: str, tp: int, flags: dict[str, Any], plan: dict[str, Any] | None = None
) -> Replay:
    """Play the requests of a run through vLLM."""
    name, family = machine_name(gpu), model.rpartition("/")[2]
    at = deploy(model, name, tp=tp, engine="vllm", **(plan or {}))
    why = at if isinstance(at, str) else ""
    if not isinstance(at, str):
        try:
            return _played(replace(at, skew=SKEW if at.transformer.experts else 0.0), run, name, family, flags)
        except SteelyardError as error:
            why = str(error)
    nothing = np.full(len(run), np.nan)
    return Replay(name, family, nothing, nothing, dict.fromkeys(TIMES, np.full((3, len(run)), np.nan)), why)


def _played(at: Placed, run: pd.DataFrame, name: str, family: str, flags: dict[str, Any]) -> Replay:
    if run["arrival_s"].isna().any():
        raise InputError("requests without a time of arrival")
    if run[["input_toks", "output_toks"]].isna().any(axis=None):
        raise InputError("requests without lengths")
    order = np.argsort(run["arrival_s"].to_numpy(), kind="stable")
    isl, osl = (run[c].to_numpy(dtype=np.int64)[order] for c in ("input_toks", "output_toks"))
    arrived = run["arrival_s"].to_numpy(dtype=np.float64)[order]
    trace = Trace(arrived_at=arrived - arrived[0], isl=np.maximum(isl, 1), osl=np.maximum(osl, 1), name=family)
    played = Service.for_traces(at, [trace], flags).play(trace, flags)
    runs, back = [s.records for s in (played.middle, *played.ends)], np.argsort(order)
    # the log counts from the arrival in the engine's queue, behind the server
    front = {"ttft_s": at.engine.request_s, "tpot_s": 0.0, "e2e_s": at.engine.request_s}
    times = {name: np.stack([getattr(r, name)[back] - front[name] for r in runs]) for name in TIMES}
    first = runs[0]
    return Replay(name, family, trace.arrived_at[back], (first.arrived_at + first.queued_s)[back], times)


def _table(path: Path, series: list[Path], ask: Ask) -> Iterator[Comparison]:
    frame = read_frame(path, NEEDED)
    for (gpu, model, tp), run in frame.groupby(RUN, sort=False):
        flags, plan = _flags(path.parent, str(gpu), str(model), int(tp))
        played = replay(run, str(gpu), str(model), int(tp), flags, plan)
        common: dict[str, Any] = {
            "phase": "serve",
            "machine": played.name,
            "family": played.family,
            "why": played.why,
        }
        if ask.wants(path.stem):
            chosen = ask.pick(len(run), path.stem)
            for metric in TIMES:
                measured = run[metric.replace("_s", "_ms")].to_numpy(dtype=np.float64) * 1e-3
                yield _compared(ask, path, metric, measured[chosen], played.times_s[metric][:, chosen], common)
                if metric != "tpot_s":
                    times = played.times_s[metric]
                    mean, tail = np.mean(times, axis=1)[:, None], np.percentile(times, 99, axis=1)[:, None]
                    truth = np.nanmean(measured), np.nanpercentile(measured, 99)
                    yield _compared(ask, path, f"mean_{metric}", truth[0], mean, common)
                    yield _compared(ask, path, f"p99_{metric}", truth[1], tail, common)
        for log in series:
            if ask.wants(log.stem):
                yield from guarded(ask, log, partial(_running, log, ask, str(gpu), str(model), played, common))


def _compared(ask: Ask, path: Path, metric: str, measured: Any, figures: Floats, common: dict[str, Any]) -> Comparison:
    """Rows of ``[3, n]`` figures: predicted, and at both ends."""
    found = ranged(figures.T, np.nan, first_token=0.0 if "ttft" in metric else None)
    about = {"metric": metric, "measured": measured, "predicted": found.value, "low": found.low, "high": found.high}
    return comparison(ask, path.stem, **about, **common)


def _running(
    path: Path, ask: Ask, gpu: str, model: str, played: Replay, common: dict[str, Any]
) -> Iterator[Comparison]:
    """Requests that run, once a second. The log's clock starts with the first request, to within its second."""
    frame = read_frame(path, ["gpu", "model", "t", "running"])
    frame = frame[(frame["gpu"].astype(str) == gpu) & (frame["model"].astype(str) == model)]
    frame = frame[frame["running"] > 0]
    t = frame["t"].to_numpy(dtype=np.float64)[:, None]
    inside = (played.scheduled_at <= t) & (played.arrived_at + played.times_s["e2e_s"][0] > t)
    count = np.where(np.isfinite(played.times_s["e2e_s"]).all(), np.sum(inside, axis=1), np.nan)
    yield comparison(
        ask,
        path.stem,
        metric="running",
        measured=frame["running"].to_numpy(dtype=np.float64),
        predicted=count,
        **common,
    )
