"""Ways to have a plan's traffic served: by an API, on rented devices, on devices started on demand, on bought ones.

    API       = rate x cost of a request
    rented    = devices x price, around the clock
    on demand = price x (hours with work + hours kept for the next request + hours of starting)
    bought    = capital / hours of its life + power drawn x price of power

The rent runs whether requests come or not, the bill of an API does not: the break-even is of the mean rate over all
hours. Idle time and starts are counted from the arrivals that the plan was played with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from steelyard.cost.memory import weight_bytes
from steelyard.errors import InputError, show
from steelyard.machine.catalogue import price_of
from steelyard.machine.cluster import cluster_of
from steelyard.search.against import HostedPrice
from steelyard.search.answer import Candidate
from steelyard.search.task import PlanTask
from steelyard.traffic.trace import Trace
from steelyard.units import parse_quantity
from steelyard.workload.catalogue import Model

__all__ = ["IDLE_S", "Demand", "OnDemand", "Rule", "Way", "Ways", "on_demand", "read_rule", "ways_of"]

Floats = NDArray[np.float64]

#: Time without work after which a replica that is started on demand is stopped (the usual default of providers is 1 to
#: 15 minutes), s.
IDLE_S = 300.0
#: Time from the order of a replica to its first request beside the reading of weights, s: a container, imports, a
#: profile run, captured graphs. Guess, after what engines log (30 to 90 s).
START_S = 60.0
#: Rate at which a node reads weights it has on a local disk, B/s. Guess: one NVMe disk, or a fast shared file system.
LOAD_BYTES_PER_S = 1e9
#: An hour, over which the load is counted, and a day.
HOUR_S, DAY_S = 3600.0, 86400.0


@dataclass(frozen=True, slots=True)
class Rule:
    """When replicas are started and stopped."""

    idle_s: float = IDLE_S
    """Without work, until one is stopped."""
    start_s: float | None = None
    """From the order to the first request; None = weights read from a disk, and :data:`START_S`."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way and its cost."""

    name: str
    """``api``, ``rented``, ``on demand`` or ``bought``."""
    usd_per_hour: float
    """Mean over all hours of the traffic."""
    note: str
    """What it is computed from."""


@dataclass(frozen=True, slots=True)
class Demand:
    """When there is work, from the arrivals."""

    period_s: float
    """First arrival to last answer."""
    idle_frac: float
    """Share of the time without any request in flight."""
    longest_idle_s: float
    hours: int
    """Hours counted; 0 where the traffic is shorter than two."""
    hours_idle: int
    """Hours in which no request comes."""
    hours_below: int | None
    """Hours in which the API would be cheaper than the rent; None = compared with no API."""


@dataclass(frozen=True, slots=True)
class OnDemand:
    """Replicas that are started when they are needed, and stopped after a time without work."""

    idle_s: float
    start_s: float
    up_frac: float
    """Time replicas are paid for over that of all of them around the clock."""
    starts: int
    starts_per_day: float
    cold_frac: float
    """Share of requests that wait for the first replica to start; the first of them waits ``start_s`` longer."""


@dataclass(frozen=True)
class Ways:
    """What the traffic costs, the cheapest way first."""

    rate_per_s: float
    ways: tuple[Way, ...]
    break_even_per_s: float | None
    """Mean rate from which rented devices cost less than the API; None = compared with no API, or no rent known."""
    most_per_s: float
    """Rate the deployment holds."""
    use_frac: float | None
    """Share of all hours from which buying is cheaper than renting for those with work; None = not known, or never."""
    request_usd: float | None
    """A mean request at the API."""
    demand: Demand | None
    """None where requests wait for answers, so that nobody knows when they come."""
    on_demand: OnDemand | None

    @property
    def by_name(self) -> Mapping[str, Way]:
        """The ways by their names."""
        return {way.name: way for way in self.ways}


def read_rule(text: str) -> Rule:
    """``5min``, or ``5min,start=90s``; empty = as usual. Raises :class:`InputError`."""
    rule = dict[str, float]()
    for part in text.split(",") if text.strip() else ():
        name, equals, value = part.partition("=")
        key = name.strip().lower() if equals else "idle"
        if key not in ("idle", "start") or key in rule:
            words = f"expected a time without work such as 5min, or 5min,start=90s, got {show(text)}"
            raise InputError(words, field="scale_to_zero")
        seconds = parse_quantity(value if equals else name, "s", "scale_to_zero")
        if not 0 <= seconds <= 1e7:
            raise InputError(
                f"expected a time of at least 0 and at most 1e7 s, got {show(part)}", field="scale_to_zero"
            )
        rule[key] = seconds
    return Rule(rule.get("idle", IDLE_S), rule.get("start"))


def ways_of(task: PlanTask, winner: Candidate, price: HostedPrice | None, rule: Rule) -> Ways:
    """What a plan's traffic costs each way.

    Args:
        task: the question.
        winner: the deployment.
        price: of the API; None = none is compared.
        rule: when replicas are started and stopped.
    """
    question = task.question
    rate = question.rate_per_s if question.concurrency is None else winner.max_rate_per_s
    each = None if price is None else price.request_usd(question.prompt_tokens, question.output_tokens)
    rent, found = _rent(task, winner), list[Way]()
    if price is not None and each is not None:
        prices = f"{price.prompt:g} and {price.answer:g} USD per million prompt and generated tokens"
        found.append(Way("api", each * rate * HOUR_S, f"{price.source}: {prices}"))
    if rent is not None:
        found.append(Way("rented", rent, f"{winner.devices} {winner.machine} around the clock"))
    capital, use = _capital(task, winner), None
    if capital is not None:
        power = question.purchase.power_usd_per_hour(winner.watts)
        note = f"{question.purchase}: {power:,.2f} USD/h for {winner.watts:,.0f} W; hosts, space and people not counted"
        found.append(Way("bought", capital + power, note))
        if rent is not None and rent > power and capital < rent - power:
            use = capital / (rent - power)
    even = None if each is None or rent is None or each <= 0 else rent / (each * HOUR_S)
    demand = scaled = None
    if not task.trace.closed:
        ends = _ends(task.trace, winner)
        demand = _demand(task.trace, ends, even)
        rule = _started(task.model, winner, rule)
        scaled = on_demand(task.trace.arrived_at, ends, _seats(winner), _units(winner), rule)
        if rent is not None and scaled.up_frac < 1:
            note = f"stopped after {scaled.idle_s:,.0f} s without work, {scaled.start_s:,.0f} s to start"
            found.append(Way("on demand", rent * scaled.up_frac, note))
    return Ways(
        rate,
        tuple(sorted(found, key=lambda way: way.usd_per_hour)),
        even,
        winner.max_rate_per_s,
        use,
        each,
        demand,
        scaled,
    )


def on_demand(arrived_at: Floats, ends: Floats, seats: float, units: int, rule: Rule) -> OnDemand:
    """Replicas that follow the requests in flight: one for every ``seats`` of them, at most ``units``.

    A replica stops ``idle_s`` after its last work. The time it takes to start is paid. Requests that arrive while the
    first one starts wait for it; what they would add to the load of later ones is left out.

    Args:
        arrived_at: arrivals, s, sorted.
        ends: when each is answered, s.
        seats: requests in flight that a replica holds.
        units: replicas of the deployment.
        rule: with a known time to start.
    """
    start_s = float(rule.start_s or 0.0)
    times = np.concatenate([arrived_at, ends])
    change = np.repeat([1, -1], len(arrived_at))
    order = np.lexsort((-change, times))
    times, flying = times[order], np.cumsum(change[order])
    needed = np.minimum(np.ceil(flying / max(seats, 1.0)), units).astype(np.int64)
    step = np.diff(needed, prepend=0)
    up, down = np.flatnonzero(step > 0), np.flatnonzero(step < 0)
    # every replica goes up and down in turn: sorted by replica, the n-th time up belongs to the n-th time down
    up = up[np.lexsort((times[up], needed[up]))]
    down = down[np.lexsort((times[down], needed[down] + 1))]
    level, begun, ended = needed[up], times[up], times[down]
    same = level[1:] == level[:-1]
    gap = np.where(same, begun[1:] - ended[:-1], np.inf)
    fresh = np.concatenate([[True], ~same | (gap > rule.idle_s)])
    kept = np.minimum(gap, rule.idle_s).sum() + rule.idle_s
    period = float(ends.max() - arrived_at[0])
    paid = float((ended - begun).sum() + kept) + start_s * int(fresh.sum())
    woken = begun[fresh & (level == 1)]
    place = np.searchsorted(woken, arrived_at, side="right") - 1
    cold = np.mean(arrived_at - woken[np.maximum(place, 0)] < start_s) if start_s > 0 else 0.0
    period, starts = max(period, 1e-9), int(fresh.sum())
    up_frac = min(paid / (period * units), 1.0)
    return OnDemand(rule.idle_s, start_s, up_frac, starts, starts * DAY_S / period, float(cold))


def _rent(task: PlanTask, winner: Candidate) -> float | None:
    """Of devices with a rental price; a purchase written off is none."""
    names, known = winner.machine.split("+"), task.question.device_prices
    rented = all(name in known or price_of(name) is not None for name in names)
    return winner.rent_usd_per_hour if rented else None


def _capital(task: PlanTask, winner: Candidate) -> float | None:
    """What bought devices cost per hour, where their price is known."""
    pools = winner.deployment.pools
    if any(not pool.device.capex_usd for pool in pools):
        return None
    return sum(task.question.purchase.capital_usd_per_hour(p.device.capex_usd) * p.devices for p in pools)


def _mean(winner: Candidate, metric: str) -> float:
    return float(winner.percentiles.get(metric, {}).get("mean", getattr(winner, metric)))


def _ends(trace: Trace, winner: Candidate) -> Floats:
    """When each request is answered, by the mean times of the plan."""
    stays = _mean(winner, "ttft_s") + np.maximum(trace.osl - 1, 0) * _mean(winner, "tpot_s")
    return np.asarray(trace.arrived_at + stays, dtype=np.float64)


def _seats(winner: Candidate) -> float:
    """Requests in flight on one replica at the rate the deployment holds (Little's law)."""
    return winner.max_rate_per_s * _mean(winner, "e2e_s") / _units(winner)


def _units(winner: Candidate) -> int:
    """Parts that can be started by themselves: replicas, or pools that work together as one."""
    pools = winner.deployment.pools
    return pools[0].replicas if len(pools) == 1 else 1


def _started(model: Model, winner: Candidate, rule: Rule) -> Rule:
    """The rule with the time to start: of the pool that takes longest, each node reads what its devices hold."""
    if rule.start_s is not None:
        return rule
    seconds = 0.0
    for pool in winner.deployment.pools:
        exact = model.weight_bytes if pool.plan.stores(model.transformer.native_weights) else None
        each = weight_bytes(model.transformer, pool.plan, exact)
        cluster = cluster_of(pool.device, pool.plan.devices)
        seconds = max(seconds, each * min(cluster.per_node, pool.plan.devices) / LOAD_BYTES_PER_S)
    return Rule(rule.idle_s, START_S + seconds)


def _demand(trace: Trace, ends: Floats, even: float | None) -> Demand:
    arrived = trace.arrived_at
    period = float(ends.max() - arrived[0])
    last = np.maximum.accumulate(ends)[:-1]
    idle = np.maximum(arrived[1:] - last, 0.0)
    hours = math.ceil(trace.duration_s / HOUR_S) if trace.duration_s >= 2 * HOUR_S else 0
    at = np.minimum((arrived - arrived[0]) // HOUR_S, max(hours - 1, 0)).astype(np.int64)
    rates = np.bincount(at, minlength=hours)[:hours] / HOUR_S
    return Demand(
        period_s=period,
        idle_frac=float(idle.sum() / period) if period > 0 else 0.0,
        longest_idle_s=float(idle.max(initial=0.0)),
        hours=hours,
        hours_idle=int(np.sum(rates == 0)),
        hours_below=None if even is None else int(np.sum(rates < even)),
    )
