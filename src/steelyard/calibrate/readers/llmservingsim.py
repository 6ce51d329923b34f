"""``llmservingsim_vllm_runs/requests.csv``: logs of single requests under Poisson arrivals.

A steady state by Little's law gives one time between tokens for all requests of a run. Times to first token and whole
latencies depend on the moment a request arrives and are left to the simulator.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from steelyard.calibrate.readers._base import Ask, Comparison, comparison, guarded, interval80, machine_name, read_frame
from steelyard.calibrate.readers._whole import deploy, open_loop
from steelyard.plan.engine import find_engine

__all__ = ["read"]

#: Log-space spread of single requests around the mean (guess).
SPREAD = 0.25


def read(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """Requests of every run; the 1 Hz log of the engine is taken charge of and not compared."""
    ask.files(folder, "timeseries*.csv")
    for path in ask.files(folder, "requests.csv"):
        if ask.wants(path.stem):
            yield from guarded(ask, path, partial(_table, path, ask))


def _limits(folder: Path) -> dict[str, tuple[float, float]]:
    """(max_num_seqs, max_num_batched_tokens) by model, where the run's flags are known."""
    path = folder / "runs_meta.json"
    if not path.is_file():
        return {}
    found = {}
    for run in json.loads(path.read_text(encoding="utf-8")):
        flags = run.get("engine_kwargs") or {}
        found[f"{run.get('gpu')}/{run.get('model')}"] = (
            float(flags.get("max_num_seqs") or 256), float(flags.get("max_num_batched_tokens") or 8192),
        )  # fmt: skip
    return found


def _table(path: Path, ask: Ask) -> Iterator[Comparison]:
    needed = ["gpu", "model", "tp", "input_toks", "output_toks", "arrival_s", "ttft_ms", "tpot_ms", "e2e_ms"]
    frame = read_frame(path, needed)
    limits = _limits(path.parent)
    for (gpu, model, tp), run in frame.groupby(["gpu", "model", "tp"], sort=False):
        seconds = float(run["arrival_s"].max() - run["arrival_s"].min())
        rate = (len(run) - 1) / seconds if seconds > 0 else np.nan
        sequences, tokens = limits.get(f"{gpu}/{model}", (256.0, 8192.0))
        engine = replace(find_engine("vllm"), max_sequences=sequences, max_batched_tokens=tokens)
        name, why, tpot = machine_name(str(gpu)), "", np.nan
        at = deploy(str(model), name, tp=int(tp), engine=engine)
        if isinstance(at, str):
            why = at
        else:
            tpot = float(open_loop(at, rate, float(run["input_toks"].mean()), float(run["output_toks"].mean()))[1][0])
        rows = run.iloc[ask.pick(len(run), path.stem)]
        low, high = interval80(tpot, SPREAD)
        family = str(model).rpartition("/")[2]
        yield comparison(
            ask, path.stem, metric="tpot_s", phase="serve", machine=name, family=family,
            measured=rows["tpot_ms"].to_numpy(dtype=np.float64) * 1e-3, predicted=tpot, low=low, high=high, why=why,
        )  # fmt: skip
        for metric, column in (("ttft_s", "ttft_ms"), ("e2e_s", "e2e_ms")):
            yield comparison(
                ask, path.stem, metric=metric, phase="serve", machine=name, family=family,
                measured=rows[column].to_numpy(dtype=np.float64) * 1e-3, why="single requests need the simulator",
            )  # fmt: skip
