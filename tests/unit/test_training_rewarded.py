"""Steps that learn from scored answers, and documents packed into sequences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import steelyard as sy
from steelyard.deployment.packing import packing_of, packing_of_lengths
from steelyard.errors import InputError
from steelyard.report.train import report, to_dict
from steelyard.training.estimate import TrainEstimate

MODEL = "llama-3.2-1b"
OF_8 = {"tp": 1, "pp": 1, "dp": 8, "mbs": 1, "framework": "fsdp"}


def stepped(task: str = "grpo", on: str = "h100_sxm:8", **words: Any) -> TrainEstimate:
    given = {"prompts": 32, "group": 4, "isl": 256, "osl": "lognormal:512,max=4096", **OF_8, **words}
    if task != "grpo":
        given.pop("group")
    return sy.train(MODEL, on, task=task, **given)


def test_parts_in_turns_add_up_and_the_answer_has_them() -> None:
    found = stepped()
    done, document = found.rewarded, to_dict(found)["rl"]
    assert done is not None
    assert sum(done.parts_s.values()) == pytest.approx(done.step_s)
    assert done.ends_s[0] < done.step_s < done.ends_s[1]
    assert document["parts_s"]["train"] == pytest.approx(found.step_s)
    assert document["answers"] == 128
    assert document["rollouts"]["output_tokens"] == document["output_tokens"]
    assert document["tokens"] == document["output_tokens"] + 32 * 4 * 256
    assert "answers drawn" in report(found)
    assert to_dict(sy.train(MODEL, "h100_sxm:8", gbs=8, seq=1024, **OF_8))["rl"] is None


def test_a_step_behind_takes_the_longer_of_both_sides() -> None:
    beside, turns = (stepped(rollout_on="h100_sxm:8", stale=stale, rollout_tp=1).rewarded for stale in (1, 0))
    assert beside is not None and turns is not None
    answering = beside.parts_s["rollout"] + beside.parts_s["weights"]
    learning = sum(beside.parts_s.values()) - answering
    assert beside.step_s == pytest.approx(max(answering, learning))
    assert turns.step_s == pytest.approx(answering + learning)
    assert turns.idle_frac["train"] > beside.idle_frac["train"]
    assert turns.devices == beside.devices == 16
    assert beside.usd == pytest.approx(turns.usd * beside.step_s / turns.step_s)


def test_updates_are_passes_times_the_parts_of_a_step() -> None:
    whole, parts = stepped(), stepped(gbs=32, passes=2)
    assert whole.rewarded is not None and parts.rewarded is not None
    assert (whole.rewarded.updates, parts.rewarded.updates) == (1, 8)
    assert parts.rewarded.parts_s["train"] == pytest.approx(8 * parts.step_s)
    assert parts.rewarded.parts_s["reference"] == pytest.approx(whole.rewarded.parts_s["reference"], rel=0.2)


def test_a_critic_and_a_reward_model_are_scored_and_held() -> None:
    plain, both = stepped("ppo", prompts=128, group=1), stepped("grpo")
    assert plain.rewarded is not None and both.rewarded is not None
    assert plain.rewarded.parts_s["critic"] > 0 == both.rewarded.parts_s["critic"]
    assert plain.stages[0].parts["optimizer"] == pytest.approx(2 * both.stages[0].parts["optimizer"])
    modelled = stepped(reward="llama-3.1-8b").rewarded
    timed = stepped(reward="2s").rewarded
    assert modelled is not None and timed is not None
    assert timed.parts_s["reward"] == 2.0
    assert modelled.parts_s["reward"] > 3 * modelled.parts_s["policy"]


def test_no_reference_is_neither_scored_nor_held() -> None:
    with_one, without = stepped(), stepped(reference="none")
    assert with_one.rewarded is not None and without.rewarded is not None
    assert without.rewarded.parts_s["reference"] == 0.0
    less = with_one.stages[0].parts["weights"] - without.stages[0].parts["weights"]
    assert less == pytest.approx(with_one.scenario.parameters * 2 / 8, rel=0.02)


def test_pairs_are_not_drawn() -> None:
    done = stepped("dpo").rewarded
    assert done is not None
    assert done.rollouts is None
    assert done.parts_s["rollout"] == done.parts_s["weights"] == done.parts_s["policy"] == 0.0
    assert done.answers == 64


def test_a_run_is_as_many_steps_as_prompts_ask_for() -> None:
    found = stepped(samples=3200, epochs=2, failures="none", seed=1)
    assert found.run is not None and found.rewarded is not None
    assert found.run.steps == 200
    assert found.run.ideal_days == pytest.approx(200 * found.rewarded.step_s / 86400)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"task": "pretrain", "group": 4}, "--task pretrain"),
        ({"group": 1}, "at least 2"),
        ({"stale": 1}, "give --rollout-on"),
        ({"rollout_tp": 3}, "nearest is 2"),
        ({"rollout_on": "h100_sxx:8"}, "did you mean 'h100_sxm'"),
        ({"seq": 1024}, "give --seq"),
        ({"gbs": 100}, "nearest is 64"),
        ({"reward": "no-model"}, "unknown model"),
        ({"rollout_engine": "no-engine"}, "unknown engine"),
        ({"docs": "600"}, "give --isl and --osl"),
        ({"task": "dpo", "reward": "2s"}, "answers that are there"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(words: dict[str, Any], message: str) -> None:
    given = {"task": "grpo", "prompts": 32, **OF_8, **words}
    if given["task"] != "grpo" and "group" not in words:
        given.pop("group", None)
    if given["task"] == "pretrain":
        given.pop("prompts")
    with pytest.raises(InputError, match=message):
        sy.train(MODEL, "h100_sxm:8", **given)


def test_pairs_of_packed_documents_are_those_of_their_squares() -> None:
    packing = packing_of_lengths(np.array([100, 300]))
    assert packing.mean == 200
    assert packing.seen == pytest.approx((100**2 + 300**2) / 400)
    assert packing_of(600, 4096) is not None and packing_of(600, 4096).varies == 0.0  # type: ignore[union-attr]
    assert packing_of("", 4096) is None
    assert float(packing.waits(1e6, 1)) == 0.0
    assert float(packing.waits(1e9, 64)) < float(packing.waits(1e6, 64))
    with pytest.raises(InputError, match="give --seq"):
        packing_of("9000", 4096)


def test_attention_stays_inside_of_documents() -> None:
    words: dict[str, Any] = {"gbs": 8, "seq": 16384, "tp": 1, "pp": 1, "dp": 1, "mbs": 1, "framework": "fsdp"}
    whole, packed = (sy.train(MODEL, "h100_sxm", docs=d, **words) for d in ("", "2048"))
    assert packed.breakdown_s["attention"] < whole.breakdown_s["attention"] / 4
    assert packed.breakdown_s["gemm"] == pytest.approx(whole.breakdown_s["gemm"])
    assert packed.flops < whole.flops
    same = sy.train(MODEL, "h100_sxm", docs="16384", **words)
    assert same.step_s == pytest.approx(whole.step_s)
    uneven = sy.train(MODEL, "h100_sxm:8", docs="lognormal:2048,sigma=1.2", **{**words, "dp": 8, "gbs": 64})
    even = sy.train(MODEL, "h100_sxm:8", docs="2048", **{**words, "dp": 8, "gbs": 64})
    assert uneven.breakdown_s["attention"] > even.breakdown_s["attention"]
