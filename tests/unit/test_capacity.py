"""The largest rate that holds the SLOs, the longest gap of a request, and what workflows took."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")

from steelyard.errors import InputError
from steelyard.report.simulation import text
from steelyard.scenario.slo import parse_targets
from steelyard.simulation.api import simulate
from steelyard.simulation.capacity import growth
from steelyard.simulation.limits import verdicts
from steelyard.simulation.result import Simulation
from steelyard.traffic.sessions import read_workflow, workflows

PLACE: dict[str, Any] = {"model": "llama-3.1-8b", "on": "h100_sxm"}
LOAD: dict[str, Any] = {**PLACE, "isl": "uniform:500-1500", "osl": 100, "requests": 200}


@pytest.fixture(scope="module")
def held() -> Simulation:
    return simulate(**LOAD, capacity=True, ttft="p99:500ms", itl="p99:60ms")


def test_the_capacity_holds_and_a_fifth_more_does_not(held: Simulation) -> None:
    found = held.capacity
    assert found is not None and found.unit == "requests"
    low, high = found.interval_rps
    assert 0 < low < found.rps < high
    assert all(v.met for v in verdicts(held, held.scenario.slo or ())) and held.summary()["capacity_rps"] == found.rps
    limits = {"ttft": "p99:500ms", "itl": "p99:60ms"}
    again = simulate(**LOAD, rate=f"{found.rps}/s", **limits)
    assert again.records.e2e_s == pytest.approx(held.records.e2e_s)  # what the answer says is at that rate
    more = simulate(**LOAD, rate=f"{1.2 * found.rps}/s", **limits)

    late = [v for v in verdicts(more, parse_targets(limits)) if not v.met]
    assert late or growth(more.records.ttft_s, more.trace) > 0.05
    assert "capacity" in text(held) and found.missed.split()[0] in text(held)


def test_the_capacity_does_not_depend_on_where_the_search_begins(held: Simulation) -> None:
    assert held.capacity is not None
    other = simulate(**LOAD, rate="3/s", capacity=True, ttft="p99:500ms", itl="p99:60ms").capacity
    assert other is not None and other.rps == pytest.approx(held.capacity.rps, rel=0.02)


def test_a_stricter_limit_carries_less_and_an_endless_one_what_is_served() -> None:
    strict, loose = (simulate(**LOAD, capacity=True, max_itl=f"p99:{x}") for x in ("45ms", "1000s"))
    assert strict.capacity is not None and loose.capacity is not None
    assert 0 < strict.capacity.rps < 0.9 * loose.capacity.rps
    assert strict.capacity.missed == "max ITL p99" and loose.capacity.missed == "queue"
    none = simulate(**LOAD, capacity=True, tpot="p99:1us").capacity
    assert none is not None and (none.rps, none.missed) == (0.0, "TPOT p99")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"rate": "2/s"}, "say what must hold"),
        ({"concurrency": 4, "ttft": "1s"}, "--rate instead of --concurrency"),
        ({"rate": "inf", "ttft": "1s"}, "all at once"),
        ({"requests": 2, "ttft": "1s"}, "at least 20 requests"),
    ],
)
def test_a_question_without_a_rate_or_a_limit_is_refused(words: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said) as error:
        simulate(**PLACE, capacity=True, **words)
    assert [p.field for p in error.value.problems] == ["requests" if "requests" in words else "capacity"]


def test_what_no_engine_takes_has_no_capacity() -> None:
    found = simulate("gpt2", "h100_sxm", capacity=True, ttft="1s", isl=4000, osl=3000, requests=20)
    assert found.capacity is not None and (found.capacity.rps, found.capacity.missed) == (0.0, "completion")
    assert "no rate holds the SLOs: requests are left" in text(found)


def test_goodput_counts_the_longest_gap_that_a_mean_hides() -> None:
    words: dict[str, Any] = {**PLACE, "rate": "60/s", "isl": 1500, "osl": 60, "requests": 150, "engine": "vllm@0.4"}
    hidden, told = simulate(**words, tpot="200ms"), simulate(**words, tpot="200ms", max_itl="200ms")
    gaps, tpot = hidden.records.max_itl_s, hidden.records.tpot_s
    assert np.all(gaps >= tpot * (1 - 1e-9)) and gaps.max() > 3 * np.median(tpot)
    assert gaps.sum() <= float(hidden.totals["itl_sum_s"])
    edges, counts = hidden.itl_edges_s, hidden.itl_counts
    assert edges[np.flatnonzero(counts)[-1]] <= gaps.max() <= edges[np.flatnonzero(counts)[-1] + 1]
    good = [x.summary()["throughput"]["goodput_requests_per_s"] for x in (hidden, told)]
    assert good[1] < 0.9 * good[0]


AGENT = """
[[call]]
name = "plan"
isl = 1000
osl = 100
[[call]]
name = "tool"
after = "plan"
isl = 300
osl = 50
count = 3
delay = "1s"
[[call]]
name = "next"
after = "tool"
isl = 64
osl = 80
carry = "CARRY"
"""


def test_a_workflow_has_a_time_tokens_and_a_price(tmp_path: Path) -> None:
    (tmp_path / "agent.toml").write_text(AGENT.replace("CARRY", "answers"))
    found = simulate(**PLACE, workflow=str(tmp_path / "agent.toml"), rate="2/s", requests=50)
    flow, records = found.summary()["workflows"], found.records
    assert (flow["count"], flow["completed"], flow["calls_each"]) == (10, 10, 5)
    ended = (records.arrived_at + records.e2e_s).reshape(10, 5).max(axis=1)
    assert flow["completion_s"]["mean"] == pytest.approx(np.mean(ended - found.trace.arrived_at[::5]))
    assert flow["completion_s"]["mean"] > 1.0 + 3 * records.e2e_s.mean() * 0.5  # three calls one after another, a tool
    assert flow["input_tokens_each"] == 1000 + 3 * 300 + 64 + 3 * 50 and flow["output_tokens_each"] == 100 + 150 + 80
    assert flow["usd_each"] == pytest.approx(found.usd / 10 if found.usd else None)
    assert "each workflow" in text(found)
    slower = simulate(**PLACE, workflow=str(tmp_path / "agent.toml"), rate="2/s", requests=50, power_limit_w=300)
    assert slower.summary()["workflows"]["completion_s"]["mean"] > flow["completion_s"]["mean"]


def test_a_call_that_goes_on_carries_whole_prompts_and_finds_them_in_the_cache(tmp_path: Path) -> None:
    file, starts, rng = tmp_path / "agent.toml", np.arange(4.0), np.random.default_rng
    file.write_text(AGENT.replace("CARRY", "all"))
    trace = workflows(starts, read_workflow(file)[1], rng(0))
    assert trace.isl[4::5].tolist() == [64 + 3 * (300 + 50)] * 4
    hashes, ends = trace.prefix_hashes, trace.prefix_offsets
    assert hashes is not None and ends is not None
    of = [set(hashes[ends[i] : ends[i + 1]].tolist()) for i in range(len(trace))]
    assert len(of[4] & of[1]) == 300 // 64 and not of[4] & of[2]  # the first of those it follows comes first
    assert not of[4] & of[9]  # another workflow has another text
    cached = simulate(**PLACE, workflow=str(file), rate="2/s", requests=50).summary()["workflows"]
    assert cached["cached_tokens_each"] == 256  # whole blocks of the first tool's prompt
    file.write_text(AGENT.replace("CARRY", "every"))
    with pytest.raises(InputError, match="expected answers, all"):
        read_workflow(file)
