"""Pools of a deployment: prompts and answers apart, encoders, unlike machines; times worked out by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")

from steelyard.cost.kv_pool import KvPool
from steelyard.cost.step_table import constant_tables
from steelyard.deployment.deployment import Deployment, Pool
from steelyard.deployment.plan import Plan
from steelyard.errors import InputError
from steelyard.machine.cluster import parse_cluster
from steelyard.scenario.parse import parse_pools
from steelyard.simulation.api import simulate
from steelyard.simulation.arrays import Member
from steelyard.simulation.prepared import Options
from steelyard.simulation.result import simulate_deployment
from steelyard.traffic.trace import Trace
from tests.serving import config, run, run_fleet, wires


def apart(blocks: int = 1 << 20, decode_blocks: int = 1 << 20, replicas: int = 1, **flags: Any) -> list[Member]:
    """One pool for prompts, one for answers."""
    engine = config(**flags)
    return [
        Member(engine, KvPool(blocks, 16, 1.0), replicas, role="prefill"),
        Member(engine, KvPool(decode_blocks, 16, 1.0), replicas, role="decode"),
    ]


def test_the_first_token_comes_from_the_prompts_replica_and_the_rest_after_the_transfer() -> None:
    trace = Trace(np.zeros(1), [100], [4])
    q = run_fleet(trace, apart(), tables=constant_tables(1.0), links=wires(2, 0.25, 0.005)).requests[0]
    assert q["first_at"] == 1.0
    assert q["last_at"] == pytest.approx(1.0 + 0.25 + 0.5 + 3.0)
    assert (q["replica"], q["answered_by"]) == (0, 1)


def test_a_first_token_that_is_relayed_comes_when_the_cache_is_there_and_nothing_else_changes() -> None:
    trace = Trace(np.zeros(2), [100, 100], [4, 1])
    links, table = wires(2, 0.25, 0.005), constant_tables(1.0)
    prompts, answers = apart()
    plain = run_fleet(trace, [prompts, answers], tables=table, links=links)
    relayed = run_fleet(trace, [replace(prompts, relays=True), answers], tables=table, links=links)
    assert plain.requests["first_at"].tolist() == [1.0, 1.0]
    assert relayed.requests["first_at"].tolist() == pytest.approx([1.0 + 0.25 + 0.5, 1.0])  # the only token is not
    assert relayed.requests["last_at"].tolist() == plain.requests["last_at"].tolist()
    assert relayed.totals["transfer_s"] == plain.totals["transfer_s"]


def test_a_relayed_token_waits_for_room_at_the_replica_for_answers() -> None:
    trace = Trace(np.zeros(2), [160, 160], [8, 8])
    prompts, answers = apart(decode_blocks=11)  # room for one
    one, two = run_fleet(
        trace, [replace(prompts, relays=True), answers], tables=constant_tables(1.0), links=wires(2, 0.5)
    ).requests
    assert one["first_at"] == pytest.approx(1.5) and two["first_at"] == pytest.approx(one["last_at"] + 0.5)


def test_engines_relay_and_the_systems_that_answer_from_the_prompts_replica_do_not() -> None:
    words: dict[str, Any] = {"rate": "2/s", "requests": 20, "isl": 2000, "osl": 50, "network": "ethernet_10"}
    relayed = simulate("llama-3.1-8b", "l40s:2", disaggregate="1P,1D", **words)
    direct = simulate("llama-3.1-8b", "l40s:2", techniques="distserve:1P,1D", **words)
    sent = relayed.to_dict()["pools"][0]["sent"]["mean_s"]
    gap = relayed.records.ttft_s - direct.records.ttft_s
    assert sent > 0 and (gap > 0.99 * sent).all()
    assert gap.max() < sent + 2 * relayed.records.tpot_s.max()  # it is pulled when a step of answers ends
    assert relayed.records.e2e_s.tolist() == direct.records.e2e_s.tolist()


def test_a_link_carries_one_cache_at_a_time() -> None:
    trace = Trace(np.zeros(3), [100] * 3, [2] * 3)
    played = run_fleet(trace, apart(), tables=constant_tables(1.0), links=wires(2, 0.0, 0.005))
    # the three caches are there at 1.5, 2.0 and 2.5; steps of 1 s begin at 1.5 and 2.5
    assert sorted(played.requests["last_at"]) == pytest.approx([2.5, 3.5, 3.5])
    assert played.totals["transfer_s"] == pytest.approx(0.5 + 1.0 + 1.5)
    assert played.totals["transfer_bytes"] == 300


def test_overlap_hides_a_share_of_the_transfer() -> None:
    trace = Trace(np.zeros(1), [100], [2])
    members = apart()
    pushed = [Member(m.config, m.kv, role=m.role, overlap=0.8) for m in members]
    ends = [
        run_fleet(trace, given, tables=constant_tables(1.0), links=wires(2, 0.0, 0.005)).requests["last_at"][0]
        for given in (members, pushed)
    ]
    assert ends == pytest.approx([2.5, 2.1])


def test_blocks_stay_with_the_sender_until_the_cache_has_left() -> None:
    trace = Trace(np.zeros(2), [160, 160], [2, 2])
    tight = run_fleet(trace, apart(blocks=21), tables=constant_tables(1.0), links=wires(2, 10.0))
    assert sorted(tight.requests["first_at"]) == [1.0, 1.0]
    tight = run_fleet(trace, apart(blocks=11), tables=constant_tables(1.0), links=wires(2, 10.0))
    assert sorted(tight.requests["first_at"]) == [1.0, 12.0]  # the second prompt waits for the first one's blocks


def test_an_answer_out_of_blocks_is_computed_again_where_it_is() -> None:
    trace = Trace(np.zeros(4), [64] * 4, [100] * 4)
    played = run_fleet(trace, apart(decode_blocks=24), tables=constant_tables(0.1))
    assert played.per_pool[1]["preemptions"] > 0 == played.per_pool[0]["preemptions"]
    assert played.per_pool[1]["prefill_tokens"] > 0
    assert (played.requests["status"] == 0).all()


def test_answers_of_one_token_never_travel() -> None:
    trace = Trace(np.zeros(5), [100] * 5, [1] * 5)
    played = run_fleet(trace, apart(), tables=constant_tables(1.0), links=wires(2, 5.0))
    assert played.totals["transfers"] == 0
    assert (played.requests["last_at"] == 1.0).all()


def test_encoders_work_before_the_prompt_and_those_without_work_pass() -> None:
    encoder = Member(config(), KvPool(1, 16, 1.0), 1, role="encode")
    engine = Member(config(), KvPool(1 << 20, 16, 1.0))
    trace = Trace(np.zeros(3), [10] * 3, [1] * 3)
    q = run_fleet(trace, [encoder, engine], tables=constant_tables(0.5), encode_s=np.array([2.0, 0.0, 2.0])).requests
    assert list(q["first_at"]) == [2.5, 0.5, 4.5]


def test_the_faster_pool_gets_more() -> None:
    trace = Trace(np.arange(400) * 0.02, [10] * 400, [20] * 400)
    members = [Member(config(), KvPool(1 << 20, 16, 1.0), weight=w) for w in (1.0, 3.0)]
    tables = [constant_tables(0.03), constant_tables(0.01)]
    q = run_fleet(trace, members, tables=tables, router="least-loaded").requests
    counts = np.bincount(q["replica"])
    assert counts[1] > 2 * counts[0]
    equal = run_fleet(trace, members, tables=tables, router="round-robin").requests
    assert q["last_at"].mean() < equal["last_at"].mean()


def test_requests_go_where_they_fit() -> None:
    members = [Member(config(), KvPool(b, 16, 1.0)) for b in (4, 400)]
    trace = Trace(np.arange(20.0), [10, 1000] * 10, [10] * 20)
    for router in ("round-robin", "random", "least-loaded"):
        q = run_fleet(trace, members, router=router).requests
        assert (q["status"] == 0).all()
        assert (q["replica"][trace.isl == 1000] == 1).all()


def test_two_equal_pools_are_one() -> None:
    rng = np.random.default_rng(0)
    trace = Trace(np.cumsum(rng.exponential(0.01, 300)), rng.integers(1, 300, 300), rng.integers(1, 100, 300))
    member = Member(config(max_num_seqs=16), KvPool(200, 16, 1.0), 2)
    for router in ("round-robin", "least-loaded"):
        split = run_fleet(trace, [member, member], router=router)
        whole = run(trace, config(max_num_seqs=16), blocks=200, replicas=4, router=router)
        assert split.requests.tobytes() == whole.requests.tobytes()
        assert split.totals["kv_s"] == pytest.approx(whole.totals["kv_s"])


def test_pools_in_words() -> None:
    cluster = parse_cluster("h100_sxm:16")
    pools, _ = parse_pools("2P:tp4, 1D:tp4dp2", cluster, Plan(engine="vllm", weights="fp8"), {"max_num_seqs": 7})
    assert [(p.role, p.replicas, p.plan.tp, p.plan.dp, p.devices) for p in pools] == [
        ("prefill", 2, 4, 1, 8),
        ("decode", 1, 4, 2, 8),
    ]
    assert {p.plan.weights for p in pools} == {"fp8"} and pools[0].flags == {"max_num_seqs": 7}
    pools, clusters = parse_pools("1P:tp8@l40s,1D:tp16", cluster, Plan(), {})
    assert [c.machine.name for c in clusters] == ["l40s", "h100_sxm"] and pools[0].machine == "l40s"
    for bad in ("1P:tp8,1D:tp4", "P:tp8", "1X:tp16", "1P:tq8,1D:tp8", "0P:tp8,2D:tp8"):
        with pytest.raises(InputError, match="disaggregate"):
            parse_pools(bad, cluster, Plan(), {})


def requests(rate: float = 8.0, n: int = 300) -> Trace:
    rng = np.random.default_rng(4)
    return Trace(np.cumsum(rng.exponential(1 / rate, n)), rng.integers(500, 4000, n), rng.integers(50, 400, n))


def test_a_disaggregated_deployment_keeps_prompts_out_of_answers() -> None:
    """DistServe (OSDI 2024): prompts no longer interrupt answers; the tail of the time between tokens falls."""
    trace = requests()
    both = simulate("llama-3.1-8b", "h100_sxm:2", trace=trace, tp=1, dp=2, engine="sglang", router="least-loaded")
    split = simulate("llama-3.1-8b", "h100_sxm:2", trace=trace, disaggregate="1P,1D", engine="sglang")
    assert split.records.completed.all()
    assert split.summary()["itl_s"]["p99"] < 0.6 * both.summary()["itl_s"]["p99"]
    first, second = split.summary()["pools"]
    assert (first["role"], second["role"]) == ("prefill", "decode")
    assert first["decode_tokens"] == 0 == second["prefill_tokens"]
    assert first["sent"]["requests"] == len(trace)
    # 8B in bf16: 32 layers x 8 heads x 128 x 2 x 2 bytes per token
    assert first["sent"]["bytes"] == pytest.approx(float(trace.isl.sum()) * 131072, rel=0.01)
    assert 0 < first["sent"]["mean_s"] < 0.02
    json.dumps(split.summary(), allow_nan=False)


def test_unlike_machines_cost_what_each_costs() -> None:
    deployment = Deployment(
        "llama-3.1-8b",
        (Pool("h100_sxm", Plan(engine="vllm"), 1, "prefill"), Pool("l40s", Plan(engine="vllm"), 2, "decode")),
    )
    found = simulate_deployment(deployment, requests(3.0), Options(slo={"ttft_s": 1.0}))
    assert found.records.completed.all()
    assert found.devices == 3 and found.replicas == 3
    usd = [p["usd"] for p in found.summary()["pools"]]
    hours = found.makespan_s / 3600
    assert usd == pytest.approx(
        [hours * found.pools[0].price.usd_per_hour, 2 * hours * found.pools[1].price.usd_per_hour]
    )
    assert found.usd == pytest.approx(sum(usd))
    assert found.energy_j == pytest.approx(sum(p["energy_j"] for p in found.summary()["pools"]))
    assert set(np.unique(found.records.answered_by)) == {1, 2}
    series = found.series(20)
    assert series["kv_frac"].max() <= 1
    assert found.intervals()["ttft_s"]["p90"][0] > 0


def test_encoders_need_their_times_and_static_batches_stay_whole() -> None:
    with pytest.raises(InputError, match="encode_s"):
        simulate("llama-3.1-8b", "h100_sxm:2", trace=requests(), disaggregate="1E,1M")
    with pytest.raises(InputError, match="static"):
        simulate("llama-3.1-8b", "h100_sxm:2", trace=requests(), disaggregate="1P,1D", engine="static")
    found = simulate("llama-3.1-8b", "h100_sxm:3", trace=requests(2.0, 50), disaggregate="1E,1P,1D", encode_s=0.1)
    assert found.records.completed.all()
    assert np.nanmin(found.records.ttft_s) > 0.1


def test_replicas_are_copies() -> None:
    trace = requests()
    copies = simulate("llama-3.1-8b", "h100_sxm", trace=trace, replicas=2, engine="vllm").summary()
    ranks = simulate("llama-3.1-8b", "h100_sxm:2", trace=trace, tp=1, dp=2, engine="vllm").summary()
    for name in ("ttft_s", "e2e_s", "energy_j", "usd", "kv"):
        assert copies[name] == ranks[name]
