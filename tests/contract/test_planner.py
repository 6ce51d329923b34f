"""The planner's winner is the best of all points played one by one; looser questions never get worse answers."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steelyard.report.plan import text, to_dict
from steelyard.scenario.slo import parse_target
from steelyard.search import space
from steelyard.search.answer import Answer, Question
from steelyard.search.api import plan as advise
from steelyard.search.group import groups_of
from steelyard.search.options import PoolOption
from steelyard.search.task import task_of
from steelyard.search.trial import Player
from steelyard.simulation.result import simulate_deployment
from steelyard.traffic import Traffic, traffic
from steelyard.traffic.trace import Trace
from steelyard.workload.catalogue import load_model

MODEL = "llama-3.1-8b"


@pytest.fixture(autouse=True)
def small_space(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few limits to choose from, so that every point can be played."""
    monkeypatch.setattr(space, "BUDGETS", (2048, 8192))
    monkeypatch.setattr(space, "SEQUENCES", (16, 256))
    monkeypatch.setattr(space, "PIPELINE", (1,))


def ask(machines: str, rate: float, ttft_s: float, tpot_s: float, **more: object) -> Answer:
    arguments: dict[str, object] = {
        "isl": 1500,
        "osl": 150,
        "max_gpus": 8,
        "engine": "vllm",
        "mode": "aggregated",
        "requests": 600,
        "remedies": False,
        **more,
    }
    return advise(MODEL, machines, rate=rate, ttft=f"p95:{ttft_s}s", tpot=f"p90:{tpot_s}s", **arguments)  # type: ignore[arg-type]


def brute_force(answer: Answer, rate: float) -> float:
    """The lowest rent of all points, each played."""
    question = answer.question
    sent = traffic(Traffic(rate=rate, isl=1500, osl=150, requests=600))
    sent = sent.scaled(rate / sent.rate_per_s)
    task = task_of(load_model(MODEL), question, sent)
    player = Player(task)
    best = math.inf
    for group in groups_of(task, []):
        usd = task.device_prices[group.machine.name]
        for replica in group.replicas:
            most = (question.max_gpus or 0) // replica.devices
            points = itertools.product(range(1, most + 1), enumerate(replica.budgets), enumerate(replica.sequences))
            for count, (c, budget), (s, sequences) in points:
                cost = usd * count * replica.devices
                if replica.tokens[c, s] <= 0 or cost >= best:
                    continue
                pool = PoolOption(replica, "both", count, int(max(budget, sequences)), int(sequences))
                if player.held([pool], question.rate_per_s).meets:
                    best = cost
    return best


@settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    machines=st.sampled_from(["h100_sxm", "l40s,a100_sxm", "h100_sxm,l40s", "a100_sxm,h200_sxm"]),
    rate=st.floats(1.0, 30.0),
    ttft=st.floats(0.3, 2.0),
    tpot=st.floats(0.012, 0.06),
)
def test_winner_equals_brute_force(machines: str, rate: float, ttft: float, tpot: float) -> None:
    rate, ttft, tpot = round(rate, 1), round(ttft, 2), round(tpot, 3)
    answer = ask(machines, rate, ttft, tpot)
    best = brute_force(answer, rate)
    if answer.winner is None:
        assert best == math.inf
    else:
        assert answer.winner.rent_usd_per_hour == pytest.approx(best)
        assert answer.winner.meets and answer.winner.simulated


@settings(max_examples=3, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rate=st.floats(2.0, 25.0), tpot=st.floats(0.015, 0.05), looser=st.floats(1.05, 1.6))
def test_a_looser_question_is_never_dearer(rate: float, tpot: float, looser: float) -> None:
    rate, tpot = round(rate, 1), round(tpot, 3)
    tight = ask("h100_sxm,l40s", rate, 0.8, tpot)
    others = [
        ask("h100_sxm,l40s", rate, 0.8, round(tpot * looser, 4)),
        ask("h100_sxm,l40s", rate, 0.8 * looser, tpot),
        ask("h100_sxm,l40s", rate, 0.8, tpot, max_gpus=12),
        ask("h100_sxm,l40s,a100_sxm,h200_sxm", rate, 0.8, tpot),
    ]
    cost = tight.winner.rent_usd_per_hour if tight.winner else math.inf
    for other in others:
        assert cost is not None
        found = other.winner.rent_usd_per_hour if other.winner else math.inf
        assert found is not None and found <= cost * (1 + 1e-9)


@settings(max_examples=4, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rate=st.floats(2.0, 40.0),
    ttft=st.floats(0.3, 2.0),
    tpot=st.floats(0.01, 0.05),
    mode=st.sampled_from(["aggregated", "disaggregated", "any"]),
)
def test_giving_lost_runs_up_changes_no_winner(rate: float, ttft: float, tpot: float, mode: str) -> None:
    rate, ttft, tpot = round(rate, 1), round(ttft, 2), round(tpot, 3)
    stopped = ask("h100_sxm,l40s", rate, ttft, tpot, mode=mode, max_gpus=16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Player, "_misses", lambda self, trace: {})
        whole = ask("h100_sxm,l40s", rate, ttft, tpot, mode=mode, max_gpus=16)
    assert stopped.winner == whole.winner


def test_a_run_is_given_up_only_when_the_promise_is_lost() -> None:
    sent = traffic(Traffic(rate=20.0, isl=1500, osl="lognormal:150", requests=600))
    targets = (parse_target("p95:0.4s", "ttft_s"), parse_target("p90:25ms", "tpot_s"), parse_target("p99:20s", "e2e_s"))
    question = Question(MODEL, ("h100_sxm",), targets, sent.rate_per_s, 1500.0, 150.0, engines=("vllm",), max_gpus=1)
    task = task_of(load_model(MODEL), question, sent)
    replica = next(groups_of(task, [])).replicas[0]
    player = Player(task)
    given_up = 0
    for rate in np.geomspace(0.5, 60.0, 24).tolist():
        pool = PoolOption(replica, "both", 1, 8192, 256)
        found = player.play([pool], rate)
        whole = Player(task).play([pool], rate, whole=True)
        assert whole.complete and found.meets == whole.meets
        assert found.complete or whole.worst > 1.0
        given_up += not found.complete
    assert 0 < given_up < 24


def test_a_budget_below_the_winner_finds_nothing_and_one_above_changes_nothing() -> None:
    free = ask("h100_sxm,l40s", 8.0, 1.0, 0.04)
    assert free.winner is not None and free.winner.rent_usd_per_hour is not None
    above = ask("h100_sxm,l40s", 8.0, 1.0, 0.04, budget=free.winner.rent_usd_per_hour)
    below = ask("h100_sxm,l40s", 8.0, 1.0, 0.04, budget=free.winner.rent_usd_per_hour * 0.999)
    assert above.winner is not None and above.winner.rent_usd_per_hour == free.winner.rent_usd_per_hour
    assert below.winner is None or below.winner.chance["all"] < below.question.sure


def test_a_played_candidate_is_what_simulate_says() -> None:
    answer = ask("h100_sxm", 6.0, 1.0, 0.04)
    assert answer.winner is not None
    sent = traffic(Traffic(rate=6.0, isl=1500, osl=150, requests=600))
    sent = sent.scaled(6.0 / sent.rate_per_s)
    again = simulate_deployment(answer.winner.deployment, sent)
    done = again.records.completed
    assert done.all()
    assert float(np.percentile(again.records.ttft_s, 95)) == pytest.approx(answer.winner.ttft_s, rel=1e-3)
    assert float(np.percentile(again.records.tpot_s, 90)) == pytest.approx(answer.winner.tpot_s, rel=1e-3)


def test_equal_questions_get_equal_answers() -> None:
    one, two = (ask("h100_sxm,l40s", 5.0, 1.0, 0.03) for _ in range(2))
    assert one.winner == two.winner
    assert one.runners_up == two.runners_up
    assert one.front == two.front
    assert one.candidates == two.candidates


def test_a_pair_of_pools_is_what_simulate_says() -> None:
    answer = ask("h100_sxm", 12.0, 1.0, 0.02, mode="disaggregated", max_gpus=8)
    assert answer.winner is not None and answer.winner.mode == "disaggregated"
    sent = traffic(Traffic(rate=12.0, isl=1500, osl=150, requests=600))
    sent = sent.scaled(12.0 / sent.rate_per_s)
    again = simulate_deployment(answer.winner.deployment, sent)
    assert float(np.percentile(again.records.ttft_s, 95)) == pytest.approx(answer.winner.ttft_s, rel=1e-3)
    assert float(np.percentile(again.records.tpot_s, 90)) == pytest.approx(answer.winner.tpot_s, rel=1e-3)


def test_the_nearest_change_holds_when_it_is_asked_for() -> None:
    tight = ask("h100_sxm", 60.0, 0.8, 0.02, max_gpus=1, remedies=True)
    assert tight.winner is None and tight.infeasible is not None
    assert tight.infeasible.nearest and tight.infeasible.reason
    for change in tight.infeasible.nearest[:2]:
        assert change.winner.meets
        arguments: dict[str, object] = {"max_gpus": 1, **change.arguments}
        asked = {"isl": 1500, "osl": 150, "engine": "vllm", "mode": "aggregated", "requests": 600, "remedies": False}
        promises = {"ttft": "p95:0.8s", "tpot": "p90:0.02s"}
        again = advise(MODEL, "h100_sxm", rate=60.0, **{**asked, **promises, **arguments})  # type: ignore[arg-type]
        assert again.winner is not None


def test_limits_without_a_single_candidate_still_have_a_nearest_change() -> None:
    answer = advise(
        "llama-3.1-70b",
        "h100_sxm",
        rate=2.0,
        isl=1500,
        osl=150,
        ttft="p95:1s",
        tpot="p90:50ms",
        max_gpus=1,
        engine="vllm",
        mode="aggregated",
        requests=600,
    )
    assert answer.candidates == 0 and answer.infeasible is not None
    devices = [c.arguments["max_gpus"] for c in answer.infeasible.nearest if "max_gpus" in c.arguments]
    assert devices and devices[0] > 1


def test_simpler_is_preferred_when_the_rent_is_nearly_the_same() -> None:
    """With both modes allowed, a pair of pools wins only where it is over 5 % cheaper than one pool."""
    for rate in (6.0, 10.0, 16.0):
        free = ask("h100_sxm", rate, 0.8, 0.02, mode="any", max_gpus=12)
        single = ask("h100_sxm", rate, 0.8, 0.02, mode="aggregated", max_gpus=12)
        if free.winner is None or single.winner is None:
            continue
        assert free.winner.rent_usd_per_hour is not None and single.winner.rent_usd_per_hour is not None
        if free.winner.mode == "disaggregated":
            assert single.winner.rent_usd_per_hour > free.winner.rent_usd_per_hour * 1.05
        else:
            assert free.winner.rent_usd_per_hour == single.winner.rent_usd_per_hour


def test_fronts_are_of_fleets_that_the_rate_loads() -> None:
    answer = ask("h100_sxm,l40s", 10.0, 1.0, 0.04, max_gpus=None, mode="any")
    assert answer.front and answer.cost_front
    assert all(c.max_rate_per_s <= 10.0 * 1.5 * (1 + 1e-9) for c in answer.front)
    rents = [c.rent_usd_per_hour or 0.0 for c in answer.cost_front]
    assert rents == sorted(rents) and rents[-1] <= 3.0 * rents[0] * (1 + 1e-9)


def test_a_mixed_fleet_is_planned_beside_the_winner() -> None:
    answer = ask("h100_sxm,l40s", 6.0, 1.0, 0.05, mix=True, max_gpus=None)
    assert answer.fleet is not None and answer.fleet.winner is not None and answer.winner is not None
    assert answer.fleet.winner.meets
    document = to_dict(answer)
    assert document["fleet"]["schema"] == "steelyard.fleet/1"
    assert "mixed fleet" in text(answer)


def test_shared_prefixes_are_routed_by_prefix() -> None:
    rng = np.random.default_rng(0)
    n, block, blocks = 600, 512, 6
    group = rng.integers(0, 40, n)
    hashes = (group[:, None] * 100 + np.arange(blocks)).ravel()  # forty system prompts, each of 3,072 tokens
    sent = Trace(
        np.cumsum(rng.exponential(1 / 16, n)),
        np.full(n, block * blocks + 64),
        np.full(n, 60),
        prefix_hashes=hashes,
        prefix_offsets=np.arange(n + 1) * blocks,
        prefix_block_tokens=block,
        name="prefixes",
    )
    answer = advise(
        MODEL,
        "l40s",
        trace=sent,
        ttft="p95:1s",
        tpot="p90:60ms",
        engine="vllm",
        mode="aggregated",
        max_gpus=8,
        remedies=False,
    )
    assert answer.winner is not None
    engines = answer.winner.deployment.pools[0].replicas
    assert answer.winner.deployment.router == ("prefix" if engines > 1 else "round-robin")
    again = simulate_deployment(answer.winner.deployment, sent)
    assert float(np.percentile(again.records.ttft_s, 95)) == pytest.approx(answer.winner.ttft_s, rel=1e-3)
