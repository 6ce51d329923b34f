"""The chance that a plan holds what it promises: from the intervals, never silently below what was asked."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest

from steelyard.cost.interval import FIRST_TOKEN_SPREAD, Z80, widened
from steelyard.errors import InputError
from steelyard.report.plan import text, to_dict
from steelyard.scenario.slo import parse_target
from steelyard.search.answer import Answer
from steelyard.search.api import plan
from steelyard.search.chance import ALL, chances, quantile, safety
from steelyard.search.doubts import NEVER_MEASURED, narrowing

TPOT, TTFT, E2E = parse_target("p95:50ms", "tpot_s"), parse_target("p99:1s", "ttft_s"), parse_target("p95:20s", "e2e_s")


def runs(**ends: tuple[float, float, float]) -> dict[float, dict[str, float]]:
    """Low end, prediction and high end of each metric."""
    return {z: {k: v[i] for k, v in ends.items()} for i, z in enumerate((-Z80, 0.0, Z80))}


@pytest.mark.parametrize(
    ("value", "expected"),
    [((30e-3, 50e-3, 70e-3), 0.5), ((20e-3, 30e-3, 50e-3), 0.9), ((50e-3, 70e-3, 90e-3), 0.1)],
)
def test_a_limit_at_the_prediction_is_an_even_chance_and_at_an_end_of_the_interval_nine_to_one(
    value: tuple[float, float, float], expected: float
) -> None:
    assert chances((TPOT,), runs(tpot_s=value))["tpot"] == pytest.approx(expected, abs=1e-4)


def test_halves_are_those_of_the_interval() -> None:
    """34 to 88 ms around 60 ms: 65 ms hold with the share of the upper half that lies below."""
    found = chances((parse_target("p95:65ms", "tpot_s"),), runs(tpot_s=(34e-3, 60e-3, 88e-3)))["tpot"]
    z = Z80 * math.log(65 / 60) / math.log(88 / 60)
    assert found == pytest.approx(0.5 * (1 + math.erf(z / math.sqrt(2))), abs=1e-9)


def test_chances_grow_with_the_limit_and_never_leave_what_probabilities_allow() -> None:
    before = dict.fromkeys(("ttft", "tpot", "e2e", "rate", ALL), -1.0)
    played = runs(ttft_s=(0.4, 0.8, 3.0), tpot_s=(30e-3, 45e-3, 80e-3), e2e_s=(12.0, 18.0, 30.0))
    for factor in np.geomspace(0.05, 50.0, 40).tolist():
        targets = tuple(parse_target(f"{t.label}:{t.limit_s * factor!r}s", t.metric) for t in (TTFT, TPOT, E2E))
        found = chances(targets, played, rate_z=math.log(factor))
        each = [v for k, v in found.items() if k != ALL]
        assert all(0.0 <= v <= 1.0 for v in found.values())
        assert all(v >= before[k] - 1e-9 for k, v in found.items())
        assert sum(each) - len(each) + 1 - 1e-6 <= found[ALL] <= min(each) + 1e-6
        before = found
    assert before[ALL] > 0.99


def test_what_rests_on_one_error_holds_together_and_the_first_token_has_its_own() -> None:
    steps = chances((TPOT, E2E), runs(tpot_s=(30e-3, 45e-3, 80e-3), e2e_s=(12.0, 18.0, 30.0)))
    assert steps[ALL] == min(steps["tpot"], steps["e2e"])
    both = chances((TTFT, TPOT), runs(ttft_s=(0.5, 0.8, 1.2), tpot_s=(30e-3, 45e-3, 80e-3)))
    assert both["ttft"] * both["tpot"] < both[ALL] < min(both["ttft"], both["tpot"])


def test_the_chance_at_the_end_of_the_interval_of_a_first_token_is_nine_to_one() -> None:
    _, high = widened(0.5, 0.4, 0.65, FIRST_TOKEN_SPREAD)
    found = chances((parse_target(f"p99:{float(high)!r}s", "ttft_s"),), runs(ttft_s=(0.4, 0.5, 0.65)))
    assert found["ttft"] == pytest.approx(0.9, abs=0.02)


def test_the_safety_of_the_screen_grows_with_the_chance_and_is_none_for_an_even_one() -> None:
    assert safety(0.5, 0.2)[0] == 1.0 and quantile(0.5) == 0.0
    factors = [safety(p, 0.2) for p in (0.5, 0.7, 0.8, 0.95)]
    assert factors == sorted(factors) and all(later >= slower for slower, later in factors)


@cache
def asked(sure: float | str = 0.8, *, most: int | None = None, remedies: bool = False) -> Answer:
    words: dict[str, object] = {"rate": 4, "isl": 1000, "osl": 100, "requests": 200, "remedies": remedies}
    slos = {"ttft": "p95:1s", "tpot": "p95:42ms"}
    return plan("llama-3.1-8b", "l40s", sure=sure, max_gpus=most, **words, **slos)  # type: ignore[arg-type]


def test_more_certainty_never_costs_less_and_every_winner_has_it() -> None:
    rents = []
    for sure in (0.5, 0.8, 0.95):
        winner = asked(sure).winner
        assert winner is not None and winner.rent_usd_per_hour is not None
        assert winner.chance[ALL] >= sure - 1e-6
        rents.append(winner.rent_usd_per_hour)
    assert rents == sorted(rents)
    answer = asked(0.8, remedies=True)
    certainty = answer.certainty
    assert set(certainty) == {0.5, 0.8, 0.95}
    assert [c.rent_usd_per_hour for c in certainty.values() if c is not None] == rents
    assert rents[0] < rents[2]
    said = text(answer)
    assert "what certainty costs" in said and " met" not in said
    assert "steelyard calibrate" in text(asked(0.5))


def test_a_plan_that_is_sure_says_what_to_measure_where_an_even_chance_is_cheaper() -> None:
    answer = asked(0.95, remedies=True)
    even, winner = answer.certainty[0.5], answer.winner
    assert even is not None and winner is not None and winner.chance[ALL] >= 0.95
    assert even.value < winner.value and f"as fast as predicted, {even.devices} l40s would do" in answer.narrowing
    assert asked(0.95).narrowing == ""


def test_a_plan_below_the_chance_asked_for_says_so() -> None:
    dearer = asked(0.95).winner
    cheap = asked(0.5).winner
    assert dearer is not None and cheap is not None and cheap.devices < dearer.devices
    answer = asked(0.95, most=cheap.devices)
    assert answer.winner is not None and answer.winner.chance[ALL] < 0.95
    assert "no plan was found that holds with 95%" in answer.why[0]
    assert to_dict(answer)["winner"]["chance"] == dict(answer.winner.chance)


@pytest.mark.parametrize("sure", ["0.3", 1.0, "120%", "nearly", "80"])
def test_a_chance_out_of_range_is_refused_by_name(sure: str | float) -> None:
    with pytest.raises(InputError, match="sure"):
        asked(sure)


def test_a_chance_without_its_per_cent_sign_is_understood() -> None:
    with pytest.raises(InputError, match="did you mean 80%"):
        asked("80")


def test_users_are_promised_times_and_seats_but_no_rate() -> None:
    words = {"concurrency": 8, "isl": 512, "osl": 64, "requests": 200, "remedies": False}
    free = plan("llama-3.1-8b", "l40s", **words).winner  # type: ignore[arg-type]
    assert free is not None and free.chance == {"rate": 1.0, ALL: 1.0}
    timed = plan("llama-3.1-8b", "l40s", tpot="p95:50ms", **words).winner  # type: ignore[arg-type]
    assert timed is not None and set(timed.chance) == {"tpot", ALL}


def test_the_closest_plan_keeps_the_limits_of_the_question() -> None:
    words = {"isl": 1000, "osl": 100, "requests": 200, "remedies": True}
    answer = plan("llama-3.1-8b", "l40s", rate=8, ttft="p99:150ms", max_gpus=1, **words)  # type: ignore[arg-type]
    assert answer.winner is None and answer.infeasible is not None and answer.infeasible.closest is not None
    assert answer.infeasible.closest.devices <= 1


def test_a_share_in_per_cent_is_the_same_question() -> None:
    assert asked("80%").winner == asked(0.8).winner


def test_machines_never_calibrated_and_fleets_nobody_builds_are_marked() -> None:
    words = {"rate": "2000/s", "isl": 1000, "osl": 100, "requests": 200, "remedies": False}
    answer = plan("llama-3.1-8b", "rtx_4090", mode="aggregated", **words)  # type: ignore[arg-type]
    fleet = answer.winner
    assert fleet is not None and fleet.devices > 64
    assert all(f"{c.devices}! " in text(answer) for c in answer.runners_up) and "! nobody builds it" in text(answer)
    assert any(x.startswith("nobody builds it") for x in fleet.doubts)
    assert any(x.startswith(NEVER_MEASURED) for x in fleet.doubts)
    winner = asked().winner
    assert winner is not None and not winner.doubts


def test_what_is_least_sure_is_named() -> None:
    assert "--engine" in narrowing("l40s", 0.15, True)
    assert "kernels" in narrowing("mi300x", 0.5, True)
    assert "clocks" in narrowing("l40s", 0.13, False)
