"""``llmservingsim_vllm_runs``: logs of single requests and of the engine, one open loop per model and machine.

The requests are sent through the simulator at their own arrival times with the run's flags. Compared are every request
(times to first token, between tokens, whole), the mean and 99th percentile of whole latencies, and the engine's running
requests once a second.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
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
    interval80,
    machine_name,
    read_frame,
)
from steelyard.traffic.trace import Trace
from steelyard_validation.readers._serve import Service
from steelyard_validation.readers._whole import SYSTEM_SPREAD, Deployment, deploy
from steelyard_validation.readers.inferencex import SKEW

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["read"]

NEEDED = ["gpu", "model", "tp", "input_toks", "output_toks", "arrival_s", "ttft_ms", "tpot_ms", "e2e_ms"]
RUN = ["gpu", "model", "tp"]
#: Log-space spread of times to first token beyond the steps' own: the moment within a step, and the queue.
TTFT_SPREAD = 0.35


@dataclass(frozen=True, eq=False)
class Replay:
    """A run played again; per request, s. NaN everywhere and a reason when it cannot be."""

    name: str
    family: str
    arrived_at: Floats
    scheduled_at: Floats
    ttft_s: Floats
    tpot_s: Floats
    e2e_s: Floats
    spread: float
    why: str


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
    nothing = np.full(len(run), np.nan)
    at = deploy(model, name, tp=tp, engine="vllm", **(plan or {}))
    if not isinstance(at, str) and at.transformer.experts:
        at = replace(at, skew=SKEW)
    if isinstance(at, str):
        return Replay(name, family, nothing, nothing, nothing, nothing, nothing, 0.0, at)
    try:
        return _played(at, run, name, family, flags)
    except SteelyardError as error:
        return Replay(name, family, nothing, nothing, nothing, nothing, nothing, 0.0, str(error))


def _played(at: Deployment, run: pd.DataFrame, name: str, family: str, flags: dict[str, Any]) -> Replay:
    if run["arrival_s"].isna().any():
        raise InputError("requests without a time of arrival")
    if run[["input_toks", "output_toks"]].isna().any(axis=None):
        raise InputError("requests without lengths")
    order = np.argsort(run["arrival_s"].to_numpy(), kind="stable")
    isl, osl = (run[c].to_numpy(dtype=np.int64)[order] for c in ("input_toks", "output_toks"))
    arrived = run["arrival_s"].to_numpy(dtype=np.float64)[order]
    trace = Trace(arrived_at=arrived - arrived[0], isl=np.maximum(isl, 1), osl=np.maximum(osl, 1), name=family)
    service = Service.for_trace(at, trace, flags)
    q = service.play(trace, service.flagged(flags)).requests
    # the log counts from the arrival in the engine's queue, behind the server
    front = at.engine.request_s
    first, last = q["first_at"] - q["arrived_at"] - front, q["last_at"] - q["arrived_at"] - front
    tpot = np.where(trace.osl > 1, (last - first) / np.maximum(trace.osl - 1, 1), np.nan)
    back = np.argsort(order)
    return Replay(
        name,
        family,
        trace.arrived_at[back],
        (q["scheduled_at"] - front)[back],
        first[back],
        tpot[back],
        last[back],
        service.table.spread,
        "",
    )


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
        width = float(np.hypot(played.spread, SYSTEM_SPREAD))
        if ask.wants(path.stem):
            chosen = ask.pick(len(run), path.stem)
            for metric, column, found, spread in (
                ("tpot_s", "tpot_ms", played.tpot_s, width),
                ("ttft_s", "ttft_ms", played.ttft_s, float(np.hypot(width, TTFT_SPREAD))),
                ("e2e_s", "e2e_ms", played.e2e_s, width),
            ):
                measured = run[column].to_numpy(dtype=np.float64) * 1e-3
                low, high = interval80(found, spread)
                yield comparison(
                    ask,
                    path.stem,
                    metric=metric,
                    measured=measured[chosen],
                    predicted=found[chosen],
                    low=low[chosen],
                    high=high[chosen],
                    **common,
                )
                if metric != "tpot_s":
                    truth = np.asarray([np.nanmean(measured), np.nanpercentile(measured, 99)])
                    ours = np.asarray([np.mean(found), np.percentile(found, 99)])
                    low, high = interval80(ours, spread)
                    for i, statistic in enumerate(("mean", "p99")):
                        yield comparison(
                            ask,
                            path.stem,
                            metric=f"{statistic}_{metric}",
                            measured=truth[[i]],
                            predicted=ours[[i]],
                            low=low[[i]],
                            high=high[[i]],
                            **common,
                        )
        for log in series:
            if ask.wants(log.stem):
                yield from guarded(ask, log, partial(_running, log, ask, str(gpu), str(model), played, common))


def _running(
    path: Path, ask: Ask, gpu: str, model: str, played: Replay, common: dict[str, Any]
) -> Iterator[Comparison]:
    """Requests that run, once a second. The log's clock starts with the first request, to within its second."""
    frame = read_frame(path, ["gpu", "model", "t", "running"])
    frame = frame[(frame["gpu"].astype(str) == gpu) & (frame["model"].astype(str) == model)]
    frame = frame[frame["running"] > 0]
    t = frame["t"].to_numpy(dtype=np.float64)[:, None]
    inside = (played.scheduled_at <= t) & (played.arrived_at + played.e2e_s > t)
    count = np.where(np.isfinite(played.e2e_s).all(), np.sum(inside, axis=1), np.nan)
    low, high = interval80(count, SYSTEM_SPREAD)
    yield comparison(
        ask,
        path.stem,
        metric="running",
        measured=frame["running"].to_numpy(dtype=np.float64),
        predicted=count,
        low=low,
        high=high,
        **common,
    )
