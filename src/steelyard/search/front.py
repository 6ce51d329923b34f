"""Pareto fronts of the screen: speed for a user against work per device, and rent against time to first token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from steelyard.pareto import evenly
from steelyard.search.answer import Candidate
from steelyard.search.candidate_view import screened_candidate
from steelyard.search.candidates import CandidateRow, CandidateTable
from steelyard.search.group import Group
from steelyard.search.options import Floats, Integers, PoolOption
from steelyard.search.screen import LEAST_SEATS, MANY_DECODES, OperatingPoints, SloLimits, TtftTail
from steelyard.search.task import PlanTask

__all__ = ["MAX_POINTS", "cost_front", "pareto", "speed_front"]

#: Points of a front at most.
MAX_POINTS = 24
#: Capacity over rate of the deployments of a front, at most.
OVERSIZE = 1.5
#: Rent of a point of the front of cost over the least, at most, and by what share its TTFT is below the one before.
DEAREST, BETTER = 3.0, 0.02
#: Work per device of a point of the front at least, as a share of the most.
LEAST_USED = 0.1
#: Share of the time a replica of the front works on prompts, at most.
MOST_USED = 0.97


def pareto(first: Floats, second: Floats) -> Integers:
    """Places where no other point is at least as good in both and better in one; more is better, most ``first`` first.

    Args:
        first: ``[n]``.
        second: ``[n]``.
    """
    order = np.lexsort((-second, -first))
    best = np.maximum.accumulate(second[order])
    keep = np.ones(len(order), dtype=bool)
    keep[1:] = second[order][1:] > best[:-1]
    return np.asarray(order[keep], dtype=np.int64)


Mask = NDArray[np.bool_]
Load = tuple[int, int, int]
"""Places of a replica, a budget and a load in operating points."""


def speed_front(task: PlanTask, groups: Sequence[Group]) -> tuple[Candidate, ...]:
    """Tokens/s/user against tokens/s/device over every shape, budget and load whose TTFT meets its SLO.

    Only deployments that work at that load when the requested rate is routed to them, within the limits.
    """
    demand, slo = task.demand, SloLimits.of(task.question.targets)
    if demand.decodes < MANY_DECODES:
        return ()
    user, device, where = [], [], []
    for g, group in enumerate(groups):
        if "aggregated" in task.question.modes:
            both = group.points(demand, "both")
            loads = np.nonzero(_ttft_met(both, task, slo) & _seated(both) & _sized(both, task))
            user.append(1.0 / both.tpot[loads])
            device.append((both.replica_rate * demand.mean_output_tokens / both.devices[:, None, None])[loads])
            where.append(np.stack([np.full(len(loads[0]), g), *loads, np.zeros(len(loads[0]), dtype=np.int64)], axis=1))
        if "disaggregated" in task.question.modes:
            prefill, decode = group.points(demand, "prefill"), group.points(demand, "decode")
            usable = _ttft_met(prefill, task, slo) & _seated(prefill) & _sized(prefill, task)
            each = np.where(usable, prefill.replica_rate / prefill.devices[:, None, None], 0.0)
            best = float(each.max(initial=0.0))
            if best > 0:
                loads = np.nonzero(_seated(decode) & _sized(decode, task))
                rate = (decode.replica_rate / decode.devices[:, None, None])[loads]
                user.append(1.0 / decode.tpot[loads])
                device.append(demand.mean_output_tokens / (1.0 / best + 1.0 / rate))
                other = np.full(len(loads[0]), 1 + int(each.argmax()))
                where.append(np.stack([np.full(len(loads[0]), g), *loads, other], axis=1))
    if not user:
        return ()
    per_user, per_device, place = np.concatenate(user), np.concatenate(device), np.concatenate(where)
    useful = per_device >= LEAST_USED * per_device.max(initial=0.0)
    per_user, per_device, place = per_user[useful], per_device[useful], place[useful]
    front = evenly(pareto(per_user, per_device), MAX_POINTS)
    return tuple(_at_load(task, groups[int(place[i, 0])], place[i, 1:].tolist(), float(per_device[i])) for i in front)


def _seated(points: OperatingPoints) -> Mask:
    """``[p, c, b]``: the cache and the largest request limit hold the load."""
    seats = points.seats.max(axis=2)[:, :, None]
    return np.asarray((points.load[None, None, :] <= seats) & (seats > 0))


def _sized(points: OperatingPoints, task: PlanTask) -> Mask:
    """``[p, c, b]``: as many replicas as the rate needs at this load are loaded so, and within the limits."""
    load, most, each = task.question.load, task.question.max_gpus, points.replica_load(task.demand)
    count = np.ceil(load / np.maximum(each, 1e-30))
    sized = count * each <= OVERSIZE * load
    if most is not None:
        sized &= (count + task.question.spares) * points.devices[:, None, None] <= most
    return np.asarray(sized)


def _ttft_met(points: OperatingPoints, task: PlanTask, slo: SloLimits) -> Mask:
    """``[p, c, b]`` for a replica alone."""
    met = points.use < MOST_USED
    if math.isfinite(slo.ttft_s):
        spread = task.demand.dispersion / points.ranks[:, None]
        met &= TtftTail.over_loads(points, task.demand, spread).above(slo.ttft_s)[:, :, 0, :] <= slo.ttft_miss
    return np.asarray(met)


def _at_load(task: PlanTask, group: Group, place: Sequence[int], per_device: float) -> Candidate:
    """A point of the front as a deployment for the requested rate."""
    demand, slo = task.demand, SloLimits.of(task.question.targets)
    p, c, b, other = place
    points, load = group.points(demand, "decode" if other else "both"), (p, c, b)
    loads: list[tuple[str, OperatingPoints, Load]] = [("decode" if other else "both", points, load)]
    if other:
        prefill = group.points(demand, "prefill")
        first, budget, at = (int(x) for x in np.unravel_index(other - 1, prefill.rate.shape))
        loads.insert(0, ("prefill", prefill, (first, budget, at)))
    _, prompting, (i, j, k) = loads[0]
    wait = prompting.request_s[i] + (0.0 if other else prompting.residual[i, k])
    ttft, tpot = float(prompting.service[i, j, k] @ demand.prompt_share + wait), float(points.tpot[load])
    pools = tuple(_pool(task, x, at, role) for role, x, at in loads)
    watts = sum(_watts(task, x, at) for _, x, at in loads)
    capacity = min(o.count * float(x.replica_load(demand)[at]) for o, (_, x, at) in zip(pools, loads, strict=True))
    rent = task.device_prices[group.machine.name] * sum(o.devices(task.question.spares) for o in pools)
    slow = tpot > slo.tpot_s
    row = CandidateRow(pools, capacity, rent, "tpot" if slow else "", {"ttft_s": ttft, "tpot_s": tpot, "watts": watts})
    shown = screened_candidate(task, row, meets=not slow and ttft <= slo.ttft_s)
    return replace(shown, tokens_per_s_per_device=per_device)  # at this load, not at the capacity of whole replicas


def _pool(task: PlanTask, points: OperatingPoints, at: Load, role: str) -> PoolOption:
    """A pool large enough for the rate at this load."""
    replica = points.replicas[at[0]]
    count = max(1, math.ceil(task.question.load / float(points.replica_load(task.demand)[at])))
    lanes = replica.engine.lanes(replica.plan.pp)
    wanted = max(LEAST_SEATS, 8 * lanes) if role == "prefill" else float(points.load[at[2]]) * lanes
    place = min(int(np.searchsorted(replica.sequences, wanted)), len(replica.sequences) - 1)
    sequences = int(replica.sequences[place])
    return PoolOption(replica, role, count, max(int(replica.budgets[at[1]]), sequences), sequences)


def _watts(task: PlanTask, points: OperatingPoints, at: Load) -> float:
    """Power of a pool for the rate at this load, W."""
    replica = points.replicas[at[0]]
    needed = task.question.load / float(points.replica_load(task.demand)[at])
    return needed * replica.devices * (float(points.power[at]) + replica.host_w)


def cost_front(task: PlanTask, tables: Sequence[CandidateTable]) -> tuple[Candidate, ...]:
    """Rent against TTFT at its percentile, among those that meet every SLO by the screen."""
    rent, ttft, where = [], [], []
    for t, table in enumerate(tables):
        met = (table.capacity >= task.question.required_load) & ~np.isnan(table.rent_usd_per_hour)
        places = np.flatnonzero(met & task.question.allows(table.devices, table.rent_usd_per_hour, table.watts))
        rent.append(table.rent_usd_per_hour[places])
        ttft.append(table.ttft_s[places])
        where.append(np.stack([np.full(len(places), t), places], axis=1))
    if not sum(len(u) for u in rent):
        return ()
    cost, wait, place = np.concatenate(rent), np.concatenate(ttft), np.concatenate(where)
    near = cost <= DEAREST * cost.min()
    cost, wait, place = cost[near], wait[near], place[near]
    front: list[int] = []
    for i in pareto(-cost, -wait).tolist():
        if not front or wait[i] <= wait[front[-1]] * (1 - BETTER):
            front.append(i)
    rows = [tables[t].row(index) for t, index in place[evenly(np.array(front, dtype=np.int64), MAX_POINTS)].tolist()]
    return tuple(screened_candidate(task, row, meets=True) for row in rows)
