"""The analytic screen: the largest rate at which every replica meets the SLOs, for all limits and counts at once.

A continuous-batching engine in steady state, as a fluid with fluctuations (docs/methods/planner.md derives it):

    tpot(b) = decode(b) + b / decodes * extra(b)        b requests decoding in a lane, extra = time a prompt adds
    rate(b) = lanes b / (decodes tpot(b))               Little's law
    P(tpot > limit) = Q(ln(rate_limit / rate) / (k sqrt(D / (n b))))
    P(ttft > limit) = rho exp(-x / eta),  eta = S (D / n + c_S^2) / (2 (1 - rho)),  x = limit - service - residual step

``n`` engines share the arrivals in turn, ``D`` is the dispersion of the arrivals, ``rho = rate S / lanes``. Prefill
and decode pools are the same with one of the two parts left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steelyard.cost.energy import idle_power_w
from steelyard.scenario.slo import Target
from steelyard.search.demand import Demand
from steelyard.search.options import Floats, Integers, ReplicaOption
from steelyard.search.prices import BATCHES, StepPrices

__all__ = [
    "COUNTS",
    "FIRST_FAILURES",
    "LOADS",
    "MANY_DECODES",
    "OperatingPoints",
    "SloLimits",
    "TtftTail",
    "capacities",
    "operating_points",
    "tail",
]

#: Decode steps of a request from which the axis of loads is the requests that decode. Below, even one that decodes all
#: the time is a load that leaves prompts no time to spare: there it is the share of the time for prompts.
MANY_DECODES = 1.5
#: As good as no limit of a time, s.
_ENDLESS_S = 1e15
#: What fails first, by the numbers that :func:`capacities` gives: seats and cache are ``kv``.
FIRST_FAILURES = ("ttft", "tpot", "e2e", "kv")
#: Requests decoding in a lane, the axis of the operating points: 32 per octave.
LOADS = 2.0 ** (np.arange(0, 10 * 32 + 1) / 32)
#: Shares of a prompt engine's time in use, the axis of the operating points of a prefill pool.
USES = 0.005 + 0.99 * np.arange(len(LOADS)) / len(LOADS)
#: Replicas at which capacities are computed; between them they are interpolated.
COUNTS = np.array([1.0, 2, 3, 4, 6, 8, 12, 16, 32, 64, 256, 4096])
#: How much less the mean of the load over a request's stay fluctuates than the load itself. For stays of fixed length
#: the time average of an M/D/infinity occupancy has two thirds of its variance; the rest of the way to the simulator's
#: percentiles (this constant is set by them) is that a step takes less than in proportion to its load.
AVERAGED = 0.6
#: Prompts an engine that only works on prompts may hold at once, at least.
LEAST_SEATS = 32
#: Standard deviations of the load that seats and cache must hold without a queue.
SEATED = 2.0


@dataclass(frozen=True, slots=True)
class SloLimits:
    """The limits of the SLOs and the shares of requests that may miss them; inf = no SLO."""

    ttft_s: float = math.inf
    ttft_miss: float = 0.01
    tpot_s: float = math.inf
    tpot_miss: float = 0.01
    e2e_s: float = math.inf
    e2e_miss: float = 0.01

    @classmethod
    def of(cls, targets: Sequence[Target]) -> SloLimits:
        """The limits of some SLOs; an SLO on the mean may be missed by one half of the requests."""
        limits: dict[str, float] = {}
        for target in targets:
            miss = 0.5 if math.isnan(target.percentile) else max(1e-4, 1.0 - target.percentile / 100)
            limits |= {target.metric: target.limit_s, f"{target.metric.removesuffix('_s')}_miss": miss}
        return cls(**limits)


@dataclass(frozen=True, eq=False)
class OperatingPoints:
    """Steady states of replicas with the same token budgets: ``p`` replicas, ``c`` budgets, ``b`` loads."""

    replicas: tuple[ReplicaOption, ...]
    budgets: Integers
    rate: Floats
    """``[p, c, b]`` requests/s of one rank."""
    tpot: Floats
    """``[p, c, b]`` mean, s."""
    service: Floats
    """``[p, c, b, k]`` time of the steps of a prompt of class ``k``, s."""
    use: Floats
    """``[p, c, b]`` share of the time that prompts are worked on."""
    residual: Floats
    """``[p, b]`` a step that is under way when a request arrives, s."""
    load: Floats
    """``[b]`` requests decoding in a lane; 0 in a prefill pool."""
    lanes: Floats
    """``[p]`` pipeline stages that work on different batches."""
    ranks: Floats
    """``[p]`` engines of a replica."""
    request_s: Floats
    seats: Floats
    """``[p, c, s]`` requests a lane can hold on average; inf in a prefill pool."""
    power: Floats
    """``[p, c, b]`` of one device, W."""
    queue: Floats
    """``[p, c, b]`` wait for the prompts of the others in a closed loop of short answers, s; 0 elsewhere."""

    @property
    def devices(self) -> Floats:
        """``[p]`` devices of a replica."""
        return np.array([r.devices for r in self.replicas], dtype=np.float64)

    def load_of(self, demand: Demand) -> Floats:
        """``[p, c, b]`` what the traffic brings to a rank: requests/s; of a closed loop its users, by Little's law."""
        if not demand.per_user:
            return self.rate
        wait = self.request_s[:, None, None] + self.service @ demand.prompt_share + self.residual[:, None, :]
        wait = wait + self.queue
        return np.asarray(self.rate * (wait + demand.decodes * self.tpot))

    def replica_load(self, demand: Demand) -> Floats:
        """``[p, c, b]`` the same to a replica, all ranks."""
        return self.load_of(demand) * self.ranks[:, None, None]

    @property
    def replica_rate(self) -> Floats:
        """``[p, c, b]`` requests/s of a replica, all ranks."""
        return self.rate * self.ranks[:, None, None]


def operating_points(
    replicas: Sequence[ReplicaOption],
    prices: Sequence[StepPrices],
    demand: Demand,
    role: str = "both",
    transfer_s: Floats | float = 0.0,
) -> OperatingPoints:
    """Operating points of replicas that have the same token budgets.

    Args:
        replicas: the replicas.
        prices: of each replica's steps.
        demand: the traffic.
        role: ``both``, ``prefill`` or ``decode``.
        transfer_s: ``[p]`` time to transfer the cache of a prompt, spread over the output in a decode pool.
    """
    first = replicas[0]
    budgets = first.budgets
    lanes = np.array([float(r.engine.lanes(r.plan.pp)) for r in replicas])
    decodes = max(demand.decodes, 1e-9)
    short = demand.decodes < MANY_DECODES and role == "both"
    at = np.ones_like(LOADS) if role == "prefill" or short else LOADS
    steps = _Steps(replicas, prices, at)
    decode_s, decode_j = steps.decode_s, steps.decode_j
    if role == "decode":  # a step without prompts never meets its token budget: the smallest will do
        budgets = budgets[:1]
        service = extra = extra_j = np.zeros((len(replicas), 1, len(at), len(demand.prompt_tokens)))
    else:
        service, extra, extra_j = steps.prompts(demand, share_steps=role == "both")
    mean = service @ demand.prompt_share
    stages = lanes[:, None, None]
    queue = np.zeros_like(mean)
    if short and demand.per_user:  # users wait for their own prompt alone, or for those of all others
        load, residual = LOADS, decode_s * demand.decodes
        alone = np.array([r.engine.request_s for r in replicas])[:, None, None] + residual[:, None, :] + mean
        rate = stages * np.minimum(load / alone, 1.0 / mean)
        queue = np.maximum(stages * load / rate - alone, 0.0)
        tpot, use = np.zeros_like(rate), rate * mean / stages
    elif role == "prefill" or short:
        rate = USES[None, None, :] * stages / mean
        tpot = np.zeros_like(rate)
        use = np.broadcast_to(USES, rate.shape)
        load, residual = np.zeros_like(LOADS), np.zeros_like(decode_s)
    else:
        load = LOADS
        tpot = decode_s[:, None, :] + load / decodes * (extra @ demand.prompt_share) * stages  # every lane waits
        tpot = tpot + np.reshape(np.asarray(transfer_s, dtype=np.float64), (-1, 1, 1)) / decodes
        rate = stages * load / (decodes * tpot)
        use = rate * mean / stages if role == "both" else np.zeros_like(rate)
        # the step under way, and the one chosen before it began where the engine chooses ahead
        waits = [1.0 + (r.config.async_scheduling and r.plan.pp == 1) for r in replicas]
        residual = decode_s * np.array(waits)[:, None] if role == "both" else np.zeros_like(decode_s)
    per_request = (extra_j @ demand.prompt_share) * (role != "decode")
    if role != "prefill":
        per_request = per_request + (decodes * decode_j / at)[:, None, :]
    static = np.array([x.static_w for x in prices])[:, None, None]
    idle = np.array([idle_power_w(r.cluster.machine) for r in replicas])[:, None, None]
    busy = use if role == "prefill" else 1.0
    power = rate * per_request / stages + static * busy + idle * (1.0 - busy)
    cap = np.array([x.cap_w or np.inf for x in prices])[:, None, None]
    held = demand.held_tokens if first.config.admission == "whole" or role == "prefill" else demand.context_tokens
    seats = np.stack([np.minimum(r.tokens / max(held, 1.0), r.sequences) for r in replicas]) / stages
    seats = np.where(np.stack([r.tokens for r in replicas]) > 0, seats, 0.0)
    if role == "prefill":  # one limit is as good as another that keeps every stage busy: the smallest such
        enough = np.stack([r.sequences >= max(LEAST_SEATS, 8 * r.plan.pp) for r in replicas])
        first = enough & (np.cumsum(enough, axis=1) == 1)
        seats = np.where((seats > 0) & first[:, None, :], np.inf, 0.0)
    elif role == "decode":
        seats = seats[:, :1]
    return OperatingPoints(
        tuple(replicas),
        budgets,
        rate,
        tpot,
        service,
        use,
        residual,
        load,
        lanes,
        np.array([float(r.ranks) for r in replicas]),
        np.array([r.engine.request_s + x.encode[2] for r, x in zip(replicas, prices, strict=True)]),
        seats,
        np.minimum(power, cap),
        queue,
    )


class _Steps:
    """Times and energies of steps of some replicas, at ``b`` decoding requests in a lane."""

    def __init__(self, replicas: Sequence[ReplicaOption], prices: Sequence[StepPrices], at: Floats) -> None:
        self.at, self.points, self.budgets = at, prices[0].points, replicas[0].budgets.astype(np.float64)
        self.mixed = np.array([r.config.rules.mixed for r in replicas])
        self.graphs = np.array([r.config.graph_tokens if r.engine.graph else -1.0 for r in replicas])[:, None]
        self.overhead_s, self.per_row_s, self.launch_s = (
            np.array([getattr(x, name) for x in prices])[:, None] for name in ("overhead_s", "per_row_s", "launch_s")
        )
        self.token, self.decode_token, self.prompt_token = (
            np.stack([getattr(x, name) for x in prices]) for name in ("token", "decode_token", "prompt_token")
        )  # [p, 2, t]
        self.prompt = np.stack([x.prompt for x in prices])  # [p, 2, c, k]
        self.encode = np.array([x.encode[:2] for x in prices])[:, :, None, None, None]  # [p, 2]
        self.rows = _refined(np.stack([x.rows for x in prices]), at)
        attention = _refined(np.stack([x.attention for x in prices]), at, logarithmic=True)
        self.decoding = _at(self.points, self.decode_token, at) + self.rows + attention
        alone = _at(self.points, self.token, at) + _at(self.points, self.decode_token, at) + self.rows + attention
        launched = np.where(self.graphs < 0, np.maximum(alone[:, 0], self.launch_s), alone[:, 0])
        self.decode_s = launched + self.overhead_s + self.per_row_s * at
        """``[p, b]`` of a step that only decodes, s."""
        self.decode_j = alone[:, 1]
        """``[p, b]`` energy of one device in it, J."""

    def prompts(self, demand: Demand, *, share_steps: bool) -> tuple[Floats, Floats, Floats]:
        """``(time of a prompt's steps, time and energy it adds to decoding)``, each ``[p, c, b, k]``.

        Args:
            demand: classes of prompts.
            share_steps: decodes share the steps of prompts where the engine mixes them.
        """
        overhead, per_row, launch, graphs = (
            x[:, None, :, None] for x in (self.overhead_s, self.per_row_s, self.launch_s, self.graphs)
        )
        budgets, lengths = self.budgets[:, None, None], demand.prompt_tokens[None, None, :]
        shared = (self.mixed & share_steps)[:, None, None, None]
        beside = np.where(shared, self.at[None, None, :, None], 0.0)
        room = np.maximum(budgets - beside, np.minimum(budgets, 64.0))
        steps = np.maximum(1.0, lengths / room)
        each = np.where(steps > 1.0, room, lengths)
        total = each + beside
        kernels = _at(self.points, self.token, total) + _at(self.points, self.prompt_token, each)
        decoding = self.decoding[:, :, None, :, None]
        kernels = kernels + np.where(shared[:, None], decoding, self.rows[:, :, None, :1, None])
        kernels = kernels * steps[:, None] + self.prompt[:, :, :, None, :]
        one = kernels[:, 0] / steps
        one = np.where((total > graphs) | (graphs < 0), np.maximum(one, launch), one)
        service = steps * (one + overhead + per_row * (1.0 + beside)) + self.encode[:, 0]
        extra = np.where(shared, service - steps * self.decode_s[:, None, :, None], service)
        extra_j = np.where(shared, kernels[:, 1] - steps * self.decode_j[:, None, :, None], kernels[:, 1])
        extra_j = extra_j + self.encode[:, 1]
        return service, np.maximum(extra, 0.0), np.maximum(extra_j, 0.0)


def _at(points: Floats, values: Floats, wanted: Floats) -> Floats:
    """``values [p, 2, t]`` at ``points [t]``, linear at ``wanted``: ``[b]`` -> ``[p, 2, b]``, ``[p, ...]`` alike."""
    index = np.clip(np.searchsorted(points, wanted, side="right") - 1, 0, len(points) - 2)
    part = (wanted - points[index]) / (points[index + 1] - points[index])
    if wanted.ndim == 1:
        return np.asarray(values[:, :, index] * (1 - part) + values[:, :, index + 1] * part)
    row = np.arange(len(values)).reshape((-1, *([1] * (wanted.ndim - 1))))
    found = [values[row, i, index] * (1 - part) + values[row, i, index + 1] * part for i in (0, 1)]
    return np.stack(found, axis=1)


def _refined(values: Floats, at: Floats, logarithmic: bool = False) -> Floats:
    """``values [p, 2, b]`` at :data:`BATCHES`, linear in the batch or along the logarithms, at ``at``."""
    if not logarithmic or not (values > 0).all():
        return _at(BATCHES, values, at)
    index = np.clip(np.searchsorted(BATCHES, at, side="right") - 1, 0, len(BATCHES) - 2)
    part = np.log(at / BATCHES[index]) / np.log(BATCHES[index + 1] / BATCHES[index])
    logs = np.log(values)
    return np.asarray(np.exp(logs[:, :, index] * (1 - part) + logs[:, :, index + 1] * part))


def tail(x: Any) -> Any:
    """``P(Z > x)`` of a standard normal: ``erfc(x / sqrt 2) / 2`` by Abramowitz and Stegun 7.1.26, to 1.5e-7."""
    z = np.abs(x) / math.sqrt(2.0)
    t = 1.0 / (1.0 + 0.3275911 * z)
    poly = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    upper = 0.5 * poly * np.exp(-z * z)
    return np.where(np.asarray(x) >= 0, upper, 1.0 - upper)


def capacities(points: OperatingPoints, demand: Demand, slo: SloLimits, counts: Floats = COUNTS) -> tuple[Floats, Any]:
    """Largest rate of a replica at which every SLO is met; of a closed loop the most users.

    Args:
        points: operating points.
        demand: lengths and burstiness.
        slo: limits.
        counts: numbers of replicas that share the traffic.

    Returns:
        ``(rate [p, c, s, r], what breaks first [p, c, s, r])``: requests/s of a whole replica (all ranks), 0 where even
        the lightest load fails; places in :data:`FIRST_FAILURES`.
    """
    engines = points.ranks[:, None] * counts[None, :]  # [p, r]
    spread = demand.dispersion / engines
    misses = _misses(points, demand, slo, spread)  # name -> bool [p, c, r, b]
    leading = {
        name: np.argmax(np.concatenate([bad, np.ones((*bad.shape[:-1], 1), bool)], -1), -1)
        for name, bad in misses.items()
    }
    load = np.where(points.load > 0, points.load, 1.0)
    stay = load * points.lanes[:, None]
    swing = 1.0 + SEATED * AVERAGED * np.sqrt(spread[:, :, None] / stay[:, None, :])  # [p, r, b]
    peak = load * swing
    held = np.stack(
        [
            [np.searchsorted(peak[i, j], points.seats[i], side="right") for j in range(len(counts))]
            for i in range(len(peak))
        ]
    )  # [p, r, c, s]
    held = np.transpose(held, (0, 2, 3, 1))
    firsts = np.stack(
        [np.broadcast_to(leading[n][:, :, None, :], held.shape) for n in ("ttft", "tpot", "e2e")] + [held]
    )
    breaks = np.argmin(firsts, axis=0)
    index = firsts.min(axis=0) - 1
    rate = np.take_along_axis(points.load_of(demand)[:, :, None, :], np.maximum(index, 0), axis=3)
    rate = np.where(index >= 0, rate, 0.0) * points.ranks[:, None, None, None]
    return rate, breaks


def _misses(points: OperatingPoints, demand: Demand, slo: SloLimits, spread: Floats) -> dict[str, NDArray[np.bool_]]:
    """Where along the loads each SLO is missed: ``[p, c, r, b]``."""
    shape = (*points.rate.shape[:2], spread.shape[1], points.rate.shape[2])
    fine = np.zeros(shape, dtype=bool)
    misses = {"ttft": fine, "tpot": fine, "e2e": fine}
    rate = points.rate[:, :, None, :]
    use = points.use[:, :, None, :]
    ca = spread[:, None, :, None]
    deviation = AVERAGED * np.sqrt(ca / (np.maximum(points.load, 1.0) * points.lanes[:, None])[:, None, None, :])
    if points.use.any() and math.isfinite(slo.ttft_s):
        late = TtftTail.over_loads(points, demand, spread).above(slo.ttft_s) > slo.ttft_miss
        misses["ttft"] = late if demand.per_user else late | (use >= 1.0)
    elif points.use.any() and not demand.per_user:  # users who wait set the rate themselves: no queue grows
        misses["ttft"] = np.broadcast_to(use >= 0.98, shape)
    if demand.per_user * slo.ttft_miss < 1.0 and demand.per_user and math.isfinite(slo.ttft_s):
        # all users begin at once: of that wave the share that may miss leaves out the last prompts
        wave = points.load_of(demand) * (points.service @ demand.prompt_share) / points.lanes[:, None, None]
        late = wave * (1.0 - demand.per_user * slo.ttft_miss) > slo.ttft_s
        misses["ttft"] = misses["ttft"] | late[:, :, None, :]
    if math.isfinite(slo.tpot_s) and points.tpot.any():
        under = points.tpot <= slo.tpot_s
        limit = np.where(under, points.rate, 0.0).max(axis=2, keepdims=True)
        limit = np.where(under.all(axis=2, keepdims=True), np.inf, limit)[:, :, None, :]
        gap = np.log(np.maximum(limit, 1e-30) / rate)
        share = _shares(gap, deviation, demand)
        misses["tpot"] = (share > slo.tpot_miss) | (gap < 0)
    if math.isfinite(slo.e2e_s):
        longest = float(np.interp(1 - slo.e2e_miss, np.cumsum(demand.output_share), demand.output_tokens))
        wait = points.request_s[:, None, None] + (points.service @ demand.prompt_share) + points.residual[:, None, :]
        each = wait + points.queue + max(longest - 1, 0.0) * points.tpot
        misses["e2e"] = np.broadcast_to((each > slo.e2e_s)[:, :, None, :], shape)
    return misses


def _shares(gap: Floats, deviation: Floats, demand: Demand) -> Floats:
    """Share of the requests whose own load exceeds the limit by chance: short outputs average over less."""
    beyond = np.zeros(np.broadcast_shapes(gap.shape, deviation.shape))
    mean = demand.mean_output_tokens
    for tokens, share in zip(demand.output_tokens, demand.output_share, strict=True):
        if tokens <= 1:
            continue
        longer = math.sqrt(max(1.0, mean / tokens))
        beyond += share * tail(gap / np.maximum(deviation * longer, 1e-9))
    return beyond


class TtftTail:
    """``P(TTFT > limit)``: the service of the prompt's class, a step under way, the exponential tail of the queue."""

    def __init__(
        self,
        points: OperatingPoints,
        demand: Demand,
        spread: Floats,
        use: Floats,
        service: Floats,
        residual: Floats,
        queue: Floats,
        users: Floats | None,
    ) -> None:
        ahead = (slice(None), *[None] * (use.ndim - 1))
        lanes = points.lanes[ahead]
        self.share, self.use = demand.prompt_share, np.minimum(use, 0.999)
        mean = (service @ self.share) / lanes
        second = (service**2 @ self.share) / lanes**2
        varied = np.maximum(second / np.maximum(mean, 1e-30) ** 2 - 1.0, 0.0)
        self.eta = mean * (spread + varied) / (2.0 * (1.0 - self.use)) * np.cbrt(self.use)
        if users is not None:  # of a closed loop: never more prompts ahead than there are users
            self.eta = np.minimum(self.eta, mean * np.sqrt((1.0 + users / lanes) * (spread + varied)))
        start = points.request_s[ahead] + residual + queue
        self.fixed = [start + service[..., k] for k in range(len(self.share))]

    @classmethod
    def over_loads(cls, points: OperatingPoints, demand: Demand, spread: Floats) -> TtftTail:
        """At every load, ``[p, c, r, b]``; ``spread [p, r]`` is the dispersion of the arrivals at an engine."""
        service, residual = points.service[:, :, None], points.residual[:, None, None, :]
        use, queue = points.use[:, :, None, :], points.queue[:, :, None, :]
        users = points.load_of(demand)[:, :, None, :] if demand.per_user else None
        return cls(points, demand, spread[:, None, :, None], use, service, residual, queue, users)

    @classmethod
    def at(cls, points: OperatingPoints, demand: Demand, spread: Floats, index: Integers) -> TtftTail:
        """At one load of each candidate, ``index [p, c, n]``; ``spread [p, n]``."""
        use, queue = (np.take_along_axis(x, index, axis=2) for x in (points.use, points.queue))
        service = np.take_along_axis(points.service, index[..., None], axis=2)
        residual = points.residual[np.arange(len(points.residual))[:, None, None], index]
        users = np.take_along_axis(points.load_of(demand), index, axis=2) if demand.per_user else None
        return cls(points, demand, spread[:, None, :], use, service, residual, queue, users)

    def above(self, limit_s: Any) -> Floats:
        """The share of requests whose TTFT exceeds a limit (s)."""
        missed = np.zeros(np.broadcast_shapes(self.eta.shape, self.use.shape))
        for share, fixed in zip(self.share, self.fixed, strict=True):
            left = limit_s - fixed
            queued = self.use * np.exp(-np.clip(left, 0.0, _ENDLESS_S) / np.maximum(self.eta, 1e-12))
            missed += share * np.where(left < 0, 1.0, queued)
        return missed
