"""Types of replicas a fleet may mix, and what each holds of every bucket within the promise.

A type is a machine, an engine, formats, parallel degrees and the limits of a step. Its capacity for a bucket is that
of the planner's analytic screen (:mod:`steelyard.search.screen`, the simulator's step times as a fluid with
fluctuations) when it gets that bucket alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steelyard.cost.energy import idle_power_w
from steelyard.cost.kv_pool import kv_pool
from steelyard.deployment.deployment import Pool
from steelyard.deployment.engine import Engine, default_engine, find_engine
from steelyard.deployment.engine_config import engine_config
from steelyard.deployment.plan import Plan
from steelyard.deployment.sharding import check_sharding
from steelyard.errors import DoesNotFit, InputError
from steelyard.machine.catalogue import find_machine
from steelyard.machine.cluster import cluster_of
from steelyard.machine.component import Machine
from steelyard.provenance import Ledger
from steelyard.search.answer import Question
from steelyard.search.demand import Demand
from steelyard.search.fleet_buckets import Buckets
from steelyard.search.objective import hourly
from steelyard.search.prices import StepPrices, step_prices
from steelyard.search.screen import Points, Promise, capacities, points_of
from steelyard.search.space import Replica, formats_of, replicas_of
from steelyard.workload.catalogue import Model

__all__ = ["Types", "Variety", "types_of"]

Floats = NDArray[np.float64]

#: Contexts at which decode attention is priced; between them it is linear, as bytes of the cache are.
CONTEXTS = 4
#: Replicas that share the arrivals, at which capacities are computed; between them linear in the logarithm.
SHARED = np.array([2.0, 8.0, 32.0, 128.0])
#: Types of a machine kept for the whole traffic, by devices and by energy per request, and how much better one must
#: serve a bucket than those kept so far to be kept for it.
KEPT, BETTER = 3, 0.05
#: Loads below one request in a lane that are added to the screen's: long prompts with short answers keep prompt work
#: going most of the time before a single answer is always being written.
LIGHT = 2.0 ** np.arange(-7.0, 0.0, 0.25)
#: Share of the largest stable rate that requests outside the promise are given.
LATE = 0.8
#: What fails first, by its number in the screen.
BREAKS = ("ttft", "tpot", "e2e", "kv")


@dataclass(frozen=True, eq=False)
class Variety:
    """One type of replica."""

    replica: Replica
    budget: int
    """``max_num_batched_tokens``."""
    sequences: int
    """``max_num_seqs``."""
    usd_per_hour: float
    """Per device; NaN without a price."""
    idle_w: float
    """Of the replica with its share of the hosts, without work, W."""

    @property
    def machine(self) -> str:
        """Name of the machine."""
        return self.replica.cluster.machine.name

    @property
    def devices(self) -> int:
        """Devices of one replica."""
        return self.replica.devices

    @property
    def label(self) -> str:
        """``h100_sxm tp2``."""
        return f"{self.machine} {self.replica.shape}"

    def pool(self, replicas: int) -> Pool:
        """So many of them."""
        plan = replace(self.replica.plan, engine=self.replica.engine.name)
        flags = self.replica.flags(self.budget, self.sequences)
        return Pool(machine=self.machine, plan=plan, replicas=replicas, role="both", flags=flags)


@dataclass(frozen=True, eq=False)
class Types:
    """Types beside what they hold. Arrays ``[b, j]`` over buckets and types."""

    varieties: tuple[Variety, ...]
    capacity: Floats
    """Requests/s of one replica at which every promise holds; 0 = they do not fit at all."""
    late: NDArray[np.bool_]
    """Where a promise would be missed: the capacity is then what keeps the queue from growing."""
    joules: Floats
    """Energy of a request beyond what the replica draws idle, J."""
    breaks: tuple[str, ...]
    """By bucket: what fails first where no type can serve it; empty otherwise."""
    weighed: int
    """Types before those that are best for nothing were left out."""

    def only(self, keep: Sequence[int]) -> Types:
        """Some of the types."""
        at = list(keep)
        return replace(
            self,
            varieties=tuple(self.varieties[k] for k in at),
            capacity=self.capacity[:, at],
            late=self.late[:, at],
            joules=self.joules[:, at],
        )


def types_of(
    question: Question,
    model: Model,
    buckets: Buckets,
    traffic: Demand,
    promise: Promise,
    ledger: Ledger,
    shapes: Mapping[str, Sequence[Pool]] | None = None,
) -> Types:
    """Every type of the question's machines that is best for something, with its capacities.

    Args:
        question: machines, engines, formats, prices, devices at most.
        model: the model. buckets: the requests. promise: the limits.
        traffic: the whole traffic; its rate says among how many replicas a type would share it.
        ledger: takes up where prices come from.
        shapes: replicas to choose from by machine instead of all legal ones; of each pool, plan and flags count.
    """
    found: list[Types] = []
    for name in question.machines:
        machine = find_machine(name)
        usd = hourly(machine, question.usd_per_hour, ledger)
        given = (shapes or {}).get(machine.name, (shapes or {}).get(name))
        groups: dict[tuple[int, ...], list[Replica]] = {}
        for r in _replicas(question, model, machine, buckets, given):
            groups.setdefault(tuple(r.budgets.tolist()), []).append(r)
        here = [
            _capacities(model, replicas, buckets, traffic, promise, usd, question.skew) for replicas in groups.values()
        ]
        if here:
            found.append(_best(_beside(here), buckets, usd, keep_all=given is not None))
    if not found:
        raise InputError("no machine of the list can hold the model and the longest request", field="on")
    together = _beside(found)
    served = [bool(row.any()) for row in (together.capacity > 0) & ~together.late]
    return replace(together, breaks=tuple("" if s else b for b, s in zip(together.breaks, served, strict=True)))


def _replicas(
    question: Question, model: Model, machine: Machine, buckets: Buckets, given: Sequence[Pool] | None
) -> list[Replica]:
    """Legal replicas of a machine that hold at least the shortest requests."""
    longest = int(np.min(buckets.longest))
    isl = float(buckets.isl @ buckets.share)
    if given is not None:
        return [r for pool in given if (r := _given(model, machine, pool, longest)) is not None]
    engines = [find_engine(e) for e in question.engines] if any(question.engines) else [default_engine(machine)]
    formats = formats_of(model.transformer, machine, question.weights, question.kv)
    found: list[Replica] = []
    for engine in engines:
        for each in formats:
            found += replicas_of(model, machine, engine, each, longest=longest, isl=isl, max_devices=question.max_gpus)
    flat = [r for r in found if r.plan.pp == 1]
    return flat or found  # stages of a pipeline only where nothing else holds the model


def _given(model: Model, machine: Machine, pool: Pool, longest: int) -> Replica | None:
    """The replica of a pool, with the limits its flags name or the engine's own."""
    plan: Plan = pool.plan.resolved(model.transformer.native_weights)
    check_sharding(model.transformer, plan)
    engine: Engine = find_engine(plan.engine) if plan.engine else default_engine(machine)
    config = engine_config(engine, machine, dict(pool.flags))
    exact = model.weight_bytes if not pool.plan.weights else None
    cluster = cluster_of(machine, plan.devices)
    try:
        cache = kv_pool(model.transformer, plan, machine, engine, config, exact_weights=exact)
    except DoesNotFit:
        return None
    tokens = float(cache.blocks * cache.block_tokens)
    if tokens < longest:
        return None
    limits = np.array([config.max_num_batched_tokens]), np.array([config.max_num_seqs])
    return Replica(cluster, engine, plan, config, *limits, np.array([[tokens]]), cache)


def _capacities(
    model: Model,
    replicas: Sequence[Replica],
    buckets: Buckets,
    traffic: Demand,
    promise: Promise,
    usd: float,
    skew: float,
) -> Types:
    """Some replicas with every token budget, each as a type of its own."""
    lengths, which = np.unique(np.rint(buckets.isl).astype(np.float64), return_inverse=True)
    shares = np.asarray(np.bincount(which, buckets.share), dtype=np.float64)
    low, high = max(float(buckets.context.min()), 2.0), max(float(buckets.context.max()), 4.0)
    contexts = np.unique(np.rint(np.geomspace(low, high, CONTEXTS)))
    plain = replace(traffic, isl=np.maximum(lengths, 1.0), isl_share=shares)
    prices = [
        [step_prices(model.transformer, r, replace(plain, context=float(c)), skew) for c in contexts] for r in replicas
    ]
    p, c, s = len(replicas), len(replicas[0].budgets), len(replicas[0].sequences)
    n = len(buckets)
    capacity, joules = np.zeros((n, p, c, s)), np.zeros((n, p, c, s))
    late = np.zeros((n, p, c, s), dtype=bool)
    breaks = []
    devices = np.array([r.devices for r in replicas], dtype=np.float64)
    host = np.array([r.cluster.host_w / r.cluster.per_node for r in replicas])
    idle = np.array([idle_power_w(r.cluster.machine) for r in replicas])
    for i in range(n):
        demand = replace(
            traffic,
            isl=np.maximum(buckets.isl[i : i + 1], 1.0),
            isl_share=np.ones(1),
            osl=np.maximum(buckets.osl[i : i + 1], 1.0),
            osl_share=np.ones(1),
            context=float(buckets.context[i]),
            held=float(buckets.isl[i] + buckets.osl[i]),
            longest=int(buckets.longest[i]),
        )
        here = [_at_context(each, contexts, float(buckets.context[i]), int(which[i])) for each in prices]
        points = _lightened(points_of(replicas, here, demand), demand)
        grid, broken = capacities(points, demand, promise, SHARED)
        within = _shared(grid, traffic.rate_per_s)
        anyhow = LATE * capacities(points, demand, Promise(), SHARED)[0][..., -1]
        late[i] = within <= 0
        capacity[i] = np.where(_holds(replicas, buckets, i), np.where(late[i], anyhow, within), 0.0)
        rank = capacity[i] / points.ranks[:, None, None]
        at = np.minimum((points.rate[:, :, None, :] < rank[..., None]).sum(axis=-1), points.rate.shape[-1] - 1)
        power = np.take_along_axis(points.power, at, axis=2)
        beyond = np.maximum(power - idle[:, None, None], 0.0) * devices[:, None, None]
        joules[i] = np.where(rank > 0, beyond / np.maximum(capacity[i], 1e-30), np.inf)
        breaks.append(BREAKS[int(np.bincount(broken[..., -1].ravel()).argmax())])
    # requests at once: the number that holds most of the traffic, the smallest of equals
    held = np.einsum("i,ipcs->pcs", buckets.share, np.where(late, 0.0, capacity))
    most = np.argmax(held * (1.0 - 1e-9 * np.arange(s)), axis=2)
    pick = most[None, :, :, None]
    varieties = tuple(
        Variety(
            r,
            int(max(r.budgets[j], r.sequences[most[a, j]])),
            int(r.sequences[most[a, j]]),
            usd,
            float((idle[a] + host[a]) * devices[a]),
        )
        for a, r in enumerate(replicas)
        for j in range(c)
    )

    def chosen(values: Any) -> Any:
        return np.take_along_axis(values, pick, 3).reshape(n, -1)

    return Types(varieties, chosen(capacity), chosen(late), chosen(joules), tuple(breaks), p * c * s)


def _lightened(points: Points, demand: Demand) -> Points:
    """The operating points with :data:`LIGHT` loads before them: steps as with one request, prompts in proportion."""
    if demand.decodes < 1.0 or not points.load[0]:
        return points
    stages = points.lanes[:, None, None]
    alone, first = points.residual[:, None, :1], points.tpot[:, :, :1]
    tpot = alone + LIGHT * (first - alone)
    rate = stages * LIGHT / (demand.decodes * tpot)
    service = np.repeat(points.service[:, :, :1], len(LIGHT), axis=2)
    idle = np.array([idle_power_w(r.cluster.machine) for r in points.replicas])[:, None, None]
    power = idle + (points.power[:, :, :1] - idle) * rate / points.rate[:, :, :1]

    def before(light: Floats, rest: Floats, axis: int = 2) -> Floats:
        return np.concatenate([light, rest], axis=axis)

    return replace(
        points,
        rate=before(rate, points.rate),
        tpot=before(tpot, points.tpot),
        service=before(service, points.service),
        use=before(rate * (service @ demand.isl_share) / stages, points.use),
        power=before(power, points.power),
        residual=before(np.repeat(points.residual[:, :1], len(LIGHT), axis=1), points.residual, 1),
        load=before(LIGHT, points.load, 0),
    )


def _holds(replicas: Sequence[Replica], buckets: Buckets, i: int) -> NDArray[np.bool_]:
    """``[p, c, s]`` whether the longest request of a bucket fits the cache, and the step where prompts are not cut."""
    longest, prompt = int(buckets.longest[i]), int(buckets.isl_range[i, 1])
    found = []
    for r in replicas:
        fits = r.tokens >= min(longest, r.pool.token_cap)
        if not r.config.enable_chunked_prefill:
            fits = fits & (r.budgets >= prompt)[:, None]
        found.append(fits)
    return np.stack(found)


def _at_context(prices: Sequence[StepPrices], contexts: Floats, context: float, length: int) -> StepPrices:
    """Prices of one bucket: attention between those at the contexts around it, the prompt of its own length."""
    prompt = prices[0].prompt[:, :, length : length + 1]
    if len(contexts) == 1:
        return replace(prices[0], prompt=prompt)
    k = int(np.clip(np.searchsorted(contexts, context) - 1, 0, len(contexts) - 2))
    part = (context - contexts[k]) / (contexts[k + 1] - contexts[k])
    mixed = prices[k].attention * (1 - part) + prices[k + 1].attention * part
    return replace(prices[k], attention=np.maximum(mixed, 0.0), prompt=prompt)


def _shared(grid: Floats, rate_per_s: float) -> Floats:
    """Capacities ``[p, c, s]`` at the number of replicas among which a type alone would share the traffic."""
    fluid = grid[..., -1]
    count = np.clip(rate_per_s / np.maximum(fluid, 1e-30), SHARED[0], SHARED[-1])
    at = np.interp(np.log(count), np.log(SHARED), np.arange(len(SHARED)))
    low = np.minimum(at.astype(np.int64), len(SHARED) - 2)
    part = at - low
    below = np.take_along_axis(grid, low[..., None], axis=-1)[..., 0]
    above = np.take_along_axis(grid, low[..., None] + 1, axis=-1)[..., 0]
    return np.asarray(np.where(below > 0, below * (1 - part) + above * part, above * (part > 0.5)))


def _beside(parts: Sequence[Types]) -> Types:
    """Several lists of types as one."""
    if len(parts) == 1:
        return parts[0]
    return Types(
        tuple(v for x in parts for v in x.varieties),
        np.concatenate([x.capacity for x in parts], axis=1),
        np.concatenate([x.late for x in parts], axis=1),
        np.concatenate([x.joules for x in parts], axis=1),
        parts[0].breaks,
        sum(x.weighed for x in parts),
    )


def _best(types: Types, buckets: Buckets, usd: float, *, keep_all: bool) -> Types:
    """Types of one machine that serve some bucket, or the mean request, with the fewest devices or the least energy."""
    good = (types.capacity > 0) & ~types.late
    useful = np.flatnonzero(good.any(axis=0))
    if not useful.size:  # nothing in time: what serves most, to say how far it is from the promise
        return types.only([int(np.argmax(types.capacity.T @ buckets.share))])
    if keep_all:
        return types.only(useful.tolist())
    devices = np.array([v.devices for v in types.varieties], dtype=np.float64)
    rate = np.maximum(types.capacity, 1e-30)
    per_request = np.where(good, devices / rate, np.inf)  # device seconds
    idle = np.array([v.idle_w for v in types.varieties])
    energy = np.where(good, idle / rate + types.joules, np.inf)
    keep: set[int] = set()
    for cost in (per_request, energy):
        # a smaller replica is worth a hundredth: it leaves less of itself idle
        ranked = cost * (1.0 + 0.01 * np.log2(devices))
        whole = np.where(np.isfinite(ranked), ranked, 1e6).T @ buckets.share
        keep |= {int(j) for j in np.argsort(whole, kind="stable")[:KEPT] if good[:, j].any()}
        for i in np.argsort(-buckets.share, kind="stable"):
            best = int(np.argmin(ranked[i]))
            if ranked[i, best] < (1.0 - BETTER) * min(ranked[i, j] for j in keep):
                keep.add(best)
    return types.only(sorted(keep))
