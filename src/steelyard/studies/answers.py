"""Chunks of points to records: what a worker does, on this computer or on another."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from steelyard.errors import DoesNotFit, InputError
from steelyard.scenario.answers import STATISTICS, at_path, figures_of
from steelyard.scenario.fields import FLAGS, PRICE, fields_of
from steelyard.studies.files import located
from steelyard.studies.points import SIZES, Point, answered_by, scenario_of
from steelyard.studies.store_columns import columns_of

__all__ = ["BROKEN", "NO_FIT", "OK", "REFUSED", "Chunk", "Priced", "chunks_of", "price_chunk"]

#: What became of a point: answered; cannot be asked; does not fit the machine; our own error or a worker that died.
OK, REFUSED, NO_FIT, BROKEN = "ok", "refused", "no fit", "failed"

#: Points of one chunk at most, and of one of trainings: bounds what a kill can lose.
CHUNK_POINTS, TRAININGS = 1000, 32


@dataclass(frozen=True, slots=True)
class Chunk:
    """Points priced in one go, as plain values that travel between processes."""

    kind: str
    folder: str
    hashes: tuple[str, ...]
    values: tuple[Mapping[str, Any], ...]
    answered_by: str = ""
    """What the hashes were made with, see :func:`~steelyard.studies.points.answered_by`; empty = not checked."""

    def alone(self) -> list[Chunk]:
        """Every point as a chunk of its own."""
        pairs = zip(self.hashes, self.values, strict=True)
        return [Chunk(self.kind, self.folder, (h,), (v,), self.answered_by) for h, v in pairs]


@dataclass(slots=True)
class Priced:
    """Answers of a chunk, a list per column; ``took_s`` is how long it took where it ran."""

    kind: str
    hashes: list[str] = field(default_factory=list)
    statuses: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    columns: dict[str, list[Any]] = field(default_factory=dict)
    """Answer columns of the kind; a list shorter than ``hashes`` does not occur."""
    more: list[str] = field(default_factory=list)
    """The rest of the answer as JSON."""
    sources: list[str] = field(default_factory=list)
    """Sources, guesses and assumptions as JSON, one text per point."""
    took_s: float = 0.0

    def __len__(self) -> int:
        return len(self.hashes)

    def add(self, other: Priced) -> None:
        """Append another's points."""
        n = len(self)
        for name in {**self.columns, **other.columns}:
            mine = self.columns.setdefault(name, [None] * n)
            mine += other.columns.get(name, [None] * len(other))
        self.hashes += other.hashes
        self.statuses += other.statuses
        self.problems += other.problems
        self.more += other.more
        self.sources += other.sources
        self.took_s += other.took_s


def chunks_of(kind: str, folder: str, points: Sequence[Point]) -> list[Chunk]:
    """Points by program, in the order of their first point; equal points once.

    A simulation or a plan is a chunk of its own; estimates of one program are priced together, which takes some tens
    of milliseconds however few they are; trainings of a model on the same devices follow one another.
    """
    groups: dict[str, dict[str, Point]] = {}
    for point in points:
        groups.setdefault(point.group, {}).setdefault(point.hash, point)
    found, by = [], answered_by(kind)
    for group in groups.values():
        unique = list(group.values())
        most = TRAININGS if kind == "train" else CHUNK_POINTS
        for start in range(0, len(unique), most):
            part = unique[start : start + most]
            found.append(Chunk(kind, folder, tuple(p.hash for p in part), tuple(p.values for p in part), by))
    return found


def price_chunk(chunk: Chunk) -> Priced:
    """Answer every point of a chunk; a point that fails is a record with the reason."""
    started = time.perf_counter()
    if chunk.answered_by and chunk.answered_by != answered_by(chunk.kind):
        return failed(chunk, "Steelyard or its catalogue was changed, or is another one where this was priced")
    try:
        found = _estimates(chunk) if chunk.kind == "estimate" else _one_by_one(chunk)
    except Exception as error:
        if len(chunk.hashes) == 1:
            found = failed(chunk, _words(error))
        else:  # one point spoils the pass: each by itself
            found = Priced(chunk.kind)
            for one in chunk.alone():
                found.add(price_chunk(one))
    found.took_s = time.perf_counter() - started
    return found


def failed(chunk: Chunk, words: str, status: str = BROKEN) -> Priced:
    """Every point of a chunk as failed."""
    n = len(chunk.hashes)
    return Priced(chunk.kind, [*chunk.hashes], [status] * n, [words] * n, {}, ["{}"] * n, ["{}"] * n)


def _words(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)


def _estimates(chunk: Chunk) -> Priced:
    from steelyard.estimation.estimate import estimate_batch

    try:
        shared = scenario_of(chunk.folder, chunk.values[0])
    except InputError as error:
        return failed(chunk, str(error), REFUSED)
    defaults, n = fields_of("estimate"), len(chunk.hashes)
    sizes = [[int(v.get(name, defaults[name].default)) for v in chunk.values] for name in SIZES]
    answers, problems = estimate_batch(shared.sized(*sizes))
    words = ["; ".join(str(x) for x in p) for p in problems]
    statuses = [REFUSED if p else OK for p in problems]
    if answers is None:
        return Priced("estimate", [*chunk.hashes], statuses, words, {}, ["{}"] * n, [_text(_told(None))] * n)
    place = {i: k for k, i in enumerate(i for i, p in enumerate(problems) if not p)}
    known = answers.columns() | answers.totals()
    columns = {}
    for name, values in known.items():
        plain = np.broadcast_to(np.asarray(values), (len(answers),)).tolist()
        columns[name] = [plain[place[i]] if i in place else None for i in range(n)]
    told, mark = _told(answers.ledger), "\0"
    head, tail = _text(told | {"assumptions": [mark, *answers.ledger.assumptions]}).split(json.dumps(mark))
    own = {i: json.dumps(answers.own_assumptions(k))[1:-1] for i, k in place.items()}  # never empty
    texts = [head + own[i] + tail if i in own else "{}" for i in range(n)]
    return Priced("estimate", [*chunk.hashes], statuses, words, columns, ["{}"] * n, texts)


def _one_by_one(chunk: Chunk) -> Priced:
    found = Priced(chunk.kind)
    answer = {"simulate": _simulation, "plan": _plan, "train": _training}[chunk.kind]
    for one in chunk.alone():
        try:
            columns, more, sources = answer(_arguments(one.folder, one.values[0]))
        except InputError as error:
            found.add(failed(one, str(error), REFUSED))
        except DoesNotFit as error:
            found.add(failed(one, str(error), NO_FIT))
        else:
            row = {k: [v] for k, v in columns.items()}
            found.add(Priced(chunk.kind, [*one.hashes], [OK], [""], row, [_text(more)], [_text(sources)]))
    return found


def _arguments(folder: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values as keyword arguments; engine flags gathered."""
    given = located(folder, values)
    flags = {k.removeprefix(FLAGS): v for k, v in given.items() if k.startswith(FLAGS)}
    found = {k: v for k, v in given.items() if not k.startswith(FLAGS)}
    return found | ({"flags": flags} if flags else {})


def _simulation(arguments: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    from steelyard.simulation.api import read_simulation, run_scenario
    from steelyard.simulation.limits import verdicts as judged

    scenario = read_simulation(arguments)
    found = run_scenario(scenario)
    document = found.summary()
    verdicts = judged(found, scenario.slo)
    row: dict[str, Any] = {"devices": found.devices, "promises_met": all(v.met for v in verdicts) if verdicts else None}
    for figure in figures_of("simulate"):
        if figure.columns:
            value = at_path(document, figure.path)
            values = [value[cut] for cut in STATISTICS] if figure.type == "statistics" else [value]
            row |= dict(zip(figure.columns, values, strict=True))
    more = {
        "verdicts": [
            {"metric": v.target.metric, "statistic": v.target.label, "limit_s": v.target.limit_s, "met": v.met}
            | {"value_s": v.value_s if v.value_s == v.value_s else None}
            for v in verdicts
        ],
        "inputs": document["provenance"]["inputs"],
    }
    return row, more, _told(found.ledger)


def _plan(arguments: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    from steelyard.search.api import plan

    found = plan(**arguments)
    winner = found.winner
    known = [c.name for c in columns_of("plan").values() if not c.asked]
    row = {k: winner.columns().get(k) for k in known} if winner is not None else {}
    row |= {"feasible": winner is not None, "candidates": found.candidates, "simulated": found.simulated}
    shown = ("machine", "devices", "engine", "shape", PRICE, "ttft_s", "tpot_s", "max_rate_per_s")
    more: dict[str, Any] = {
        "why": list(found.why),
        "breaks_first": found.breaks_first,
        "runners_up": [{k: c.columns()[k] for k in shown} for c in found.runners_up],
        "inputs": dict(found.inputs),
    }
    if found.infeasible is not None:
        more["infeasible"] = {
            "reason": found.infeasible.reason,
            "nearest": [change.text for change in found.infeasible.nearest],
        }
    return row, more, _told(found.ledger)


def _training(arguments: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    from steelyard.scenario.training import read_train_scenario
    from steelyard.training.columns import columns_of as row_of
    from steelyard.training.estimate import answer_train, provenance_of

    found = answer_train(read_train_scenario(arguments))
    row = row_of(found)
    more = {
        "breakdown_s": dict(found.breakdown_s),
        "memory_bytes": [{**stage.parts, "reserved": stage.reserved_bytes} for stage in found.stages],
        "run": None if found.run is None else found.run.to_dict(),
        "inputs": provenance_of(found.scenario)["inputs"],
    }
    return {c.name: row.get(c.name) for c in columns_of("train").values() if not c.asked}, more, _told(found.ledger)


def _told(ledger: Any) -> dict[str, Any]:
    if ledger is None:
        return {}
    return {"sources": ledger.sources, "guesses": ledger.guesses, "assumptions": ledger.assumptions}
