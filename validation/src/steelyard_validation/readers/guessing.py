"""``specforge_eagle3``: what EAGLE-3 heads gain under SGLang, by task, on one to eight H200.

Scored is the speed-up: output tokens/s with guesses over those without, at the acceptance length that a row states.
Rows state neither lengths nor the devices of a model: the question has prompts of 256 and answers of 512 tokens, on
which a ratio hardly depends, and :data:`DEGREES`. Fitted are the rows of the 8 B model alone (``guess_s`` and
``verify_s`` of SGLang in ``engines.toml``).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from steelyard.errors import SteelyardError
from steelyard.measurements.reader import Ask, Comparison, comparison, guarded, machine_name, read_frame
from steelyard.traffic.build import Traffic, traffic
from steelyard_validation.readers._runs import Place
from steelyard_validation.readers._serve import Service

__all__ = ["read"]

#: Devices of a model, which no row states: the usual ones; of Qwen3-30B those that the rows without a head suggest.
DEGREES = {"Llama-3.1-8B": 1, "Llama-3.3-70B": 4, "Qwen3-30B": 4, "Qwen3-Coder-30B": 4, "Qwen3-235B": 8}
ISL, OSL = 256, 512
KEYS = ["model", "machine", "batch", "scenario", "draft", "steps", "topk", "num_draft_tokens"]


def read(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """The published speed-ups."""
    for path in ask.files(folder, "*.csv"):
        if ask.wants(path.stem):
            yield from guarded(ask, path, partial(_table, path, ask))


def _table(path: Path, ask: Ask) -> Iterator[Comparison]:
    frame = read_frame(path, ["model", "machine", "batch", "scenario", "metric", "value", "notes"])
    for name in KEYS[4:]:
        frame[name] = frame["notes"].str.extract(rf"(?:^|;){name}=([^;]*)")[0]
    rows = frame.pivot_table(index=KEYS, columns="metric", values="value", sort=False).reset_index()
    plain = rows["acceptance_length"] <= 1.0
    keys = KEYS[:4]
    rows = rows[~plain].merge(rows.loc[plain, [*keys, "output_throughput"]], on=keys, suffixes=("", "_plain"))
    rows = rows.iloc[ask.pick(len(rows), path.stem)].reset_index(drop=True)
    found, why = np.full((3, len(rows)), np.nan), np.full(len(rows), "", dtype=object)
    groups = rows.groupby(["model", "machine", "batch", *KEYS[5:]], sort=False).groups
    for index in groups.values():
        mine = np.asarray(index)
        try:
            found[:, mine] = _gains(rows.iloc[mine])
        except SteelyardError as error:
            why[mine] = str(error)
    yield comparison(
        ask,
        path.stem,
        metric="speed_up",
        phase="serve",
        machine=rows["machine"].map(machine_name),
        family=rows["model"],
        measured=rows["output_throughput"] / rows["output_throughput_plain"],
        predicted=found[0],
        low=found[1],
        high=found[2],
        split=np.where(rows["model"].str.contains("8B"), "fit", "left-out"),
        why=why.astype(np.str_),
    )


def _gains(rows: Any) -> Any:
    """``[3, n]``: the speed-up at each acceptance length, and its interval.

    Steps cost the same whatever was accepted: one simulation, at the mean length, prices them.
    """
    model, machine, batch, steps, topk, nodes = (
        rows.iloc[0][n] for n in ("model", "machine", "batch", "steps", "topk", "num_draft_tokens")
    )
    lengths = rows["acceptance_length"].to_numpy(dtype=np.float64)
    tp = next((n for name, n in DEGREES.items() if model.startswith(name)), 1)
    mean = float(np.mean(lengths))
    way = f"eagle3:k={steps},length={mean:.4g}"
    if topk != "1":
        way = f"tree:by=eagle3,depth={steps},width={topk},nodes={int(nodes) - 1},length={mean:.4g}"
    clients = int(batch)
    load = traffic(Traffic(concurrency=clients, requests=3 * clients, isl=ISL, osl=OSL))
    rates = []
    for speculate in ("", way):
        at = Place(model, machine, "sglang", tp=tp).placed()
        if isinstance(at, str):
            raise SteelyardError(at)
        played = Service.for_traces(at, [load], {}, speculate).play(load, {})
        runs = (played.middle, *played.ends)
        rates.append(np.array([float(r.records.osl.sum()) / r.makespan_s for r in runs]))
        step = float(played.middle.summary()["extras"]["tokens_per_step"]) if speculate else 1.0
    gain = np.sort(rates[1] / rates[0][0])[[1, 0, 2]] / step
    return gain[:, None] * lengths[None, :]
