"""Values no field can have end in an InputError that names the field, never in an error of Python."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest

import steelyard as sy
from steelyard.errors import InputError, SteelyardError
from steelyard.units import parse_quantity

ODD = [
    ("batch", 10**400),
    ("tp", "9" * 500),
    ("skew", 10**400),
    ("batch", np.datetime64("NaT")),
    ("skew", np.datetime64("NaT")),
    ("usd_per_hour", np.timedelta64(3, "s")),
    ("techniques", float("nan")),
    ("techniques", 0),
    ("techniques", [1, 2]),
    ("techniques", b"x"),
    ("on", "x" * 5000),
]


@pytest.mark.parametrize(("name", "value"), ODD, ids=lambda x: str(x)[:12])
def test_odd_value_is_refused_by_name(name: str, value: Any) -> None:
    given: dict[str, Any] = {"model": "llama-3.1-8b", "on": "h100_sxm", name: value}
    with pytest.raises(SteelyardError, match="machine" if name == "on" else name):
        sy.estimate(**given)


@pytest.mark.parametrize("none", [None, "", " ", ("",)])
def test_no_techniques_may_be_said_in_other_ways(none: Any) -> None:
    given: dict[str, Any] = {"model": "llama-3.1-8b", "on": "h100_sxm"}
    assert sy.estimate(**given, techniques=none).tpot_s == sy.estimate(**given).tpot_s


@pytest.mark.parametrize("value", [10**400, b"3", [1]])
def test_a_quantity_that_is_none_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match="duration: expected a number in s"):
        parse_quantity(value, "s", "duration")


@pytest.mark.parametrize(
    ("verb", "field", "value", "message"),
    [
        ("estimate", "batch", 10**30, "batch: expected at most 1e\\+09"),
        ("simulate", "replicas", 10**30, "replicas: expected at most 100000"),
        ("simulate", "mtbf", [], "expected mtbf in s, got"),
        ("simulate", "restart", 10**400, "expected restart in s, got one beyond every float"),
        ("plan", "on", [1, 2], "on: expected"),
        ("plan", "budget", 10**400, "budget: expected a number"),
        ("fit", "sort", np.array([]), "sort: expected one of price, speed, cost"),
    ],
)
def test_odd_values_of_other_verbs(verb: str, field: str, value: Any, message: str) -> None:
    words: dict[str, Any] = {"on": "h100_sxm", **({} if verb in "estimate fit" else {"rate": "4/s", "ttft": "p99:1s"})}
    with pytest.raises(SteelyardError, match=message):
        getattr(sy, verb)("llama-3.1-8b", **{**words, field: value})


def test_answers_of_two_tokens_can_be_planned() -> None:
    answer = sy.plan("llama-3.1-8b", on="h100_sxm", rate="5/s", isl=64, osl=2, ttft="p99:1s", max_gpus=1)
    assert answer.winner is not None and 100 < answer.winner.max_rate_per_s < 1000


def test_flags_of_a_wrong_kind_beside_a_flag_of_its_own() -> None:
    with pytest.raises(InputError, match="flags: expected an object, got inf"):
        sy.simulate("llama-3.1-8b", on="h100_sxm", rate="inf", requests=2, flags=math.inf, max_num_seqs=3)


def test_a_limit_beyond_all_times_is_held_by_any_number_of_users() -> None:
    answer = sy.plan("llama-3.1-8b", on="h100_sxm", concurrency=5, ttft="1e308", max_gpus=1)
    assert answer.winner is not None and answer.winner.max_concurrency == 200_000


@pytest.mark.parametrize(
    "name", ["study", "compare", "find_machine", "load_machine", "load_model", "Scenario", "Machine"]
)
def test_a_call_that_lacks_arguments_or_has_others_is_told_which(name: str) -> None:
    function = getattr(sy, name)
    with pytest.raises(InputError, match="required argument is missing") as missing:
        function()
    first = missing.value.problems[0].field
    with pytest.raises(InputError, match="values without a name"):
        function(*["l40s"] * 30)
    with pytest.raises(InputError, match=rf"{first}x: unknown argument; did you mean '{first}'"):
        function(**{f"{first}x": "l40s"})
    with pytest.raises(InputError, match=rf"{first}: given twice"):
        function("l40s", **{first: "l40s"})
    assert function.__name__ == name


def test_a_scenario_of_no_verb_is_told() -> None:
    with pytest.raises(InputError, match="verb: required argument is missing"):
        sy.Scenario.of()  # type: ignore[call-arg]
    asked = sy.Scenario.of("estimate", "llama-3.1-8b", "l40s")
    assert copy.copy(asked).batch == asked.batch
