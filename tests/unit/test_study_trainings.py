"""Studies of trainings: the same figures as the verb, what cannot be asked, repeats."""

from __future__ import annotations

import pytest

import steelyard as sy
from steelyard.errors import InputError
from steelyard.scenario.answers import at_path, figures_of
from steelyard.studies.findings import Findings
from steelyard.studies.points import expand_study
from steelyard.studies.store_columns import columns_of
from steelyard.studies.study import parse_study
from steelyard.training.columns import columns_of as row_of

FIXED = {"model": "llama-3.2-1b", "on": "h100_sxm:8", "gbs": 32, "seq": 2048, "mbs": 1, "pp": 1}
RUN = {"tokens": "10B", "carbon": 400, "by": "2d", "budget": "5000usd"}


@pytest.fixture(scope="module")
def found() -> Findings:
    grid = {"tp": "1,2,3", "zero": "1,3"}
    return sy.study({"name": "t", "kind": "train", "fixed": {**FIXED, **RUN}, "grid": grid})


def test_a_point_has_the_figures_of_the_verb(found: Findings) -> None:
    alone = sy.train(**FIXED, **RUN, tp=2, zero=3)
    row = next(r for r in found.rows if r.axes == {"tp": 2, "zero": 3})
    document = alone.to_dict()
    told = dict[str, object]()
    for figure in figures_of("train"):
        value = at_path(document, figure.path)
        several = list(value.values()) if isinstance(value, dict) else [value]
        told |= dict(zip(figure.columns, several, strict=True)) if figure.columns and value is not None else {}
    assert told == {name: value for name, value in row_of(alone).items() if value is not None}
    assert told == {name: row.values[name] for name in told}
    assert {"days", "usd", "kwh", "kgco2", "chance_by", "chance_within_budget", "step_s", "mfu_frac"} <= set(told)
    assert {name for name, c in columns_of("train").items() if not c.asked} >= set(told)
    assert (row.values["machine"], row.values["devices"]) == ("h100_sxm", 8)


def test_what_cannot_be_laid_out_says_why_and_the_rest_is_answered(found: Findings) -> None:
    assert {r.axes["tp"] for r in found.rows if not r.answered} == {3}
    assert all("3 does not divide" in r.problem for r in found.rows if not r.answered)
    assert [str(o) for o in found.objectives] == [
        "minimise usd_per_trillion_tokens where fits",
        "maximise tokens_per_s where fits",
    ]
    assert found.best[0][0].values["usd_per_trillion_tokens"] == min(
        r.values["usd_per_trillion_tokens"] for r in found.answered
    )


def test_repeats_draw_the_same_for_every_layout() -> None:
    study = parse_study({"name": "t", "kind": "train", "fixed": FIXED, "grid": {"tp": "1,2"}, "repeats": 2})
    seeds = [p.values["seed"] for p in expand_study(study)]
    assert seeds[:2] == seeds[2:] and seeds[0] != seeds[1]


@pytest.mark.parametrize(
    ("wrong", "field", "said"),
    [
        ({"framework": "megatorn"}, "fixed.framework", "megatron"),
        ({"optimizer": "adamm"}, "fixed.optimizer", "adamw"),
        ({"on": "h100sxmm:8"}, "fixed.on", "h100_sxm"),
        ({"model": "llama-3.2-1"}, "fixed.model", "llama-3.2-1b"),
        ({"precision": "bf15"}, "fixed.precision", "bf16"),
        ({"batch": 4}, "fixed.batch", "unknown field"),
    ],
)
def test_names_that_nothing_answers_to_are_told_before_any_point(
    wrong: dict[str, object], field: str, said: str
) -> None:
    with pytest.raises(InputError) as error:
        parse_study({"name": "t", "kind": "train", "fixed": {**FIXED, **wrong}})
    assert said in {p.field: p.message for p in error.value.problems}[field]


def test_networks_are_points_too() -> None:
    fixed = {"model": "resnet18", "on": "a100_sxm:8"}
    nets = sy.study({"name": "n", "kind": "train", "fixed": fixed, "grid": {"gbs": [256, 512]}})
    assert [r.answered for r in nets.rows] == [True, True]
    assert nets.rows[1].values["tokens_per_step"] == 512.0
