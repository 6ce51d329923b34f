"""From a deployment to what the kernel needs: checks, step tables, caches and techniques of every pool."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from steelyard.cost.encode import Encoder, Passes
from steelyard.cost.interval import SYSTEM_SPREAD
from steelyard.cost.kv_pool import KvPool, kv_pool, seated
from steelyard.cost.memory import host_blocks, host_weight_bytes
from steelyard.cost.moe import UNIFORM, Router
from steelyard.cost.step import Replica
from steelyard.cost.step_table import StepTable, build_step_table
from steelyard.cost.unlike_memory import tightest_pool
from steelyard.deployment.anchor import anchored, find_anchor
from steelyard.deployment.deployment import Deployment, Pool
from steelyard.deployment.engine import UNMOVED, Engine, default_engine, find_engine
from steelyard.deployment.engine_config import EngineConfig, as_run, engine_config, with_room
from steelyard.deployment.engine_host import on_host
from steelyard.errors import DoesNotFit, InputError, Problem, UnknownName, normalise, raise_all
from steelyard.machine.cluster import Cluster, asks_again, cluster_of
from steelyard.provenance import content_hash
from steelyard.scenario.fields import SKEW
from steelyard.scenario.scenario import Scenario, check
from steelyard.scenario.shown import numbers
from steelyard.simulation.arrays import ROUTERS, Member
from steelyard.simulation.kernel.rules import joined_rules
from steelyard.simulation.policies import Order, Policy, ordered
from steelyard.simulation.techniques import dynamics_of, fit, traffic_of
from steelyard.simulation.wires import End, wires_between
from steelyard.techniques._base import PoolFit, Technique, effects_of, engine_of
from steelyard.traffic.trace import LENGTHS, Trace
from steelyard.units import format_quantity
from steelyard.workload.catalogue import Model, load_model
from steelyard.workload.protocol import beyond_context, ends_hard, not_served
from steelyard.workload.reading import Seen

__all__ = ["Options", "Prepared", "Served", "checked", "prepare", "too_long"]

#: Times that may have an SLO.
_SLO = ("ttft_s", "tpot_s", "max_itl_s", "e2e_s")
#: Decoding requests at which the speeds of unlike pools are compared.
TYPICAL_BATCH = 32


@dataclass(frozen=True, slots=True)
class Options:
    """How a deployment is played; see :func:`steelyard.simulation.result.simulate_deployment`."""

    policy: str | type[Policy] | Policy = "fcfs"
    seed: int = 0
    slo: Mapping[str, float] = field(default_factory=dict)
    experts: Router = UNIFORM
    usd_per_hour: float | None = None
    generic: bool = False
    stop_after_s: float | None = None
    stop_after_iterations: int | None = None
    log: int = 1 << 18
    transfer_overlap: float = 0.0
    seen: tuple[Seen, ...] = ()
    """Images and sounds of a request, whose tokens the trace has; without ``encode_s`` their time is priced."""
    encode_s: Any = None
    """Time for the images and sounds of a request, or of each, s: in a pool E where there is one, else in the step that
    begins its prompt."""
    encode_spread: int = 1
    """Encoders that share the images of one request at most."""
    passes: Passes | None = None
    """The same with what it needs beside that time."""
    watch: Callable[[Any], None] | None = None
    techniques: tuple[Technique, ...] = ()
    assigned: Any = None
    anchor: str = ""
    """A measured run that moves the times."""
    system_spread: float = SYSTEM_SPREAD
    """What no cost model explains: less where the conditions are a recipe's that states it."""


@dataclass(frozen=True, eq=False)
class Served:
    """A pool of a deployment, compiled."""

    pool: Pool
    scenario: Scenario
    """Its cluster holds the devices of all replicas, its plan those of one."""
    config: EngineConfig
    kv: KvPool
    table: StepTable | None
    """None for encoders."""
    weight: float = 1.0
    fitted: PoolFit | None = None
    """What techniques make of it."""
    paces: float = 0.0
    """Steps in flight of a pipeline, in lengths of its slowest stage; 0: its stages."""

    @property
    def ranks(self) -> int:
        """Schedulers with a cache of their own: replicas, and their data-parallel ranks."""
        return self.pool.replicas * self.scenario.plan.dp

    def member(self, options: Options) -> Member:
        """The pool as the kernel sees it."""
        plan = self.scenario.plan
        return Member(
            self.config,
            self.kv,
            self.ranks,
            self.scenario.engine.lanes(plan.pp),
            self.pool.role,
            self.scenario.transformer.max_context,
            self.weight,
            self.scenario.engine.relays_first and self.pool.role == "prefill",
            options.transfer_overlap,
            plan.dp,
            plan.shares_experts,
            dynamics_of(options.techniques),
            self.paces,
        )


@dataclass(frozen=True, eq=False)
class Prepared:
    """A question checked and compiled, ready to run any number of times."""

    deployment: Deployment
    served: tuple[Served, ...]
    trace: Trace
    policy: Order
    options: Options
    rejected: Any
    """``[n]`` requests no pool can hold."""
    wires: Any
    inputs: Mapping[str, Any]

    @property
    def first(self) -> Served:
        """The pool reports are headed by."""
        return self.served[0]

    @property
    def table(self) -> StepTable:
        """Step times of the first pool."""
        return next(s.table for s in self.served if s.table is not None)


def checked(options: Options, router: str, trace: Trace, problems: Sequence[Problem] = ()) -> tuple[Order, str]:
    """``(order of the queue, router)``; raises :class:`InputError` with every problem."""
    problems = list(problems)
    for name, limit in options.slo.items():
        if name not in _SLO:
            problems.append(Problem(f"slo.{name}", f"expected one of {', '.join(_SLO)}"))
        elif not limit > 0:
            problems.append(Problem(f"slo.{name}", f"expected a time above 0, got {limit}"))
    if not 0 <= options.transfer_overlap <= 1:
        problems.append(Problem("transfer_overlap", f"expected a share from 0 to 1, got {options.transfer_overlap}"))
    if options.encode_s is not None:
        times = np.asarray(options.encode_s, dtype=np.float64)
        if times.shape not in ((), (len(trace),)) or not np.all(times >= 0):
            problems.append(Problem("encode_s", "expected a time of at least 0, or one for each request"))
    router = _choice("router", router, tuple(ROUTERS))
    order = None
    try:
        order = ordered(options.policy, trace, options.slo)
    except UnknownName:
        raise
    except InputError as error:
        problems += error.problems
    if router == "prefix" and trace.prefix_hashes is None:
        problems.append(Problem("router", "the trace has no prefix hashes to route by"))
    raise_all(problems)
    assert order is not None
    return order, router


def prepare(
    deployment: Deployment,
    trace: Trace,
    options: Options,
    *,
    model: Model | None = None,
    clusters: Sequence[Cluster | None] = (),
    order: Order | None = None,
    engine: Engine | None = None,
) -> Prepared:
    """Check every input, count the blocks, build the step tables.

    Args:
        deployment, trace, options: the question.
        model: the model, loaded; None = by its name.
        clusters: devices of each pool's replicas where they are not those of the catalogue.
        order: what the policy said about the trace, when it was asked before.
        engine: the engine of every pool, where it is not one of the catalogue's.

    Raises:
        InputError, DoesNotFit: as :func:`steelyard.simulation.result.simulate_deployment` says.
    """
    router = deployment.router
    trace = traffic_of(options.techniques, trace, options.seed)
    if order is None:
        order, router = checked(options, router, trace)
    router = _choice("router", router, tuple(ROUTERS))
    together = max(pool.replicas * pool.plan.dp for pool in deployment.pools)
    raise_all(dynamics_of(options.techniques).problems(sum(pool.replicas for pool in deployment.pools), together))
    loaded = model if model is not None else load_model(deployment.model, generic=options.generic)
    transformer = loaded.transformer
    if why := not_served(transformer):
        raise InputError(why, field="model")
    roles = {pool.role for pool in deployment.pools}
    if "encode" in roles and options.encode_s is None and not options.seen:
        words = "encoders need what they read (--images) or the time each request takes there (--encode)"
        raise InputError(words, field="encode_s")
    alone = loaded.without_towers if "encode" in roles else loaded
    served = [
        _serve(
            pool,
            loaded if pool.role == "encode" else alone,
            trace,
            options,
            clusters[k] if k < len(clusters) else None,
            engine,
            mixed=len(roles) > 1,
        )
        for k, pool in enumerate(deployment.pools)
    ]
    encoders = sum(s.ranks for s in served if s.pool.role == "encode")
    options = replace(options, encode_spread=min(options.encode_spread, max(1, encoders)))
    if options.encode_s is None and options.seen:
        options = _encoding(options, served, trace)
    elif options.encode_s is not None:
        passes, each = Passes(np.broadcast_to(options.encode_s, len(trace))), options.encode_spread
        options = replace(options, passes=passes.shared(each, np.ones(len(trace)), np.full(len(trace), each)))
    computing = [s for s in served if s.pool.role != "encode"]
    if router == "prefix" and not any(s.config.enable_prefix_caching for s in computing):
        raise InputError("the prefix router needs an engine that caches prefixes", field="router")
    rejected = too_long(trace, served)
    longest = int(np.max((trace.isl + trace.osl)[~rejected], initial=2))
    if beyond := beyond_context(transformer, longest):
        trace = replace(trace, notes=(beyond, *trace.notes))
    served = [_with_table(s, longest, options, trace) for s in served]
    if options.techniques:  # drafts and adapters take memory from the cache
        rejected = too_long(trace, served)
    if len({(s.scenario.cluster.machine.name, s.scenario.plan, s.config) for s in computing}) > 1:
        served = _weighed(served, trace)
    wires = wires_between([End(s.scenario.cluster, s.scenario.plan, s.kv) for s in served])
    deployment = replace(deployment, router=router)
    rules = {t.name: found for t in options.techniques if (found := t.rules()) is not None}
    if rules:
        order = replace(order, rules=joined_rules(rules | ({order.name: order.rules} if order.rules else {})))
    return Prepared(
        deployment,
        tuple(served),
        trace,
        order,
        options,
        rejected,
        wires,
        _inputs(deployment, served, trace, options, order),
    )


def _encoding(options: Options, served: Sequence[Served], trace: Trace) -> Options:
    """The options with the time that what each request shows takes, the power in it, and the least of a step with some.

    In a pool E where there is one, which reads one request after another, launches included; else in the first pool
    that computes prompts, where the requests of a step share a pass.
    """
    roles = [s.pool.role for s in served]
    at = roles.index("encode") if "encode" in roles else min(roles.index(r) for r in ("both", "prefill") if r in roles)
    s = served[at].scenario
    shown = list(numbers(options.seen, trace))
    passes = Encoder(options.seen, s.plan, s.cluster, s.engine).passes(shown)
    if "encode" in roles:
        tiles = (x.read.tiles * each for x, each in zip(options.seen, shown, strict=True))
        passes = passes.shared(options.encode_spread, np.sum(shown, axis=0), sum(tiles, np.zeros(len(trace))))
        passes = replace(passes, time_s=passes.alone_s, launches_s=0.0)
    return replace(options, encode_s=passes.time_s, passes=passes)


def _serve(
    pool: Pool,
    model: Model,
    trace: Trace,
    options: Options,
    given: Cluster | None,
    engine: Engine | None = None,
    *,
    mixed: bool,
) -> Served:
    transformer = model.transformer
    cluster = given or cluster_of(pool.device)
    cluster = replace(cluster, count=pool.plan.devices)
    entry = engine or (find_engine(pool.plan.engine) if pool.plan.engine else default_engine(cluster.machine))
    entry = on_host(entry, cluster.machine)
    if options.anchor:
        entry = anchored(entry, find_anchor(options.anchor), cluster.machine, transformer.name)
    entry = engine_of(options.techniques, entry, cluster.machine)
    config = engine_config(entry, cluster.machine, dict(pool.flags), transformer)
    config = with_room(config, entry, pool.flags, int(trace.isl.max()))
    entry = as_run(entry, config)
    shortest, longest = (int(x) for x in ((trace.isl + trace.osl).min(), (trace.isl + trace.osl).max()))
    if not config.max_model_len and 0 < transformer.max_context < shortest and not ends_hard(transformer):
        config = replace(config, max_model_len=longest)  # nothing that is sent would be taken; the notes say so
    if mixed and config.rules.static:
        raise InputError("a static batch stays together: it can neither begin nor end elsewhere", field="scheduler")
    means = round(float(trace.isl.mean())), round(float(trace.osl.mean()))
    plan = pool.plan.resolved(transformer, cluster.machine)
    scenario = Scenario(
        model,
        cluster,
        plan,
        entry,
        max(1, min(len(trace), config.max_num_seqs * plan.dp * pool.replicas)),
        means[0],
        means[1],
        float(options.experts.skew),
        options.usd_per_hour,
    )
    if pool.role == "encode":
        kv = KvPool(1, config.block_size, 0.0)
    else:
        check(Scenario(model, cluster, plan, entry))
        _check_host(scenario)
        exact = scenario.exact_weight_bytes
        if cluster.unlike:
            kv = tightest_pool(transformer, plan, cluster, entry, config, exact, longest)
        else:
            kv = kv_pool(transformer, plan, cluster.machine, entry, config, exact_weights=exact, longest=longest)
        if cluster.host and (most := host_blocks(transformer, plan, cluster.host, kv.block_tokens, exact)) is not None:
            kv = replace(kv, blocks=min(kv.blocks, most))
        config = seated(config, kv)
    everything = replace(scenario, cluster=replace(cluster, count=pool.devices))
    return Served(pool, everything, config, kv, None)


def _check_host(scenario: Scenario) -> None:
    """Refuse weights that host memory has no room for. Raises :class:`DoesNotFit`."""
    host, plan = scenario.cluster.host, scenario.plan
    if host is None:
        return
    needed = host_weight_bytes(scenario.transformer, plan, scenario.exact_weight_bytes) * plan.dp
    if needed > host.usable_bytes:
        held, there = format_quantity(needed, "B"), format_quantity(host.usable_bytes, "B")
        words = f"{scenario.transformer.name} needs {held} of host memory, the host has {there} usable"
        raise DoesNotFit(words, change="a host with more, --host ddr5-5600x2:SIZE")


def _with_table(served: Served, longest: int, options: Options, trace: Trace) -> Served:
    if served.pool.role == "encode":
        return served
    s = served.scenario
    cluster = replace(s.cluster, count=s.plan.devices)
    effects = effects_of(options.techniques)
    replica = Replica(s.transformer, s.plan, cluster, s.engine, float(options.experts.skew), effects=effects)
    if s.cluster.unlike:
        busy = min(TYPICAL_BATCH, served.config.max_num_seqs)
        served = replace(served, paces=replica.paces(busy, float(np.mean(trace.isl + 0.5 * trace.osl))))
    if not options.techniques:
        return replace(served, table=build_step_table(replica, served.config, max_context=longest))
    raise_all([p for t in options.techniques for p in t.applies(s)])
    fitted = fit(
        options.techniques,
        served.pool.role,
        replica,
        served.config,
        served.kv,
        max_context=longest,
        seed=options.seed,
        trace=trace,
    )
    return replace(served, table=fitted.table, kv=fitted.kv, fitted=fitted)


def _weighed(served: Sequence[Served], trace: Trace) -> list[Served]:
    """Unlike pools with the speed of a replica at the mean request: steps of :data:`TYPICAL_BATCH` decodes."""
    isl, osl = float(trace.isl.mean()), float(trace.osl.mean())
    found = []
    for s in served:
        speed = 1.0
        if s.table is not None:
            new = max(1.0, min(isl, float(s.config.max_num_batched_tokens)))
            prompt = s.table.time_s(int(new), 1, chunks=1, new=new, pairs=0.5 * new * new) * isl / new
            n = min(TYPICAL_BATCH, s.config.max_num_seqs)
            answer = s.table.time_s(n, n, n, n * (isl + 0.5 * osl)) * osl / n
            speed = 1.0 / ((s.pool.role != "decode") * prompt + (s.pool.role != "prefill") * answer)
        found.append(replace(s, weight=speed))
    return found


def _plan(scenario: Scenario) -> dict[str, Any]:
    """A plan as plain values; weights in host memory, and the host, where there are some."""
    found = asdict(scenario.plan)
    if not found["offload"]:
        del found["offload"]
    elif scenario.cluster.host is not None:
        found["host"] = scenario.cluster.host.name
    return found


def _flags(config: EngineConfig) -> dict[str, Any]:
    """An engine's flags; those of recurrent states and of its clients where they are not the usual."""
    found = asdict(config)
    if config.moved == UNMOVED:
        del found["moved"]
    states = {"mamba_cache_mode": "none", "max_mamba_cache_size": 0, "mamba_full_memory_ratio": 0.0}
    states |= {"stream_interval": 1, "scheduler_recv_interval": 1, "all_reduce": "", "sampling": "greedy"}
    states |= {"enforce_eager": False}
    return {name: value for name, value in found.items() if states.get(name, ...) != value}


def _inputs(
    deployment: Deployment, served: Sequence[Served], trace: Trace, options: Options, order: Order
) -> dict[str, Any]:
    first, policy = served[0], options.policy
    inputs: dict[str, Any] = {
        "model": first.scenario.transformer.name,
        "on": ",".join(asks_again(s.scenario.cluster) for s in served),
        "trace": trace.name,
        "requests": len(trace),
        "trace_hash": _trace_hash(trace),
        "plan": _plan(first.scenario),
        "engine": _flags(first.config),
        "policy": policy if isinstance(policy, str) and not order.builtin else order.name,
        "router": deployment.router,
        "slo": dict(options.slo),
        SKEW: options.experts.skew,
        "seed": options.seed,
        "usd_per_hour": options.usd_per_hour,
        "kv_blocks": first.kv.blocks,
        "replicas": first.pool.replicas,
    }
    if len(served) > 1:
        inputs["pools"] = [
            {
                "role": s.pool.role,
                "machine": s.scenario.cluster.machine.name,
                "replicas": s.pool.replicas,
                "plan": _plan(s.scenario),
                "engine": _flags(s.config),
                "kv_blocks": s.kv.blocks,
            }
            for s in served
        ]
        inputs["transfer_overlap"] = options.transfer_overlap
    if options.assigned is not None:
        inputs["assigned"] = _digest(np.asarray(options.assigned, dtype=np.float64))
    if options.anchor:
        inputs["anchor"] = options.anchor
    if options.techniques:
        inputs["techniques"] = [str(t) for t in options.techniques]
    if options.encode_s is not None:
        inputs["encode_s"] = _digest(np.asarray(options.encode_s, dtype=np.float64))
        inputs |= {"encode_spread": options.encode_spread} if options.encode_spread > 1 else {}
    if not order.builtin:
        inputs["policy_keys"] = _digest(order.keys)
    return inputs


def _choice(kind: str, name: str, known: tuple[str, ...]) -> str:
    for candidate in known:
        if normalise(candidate) == normalise(name):
            return candidate
    raise UnknownName(kind, name, known)


def _trace_hash(trace: Trace) -> str:
    names = (
        "arrived_at",
        *LENGTHS,
        "priority",
        "deadline_s",
        "session",
        "adapter",
        "prefix_hashes",
        "after",
        "delay_s",
    )
    columns = {name: _digest(getattr(trace, name)) for name in names if getattr(trace, name) is not None}
    branched = {"branches": trace.branches} if trace.branches > 1 else {}
    return content_hash({"concurrency": trace.concurrency, **branched, **columns})


def _digest(array: Any) -> str:
    from hashlib import sha256

    return sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def too_long(trace: Trace, served: Sequence[Served]) -> Any:
    """Requests that some stage of the deployment could never serve: beyond the model or all blocks of a replica."""
    total = trace.isl + trace.osl
    members = [s.member(Options()) for s in served]
    stages = [("both", "prefill"), ("decode",) if any(m.role == "decode" for m in members) else ("both",)]
    bad = np.zeros(len(trace), dtype=bool)
    for stage in stages if any(m.role == "prefill" for m in members) else stages[:1]:
        bad |= total > max(m.longest for m in members if m.role in stage)
    return bad
