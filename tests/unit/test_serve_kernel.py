"""What the kernel's schedulers promise; its plain twin is in ``test_serve_twin``."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("numba")

from steelyard.cost.kv_pool import KvPool
from steelyard.cost.step_table import constant_tables
from steelyard.traffic.trace import Trace
from tests.serving import config, random_trace, run


def test_a_full_cache_preempts() -> None:
    rng = np.random.default_rng(5)
    trace = random_trace(rng, 100)
    played = run(trace, config(max_num_seqs=64), blocks=26, tables=constant_tables(0.02))
    assert played.totals["preemptions"] > 0
    assert (played.requests["status"] == 0).all()


def test_first_token_comes_with_the_step_that_ends_the_prompt() -> None:
    trace = Trace(np.zeros(1), [1000], [3])
    played = run(trace, config(max_num_batched_tokens=400), tables=constant_tables(1.0))
    assert played.requests["first_at"][0] == pytest.approx(3.0)  # chunks of 400, 400, 200
    assert played.requests["last_at"][0] == pytest.approx(5.0)
    assert list(played.log["prefill"]) == [400, 400, 200, 0, 0]


def test_decodes_come_before_waiting_prompts_in_vllm_and_after_them_in_sglang() -> None:
    trace = Trace(np.array([0.0, 0.5]), [8, 3000], [20, 10])
    mixed = run(trace, config(max_num_batched_tokens=512), tables=constant_tables(0.1)).log
    assert ((mixed["prefill"] > 0) & (mixed["decode"] > 0)).sum() == 6  # 511 tokens at a time beside one decode
    apart = run(trace, config("sglang", max_num_batched_tokens=512, block_size=1), tables=constant_tables(0.1)).log
    assert not ((apart["prefill"] > 0) & (apart["decode"] > 0)).any()
    first = int(np.flatnonzero(apart["prefill"] == 512)[0])
    assert (apart["prefill"][first : first + 6] > 0).all()


def test_guaranteed_no_evict_never_preempts_and_max_utilisation_fills_the_cache() -> None:
    rng = np.random.default_rng(1)
    trace = Trace(np.zeros(60), rng.integers(10, 100, 60), rng.integers(50, 300, 60))
    safe = run(trace, config("trtllm", block_size=32), blocks=60)
    full = run(trace, config("trtllm-max-utilization", block_size=32), blocks=60)
    assert safe.totals["preemptions"] == 0
    assert full.totals["preemptions"] > 0
    assert full.log["running"].max() > safe.log["running"].max()


def test_static_batches_stay_together() -> None:
    trace = Trace(np.zeros(6), np.full(6, 10), [1, 5, 10, 2, 2, 2])
    played = run(trace, config("static", max_num_seqs=3), tables=constant_tables(1.0))
    q = played.requests
    assert list(q["last_at"][:3]) == [1.0, 5.0, 10.0]
    assert (q["scheduled_at"][3:] == 10.0).all()
    assert list(played.log["decode"][:10]) == [0] + [3] * 9


@pytest.mark.parametrize(
    ("policy", "extra", "order"),
    [
        ("fcfs", {}, [0, 1, 2, 3]),
        ("shortest", {}, [0, 3, 2, 1]),
        ("priority", {"priority": np.array([9, 3, 1, 2])}, [0, 2, 3, 1]),
        ("deadline", {"deadline_s": np.array([9.0, 5.0, 7.0, 1.0])}, [0, 3, 1, 2]),
    ],
)
def test_policies_order_the_queue(policy: str, extra: dict[str, np.ndarray], order: list[int]) -> None:
    trace = Trace(np.array([0.0, 0.1, 0.2, 0.3]), [10, 40, 30, 20], [5, 5, 5, 5], **extra)
    played = run(trace, config(max_num_seqs=1), policy=policy, tables=constant_tables(1.0))
    assert list(np.argsort(played.requests["last_at"])) == order


def test_closed_loop_keeps_so_many_in_flight() -> None:
    trace = Trace(np.zeros(50), np.full(50, 10), np.full(50, 7), concurrency=4, delay_s=np.full(50, 0.5))
    played = run(trace, config(), tables=constant_tables(0.1))
    q = played.requests
    arrivals, ends = np.sort(q["arrived_at"]), np.sort(q["last_at"])
    np.testing.assert_allclose(arrivals[4:], ends[:46] + 0.5)
    assert played.log["running"].max() == 4


def test_dependants_wait_for_all_predecessors_and_their_delay() -> None:
    trace = Trace(
        np.array([0.0, 0.0, 0.0]),
        [10, 10, 10],
        [5, 20, 5],
        after=np.array([0, 1]),
        after_offsets=np.array([0, 0, 0, 2]),
        delay_s=np.array([0.0, 0.0, 3.0]),
    )
    q = run(trace, config(), tables=constant_tables(0.1)).requests
    assert q["arrived_at"][2] == pytest.approx(max(q["last_at"][:2]) + 3.0)
    assert (q["status"] == 0).all()


def test_rejected_requests_let_their_dependants_go_on() -> None:
    trace = Trace(
        np.zeros(3),
        [10, 9999, 10],
        [5, 5, 5],
        after=np.array([1]),
        after_offsets=np.array([0, 0, 0, 1]),
    )
    q = run(trace, config(), blocks=20).requests
    assert list(q["status"]) == [0, 1, 0]
    closed = Trace(np.zeros(5), [9999, 9999, 10, 9999, 10], np.full(5, 5), concurrency=1)
    assert list(run(closed, config(), blocks=20).requests["status"]) == [1, 1, 0, 1, 0]


def test_shared_prefixes_are_computed_once() -> None:
    hashes = np.tile(np.array([11, 12, 13]), 10)
    trace = Trace(
        np.arange(10) * 100.0,
        np.full(10, 50),
        np.full(10, 4),
        prefix_hashes=hashes,
        prefix_offsets=np.arange(0, 31, 3),
        prefix_block_tokens=16,
    )
    played = run(trace, config())
    assert list(played.requests["cached"]) == [0] + [48] * 9
    assert played.totals["prefill_tokens"] == 50 + 9 * 2
    assert run(trace, config(enable_prefix_caching=False)).totals["cached_tokens"] == 0
    whole = Trace(
        np.arange(10) * 100.0,
        np.full(10, 48),
        np.full(10, 4),
        prefix_hashes=hashes,
        prefix_offsets=np.arange(0, 31, 3),
        prefix_block_tokens=16,
    )
    assert list(run(whole, config()).requests["cached"][1:]) == [32] * 9  # the last token is always computed


def test_hashed_blocks_smaller_than_the_engines_are_shared_in_whole_blocks() -> None:
    trace = Trace(
        np.array([0.0, 100.0, 200.0]),
        [90, 90, 90],
        [4, 4, 4],
        prefix_hashes=np.array([1, 2, 3, 4, 5, 1, 2, 3, 9, 9, 1, 7, 3]),
        prefix_offsets=np.array([0, 5, 10, 13]),
        prefix_block_tokens=16,
    )
    played = run(trace, config(block_size=32), blocks=20)
    assert list(played.requests["cached"]) == [0, 32, 0]


def test_cached_prefixes_are_evicted_by_age() -> None:
    order = [0, 1, 2, 0, 1, 2]  # three prompts of 3 units each, room for two of them beside a running one
    hashes = np.concatenate([np.array([1, 2, 3]) + 10 * k for k in order])
    trace = Trace(
        np.arange(6) * 100.0,
        np.full(6, 49),
        np.full(6, 4),
        prefix_hashes=hashes,
        prefix_offsets=np.arange(0, 19, 3),
        prefix_block_tokens=16,
    )
    small = run(trace, config(), blocks=8)
    assert small.totals["evicted_units"] > 0
    assert run(trace, config(), blocks=64).totals["cached_tokens"] == 3 * 48 > small.totals["cached_tokens"]


def test_equal_blocks_under_different_prefixes_are_not_shared() -> None:
    trace = Trace(
        np.array([0.0, 100.0]),
        [50, 50],
        [4, 4],
        prefix_hashes=np.array([1, 7, 8, 2, 7, 8]),
        prefix_offsets=np.array([0, 3, 6]),
        prefix_block_tokens=16,
    )
    assert run(trace, config()).totals["cached_tokens"] == 0


@pytest.mark.parametrize("router", ["round-robin", "random", "least-loaded", "session"])
def test_routers_spread_requests(router: str) -> None:
    trace = Trace(np.zeros(400), np.full(400, 10), np.full(400, 5), session=np.arange(400) % 37)
    q = run(trace, config(), router=router, replicas=4).requests
    counts = np.bincount(q["replica"], minlength=4)
    assert counts.sum() == 400
    assert counts.min() >= (100 if router in ("round-robin", "least-loaded") else 40)
    if router == "session":
        assert all(len(set(q["replica"][trace.session == k])) == 1 for k in range(37))


def test_pipeline_stages_overlap_steps() -> None:
    trace = Trace(np.zeros(64), np.full(64, 10), np.full(64, 50), concurrency=32)
    tables = constant_tables(0.04)
    one = run(trace, config(), tables=tables, lanes=1).totals["makespan_s"]
    four = run(trace, config(), tables=tables, lanes=4).totals["makespan_s"]
    assert four == pytest.approx(one, rel=0.1)  # constant steps: the latency of a token stays, four batches overlap
    per_token = constant_tables(0.0, 0.001)
    one = run(trace, config(), tables=per_token, lanes=1).totals["makespan_s"]
    four = run(trace, config(), tables=per_token, lanes=4).totals["makespan_s"]
    assert four < 0.4 * one


def test_run_away_stops_with_a_reason() -> None:
    trace = Trace(np.zeros(10), np.full(10, 10), np.full(10, 1000))
    assert run(trace, config(), stop_after_iterations=50).totals["stop"] == 2
    stopped = run(trace, config(), stop_after_s=1.0)
    assert stopped.totals["stop"] == 1
    assert (stopped.requests["status"] == 2).all()


def test_log_thins_itself() -> None:
    trace = Trace(np.zeros(4), np.full(4, 10), np.full(4, 1000))
    whole, thin = run(trace, config(), log=1 << 14), run(trace, config(), log=64)
    assert whole.stride == 1 and len(whole.log) == 1000
    assert thin.stride == 16 and len(thin.log) == 63
    np.testing.assert_array_equal(thin.log["start"], whole.log["start"][::16])


def test_blocks_of_a_request_count_windows_and_states() -> None:
    from steelyard.cost.kv_pool import blocks_for

    assert blocks_for(KvPool(10, 16, 1.0), 33) == 3
    assert blocks_for(KvPool(10, 16, 1.0, fixed_blocks=2, token_cap=20), 33) == 4
