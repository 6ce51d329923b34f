"""A prepared deployment through the kernel: the run, its records, its counters."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np

from steelyard.cost.interval import known_conditions
from steelyard.cost.money import hourly_price, mean_price
from steelyard.cost.step_table import Tables, scaled
from steelyard.deployment.engine import UNMOVED
from steelyard.provenance import Ledger
from steelyard.simulation.arrays import Played, play, setup_of_fleet
from steelyard.simulation.assumptions import ledger_of
from steelyard.simulation.held import held_bytes
from steelyard.simulation.kernel.methods import Methods
from steelyard.simulation.kernel.state import itl_edges
from steelyard.simulation.prepared import Options, Prepared, Served
from steelyard.simulation.result import COMPLETED, UNFINISHED, Iterations, PoolOutcome, Records, Simulation
from steelyard.simulation.techniques import kernel_arrays
from steelyard.techniques._base import PoolEnd
from steelyard.traffic.trace import Trace

__all__ = ["run"]

_STOPS = {
    0: "",
    1: "simulated time limit reached",
    2: "step limit reached: the load grows faster than it is served",
    3: "replicas fail faster than requests are served",
    4: "given up: more requests missed a limit than may",
}
STEPS, FAILING = 2, 3


def run(
    prepared: Prepared,
    started: float,
    factor: float = 1.0,
    log: int | None = None,
    promises: Mapping[str, tuple[float, int]] = MappingProxyType({}),
) -> Simulation:
    """Play a prepared question and make the records.

    Args:
        prepared: the question.
        started: when its preparation began, ``time.perf_counter()``.
        factor: every step so many times as long.
        log: steps to keep, instead of what the options say.
        promises: a limit (s) by metric and how many requests may miss it; the run ends when more do.
    """
    options, trace, served = prepared.options, prepared.trace, prepared.served
    request_s = prepared.first.scenario.request_s
    kept = options.log if log is None else log
    read = None if options.passes is None else options.passes.slower(factor)
    setup = setup_of_fleet(
        [s.member(options) for s in served],
        trace,
        wires=prepared.wires,
        router=prepared.deployment.router,
        policy=prepared.policy,
        request_s=request_s,
        stop_after_s=options.stop_after_s,
        stop_after_iterations=options.stop_after_iterations,
        log=kept,
        promises=promises,
        read=read,
    )
    built = time.perf_counter() - started
    tables = [prepared.table.tables if s.table is None else s.table.tables for s in served]
    if factor != 1.0:
        tables = [scaled(t, factor) for t in tables]
    played = play(
        setup,
        tables,
        trace,
        prepared.policy,
        prepared.deployment.router,
        options.seed,
        prepared.rejected,
        kept,
        read=read,
        methods=_methods(prepared),
        assigned=options.assigned,
        watch=options.watch if factor == 1.0 and not promises else None,
    )
    ledger = ledger_of(prepared)
    rented = _rented(played)
    pools = tuple(
        _outcome(
            s, options, {**counted, "makespan_s": played.totals["makespan_s"], "rented_s": float(rented[k])}, ledger
        )
        for k, (s, counted) in enumerate(zip(served, played.per_pool, strict=True))
    )
    code = int(played.totals["stop"])
    if code == STEPS and played.totals["failures"] > played.totals["completed"]:
        code = FAILING
    stopped = _STOPS[code]
    if not stopped and np.any(played.requests["status"] == UNFINISHED):
        stopped = "requests were left that no engine could admit"
    return Simulation(
        scenario=prepared.first.scenario,
        trace=trace,
        config=prepared.first.config,
        pool=prepared.first.kv,
        policy=prepared.policy.name,
        router=prepared.deployment.router,
        replicas=sum(s.ranks for s in served),
        records=_records(played, trace, request_s),
        iterations=_iterations(played.log, played.stride),
        totals=_totals(played, pools),
        itl_edges_s=itl_edges(),
        itl_counts=played.itl,
        stopped=stopped,
        wall_s=played.wall_s,
        build_s=built,
        slo=options.slo,
        inputs=prepared.inputs,
        ledger=ledger,
        spread=_spread(prepared),
        limit_frac=prepared.table.limit_frac,
        replay=partial(run, prepared, started, log=0),
        deployment=prepared.deployment,
        pools=pools,
        techniques=options.techniques,
        encode_s=read.alone_s if read is not None and read.power_w > 0 else None,
    )


def _spread(prepared: Prepared) -> float:
    """Of a step: as its table says, less where the conditions are known; a measured run says more than both."""
    known = prepared.first.config.moved != UNMOVED
    spread = prepared.table.spread
    return spread if known else float(known_conditions(spread, prepared.options.system_spread))


def _rented(played: Played) -> Any:
    """``[pool]`` s that its schedulers were rented, together: from first arrival to end unless they come and go."""
    p, start = played.pools, played.totals["first_arrival_s"]
    end = start + played.totals["makespan_s"]
    seconds = p["rented"] + np.where(p["since"] >= 0, end - np.maximum(p["since"], start), 0.0)
    return np.bincount(p["pool"], np.maximum(seconds, 0.0), minlength=len(played.per_pool))


def _methods(prepared: Prepared) -> Callable[[Tables, int, int], Methods] | None:
    """What makes the kernel's arrays of techniques; None when none acts there."""
    techniques, served = prepared.options.techniques, prepared.served
    if not any(t.in_kernel for t in techniques):
        return None
    ends = [PoolEnd(s.scenario.cluster, s.scenario.plan, s.kv, s.ranks) for s in served]
    fits = [s.fitted for s in served]

    def made(tables: Tables, replicas: int, units: int) -> Methods:
        return kernel_arrays(techniques, fits, ends, tables, prepared.trace, units)

    return made


def _outcome(served: Served, options: Options, counted: Mapping[str, float], ledger: Ledger) -> PoolOutcome:
    """What a pool did: shares, energy and money from its counters."""
    scenario, plan, pool = served.scenario, served.scenario.plan, served.pool
    busy = counted["busy_s"]
    devices = pool.devices
    machine = scenario.cluster.machine
    device_s = counted["rented_s"] * plan.replica_devices
    # steps on every device of their stage, idle power for the rest of the time it is rented
    lanes = scenario.engine.lanes(plan.pp)
    idle_s = device_s - plan.replica_devices * busy * lanes / plan.pp
    stepping = counted["step_energy_j"] * plan.replica_devices / plan.pp
    if served.table is None:
        stepping = machine.most_w * plan.replica_devices * busy
    cluster = scenario.cluster
    kinds = [m for m, _ in cluster.shares] if cluster.unlike else [machine]
    price = mean_price([hourly_price(m, scenario.usd_per_hour, ledger, cluster.system) for m in kinds])
    idle_w = sum(m.idle_w for m in kinds) / len(kinds)
    if price.usd_per_hour is not None:
        ledger.cite("price" if pool.role == "both" else f"price, {pool.role}", price.note)
    steps = max(busy * lanes, 1e-30)
    return PoolOutcome(
        role=pool.role,
        scenario=scenario,
        config=served.config,
        kv=served.kv,
        replicas=pool.replicas,
        ranks=served.ranks,
        devices=devices,
        memory_bytes=held_bytes(served, options),
        price=price,
        totals={
            **counted,
            "energy_j": stepping + idle_w * max(0.0, idle_s),
            "host_energy_j": scenario.cluster.host_share_w * device_s,
            "device_s": device_s,
            "busy_frac": min(1.0, busy / max(counted["rented_s"], 1e-30)),
            "batch_mean": counted["batch_s"] / steps,
            "kv_mean_frac": counted["kv_s"] / steps / served.kv.blocks,
            "kv_max_frac": counted["kv_max"] / served.kv.blocks,
        },
    )


def _totals(played: Played, pools: Sequence[PoolOutcome]) -> dict[str, float]:
    """Counters of the whole deployment."""
    totals = dict(played.totals)
    span = max(totals["makespan_s"], 1e-30)
    engines = [p for p in pools if p.role != "encode"]
    steps = [p.totals["busy_s"] * p.scenario.engine.lanes(p.scenario.plan.pp) for p in engines]
    busy = max(sum(steps), 1e-30)
    rented = sum(p.totals["rented_s"] for p in engines)
    return totals | {
        "energy_j": sum(p.totals["energy_j"] for p in pools),
        "host_energy_j": sum(p.totals["host_energy_j"] for p in pools),
        "batch_mean": totals["batch_s"] / busy,
        "kv_mean_frac": sum(p.totals["kv_s"] / p.kv.blocks for p in engines) / busy,
        "kv_max_frac": max(p.totals["kv_max_frac"] for p in engines),
        "in_system_mean": totals["in_system_s"] / span,
        "idle_frac": 1.0 - min(1.0, sum(p.totals["busy_s"] for p in engines) / max(rented, 1e-30)),
    }


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
        arrived,
        trace,
        queued_s=np.maximum(np.where(begun, scheduled, nan) - arrived - request_s, 0.0),
        ttft_s=first - arrived,
        tpot_s=tpot,
        e2e_s=last - arrived,
        max_itl_s=np.where(done & (trace.osl > 1), q["gap_s"], nan),
        preemptions=q["preemptions"].copy(),
        cached_tokens=q["cached"].copy(),
        replica=q["replica"].copy(),
        status=status.astype(np.int8),
        answered_by=np.where(q["answered_by"] >= 0, q["answered_by"], q["replica"]),
    )


def _iterations(log: Any, stride: int) -> Iterations:
    return Iterations(
        start_s=log["start"],
        duration_s=log["duration"],
        replica=log["replica"],
        batch=log["batch"],
        prefill_tokens=log["prefill"],
        decode_tokens=log["decode"],
        kv_blocks=log["blocks"],
        running=log["running"],
        waiting=log["waiting"],
        stride=stride,
    )
