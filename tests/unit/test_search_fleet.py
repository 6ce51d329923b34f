"""Mixed fleets: the integer program against exhaustive search, buckets, and whole plans on small questions."""

from __future__ import annotations

import itertools
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.deployment.deployment import Pool
from steelyard.deployment.dynamics import Outage
from steelyard.deployment.plan import Plan
from steelyard.errors import InputError
from steelyard.scenario.slo import parse_target
from steelyard.search.answer import Question
from steelyard.search.buckets import buckets_of, deal
from steelyard.search.task import task_of
from steelyard.simulation.prepared import Options
from steelyard.simulation.result import simulate_deployment
from steelyard.techniques.failures import Failures
from steelyard.traffic.trace import Trace
from steelyard.workload.catalogue import load_model

pytest.importorskip("highspy", reason="mixed fleets need the extra opt")

from steelyard.report.fleet import lines, to_dict
from steelyard.search.fleet import FleetAnswer, plan_fleet
from steelyard.search.fleet_program import (
    Bound,
    Program,
    Solution,
    balanced,
    loads,
    needed,
    simplest,
    solve,
    with_spares,
)

SLACK = 1e-6

# --- the program ------------------------------------------------------------------------------------------------------


def two_types_carry(load: np.ndarray, counts: tuple[int, int]) -> bool:
    """Whether two types carry all items: items in order of their comparative advantage, cut at one place (exact)."""
    first, second = counts
    ratio = [a / b if math.isfinite(b) else -1.0 for a, b in load]  # infinite b: only the first can carry it
    order = sorted(range(len(load)), key=lambda i: ratio[i])
    left, rest = float(first), 0.0
    for i in order:
        a, b = load[i]
        share = 1.0 if a <= left else (left / a if math.isfinite(a) else 0.0)
        left -= 0.0 if share == 0 else share * a
        if share < 1.0 - 1e-12:
            rest += (1.0 - share) * b
    return rest <= second + SLACK


def exhaustive(program: Program, most: int) -> float:
    """The least cost over every pair of counts."""
    best = math.inf
    for counts in itertools.product(range(most + 1), repeat=2):
        total = with_spares(np.array(counts), program.spares)
        cost = float(program.fixed @ total)
        within = all(float(b.per_replica @ total) <= b.limit + 1e-9 for b in program.bounds)
        if cost < best and within and two_types_carry(program.load, counts):
            best = cost
    return best


@st.composite
def programs(draw: st.DrawFn, types: int = 2, most_items: int = 4) -> Program:
    items = draw(st.integers(1, most_items))
    value = st.one_of(st.integers(5, 300).map(lambda x: x / 100), st.just(math.inf))
    load = np.array(draw(st.lists(st.lists(value, min_size=types, max_size=types), min_size=items, max_size=items)))
    fixed = np.array(draw(st.lists(st.integers(1, 40), min_size=types, max_size=types)), dtype=float)
    return Program(load, fixed, spares=draw(st.integers(0, 2)))


@settings(deadline=None, max_examples=150)
@given(programs(), st.integers(0, 14), st.integers(4, 200))
def test_the_program_equals_an_exhaustive_search_over_counts(program: Program, devices: int, budget: int) -> None:
    limited = replace(
        program,
        bounds=(
            Bound("devices", np.ones(2), float(devices)),
            Bound("budget", program.fixed, float(budget)),
        ),
    )
    for asked in (program, limited):
        found = solve(asked)
        expected = exhaustive(asked, 14)
        assert found.complete
        if math.isinf(expected):
            assert found.counts is None
        else:
            assert found.counts is not None
            assert found.cost == pytest.approx(expected, rel=1e-6)
            assert found.gap_frac <= 1e-6


@settings(deadline=None, max_examples=100)
@given(programs(types=3), st.integers(0, 2), st.integers(50, 100))
def test_more_types_or_more_capacity_are_never_dearer(program: Program, left_out: int, percent: int) -> None:
    whole = solve(program).cost
    keep = [j for j in range(3) if j != left_out]
    assert whole <= solve(replace(program, load=program.load[:, keep], fixed=program.fixed[keep])).cost + SLACK
    assert solve(replace(program, load=program.load * percent / 100)).cost <= whole + SLACK
    assert solve(replace(program, max_types=2)).cost >= whole - SLACK


@settings(deadline=None, max_examples=60)
@given(programs(types=3))
def test_answers_keep_their_constraints(program: Program) -> None:
    found = solve(program)
    if found.counts is None:
        assert not np.isfinite(program.load).any(axis=1).all()
        return
    assert found.shares.sum(axis=1) == pytest.approx(np.ones(len(program.load)))
    assert np.all(loads(program.load, found.shares) <= found.counts + SLACK)
    assert not np.any(found.shares[~np.isfinite(program.load)])
    spread = balanced(program, found.counts)
    assert spread is not None
    shares, use = spread
    assert use <= 1.0 + SLACK
    assert np.all(loads(program.load, shares) <= use * np.maximum(found.counts, SLACK) + SLACK)


def test_a_limit_that_is_too_low_is_answered_with_the_least_that_is_enough() -> None:
    bounds = (Bound("budget", np.array([3.0, 1.0]), 5.0), Bound("devices of b", np.array([0.0, 1.0]), 2.0))
    program = Program(np.array([[2.5, 6.0], [0.4, 1.5]]), np.array([3.0, 1.0]), bounds=bounds)
    assert solve(program).counts is None
    assert needed(program, "budget") == pytest.approx(9.0)  # three of the first: 2.9 are busy
    assert solve(replace(program, bounds=(replace(bounds[0], limit=9.0), bounds[1]))).cost == pytest.approx(9.0)
    assert needed(program, "devices of b") is None  # 7.5 of the second cost too much as well


def test_the_power_of_the_work_counts_beside_that_of_the_replicas() -> None:
    load, idle, work = np.array([[1.0, 1.0]]), np.array([100.0, 60.0]), np.array([[20.0, 80.0]])
    assert solve(Program(load, idle, work)).cost == pytest.approx(120.0)
    capped = Program(load, np.array([1.0, 9.0]), bounds=(Bound("watts", idle, 130.0, np.array([[50.0, 10.0]])),))
    found = solve(capped)
    assert found.counts is not None and found.counts.tolist() == [0, 1]


@pytest.mark.parametrize(("first", "second"), [(0, 1), (1, 0), (0, 2), (1, 2)])
def test_of_equally_cheap_fleets_that_of_fewest_types_and_least_load_is_taken(first: int, second: int) -> None:
    program = Program(np.array([[0.9, 0.8, 0.7], [0.9, 1.0, 0.9]]), np.array([2.0, 2.0, 2.0]))  # any two replicas do
    counts, shares = np.zeros(3, dtype=np.int64), np.zeros((2, 3))
    counts[[first, second]] = shares[0, first] = shares[1, second] = 1
    found = simplest(program, Solution(counts, shares, 4.0, 4.0, 0.0, True))
    assert found.counts is not None and found.counts.tolist() == [0, 0, 2]
    again = simplest(program, replace(found, counts=np.array([2, 0, 0]), shares=np.array([[1.0, 0, 0]] * 2)))
    assert again.counts is not None and again.counts.tolist() == [0, 0, 2]


def test_the_solver_says_nothing_on_stdout() -> None:
    text = "from steelyard.search.fleet_solver import Linear\nimport numpy as np\n"
    text += "one = Linear(np.ones(1), np.ones(1))\none.add(1, 0, 0, 1.0, 1.0, 1.0)\nprint(one.solve().value)"
    made = subprocess.run([sys.executable, "-c", text], check=True, capture_output=True, text=True, timeout=60)
    assert made.stdout == "1.0\n"


# --- buckets ----------------------------------------------------------------------------------------------------------


def trace_of(n: int, rate: float, seed: int = 0, long_share: float = 0.3) -> Trace:
    """Short chats and long prompts with short answers, arriving at random."""
    rng = np.random.default_rng(seed)
    long = rng.random(n) < long_share
    isl = np.where(long, rng.integers(3000, 4000, n), rng.integers(80, 160, n))
    osl = np.where(long, rng.integers(10, 20, n), rng.integers(150, 250, n))
    return Trace(np.cumsum(rng.exponential(1 / rate, n)), isl, osl, name="mix")


def test_buckets_partition_the_requests() -> None:
    trace = trace_of(2000, 10.0)
    for routing in ("prompt", "size"):
        found = buckets_of(trace, routing)
        assert found.share.sum() == pytest.approx(1.0)
        assert np.bincount(found.member) == pytest.approx(found.share * len(trace))
        assert float(found.prompt_tokens @ found.share) == pytest.approx(float(trace.isl.mean()))
        assert found.longest_tokens.max() == (trace.isl + trace.osl).max()
    assert buckets_of(trace, "prompt").groups < buckets_of(trace, "size").groups
    assert len(buckets_of(Trace(np.arange(5.0), np.full(5, 512), np.full(5, 64)))) == 1


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 100), min_size=2, max_size=4).filter(lambda w: sum(w) > 0), st.integers(1, 400))
def test_requests_are_dealt_out_evenly_at_any_time(weights: list[int], n: int) -> None:
    shares = np.array([weights], dtype=float) / sum(weights)
    pool = deal(np.zeros(n, dtype=np.int64), shares)
    for k in range(1, n + 1, 7):
        got = np.bincount(pool[:k], minlength=len(weights))
        assert np.all(np.abs(got - shares[0] * k) <= 4.0)
    assert not np.any(np.bincount(pool, minlength=len(weights))[shares[0] == 0])


# --- whole plans ------------------------------------------------------------------------------------------------------

SHAPES = {
    "l40s": (Pool("l40s", Plan(), flags={"max_num_batched_tokens": 2048, "max_num_seqs": 256}),),
    "h100_sxm": (Pool("h100_sxm", Plan(), flags={"max_num_batched_tokens": 2048, "max_num_seqs": 256}),),
}
PRICES = {"l40s": 1.861, "h100_sxm": 6.88}


def question(**changes: object) -> Question:
    targets = (parse_target("p95:1.5s", "ttft_s"), parse_target("mean:45ms", "tpot_s"))
    asked = Question("llama-3.1-8b", ("l40s", "h100_sxm"), targets, 24.0, 1100.0, 140.0, device_prices=PRICES)
    return replace(asked, **changes)  # type: ignore[arg-type]


def asked(trace: Trace | None = None, **changes: object) -> FleetAnswer:
    options = {k: changes.pop(k) for k in ("available", "routing", "max_pools", "compare") if k in changes}
    task = task_of(load_model("llama-3.1-8b"), question(**changes), trace or trace_of(1200, 24.0))
    return plan_fleet(task, shapes=SHAPES, **options)  # type: ignore[arg-type]


def test_a_plan_holds_its_promise_and_is_never_dearer_than_one_type() -> None:
    answer = asked()
    winner = answer.winner
    assert winner is not None and winner.meets and answer.infeasible is None
    assert winner.slo_values["ttft_s"] <= 1.5 and winner.slo_values["tpot_s"] <= 0.045
    assert all(f is None or winner.value <= f.value + 1e-9 for f in answer.singles.values())
    assert winner.rent_usd_per_hour == pytest.approx(
        sum(PRICES[p.machine] * p.devices for p in winner.deployment.pools)
    )
    assert winner.devices == winner.deployment.devices
    assert {p.role for p in winner.deployment.pools} == {"both"}
    assert all(sum(r.pools) == pytest.approx(1.0) for r in winner.routes)
    assert sum(r.share for r in winner.routes) == pytest.approx(1.0)
    assert 0 <= answer.gap_frac < 1e-6 and answer.played > 0
    written = json.loads(json.dumps(to_dict(answer), allow_nan=False))
    assert written["winner"]["usd_per_hour"] == pytest.approx(winner.value)
    assert winner.shape in lines(answer)[0]


def test_the_deployment_played_as_a_whole_does_what_its_pools_did_apart() -> None:
    answer = asked(compare=False)
    assert answer.winner is not None
    trace = trace_of(1200, 24.0)
    pool = answer.winner.assigned(trace)
    whole = simulate_deployment(answer.winner.deployment, trace, Options(assigned=pool))
    ttft = np.percentile(whole.records.ttft_s, 95)
    assert float(ttft) == pytest.approx(answer.winner.slo_values["ttft_s"], rel=1e-6)


def test_spares_headroom_and_scarcity_cost_money() -> None:
    plain = asked(compare=False).winner
    spared = asked(compare=False, spares=1).winner
    ahead = asked(compare=False, headroom_frac=0.3).winner
    scarce = asked(compare=False, available={"h100_sxm": 0}).winner
    assert plain and spared and ahead and scarce
    assert spared.value > plain.value
    assert ahead.value >= plain.value
    assert all(p.machine == "l40s" for p in scarce.deployment.pools)


def test_the_spares_of_a_plan_keep_its_promise_after_a_failure() -> None:
    trace = trace_of(600, 24.0)
    spared = asked(trace, compare=False, spares=1).winner
    assert spared is not None and all(p.replicas > 1 for p in spared.deployment.pools)
    limit = question().targets[0].limit_s
    lost = Failures(outages=(Outage(0.0, 0),))
    deployment = replace(spared.deployment, router="least-loaded")
    found = simulate_deployment(deployment, trace, Options(techniques=(lost,)))
    assert found.totals["failures"] == 1 and found.records.completed.all()
    assert np.percentile(found.records.ttft_s, 95) <= limit
    served = np.unique(found.records.replica)
    assert 0 not in served and len(served) == sum(p.replicas for p in deployment.pools) - 1


def test_a_looser_promise_and_more_machines_are_never_dearer_by_the_program() -> None:
    values = []
    for ttft, tpot in (("p95:1s", "mean:40ms"), ("p95:1.5s", "mean:45ms"), ("p95:4s", "mean:90ms")):
        targets = (parse_target(ttft, "ttft_s"), parse_target(tpot, "tpot_s"))
        both = asked(compare=False, targets=targets).program_value
        values.append(both)
        for name in ("l40s", "h100_sxm"):
            assert both <= asked(compare=False, targets=targets, machines=(name,)).program_value + SLACK
    assert values == sorted(values, reverse=True)


def test_what_cannot_be_is_explained() -> None:
    poor = asked(compare=False, budget_usd_per_hour=2.0)
    assert poor.winner is None and poor.infeasible is not None
    least = next(c for c in poor.infeasible.nearest if c.name == "budget")
    assert least.value > 2.0 and "--budget" in least.text
    fast = tuple(parse_target(t, m) for t, m in (("p95:1ms", "ttft_s"), ("mean:45ms", "tpot_s")))
    hopeless = asked(compare=False, targets=fast)
    assert hopeless.infeasible is not None and "TTFT" in hopeless.infeasible.reason
    assert hopeless.infeasible.reason in lines(hopeless)
    with pytest.raises(InputError, match="a mix is chosen by"):
        asked(objective="throughput")
    with pytest.raises(InputError, match="open traffic"):
        asked(trace_of(50, 5.0).closed_loop(4))


def test_energy_and_devices_can_be_made_small() -> None:
    frugal, few = asked(compare=False, objective="energy").winner, asked(compare=False, objective="devices").winner
    assert frugal and few
    assert frugal.value == pytest.approx(frugal.watts)
    assert few.value == few.devices <= frugal.devices + 8


@pytest.mark.data
def test_a_mix_beats_one_type_on_the_azure_traces() -> None:
    folder = Path(os.environ.get("STEELYARD_DATA", "../shared"))
    if not (folder / "truth/traces_azure/azure_llm_2023.csv").exists():
        pytest.skip("needs the Azure traces under STEELYARD_DATA")
    from steelyard.traffic import read_trace

    os.environ.setdefault("STEELYARD_DATA", str(folder))
    recorded = [read_trace("azure_conv"), read_trace("azure_code")]
    isl, osl = np.concatenate([t.isl for t in recorded]), np.concatenate([t.osl for t in recorded])
    rng = np.random.default_rng(1)
    rows = rng.permutation(len(isl))[:8000]
    trace = Trace(np.cumsum(rng.exponential(1 / 160.0, 8000)), isl[rows], osl[rows], name="azure")
    targets = (parse_target("p99:1s", "ttft_s"), parse_target("p95:50ms", "tpot_s"))
    answer = plan_fleet(task_of(load_model("llama-3.1-8b"), question(targets=targets), trace))
    assert answer.winner is not None and answer.best_single is not None
    assert answer.winner.mixed
    assert answer.saving_frac is not None and answer.saving_frac > 0.01
