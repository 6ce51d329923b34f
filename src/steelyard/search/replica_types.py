"""Types of replicas a fleet may mix, and what each holds of every bucket of requests within the SLOs.

A type is a machine, an engine, formats, parallel degrees and the limits of a step: a pool of one replica. Its capacity
for a bucket is that of the analytic screen (:mod:`steelyard.search.screen`) when it gets that bucket alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steelyard.cost.energy import idle_power_w
from steelyard.cost.step import Replica
from steelyard.deployment.anchor import anchored, find_anchor
from steelyard.deployment.deployment import Pool
from steelyard.deployment.engine import default_engine, find_engine
from steelyard.deployment.engine_config import as_run, engine_config
from steelyard.deployment.engine_host import on_host
from steelyard.deployment.sharding import check_sharding
from steelyard.errors import InputError
from steelyard.machine.cluster import cluster_of
from steelyard.search.buckets import Buckets
from steelyard.search.demand import Demand
from steelyard.search.group import groups_of
from steelyard.search.options import Floats, PoolOption, ReplicaOption
from steelyard.search.prices import Classes, StepPrices, step_prices
from steelyard.search.screen import FIRST_FAILURES, OperatingPoints, SloLimits, capacities, operating_points
from steelyard.search.space import with_limits
from steelyard.search.task import PlanTask
from steelyard.techniques._base import effects_of, engine_of

__all__ = ["ReplicaTypes", "replica_types"]

#: Contexts at which decode attention is priced; between them it is linear, as bytes of the cache are.
CONTEXTS = 4
#: Replicas that share the arrivals, at which capacities are computed; between them linear in the logarithm.
SHARED = np.array([2.0, 8.0, 32.0, 128.0])
#: Types of a machine kept for the whole traffic, by devices and by energy per request; and by what share one must serve
#: a bucket better than those kept so far to be kept for it.
KEPT, BETTER = 3, 0.05
#: Loads below one request in a lane that are added to the screen's: long prompts with short outputs keep prompt work
#: going most of the time before there is always a request that decodes.
LIGHT = 2.0 ** np.arange(-7.0, 0.0, 0.25)
#: Share of the largest stable rate that a type is given of requests whose SLOs it misses.
LATE = 0.8


@dataclass(frozen=True, eq=False)
class ReplicaTypes:
    """Types beside what they hold. Arrays ``[b, j]`` over buckets and types."""

    options: tuple[PoolOption, ...]
    """One replica of each."""
    capacity: Floats
    """Requests/s of one replica at which every SLO is met; 0 = the requests do not fit at all."""
    late: NDArray[np.bool_]
    """Where an SLO would be missed: the capacity is then what keeps the queue from growing."""
    joules: Floats
    """Energy of a request beyond what the replica draws idle, J."""
    first_failure: tuple[str, ...]
    """By bucket: what fails first where no type can serve it; empty otherwise."""
    screened: int
    """Types before those that are best for nothing were left out."""

    def __len__(self) -> int:
        return len(self.options)

    def only(self, keep: Sequence[int]) -> ReplicaTypes:
        """Some of the types."""
        at = list(keep)
        arrays = {name: getattr(self, name)[:, at] for name in ("capacity", "late", "joules")}
        return replace(self, options=tuple(self.options[k] for k in at), **arrays)

    def rent_usd_per_hour(self, task: PlanTask) -> Floats:
        """``[j]`` of one replica; NaN without a price."""
        return np.array([o.replica.devices * task.device_prices[o.replica.machine] for o in self.options])


def replica_types(task: PlanTask, buckets: Buckets, shapes: Mapping[str, Sequence[Pool]] | None = None) -> ReplicaTypes:
    """Every type of the question's machines that is best for something, with its capacities.

    Args:
        task: the question; the rate of its demand says among how many replicas a type would share it.
        buckets: the requests.
        shapes: replicas to choose from by machine instead of all legal ones; of each pool, plan and flags count.
    """
    kept: list[ReplicaTypes] = []
    for machine, replicas in _replicas(task, buckets, shapes or {}).items():
        by_budgets: dict[tuple[int, ...], list[ReplicaOption]] = {}
        for r in replicas:
            by_budgets.setdefault(tuple(r.budgets.tolist()), []).append(r)
        types = _beside([_capacities(task, same, buckets) for same in by_budgets.values()])
        kept.append(_best(types, buckets, keep_all=machine in (shapes or {})))
    if not kept:
        raise InputError("no machine of the list can hold the model and the longest request", field="on")
    types = _beside(kept)
    served = np.any((types.capacity > 0) & ~types.late, axis=1)
    failures = tuple("" if served[i] else failure for i, failure in enumerate(types.first_failure))
    return replace(types, first_failure=failures)


def _replicas(task: PlanTask, buckets: Buckets, shapes: Mapping[str, Sequence[Pool]]) -> dict[str, list[ReplicaOption]]:
    """By machine, legal replicas that hold at least the shortest requests."""
    question, longest = task.question, int(buckets.longest_tokens.min())
    found: dict[str, list[ReplicaOption]] = {}
    free = tuple(m for m in question.machines if m not in shapes)
    least = replace(task.asking(machines=free), demand=replace(task.demand, longest_tokens=longest))
    for group in groups_of(least, []):
        found.setdefault(group.machine.name, []).extend(group.replicas)
    for name, replicas in found.items():  # pipelines only where nothing else holds the model
        found[name] = [r for r in replicas if r.plan.pp == 1] or replicas
    for name in (m for m in question.machines if m in shapes):
        given = [r for pool in shapes[name] if (r := _given(task, name, pool, longest)) is not None]
        if given:
            found[name] = given
    return {name: found[name] for name in question.machines if name in found}


def _given(task: PlanTask, name: str, pool: Pool, longest: int) -> ReplicaOption | None:
    """The replica of a pool, with the limits its flags name or the engine's own."""
    model, machine = task.model.transformer, task.question.machine(name)
    plan = pool.plan.resolved(model, machine)
    check_sharding(model, plan)
    engine = find_engine(plan.engine) if plan.engine else default_engine(machine)
    engine = on_host(engine, machine)
    engine = anchored(engine, find_anchor(task.question.inputs.get("anchor", "")), machine, model.name)
    techniques = task.question.techniques
    engine = engine_of(techniques, engine, machine)
    config = engine_config(engine, machine, dict(pool.flags), model)
    cluster, effects = cluster_of(machine, plan.devices), effects_of(techniques)
    pricer = Replica(model, plan, cluster, as_run(engine, config), task.question.skew, effects=effects)
    limits = np.array([config.max_num_batched_tokens]), np.array([config.max_num_seqs])
    exact = None if pool.plan.weights else task.model.weight_bytes
    return with_limits(pricer, config, longest, exact_weights=exact, limits=limits)


def _capacities(task: PlanTask, replicas: Sequence[ReplicaOption], buckets: Buckets) -> ReplicaTypes:
    """Some replicas with every token budget, each as a type of its own."""
    slo = SloLimits.of(task.question.targets)
    lengths, which = np.unique(np.rint(buckets.prompt_tokens).astype(np.float64), return_inverse=True)
    low, high = max(float(buckets.context_tokens.min()), 2.0), max(float(buckets.context_tokens.max()), 4.0)
    contexts = np.unique(np.rint(np.geomspace(low, high, CONTEXTS)))
    share = np.asarray(np.bincount(which, buckets.share), dtype=np.float64)
    whole = replace(task.demand, prompt_tokens=np.maximum(lengths, 1.0), prompt_share=share)
    classes: dict[tuple[bool, ...], Classes] = {}
    at = [replace(whole, context_tokens=float(c)) for c in contexts]
    prices = [[step_prices(r, one, classes, task.encode(r)) for one in at] for r in replicas]
    p, c, s, n = len(replicas), len(replicas[0].budgets), len(replicas[0].sequences), len(buckets)
    capacity, joules, late = np.zeros((n, p, c, s)), np.zeros((n, p, c, s)), np.zeros((n, p, c, s), dtype=bool)
    failures = []
    idle_w = np.array([idle_power_w(r.cluster.machine) for r in replicas])[:, None, None]
    for i in range(n):
        demand, context = _demand(task.demand, buckets, i), float(buckets.context_tokens[i])
        here = [_at_context(each, contexts, context, int(which[i])) for each in prices]
        points = _with_light_loads(operating_points(replicas, here, demand), demand)
        grid, failed = capacities(points, demand, slo, SHARED)
        within = _shared(grid, task.demand.rate_per_s)
        stable = LATE * capacities(points, demand, SloLimits(), SHARED)[0][..., -1]
        late[i] = within <= 0
        capacity[i] = np.where(_fits(replicas, buckets, i), np.where(late[i], stable, within), 0.0)
        rank = capacity[i] / points.ranks[:, None, None]
        at = np.minimum((points.rate[:, :, None, :] < rank[..., None]).sum(axis=-1), points.rate.shape[-1] - 1)
        working_w = np.take_along_axis(points.power, at, axis=2) - idle_w
        beyond_w = np.maximum(working_w, 0.0) * points.devices[:, None, None]
        joules[i] = np.where(rank > 0, beyond_w / np.maximum(capacity[i], 1e-30), np.inf)
        failures.append(FIRST_FAILURES[int(np.bincount(failed[..., -1].ravel()).argmax())])
    # most running requests: the number that holds most of the traffic, the smallest of equals
    held = np.einsum("i,ipcs->pcs", buckets.share, np.where(late, 0.0, capacity))
    most = np.argmax(held * (1.0 - 1e-9 * np.arange(s)), axis=2)
    options = [_option(r, j, int(most[a, j])) for a, r in enumerate(replicas) for j in range(c)]

    def chosen(values: Any) -> Any:
        return np.take_along_axis(values, most[None, :, :, None], 3).reshape(n, -1)

    return ReplicaTypes(tuple(options), chosen(capacity), chosen(late), chosen(joules), tuple(failures), p * c * s)


def _option(replica: ReplicaOption, budget: int, sequences: int) -> PoolOption:
    """A pool of one replica with limits by their places."""
    most = int(replica.sequences[sequences])
    return PoolOption(replica, "both", 1, max(int(replica.budgets[budget]), most), most)


def _demand(traffic: Demand, buckets: Buckets, i: int) -> Demand:
    """A bucket alone, with the rate and the burstiness of the whole traffic."""
    return replace(
        traffic,
        prompt_tokens=np.maximum(buckets.prompt_tokens[i : i + 1], 1.0),
        prompt_share=np.ones(1),
        output_tokens=np.maximum(buckets.output_tokens[i : i + 1], 1.0),
        output_share=np.ones(1),
        context_tokens=float(buckets.context_tokens[i]),
        held_tokens=float(buckets.prompt_tokens[i] + buckets.output_tokens[i]),
        longest_tokens=int(buckets.longest_tokens[i]),
    )


def _with_light_loads(points: OperatingPoints, demand: Demand) -> OperatingPoints:
    """The operating points with :data:`LIGHT` loads before them: steps as with one request, prompts in proportion."""
    if demand.decodes < 1.0 or points.queue.any() or not points.load[0]:
        return points
    stages = points.lanes[:, None, None]
    alone, first = points.residual[:, None, :1], points.tpot[:, :, :1]
    tpot = alone + LIGHT * (first - alone)
    rate = stages * LIGHT / (demand.decodes * tpot)
    service = np.repeat(points.service[:, :, :1], len(LIGHT), axis=2)
    idle = np.array([idle_power_w(r.cluster.machine) for r in points.replicas])[:, None, None]
    before: dict[str, Any] = {
        "rate": rate,
        "tpot": tpot,
        "service": service,
        "use": rate * (service @ demand.prompt_share) / stages,
        "power": idle + (points.power[:, :, :1] - idle) * rate / points.rate[:, :, :1],
        "queue": np.zeros_like(rate),
    }
    arrays: dict[str, Any] = {
        name: np.concatenate([light, getattr(points, name)], axis=2) for name, light in before.items()
    }
    arrays["residual"] = np.concatenate(
        [np.repeat(points.residual[:, :1], len(LIGHT), axis=1), points.residual], axis=1
    )
    return replace(points, load=np.concatenate([LIGHT, points.load]), **arrays)


def _fits(replicas: Sequence[ReplicaOption], buckets: Buckets, i: int) -> NDArray[np.bool_]:
    """``[p, c, s]`` whether the longest request of a bucket fits the cache, and the step where prompts are not cut."""
    longest, prompt = int(buckets.longest_tokens[i]), int(buckets.prompt_range[i, 1])
    fits = np.stack([r.tokens >= min(longest, r.kv.token_cap) for r in replicas])
    cut = np.stack([(r.budgets >= prompt) | r.config.enable_chunked_prefill for r in replicas])
    return np.asarray(fits & cut[:, :, None])


def _at_context(prices: Sequence[StepPrices], contexts: Floats, context: float, length: int) -> StepPrices:
    """Prices of one bucket: attention between those at the contexts around it, the prompt of its own length."""
    prompt = prices[0].prompt[:, :, length : length + 1]
    if len(contexts) == 1:
        return replace(prices[0], prompt=prompt)
    k = int(np.clip(np.searchsorted(contexts, context) - 1, 0, len(contexts) - 2))
    part = (context - contexts[k]) / (contexts[k + 1] - contexts[k])
    attention = prices[k].attention * (1 - part) + prices[k + 1].attention * part
    return replace(prices[k], attention=np.maximum(attention, 0.0), prompt=prompt)


def _shared(grid: Floats, rate_per_s: float) -> Floats:
    """Capacities ``[p, c, s]`` at the number of replicas among which a type alone would share the traffic."""
    count = np.clip(rate_per_s / np.maximum(grid[..., -1], 1e-30), SHARED[0], SHARED[-1])
    at = np.interp(np.log(count), np.log(SHARED), np.arange(len(SHARED)))
    low = np.minimum(at.astype(np.int64), len(SHARED) - 2)
    part = at - low
    below, above = (np.take_along_axis(grid, (low + k)[..., None], axis=-1)[..., 0] for k in (0, 1))
    return np.asarray(np.where(below > 0, below * (1 - part) + above * part, above * (part > 0.5)))


def _beside(parts: Sequence[ReplicaTypes]) -> ReplicaTypes:
    """Several lists of types as one."""
    arrays: dict[str, Any] = {
        n: np.concatenate([getattr(x, n) for x in parts], axis=1) for n in ("capacity", "late", "joules")
    }
    options, screened = tuple(o for x in parts for o in x.options), sum(x.screened for x in parts)
    return replace(parts[0], options=options, screened=screened, **arrays)


def _best(types: ReplicaTypes, buckets: Buckets, *, keep_all: bool) -> ReplicaTypes:
    """Types of one machine that serve some bucket, or the mean request, with the fewest devices or the least energy."""
    good = (types.capacity > 0) & ~types.late
    useful = np.flatnonzero(good.any(axis=0))
    if not useful.size:  # nothing in time: what serves most, to say how far it is from the SLOs
        return types.only([int(np.argmax(types.capacity.T @ buckets.share))])
    if keep_all:
        return types.only(useful.tolist())
    devices = np.array([o.replica.devices for o in types.options], dtype=np.float64)
    rate = np.maximum(types.capacity, 1e-30)
    device_s = np.where(good, devices / rate, np.inf)  # per request
    idle_w = np.array([o.replica.idle_w for o in types.options])
    energy_j = np.where(good, idle_w / rate + types.joules, np.inf)
    keep: set[int] = set()
    for cost in (device_s, energy_j):
        # a smaller replica is worth a hundredth: it leaves less of itself idle
        ranked = cost * (1.0 + 0.01 * np.log2(devices))
        whole = np.where(np.isfinite(ranked), ranked, 1e6).T @ buckets.share
        keep |= {int(j) for j in np.argsort(whole, kind="stable")[:KEPT] if good[:, j].any()}
        for i in np.argsort(-buckets.share, kind="stable"):
            best = int(np.argmin(ranked[i]))
            if ranked[i, best] < (1.0 - BETTER) * min(ranked[i, j] for j in keep):
                keep.add(best)
    return types.only(sorted(keep))
