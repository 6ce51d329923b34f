"""Advice: techniques that apply, ranked by what they gain on a scenario of one's own."""

from __future__ import annotations

import json
import math

import pytest

pytest.importorskip("numba")

from steelyard.cli.main import main
from steelyard.errors import InputError
from steelyard.report.advise import text
from steelyard.search.advise import Advice, Tried, _order, advise_words

WORDS = {
    "model": "llama-3.1-8b",
    "on": "h100_sxm",
    "rate": "8/s",
    "requests": 60,
    "isl": 500,
    "osl": 100,
}


def test_what_helps_is_ranked_by_the_objective_and_pairs_stack() -> None:
    only = ["fp8-kv", "eagle:k=3", "int4-weights", "llumnix", "medusa"]
    found = advise_words(WORDS, "tpot", only=only)
    gains = {t.names: t.gain for t in found.ranked}
    assert list(gains.values()) == sorted(gains.values(), reverse=True)
    assert min(gains[name,] for name in ("eagle:k=3", "medusa", "int4-weights")) > 1
    assert found.ranked[0].gain == max(g for names, g in gains.items() if len(names) == 2) > 1.5
    assert ("eagle:k=3", "medusa") not in gains  # two ways to speculate
    assert [t.names for t in found.refused] == [("llumnix",)]
    best = found.ranked[0]
    assert best.interval is not None and best.interval[0] <= best.gain <= best.interval[1]
    assert any("draft head" in c for c in best.costs)
    assert best.figures["tpot"] == pytest.approx(found.base["tpot"] / best.gain)


def test_the_objective_follows_the_scenario() -> None:
    assert advise_words(WORDS, only=["fp8-kv"]).objective == "e2e"
    kept = advise_words({**WORDS, "ttft": "p99:1s"}, only=["fp8-kv"])
    assert kept.objective == "e2e" and kept.base["kept"] == 1  # no technique lets more of them keep it
    assert "promises are kept as it is by 100% of requests" in text(kept)
    assert advise_words({**WORDS, "ttft": "p99:10ms"}, only=["fp8-kv"]).objective == "goodput"
    closed = {**WORDS, "rate": "", "concurrency": 8}
    assert advise_words(closed, only=["fp8-kv"]).objective == "throughput"


def test_a_wrong_objective_or_technique_is_said() -> None:
    with pytest.raises(InputError, match=r"^objective: unknown objective 'speed'"):
        advise_words(WORDS, "speed")
    with pytest.raises(InputError, match="did you mean 'fp8-kv'"):
        advise_words(WORDS, only=["fp8kv8"])
    with pytest.raises(InputError, match=r"^h2o: expected budget .*; only: unknown technique 'nothing'"):
        advise_words(WORDS, only=["h2o:budget=7 + fp8-kv", "nothing"])


def test_combinations_of_ones_own_are_tried_once() -> None:
    found = advise_words(WORDS, "tpot", only=["fp8-kv + eagle:k=3", "fp8-kv", "fp8-kv"])
    assert [t.names for t in found.ranked] == [("fp8-kv", "eagle:k=3"), ("fp8-kv",)]
    assert f"without any: {found.base['tpot'] * 1e3:.3g}" in text(found) and " ms\n" in text(found)


def test_the_command_ranks_everything_that_states_what_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["advise", "llama-3.1-8b", "--on", "h100_sxm", "--rate", "8/s", "--requests", "40", "--isl", "500"]
    asked += ["--osl", "50", "--no-pairs", "--jobs", "1", "--quiet"]
    assert main([*asked, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == "steelyard.advise/1" and found["objective"] == "e2e"
    names = {t["techniques"][0] for t in found["ranked"]}
    assert {"fp8-kv", "eagle", "sarathi-serve", "fastgen"} <= names
    assert all(len(t["techniques"]) == 1 for t in found["ranked"])
    assert all(t["refused"] for t in found["refused"]) and math.isfinite(found["base"]["e2e"])


def test_a_capacity_ranks_by_the_rate() -> None:
    words = {**WORDS, "ttft": "p99:1s", "capacity": True}
    most = advise_words(words, only=["h2o"], pairs=False)
    assert most.objective == "capacity" and most.base["capacity"] > 8
    low, high = most.ranked[0].interval or (math.nan, math.nan)
    assert low <= most.ranked[0].gain <= high
    assert most.ranked[0].figures["capacity"] == pytest.approx(most.base["capacity"] * most.ranked[0].gain)


def test_gains_over_nothing_are_ranked_by_the_figure() -> None:
    few, many = (Tried((name,), math.inf, None, {"goodput": rate}) for name, rate in (("a", 0.5), ("b", 7.0)))
    assert sorted([few, many], key=lambda t: _order(t, "goodput")) == [many, few]
    found = text(Advice("goodput", {"goodput": 0.0, **dict.fromkeys(SHOWN, 1.0)}, (shown(many), shown(few)), (), {}))
    assert "from 0" in found and "inf" not in found
    assert json.loads(json.dumps(many.to_dict(), allow_nan=False))["gain"] is None


SHOWN = ("ttft", "tpot", "throughput", "cost")


def shown(tried: Tried) -> Tried:
    return Tried(("fp8-kv",), tried.gain, None, {**dict.fromkeys(SHOWN, 1.0), **tried.figures})
