"""The screen: prices equal those of the step table, capacities those of the simulator, legal points only."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from steelyard.cost.step import Replica
from steelyard.cost.step_table import build_step_table
from steelyard.deployment.engine import find_engine
from steelyard.deployment.plan import Plan
from steelyard.deployment.sharding import check_sharding
from steelyard.errors import InputError
from steelyard.machine.catalogue import find_machine
from steelyard.machine.cluster import cluster_of
from steelyard.scenario.slo import parse_target
from steelyard.search.answer import Question
from steelyard.search.api import plan as advise
from steelyard.search.candidates import counts_up_to
from steelyard.search.demand import Demand, demand_of
from steelyard.search.front import pareto
from steelyard.search.options import Formats, PoolOption, ReplicaOption
from steelyard.search.prices import BATCHES, step_prices, with_hops
from steelyard.search.screen import COUNTS, SloLimits, capacities, operating_points, tail
from steelyard.search.space import formats_of, replica_options
from steelyard.search.task import task_of
from steelyard.search.trial import Player
from steelyard.traffic import Traffic, traffic
from steelyard.traffic.trace import Trace
from steelyard.workload.catalogue import load_model

TARGETS = (parse_target("p99:1s", "ttft_s"), parse_target("p95:50ms", "tpot_s"))


def sent(isl: int = 2000, osl: int = 200, n: int = 1500) -> Trace:
    made = traffic(Traffic(rate=1.0, isl=isl, osl=osl, requests=n))
    return made.scaled(1.0 / made.rate_per_s)


def demand(isl: int = 2000, osl: int = 200) -> Demand:
    return demand_of(sent(isl, osl), 1.0, dispersion=1.0)


def replicas(model: str, machine: str, engine: str, most: int = 16) -> list[ReplicaOption]:
    loaded = load_model(model)
    base = Replica(loaded.transformer, Plan(engine=engine), cluster_of(find_machine(machine), 1), find_engine(engine))
    options = replica_options(base, Formats(), demand(), exact_weights=loaded.weight_bytes, max_devices=most)
    return list(options)


@pytest.mark.parametrize(
    ("model", "machine", "engine"),
    [("llama-3.1-8b", "h100_sxm", "vllm"), ("deepseek-v3", "h200_sxm", "sglang"), ("qwen3-30b-a3b", "l40s", "vllm")],
)
def test_prices_are_those_of_the_step_table(model: str, machine: str, engine: str) -> None:
    asked = demand()
    for replica in replicas(model, machine, engine)[:6:2]:
        prices = with_hops(step_prices(replica, asked), replica)
        config = dataclasses.replace(replica.config, max_num_batched_tokens=8192, max_num_seqs=256)
        table = build_step_table(replica.pricer, config, max_context=2200)
        for b in (1, 8, 64):
            i = int(np.searchsorted(BATCHES, b))
            alone = sum(float(x[0, i]) for x in (prices.token, prices.decode_token, prices.rows, prices.attention))
            alone += prices.overhead_s + prices.per_row_s * b
            assert alone == pytest.approx(table.time_s(b, b, b, b * asked.context_tokens), rel=0.02)
        c = int(np.searchsorted(replica.budgets, 8192))
        at = [np.interp(2000, prices.points, x[0]) for x in (prices.token, prices.prompt_token)]
        prompt = sum(at) + float(prices.rows[0, 0]) + float(prices.prompt[0, c, 0])
        prompt += prices.overhead_s + prices.per_row_s
        assert prompt == pytest.approx(table.time_s(2000, 1, chunks=1, new=2000, pairs=2000 * 1000), rel=0.05)


def test_stages_of_a_pipeline_have_the_kernels_of_the_whole() -> None:
    asked = demand()
    found = {r.shape: r for r in replicas("llama-3.1-8b", "h100_sxm", "vllm")}
    one, two = (step_prices(found[s], asked) for s in ("tp8", "tp8 pp2"))
    np.testing.assert_allclose(one.token, two.token, rtol=1e-12)
    np.testing.assert_allclose(one.attention, two.attention, rtol=1e-12)


@pytest.mark.parametrize(("engine", "count"), [("vllm", 4), ("sglang", 4), ("trtllm", 4), ("vllm", 1)])
def test_capacity_is_near_the_simulators(engine: str, count: int) -> None:
    loaded, asked, trace = load_model("llama-3.1-8b"), demand(), sent()
    question = Question("llama-3.1-8b", ("h100_sxm",), TARGETS, 1.0, 2000.0, 200.0)
    chosen = [r for r in replicas("llama-3.1-8b", "h100_sxm", engine, 2) if r.plan.pp == 1]
    prices = [step_prices(r, asked) for r in chosen]
    rates, _ = capacities(operating_points(chosen, prices, asked), asked, SloLimits.of(TARGETS))
    player = Player(task_of(loaded, question, trace))
    c, s = int(np.searchsorted(chosen[0].budgets, 8192)), int(np.searchsorted(chosen[0].sequences, 512))
    for i, replica in enumerate(chosen):
        said = float(rates[i, c, s, list(COUNTS).index(count)]) * count
        pool = PoolOption(replica, "both", count, 8192, 512)
        assert said == pytest.approx(player.largest_rate([pool], said)[0], rel=0.12 if count > 1 else 0.25)


def test_every_replica_is_legal_and_fits() -> None:
    for model, machine in (("llama-3.1-70b", "h100_sxm"), ("deepseek-v3", "h200_sxm"), ("qwen3-32b", "l40s")):
        found = replicas(model, machine, "vllm", 64)
        assert found
        for replica in found:
            check_sharding(load_model(model).transformer, replica.plan)
            assert replica.devices <= 64
            assert replica.tokens.max() >= 2200
            assert np.all(np.diff(replica.tokens, axis=0) <= 0) and np.all(np.diff(replica.tokens, axis=1) <= 0)
    assert not replicas("llama-3.1-70b", "h100_sxm", "vllm", 1)
    assert all(r.plan.tp * r.plan.cp <= 8 for r in replicas("llama-3.1-70b", "h100_sxm", "vllm", 64))


def test_formats_are_the_published_ones_unless_allowed() -> None:
    model = load_model("llama-3.1-70b").transformer
    assert formats_of(model, find_machine("h100_sxm"), (), ()) == [Formats()]
    assert Formats("fp8", "") in formats_of(model, find_machine("h100_sxm"), ("", "fp8"), ())
    assert Formats("fp8", "") not in formats_of(model, find_machine("a100_sxm"), ("", "fp8"), ())
    assert Formats("", "fp8") in formats_of(model, find_machine("a100_sxm"), ("",), ("", "fp8"))


def test_normal_tail() -> None:
    for x in (-3.0, -0.5, 0.0, 1.0, 2.33, 4.0):
        assert float(tail(x)) == pytest.approx(0.5 * math.erfc(x / math.sqrt(2)), abs=2e-7)


def test_counts_have_no_gap_to_32_and_small_ones_beyond() -> None:
    counts = counts_up_to(500)
    assert list(counts[:32]) == list(range(1, 33))
    assert counts[-1] >= 500 and np.all(counts[1:] / counts[:-1] <= 2.0)
    assert np.all(np.diff(counts[32:]) <= np.ceil(counts[32:-1] * 0.05))


def test_pareto() -> None:
    first, second = np.array([1.0, 2, 3, 3, 0]), np.array([5.0, 4, 1, 2, 5])
    assert [int(i) for i in pareto(first, second)] == [3, 1, 0]


def test_demand_of_lengths_and_bursts() -> None:
    trace = traffic(Traffic(rate=20.0, isl="lognormal:2000", osl="lognormal:300", requests=4000))
    found = demand_of(trace, 20.0)
    assert found.mean_prompt_tokens == pytest.approx(float(trace.isl.mean()), rel=1e-6)
    assert found.mean_output_tokens == pytest.approx(float(trace.osl.mean()), rel=1e-6)
    regular = traffic(Traffic(rate=20.0, arrivals="constant", requests=4000))
    bursts = traffic(Traffic(rate=20.0, arrivals="gamma:cv=3", requests=4000))
    spreads = [demand_of(t, 20.0).dispersion for t in (regular, trace, bursts)]
    assert spreads[0] < 0.1 < spreads[1] < 3.0 < spreads[2]


def test_every_problem_is_named_at_once() -> None:
    with pytest.raises(InputError) as caught:
        advise("llama-3.1-8b", "h100_sxn", rate="fast", ttft="p99:0s", objective="cheap", engine="vlm", budget=-1)
    fields = {p.field.split(".")[0] for p in caught.value.problems}
    assert {"on", "ttft", "objective", "engine", "budget"} <= fields
    assert "cost" in str(caught.value) or "did you mean" in str(caught.value)
    with pytest.raises(InputError, match="max_gpus"):
        advise("llama-3.1-8b", "h100_sxm", ttft="p99:1s", objective="throughput")
    with pytest.raises(InputError, match="rate"):
        advise("llama-3.1-8b", "h100_sxm", ttft="p99:1s")


def plan(**more: object):  # type: ignore[no-untyped-def]
    arguments: dict[str, object] = {
        "rate": "6/s",
        "isl": 1500,
        "osl": 150,
        "ttft": "p95:1s",
        "tpot": "p90:40ms",
        "requests": 500,
    }
    return advise("llama-3.1-8b", "h100_sxm", **{**arguments, **more})  # type: ignore[arg-type]


def test_spares_come_on_top_and_headroom_is_held() -> None:
    plain, spare = plan(mode="aggregated"), plan(mode="aggregated", spares=1)
    assert plain.winner and spare.winner
    assert spare.winner.deployment.pools[0].replicas >= 2
    assert spare.winner.rent_usd_per_hour >= plain.winner.rent_usd_per_hour
    room = plan(mode="aggregated", headroom="50%")
    assert room.winner.max_rate_per_s >= 6.0 * 1.5 * 0.999


def test_objectives() -> None:
    cost, energy, latency = plan(), plan(objective="energy"), plan(objective="latency", max_gpus=4)
    carbon = plan(objective="carbon", carbon=400.0)
    assert energy.winner.watts <= cost.winner.watts * 1.001
    assert carbon.winner.carbon_g_per_hour == pytest.approx(carbon.winner.watts * 0.4)
    assert latency.winner.e2e_s <= cost.winner.e2e_s and latency.winner.devices <= 4
    most = plan(objective="throughput", rate="", max_gpus=2)
    assert most.winner.devices <= 2 and most.winner.max_rate_per_s > 6


def test_a_rate_that_only_fills_the_queue_is_not_held() -> None:
    """Without a limit on the wait the largest rate is the one that is served, not any the queue takes up."""
    waiting = plan(objective="throughput", rate="", max_gpus=1, ttft="", mode="aggregated")
    bounded = plan(objective="throughput", rate="", max_gpus=1, ttft="p95:1s", mode="aggregated")
    assert waiting.winner.max_rate_per_s == pytest.approx(bounded.winner.max_rate_per_s, rel=0.2)


def test_users_of_short_answers_queue_behind_each_other() -> None:
    """64 users of one H100 wait 1.5 s for a prompt each, a third of them on each of three well below 1 s."""
    held = advise("llama-3.1-8b", "h100_sxm", concurrency=64, isl=1000, osl=1, requests=320, ttft="p99:1s").winner
    assert held is not None
    assert 2 <= held.devices <= 3  # 36 where a lane was thought to hold one user
    free = advise("llama-3.1-8b", "h100_sxm", concurrency=64, isl=1000, osl=3, requests=320).winner
    assert free is not None
    assert free.devices == 1


def test_answers_of_one_token_need_no_pool_for_answers() -> None:
    found = advise("llama-3.1-8b", "h100_sxm", rate="5/s", isl=500, osl=1, ttft="p99:1s", mode="disaggregated")
    assert found.infeasible is not None
    assert "an answer of one token comes with its prompt" in found.infeasible.reason


def test_prompts_alone_are_not_slowed_by_decodes_that_are_not_there() -> None:
    replica = replicas("llama-3.1-8b", "h100_sxm", "vllm")[0]
    short = demand(1000, 1)
    points = operating_points([replica], [step_prices(replica, short)], short)
    one = points.service @ short.prompt_share
    assert np.allclose(one, one[:, :, :1])  # the same at every use: up to 1,024 decodes stood beside it


def test_what_would_help_is_planned_and_holds() -> None:
    answer = plan(rate="60/s", max_gpus=2, requests=3000)
    assert answer.winner is None and answer.infeasible is not None
    assert answer.infeasible.nearest and "60 requests/s" in answer.infeasible.reason
    assert answer.infeasible.closest is not None
    for change in answer.infeasible.nearest:
        again = plan(**{"rate": "60/s", "max_gpus": 2, "requests": 3000, **change.arguments})
        assert again.winner is not None
    assert plan(max_power="100W").winner is None


def test_answer_explains_itself() -> None:
    answer = plan()
    assert answer.winner.simulated and answer.winner.meets
    assert len(answer.why) >= 3 and answer.breaks_first
    assert answer.winner.interval["ttft_s"][0] <= answer.winner.ttft_s <= answer.winner.interval["ttft_s"][1]
    speeds = [c.tokens_per_s_per_user for c in answer.front]
    work = [c.tokens_per_s_per_device for c in answer.front]
    assert speeds == sorted(speeds, reverse=True) and work == sorted(work)
    rents = [c.rent_usd_per_hour for c in answer.cost_front]
    assert rents == sorted(rents)
    assert sum(p.devices for p in answer.winner.deployment.pools) == answer.winner.devices
