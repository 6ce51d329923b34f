"""The compiled kernel against its plain twin on random loads, fleets and caches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steelyard.cost.kv_pool import KvPool
from steelyard.cost.step_table import StepTable, constant_tables
from steelyard.simulation.arrays import Member
from steelyard.simulation.kernel.state import LINK
from steelyard.traffic.trace import Trace
from tests.serving import config, random_trace, run_fleet
from tests.twin import ReferencePool, Wire, reference_run

ROUTERS = ("round-robin", "random", "session", "least-loaded", "prefix")
#: Roles of the pools, each of one to three replicas.
FLEETS = (
    ("both",),
    ("both", "both"),
    ("prefill", "both"),
    ("prefill", "decode"),
    ("prefill", "prefill", "decode"),
    ("both", "prefill", "decode"),
)


def _prefixed(rng: np.random.Generator, trace: Trace, block: int) -> Trace:
    """The same trace with prompts that share beginnings: a tree of three branches at each block."""
    sizes = -(-trace.isl // block)
    hashes = rng.integers(0, 3, int(sizes.sum()))
    return Trace(
        trace.arrived_at,
        trace.isl,
        trace.osl,
        session=rng.integers(-1, 5, len(trace)),
        delay_s=trace.delay_s,
        concurrency=trace.concurrency,
        prefix_hashes=hashes,
        prefix_offsets=np.concatenate([[0], np.cumsum(sizes)]),
        prefix_block_tokens=block,
    )


def _same(seed: int, router: str, roles: tuple[str, ...], cached: bool) -> dict[str, Any]:
    """Play one random case both ways; every time, count and place must agree."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 100))
    trace = random_trace(rng, n, closed=bool(rng.integers(0, 2)))
    block = int(rng.choice([1, 16, 32]))
    if cached or router == "prefix":
        trace = _prefixed(rng, trace, int(rng.choice([16, 32, 64])))
    members, pools = [], []
    for role in roles:
        blocks = -(-400 // block) + int(rng.integers(0, 3000)) // block
        flags = {"max_num_batched_tokens": int(rng.integers(16, 600)), "max_num_seqs": int(rng.integers(1, 40))}
        replicas, overlap = int(rng.integers(1, 4)), float(rng.choice([0.0, 0.5, 1.0]))
        caching, weight = bool(rng.integers(0, 4)), float(rng.choice([1.0, 2.0]))
        tables = constant_tables(float(rng.uniform(0.005, 0.03)), float(rng.uniform(0, 1e-4)))
        ahead, stream_s, front_s = bool(rng.integers(0, 2)), *rng.choice([0.0, 1e-4, 3e-3], 2)
        host = {"async_scheduling": ahead, "stream_s": stream_s, "front_s": front_s}
        engine = config(block_size=block, enable_prefix_caching=caching, **host, **flags)
        members.append(
            (Member(engine, KvPool(blocks, block, 1.0), replicas, 1, role, weight=weight, overlap=overlap), tables)
        )
        pools.append(
            ReferencePool(
                StepTable(tables, 1 << 20, 1 << 10, 1 << 20).time_s,
                blocks,
                block,
                replicas=replicas,
                role=role,
                prefix_caching=caching,
                weight=weight,
                overlap=overlap,
                ahead=ahead,
                stream_s=0.0 if role == "prefill" else stream_s,
                **flags,
            )
        )
    links = np.zeros((len(roles), len(roles)), dtype=LINK)
    links["latency_s"] = rng.choice([0.0, 0.001, 0.1], links.shape)
    links["token_s"] = rng.choice([0.0, 1e-5, 1e-3], links.shape)
    wires = {
        (a, b): Wire(float(links[a, b]["latency_s"]), float(links[a, b]["token_s"]))
        for a in range(len(roles))
        for b in range(len(roles))
    }
    request_s = float(rng.choice([0.0, 0.004]))
    entries = sum(m.replicas for m, _ in members if m.role in ("both", "prefill"))
    draw = np.random.default_rng(seed)
    routes = draw.integers(0, entries, n)
    if router == "session" and trace.session is not None:
        names, which = np.unique(trace.session, return_inverse=True)
        routes = np.where(trace.session >= 0, draw.permutation(names.size)[which] % entries, routes)
    played = run_fleet(
        trace,
        [m for m, _ in members],
        tables=[t for _, t in members],
        links=links,
        router=router,
        seed=seed,
        request_s=request_s,
    )
    times = {"request_s": request_s, "front_s": max(m.config.front_s for m, _ in members) / entries}
    twin = reference_run(trace, pools, router=router, routes=routes.tolist(), wires=wires, **times)
    q = played.requests
    for name, found in (("scheduled_at", twin.scheduled_at), ("first_at", twin.first_at), ("last_at", twin.ended_at)):
        np.testing.assert_allclose(q[name], found, rtol=1e-9, err_msg=name)
    for name in ("preemptions", "cached", "replica", "answered_by"):
        np.testing.assert_array_equal(q[name], getattr(twin, name), err_msg=name)
    assert played.totals["iterations"] == twin.iterations
    return dict(played.totals)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(st.integers(0, 1 << 31), st.sampled_from(ROUTERS), st.sampled_from(FLEETS), st.booleans())
def test_kernel_equals_its_plain_twin(seed: int, router: str, roles: tuple[str, ...], cached: bool) -> None:
    _same(seed, router, roles, cached)


def test_those_cases_have_what_they_are_for() -> None:
    found = [_same(seed, router, roles, True) for seed in range(2) for router in ROUTERS[2:] for roles in FLEETS]
    for name in ("preemptions", "cached_tokens", "evicted_units", "transfers"):
        assert sum(x[name] > 0 for x in found) >= 5, name
