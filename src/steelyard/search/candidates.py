"""Candidates as arrays: every replica with every pair of limits and every count, alone or as two pools."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from statistics import NormalDist
from typing import Any

import numpy as np

from steelyard.cost.energy import idle_power_w
from steelyard.search.chance import safety
from steelyard.search.options import Floats, Integers, PoolOption
from steelyard.search.screen import AVERAGED, COUNTS, FIRST_FAILURES, OperatingPoints, SloLimits, TtftTail, capacities
from steelyard.search.task import PlanTask

__all__ = ["CandidateRow", "CandidateTable", "PoolOptions", "ScreenMargins", "counts_up_to", "pairs", "pool_options"]

#: Replica counts are listed one by one to here, then in steps of a twentieth; the finals close the gaps.
LISTED = 32
#: Replicas of a pool at most.
MAX_REPLICAS = 4096
#: Counts of a pool that pairs try, from the fewest that hold the rate.
COUNTS_PAIRED = 12
#: Options of each pool that pairs try, the smallest first; of one replica and count, the limits with most capacity.
OPTIONS_PAIRED, LIMITS_PAIRED = 1000, 2


@dataclass(frozen=True)
class ScreenMargins:
    """How much more a pool may hold in the simulator than the screen says, as shares that add up.

    Set by the largest rates of single pools in both (``tests/unit/test_search_screen.py`` plays four of them):
    within 1 to 8 % for four engines and more, 10 to 20 % for a single engine limited by TTFT, up to 15 % for pipelines.
    """

    base: float = 0.10
    """For every pool."""
    single_engine: float = 0.25
    """Over the number of engines: one engine gets arrivals that no router has evened out."""
    pipeline: float = 0.15
    """For pipelines: the bubbles between their stages depend on the mix of lengths."""
    closed: float = 0.25
    """For closed loops: how long the wave lasts in which all users begin."""

    def of(self, engines: Any, lanes: Any, closed: bool = False) -> Floats:
        """The margin of pools of ``engines`` engines with ``lanes`` pipeline stages."""
        return np.asarray(self.base + self.single_engine / engines + self.pipeline * (lanes > 1) + self.closed * closed)


MARGINS = ScreenMargins()


@dataclass(frozen=True, eq=False)
class CandidateRow:
    """One candidate taken out of a table."""

    pools: tuple[PoolOption, ...]
    capacity_per_s: float
    """Requests/s at which the screen says every SLO is met."""
    rent_usd_per_hour: float
    """Spares included; NaN without a price."""
    first_failure: str
    """Of :data:`~steelyard.search.screen.FIRST_FAILURES`."""
    figures: Mapping[str, float]
    """``ttft_s``, ``tpot_s``, ``watts`` by the screen at the requested rate."""

    @property
    def family(self) -> tuple[Any, ...]:
        """Replicas without their counts and limits."""
        return tuple((p.role, p.replica) for p in self.pools)

    @property
    def complexity(self) -> tuple[int, int]:
        """Pools, and unlike replicas in them."""
        return len(self.pools), len({(p.replica.machine, p.replica.plan) for p in self.pools})

    @property
    def identity(self) -> tuple[Any, ...]:
        """Equal for candidates that differ in the most running requests only."""
        return (*self.family, *(p.count for p in self.pools), *(p.budget for p in self.pools))


@dataclass(frozen=True, eq=False)
class PoolOptions:
    """Options of one pool. Arrays ``[n]``."""

    points: OperatingPoints
    role: str
    replica: Integers
    """Place in ``points.replicas``."""
    budget: Integers
    """Place in the replica's budgets."""
    sequences: Integers
    """Place in the replica's sequences."""
    count: Integers
    capacity: Floats
    """Requests/s of the whole pool."""
    first_failure: Integers
    """Place in :data:`~steelyard.search.screen.FIRST_FAILURES`."""
    devices: Integers
    """Spares included, as are rent and watts."""
    rent_usd_per_hour: Floats
    watts: Floats
    ttft_s: Floats
    tpot_s: Floats
    margin: Floats
    """How much more it may hold, see :class:`ScreenMargins`."""

    def __len__(self) -> int:
        return len(self.capacity)

    def option(self, i: int) -> PoolOption:
        """One of them."""
        replica = self.points.replicas[int(self.replica[i])]
        sequences = int(replica.sequences[self.sequences[i]])
        budget = max(int(replica.budgets[self.budget[i]]), sequences)
        return PoolOption(
            replica,
            self.role,
            int(self.count[i]),
            budget,
            sequences,
            capacity_per_s=float(self.capacity[i]),
            margin=float(self.margin[i]),
        )

    def only(self, keep: Any) -> PoolOptions:
        """Some of them."""
        arrays = {f.name: getattr(self, f.name)[keep] for f in fields(self) if f.name not in ("points", "role")}
        return PoolOptions(self.points, self.role, **arrays)


@dataclass(frozen=True, eq=False)
class CandidateTable:
    """Candidates of one mode: every option of one pool, or every pair of options of two. Arrays ``[n]``, flat."""

    capacity: Floats
    """Requests/s: that of the weaker pool."""
    devices: Integers
    rent_usd_per_hour: Floats
    """NaN without a price."""
    watts: Floats
    ttft_s: Floats
    tpot_s: Floats
    margin: Floats
    pools: tuple[PoolOptions, ...]

    def __len__(self) -> int:
        return len(self.capacity)

    def row(self, index: int) -> CandidateRow:
        """The candidate at a place of the arrays."""
        places = [int(i) for i in np.unravel_index(index, tuple(len(p) for p in self.pools))]
        options = tuple(p.option(i) for p, i in zip(self.pools, places, strict=True))
        weakest = int(np.argmin([o.capacity_per_s for o in options]))
        return CandidateRow(
            options,
            float(self.capacity[index]),
            float(self.rent_usd_per_hour[index]),
            FIRST_FAILURES[int(self.pools[weakest].first_failure[places[weakest]])],
            {name: float(getattr(self, name)[index]) for name in ("ttft_s", "tpot_s", "watts")},
        )


def counts_up_to(largest: int) -> Integers:
    """``1, 2, ..., LISTED``, then steps of five per cent, to ``largest`` at least."""
    listed = list(range(1, min(largest, LISTED) + 1))
    while listed[-1] < min(largest, MAX_REPLICAS):
        listed.append(math.ceil(listed[-1] * 1.05))
    return np.array(listed, dtype=np.int64)


def pool_options(task: PlanTask, points: OperatingPoints, role: str) -> PoolOptions:
    """Options of a pool: every limit that holds a request, at every count that is worth weighing.

    Args:
        task: the question.
        points: operating points of the replicas in the role.
        role: ``both``, ``prefill`` or ``decode``.
    """
    question, slo, machine = task.question, SloLimits.of(task.question.targets), points.replicas[0].cluster.machine
    required, spares = question.required_load, question.spares
    ends = points.replicas[0], points.replicas[-1]
    spread = min(task.cache.spread(r, task.demand.longest_tokens) for r in ends)
    slower, later = safety(question.sure, spread)  # steps so much slower at a load: limits and load so much tighter
    tight = replace(slo, ttft_s=slo.ttft_s / later, tpot_s=slo.tpot_s / slower, e2e_s=slo.e2e_s / slower)
    grid, failures = capacities(points, task.demand, tight)
    grid = grid if task.demand.per_user else grid / slower
    device = points.devices.astype(np.int64)
    best = grid.max(axis=(1, 2, 3))
    if not (best > 0).any():
        return _no_options(points, role)
    most = task.max_devices(machine.name)
    fewest = np.where(best > 0, np.ceil(required / np.maximum(best, 1e-30)), np.inf)
    largest = most or max(4 * float((fewest * device).min()), float(device.max()))
    counts = counts_up_to(int(min(MAX_REPLICAS, max(1, largest // device.min()))))
    at = np.interp(np.log(counts), np.log(COUNTS), np.arange(len(COUNTS)))
    low = np.minimum(at.astype(int), len(COUNTS) - 2)
    part = at - low
    each = grid[..., low] * (1 - part) + grid[..., low + 1] * part  # [p, c, s, n]
    capacity = np.where(grid[..., low] > 0, each, 0.0) * counts
    devices = np.broadcast_to((device[:, None] * (counts + spares))[:, None, None, :], capacity.shape)
    keep = (capacity > 0) & (devices <= (most or math.inf)) & (devices <= largest + device.max())
    if question.objective != "throughput":
        holds = capacity >= required / 1.5  # what the simulator may still find good enough
        first = np.argmax(holds, axis=3)[..., None]
        near = holds & (np.arange(len(counts)) < first + COUNTS_PAIRED)
        largest_kept = keep & (np.cumsum(keep[..., ::-1], axis=3)[..., ::-1] == 1)
        keep = keep & near if (keep & near).any() else largest_kept  # nothing holds the rate: show what comes nearest
    chosen = p, c, s, n = np.nonzero(keep)
    at_rate = _at_requested_rate(points, task, slo, counts)
    total = (counts[n] + spares) * device[p]
    host_w = np.array([r.host_w for r in points.replicas])
    idle_w = np.array([idle_power_w(r.cluster.machine) for r in points.replicas])
    working = at_rate["power"][p, c, n] * device[p] * counts[n]
    return PoolOptions(
        points=points,
        role=role,
        replica=p,
        budget=c,
        sequences=s,
        count=counts[n],
        capacity=np.asarray(capacity[chosen], dtype=np.float64),
        first_failure=failures[p, c, s, np.minimum(low[n] + (part[n] > 0.5), len(COUNTS) - 1)],
        devices=total,
        rent_usd_per_hour=np.asarray(total * task.device_prices[machine.name], dtype=np.float64),
        watts=working + idle_w[p] * device[p] * spares + host_w[p] * total,
        ttft_s=at_rate["ttft"][p, c, n],
        tpot_s=at_rate["tpot"][p, c, n],
        margin=MARGINS.of(counts[n] * points.ranks[p], points.lanes[p], bool(task.demand.per_user)),
    )


def _no_options(points: OperatingPoints, role: str) -> PoolOptions:
    arrays = {f.name: np.zeros(0, dtype=np.int64) for f in fields(PoolOptions) if f.name not in ("points", "role")}
    return PoolOptions(points, role, **arrays)  # type: ignore[arg-type]


def _at_requested_rate(points: OperatingPoints, task: PlanTask, slo: SloLimits, counts: Integers) -> dict[str, Floats]:
    """What the screen expects at the requested rate: ``ttft`` and ``tpot`` (percentiles of the SLOs) and ``power``.

    Each ``[p, c, n]``; a replica that cannot hold its share is shown at its heaviest load.
    """
    demand = task.demand
    share = task.question.required_load / (points.ranks[:, None] * counts[None, :])  # [p, n] of a rank
    spread = demand.dispersion / (points.ranks[:, None] * counts[None, :])
    z = NormalDist().inv_cdf(1 - min(slo.tpot_miss, 0.5))
    shape = (*points.rate.shape[:2], len(counts))
    index, slow = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    loads = points.load_of(demand)
    for i, j in np.ndindex(*shape[:2]):
        rate = np.maximum.accumulate(loads[i, j])
        last = len(rate) - 1
        index[i, j] = np.minimum(np.searchsorted(rate, share[i]), last)
        stay = np.maximum(points.load[index[i, j]], 1.0) * points.lanes[i]
        peak = share[i] * (1 + z * AVERAGED * np.sqrt(spread[i] / stay))
        slow[i, j] = np.minimum(np.searchsorted(rate, peak), last)
    light = np.minimum(1.0, share[:, None, :] / loads[:, :, :1])
    figures = {
        "tpot": np.take_along_axis(points.tpot, slow, axis=2),
        "power": np.take_along_axis(points.power, index, axis=2) * light,
        "ttft": np.zeros(shape),
    }
    if points.use.any():
        tail = TtftTail.at(points, demand, spread, index)
        low, high = np.zeros(shape), np.full(shape, 1e4)
        for _ in range(40):
            middle = np.sqrt(np.maximum(low, 1e-4) * high)
            missed = tail.above(middle) > slo.ttft_miss
            low, high = np.where(missed, middle, low), np.where(missed, high, middle)
        figures["ttft"] = high
    return figures


def one_pool(options: PoolOptions) -> CandidateTable:
    """Candidates of one pool that does all of a request."""
    names = [f.name for f in fields(CandidateTable) if f.name != "pools"]
    return CandidateTable(**{name: getattr(options, name) for name in names}, pools=(options,))


def pairs(prefill: PoolOptions, decode: PoolOptions) -> CandidateTable:
    """Candidates of a prefill and a decode pool.

    Of each replica and count the limits with most capacity are paired, and of all those the smallest pools.
    """
    prefill, decode = _worth_pairing(prefill), _worth_pairing(decode)
    shape = len(prefill), len(decode)

    def each(name: str, combine: Any) -> Any:
        return combine(getattr(prefill, name)[:, None], getattr(decode, name)[None, :]).ravel()

    return CandidateTable(
        capacity=each("capacity", np.minimum),
        devices=each("devices", np.add),
        rent_usd_per_hour=each("rent_usd_per_hour", np.add),
        watts=each("watts", np.add),
        ttft_s=np.broadcast_to(prefill.ttft_s[:, None], shape).ravel(),
        tpot_s=np.broadcast_to(decode.tpot_s, shape).ravel(),
        margin=each("margin", np.maximum),
        pools=(prefill, decode),
    )


def _worth_pairing(options: PoolOptions) -> PoolOptions:
    order = np.lexsort((-options.capacity, options.count, options.replica))
    replica, count = options.replica[order], options.count[order]
    fresh = np.ones(len(order), dtype=bool)
    fresh[1:] = (np.diff(replica) != 0) | (np.diff(count) != 0)
    starts = np.maximum.accumulate(np.where(fresh, np.arange(len(order)), 0))
    best = options.only(order[np.arange(len(order)) - starts < LIMITS_PAIRED])
    return best.only(np.argsort(best.devices, kind="stable")[:OPTIONS_PAIRED])
