"""What every simulation must keep: requests, tokens and blocks are conserved, time runs forward, queues obey theory."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("numba")

from steelyard.cost.kv_pool import KvPool
from steelyard.cost.step_table import constant_tables
from steelyard.deployment.dynamics import Autoscale, Dynamics, Outage
from steelyard.deployment.engine import schedulers
from steelyard.simulation.arrays import Member, Played
from steelyard.traffic.trace import Trace
from tests.serving import config, random_trace, run, run_fleet, wires

SCHEDULERS = sorted(schedulers())


def scenario(seed: int) -> tuple[Trace, dict[str, Any], dict[str, Any]]:
    """A random trace, engine flags and run settings, small enough to run in about a millisecond."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 80))
    trace = random_trace(rng, n, longest=int(rng.choice([4, 60, 300])), closed=bool(rng.integers(0, 2)))
    kind = int(rng.integers(0, 4))
    block = int(rng.choice([1, 16, 32]))
    if kind == 1 and not trace.concurrency:  # dependencies
        parents = [np.sort(rng.choice(i, rng.integers(0, min(i, 3) + 1), replace=False)) for i in range(n)]
        offsets = np.concatenate([[0], np.cumsum([len(x) for x in parents])])
        trace = Trace(
            trace.arrived_at,
            trace.isl,
            trace.osl,
            after=np.concatenate([*parents, []]).astype(int),
            after_offsets=offsets,
            delay_s=rng.exponential(0.1, n),
        )
    if kind == 2:  # shared prefixes
        unit = int(rng.choice([16, 64]))
        counts = np.minimum(trace.isl // unit, 6)
        hashes = np.concatenate([rng.integers(0, 3, c) for c in counts] or [np.zeros(0)])
        trace = Trace(
            trace.arrived_at,
            trace.isl,
            trace.osl,
            concurrency=trace.concurrency,
            delay_s=trace.delay_s,
            prefix_hashes=hashes.astype(int),
            prefix_offsets=np.concatenate([[0], np.cumsum(counts)]),
            prefix_block_tokens=unit,
        )
    flags = {
        "scheduler": str(rng.choice(SCHEDULERS)),
        "block_size": block,
        "max_num_batched_tokens": int(rng.integers(8, 900)),
        "max_num_seqs": int(rng.integers(1, 50)),
        "long_prefill_token_threshold": int(rng.choice([0, 0, 24])),
        "watermark": float(rng.choice([0.0, 0.05])),
    }
    settings_ = {
        "blocks": int(rng.integers(1, 1500)) // block + 1,
        "replicas": int(rng.choice([1, 1, 3])),
        "lanes": int(rng.choice([1, 1, 2, 4])),
        "router": str(rng.choice(["round-robin", "random", "least-loaded"])),
        "policy": str(rng.choice(["fcfs", "shortest"])),
    }
    return trace, flags, settings_


def check(trace: Trace, flags: dict[str, Any], settings_: dict[str, Any], played: Played) -> None:
    """Every invariant of one run."""
    q, total = played.requests, played.totals
    done, rejected = q["status"] == 0, q["status"] == 1
    assert total["stop"] == 0
    assert (done | rejected).all()
    assert (rejected == (-(-(trace.isl + trace.osl) // flags["block_size"]) > settings_["blocks"])).all()
    # time
    assert (np.diff(played.log["start"]) >= 0).all() or settings_["lanes"] > 1
    assert (played.log["duration"] > 0).all()
    assert (q["arrived_at"] <= q["scheduled_at"])[done].all()
    assert (q["scheduled_at"] < q["first_at"])[done].all()
    assert (q["first_at"] <= q["last_at"])[done].all()
    # tokens
    out = trace.osl[done]
    assert played.itl.sum() == (out - 1).sum()
    if flags["scheduler"] != "static":
        computed = total["prefill_tokens"] + total["decode_tokens"]
        assert computed == (trace.isl[done] + out - 1).sum() + total["dropped_tokens"] - total["cached_tokens"]
    # blocks
    unit_blocks = math.lcm(trace.prefix_block_tokens, flags["block_size"]) // flags["block_size"]
    assert (played.pools["free"] + played.pools["evictable"] * unit_blocks == settings_["blocks"]).all()
    assert total["kv_max"] <= settings_["blocks"]
    assert (played.log["blocks"] >= 0).all()
    assert (played.units["refs"] <= 0).all()
    # limits
    seats = -(-flags["max_num_seqs"] // 1)
    assert played.log["batch"].max(initial=0) <= seats
    if flags["scheduler"] in ("vllm", "sarathi"):
        assert (played.log["prefill"] + played.log["decode"]).max(initial=0) <= flags["max_num_batched_tokens"]
    # Little: mean number in the system is arrival rate times time in the system
    inside = (q["last_at"] - q["arrived_at"])[done].sum()
    assert total["in_system_s"] == pytest.approx(inside, rel=1e-9, abs=1e-9)


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32 - 1))
def test_conservation(seed: int) -> None:
    trace, flags, settings_ = scenario(seed)
    engine = dict(flags)
    played = run(trace, config(engine.pop("scheduler"), **engine), tables=constant_tables(0.01, 1e-5), **settings_)
    check(trace, flags, settings_, played)


@pytest.mark.parametrize("start", [0, 1_000_000])
def test_conservation_in_many_scenarios(start: int) -> None:
    preempted = hits = 0.0
    tables = constant_tables(0.01, 1e-5)
    for seed in range(start, start + 600):
        trace, flags, settings_ = scenario(seed)
        engine = dict(flags)
        played = run(trace, config(engine.pop("scheduler"), **engine), tables=tables, **settings_)
        check(trace, flags, settings_, played)
        preempted += played.totals["preemptions"]
        hits += played.totals["cached_tokens"]
    assert preempted > 40
    assert hits > 400


FLOWING = [name for name, rules in schedulers().items() if not rules.static]


def fleet(seed: int) -> tuple[Trace, list[Member], dict[str, Any]]:
    """A random trace on pools of unlike engines: prompts and answers apart, mixed ones, encoders."""
    trace, _, settings_ = scenario(seed)
    rng = np.random.default_rng(seed + 1)
    roles = [
        ["prefill", "decode"],
        ["prefill", "decode", "both"],
        ["both", "both"],
        ["encode", "prefill", "decode"],
        ["prefill", "prefill", "decode", "decode"],
        ["encode", "both"],
    ][int(rng.integers(0, 6))]
    members = []
    for role in roles:
        block = int(rng.choice([1, 16, 32]))
        engine = config(
            str(rng.choice(FLOWING)),
            block_size=block,
            max_num_batched_tokens=int(rng.integers(8, 900)),
            max_num_seqs=int(rng.integers(1, 50)),
            long_prefill_token_threshold=int(rng.choice([0, 0, 24])),
            watermark=float(rng.choice([0.0, 0.05])),
            enable_prefix_caching=bool(rng.integers(0, 2)),
        )
        blocks = int(rng.integers(1, 1500)) // block + 1
        members.append(
            Member(
                engine,
                KvPool(blocks, block, 1.0),
                int(rng.integers(1, 4)),
                int(rng.choice([1, 1, 2])),
                role,
                weight=float(rng.choice([1.0, 2.5])),
                overlap=float(rng.choice([0.0, 0.7])),
            )
        )
    more: dict[str, Any] = {
        "router": settings_["router"],
        "policy": settings_["policy"],
        "links": wires(len(members), float(rng.choice([0.0, 0.003])), float(rng.choice([0.0, 1e-4]))),
    }
    if "encode" in roles:
        more["encode_s"] = rng.exponential(0.05, len(trace)) * rng.integers(0, 2, len(trace))
    return trace, members, more


def check_fleet(trace: Trace, members: list[Member], played: Played) -> None:
    """Every invariant of a run over several pools."""
    q, total = played.requests, played.totals
    done = q["status"] == 0
    assert total["stop"] == 0
    assert (done | (q["status"] == 1)).all()
    assert (q["arrived_at"] <= q["scheduled_at"])[done].all()
    assert (q["scheduled_at"] < q["first_at"])[done].all()
    assert (q["first_at"] <= q["last_at"])[done].all()
    assert (q["kept"] == 0).all() and (q["origin"] == -1)[done].all()
    out = trace.osl[done]
    assert played.itl.sum() == (out - 1).sum()
    computed = total["prefill_tokens"] + total["decode_tokens"]
    assert computed == (trace.isl[done] + out - 1).sum() + total["dropped_tokens"] - total["cached_tokens"]
    pool = played.pools["pool"]
    blocks = np.array([m.kv.blocks for m in members])
    unit = math.lcm(trace.prefix_block_tokens, *(m.kv.block_tokens for m in members))
    unit_blocks = np.array([unit // m.kv.block_tokens for m in members])
    assert (played.pools["free"] + played.pools["evictable"] * unit_blocks[pool] == blocks[pool]).all()
    assert (played.units["refs"] <= 0).all()
    assert (played.pools["load"] == 0).all() and (played.pools["queued"] == 0).all()
    assert (played.workers["count"] == 0).all() and (played.workers["loading"] == 0).all()
    for counted, member in zip(played.per_pool, members, strict=True):
        assert counted["kv_max"] <= member.kv.blocks
        assert counted["batch_max"] <= member.config.max_num_seqs
    assert (played.log["blocks"] >= 0).all() and (played.log["duration"] > 0).all()
    inside = (q["last_at"] - q["arrived_at"])[done].sum()
    assert total["in_system_s"] == pytest.approx(inside, rel=1e-9, abs=1e-9)


def changing(seed: int) -> tuple[Trace, list[Member], dict[str, Any]]:
    """The same with replicas that fail, come and go, ranks in lock-step and requests that move."""
    trace, members, more = fleet(seed)
    rng = np.random.default_rng(seed + 2)
    span = float(trace.arrived_at[-1]) + 0.1 * len(trace)
    outages = [
        Outage(float(rng.uniform(0, span)), int(rng.integers(0, len(members))), bool(rng.integers(0, 2)))
        for _ in range(int(rng.choice([0, 0, 3])))
    ]
    replicas = [int(rng.integers(1, 4)) for _ in members]
    firsts = {o.replica for o in outages}  # everything comes up again in the end
    outages += [Outage(2 * span, r, True) for r in firsts]
    changes = Dynamics(
        mtbf_s=float(rng.choice([0.0, 2 + span / 3, 2 + span / 20])),
        restart_s=float(rng.choice([0.0, 0.1, span / 10])),
        outages=tuple(outages),
        migrate=bool(rng.integers(0, 2)),
        autoscale=Autoscale(
            int(rng.integers(0, 3)),
            int(rng.integers(2, 5)),
            float(rng.integers(1, 20)),
            float(rng.choice([0.05, 0.5])),
            float(rng.choice([0.0, 0.3])),
        )
        if rng.integers(0, 3) == 0
        else None,
    )
    found = []
    for member, count in zip(members, replicas, strict=True):
        ranks = int(rng.choice([1, 1, 2]))
        found.append(
            replace(member, replicas=count * ranks, ranks=ranks, lockstep=bool(rng.integers(0, 2)), changes=changes)
        )
    return trace, found, more


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32 - 1))
def test_conservation_while_the_fleet_changes(seed: int) -> None:
    trace, members, more = changing(seed)
    check_fleet(trace, members, run_fleet(trace, members, **more))


def test_conservation_in_many_changing_fleets() -> None:
    seen = dict.fromkeys(("failures", "interrupted", "migrations", "transfers", "preemptions"), 0.0)
    for seed in range(3_000_000, 3_000_500):
        trace, members, more = changing(seed)
        played = run_fleet(trace, members, **more)
        check_fleet(trace, members, played)
        for name in seen:
            seen[name] += played.totals[name]
    assert all(count > 30 for count in seen.values()), seen


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32 - 1))
def test_conservation_over_pools(seed: int) -> None:
    trace, members, more = fleet(seed)
    check_fleet(trace, members, run_fleet(trace, members, **more))


def test_conservation_over_pools_in_many_scenarios() -> None:
    sent = preempted = apart = 0.0
    for seed in range(2_000_000, 2_000_400):
        trace, members, more = fleet(seed)
        played = run_fleet(trace, members, **more)
        check_fleet(trace, members, played)
        sent += played.totals["transfers"]
        preempted += played.totals["preemptions"]
        handed = played.requests["answered_by"] >= 0
        assert (played.per_pool[0]["decode_tokens"] == 0) or members[0].role != "prefill"
        apart += handed.sum()
        roles = np.array([m.role for m in members])[played.pools["pool"]]
        assert (roles[played.requests["answered_by"][handed]] == "decode").all()
    assert sent == apart > 400
    assert preempted > 40


@pytest.mark.parametrize("seed", range(5))
def test_same_inputs_same_bytes(seed: int) -> None:
    trace, flags, settings_ = scenario(seed)
    engine = dict(flags)
    setup = config(engine.pop("scheduler"), **engine)
    first, second = (run(trace, setup, seed=3, **settings_) for _ in range(2))
    assert first.requests.tobytes() == second.requests.tobytes()
    assert first.log.tobytes() == second.log.tobytes()
    assert first.totals == second.totals


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_waiting_times_of_a_single_server_with_constant_service(load: float) -> None:
    """M/D/1: mean wait = load * service / (2 (1 - load)), Pollaczek-Khinchine."""
    service, n = 0.01, 1_500_000
    arrived = np.cumsum(np.random.default_rng(7).exponential(service / load, n))
    played = run(Trace(arrived, np.ones(n), np.ones(n)), config(max_num_seqs=1), tables=constant_tables(service), log=0)
    wait = (played.requests["scheduled_at"] - played.requests["arrived_at"]).mean()
    assert wait == pytest.approx(load * service / (2 * (1 - load)), rel=0.02)


@pytest.mark.parametrize("load", [0.3, 0.7])
def test_waiting_times_of_a_single_server_with_general_service(load: float) -> None:
    """M/G/1: mean wait = rate E[S^2] / (2 (1 - load)), service by prompt length, lognormal-like."""
    n, per_token = 1_500_000, 1e-5
    rng = np.random.default_rng(11)
    isl = np.maximum(1, rng.lognormal(5.0, 0.6, n)).astype(int)
    service = isl * per_token
    arrived = np.cumsum(rng.exponential(service.mean() / load, n))
    engine = config(max_num_seqs=1, max_num_batched_tokens=1 << 20)
    played = run(Trace(arrived, isl, np.ones(n)), engine, tables=constant_tables(0.0, per_token), log=0)
    wait = (played.requests["scheduled_at"] - played.requests["arrived_at"]).mean()
    expected = load / service.mean() * (service**2).mean() / (2 * (1 - load))
    assert wait == pytest.approx(expected, rel=0.02)


def test_more_blocks_or_seats_never_lower_throughput_in_a_saturated_loop() -> None:
    rng = np.random.default_rng(3)
    trace = Trace(np.zeros(300), rng.integers(50, 400, 300), rng.integers(20, 200, 300))
    tables = constant_tables(0.02, 1e-6)
    spans = [run(trace, config(), blocks=b, tables=tables).totals["makespan_s"] for b in (60, 120, 480, 4000)]
    assert all(a >= b for a, b in pairwise(spans))
    spans = [run(trace, config(max_num_seqs=s), tables=tables).totals["makespan_s"] for s in (2, 8, 32, 128)]
    assert all(a >= b for a, b in pairwise(spans))
