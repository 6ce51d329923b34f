"""A fleet that changes while it serves: failures, autoscaling, moving requests, ranks in lock-step; worked by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")

from steelyard.cost.kv_pool import KvPool
from steelyard.cost.step_table import constant_tables
from steelyard.deployment.deployment import Deployment, Pool
from steelyard.deployment.dynamics import Autoscale, Dynamics, Outage
from steelyard.deployment.plan import Plan
from steelyard.errors import InputError
from steelyard.simulation.api import simulate
from steelyard.simulation.arrays import Member
from steelyard.simulation.prepared import Options
from steelyard.simulation.result import simulate_deployment
from steelyard.techniques._registry import read_options
from steelyard.techniques.autoscale import Autoscaling
from steelyard.traffic.trace import Trace
from tests.serving import config, run, run_fleet, wires


def engines(replicas: int, blocks: int = 1 << 20, changes: Dynamics | None = None, **more: Any) -> list[Member]:
    """Equal replicas."""
    flags = {k: more.pop(k) for k in list(more) if k.startswith("max_") or k in ("scheduler", "cuda_graph_sizes_to")}
    return [Member(config(**flags), KvPool(blocks, 16, 1.0), replicas, changes=changes or Dynamics(), **more)]


def test_requests_of_a_failed_replica_begin_again_elsewhere() -> None:
    trace = Trace(np.zeros(2), [10, 10], [5, 5])
    down = Dynamics(outages=(Outage(2.5, 0), Outage(100.0, 0, up=True)))
    played = run_fleet(trace, engines(2, changes=down), tables=constant_tables(1.0))
    q = played.requests
    assert list(q["first_at"]) == [1.0, 1.0]
    # two tokens by 2.0; the step in flight is lost; the other replica computes the prompt again after its step, at 3.0
    assert list(q["last_at"]) == [6.0, 5.0]
    assert played.totals["interrupted"] == 1 and played.totals["failures"] == 1
    assert played.totals["dropped_tokens"] == 12  # a prompt, a token, and the one in flight


def test_while_none_is_up_requests_wait() -> None:
    trace = Trace(np.array([0.0, 1.0]), [10, 10], [1, 1])
    down = Dynamics(outages=(Outage(0.5, 0), Outage(7.0, 0, up=True)))
    q = run_fleet(trace, engines(1, changes=down), tables=constant_tables(1.0)).requests
    assert list(q["first_at"]) == [8.0, 8.0]


def test_a_lost_decoder_sends_answers_back_to_the_prompts_and_a_lost_sender_has_them_computed_again() -> None:
    trace = Trace(np.zeros(1), [100], [4])
    members = [Member(config(), KvPool(100, 16, 1.0), 1, role=role) for role in ("prefill", "decode")]

    def end(*outages: Outage, delay: float = 0.0) -> float:
        found = [replace(m, changes=Dynamics(outages=outages)) for m in members]
        played = run_fleet(trace, found, tables=constant_tables(1.0), links=wires(2, delay))
        return float(played.requests["last_at"][0])

    assert end() == 4.0
    # two tokens by 2.0; from 2.5 on the prefill replica computes 102 tokens, at 3.5 the third token, at 4.5 the last
    assert end(Outage(2.5, 1), Outage(2.6, 1, up=True)) == 4.5
    # the sender is lost at 1.5 of a transfer until 3: the decoder computes the prompt and the first token's successor
    assert end(Outage(1.5, 0), delay=2.0) == 1.5 + 3.0
    # the receiver is lost at 1.5: the cache is still there and is sent again when it is back at 2, until 4
    assert end(Outage(1.5, 1), Outage(2.0, 1, up=True), delay=2.0) == 4.0 + 3.0


def test_failures_by_chance_repeat_with_the_seed() -> None:
    trace = Trace(np.arange(200) * 0.5, np.full(200, 10), np.full(200, 20))
    changes = Dynamics(mtbf_s=20.0, restart_s=5.0)
    first, again, other = (
        run_fleet(trace, engines(3, changes=changes), tables=constant_tables(0.1), seed=s) for s in (1, 1, 2)
    )
    assert first.requests.tobytes() == again.requests.tobytes() != other.requests.tobytes()
    assert 5 <= first.totals["failures"] <= 30
    calm = run_fleet(trace, engines(3), tables=constant_tables(0.1))
    assert first.requests["last_at"].mean() > calm.requests["last_at"].mean()


def test_a_fleet_that_fails_faster_than_it_serves_stops_with_a_reason() -> None:
    trace = Trace(np.zeros(1), [10], [50])
    played = run_fleet(trace, engines(1, changes=Dynamics(mtbf_s=1e-3, restart_s=0.0)), tables=constant_tables(1.0))
    assert played.totals["stop"] in (2.0, 3.0)


def test_autoscaling_follows_the_load_and_pays_for_what_it_uses() -> None:
    busy = np.sort(np.concatenate([np.arange(400) * 0.05 + 100.0, np.arange(30) * 10.0]))
    trace = Trace(busy, np.full(430, 10), np.full(430, 40))
    scale = Autoscale(1, 4, target=8.0, interval_s=1.0, start_s=3.0)
    more = {"router": "least-loaded", "tables": constant_tables(0.1)}
    few = run_fleet(trace, engines(4, changes=Dynamics(autoscale=scale), max_num_seqs=16), **more)
    one = run_fleet(trace, engines(1, max_num_seqs=16), **more)
    four = run_fleet(trace, engines(4, max_num_seqs=16), **more)
    waits = [p.requests["first_at"].mean() for p in (four, few, one)]
    assert waits[0] < waits[1] < waits[2]
    p = few.pools
    rented = (p["rented"] + np.where(p["since"] >= 0, few.totals["makespan_s"] - p["since"], 0)).sum()
    assert 1.0 < rented / few.totals["makespan_s"] < 2.5
    calm = few.requests["replica"][trace.arrived_at < 100]
    assert (calm == 0).all()  # nothing was started for them


def test_a_new_replica_serves_after_its_start() -> None:
    trace = Trace(np.zeros(2), [10, 10], [5, 5])
    scale = Autoscale(0, 1, target=1.0, interval_s=1.0, start_s=30.0)
    q = run_fleet(trace, engines(1, changes=Dynamics(autoscale=scale)), tables=constant_tables(1.0)).requests
    assert list(q["first_at"]) == [32.0, 32.0]  # asked for at the second look, 30 s later up, a step


def test_the_last_replica_that_serves_is_not_taken_while_others_start() -> None:
    """One replica is enough: those that start for the first burst are called off, and what users see is that of one."""
    burst = np.concatenate([np.full(80, 1.0), 30.0 + np.arange(400) * 0.5])
    trace = Trace(burst, np.full(480, 10), np.full(480, 20))
    scale = Autoscale(1, 8, target=16.0, interval_s=0.5, start_s=120.0)
    more = {"router": "least-loaded", "tables": constant_tables(0.05)}
    scaled = run_fleet(trace, engines(8, changes=Dynamics(autoscale=scale)), **more)
    one = run_fleet(trace, engines(1), **more)
    assert np.array_equal(scaled.requests["first_at"], one.requests["first_at"])
    p = scaled.pools
    assert list(p["up"]) == [1, 0, 0, 0, 0, 0, 0, 0]
    assert not p["starting"].any()
    assert (p["since"][1:] < 0).all()
    assert 0 < p["rented"][1:].sum() < 7 * 30.0  # paid until they were called off


def test_a_replica_that_drains_can_fail_and_one_that_is_taken_out_does_not_come_back_by_itself() -> None:
    trace = Trace(np.arange(200) * 0.5, np.full(200, 10), np.full(200, 20))
    scale = Autoscale(1, 2, target=16.0, interval_s=5.0, start_s=40.0)
    out = Dynamics(autoscale=scale, outages=(Outage(20.0, 0),))
    q = run_fleet(trace, engines(2, changes=out), tables=constant_tables(0.05)).requests
    waited = (q["first_at"] - trace.arrived_at)[(trace.arrived_at > 20.5) & (trace.arrived_at < 59)]
    assert waited.min() > 1.0  # nobody serves until another replica has started
    assert (q["last_at"] > 0).all()
    drained = Dynamics(autoscale=Autoscale(1, 2, target=1.0, interval_s=1.0, start_s=0.0), outages=(Outage(3.5, 1),))
    long = Trace(np.array([0.0, 0.1]), [10, 10], [20, 400])
    played = run_fleet(long, engines(2, changes=drained), router="round-robin", tables=constant_tables(0.05))
    assert (played.requests["last_at"] > 0).all()


def test_a_replica_has_one_start_at_a_time() -> None:
    """Taken out and brought back at given times while it starts: the timer of the first start does nothing later."""
    trace = Trace(np.array([0.0, 8.0]), [10, 10], [1, 1])
    scale = Autoscale(1, 2, target=1.0, interval_s=1.0, start_s=5.0)

    def firsts(*outages: Outage, changes: Autoscale | None = scale, **more: float) -> list[float]:
        found = Dynamics(autoscale=changes, outages=outages, **more)
        return list(run_fleet(trace, engines(1, changes=found), tables=constant_tables(1.0)).requests["first_at"])

    # down at 0.5; the autoscaler asks for it again at 1, until 6: taken out of the start at 3, asked for at 3, until 8
    assert firsts(Outage(0.5, 0)) == [7.0, 9.0]
    assert firsts(Outage(0.5, 0), Outage(3.0, 0)) == [9.0, 9.0]
    # up at 2 ends the start; down again at 2.5, and up only when the next start ends, at 3 + 5
    assert firsts(Outage(0.5, 0), Outage(2.0, 0, up=True), Outage(2.5, 0)) == [9.0, 9.0]


def test_cancelled_starts_leave_nothing_behind() -> None:
    """A pool that flaps for a long time with slow starts: the events it keeps are no more than its replicas."""
    n = 3000
    trace = Trace(np.repeat(np.arange(n) * 4.0, 3), np.full(3 * n, 10), np.full(3 * n, 20))
    scale = Autoscale(1, 3, target=1.0, interval_s=0.5, start_s=1e6)
    played = run_fleet(
        trace, engines(3, changes=Dynamics(autoscale=scale), max_num_seqs=2), tables=constant_tables(0.1)
    )
    assert played.totals["stop"] == 0
    assert (played.requests["last_at"] > 0).all()


def test_everybody_who_waits_for_a_replica_counts() -> None:
    trace = Trace(np.zeros(8), np.full(8, 10), np.full(8, 1))
    scale = Autoscale(0, 4, target=2.0, interval_s=1.0, start_s=10.0)
    played = run_fleet(trace, engines(4, changes=Dynamics(autoscale=scale)), tables=constant_tables(1.0))
    assert (played.requests["first_at"] == 12.0).all()  # asked for at the second look; four replicas of two each
    assert (played.pools["rented"] + (played.pools["since"] >= 0) > 0).all()


@pytest.mark.parametrize("changes", [{"migrate": True}, {"autoscale": Autoscale(1, 2, interval_s=0.5)}])
def test_a_quiet_day_ends_nothing(changes: dict[str, Any]) -> None:
    trace = Trace(np.array([0.0, 86400.0, 1e9]), [10, 10, 10], [1, 1, 1])
    played = run_fleet(trace, engines(2, changes=Dynamics(**changes)), tables=constant_tables(1.0))
    assert played.totals["stop"] == 0
    assert list(played.requests["first_at"]) == [1.0, 86401.0, 1e9 + 1.0]


def test_a_long_restart_is_waited_for_and_a_fleet_that_stays_down_is_not() -> None:
    trace = Trace(np.array([0.0]), [10], [1])
    day = (Outage(0.5, 0), Outage(0.5, 1), Outage(864000.0, 0, up=True))
    played = run_fleet(trace, engines(2, changes=Dynamics(migrate=True, outages=day)), tables=constant_tables(1.0))
    assert list(played.requests["first_at"]) == [864001.0]
    for_ever = Dynamics(migrate=True, outages=day[:2])
    played = run_fleet(trace, engines(2, changes=for_ever), tables=constant_tables(1.0))
    assert played.totals["stop"] == 3.0
    assert played.requests["status"][0] == 2


def test_autoscaling_alone_begins_with_the_least_and_grows() -> None:
    words: dict[str, Any] = {"trace": requests(400, 20.0), "engine": "vllm", "router": "least-loaded"}
    alone = simulate("llama-3.1-8b", "l40s", autoscale="1:4,target=20,interval=2s,start=5s", **words)
    said = simulate("llama-3.1-8b", "l40s", autoscale="1:4,target=20,interval=2s,start=5s", replicas=4, **words)
    one = simulate("llama-3.1-8b", "l40s", **words)
    assert alone.records.completed.all()
    assert alone.summary()["e2e_s"] == said.summary()["e2e_s"]
    assert alone.summary()["ttft_s"]["p99"] < one.summary()["ttft_s"]["p99"]
    assert 1 < alone.summary()["pools"][0]["rented_replicas_mean"] < 4


def test_requests_move_instead_of_giving_way() -> None:
    """Llumnix (OSDI 2024): moving to a replica with room saves the recomputation that a preemption costs."""
    rng = np.random.default_rng(2)
    n = 120
    osl = (rng.pareto(1.2, n) * 100 + 10).astype(int) % 1500 + 1
    trace = Trace(np.cumsum(rng.exponential(0.05, n)), rng.integers(50, 200, n), osl)
    more = {"tables": constant_tables(0.02, 1e-5), "links": wires(1, 1e-4, 1e-6)}
    stay = run_fleet(trace, engines(4, blocks=160), **more)
    go = run_fleet(trace, engines(4, blocks=160, changes=Dynamics(migrate=True)), **more)
    assert stay.totals["preemptions"] > 10
    assert go.totals["migrations"] > 10
    assert go.totals["preemptions"] < 0.5 * stay.totals["preemptions"]
    assert go.requests["last_at"].mean() < stay.requests["last_at"].mean()


def test_ranks_in_lock_step_wait_for_the_slowest() -> None:
    trace = Trace(np.zeros(2), [1000, 10], [3, 3])
    tables = constant_tables(0.0, 0.001)
    alone = run_fleet(trace, engines(2, ranks=2), tables=tables).requests
    together = run_fleet(trace, engines(2, ranks=2, lockstep=True), tables=tables)
    assert alone["first_at"] == pytest.approx([1.0, 0.01])
    # a step of 1010 tokens on two ranks costs what 505 each cost; both ranks end it together
    assert together.requests["first_at"] == pytest.approx([0.505, 0.505])
    assert together.requests["last_at"] == pytest.approx([0.507, 0.507])
    assert len(set(together.log["start"][:2])) == 1


def test_a_rank_with_nothing_to_do_goes_along() -> None:
    trace = Trace(np.array([0.0, 0.35]), [10, 10], [10, 1])
    played = run_fleet(trace, engines(2, ranks=2, lockstep=True), tables=constant_tables(0.1))
    assert played.totals["iterations"] == 20  # ten steps on two ranks
    assert played.requests["first_at"][1] == pytest.approx(0.5)  # it waits for the step that is under way


def test_steps_are_filled_up_to_a_captured_size() -> None:
    trace = Trace(np.zeros(9), [1] * 9, [3] * 9)
    tables = constant_tables(0.0, 0.01)
    exact = run(trace, config(max_num_batched_tokens=9), tables=tables).log["duration"]
    filled = run(trace, config(max_num_batched_tokens=9, cuda_graph_sizes_to=256), tables=tables).log["duration"]
    assert exact == pytest.approx([0.09, 0.09, 0.09])
    assert filled == pytest.approx([0.09, 0.16, 0.16])  # nine decodes run as sixteen; prompts as they are


def test_prompts_wait_for_more_of_them() -> None:
    trace = Trace(np.array([0.0, 0.15, 0.95]), [10, 10, 10], [40, 2, 2])
    flags = {"max_num_batched_tokens": 100, "batch_wait_timeout_iters": 5, "batch_wait_max_tokens_ratio": 0.2}
    at_once = run(
        trace,
        config("trtllm", block_size=32, **{k: v for k, v in flags.items() if "wait" not in k}),
        tables=constant_tables(0.1),
    ).requests
    waiting = run(trace, config("trtllm", block_size=32, **flags), tables=constant_tables(0.1)).requests
    assert at_once["scheduled_at"] == pytest.approx([0.0, 0.2, 1.0])
    assert waiting["scheduled_at"] == pytest.approx([0.0, 0.7, 1.5])
    full = replace_ratio(flags, 0.11)
    assert run(trace, config("trtllm", block_size=32, **full), tables=constant_tables(0.1)).requests[
        "scheduled_at"
    ] == pytest.approx([0.0, 0.2, 1.0])


def replace_ratio(flags: dict[str, Any], ratio: float) -> dict[str, Any]:
    return {**flags, "batch_wait_max_tokens_ratio": ratio}


def test_words() -> None:
    assert Autoscaling.read("1:8,target=16,interval=30s,start=2min") == Autoscaling(1, 8, 16.0, 30.0, 120.0)
    found = read_options("failures", {"outages": "10min:0:down,15min:3:up"})
    assert found.dynamics(Dynamics()).outages == (Outage(600.0, 0), Outage(900.0, 3, up=True))
    for bad in ("8", "1:8,goal=3"):
        with pytest.raises(InputError):
            Autoscaling.read(bad)
    with pytest.raises(InputError):
        read_options("failures", {"outages": "10min:0:away"})


def requests(n: int = 200, rate: float = 6.0) -> Trace:
    rng = np.random.default_rng(4)
    return Trace(np.cumsum(rng.exponential(1 / rate, n)), rng.integers(200, 2000, n), rng.integers(50, 400, n))


def test_a_deployment_that_changes_says_so() -> None:
    words: dict[str, Any] = {"trace": requests(), "engine": "vllm", "router": "least-loaded", "replicas": 3}
    calm = simulate("llama-3.1-8b", "l40s", **words)
    rough = simulate("llama-3.1-8b", "l40s", mtbf="20s", restart="5s", **words)
    scaled = simulate("llama-3.1-8b", "l40s", autoscale="1:3,target=20,interval=2s,start=5s", **words)
    for found in (calm, rough, scaled):
        assert found.records.completed.all()
    assert rough.summary()["pools"][0]["failures"] > 0 < rough.summary()["pools"][0]["interrupted"]
    assert rough.summary()["e2e_s"]["mean"] > calm.summary()["e2e_s"]["mean"]
    mean = scaled.summary()["pools"][0]["rented_replicas_mean"]
    assert 1 <= mean < 3
    assert scaled.usd == pytest.approx(calm.usd * mean / 3 * scaled.makespan_s / calm.makespan_s)
    assert rough.summary()["provenance"]["hash"] != calm.summary()["provenance"]["hash"]
    with pytest.raises(InputError, match="outages"):
        simulate("llama-3.1-8b", "l40s", **words, outages="1s:9:down")
    with pytest.raises(InputError, match="autoscale"):
        simulate("llama-3.1-8b", "l40s", **words, autoscale="3:1")


def test_assigned_pools_serve_their_requests_as_if_alone() -> None:
    trace = requests()
    pools = (Pool("h100_sxm", Plan(engine="vllm"), 2), Pool("l40s", Plan(engine="vllm"), 2))
    where = np.arange(len(trace)) % 3 // 2
    both = simulate_deployment(Deployment("llama-3.1-8b", pools), trace, Options(assigned=where)).records
    assert (np.asarray(both.replica) // 2 == where).all()
    for k, pool in enumerate(pools):
        rows = np.flatnonzero(where == k)
        mine = Trace(trace.arrived_at[rows], trace.isl[rows], trace.osl[rows])
        alone = simulate_deployment(Deployment("llama-3.1-8b", (pool,)), mine).records
        np.testing.assert_allclose(both.e2e_s[rows], alone.e2e_s, rtol=1e-9)


def test_ranks_that_share_experts_step_together() -> None:
    trace = requests(60, 1.0)
    found = simulate("deepseek-r1", "h200_sxm:8", trace=trace, tp=1, dp=8, ep=8, engine="sglang", weights="fp8")
    assert found.records.completed.all()
    steps = found.iterations
    counts = np.unique(steps.start_s, return_counts=True)[1]
    assert (counts == 8).all() and found.replicas == 8


def test_a_spare_takes_over_when_a_replica_fails_for_good() -> None:
    """One replica carries the load; of two, one may be lost at any moment. Alone, it leaves what comes unserved."""
    trace = Trace(np.arange(20) * 5.0, np.full(20, 10), np.full(20, 3))
    lost = Dynamics(outages=(Outage(21.5, 0),))
    calm = run_fleet(trace, engines(1), tables=constant_tables(1.0)).requests
    spared = run_fleet(trace, engines(2, changes=lost), tables=constant_tables(1.0))
    q = spared.requests
    assert spared.totals["failures"] == 1 and spared.totals["completed"] == len(trace)
    late = q["last_at"] - calm["last_at"]
    # what was in flight at 21.5 had a token at 21 and begins again on the other replica; nothing else is late
    assert late.max() <= 3.0 and np.count_nonzero(late > 0) <= 1
    alone = run_fleet(trace, engines(1, changes=lost), tables=constant_tables(1.0))
    assert alone.totals["completed"] < len(trace)
