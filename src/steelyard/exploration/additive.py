"""The best choices where goal and limits are sums over them: one whole program, solved by HiGHS.

Choices lie at places; what they cost is a table for every **group** of places (of one place, or of several whose
choices cost together, as a block that takes the channels of the one before). A program has a column for each choice of
each place and for each combination of each group of several, tied so that they say the same::

    minimise  max over goals of  shared + sum over groups of cost[combination]
    one choice a place;  for each group, place and choice: sum of combinations with it = that choice
    sum over groups of cost[combination] <= limit - shared,  for each limit
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from steelyard.choices import Group
from steelyard.search.fleet_solver import Linear

__all__ = ["Places", "Sum", "best_within", "least_within"]

Floats = NDArray[np.float64]


class Places(Protocol):
    """What is chosen: how many choices each place has, and which places cost together."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Choices of each place."""
        ...

    @property
    def groups(self) -> tuple[Group, ...]:
        """Groups; every place lies in one at least."""
        ...


@dataclass(frozen=True, eq=False)
class Sum:
    """A figure of choices: ``shared`` and the cost of every combination of every group, ``[features]``."""

    shared: float
    choices: Floats

    def of(self, places: Places, codes: NDArray[np.int64]) -> Floats:
        """The figure of codes ``[n, places]``."""
        total = np.full(len(codes), self.shared)
        for group in places.groups:
            total += self.choices[group.features(codes)]
        return total


def best_within(places: Places, goal: Sum, limits: Sequence[tuple[Sum, float]]) -> NDArray[np.int64] | None:
    """The choices of the largest goal whose sums keep their limits; None: there are none.

    Args:
        places: what is chosen.
        goal: what is to be large.
        limits: sums, and what each may be at most.
    """
    return least_within(places, [Sum(-goal.shared, -goal.choices)], limits)


def least_within(
    places: Places, goals: Sequence[Sum], limits: Sequence[tuple[Sum, float]], gap: float | None = None
) -> NDArray[np.int64] | None:
    """The choices of which the largest of some sums is least, whose sums keep their limits; None: there are none.

    Args:
        places: what is chosen.
        goals: sums; the largest of them is made small.
        limits: sums, and what each may be at most.
        gap: relative distance from the optimum at which the solver may stop; None: the usual, none to speak of.

    Raises:
        InputError: HiGHS is not installed.
    """
    sizes, groups = places.sizes, places.groups
    starts = np.cumsum([0, *sizes])
    columns, feature = _columns(places, starts)
    several = len(goals) > 1
    scale = max((float(np.abs(g.choices).max(initial=0.0)) for g in goals), default=0.0) or 1e-300
    total = int(starts[-1]) + sum(len(c) for c, g in zip(columns, groups, strict=True) if len(g.places) != 1)
    width = total + several
    cost = np.zeros(width)
    flat, at = np.concatenate([np.zeros(0, dtype=np.int64), *columns]), np.concatenate([np.zeros(0, int), *feature])
    if several:
        cost[-1] = 1.0
    else:
        np.add.at(cost, flat, goals[0].choices[at] / scale)
    most = np.ones(width)
    if several:
        most[-1] = math.inf
    program = Linear(cost, most, int(starts[-1]))
    every = np.arange(starts[-1])
    program.add(len(sizes), np.repeat(np.arange(len(sizes)), sizes), every, 1.0, 1.0, 1.0)
    _tie(program, groups, columns, starts)
    if several:
        for goal in goals:  # its part is added as a row: sum - T <= -shared
            found, values = np.append(flat, width - 1), np.append(goal.choices[at] / scale, -1.0)
            program.add(1, 0, found, values, -math.inf, -goal.shared / scale)
    for sum_, limit in limits:
        if math.isfinite(limit):
            size = max(abs(limit), abs(limit - sum_.shared), 1e-300)
            program.add(1, 0, flat, sum_.choices[at] / size, -math.inf, (limit - sum_.shared) / size)
    solved = program.solve() if gap is None else program.solve(gap=gap)
    if solved.x is None:
        return None
    chosen = solved.x[: starts[-1]]
    return np.array([int(np.argmax(chosen[a:b])) for a, b in pairwise(starts.tolist())])


def _columns(places: Places, starts: NDArray[np.int64]) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]]:
    """Of every group, the columns of its combinations that may be chosen, and their features."""
    columns, feature, at = [], [], int(starts[-1])
    for group in places.groups:
        able = np.arange(len(group)) if group.valid is None else np.flatnonzero(group.valid)
        feature.append(able + group.offset)
        if len(group.places) == 1:
            columns.append(able + starts[group.places[0]])
        else:
            columns.append(np.arange(at, at + len(able)))
            at += len(able)
    return columns, feature


def _tie(
    program: Linear, groups: Sequence[Group], columns: Sequence[NDArray[np.int64]], starts: NDArray[np.int64]
) -> None:
    """Combinations of a group say of each of its places what its column says."""
    for group, mine in zip(groups, columns, strict=True):
        if len(group.places) == 1:
            continue
        table = group.combinations()
        if group.valid is not None:
            table = table[group.valid]
        program.add(1, 0, mine, 1.0, 1.0, 1.0)
        for i, (place, size) in enumerate(zip(group.places, group.sizes, strict=True)):
            rows = np.concatenate([table[:, i], np.arange(size)])
            cols = np.concatenate([mine, starts[place] + np.arange(size)])
            values = np.concatenate([np.ones(len(mine)), -np.ones(size)])
            program.add(size, rows, cols, values, 0.0, 0.0)
