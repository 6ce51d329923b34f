"""The integer program of a mixed fleet: how many replicas of each type, and which share of each item goes where.

Items are buckets of requests (or groups of buckets that a router cannot tell apart), types are replicas:

    minimise    sum_j fixed_j (n_j + spares used_j) + sum_ij moving_ij x_ij
    subject to  sum_j x_ij = 1                          every item is served
                sum_i load_ij x_ij <= n_j               no type carries more than its replicas hold
                n_j <= most_j used_j                    spares come with every type that is used
                A (n + spares used) + B x <= limits     devices of a machine, of all, rent, power
                n_j whole, used_j 0 or 1, x_ij >= 0

``load_ij`` is the number of replicas of type ``j`` that all requests of item ``i`` keep busy: rate over capacity. Items
may be split. The form is that of Melange (arXiv:2404.14527), with the slices made continuous. Solved by HiGHS.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from steelyard.errors import InputError
from steelyard.search.fleet_solver import GAP, Linear
from steelyard.search.options import Floats, Integers

__all__ = ["GAP", "Bound", "Program", "Solution", "balanced", "loads", "needed", "simplest", "solve", "with_spares"]

#: Share of an item below which a slice is rounding, not a choice.
CRUMB = 1e-7
#: Weight of the total load beside the largest use when the load is balanced: breaks ties, decides nothing else.
TIE = 1e-4


@dataclass(frozen=True, eq=False)
class Bound:
    """``per_replica . (n + spares used) + sum_ij per_share_ij x_ij <= limit``."""

    name: str
    """``devices``, ``budget`` (USD/h), ``watts`` or ``devices of MACHINE``."""
    per_replica: Floats
    """``[j]``"""
    limit: float
    per_share: Floats | None = None
    """``[i, j]``"""

    def value(self, counts: Integers, shares: Floats, spares: int) -> float:
        """What a fleet needs of it."""
        total = float(self.per_replica @ with_spares(counts, spares))
        return total if self.per_share is None else total + _times(self.per_share, shares)


@dataclass(frozen=True, eq=False)
class Program:
    """Items, types and limits. Arrays ``[j]`` over types, ``[i, j]`` over items and types."""

    load: Floats
    """Replicas that the whole item keeps busy; inf = the type cannot serve it."""
    fixed: Floats
    """Objective per replica."""
    moving: Floats | None = None
    """Objective of serving the whole item; None = 0."""
    spares: int = 0
    """Replicas beside those that carry the load, in every type that is used."""
    bounds: tuple[Bound, ...] = ()
    max_types: int | None = None
    """Types used at most."""
    per_type: float = 0.0
    """Objective of every type that is used."""

    def __post_init__(self) -> None:
        if self.load.ndim != 2 or self.fixed.shape != self.load.shape[1:]:
            raise InputError("expected load [items, types] and fixed [types]", field="program")
        if not np.all(self.load >= 0) or not np.all(self.fixed >= 0):
            raise InputError("expected loads and costs of at least 0", field="program")

    def cost(self, counts: Integers, shares: Floats) -> float:
        """The objective of an answer."""
        total = float(self.fixed @ with_spares(counts, self.spares)) + self.per_type * int((counts > 0).sum())
        return total if self.moving is None else total + _times(self.moving, shares)


@dataclass(frozen=True, eq=False)
class Solution:
    """Counts and shares; ``counts`` is None when no fleet keeps the constraints (or none was found in time)."""

    counts: Integers | None
    """``[j]`` replicas that carry load, spares not counted."""
    shares: Floats
    """``[i, j]``"""
    cost: float
    bound: float
    """No fleet costs less than this."""
    wall_s: float
    complete: bool
    """The solver ended by itself: an answer at the bound, or proof that there is none."""

    @property
    def gap_frac(self) -> float:
        """``(cost - bound) / cost``: how much cheaper a fleet might still be found."""
        if self.counts is None or self.cost <= 0:
            return 0.0
        return max(0.0, (self.cost - self.bound) / self.cost)


def with_spares(counts: Integers, spares: int) -> Integers:
    """Replicas to run: those that carry load, and the spares of each type that is used."""
    return np.asarray(counts + spares * (counts > 0), dtype=np.int64)


def solve(program: Program, *, time_limit_s: float = 10.0, gap: float = GAP) -> Solution:
    """The cheapest fleet of a program.

    Args:
        program: items, types, limits.
        time_limit_s: wall time after which the best fleet so far is returned, with the gap that is left.
        gap: relative gap at which the search may stop.

    Raises:
        InputError: highspy is not installed.
    """
    started = time.perf_counter()
    items, types = program.load.shape
    possible = np.isfinite(program.load)
    if not possible.any(axis=1).all():
        return _none(program, started, complete=True)
    columns = _Columns(program, possible)
    found = columns.linear().solve(time_limit_s, gap)
    wall = time.perf_counter() - started
    if found.x is None:
        return Solution(None, np.zeros((items, types)), math.inf, found.bound, wall, found.complete)
    counts = np.rint(found.x[:types]).astype(np.int64)
    shares = np.zeros((items, types))
    shares[possible] = found.x[columns.shares]
    shares = _clean(shares)
    counts = np.maximum(counts, np.ceil(loads(program.load, shares) - 1e-6).astype(np.int64))
    return Solution(counts, shares, program.cost(counts, shares), found.bound, wall, found.complete)


def balanced(program: Program, counts: Integers) -> tuple[Floats, float] | None:
    """Shares for given counts that keep the busiest type as idle as possible: ``(shares, its use)``.

    The use may exceed 1: then the counts are too few by the program's own loads. None when an item has no type.
    """
    types = np.flatnonzero(counts > 0)
    load = program.load[:, types]
    possible = np.isfinite(load)
    if not types.size or not possible.any(axis=1).all():
        return None
    item, kind = np.nonzero(possible)
    values = load[possible]
    n, at = len(values), np.arange(len(values))
    used = np.arange(len(types))
    cost = np.append(TIE * values / max(float(counts.sum()), 1.0), 1.0)
    linear = Linear(cost, np.append(np.ones(n), np.inf))
    linear.add(
        len(types),
        np.append(kind, used),
        np.append(at, np.full(len(types), n)),
        np.append(values, -counts[types]),
        -np.inf,
        0.0,
    )
    linear.add(load.shape[0], item, at, 1.0, 1.0, 1.0)
    for b in program.bounds:
        if b.per_share is not None:
            room = b.limit - float(b.per_replica @ with_spares(counts, program.spares))
            linear.add(1, 0, at, b.per_share[:, types][possible], -np.inf, room)
    found = linear.solve()
    if found.x is None:
        return None
    shares = np.zeros(program.load.shape)
    shares[item, types[kind]] = found.x[:n]
    shares = _clean(shares)
    return shares, float(np.max(loads(program.load, shares)[types] / counts[types]))


def simplest(program: Program, solution: Solution, *, time_limit_s: float = 3.0) -> Solution:
    """Among the fleets that cost no more: the fewest types, of those the idlest; so no solver chooses among equals.

    The solution itself when none of fewer types is found in time.
    """
    if solution.counts is None:
        return solution
    same = Bound("cost", program.fixed, solution.cost * (1 + 1e-9), program.moving)
    nothing = np.zeros_like(program.fixed)
    total = float(loads(program.load, solution.shares).sum())
    busy = program.load * (TIE / max(total, 1e-30))
    found = solve(
        replace(program, fixed=nothing, moving=busy, per_type=1.0, bounds=(*program.bounds, same)),
        time_limit_s=time_limit_s,
    )
    fewer = found.counts is not None and (found.counts > 0).sum() < (solution.counts > 0).sum()
    if found.counts is None or not (found.complete or fewer):
        return solution
    return replace(solution, counts=found.counts, shares=found.shares, cost=program.cost(found.counts, found.shares))


def needed(program: Program, name: str, *, time_limit_s: float = 10.0) -> float | None:
    """The least limit of a bound under which the program has an answer, all other bounds kept; None when none helps."""
    bound = next(b for b in program.bounds if b.name == name)
    rest = tuple(b for b in program.bounds if b.name != name)
    least = solve(
        replace(program, fixed=bound.per_replica, moving=bound.per_share, bounds=rest), time_limit_s=time_limit_s
    )
    return None if least.counts is None else least.cost


class _Columns:
    """The program as the solver wants it: columns ``n``, ``used``, then ``x`` where an item can be served."""

    def __init__(self, program: Program, possible: NDArray[np.bool_]) -> None:
        types = program.load.shape[1]
        self.program, self.types = program, types
        self.item, self.kind = np.nonzero(possible)
        self.values = program.load[possible]
        self.possible = possible
        self.gated = program.spares > 0 or program.max_types is not None or program.per_type > 0
        self.shares = np.arange(len(self.values)) + types * (2 if self.gated else 1)
        self.size = types * (2 if self.gated else 1) + len(self.values)
        self.most = np.ceil(np.bincount(self.kind, self.values, types) + 1e-9) + 1.0

    def linear(self) -> Linear:
        """The program in rows."""
        p, types = self.program, self.types
        items, kinds = p.load.shape[0], np.arange(self.types)
        most = np.ones(self.size)
        most[:types] = self.most
        cost = self._row(p.fixed, p.moving)
        if self.gated:
            cost[types : 2 * types] += p.per_type
        linear = Linear(cost, most, whole=self.size - len(self.values))
        linear.add(items, self.item, self.shares, 1.0, 1.0, 1.0)
        linear.add(
            types,
            np.append(self.kind, kinds),
            np.append(self.shares, kinds),
            np.append(self.values, -np.ones(types)),
            -np.inf,
            0.0,
        )
        if self.gated:
            linear.add(
                types,
                np.append(kinds, kinds),
                np.append(kinds, types + kinds),
                np.append(np.ones(types), -self.most),
                -np.inf,
                0.0,
            )
        if p.max_types is not None:
            linear.add(1, 0, types + kinds, 1.0, -np.inf, float(p.max_types))
        for b in p.bounds:
            linear.add(1, 0, np.arange(self.size), self._row(b.per_replica, b.per_share), -np.inf, b.limit)
        return linear

    def _row(self, per_replica: Floats, per_share: Floats | None) -> Floats:
        """A linear form of replicas with their spares, and of shares."""
        row = np.zeros(self.size)
        row[: self.types] = per_replica
        if self.gated:
            row[self.types : 2 * self.types] = per_replica * self.program.spares
        if per_share is not None:
            row[self.shares] = per_share[self.possible]
        return row


def _none(program: Program, started: float, complete: bool) -> Solution:
    return Solution(None, np.zeros(program.load.shape), math.inf, math.inf, time.perf_counter() - started, complete)


def _clean(shares: Floats) -> Floats:
    """Shares without crumbs, each item's sum 1."""
    kept = np.where(shares > CRUMB, shares, 0.0)
    return np.asarray(kept / kept.sum(axis=1, keepdims=True))


def loads(load: Floats, shares: Floats) -> Floats:
    """Replicas of each type that the shares keep busy, ``[j]``."""
    return np.asarray(np.where(shares > 0, np.where(np.isfinite(load), load, 0.0) * shares, 0.0).sum(axis=0))


def _times(values: Floats, shares: Floats) -> float:
    return float(np.where(shares > 0, values, 0.0).ravel() @ shares.ravel())
