"""The least of one sum within a limit of another, where places that cost together form chains: eliminated one by one.

Layers of a network cost with their neighbours: a table over all choices of the places that one place costs with is
small, and eliminating places one after the other (bucket elimination, Dechter 1999) gives the least of any weighted
sum of two figures in as many steps as there are places. That answers the limit, too::

    bound        goal(x) >= L(m) = min over x of goal(x) + m (cost(x) - limit),   the largest over m
    left         choices place by place, of which each weighing says the least that can still come of them:
                 those that cannot beat the best known within the limit go, and of those that the rest
                 sees alike the ones that are worse in both figures

What is left at the end is the optimum. Where more than :data:`MOST` partial choices are left, the most promising go on,
and the bound of the others says how far from the optimum the answer may be.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from steelyard.exploration.additive import Places, Sum

__all__ = ["Found", "least_by_elimination"]

Codes = NDArray[np.int64]
Floats = NDArray[np.float64]
#: Most entries of a table of places that cost together; above, a program is the better way.
LARGEST = 20_000
#: Partial choices that are kept: first few for a good answer, then more for the proof.
MOST = (300, 3_000, 30_000)
#: Figures that differ by less, relative, are equal; weighings that are tried for the best one at most.
_ROUNDING, _TURNS = 1e-12, 60
#: Weighings of the limited figure beside the best one, of it.
_BESIDE = (0.6, 0.8, 0.92, 1.0, 1.08, 1.25, 1.6)


@dataclass(frozen=True, eq=False)
class Found:
    """The best choices known, and what no choice within the limit is below."""

    codes: Codes
    goal: float
    bound: float


@dataclass(frozen=True, eq=False)
class _Order:
    """Places in the order they are eliminated, and with each those it then costs with."""

    sizes: tuple[int, ...]
    order: tuple[int, ...]
    beside: tuple[tuple[int, ...], ...]
    """Of every step."""


def _order(places: Places) -> _Order | None:
    """The place with the smallest table first; None: a table would be too large."""
    sizes = places.sizes
    near: dict[int, set[int]] = {p: set() for p in range(len(sizes))}
    for group in places.groups:
        for place in group.places:
            near[place] |= set(group.places) - {place}
    order, beside = [], []
    while near:
        place = min(near, key=lambda p: (sizes[p] * math.prod(sizes[q] for q in near[p]), p))
        mine = near.pop(place)
        if sizes[place] * math.prod(sizes[q] for q in mine) > LARGEST:
            return None
        for other in mine:
            near[other] = (near[other] | mine) - {place, other}
        order.append(place)
        beside.append(tuple(sorted(mine)))
    return _Order(sizes, tuple(order), tuple(beside))


@dataclass(frozen=True, eq=False)
class _Tables:
    """Of every step: the least of all eliminated before, by what the places beside it and itself choose."""

    each: tuple[Floats, ...]
    """``[combinations of the places beside, choices, weighings]``."""
    least: Floats
    """Of everything, ``[weighings]``."""

    def argmin(self, how: _Order, k: int) -> Codes:
        """The choices of the least of one weighing."""
        codes = np.zeros((1, len(how.sizes)), dtype=np.int64)
        for place, beside, table in zip(how.order[::-1], how.beside[::-1], self.each[::-1], strict=True):
            codes[0, place] = int(np.argmin(table[_place(how, beside, codes)[0], :, k]))
        return codes


def _place(how: _Order, beside: Sequence[int], codes: Codes) -> Codes:
    """The row of a table, ``[n]``."""
    found = np.zeros(len(codes), dtype=np.int64)
    for place in beside:
        found = found * how.sizes[place] + codes[:, place]
    return found


def _eliminate(how: _Order, factors: Sequence[tuple[tuple[int, ...], Floats]]) -> _Tables:
    """Tables of all steps. ``factors``: places and ``[choices of each.., weighings]``."""
    left = list(factors)
    each: list[Floats] = []
    total: Any = 0.0
    for place, beside in zip(how.order, how.beside, strict=True):
        scope = (*beside, place)
        table = np.zeros((*(how.sizes[p] for p in scope), factors[0][1].shape[-1]))
        for places, values in [f for f in left if place in f[0]]:
            at = [scope.index(p) for p in places]
            shape = [1] * len(scope)
            for i in at:
                shape[i] = how.sizes[scope[i]]
            turned = np.transpose(values, (*np.argsort(at), len(at)))
            table = table + turned.reshape(*shape, -1)
        left = [f for f in left if place not in f[0]]
        least = table.min(axis=-2)
        each.append(table.reshape(-1, how.sizes[place], table.shape[-1]))
        if beside:
            left.append((beside, least))
        else:
            total = total + least
    return _Tables(tuple(each), np.asarray(total))


@dataclass(frozen=True, eq=False)
class _Task:
    how: _Order
    parts: tuple[tuple[tuple[int, ...], Floats, Floats], ...]
    """Places of every group, with the goal and the limited figure of every combination."""
    limit: float

    def tables(self, weights: Floats) -> _Tables:
        """Of weighings ``[weighings, 2]`` of goal and limited figure."""
        parts = [
            (places, np.where(np.isinf(goal)[..., None], math.inf, _weighed(goal, cost, weights)))
            for places, goal, cost in self.parts
        ]
        return _eliminate(self.how, parts)

    def of(self, codes: Codes) -> tuple[float, float]:
        """Goal and limited figure of one row of choices."""
        at = [tuple(codes[0, list(places)]) for places, _, _ in self.parts]
        return (
            float(sum(g[i] for i, (_, g, _) in zip(at, self.parts, strict=True))),
            float(sum(c[i] for i, (_, _, c) in zip(at, self.parts, strict=True))),
        )


def _weighed(goal: Floats, cost: Floats, weights: Floats) -> Floats:
    finite = np.where(np.isinf(goal), 0.0, goal)
    return np.asarray(finite[..., None] * weights[:, 0] + cost[..., None] * weights[:, 1])


def least_by_elimination(
    places: Places, goals: Sequence[Sum], limits: Sequence[tuple[Sum, float]], gap: float
) -> Found | Literal[False] | None:
    """The choices of which the largest of some sums is least, whose sums keep their limits.

    Args:
        places: what is chosen, and which places cost together.
        goals: sums; the largest of them is made small.
        limits: sums, and what each may be at most.
        gap: relative distance from the optimum that is none to speak of.

    Returns:
        What was found; None: nothing keeps the limits; False: another way must be taken, since tables would be too
        large, or more than one goal or limit can bind.
    """
    how = _order(places)
    if how is None:
        return False
    aims = _binding(places, how, [(s, 0.0) for s in goals], told=False)
    own = [x for s, x in limits if s.choices is aims[0][0].choices]  # the least is within them, or nothing is
    limited = [(s, x) for s, x in limits if math.isfinite(x) and s.choices is not aims[0][0].choices]
    bounds = _binding(places, how, limited)
    if len(aims) != 1 or len(bounds) > 1:
        return False
    (goal, _), (cost, limit) = aims[0], bounds[0] if bounds else (Sum(0.0, np.zeros_like(goals[0].choices)), math.inf)
    unit, size = (max(float(np.abs(s.choices).max(initial=0.0)), 1e-300) for s in (goal, cost))
    parts = []
    for places_of, both in _factors(places, np.stack([goal.choices / unit, cost.choices / size], axis=1)):
        parts.append((places_of, both[..., 0], np.where(np.isinf(both[..., 1]), 0.0, both[..., 1])))
    found = _solve(_Task(how, tuple(parts), (limit - cost.shared) / size), gap, goal.shared / unit)
    if found is None:
        return None
    codes, bound = found
    value = max(float(s.of(places, codes)[0]) for s in goals)
    least = Found(codes[0], value, min(bound * unit + goal.shared, value))
    if value <= min(own, default=math.inf):
        return least
    return None if least.bound > min(own) else False


def _factors(places: Places, values: Floats) -> list[tuple[tuple[int, ...], Floats]]:
    """Of every group its places and ``[choices of each.., columns of values]``; infinite: may not be chosen."""
    found = []
    for group in places.groups:
        rows = values[group.offset : group.offset + len(group)]
        if group.valid is not None:
            rows = np.where(group.valid[:, None], rows, math.inf)
        found.append((group.places, rows.reshape(*group.sizes, -1)))
    return found


def _binding(
    places: Places, how: _Order, limits: Sequence[tuple[Sum, float]], told: bool = True
) -> list[tuple[Sum, float]]:
    """Those limits that another does not imply; ``told``: nor any choice keeps anyhow."""

    def largest(sum_: Sum) -> float:
        return sum_.shared - float(_eliminate(how, _factors(places, -sum_.choices[:, None])).least[0])

    kept = [x for x in limits if not (told and largest(x[0]) <= x[1])]
    for one in list(kept):
        others = [x for x in kept if x is not one]
        ways = (Sum(one[0].shared - s.shared - one[1] + x, one[0].choices - s.choices) for s, x in others)
        if any(largest(way) <= 0.0 for way in ways):
            kept = others
    return kept


def _solve(task: _Task, gap: float, shared: float) -> tuple[Codes, float] | None:
    """The best choices, and the bound of their goal."""
    ends = task.tables(np.array([[1.0, 0.0], [0.0, 1.0]]))
    if not np.all(np.isfinite(ends.least)):
        return None
    over, best = ends.argmin(task.how, 0), ends.argmin(task.how, 1)
    room = task.limit + _ROUNDING * abs(task.limit) if math.isfinite(task.limit) else math.inf
    if task.of(over)[1] <= room:
        return over, float(ends.least[0])
    if task.of(best)[1] > room:
        return None
    best, weight = _multiplier(task, over, best, room)
    weights = np.array([[1.0, 0.0], [0.0, 1.0], *([1.0, weight * b] for b in _BESIDE)])
    tables = task.tables(weights)
    bound = -math.inf
    for most in MOST:
        more, dropped = _search(task, tables, weights, room, task.of(best)[0], gap, shared, most)
        best = best if more is None else more
        value = task.of(best)[0]
        bound = max(bound, min(value, dropped))
        if value - bound <= gap * abs(value + shared):
            break
    return best, bound


def _multiplier(task: _Task, over: Codes, within: Codes, room: float) -> tuple[Codes, float]:
    """The price of the limited figure with the largest bound, and the best choices met on the way to it."""
    best, weight = within, 0.0
    for _ in range(_TURNS):
        (g0, c0), (g1, c1) = task.of(over), task.of(within)
        if not (c0 > c1 and g1 > g0):
            break
        weight = (g1 - g0) / (c0 - c1)
        tables = task.tables(np.array([[1.0, weight]]))
        if float(tables.least[0]) >= g0 + weight * c0 - _ROUNDING * max(1.0, abs(g0 + weight * c0)):
            break
        new = tables.argmin(task.how, 0)
        if task.of(new)[1] <= room:
            within = new
            best = new if task.of(new)[0] < task.of(best)[0] else best
        else:
            over = new
    return best, weight


def _search(
    task: _Task, tables: _Tables, weights: Floats, room: float, known: float, gap: float, shared: float, most: int
) -> tuple[Codes | None, float]:
    """Choices better than those known, and the bound of what was left out for being too many."""
    how = task.how
    most_of = weights[:, 0] * (known - gap * abs(known + shared)) + weights[:, 1] * room
    most_of = most_of + _ROUNDING * np.maximum(1.0, np.abs(most_of))
    most_of[0] -= 2 * _ROUNDING * max(1.0, abs(float(most_of[0])))  # what is as good is not better
    codes = np.zeros((1, len(how.sizes)), dtype=np.int64)
    values, dropped = tables.least[None].copy(), math.inf
    steps = list(zip(how.order, how.beside, tables.each, strict=True))[::-1]
    for i, (place, beside, table) in enumerate(steps):
        rows = table[_place(how, beside, codes)]
        new = values[:, None, :] + (rows - rows.min(axis=1, keepdims=True))
        at, choice = np.nonzero(np.all(new <= most_of, axis=2))
        values, codes = new[at, choice], codes[at]
        codes[:, place] = choice
        seen = {p for _, near, _ in steps[i + 1 :] for p in near} & {s[0] for s in steps[: i + 1]}
        kept = _undominated(_place(how, sorted(seen), codes), values[:, 0], values[:, 1])
        values, codes = values[kept], codes[kept]
        if len(codes) > most:
            least = np.max((values[:, 2:] - weights[2:, 1] * room) / weights[2:, 0], axis=1)
            order = np.argsort(least, kind="stable")
            dropped = min(dropped, float(least[order[most]]))
            values, codes = values[order[:most]], codes[order[:most]]
    if not len(codes):
        return None, dropped
    return codes[np.lexsort((values[:, 1], values[:, 0]))[:1]], dropped


def _undominated(context: Codes, goal: Floats, cost: Floats) -> NDArray[np.int64]:
    """Those that none of the same context is as good as in both figures."""
    order = np.lexsort((cost, goal, context))
    rank = np.empty(len(order), dtype=np.int64)
    rank[np.argsort(cost, kind="stable")] = np.arange(len(order))
    run = np.cumsum(np.concatenate([[0], np.diff(context[order]) != 0])[: len(order)])
    key = rank[order] - run * (len(order) + 1)
    before = np.concatenate([[len(order) + 1], np.minimum.accumulate(key)[:-1]])[: len(order)]
    return np.asarray(order[key < before])
