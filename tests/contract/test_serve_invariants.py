"""What every simulation must keep: requests, tokens and blocks are conserved, time runs forward, queues obey theory."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("numba")

from steelyard.serve.engine import RULES
from steelyard.serve.run import Played
from steelyard.serve.step_table import constant_tables
from steelyard.serve.traffic.trace import Trace
from tests.serving import config, random_trace, run

SCHEDULERS = sorted(RULES)


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
            trace.arrived_at, trace.isl, trace.osl, after=np.concatenate([*parents, []]).astype(int),
            after_offsets=offsets, delay_s=rng.exponential(0.1, n),
        )  # fmt: skip
    if kind == 2:  # shared prefixes
        unit = int(rng.choice([16, 64]))
        counts = np.minimum(trace.isl // unit, 6)
        hashes = np.concatenate([rng.integers(0, 3, c) for c in counts] or [np.zeros(0)])
        trace = Trace(
            trace.arrived_at, trace.isl, trace.osl, concurrency=trace.concurrency, delay_s=trace.delay_s,
            prefix_hashes=hashes.astype(int), prefix_offsets=np.concatenate([[0], np.cumsum(counts)]),
            prefix_block_tokens=unit,
        )  # fmt: skip
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


@settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32 - 1))
def test_conservation(seed: int) -> None:
    trace, flags, settings_ = scenario(seed)
    engine = dict(flags)
    played = run(trace, config(engine.pop("scheduler"), **engine), tables=constant_tables(0.01, 1e-5), **settings_)
    check(trace, flags, settings_, played)


@pytest.mark.parametrize("start", [0, 1_000_000])
def test_conservation_in_thousands_of_scenarios(start: int) -> None:
    preempted = hits = 0.0
    tables = constant_tables(0.01, 1e-5)
    for seed in range(start, start + 1500):
        trace, flags, settings_ = scenario(seed)
        engine = dict(flags)
        played = run(trace, config(engine.pop("scheduler"), **engine), tables=tables, **settings_)
        check(trace, flags, settings_, played)
        preempted += played.totals["preemptions"]
        hits += played.totals["cached_tokens"]
    assert preempted > 100
    assert hits > 1000


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
