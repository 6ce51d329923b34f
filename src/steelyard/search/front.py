"""Pareto fronts of the screen: speed for a user against work per device, and rent against time to first token."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from steelyard.search.answer import Candidate, Question
from steelyard.search.candidate_view import screened_candidate
from steelyard.search.candidates import Block, Part
from steelyard.search.demand import Demand
from steelyard.search.objective import Limits
from steelyard.search.screen import LEAST_SEATS, Points, promise_of, ttft_tail

if TYPE_CHECKING:
    from steelyard.search.solve import Group

__all__ = ["POINTS", "cost_front", "pareto", "speed_front"]

Floats = NDArray[np.float64]

#: Points of a front at most.
POINTS = 24
#: A fleet of a front is no more than so many times too large for the rate, and a point of the front of cost costs no
#: more than so many times the cheapest and is better by such a share than the one before.
OVERSIZE, DEAREST, BETTER = 1.5, 3.0, 0.02
#: Work per device of a point of the front at least, as a share of the most.
LEAST_USED = 0.1


def pareto(first: Floats, second: Floats) -> NDArray[np.int64]:
    """Places where no other point is at least as good in both and better in one; more is better, most ``first`` first.

    Args:
        first, second: ``[n]``.
    """
    order = np.lexsort((-second, -first))
    best = np.maximum.accumulate(second[order])
    keep = np.ones(len(order), dtype=bool)
    keep[1:] = second[order][1:] > best[:-1]
    return np.asarray(order[keep], dtype=np.int64)


def _thinned(places: NDArray[np.int64]) -> NDArray[np.int64]:
    """At most :data:`POINTS` of them, the ends included."""
    if len(places) <= POINTS:
        return places
    return places[np.unique(np.rint(np.linspace(0, len(places) - 1, POINTS)).astype(np.int64))]


def speed_front(
    groups: Sequence[Group], question: Question, demand: Demand, limits: Limits, prices: Mapping[str, float]
) -> tuple[Candidate, ...]:
    """Tokens/s/user against tokens/s/device over every shape, budget and load whose TTFT holds.

    Only fleets that work at that load when the rate asked for is dealt out to them, within the limits.
    """
    if demand.decodes < 1.0:
        return ()
    promise = promise_of(question.targets)
    user, device, where = [], [], []
    for g, group in enumerate(groups):
        both = group.points(demand, "both")
        devices = np.array([r.devices for r in group.replicas], dtype=np.float64)
        if "aggregated" in question.modes:
            good = _ttft_holds(both, demand, promise.ttft_s, promise.ttft_miss) & _seated(both)
            good &= _sized(both, question, limits)
            work = both.rate * both.ranks[:, None, None] * demand.mean_osl / devices[:, None, None]
            at = np.nonzero(good)
            user.append(1.0 / both.tpot[at])
            device.append(work[at])
            where.append(np.stack([np.full(len(at[0]), g), *at, np.zeros(len(at[0]), dtype=np.int64)], axis=1))
        if "disaggregated" in question.modes:
            prompts, answers = group.points(demand, "prefill"), group.points(demand, "decode")
            good = _ttft_holds(prompts, demand, promise.ttft_s, promise.ttft_miss) & _seated(prompts)
            good &= _sized(prompts, question, limits)
            each = np.where(good, prompts.rate * prompts.ranks[:, None, None] / devices[:, None, None], 0.0)
            best = float(each.max(initial=0.0))
            if best > 0:
                good = _seated(answers) & _sized(answers, question, limits)
                rate = answers.rate * answers.ranks[:, None, None] / devices[:, None, None]
                at = np.nonzero(good)
                user.append(1.0 / answers.tpot[at])
                device.append(demand.mean_osl / (1.0 / best + 1.0 / rate[at]))
                where.append(
                    np.stack([np.full(len(at[0]), g), *at, np.full(len(at[0]), 1 + int(each.argmax()))], axis=1)
                )
    if not user:
        return ()
    per_user, per_device, place = np.concatenate(user), np.concatenate(device), np.concatenate(where)
    useful = per_device >= LEAST_USED * per_device.max(initial=0.0)
    per_user, per_device, place = per_user[useful], per_device[useful], place[useful]
    chosen = _thinned(pareto(per_user, per_device))
    return tuple(
        _front_candidate(groups, place[i], question, demand, limits, prices, float(per_device[i])) for i in chosen
    )


def _seated(points: Points) -> NDArray[np.bool_]:
    """``[p, c, b]``: the cache and the largest request limit hold the load."""
    seats = points.seats.max(axis=2)[:, :, None]
    return np.asarray((points.load[None, None, :] <= seats) & (seats > 0))


def _sized(points: Points, question: Question, limits: Limits) -> NDArray[np.bool_]:
    """``[p, c, b]``: as many replicas as the rate needs at this load are loaded so, and within the limits."""
    each = points.rate * points.ranks[:, None, None]
    count = np.ceil(question.rate_per_s / np.maximum(each, 1e-30))
    good = count * each <= OVERSIZE * question.rate_per_s
    if limits.max_devices is not None:
        devices = np.array([r.devices for r in points.replicas])[:, None, None]
        good &= (count + limits.spares) * devices <= limits.max_devices
    return np.asarray(good)


def _ttft_holds(points: Points, demand: Demand, limit_s: float, miss: float) -> NDArray[np.bool_]:
    """``[p, c, b]`` for a replica alone."""
    good = points.use < 0.97
    if math.isfinite(limit_s):
        spread = demand.dispersion / points.ranks[:, None]
        good &= ttft_tail(points, demand, limit_s, spread)[:, :, 0, :] <= miss
    return np.asarray(good)


def _front_candidate(
    groups: Sequence[Group],
    place: NDArray[np.int64],
    question: Question,
    demand: Demand,
    limits: Limits,
    prices: Mapping[str, float],
    per_device: float,
) -> Candidate:
    """A point of the front as a deployment for the rate asked for."""
    g, p, c, b, other = (int(x) for x in place)
    group = groups[g]
    points = group.points(demand, "decode" if other else "both")
    parts = [_part(points, p, c, b, "decode" if other else "both", question)]
    ttft = 0.0
    watts = _watts(points, p, c, b, question.rate_per_s)
    if other:
        prompts = group.points(demand, "prefill")
        pp, pc, pb = (int(x) for x in np.unravel_index(other - 1, prompts.rate.shape))
        parts.insert(0, _part(prompts, pp, pc, pb, "prefill", question))
        ttft = float(prompts.service[pp, pc, pb] @ demand.isl_share + prompts.request_s[pp])
        watts += _watts(prompts, pp, pc, pb, question.rate_per_s)
    else:
        wait = points.request_s[p] + points.residual[p, b]
        ttft = float(points.service[p, c, b] @ demand.isl_share + wait)
    devices = sum((x.count + limits.spares) * x.replica.devices for x in parts)
    promise = promise_of(question.targets)
    tpot = float(points.tpot[p, c, b])
    capacity = min(
        x.count * x.replica.ranks * float(r)
        for x, r in zip(parts, [*([prompts.rate[pp, pc, pb]] if other else []), points.rate[p, c, b]], strict=True)
    )
    meets = tpot <= promise.tpot_s and ttft <= promise.ttft_s
    return screened_candidate(
        parts,
        question,
        limits,
        {"ttft_s": ttft, "tpot_s": tpot, "watts": watts, "tokens_per_s_per_device": per_device},
        capacity=capacity,
        usd_per_hour=prices[group.machine.name] * devices,
        osl=demand.mean_osl,
        meets=meets,
        breaks="tpot" if tpot > promise.tpot_s else "",
    )


def _part(points: Points, p: int, c: int, b: int, role: str, question: Question) -> Part:
    """A pool large enough for the rate at this load."""
    replica = points.replicas[p]
    count = max(1, math.ceil(question.rate_per_s / (float(points.rate[p, c, b]) * replica.ranks)))
    wanted = float(points.load[b]) * replica.plan.pp if role != "prefill" else max(LEAST_SEATS, 8 * replica.plan.pp)
    place = min(int(np.searchsorted(replica.sequences, wanted)), len(replica.sequences) - 1)
    sequences = int(replica.sequences[place])
    return Part(replica, role, count, max(int(replica.budgets[c]), sequences), sequences)


def _watts(points: Points, p: int, c: int, b: int, rate_per_s: float) -> float:
    """Power of a pool for the rate at this load, W."""
    replica = points.replicas[p]
    needed = rate_per_s / (float(points.rate[p, c, b]) * replica.ranks)
    host = replica.cluster.host_w / replica.cluster.per_node
    return needed * replica.devices * (float(points.power[p, c, b]) + host)


def cost_front(blocks: Sequence[Block], question: Question, demand: Demand, limits: Limits) -> tuple[Candidate, ...]:
    """Rent against TTFT at the promised percentile, among those that hold every promise by the screen."""
    need = question.rate_per_s * (1.0 + question.headroom_frac)
    usd, ttft, where = [], [], []
    for k, block in enumerate(blocks):
        good = (block.capacity >= need) & ~np.isnan(block.usd_per_hour)
        good &= limits.keeps(block.devices, block.usd_per_hour, block.watts)
        at = np.flatnonzero(good)
        usd.append(block.usd_per_hour[at])
        ttft.append(block.ttft_s[at])
        where.append(np.stack([np.full(len(at), k), at], axis=1))
    if not usd or not sum(len(u) for u in usd):
        return ()
    cost, wait, place = np.concatenate(usd), np.concatenate(ttft), np.concatenate(where)
    near = cost <= DEAREST * cost.min()
    cost, wait, place = cost[near], wait[near], place[near]
    chosen: list[int] = []
    for i in pareto(-cost, -wait).tolist():
        if not chosen or wait[i] <= wait[chosen[-1]] * (1 - BETTER):
            chosen.append(i)
    found = []
    for i in _thinned(np.array(chosen, dtype=np.int64)):
        block, index = blocks[int(place[i, 0])], int(place[i, 1])
        choice = block.choice(index, float(cost[i]))
        found.append(
            screened_candidate(
                choice.parts,
                question,
                limits,
                choice.figures,
                capacity=choice.capacity,
                usd_per_hour=float(cost[i]),
                osl=demand.mean_osl,
                meets=True,
                breaks=choice.breaks,
            )
        )
    return tuple(found)
