"""Candidates as arrays: every replica with every pair of limits and every count, alone or as a pool of a pair.

A :class:`Block` holds the candidates of one mode over replicas with equal budgets; nothing here walks over single
candidates. A :class:`Choice` is one of them taken out, for the simulator.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steelyard.search.demand import Demand
from steelyard.search.objective import Limits, Rent
from steelyard.search.screen import AVERAGED, COUNTS, Points, Promise, capacities
from steelyard.search.space import Replica

__all__ = ["Block", "Choice", "Part", "aggregated", "counts_up_to", "half_of", "pairs"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

#: Replica counts are listed one by one to here, then in steps of a twentieth; finalists close the gaps.
LISTED = 32
#: Counts of a pool beyond the fewest that hold the rate which pairs try.
SPARE_COUNTS = 12
#: How far the screen may be below the simulator: in general, for a single engine besides, for pipelines besides.
MARGIN, SINGLE, STAGED = 0.10, 0.25, 0.15
#: Replicas of a pool at most.
MOST = 4096
#: Options of each pool of a pair at most, the smallest; of one replica and count, so many limits, those that hold most.
HALVES, LIMITS_PAIRED = 1000, 2


@dataclass(frozen=True, eq=False)
class Part:
    """One pool of a choice."""

    replica: Replica
    role: str
    count: int
    """Replicas that must work; spares come on top."""
    budget: int
    sequences: int
    capacity: float = math.inf
    """Requests/s that the screen says the pool holds."""
    margin: float = 0.0
    """How much more it may hold, as a share."""


@dataclass(frozen=True, eq=False)
class Choice:
    """One candidate taken out of the arrays."""

    parts: tuple[Part, ...]
    capacity: float
    """Requests/s at which the screen says every promise holds."""
    value: float
    """Of the objective, by the screen."""
    breaks: str
    figures: Mapping[str, float]
    """``ttft_s``, ``tpot_s``, ``watts`` by the screen at the requested rate."""

    @property
    def family(self) -> tuple[Any, ...]:
        """Replicas without their counts and limits."""
        return tuple((p.role, p.replica) for p in self.parts)

    @property
    def parts_like(self) -> tuple[int, int]:
        """How complicated it is: pools, and unlike replicas in them."""
        return len(self.parts), len({(p.replica.cluster.machine.name, p.replica.plan) for p in self.parts})

    @property
    def counts(self) -> tuple[int, ...]:
        """Replicas per pool."""
        return tuple(p.count for p in self.parts)


@dataclass(frozen=True, eq=False)
class Block:
    """Candidates of one mode. Arrays ``[n]``, flat."""

    capacity: Floats
    devices: Integers
    usd_per_hour: Floats
    """NaN without a price."""
    watts: Floats
    ttft_s: Floats
    tpot_s: Floats
    margin: Floats
    """How much more may be held than ``capacity`` says, as a share."""
    parts: tuple[Half, ...]
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.capacity)

    def choice(self, index: int, value: float) -> Choice:
        """The candidate at a place of the arrays."""
        at = np.unravel_index(index, self.shape)
        chosen = [half.part(int(i)) for half, i in zip(self.parts, at, strict=True)]
        worst = int(np.argmin([half.capacity[int(i)] for half, i in zip(self.parts, at, strict=True)]))
        return Choice(
            tuple(chosen),
            float(self.capacity[index]),
            value,
            self.parts[worst].breaks_at(int(at[worst])),
            {
                "ttft_s": float(self.ttft_s[index]),
                "tpot_s": float(self.tpot_s[index]),
                "watts": float(self.watts[index]),
            },
        )


@dataclass(frozen=True, eq=False)
class Half:
    """Options of one pool, flat: which replica, budget, limit and count."""

    points: Points
    role: str
    replica: Integers
    budget: Integers
    sequences: Integers
    count: Integers
    capacity: Floats
    breaks: Integers
    devices: Integers
    usd_per_hour: Floats
    watts: Floats
    ttft_s: Floats
    tpot_s: Floats
    margin: Floats
    """How much more it may hold than the screen says: single engines and pipelines are predicted less well."""

    def part(self, i: int) -> Part:
        """One option."""
        replica = self.points.replicas[int(self.replica[i])]
        budget, sequences = replica.budgets[self.budget[i]], replica.sequences[self.sequences[i]]
        return Part(
            replica,
            self.role,
            int(self.count[i]),
            int(max(budget, sequences)),
            int(sequences),
            float(self.capacity[i]),
            float(self.margin[i]),
        )

    def breaks_at(self, i: int) -> str:
        """What fails first."""
        return ("ttft", "tpot", "e2e", "kv")[int(self.breaks[i])]

    def only(self, keep: Any) -> Half:
        """Some of the options."""
        arrays = {
            n: getattr(self, n)[keep]
            for n in (
                "replica",
                "budget",
                "sequences",
                "count",
                "capacity",
                "breaks",
                "devices",
                "usd_per_hour",
                "watts",
                "ttft_s",
                "tpot_s",
                "margin",
            )
        }
        return Half(self.points, self.role, **arrays)


def counts_up_to(largest: int) -> Integers:
    """``1, 2, ..., LISTED``, then steps of five per cent, to ``largest`` at least."""
    listed = list(range(1, min(largest, LISTED) + 1))
    while listed[-1] < min(largest, MOST):
        listed.append(math.ceil(listed[-1] * 1.05))
    return np.array(listed, dtype=np.int64)


def half_of(
    points: Points,
    demand: Demand,
    promise: Promise,
    limits: Limits,
    rent: Rent,
    role: str,
    need: float,
    *,
    every: bool,
) -> Half:
    """Every option of a pool.

    Args:
        points: operating points of its replicas. demand, promise: what must hold.
        limits: of the question. rent: prices and hosts. role: of the pool.
        need: requests/s it must hold.
        every: keep all counts; otherwise the fewest that hold the rate and some more.
    """
    grid, breaks = capacities(points, demand, promise)
    best = grid.max(axis=(1, 2, 3))
    device = np.array([r.devices for r in points.replicas])
    useful = best[best > 0]
    if not useful.size:
        return _nothing(points, role)
    fewest = np.where(best > 0, np.ceil(need / np.maximum(best, 1e-30)), np.inf)
    cheapest = float((fewest * device).min())
    largest = limits.max_devices or max(4 * cheapest, float(device.max()))
    counts = counts_up_to(int(min(MOST, max(1, largest // device.min()))))
    spares = limits.spares
    at = np.interp(np.log(counts), np.log(COUNTS), np.arange(len(COUNTS)))
    low = np.minimum(at.astype(int), len(COUNTS) - 2)
    part = at - low
    each = grid[..., low] * (1 - part) + grid[..., low + 1] * part  # [p, c, s, n]
    each = np.where((grid[..., low] > 0), each, 0.0)
    capacity = each * counts
    devices = np.broadcast_to((device[:, None] * (counts + spares))[:, None, None, :], capacity.shape)
    keep = (capacity > 0) & (devices <= (limits.max_devices or math.inf)) & (devices <= largest + device.max())
    if not every:
        holds = capacity >= need / 1.5  # what the simulator may still find good enough
        first = np.argmax(holds, axis=3)[..., None]
        near = holds & (np.arange(len(counts)) < first + SPARE_COUNTS)
        keep = keep & near if (keep & near).any() else keep  # nothing holds the rate: show what there is
    chosen = np.nonzero(keep)
    p, c, s, n = chosen
    operating = _operating(points, demand, promise, need, counts)
    near = np.minimum(low[n] + (part[n] > 0.5), len(COUNTS) - 1)
    power = operating["power"][p, c, n] * device[p] * counts[n]
    idle = rent.idle_w[p] * device[p] * spares
    total = (counts[n] + spares) * device[p]
    margin = MARGIN + SINGLE / (counts[n] * points.ranks[p]) + STAGED * (points.lanes[p] > 1)
    return Half(
        points,
        role,
        p,
        c,
        s,
        counts[n],
        np.asarray(capacity[chosen], dtype=np.float64),
        breaks[p, c, s, near],
        total,
        total * rent.usd_per_hour[p],
        power + idle + rent.host_w[p] * total,
        operating["ttft"][p, c, n],
        operating["tpot"][p, c, n],
        margin,
    )


def _nothing(points: Points, role: str) -> Half:
    none: Integers = np.zeros(0, dtype=np.int64)
    empty: Floats = np.zeros(0)
    return Half(points, role, none, none, none, none, empty, none, none, empty, empty, empty, empty, empty)


def _operating(points: Points, demand: Demand, promise: Promise, need: float, counts: Integers) -> dict[str, Floats]:
    """What the screen expects at the requested rate: ``ttft`` and ``tpot`` (promised percentiles) and ``power``.

    Each ``[p, c, n]``; a replica that cannot hold its share is shown at its heaviest load.
    """
    share = need / (points.ranks[:, None] * counts[None, :])  # [p, n] requests/s of a rank
    spread = demand.dispersion / (points.ranks[:, None] * counts[None, :])
    z = NormalDist().inv_cdf(1 - min(promise.tpot_miss, 0.5))
    shape = (*points.rate.shape[:2], len(counts))
    index, slow = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    for i in range(shape[0]):
        for j in range(shape[1]):
            rate = np.maximum.accumulate(points.rate[i, j])
            here = np.minimum(np.searchsorted(rate, share[i]), len(rate) - 1)
            stay = np.maximum(points.load[here], 1.0) * points.lanes[i]
            index[i, j] = here
            slow[i, j] = np.minimum(
                np.searchsorted(rate, share[i] * (1 + z * AVERAGED * np.sqrt(spread[i] / stay))), len(rate) - 1
            )
    take = np.take_along_axis
    light = np.minimum(1.0, share[:, None, :] / points.rate[:, :, :1])
    power = take(points.power, index, axis=2) * light
    found = {"tpot": take(points.tpot, slow, axis=2), "power": power}
    low, high = np.zeros(shape), np.full(shape, 1e4)
    at = _Sliced(points, index)
    for _ in range(40):
        middle = np.sqrt(np.maximum(low, 1e-4) * high)
        above = at.tail(demand, middle, spread) > promise.ttft_miss
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    found["ttft"] = high if points.use.any() else np.zeros(shape)
    return found


class _Sliced:
    """Operating points at one load per candidate, for the tail of TTFT."""

    def __init__(self, points: Points, index: Integers) -> None:
        self.request_s, self.lanes = points.request_s, points.lanes
        self.use = np.minimum(np.take_along_axis(points.use, index, axis=2), 0.999)
        self.service = np.take_along_axis(points.service, index[..., None], axis=2)
        rows = np.arange(len(points.residual))[:, None, None]
        self.residual = points.residual[rows, index]

    def tail(self, demand: Demand, limit_s: Floats, spread: Floats) -> Floats:
        """``P(TTFT > limit)``, ``[p, c, n]``; see :func:`steelyard.search.screen.ttft_tail`."""
        lanes = self.lanes[:, None, None]
        mean = (self.service @ demand.isl_share) / lanes
        second = (self.service**2 @ demand.isl_share) / lanes**2
        varied = np.maximum(second / np.maximum(mean, 1e-30) ** 2 - 1.0, 0.0)
        eta = mean * (spread[:, None, :] + varied) / (2.0 * (1.0 - self.use)) * np.cbrt(self.use)
        found = np.zeros(self.use.shape)
        for k, share in enumerate(demand.isl_share):
            left = limit_s - self.request_s[:, None, None] - self.service[..., k] - self.residual
            queue = self.use * np.exp(-np.maximum(left, 0.0) / np.maximum(eta, 1e-12))
            found += share * np.where(left < 0, 1.0, queue)
        return found


def aggregated(half: Half) -> Block:
    """Candidates of one pool that does everything."""
    return Block(
        half.capacity,
        half.devices,
        half.usd_per_hour,
        half.watts,
        half.ttft_s,
        half.tpot_s,
        half.margin,
        (half,),
        (len(half.capacity),),
    )


def pairs(prompts: Half, answers: Half, limits: Limits) -> Block | None:
    """Candidates of a pool for prompts and one for answers; None when one of the two has no option.

    The capacity of a pair is the smaller of the two. Of a replica and a count the limits that
    hold most are paired, and of all those the smallest pools.
    """
    prompts, answers = (_worth_pairing(h) for h in (prompts, answers))
    if not len(prompts.capacity) or not len(answers.capacity):
        return None
    capacity = np.minimum(prompts.capacity[:, None], answers.capacity[None, :])
    devices = prompts.devices[:, None] + answers.devices[None, :]
    usd = prompts.usd_per_hour[:, None] + answers.usd_per_hour[None, :]
    shape = capacity.shape
    return Block(
        capacity.ravel(),
        devices.ravel(),
        usd.ravel(),
        (prompts.watts[:, None] + answers.watts[None, :]).ravel(),
        np.broadcast_to(prompts.ttft_s[:, None], shape).ravel(),
        np.broadcast_to(answers.tpot_s, shape).ravel(),
        np.maximum(prompts.margin[:, None], answers.margin[None, :]).ravel(),
        (prompts, answers),
        shape,
    )


def _worth_pairing(half: Half) -> Half:
    """The options of a pool that a pair may want."""
    order = np.lexsort((-half.capacity, half.count, half.replica))
    replica, count = half.replica[order], half.count[order]
    fresh = np.ones(len(order), dtype=bool)
    fresh[1:] = (np.diff(replica) != 0) | (np.diff(count) != 0)
    starts = np.maximum.accumulate(np.where(fresh, np.arange(len(order)), 0))
    best = half.only(order[np.arange(len(order)) - starts < LIMITS_PAIRED])
    return best.only(np.argsort(best.devices, kind="stable")[:HALVES])
