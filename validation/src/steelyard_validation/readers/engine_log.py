"""``rtx_consumer_vllm/engine_log_10s.csv``: what vLLM logged of itself every ten seconds, and how long its steps take.

A line states the rates of prompt and generated tokens, the requests that run and the share of the cache in use. Its
run's other tables state model, format, machine, flags and size of the cache (``kv_capacity``), and the mean prompt
(``aiperf_closed_loop``). In ten seconds every running request gets a token in every step but those that read its own
prompt, and prompts are read in chunks as large as a step may have:

    chunks = prompt rate / min(prompt, tokens of a step),   steps = (generated + chunks) / running
    time   = steps x TPOT of so large a batch + chunks x (step with a chunk - step without)

which is put beside the ten seconds: the engine is never idle while its clients wait for answers. A prompt is counted
when it has been read, so rates are means over the steady stretch that a line lies in. Not asked are lines during which
the running requests change by more than a third or wait, stretches of less than a minute, lines with hits of the prefix
cache, and runs with adapters or several engines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard.cost.step_table import StepTable, build_step_table
from steelyard.deployment.engine_config import engine_config
from steelyard.errors import SteelyardError
from steelyard.measurements.reader import Ask, Comparison, Floats, comparison, guarded, machine_name, read_frame
from steelyard_validation.readers._whole import Placed, Shown, chosen, deploy, static_batch
from steelyard_validation.readers.kv_capacity import FLAGS, FORMATS, OF

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["read"]

WINDOW_S = 10.0
#: Hits of the prefix cache, %, from which it is not known how many prompt tokens were computed.
HITS = 5.0
#: Share by which the running requests may change from one line to the next, and lines of the shortest stretch.
STEADY, SHORTEST = 1 / 3, 6
UNSTEADY = "the running requests change during the line, or wait, or do so within a minute"
CACHED = "prompts of the run share their beginnings: how many of their tokens were computed is not stated"
ADAPTERS = "adapters: ranks are not stated"
SEVERAL = "how requests are divided over the engines of the run is not stated"
UNSTATED = "the start lines or prompt lengths of the run are not in the tables"


def read(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """The time of ten seconds."""
    for path in ask.files(folder, "engine_log_10s.csv"):
        if ask.wants(path.stem):
            yield from guarded(ask, path, partial(_table, path, ask))


def _table(path: Path, ask: Ask) -> Iterator[Comparison]:
    columns = ["prompt_tok_s", "gen_tok_s", "running", "waiting", "kv_pct", "prefix_hit_pct"]
    frame = read_frame(path, ["run", *columns])
    before = frame.groupby("run")["running"].shift(1)
    most = np.maximum(frame["running"], before)
    steady = (most > 0) & (np.abs(frame["running"] - before) <= STEADY * most) & (frame["waiting"] == 0)
    stretch = [frame["run"], (~steady).cumsum()]
    frame["steady"] = steady & (steady.groupby(stretch).transform("sum") >= SHORTEST)
    for name in ("running", "prompt_tok_s", "gen_tok_s", "kv_pct"):
        frame[name] = frame[name].where(steady).groupby(stretch).transform("mean")
    frame = frame.iloc[ask.pick(len(frame), path.stem)].reset_index(drop=True)
    beside = _beside(path.parent)
    figures, why = np.full((4, len(frame)), np.nan), np.full(len(frame), "", dtype=object)
    for run, rows in frame.groupby("run", sort=False):
        at = rows.index.to_numpy()
        found = _run(str(run), rows, beside)
        if isinstance(found, str):
            why[at] = found
        else:
            figures[:, at] = found
            why[at] = np.where(~rows["steady"], UNSTEADY, np.where(rows["prefix_hit_pct"] > HITS, CACHED, ""))
    figures[:, why != ""] = np.nan
    predicted, low, high, limit = figures
    names = frame["run"].astype(str)
    yield comparison(
        ask,
        path.stem,
        metric="time_s",
        phase="ten seconds of steps",
        machine=[machine_name(_machine(name)) for name in names],
        family=[name.rpartition("/")[2] for name in names],
        measured=np.full(len(frame), WINDOW_S),
        predicted=predicted,
        low=low,
        high=high,
        roofline=limit,
        why=why.astype(np.str_),
    )


def _machine(run: str) -> str:
    """``rtx5060ti_2x/api/...`` is of RTX 5060 Ti."""
    card = re.match(r"rtx(\d+)(ti)?", run)
    return "_".join(("rtx", *(x for x in card.groups() if x))) if card else run


def _beside(folder: Path) -> dict[str, dict[str, Any]]:
    """By the folder of a run: what its start lines and its client state."""
    names = ["model", "quant", "machine", "count", "tp", "source_path", "notes", "metric", "value"]
    found: dict[str, dict[str, Any]] = {}
    for stem in ("kv_capacity", "aiperf_closed_loop"):
        path = folder / f"{stem}.csv"
        if not path.is_file():
            continue
        for r in read_frame(path, names).itertuples(index=False):
            run = re.search(r"rtx\w+/\w+/[^/]+", str(r.source_path))
            said = dict(re.findall(r"(\w+)=([^;\s]*)", str(r.notes)))
            known = found.setdefault(run.group() if run else "", {})
            if stem == "kv_capacity" and r.metric == "kv_cache_capacity":
                known |= {"row": r, "said": said, "capacity": float(r.value)}
            elif stem != "kv_capacity" and "isl_mean" in said:
                known["prompt"] = float(said["isl_mean"])
    return found


def _run(run: str, rows: pd.DataFrame, beside: dict[str, dict[str, Any]]) -> Floats | str:
    """Time of each line, its interval and its limit ``[4, lines]``."""
    known = beside.get(run, {})
    if "lora" in run:
        return ADAPTERS
    if not {"row", "prompt"} <= set(known):
        return UNSTATED
    r, said = known["row"], known["said"]
    if int(float(said.get("dp", "1") or 1)) > 1:
        return SEVERAL
    at = deploy(
        OF.get(r.model, r.model),
        r.machine,
        tp=int(r.tp) if np.isfinite(r.tp) else int(r.count),
        weights=FORMATS.get(str(r.quant).lower(), str(r.quant).lower()),
        kv="fp8" if "fp8" in said.get("kv_cache_dtype", "") else "",
        engine="vllm@0.12",
    )
    if isinstance(at, str):
        return at
    flags: dict[str, Any] = {n: float(said[n]) for n in FLAGS if said.get(n, "").replace(".", "").isdigit()}
    try:
        return _times(at, {**flags, "sampling": chosen(str(r.model))}, known, rows)
    except SteelyardError as error:
        return str(error)


def _times(at: Placed, flags: dict[str, Any], known: dict[str, Any], rows: pd.DataFrame) -> Floats:
    config = engine_config(at.engine, at.cluster.machine, flags, at.transformer)
    prompt = round(known["prompt"])
    chunk = min(prompt, config.max_num_batched_tokens)
    logged = rows.fillna(0.0)
    running = np.maximum(logged["running"].to_numpy(dtype=np.float64), 1.0)
    context = np.maximum(logged["kv_pct"].to_numpy(dtype=np.float64) / 100 * known["capacity"] / running, 1.0)
    chunks = logged["prompt_tok_s"].to_numpy(dtype=np.float64) * WINDOW_S / chunk
    steps = (logged["gen_tok_s"].to_numpy(dtype=np.float64) * WINDOW_S + chunks) / running
    table = build_step_table(at.replica, config, max_context=max(2 * prompt, round(context.max()) + 1))
    more = np.array([_more(table, n, c, prompt, chunk) for n, c in zip(running, context, strict=True)])
    found = static_batch(at, running, context, 2.0).tpot
    value = steps * found.value + chunks * more
    limit = steps * found.limit + chunks * more * table.limit_frac
    shown = Shown.time(value, table.spread, np.minimum(limit, value))
    return np.stack([np.asarray(x, dtype=np.float64) for x in shown])


def _more(table: StepTable, running: float, context: float, prompt: int, chunk: int) -> float:
    """What a chunk of a prompt adds to a step, s: a chunk reads, on average, half a prompt."""
    n = max(round(running) - 1, 0)
    with_chunk = table.time_s(n + chunk, n + 1, n, n * context, chunks=1, new=chunk, pairs=chunk * prompt / 2)
    return with_chunk - table.time_s(n + 1, n + 1, n + 1, (n + 1) * context)
