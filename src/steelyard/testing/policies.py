"""The contract of a queue policy, as tests a policy author runs.

Subclass :class:`PolicyContract` in a test module and give it a policy::

    class TestMyPolicy(PolicyContract):
        @pytest.fixture
        def policy(self):
            return ShortestPrompt

It needs the extra ``[fast]``.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from steelyard.cost.kv_pool import KvPool
from steelyard.cost.step_table import constant_tables
from steelyard.deployment.engine import schedulers
from steelyard.deployment.engine_config import EngineConfig
from steelyard.simulation.arrays import Played, play, setup_of
from steelyard.simulation.policies import Order, Policy, find_policy, ordered
from steelyard.traffic.trace import Trace

__all__ = ["PolicyContract", "traffic"]

BLOCK_TOKENS, BLOCKS, SEATS, BUDGET = 16, 40, 8, 128


def traffic(seed: int, *, closed: bool = False) -> Trace:
    """Random requests with priorities, deadlines and conversations; about one in thirty is too long for the cache."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 200))
    isl = rng.integers(1, 250, n)
    isl[rng.random(n) < 0.03] = 2 * BLOCKS * BLOCK_TOKENS
    arrived_at = np.zeros(n) if closed else np.cumsum(rng.exponential(float(rng.choice([0.0, 0.02, 0.2])), n))
    return Trace(
        arrived_at,
        isl,
        rng.integers(1, 60, n),
        priority=rng.integers(0, 4, n),
        deadline_s=rng.exponential(5.0, n),
        session=rng.integers(-1, 5, n),
        concurrency=min(n, 12) if closed else 0,
    )


class PolicyContract:
    """What must hold for every policy."""

    @pytest.fixture
    def policy(self) -> Any:
        """The policy under test, a class or an object; override this."""
        raise NotImplementedError("override the policy fixture")

    @pytest.fixture(params=[0, 1, 2, 3])
    def trace(self, request: pytest.FixtureRequest) -> Trace:
        """Traffic to serve, every second one in a closed loop; override it when the policy needs other columns."""
        return traffic(request.param, closed=request.param % 2 == 1)

    def test_keys_are_one_number_per_request(self, policy: Policy | type[Policy], trace: Trace) -> None:
        order = ordered(policy, trace)
        assert order.name.strip()
        assert order.keys.shape == (len(trace),)
        assert np.isfinite(order.keys).all(), "every request here has a finite deadline"

    def test_same_trace_same_keys(self, policy: Policy | type[Policy], trace: Trace) -> None:
        before = copy.deepcopy(trace)
        made = find_policy(policy)
        first, second, fresh = ordered(made, trace), ordered(made, trace), ordered(policy, before)
        assert first.keys.tobytes() == second.keys.tobytes() == fresh.keys.tobytes()
        assert np.array_equal(trace.isl, before.isl) and np.array_equal(trace.osl, before.osl)

    @pytest.mark.parametrize("scheduler", sorted(schedulers()))
    def test_conservation(self, policy: Policy | type[Policy], trace: Trace, scheduler: str) -> None:
        played, rejected = _serve(trace, ordered(policy, trace), scheduler)
        q, total = played.requests, played.totals
        assert total["stop"] == 0
        assert np.array_equal(q["status"] == 1, rejected)
        assert (q["status"][~rejected] == 0).all(), "every request that fits is completed"
        assert played.itl.sum() == (trace.osl[~rejected] - 1).sum(), "every token comes out once"
        if not schedulers()[scheduler].static:
            computed = total["prefill_tokens"] + total["decode_tokens"] + total["cached_tokens"]
            assert computed == (trace.isl + trace.osl - 1)[~rejected].sum() + total["dropped_tokens"]
        assert (played.pools["free"] == BLOCKS).all(), "every block is given back"
        done = ~rejected
        assert (q["arrived_at"] <= q["scheduled_at"])[done].all()
        assert (q["scheduled_at"] < q["first_at"])[done].all()
        assert (q["first_at"] <= q["last_at"])[done].all()

    @pytest.mark.parametrize("scheduler", sorted(schedulers()))
    def test_capacity(self, policy: Policy | type[Policy], trace: Trace, scheduler: str) -> None:
        played, _ = _serve(trace, ordered(policy, trace), scheduler)
        assert played.totals["kv_max"] <= BLOCKS
        assert (played.log["blocks"] >= 0).all()
        assert played.log["running"].max(initial=0) <= SEATS
        if schedulers()[scheduler].mixed and schedulers()[scheduler].chunked:
            assert (played.log["prefill"] + played.log["decode"]).max(initial=0) <= BUDGET

    def test_same_inputs_same_bytes(self, policy: Policy | type[Policy], trace: Trace) -> None:
        first, second = (_serve(trace, ordered(policy, trace), "vllm")[0] for _ in range(2))
        assert first.requests.tobytes() == second.requests.tobytes()
        assert first.log.tobytes() == second.log.tobytes()

    def test_waiting_requests_go_by_key_then_by_arrival(self, policy: Policy | type[Policy], trace: Trace) -> None:
        at_once = replace(trace, arrived_at=np.zeros(len(trace)), concurrency=0)
        order = ordered(policy, at_once)
        if order.rules:
            pytest.skip("its rules say who goes first while requests run")
        played, rejected = _serve(at_once, order, "vllm", seats=1)
        served = np.flatnonzero(~rejected)
        begun = played.requests["scheduled_at"][served]
        assert np.array_equal(np.argsort(begun, kind="stable"), np.argsort(order.keys[served], kind="stable"))


def _serve(trace: Trace, order: Order, scheduler: str, seats: int = SEATS) -> tuple[Played, Any]:
    """One engine with a small cache; ``(what happened, the requests that never fit)``."""
    rules = schedulers()[scheduler]
    config = EngineConfig(
        "contract",
        scheduler,
        max_num_batched_tokens=BUDGET,
        max_num_seqs=seats,
        block_size=BLOCK_TOKENS,
        gpu_memory_utilization=0.9,
        enable_chunked_prefill=rules.chunked,
        admission=rules.admission,
    )
    setup = setup_of(config, KvPool(BLOCKS, BLOCK_TOKENS, 1.0), trace, policy=order)
    rejected = -(-(trace.isl + trace.osl) // BLOCK_TOKENS) > BLOCKS
    tables = constant_tables(0.01, 1e-5)
    return play(setup, tables, trace, order, "round-robin", 0, rejected, 1 << 16), rejected
