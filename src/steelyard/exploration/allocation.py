"""Choices for every layer of one network within limits: bits, kept channels, devices. One mechanism for all of them.

What is chosen lies at places (layers); figures (latency, energy, bytes, loss) are sums over the choices, or the largest
of several sums (a pass takes the longer of host and kernels, a pipeline as long as its busiest device). The best
choices, at several limits of one figure, are found by eliminating places (:mod:`steelyard.exploration.elimination`), or
by whole programs (:mod:`steelyard.exploration.additive`) where several limits bind.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steelyard._display import Result
from steelyard.choices import Group
from steelyard.documents import is_file, read_text
from steelyard.errors import InputError, Problem, UnknownName, check_whole, raise_all, show
from steelyard.exploration.additive import Sum, least_within
from steelyard.exploration.elimination import Found, least_by_elimination
from steelyard.interval import interval80
from steelyard.pareto import front_of
from steelyard.provenance import Ledger
from steelyard.scenario.space import rows_of
from steelyard.scenario.words import Problems
from steelyard.search.missed import Limited, missed
from steelyard.units import parse_quantity

__all__ = [
    "UNITS",
    "Allocating",
    "Allocation",
    "Measure",
    "Point",
    "allocate",
    "axis_of",
    "read_limits",
    "read_losses",
    "singles",
]

Codes = NDArray[np.int64]
Floats = NDArray[np.float64]
#: Units of figures.
UNITS: Mapping[str, str] = {
    "latency_s": "s",
    "energy_j": "J",
    "memory_bytes": "B",
    "macs": "1",
    "parameters": "1",
    "loss": "1",
    "period_s": "s",
}
#: Most places, points of a front, and rows of a table of losses.
MOST_PLACES, MOST_POINTS, MOST_ROWS = 1000, 50, 100_000
#: Relative distance from the optimum at which a program may stop.
GAP = 1e-6
#: Room given to a limit that is the figure of a solution itself.
_ROOM = 1e-7


@dataclass(frozen=True, eq=False)
class Measure:
    """A figure of choices: the largest of some sums."""

    sums: tuple[Sum, ...]

    def of(self, task: Allocating, codes: Codes) -> Floats:
        """Of codes ``[n, places]``."""
        return np.asarray(np.max([s.of(task, codes) for s in self.sums], axis=0))

    def within(self, limit: float) -> list[tuple[Sum, float]]:
        """As limits of a program."""
        return [(s, limit) for s in self.sums]


@dataclass(frozen=True, eq=False)
class Allocating:
    """What is chosen for one network, and what it costs."""

    kind: str
    network: str
    devices: tuple[str, ...]
    names: tuple[str, ...]
    """Of the places."""
    choices: tuple[tuple[str, ...], ...]
    """Of every place, by name."""
    groups: tuple[Group, ...]
    measures: Mapping[str, Measure]
    spread: float
    """Standard deviation of log(true / predicted) of times."""
    ledger: Ledger
    goal_title: str = ""
    proxy: bool = False

    @property
    def sizes(self) -> tuple[int, ...]:
        """Choices of each place."""
        return tuple(len(c) for c in self.choices)


@dataclass(frozen=True, eq=False)
class Point:
    """One allocation: figures by name, in SI units."""

    chosen: Mapping[str, str]
    figures: Mapping[str, float]
    latency_low_s: float
    latency_high_s: float


@dataclass(frozen=True, eq=False, repr=False)
class Allocation(Result):
    """The front of the goal and one figure, best first; every point is the optimum at a limit of that figure."""

    task: Allocating
    goal: str
    axis: str
    limits: Mapping[str, float]
    front: tuple[Point, ...]
    alike: Mapping[str, Point]
    """One choice for all, by its name, whether it keeps the limits or not."""
    programs: int
    gap: float
    """No point can be better than it is by more than this share of its goal."""
    provenance: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.front)

    @property
    def exact(self) -> bool:
        """Whether every point is proven to be an optimum at its limits."""
        return self.gap <= GAP

    @property
    def best(self) -> Point:
        """The best of the goal within the limits."""
        return self.front[0]


def read_limits(given: Mapping[str, Any], figures: Mapping[str, str], problems: Problems) -> dict[str, float]:
    """Limits of figures, by the figure.

    Args:
        given: limits as they are given, by their words; None or empty: none.
        figures: figures by these words.
        problems: those that are no quantity above 0.
    """
    asked = {name: value for name, value in given.items() if value not in (None, "")}
    return {figures[n]: problems.read(_bound, n, v, UNITS[figures[n]]) or 0.0 for n, v in asked.items()}


def _bound(name: str, value: Any, unit: str) -> float:
    found = parse_quantity(value, unit, name)
    if not found > 0:
        raise InputError(f"expected a limit above 0, got {show(str(value))}", field=name)
    return found


def axis_of(front: str, limits: Mapping[str, float], figures: Mapping[str, str], problems: Problems) -> str:
    """The figure over which the front is found: the one that is named, else the first limited, else the latency."""
    if front and front not in figures:
        problems.add([Problem("front", UnknownName("figure", front, figures).message)])
        return ""
    return figures[front] if front else next(iter(limits), "latency_s")


def allocate(
    task: Allocating,
    goal: str,
    axis: str,
    limits: Mapping[str, float],
    points: int = 12,
    provenance: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Allocation:
    """The best allocations.

    Args:
        task: what is chosen.
        goal: the figure that is made small.
        axis: the figure at whose levels, between its least and that of the best, the front is found.
        limits: of figures.
        points: of the front, about.
        provenance: of the answer.
        progress: is called with programs solved and all.

    Raises:
        InputError: too many points or places.
        DoesNotFit: no allocation keeps the limits.
    """
    check_whole(points, "points", 1, MOST_POINTS, "points of the front")
    if not 1 <= len(task.sizes) <= MOST_PLACES:
        said = f"expected 1 to {MOST_PLACES:,} layers that can be chosen for, {task.network} has {len(task.sizes):,}"
        raise InputError(said, field="model")
    solver = _Programs(task, goal, axis, [x for n, v in limits.items() for x in task.measures[n].within(v)])
    best = solver.best(math.inf)
    if best is None:
        raise missed("allocation", _limited(task, limits))
    found, wanted = [best], task.measures[axis]
    least = solver.least(wanted, solver.limits)
    low, high = (float(wanted.of(task, c[None])[0]) for c in (least if least is not None else best, best))
    if high > low * (1 + 1e-9):
        for i, share in enumerate(np.linspace(1.0, 0.0, points)[1:], 1):
            code = solver.best(low + float(share) * (high - low))
            if code is not None:
                found.append(code)
            if progress is not None:
                progress(i, points - 1)
    codes = np.unique(np.array(found, dtype=np.int64), axis=0)
    values = np.stack([task.measures[n].of(task, codes) for n in (goal, axis)], axis=1)
    kept = codes[front_of(np.round(values / np.maximum(np.abs(values).max(axis=0), 1e-300), 9))]
    order = np.argsort(task.measures[goal].of(task, kept), kind="stable")
    return Allocation(
        task=task,
        goal=goal,
        axis=axis,
        limits=dict(limits),
        front=tuple(_points(task, kept[order])),
        alike=_alike(task),
        programs=solver.solved,
        gap=solver.gap,
        provenance=dict(provenance or {}),
    )


def _solved(task: Allocating, goals: Sequence[Sum], limits: Sequence[tuple[Sum, float]]) -> tuple[Codes | None, float]:
    """The choices of the least of the largest of some sums within limits, and how far from the least it may be."""
    found = least_by_elimination(task, goals, limits, GAP)
    if isinstance(found, Found):
        return found.codes, (found.goal - found.bound) / max(abs(found.goal), 1e-300)
    return (None if found is None else least_within(task, goals, limits, GAP)), 0.0


@dataclass
class _Programs:
    task: Allocating
    goal: str
    axis: str
    limits: list[tuple[Sum, float]]
    solved: int = 0
    gap: float = 0.0

    def least(self, wanted: Measure, limits: Sequence[tuple[Sum, float]]) -> Codes | None:
        """The choices of the least of one figure within limits."""
        code, gap = _solved(self.task, wanted.sums, limits)
        self.gap = max(self.gap, gap)
        return code

    def best(self, level: float) -> Codes | None:
        """The least goal with the axis within a level; of those alike, the one of the least axis."""
        task, goal, axis = self.task, self.task.measures[self.goal], self.task.measures[self.axis]
        limits = [*self.limits, *axis.within(level * (1 + _ROOM))]
        self.solved += 1
        code = self.least(goal, limits)
        if code is None or self.goal == self.axis:
            return code
        value = float(goal.of(task, code[None])[0])
        self.solved += 1
        again = self.least(axis, [*limits, *goal.within(value + _ROOM * abs(value))])
        return code if again is None else again


def _points(task: Allocating, codes: Codes) -> list[Point]:
    figures = {name: measure.of(task, codes) for name, measure in task.measures.items()}
    low, high = interval80(figures["latency_s"], task.spread)
    found = []
    for i, code in enumerate(codes.tolist()):
        chosen = {n: c[k] for n, c, k in zip(task.names, task.choices, code, strict=True)}
        row = {name: float(values[i]) for name, values in figures.items()}
        found.append(Point(chosen, row, float(low[i]), float(high[i])))
    return found


def _alike(task: Allocating) -> dict[str, Point]:
    """Every choice that all places have, made everywhere."""
    names = [n for n in task.choices[0] if all(n in c for c in task.choices)]
    codes = np.array([[c.index(n) for c in task.choices] for n in names], dtype=np.int64)
    if not len(codes):
        return {}
    able = np.ones(len(codes), dtype=np.bool_)
    for group in task.groups:
        if group.valid is not None:
            able &= group.valid[group.features(codes) - group.offset]
    return {n: p for n, p, ok in zip(names, _points(task, codes), able, strict=True) if ok}


def _limited(task: Allocating, limits: Mapping[str, float]) -> dict[str, Limited]:
    """Of every limited figure the least by itself, and what the allocation has that breaks them by the least factor."""
    grown = [Sum(s.shared / v, s.choices / v) for n, v in limits.items() for s in task.measures[n].sums]
    near, _ = _solved(task, grown, [])

    def of(name: str, code: Codes | None) -> float:
        return math.inf if code is None else float(task.measures[name].of(task, code[None])[0])

    found = {}
    for name, most in limits.items():
        figure, _, device = name.partition(".")
        least = of(name, _solved(task, task.measures[name].sums, [])[0])
        words = (figure.rpartition("_")[0] or figure) + (f" of {device}" if device else "")
        found[words] = Limited(most, least, of(name, near), UNITS[figure])
    return found


def read_losses(path: str, layers: Sequence[str], columns: Sequence[str]) -> dict[str, dict[tuple[str, ...], float]]:
    """A user's table of losses: by layer and choice, what is lost by it.

    Args:
        path: CSV with the columns ``layer``, those of the choice, and ``loss``.
        layers: names that there are.
        columns: of the choice.

    Raises:
        InputError: no file, a column is missing, a layer that there is not, a loss that is no number.
    """
    if not is_file(path):
        raise InputError(f"no file at {show(path)}", field="sensitivity")
    rows = rows_of(read_text(path, field="sensitivity"), Path(path).name)
    wanted = ("layer", *columns, "loss")
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    absent = [c for c in wanted if c not in header]
    if absent:
        said = f"expected the columns {', '.join(wanted)}, got {show(', '.join(header))}"
        raise InputError(said, field=Path(path).name)
    if len(rows) - 1 > MOST_ROWS:
        raise InputError(f"expected at most {MOST_ROWS:,} rows, got {len(rows) - 1:,}", field=Path(path).name)
    at = [header.index(c) for c in wanted]
    found: dict[str, dict[tuple[str, ...], float]] = {}
    problems = []
    for number, row in enumerate(rows[1:], 2):
        if not any(cell.strip() for cell in row):
            continue
        cells = [row[i].strip() if i < len(row) else "" for i in at]
        where = f"{Path(path).name}: row {number}"
        if cells[0] not in layers:
            problems.append(Problem(where, UnknownName("layer", cells[0][:60], layers).message))
            continue
        try:
            value = float(cells[-1])
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            problems.append(Problem(where, f"expected a number as loss, got {show(cells[-1])}"))
            continue
        key = tuple(cells[1:-1])
        if key in found.setdefault(cells[0], {}):
            problems.append(Problem(where, f"{cells[0]} {' '.join(key)} is given twice"))
        found[cells[0]][key] = value
    raise_all(problems[:10])
    if not found:
        raise InputError("no rows below the header", field=Path(path).name)
    return found


def singles(sizes: Iterable[int]) -> tuple[Group, ...]:
    """A group for each place alone."""
    found, offset = [], 0
    for place, size in enumerate(sizes):
        found.append(Group((place,), (size,), offset))
        offset += size
    return tuple(found)
