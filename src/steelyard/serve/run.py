"""From a question to the kernel and back: checks at the door, arrays, the run, records."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from steelyard import __version__
from steelyard.errors import InputError, Problem, UnknownName, normalise, raise_all
from steelyard.estimation import Scenario, check, default_shape, exact_weight_bytes, hourly_price
from steelyard.machine.cluster import Cluster, cluster_of, parse_cluster
from steelyard.machine.component import Machine
from steelyard.plan.engine import default_engine, find_engine
from steelyard.plan.plan import Plan
from steelyard.provenance import Ledger, content_hash
from steelyard.serve.engine import ADMISSIONS, VICTIMS, EngineConfig, engine_config
from steelyard.serve.kv import KvPool, kv_pool
from steelyard.serve.policies import Order, Policy, ordered
from steelyard.serve.simulation import COMPLETED, REJECTED, UNFINISHED, Iterations, Records, Simulation
from steelyard.serve.state import (
    EXTRA,
    ITL_BINS,
    LINKS,
    REQUEST,
    SETUP,
    SLOT,
    TOTALS,
    itl_edges,
    make_log,
    make_pools,
    make_units,
    make_workers,
)
from steelyard.serve.step_table import StepTable, Tables, build_step_table, scaled
from steelyard.serve.traffic.trace import Trace
from steelyard.workload.catalogue import Model, load_model

__all__ = ["ROUTERS", "Played", "Prepared", "play", "prepare", "run", "setup_of"]

#: How a request finds its replica.
ROUTERS = ("round-robin", "random", "session", "least-loaded", "prefix")
_SLO = ("ttft_s", "tpot_s", "e2e_s")
_STOPS = {0: "", 1: "simulated time limit reached", 2: "step limit reached: the load grows faster than it is served"}


@dataclass(frozen=True, eq=False)
class Prepared:
    """A question checked and compiled, ready to run any number of times."""

    scenario: Scenario
    trace: Trace
    config: EngineConfig
    pool: KvPool
    table: StepTable
    policy: Order
    router: str
    seed: int
    slo: Mapping[str, float]
    inputs: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Played:
    """What the kernel leaves behind: packed arrays of :mod:`steelyard.serve.state`."""

    requests: Any
    pools: Any
    workers: Any
    units: Any
    log: Any
    stride: int
    itl: Any
    totals: Mapping[str, float]
    wall_s: float


def prepare(
    model: str | Model, on: str | Cluster | Machine, trace: Trace, weights: str, activations: str, kv: str,
    communication: str, tp: int | None, pp: int | None, dp: int | None, ep: int, cp: int, engine: str,
    policy: str | type[Policy] | Policy, router: str, flags: dict[str, Any], slo: dict[str, float], skew: float,
    seed: int, usd_per_hour: float | None, generic: bool,
) -> Prepared:  # fmt: skip
    """Check every input, count the blocks, build the step table. Raises as :func:`simulate` says."""
    problems = []
    for name, value in {"tp": tp, "pp": pp, "dp": dp, "ep": ep, "cp": cp}.items():
        if value is not None and value < 1:
            problems.append(Problem(name, f"expected at least 1, got {value}"))
    for name, limit in slo.items():
        if name not in _SLO:
            problems.append(Problem(f"slo.{name}", f"expected one of {', '.join(_SLO)}"))
        elif not limit > 0:
            problems.append(Problem(f"slo.{name}", f"expected a time above 0, got {limit}"))
    router = _choice("router", router, ROUTERS)
    try:
        order = ordered(policy, trace)
    except UnknownName:
        raise
    except InputError as error:
        problems += error.problems
    if router == "prefix" and trace.prefix_hashes is None:
        problems.append(Problem("router", "the trace has no prefix hashes to route by"))
    raise_all(problems)
    loaded = model if isinstance(model, Model) else load_model(model, generic=generic)
    if not loaded.transformer.causal:
        raise InputError(f"{loaded.transformer.name} does not generate: nothing to serve token by token", field="model")
    cluster = on if isinstance(on, Cluster) else cluster_of(on) if isinstance(on, Machine) else parse_cluster(on)
    shape = default_shape(loaded.transformer, cluster, tp, pp, dp, cp)
    plan = Plan(weights, activations, kv, communication, shape[0], shape[1], shape[2], ep, cp, engine)
    entry = find_engine(engine) if engine else default_engine(cluster.machine)
    config = engine_config(entry, cluster.machine, flags)
    if router == "prefix" and not config.enable_prefix_caching:
        raise InputError("the prefix router needs an engine that caches prefixes", field="router")
    means = round(float(trace.isl.mean())), round(float(trace.osl.mean()))
    scenario = Scenario(
        loaded, cluster, plan.resolved(loaded.transformer.native_weights), entry,
        max(1, min(len(trace), config.max_num_seqs * shape[2])), means[0], means[1], skew, usd_per_hour,
    )  # fmt: skip
    check(replace(scenario, isl=1, osl=1))
    pool = kv_pool(
        loaded.transformer, scenario.plan, cluster.machine, entry, config, exact_weights=exact_weight_bytes(scenario)
    )
    served = ~_too_long(trace, config, pool, loaded.transformer.max_context)
    longest = int(np.max((trace.isl + trace.osl)[served], initial=2))
    table = build_step_table(loaded.transformer, scenario.plan, cluster, entry, config, max_context=longest, skew=skew)
    inputs = {
        "model": loaded.transformer.name, "on": str(cluster), "trace": trace.name, "requests": len(trace),
        "trace_hash": _trace_hash(trace), "plan": asdict(scenario.plan), "engine": asdict(config),
        "policy": policy if isinstance(policy, str) and not order.builtin else order.name,
        "router": router, "slo": dict(slo), "skew": skew, "seed": seed, "usd_per_hour": usd_per_hour,
        "kv_blocks": pool.blocks,
    }  # fmt: skip
    if not order.builtin:
        inputs["policy_keys"] = _digest(order.keys)
    return Prepared(scenario, trace, config, pool, table, order, router, seed, slo, inputs)


def _choice(kind: str, name: str, known: tuple[str, ...]) -> str:
    for candidate in known:
        if normalise(candidate) == normalise(name):
            return candidate
    raise UnknownName(kind, name, known)


def _trace_hash(trace: Trace) -> str:
    columns = {
        name: _digest(getattr(trace, name))
        for name in (
            "arrived_at",
            "isl",
            "osl",
            "priority",
            "deadline_s",
            "session",
            "prefix_hashes",
            "after",
            "delay_s",
        )
        if getattr(trace, name) is not None
    }
    return content_hash({"concurrency": trace.concurrency, **columns})


def _digest(array: Any) -> str:
    from hashlib import sha256

    return sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def _too_long(trace: Trace, config: EngineConfig, pool: KvPool, max_context: int) -> Any:
    """Requests that could never be served: beyond the model's length, or beyond all blocks of a replica."""
    total = trace.isl + trace.osl
    limit = config.max_model_len or max_context
    bad = total > limit if limit else np.zeros(len(trace), dtype=bool)
    blocks = -(-np.minimum(total, pool.token_cap) // pool.block_tokens) + pool.fixed_blocks
    return bad | (blocks > pool.blocks)


def run(
    prepared: Prepared,
    stop_after_s: float | None,
    stop_after_iterations: int | None,
    log: int,
    started: float,
    factor: float = 1.0,
) -> Simulation:
    """Play a prepared question and make the records. ``factor``: every step so many times as long."""
    scenario, trace, config, pool = prepared.scenario, prepared.trace, prepared.config, prepared.pool
    plan = scenario.plan
    setup = setup_of(
        config, pool, trace, replicas=plan.dp, lanes=plan.pp, router=prepared.router, policy=prepared.policy,
        request_s=scenario.engine.request_s, stop_after_s=stop_after_s, stop_after_iterations=stop_after_iterations,
        log=log,
    )  # fmt: skip
    rejected = _too_long(trace, config, pool, scenario.transformer.max_context)
    built = time.perf_counter() - started
    tables = prepared.table.tables if factor == 1.0 else scaled(prepared.table.tables, factor)
    played = play(setup, tables, trace, prepared.policy, prepared.router, prepared.seed, rejected, log)
    totals = dict(played.totals)
    energy = _energy(scenario, totals)
    busy = max(totals["busy_s"] * plan.pp, 1e-30)
    totals |= {
        "energy_j": energy,
        "host_energy_j": scenario.cluster.host_w * plan.devices / scenario.cluster.per_node * totals["makespan_s"],
        "batch_mean": totals["batch_s"] / busy,
        "kv_mean_frac": totals["kv_s"] / busy / pool.blocks,
        "kv_max_frac": totals["kv_max"] / pool.blocks,
        "in_system_mean": totals["in_system_s"] / max(totals["makespan_s"], 1e-30),
        "idle_frac": 1.0 - min(1.0, totals["busy_s"] / max(totals["makespan_s"] * plan.dp, 1e-30)),
    }
    ledger = _ledger(prepared)
    usd, note = hourly_price(scenario, ledger)
    if usd is not None:
        ledger.cite("price", note)
    stopped = _STOPS[int(totals["stop"])]
    if not stopped and np.any(played.requests["status"] == UNFINISHED):
        stopped = "requests were left that no engine could admit"
    return Simulation(
        scenario=scenario, trace=trace, config=config, pool=pool, policy=prepared.policy.name, router=prepared.router,
        replicas=plan.dp,
        records=_records(played, trace, scenario.engine.request_s),
        iterations=_iterations(played.log, played.stride), totals=totals,
        itl_edges_s=itl_edges(), itl_counts=played.itl, stopped=stopped, wall_s=played.wall_s, build_s=built,
        usd_per_hour=usd, slo=prepared.slo, inputs=prepared.inputs, ledger=ledger,
        spread=prepared.table.spread,
        replay=partial(run, prepared, stop_after_s, stop_after_iterations, 0, started),
    )  # fmt: skip


def setup_of(
    config: EngineConfig, pool: KvPool, trace: Trace, *, replicas: int = 1, lanes: int = 1, router: str = "round-robin",
    policy: str | type[Policy] | Policy | Order = "fcfs", request_s: float = 0.0, stop_after_s: float | None = None,
    stop_after_iterations: int | None = None, log: int = 1 << 18,
) -> Any:  # fmt: skip
    """The kernel's limits and rules from an engine's flags."""
    rules, order = config.rules, ordered(policy, trace)
    victim = "worst" if not order.by_arrival and rules.victim == "last" else rules.victim
    prefixes = config.enable_prefix_caching and trace.prefix_hashes is not None
    unit = math.lcm(trace.prefix_block_tokens, pool.block_tokens)  # whole hashed blocks and whole blocks of the engine
    chunks = np.sum(-(-trace.isl // max(1, config.max_num_batched_tokens)), dtype=np.float64)
    most = int(10 * (float(np.sum(trace.osl, dtype=np.float64)) + float(chunks)) + 1000)
    x = np.zeros(1, dtype=SETUP)
    values: dict[str, float] = {
        "max_tokens": config.max_num_batched_tokens,
        "max_seqs": config.max_num_seqs,
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
        "replicas": replicas,
        "lanes": lanes,
        "router": {"round-robin": 0, "random": 1, "session": 1, "least-loaded": 2, "prefix": 3}[router],
        "add_time": float(order.from_arrival),
        "concurrency": trace.concurrency,
        "unit_tokens": unit if prefixes else 0,
        "unit_blocks": unit // pool.block_tokens if prefixes else 0,
        "conservativeness": config.schedule_conservativeness,
        "request_s": request_s,
        "max_time_s": float("inf") if stop_after_s is None else float(stop_after_s),
        "max_iterations": most if stop_after_iterations is None else int(stop_after_iterations),
        "log": int(log > 0),
    }
    for name, value in values.items():
        x[name] = value
    return x


def play(
    setup: Any, tables: Tables, trace: Trace, policy: str | type[Policy] | Policy | Order, router: str, seed: int,
    rejected: Any, log: int,
) -> Played:  # fmt: skip
    """Run the kernel on fresh arrays. ``setup``: one record of :data:`~steelyard.serve.state.SETUP`."""
    from steelyard.serve.kernel import run_kernel

    x = setup[0]
    requests, extra, links, units_of, children, order, units = _arrays(
        trace, x, ordered(policy, trace), router, seed, rejected
    )
    workers = make_workers(int(x["replicas"] * x["lanes"]))
    slots = np.zeros((len(workers), min(int(x["max_seqs"]), len(trace)) + 1), dtype=SLOT)
    pools = make_pools(int(x["replicas"]), int(x["blocks"]), min(0.7 * float(x["conservativeness"]), 1.0))
    cache = make_units(int(x["replicas"]), units)
    kept = make_log(min(log, int(x["max_iterations"]) + 2))
    meta = np.array([0, 1, 0], dtype=np.int64)
    itl = np.zeros(ITL_BINS, dtype=np.int64)
    total = np.zeros(len(TOTALS))
    numbers = np.array([0, trace.concurrency, 0, 0], dtype=np.int64)
    start = time.perf_counter()
    run_kernel(
        setup, tables.data, tables.layout, requests, order, extra, links, units_of, children, slots, workers, pools,
        cache, kept, meta, itl, total, numbers,
    )  # fmt: skip
    wall = time.perf_counter() - start
    totals = {name: float(value) for name, value in zip(TOTALS, total, strict=True)}
    return Played(requests, pools, workers, cache, kept[: meta[0]], int(meta[1]), itl, totals, wall)


def _units(trace: Trace, unit_tokens: int) -> tuple[Any, Any, int]:
    """Prefix units as small numbers such that equal numbers mean equal whole prefixes: ``(units, offsets, count)``.

    The identity of a unit is a polynomial hash (modulo 2^64) of all hashes of its request up to it. A unit of several
    hashed blocks has the identity of its last one.
    """
    assert trace.prefix_hashes is not None and trace.prefix_offsets is not None
    offsets = np.asarray(trace.prefix_offsets, dtype=np.int64)
    mixed = np.asarray(trace.prefix_hashes).astype(np.uint64)
    mixed = (mixed ^ (mixed >> np.uint64(31))) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(1)
    sizes = np.diff(offsets)
    place = np.arange(len(mixed)) - np.repeat(offsets[:-1], sizes)
    powers = np.cumprod(np.full(int(sizes.max(initial=0)) + 1, 0xBF58476D1CE4E5B9, dtype=np.uint64), dtype=np.uint64)
    sums = np.cumsum(mixed * powers[place], dtype=np.uint64)
    base = np.concatenate([np.zeros(1, dtype=np.uint64), sums])[offsets[:-1]]
    chained = sums - np.repeat(base, sizes)
    group = unit_tokens // trace.prefix_block_tokens
    if group > 1:
        chained = chained[place % group == group - 1]
        offsets = np.concatenate([[0], np.cumsum(sizes // group)])
    found, units = np.unique(chained, return_inverse=True)
    return units.astype(np.int32).reshape(-1), offsets, len(found)


def _arrays(
    trace: Trace, x: Any, policy: Order, router: str, seed: int, rejected: Any
) -> tuple[Any, Any, Any, Any, Any, Any, int]:
    """``(requests, extra, links, units of prompts, children, order of known arrivals, number of units)``."""
    n = len(trace)
    requests = np.zeros(n, dtype=REQUEST)
    for name in ("arrived_at", "isl", "osl"):
        requests[name] = getattr(trace, name)
    requests["remaining"] = trace.osl
    requests["status"] = np.where(rejected, REJECTED, UNFINISHED)
    for name in ("scheduled_at", "first_at", "last_at", "left_child", "right_child", "replica"):
        requests[name] = -1
    columns = _extra(trace, x, policy, router, seed)
    extra = np.zeros((n if columns else 1, len(EXTRA)))
    for name, values in columns.items():
        extra[:, EXTRA.index(name)] = values
    prefixes, waiting = int(x["unit_tokens"]) > 0, trace.after is not None and not trace.concurrency
    links = np.zeros((n if prefixes or waiting else 1, len(LINKS)), dtype=np.int64)
    units_of, children, units = np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.int32), 0
    if prefixes:
        units_of, offsets, units = _units(trace, int(x["unit_tokens"]))
        links[:, 0], links[:, 1] = offsets[:-1], np.diff(offsets)
    order = np.argsort(trace.arrived_at[: trace.concurrency or n], kind="stable")
    if waiting and trace.after is not None and trace.after_offsets is not None:
        links[:, 4] = np.diff(trace.after_offsets)
        sizes = np.bincount(trace.after, minlength=n)
        links[:, 2], links[:, 3] = np.cumsum(sizes) - sizes, sizes
        children = np.repeat(np.arange(n), links[:, 4])[np.argsort(trace.after, kind="stable")].astype(np.int32)
        order = order[links[order, 4] == 0]
    return requests, extra, links, units_of, children, order, units


def _extra(trace: Trace, x: Any, policy: Order, router: str, seed: int) -> dict[str, Any]:
    """Optional facts of requests by name; empty when nothing is special."""
    n = len(trace)
    columns: dict[str, Any] = {}
    if np.any(policy.keys):
        columns["base"] = policy.keys
    if trace.delay_s is not None and np.any(trace.delay_s > 0):
        columns["delay_s"] = trace.delay_s
    if int(x["router"]) == 1:
        rng = np.random.default_rng(seed)
        route = rng.integers(0, int(x["replicas"]), n)
        if router == "session" and trace.session is not None:
            names, which = np.unique(trace.session, return_inverse=True)
            sticky = rng.permutation(names.size)[which.reshape(-1)] % int(x["replicas"])
            route = np.where(trace.session >= 0, sticky, route)
        columns["route"] = route
    return columns


def _records(played: Played, trace: Trace, request_s: float) -> Records:
    q = played.requests
    status, scheduled, first = q["status"], q["scheduled_at"], q["first_at"]
    done, begun = status == COMPLETED, scheduled >= 0
    nan = np.nan
    known = begun if trace.concurrency else np.ones(len(trace), dtype=bool)
    arrived = np.where(known, q["arrived_at"], nan)
    last = np.where(done, q["last_at"], nan)
    first = np.where(first >= 0, first, nan)
    tpot = (last - first) / np.where(trace.osl > 1, trace.osl - 1, nan)
    return Records(
        arrived_at=arrived, isl=trace.isl, osl=trace.osl,
        queued_s=np.maximum(np.where(begun, scheduled, nan) - arrived - request_s, 0.0), ttft_s=first - arrived,
        tpot_s=tpot, e2e_s=last - arrived, preemptions=q["preemptions"].copy(), cached_tokens=q["cached"].copy(),
        replica=q["replica"].copy(), status=status.astype(np.int8),
    )  # fmt: skip


def _iterations(log: Any, stride: int) -> Iterations:
    return Iterations(
        start_s=log["start"], duration_s=log["duration"], replica=log["replica"], batch=log["batch"],
        prefill_tokens=log["prefill"], decode_tokens=log["decode"], kv_blocks=log["blocks"], running=log["running"],
        waiting=log["waiting"], stride=stride,
    )  # fmt: skip


def _energy(scenario: Scenario, totals: Mapping[str, float]) -> float:
    """Steps on every device of their stage, idle power for the rest of the makespan."""
    plan = scenario.plan
    per_stage = plan.replica_devices / plan.pp
    idle_s = plan.devices * totals["makespan_s"] - plan.replica_devices * totals["busy_s"]
    return totals["step_energy_j"] * per_stage + scenario.cluster.machine.idle_w * max(0.0, idle_s)


def _ledger(prepared: Prepared) -> Ledger:
    ledger = Ledger()
    scenario, config, pool = prepared.scenario, prepared.config, prepared.pool
    machine = scenario.cluster.machine
    for key, text in machine.sources.items():
        ledger.cite(f"{machine.name} {key}", text)
    for path, reason in machine.guess.items():
        ledger.guess(f"{machine.name}.{path}", reason)
    for name in scenario.engine.guess:
        ledger.guess(f"engine.{scenario.engine.name}.{name}", "not published; a guess until calibrated")
    for name, source in prepared.table.sources.items():
        ledger.cite(name, source)
    if config.rules.source:
        ledger.cite(f"scheduler {config.scheduler}", config.rules.source)
    plan = scenario.plan
    ledger.assume(f"scheduler: {config.rules.title}")
    ledger.assume(
        f"KV cache: {pool.blocks:,} blocks of {pool.block_tokens} tokens per replica"
        + (", as given" if pool.overridden else f" at {config.gpu_memory_utilization:.0%} of memory")
    )
    ledger.assume(f"formats: weights {plan.weights}, activations {plan.activations}, KV cache {plan.kv}")
    ledger.assume("answers stop at their length in the trace; the lengths are known to no scheduler but 'shortest'")
    if not prepared.policy.builtin:
        ledger.assume(f"policy {prepared.policy.name!r} is not one of ours: it sees the whole trace, answers included")
    if plan.shares_experts:
        ledger.assume(
            "replicas that share experts step on their own, each seeing the others' tokens as many as its own"
        )
    for note in prepared.trace.notes:
        ledger.assume(note)
    return ledger


def provenance(simulation: Simulation) -> dict[str, Any]:
    """What is needed to run it again: version, inputs and their hash."""
    inputs = dict(simulation.inputs)
    return {"version": __version__, "inputs": inputs, "hash": content_hash({"version": __version__, **inputs})}
