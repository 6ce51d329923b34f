"""Plans of training runs: machines, numbers of devices and layouts that end in time and in budget."""

from __future__ import annotations

import json

import pytest

import steelyard as sy
from steelyard.cli.main import main
from steelyard.errors import InputError
from steelyard.search.training import TrainAnswer, why_not

WORDS = {"model": "llama-3.1-8b", "on": "h100_sxm:64", "gbs": "1Mtok", "seq": 4096, "tokens": "20B"}


def planned(**words: object) -> TrainAnswer:
    return sy.plan_training(**{**WORDS, **words})  # type: ignore[arg-type]


def test_the_cheapest_in_time_fits_and_holds() -> None:
    answer = planned(by="10d")
    winner = answer.winner
    assert winner is not None
    assert winner.fits
    assert winner.run is not None
    assert winner.run.chance_by(10) >= 0.75
    dearer = [r for r in answer.rows if r.chance >= 0.8 and r.usd is not None]
    assert min(r.usd for r in dearer) == pytest.approx(
        answer.rows[answer.rows.index(min(dearer, key=lambda r: r.usd))].usd
    )  # type: ignore[type-var,return-value,arg-type]
    assert all(r.usd >= min(x.usd for x in dearer) for r in dearer)  # type: ignore[type-var,operator]
    assert answer.screened > 50


def test_less_time_takes_more_devices() -> None:
    slow, fast = planned(by="20d"), planned(by="1d")
    assert slow.winner is not None
    assert fast.winner is not None
    assert fast.winner.scenario.cluster.count > slow.winner.scenario.cluster.count
    assert fast.winner.step_s < slow.winner.step_s


def test_the_fastest_is_no_slower_than_the_cheapest() -> None:
    cheap, fast = planned(objective="cost"), planned(objective="time")
    assert cheap.winner is not None
    assert fast.winner is not None
    assert fast.winner.step_s <= cheap.winner.step_s


def test_what_cannot_be_held_says_what_comes_nearest() -> None:
    answer = planned(by="1h")
    assert answer.winner is None
    assert "days" in answer.reason


def test_why_a_layout_is_not_the_plan() -> None:
    answer = planned(objective="time")
    said = why_not(answer, tp=8, pp=1, mbs=1, recompute="full")
    assert "times as long" in said
    assert "does not fit" in why_not(answer, tp=1, pp=1, mbs=4, recompute="none", zero=0)


@pytest.mark.parametrize(
    ("words", "field"), [({"by": "soon"}, "by"), ({"sure": "2"}, "sure"), ({"tokens": "", "by": "3d"}, "tokens")]
)
def test_wrong_words_name_the_field(words: dict[str, object], field: str) -> None:
    with pytest.raises(InputError) as error:
        planned(**words)
    assert field in {p.field for p in error.value.problems}


def test_the_command_line_plans_training(capsys: pytest.CaptureFixture[str]) -> None:
    line = "plan llama-3.1-8b --train --on h100_sxm:32 --gbs 1Mtok --tokens 20B --by 20d --json"
    assert main(line.split()) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == "steelyard.train-plan/1"
    assert found["winner"]["schema"] == "steelyard.train/1"
    assert found["winner"]["fits"]
    assert found["candidates"]


def test_replicas_that_share_their_states_stay_as_said() -> None:
    assert sy.train("qwen3-8b", "h100_sxm:16", gbs=64, framework="fsdp", shard=8).scenario.plan.shard == 8


def test_a_framework_without_stages_is_laid_out_without() -> None:
    assert sy.train("llama-3.1-8b", "h100_sxm:16", gbs=64, framework="deepspeed").scenario.plan.pp == 1
