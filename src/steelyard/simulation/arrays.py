"""The kernel's arrays: limits and rules of every pool, requests and queues, and what is left of them after a run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from steelyard.cost.encode import Passes
from steelyard.cost.kv_pool import NO_LIMIT, KvPool, longest_request, seated
from steelyard.cost.step_table import Tables
from steelyard.deployment.deployment import ROLES
from steelyard.deployment.dynamics import Dynamics
from steelyard.deployment.engine import ADMISSIONS, VICTIMS
from steelyard.deployment.engine_config import EngineConfig
from steelyard.simulation.client import seen_by_clients
from steelyard.simulation.kernel.methods import Methods, plain_methods
from steelyard.simulation.kernel.rules import RuleSet
from steelyard.simulation.kernel.state import (
    DOWN,
    DRAWN,
    INPUT,
    ITL_BINS,
    LARGEST,
    LINK,
    REQUEST,
    RUN,
    RUN_STEPS,
    SETUP,
    SLOT,
    TIMER,
    TOTAL,
    TOTALS,
    UNIT,
    UP,
    State,
    Tech,
    make_log,
    make_pools,
    make_units,
    make_ways,
    make_workers,
)
from steelyard.simulation.policies import Order, Policy, ordered
from steelyard.simulation.request_arrays import REJECTED, ROUTERS, UNFINISHED, request_arrays
from steelyard.simulation.sizes import check_bytes, check_steps
from steelyard.traffic.trace import Trace

__all__ = ["REJECTED", "ROUTERS", "UNFINISHED", "Member", "Played", "Setup", "play", "setup_of", "setup_of_fleet"]

#: A prefix unit of so many times the largest block is not taken.
LONG_UNIT = 4
#: No promise: nothing can miss it.
_KEPT = (math.inf, 0)


@dataclass(frozen=True, eq=False)
class Member:
    """A pool as the kernel sees it."""

    config: EngineConfig
    kv: KvPool
    replicas: int = 1
    lanes: int = 1
    role: str = "both"
    max_context: int = 0
    """Longest prompt and answer of the model, 0 = no limit."""
    weight: float = 1.0
    """Speed relative to the others, for the least-loaded router."""
    relays: bool = False
    """The first token is sent by the replica for answers, once it has the cache."""
    overlap: float = 0.0
    """Share of a transfer of its cache that runs beside the prompt."""
    ranks: int = 1
    """Data-parallel ranks of a replica (``replicas`` counts the ranks of all)."""
    lockstep: bool = False
    """Ranks of a replica step together."""
    changes: Dynamics = field(default_factory=Dynamics)
    paces: float = 0.0
    """Length of a step over that of its slowest stage; 0: ``lanes``, as of equal stages."""

    @property
    def longest(self) -> int:
        """Tokens of the longest request it takes."""
        return NO_LIMIT if self.role == "encode" else longest_request(self.kv, self.config, self.max_context)


@dataclass(frozen=True, eq=False)
class Setup:
    """Limits and rules of a run, packed."""

    run: Any
    """One record of :data:`~steelyard.simulation.kernel.state.RUN`."""
    pools: Any
    """``[pool]`` of :data:`~steelyard.simulation.kernel.state.SETUP`."""
    wires: Any
    """``[pool, pool]`` of :data:`~steelyard.simulation.kernel.state.LINK`."""
    members: tuple[Member, ...]

    @property
    def unit_tokens(self) -> int:
        """Tokens of a cached prefix unit, 0 when no pool caches."""
        return int(self.pools["unit_tokens"].max())


@dataclass(frozen=True, eq=False)
class Played:
    """What the kernel leaves behind: packed arrays of :mod:`steelyard.simulation.kernel.state`."""

    requests: Any
    pools: Any
    workers: Any
    units: Any
    log: Any
    stride: int
    itl: Any
    totals: Mapping[str, float]
    """Counters of the whole run."""
    per_pool: tuple[Mapping[str, float], ...]
    """The same of each pool."""
    wall_s: float


def setup_of(
    config: EngineConfig,
    pool: KvPool,
    trace: Trace,
    *,
    replicas: int = 1,
    lanes: int = 1,
    router: str = "round-robin",
    policy: str | type[Policy] | Policy | Order = "fcfs",
    request_s: float = 0.0,
    stop_after_s: float | None = None,
    stop_after_iterations: int | None = None,
    log: int = 1 << 18,
) -> Setup:
    """Equal replicas of one engine that do everything."""
    return setup_of_fleet(
        [Member(config, pool, replicas, lanes)],
        trace,
        router=router,
        policy=policy,
        request_s=request_s,
        stop_after_s=stop_after_s,
        stop_after_iterations=stop_after_iterations,
        log=log,
    )


def setup_of_fleet(
    members: Sequence[Member],
    trace: Trace,
    *,
    wires: Any = None,
    router: str = "round-robin",
    policy: str | type[Policy] | Policy | Order = "fcfs",
    request_s: float = 0.0,
    stop_after_s: float | None = None,
    stop_after_iterations: int | None = None,
    log: int = 1 << 18,
    promises: Mapping[str, tuple[float, int]] = MappingProxyType({}),
    read: Passes | None = None,
) -> Setup:
    """The kernel's limits and rules from the engines' flags.

    Args:
        members: the pools.
        trace: what is sent.
        wires: ``[pool, pool]`` of :data:`~steelyard.simulation.kernel.state.LINK`; None = caches travel in no time.
        router, policy: names. request_s: from the client to the engine.
        stop_after_s, stop_after_iterations: see :func:`steelyard.simulation.result.simulate`.
        log: steps to keep.
        promises: ``ttft_s``, ``tpot_s`` or ``e2e_s`` -> (limit, requests that may miss it): the run is given up, with 4
            as its ``stop``, when more do.
        read: what images and sounds of the requests take.
    """
    order = ordered(policy, trace)
    blocks = [m.kv.block_tokens for m in members]
    unit = _unit(trace.prefix_block_tokens, blocks)
    pools = np.zeros(len(members), dtype=SETUP)
    for record, member in zip(pools, members, strict=True):
        _fill(record, _pool_values(member, order, unit if trace.prefix_hashes is not None else 0))
    budget = min(m.config.max_num_batched_tokens for m in members)
    chunks = np.sum(-(-trace.isl // max(1, budget)), dtype=np.float64)
    answers = float(np.sum(trace.osl, dtype=np.float64))
    check_steps(answers, float(chunks))
    most = int(10 * (answers + float(chunks)) + 1000)
    run = np.zeros(1, dtype=RUN)
    stages = make_ways(make_pools(pools, [0] * len(members), [1.0] * len(members)), pools)[1]
    late = {"ttft_s": members[-1].config.moved.first}  # the kernel's clock is that of the steps
    _fill(
        run[0],
        {
            "router": ROUTERS[router],
            "entries": stages[0],
            "outputs": stages[1],
            "encoders": stages[2],
            "concurrency": trace.concurrency,
            "max_iterations": most if stop_after_iterations is None else int(stop_after_iterations),
            "log": int(log > 0),
            "has_events": int(any(m.changes.any for m in members)),
            "fork_on_first": int(trace.branches > 1),
            "add_time": float(order.from_arrival),
            "request_s": request_s,
            **({} if read is None else _reading(read, stages[2] or stages[0])),
            "front_s": max(_served_by_one(m.config, m.config.front_s) for m in members) / max(1, stages[0]),
            "max_time_s": float("inf") if stop_after_s is None else float(stop_after_s),
            **{name: promises.get(name, _KEPT)[0] / late.get(name, 1.0) for name in ("ttft_s", "tpot_s", "e2e_s")},
            **{f"{name}_left": promises.get(f"{name}_s", _KEPT)[1] for name in ("ttft", "tpot", "e2e")},
        },
    )
    size = len(members)
    return Setup(run, pools, np.zeros((size, size), dtype=LINK) if wires is None else wires, tuple(members))


def _reading(read: Passes, entries: int) -> dict[str, float]:
    """Power of a device while it reads, the least time of a step for it, and what the hosts work on at once.

    Images are prepared where they are encoded: on the hosts of the encoders where these have their own.
    """
    return {"read_w": read.power_w, "read_s": read.launches_s, "hosts": max(1, entries) * read.host_workers}


def _unit(hashed: int, blocks: Sequence[int]) -> int:
    """Tokens of a cached prefix unit: whole hashed blocks and whole blocks of every engine.

    Where that is long, as with the large blocks of recurrent states, whole hashed blocks that hold one of every engine:
    what is left of a unit beside whole blocks counts as the request's own.
    """
    exact, least = math.lcm(hashed, *blocks), max(hashed, *blocks)
    return exact if exact <= LONG_UNIT * least else -(-least // hashed) * hashed


def _fill(record: Any, values: Mapping[str, float]) -> None:
    for name, value in values.items():
        record[name] = value


def _pool_values(member: Member, order: Order, unit: int) -> dict[str, float]:
    config, pool, rules = member.config, member.kv, member.config.rules
    victim = "worst" if not order.by_arrival and rules.victim == "last" else rules.victim
    unit = unit if config.enable_prefix_caching else 0
    return {
        "max_tokens": config.max_num_batched_tokens,
        "max_seqs": seated(config, pool).max_num_seqs,
        "threshold": config.long_prefill_token_threshold,
        "block": pool.block_tokens,
        "blocks": pool.blocks,
        "fixed": pool.fixed_blocks,
        "cap": pool.token_cap,
        "mixed": int(rules.mixed),
        "chunked": int(config.enable_chunked_prefill),
        "admission": ADMISSIONS.index(config.admission),
        "victim": VICTIMS.index(victim),
        "to_back": int(rules.to_back),
        "static": int(rules.static),
        "watermark": int(np.ceil(config.watermark * pool.blocks)),
        "replicas": member.replicas,
        "stages": member.lanes,
        "unit_tokens": unit,
        "unit_blocks": unit // pool.block_tokens,
        "role": ROLES.index(member.role),
        "relays": int(member.relays),
        "conservativeness": config.schedule_conservativeness,
        "stream_s": _served_by_one(config, config.stream_s / config.stream_interval) * (member.role != "prefill"),
        "overlap": member.overlap,
        "paces": member.paces or float(member.lanes),
        "ranks": member.ranks,
        "ahead": int(config.async_scheduling and member.lanes == 1),
        "lockstep": int(member.lockstep and member.ranks > 1 and member.lanes == 1),
        "pad": config.cuda_graph_sizes_to,
        "pad_mixed": config.graph_tokens if config.cuda_graph_sizes_to else 0,
        "wait_steps": config.batch_wait_timeout_iters,
        "wait_tokens": int(config.batch_wait_max_tokens_ratio * config.max_num_batched_tokens),
        **_change_values(member),
    }


def _served_by_one(config: EngineConfig, seconds: float) -> float:
    """What the API servers of a replica need for one thing after another; 0 where there are none."""
    return seconds / config.api_server_count if config.api_server_count else 0.0


def _change_values(member: Member) -> dict[str, float]:
    changes, scale = member.changes, member.changes.autoscale
    values = {
        "migrate": int(changes.migrate and member.role in ("both", "decode") and member.replicas > 1),
        "mtbf_s": 0.0 if member.role == "encode" else changes.mtbf_s,
        "restart_s": changes.restart_s,
    }
    if scale is not None and member.role != "encode":
        values |= {
            "scales": 1,
            "least": scale.least,
            "most": min(scale.most, member.replicas // member.ranks),
            "load_target": scale.target,
            "interval_s": scale.interval_s,
            "start_s": scale.start_s,
        }
    return values


def play(
    setup: Setup,
    tables: Tables | Sequence[Tables],
    trace: Trace,
    policy: str | type[Policy] | Policy | Order,
    router: str,
    seed: int,
    rejected: Any,
    log: int,
    *,
    read: Passes | None = None,
    assigned: Any = None,
    methods: Callable[[Tables, int, int], Methods] | None = None,
    watch: Callable[[Any], None] | None = None,
) -> Played:
    """Run the kernel on fresh arrays.

    Args:
        setup: limits and rules.
        tables: prices of steps, of one pool or of each.
        trace, policy, router, seed: as given to ``setup_of``.
        rejected: ``[n]`` requests refused at the door.
        log: steps to keep.
        read: what images and sounds of the requests take: of the host before, in encoders where there are some, else in
            the steps that begin their prompts; None = nothing.
        assigned: ``[n]`` pool that computes the prompt, -1 = any; None = any for all.
        methods: makes the arrays of what engines do beyond scheduling from ``(tables, replicas, prefix units)``;
            None = nothing of it.
        watch: called once, before the first event, with the live counters ``[pool, TOTALS]``; the kernel runs without
            the interpreter's lock, so another thread may read them.
    """
    from steelyard.cost.jit import compile_for, compiled_here
    from steelyard.simulation.kernel.kernel import run_kernel

    joined = _joined([tables] if isinstance(tables, Tables) else tables)
    order = ordered(policy, trace)
    state = _state(setup, trace, order, router, seed, rejected, read, assigned, joined, log)
    tech = None
    if methods is not None or order.rules or not _plain(setup):
        tech = _tech(setup, state, seed, joined, methods, order.rules)
    if watch is not None:
        watch(state.totals.view(np.float64).reshape(len(state.totals), len(TOTALS)))
    if not compiled_here():
        state, tech = _played_by_python(state), tech and _played_by_python(tech)
    compile_for(run_kernel, (state, tech))  # the first time takes long and is no part of the simulation
    start = time.perf_counter()
    with np.errstate(over="ignore"):  # draws of the kernel are integers that wrap around, which Python would report
        run_kernel(state, tech)
    wall = time.perf_counter() - start
    seen_by_clients(state.requests, setup.members[-1].config)
    totals = {n: float(state.totals[n].max() if n in LARGEST else state.totals[n].sum()) for n in TOTALS}
    each = tuple({name: float(row[name]) for name in TOTALS} for row in state.totals)
    rows, stride = int(state.run["log_rows"]), int(state.run["log_stride"])
    s, log_kept = state, state.log[:rows]
    return Played(s.requests, s.replicas, s.workers, s.units, log_kept, stride, s.itl, totals, each, wall)


def _plain(setup: Setup) -> bool:
    """Whether the lean kernel plays it: replicas that do everything, each on its own, and nothing happens to them."""
    x = setup.pools
    past = ADMISSIONS.index("past-future")
    return not (
        setup.run[0]["has_events"] or np.any(x["role"] != 0) or np.any(x["lockstep"]) or np.any(x["admission"] == past)
    )


def _played_by_python(arrays: Any) -> Any:
    """The same memory as records whose fields are attributes, as compiled code has them."""
    return arrays._replace(
        **{
            name: value.view(np.recarray) if isinstance(value, np.ndarray) and value.dtype.names else value
            for name, value in arrays._asdict().items()
        }
    )


def _joined(tables: Sequence[Tables]) -> Tables:
    """One array of all tables, ``layout[pool]`` where each is."""
    offsets = np.cumsum([0, *(len(t.data) for t in tables)])
    layout = np.zeros((len(tables), max(len(t.layout) for t in tables), 4), dtype=np.int64)
    for k, table in enumerate(tables):
        layout[k, : len(table.layout)] = table.layout
    layout[:, :, 0] += offsets[:-1, None]
    return Tables(tables[0].data if len(tables) == 1 else np.concatenate([t.data for t in tables]), layout)


def _state(
    setup: Setup,
    trace: Trace,
    policy: Order,
    router: str,
    seed: int,
    rejected: Any,
    read: Passes | None,
    assigned: Any,
    tables: Tables,
    log: int,
) -> State:
    """The arrays of every simulation."""
    x, members = setup.pools, setup.members
    count, slots = sum(m.replicas for m in members), min(int(x["max_seqs"].max()), len(trace)) + 2
    lanes = sum(m.replicas * m.lanes for m in members)
    parts = {
        f"{len(trace):,} requests": ("requests", len(trace) * (REQUEST.itemsize + INPUT.itemsize)),
        f"{lanes:,} engines of {slots:,} requests at once": ("replicas", lanes * slots * SLOT.itemsize),
    }
    check_bytes(parts)
    replicas = make_pools(x, [m.longest for m in members], [m.weight for m in members])
    workers = make_workers(replicas, x)
    requests, inputs, prefix_units, children, order, units = request_arrays(
        trace, int(setup.run[0]["entries"]), setup.unit_tokens, policy, router, seed, rejected, read, assigned
    )
    known = f"{count:,} caches of {units:,} blocks that requests share"
    check_bytes({**parts, known: ("replicas", count * units * UNIT.itemsize)})
    run = setup.run.copy()
    run["log_stride"], run["next_request"], run["pending"] = 1, trace.concurrency, -1
    run["reads"] = int(read is not None and not run["encoders"][0])
    return State(
        run=run.view(np.recarray)[0],
        setups=x,
        ways=make_ways(replicas, x)[0],
        requests=requests,
        inputs=inputs,
        prefix_units=prefix_units,
        children=children,
        slots=np.zeros((lanes, slots), dtype=SLOT),
        workers=workers,
        replicas=replicas,
        units=make_units(len(replicas), units),
        totals=np.zeros(len(x), dtype=TOTAL),
        data=tables.data,
        layout=tables.layout,
        order=order,
        log=make_log(min(log, int(setup.run[0]["max_iterations"]) + 2)),
        itl=np.zeros(ITL_BINS, dtype=np.int64),
        growth=np.zeros(RUN_STEPS, dtype=np.int64),
    )


def _tech(
    setup: Setup,
    state: State,
    seed: int,
    tables: Tables,
    methods: Callable[[Tables, int, int], Methods] | None,
    rules: RuleSet | None,
) -> Tech:
    """The arrays of what goes beyond plain engines, with the events that are known beforehand."""
    from steelyard.simulation.kernel.rule_calls import rule_arrays

    x, members, replicas, run = setup.pools, setup.members, state.replicas, state.run
    outages = sorted((o for o in (members[0].changes.outages if members else ())), key=lambda o: o.at_s)
    events = bool(run["has_events"])
    timers = np.zeros(2 * state.slots.size + 8 * events * (len(replicas) + len(x)) + len(outages) + 2, dtype=TIMER)
    firsts = _firsts(replicas, x)
    for k, outage in enumerate(outages):
        timers[k] = (outage.at_s, UP if outage.up else DOWN, firsts[outage.replica], 0, k)
    run["timers"], run["timer_seq"] = len(outages), len(outages)
    draws = np.zeros((1, 1))
    if np.any(x["mtbf_s"] > 0):
        draws = np.random.default_rng([seed, 1]).exponential(1.0, (len(replicas), DRAWN))
    past = bool(np.any(x["admission"] == ADMISSIONS.index("past-future")))
    plain = plain_methods(tables, len(replicas), len(x), past)
    m = plain if methods is None else methods(tables, len(replicas), state.units.shape[1])
    return Tech(
        records=m.z,
        wires=setup.wires,
        timers=timers,
        draws=draws,
        stranded=np.array([-1, -1, -1, 0, 0, 0], dtype=np.int64),
        adapter_of=m.adapter_of,
        lora_slots=m.seats,
        slot_of=m.seat_of,
        lora_link_free=m.seat_free,
        tiers=m.tiers,
        tier_rows=m.tier_rows,
        tier_units=m.below,
        swapped=m.swapped,
        past=plain.past,
        **rule_arrays(rules, state),
    )


def _firsts(pools: Any, x: Any) -> list[int]:
    """The first rank of every replica."""
    return [
        r
        for r in range(len(pools))
        if (r - int(np.argmax(pools["pool"] == pools["pool"][r]))) % int(x["ranks"][pools["pool"][r]]) == 0
    ]
