"""Plans of training runs: machines, numbers of devices and layouts that end in time and in budget."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

import steelyard as sy
from steelyard.cli.main import main
from steelyard.errors import InputError
from steelyard.scenario.training import read_train_scenario
from steelyard.search.training import TrainAnswer, why_not
from steelyard.training.chosen import layouts_of
from steelyard.training.estimate import answer_train

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
    assert f"{min(r.days for r in answer.rows):,.1f} days" in answer.reason  # none has a chance: the nearest is told


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


@pytest.mark.parametrize("more", [{}, {"pp": 1, "mbs": 1}])
def test_deepspeed_cuts_no_parameters_beside_tensors(more: dict[str, int]) -> None:
    found = sy.train("llama-3.1-8b", "h100_sxm:16", gbs=64, framework="deepspeed", tp=2, **more)  # type: ignore[arg-type]
    assert found.scenario.plan.zero <= 2
    asked = sy.train("llama-3.1-8b", "h100_sxm:16", gbs=64, framework="deepspeed", tp=2, pp=1, mbs=1, zero=3)
    assert any("no ZeRO 3 beside tensor" in text for text in asked.ledger.assumptions)


def test_open_degrees_are_chosen_as_a_plan_chooses_them() -> None:
    """The step of ``train`` with every degree open is that of the plan on as many devices."""
    words = {"model": "llama-3.1-70b", "on": "h100_sxm:128", "gbs": 256, "seq": 8192}
    found = sy.train(**words)  # type: ignore[arg-type]
    answer = sy.plan_training(**words, objective="time")  # type: ignore[arg-type]
    assert answer.winner is not None
    assert answer.winner.scenario.plan == found.scenario.plan
    assert answer.winner.step_s == found.step_s
    assert {"vp", "cp"} <= set(found.scenario.open)


def test_what_the_search_says_of_a_layout_is_what_train_says() -> None:
    scenario = read_train_scenario({"model": "deepseek-v3", "on": "h100_sxm:256", "gbs": 2048, "framework": "bridge"})
    found = layouts_of(scenario)
    assert found.fits
    some = np.flatnonzero(found.columns["recompute_layers"])
    for i in (0, len(found) // 2, len(found) - 1, *some[:2].tolist()):
        one = answer_train(replace(scenario, plan=found.plan_of(i), open=()))
        assert one.step_s == pytest.approx(float(found.step_s[i]), rel=1e-9)
        assert max(s.reserved_bytes for s in one.stages) == pytest.approx(float(found.reserved_bytes[i]), rel=1e-9)
        assert one.fits


def test_chunks_are_chosen_only_where_nobody_laid_it_out() -> None:
    assert sy.train("llama-3.1-8b", "h100_sxm:16", gbs=64, tp=2, pp=2).scenario.plan.vp == 1
    assert sy.train("llama-3.1-8b", "h100_sxm:16", gbs=64, pp=4, vp=1).scenario.plan.vp == 1
    assert sy.train("llama-3.1-8b", "h100_sxm:16", gbs=64, pp=4, schedule="zb-h1").scenario.plan.vp == 1


def test_some_layers_are_computed_again_where_all_is_too_much() -> None:
    words = {"model": "llama-3.1-8b", "on": "h100_sxm:8", "gbs": 64, "tp": 1, "pp": 1, "mbs": 2}
    some, full, none = (sy.train(**words, recompute=r) for r in ("full:5", "full", "none"))  # type: ignore[arg-type]
    assert none.step_s < some.step_s < full.step_s
    assert full.stages[0].allocated_bytes < some.stages[0].allocated_bytes < none.stages[0].allocated_bytes
    assert some.again_flops == pytest.approx(full.again_flops * 5 / 32)
    asked = {"model": "llama-2-70b", "on": "h100_sxm:32", "gbs": 64, "tp": 4, "pp": 4, "seq": 16384}
    chosen = sy.train(**asked)  # type: ignore[arg-type]
    assert chosen.fits
    assert chosen.scenario.plan.again not in ("none", "full")
    whole = sy.train(**asked, mbs=chosen.scenario.plan.mbs, recompute="full")  # type: ignore[arg-type]
    assert chosen.step_s < whole.step_s


def test_techniques_count_in_the_search() -> None:
    words = {"model": "llama-3.1-8b", "on": "h100_sxm:16", "gbs": 64, "seq": 8192}
    whole, dropped = sy.train(**words), sy.train(**words, techniques=["token-dropping:0.5"])  # type: ignore[arg-type]
    scenario = read_train_scenario({**words, "techniques": ["token-dropping:0.5"]})
    found = layouts_of(scenario)
    assert dropped.step_s == pytest.approx(float(found.step_s[found.ranked_s.argmin()]))
    assert dropped.step_s < whole.step_s


@pytest.mark.parametrize(
    ("words", "field", "said"),
    [
        ({"model": "llama-3.1-8b", "ep": 2}, "ep", "no experts"),
        ({"model": "llama-3.1-8b", "gbs": 999, "tp": 1, "dp": 8}, "gbs", "nearest is 1000"),
        ({"model": "llama-3.1-8b", "pp": 4, "dp": 3}, "pp", "16 devices with pp 4, dp 3"),
        ({"model": "llama-3.1-8b", "recompute": "full:x"}, "recompute", "full:N"),
    ],
)
def test_what_no_layout_can_do_is_refused(words: dict[str, object], field: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as error:
        sy.train(**{"on": "h100_sxm:16", "gbs": 64, **words})  # type: ignore[arg-type]
    assert {p.field for p in error.value.problems} == {field}


def test_sequences_are_as_long_as_the_model_takes() -> None:
    assert sy.train("bert-large-uncased", "a100_sxm:8", gbs=256).scenario.plan.seq == 512
    assert sy.train("llama-3.1-8b", "a100_sxm:8", gbs=64).scenario.plan.seq == 4096


def test_a_stage_that_is_fullest_in_the_middle_is_weighed() -> None:
    """Layers with experts begin behind the first stages: the fullest stage is none of the ends."""
    words = {"model": "deepseek-v3", "on": "h100_sxm:1024", "gbs": 8192, "framework": "bridge", "precision": "fp8"}
    found = sy.train(**words)  # type: ignore[arg-type]
    assert found.fits
    scenario = read_train_scenario(words)
    table = layouts_of(scenario)
    for i in np.argsort(table.step_s)[:8].tolist():
        one = answer_train(replace(scenario, plan=table.plan_of(i), open=()))
        most = max(s.reserved_bytes for s in one.stages)
        assert most == pytest.approx(float(table.reserved_bytes[i]), rel=1e-9)


def test_layers_that_divide_into_nothing_are_shared_out() -> None:
    """61 layers on eight stages, as DeepSeek-V3 is trained: the ends leave room for embedding and head."""
    found = sy.train("deepseek-v3", "h100_sxm:256", gbs=2048, pp=8, framework="bridge")
    assert found.scenario.plan.pp == 8
    assert sum(s.layers for s in found.stages) == pytest.approx(61)


@pytest.mark.parametrize(
    "more", [{}, {"jitter": 0.05, "spares": "10%", "failures": "rsc-1"}, {"failures": "rsc-1,elastic"}]
)
def test_the_chance_of_a_plan_is_that_of_its_run(more: dict[str, object]) -> None:
    """A deadline in the middle of what some number of devices takes leaves a doubt, which the run itself decides."""
    days = next(r.days for r in planned(**more).rows if r.scenario.cluster.count == 32)
    answer = planned(by=days * 86400.0, sure=0.5, **more)
    row = next(r for r in answer.rows if r.scenario.cluster.count == 32)
    words = {n: v for n, v in WORDS.items() if n != "on"}
    plan = row.scenario.plan
    layout = {n: getattr(plan, n) for n in ("tp", "pp", "vp", "cp", "ep", "dp", "mbs", "zero")}
    found = sy.train(**words, **layout, **more, on="h100_sxm:32", recompute=plan.again)  # type: ignore[arg-type]
    assert found.run is not None
    assert 0.0 < row.chance < 1.0
    assert row.chance == found.run.chance_by(days)
    assert row.scenario.recovery == found.scenario.recovery


def test_jitter_and_spares_cost_a_plan_time_and_money() -> None:
    plain, shaken, spared = planned(), planned(jitter=0.1), planned(spares="1", failures="rsc-1")
    for a, b in zip(plain.rows, shaken.rows, strict=True):
        assert b.days >= a.days
    last = plain.rows[-1].scenario.cluster.count
    assert spared.rows[-1].scenario.cluster.count == last
    assert spared.rows[-1].usd > plain.rows[-1].usd * 1.05  # type: ignore[operator]


def test_messages_say_what_was_typed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "llama-3.1-8b", "--train", "--on", "h100_sxm:8", "--foo", "3"]) == 2
    assert "steelyard plan --train --help" in capsys.readouterr().err
    assert main(["train", "llama-3.1-8b", "--on", "h100_sxm:8,a100_sxm:8"]) == 2
    assert "expected one machine, got 2" in capsys.readouterr().err


def test_two_directions_need_their_micro_batches() -> None:
    words = {"model": "llama-2-7b", "on": "h100_sxm:8", "tp": 1, "pp": 8, "mbs": 1, "schedule": "dualpipe"}
    with pytest.raises(InputError, match="nearest is 16") as error:
        sy.train(**words, gbs=8)  # type: ignore[arg-type]
    assert error.value.problems[0].field == "gbs"
    assert sy.train(**words, gbs=16).step_s > 0  # type: ignore[arg-type]
    with pytest.raises(InputError, match="nearest is 16"):
        sy.train(**words, gbs=17)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def rewarded() -> TrainAnswer:
    asked = {"prompts": 32, "group": 4, "isl": 256, "osl": "lognormal:256,max=1024", "framework": "fsdp"}
    return sy.plan_training("qwen3-0.6b", "h100_sxm:8", task="grpo", objective="time", **asked)  # type: ignore[arg-type]


def test_answers_are_drawn_in_turns_or_apart(rewarded: TrainAnswer) -> None:
    ways = {(r.scenario.cluster.count, r.devices): r for r in rewarded.rows}
    assert set(ways) == {(8, 8), (6, 8), (4, 8), (2, 8)}
    assert rewarded.winner is min(rewarded.rows, key=lambda r: r.days).found
    row = ways[4, 8]
    words = {n: row.scenario.words[n] for n in ("task", "prompts", "group", "isl", "osl", "framework")}
    alone = sy.train("qwen3-0.6b", "h100_sxm:4", **words, rollout_on="h100_sxm:4", stale=1).rewarded
    assert alone is not None
    assert row.step_s == alone.step_s


def test_a_plan_of_answers_says_what_the_other_way_takes(rewarded: TrainAnswer) -> None:
    from steelyard.report.train_plan import flat_rows, report

    text = report(rewarded, 200)
    assert "times as long" in text
    assert "4 ways weighed" in text
    assert {row["rollout_devices"] for row in flat_rows(rewarded)} == {0, 2, 4, 6}
    only = sy.plan_training("qwen3-0.6b", "h100_sxm:8", task="grpo", stale=0, prompts=8, osl="64", framework="fsdp")
    assert [r.devices == r.scenario.cluster.count for r in only.rows] == [True]


def test_a_value_model_needs_one_stage_also_where_stages_are_chosen() -> None:
    found = sy.train("llama-3.1-70b", "h100_sxm:64", gbs=64, techniques=["critic"])
    assert found.scenario.plan.pp == 1


def test_a_model_that_rewards_draws_power() -> None:
    words = {"task": "grpo", "prompts": 8, "group": 2, "osl": "64", "framework": "fsdp", "rollout_tp": 1}
    model, rules = (sy.train("qwen3-0.6b", "h100_sxm", **words, reward=x).rewarded for x in ("qwen3-8b", ""))  # type: ignore[arg-type]
    assert model is not None
    assert rules is not None
    assert model.energy_j - rules.energy_j > 250 * model.parts_s["reward"]


def test_shares_of_exposed_traffic_and_deadlines_are_checked() -> None:
    with pytest.raises(InputError, match="tp_exposed"):
        sy.train("llama-3.1-8b", "h100_sxm:8", framework="megatron", set="tp_exposed=30")
    with pytest.raises(InputError, match="expected a time such as 30d, got '3x'"):
        sy.plan_training("llama-3.1-8b", "h100_sxm", by="3x", tokens="1T")


def test_layers_that_were_said_are_computed_again_where_the_rest_is_chosen() -> None:
    words = {"model": "llama-3.1-8b", "on": "h100_sxm:8", "gbs": 32, "tp": 2, "pp": 2, "recompute": "full:3"}
    chosen = sy.train(**words)  # type: ignore[arg-type]
    assert chosen.scenario.plan.again == "full:3"
    named = sy.train(**words, mbs=chosen.scenario.plan.mbs)  # type: ignore[arg-type]
    assert chosen.step_s == named.step_s


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("tp=8,pp=1", "times as long"),
        ("zero=0,tp=1,pp=1,recompute=none", "does not fit"),
        ("tp=1,pp=1,recompute=act,norm,mbs=1", ""),
        ("tp=3", "3 does not divide the 32 attention heads; nearest is 2"),
        ("framework=torchtitan,cp=8,ring=1", "torchtitan has no context ranks that exchange heads"),
        ("framework=fsdp,offload=activations,tp=1,pp=1", "does not move activations to the host's memory"),
    ],
)
def test_a_layout_that_is_named_is_weighed_beside(named: str, said: str) -> None:
    from steelyard.report.train import beside, to_dict

    found = sy.train("llama-3.1-8b", "h100_sxm:8", gbs=32, seq=8192, why_not=named)
    one = beside(found)
    assert one is not None
    assert said in one.reason
    if "recompute=act" in named:
        assert one.found is not None
        assert one.found.scenario.plan.again == "act,norm"
        told = to_dict(found)["why_not"]
        assert (told["step_s"], told["reason"]) == (one.found.step_s, one.reason)


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("zoro=1", "did you mean 'zero'"),
        ("tp 4", "expected NAME=VALUE"),
        (",", "expected NAME=VALUE"),
        ("tp=,", "expected tp=VALUE"),
        ("tp=four", "tp: expected a whole number"),
    ],
)
def test_words_of_a_named_layout_are_checked(named: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        sy.train("llama-3.1-8b", "h100_sxm:8", why_not=named)


@pytest.mark.parametrize(
    ("words", "name"),
    [({}, "fsdp"), ({"tp": 2}, "fsdp"), ({"pp": 2, "tp": 1}, "megatron"), ({"model": "llama-3.2-1b"}, "transformers")],
)
def test_few_devices_are_given_a_framework_that_lays_the_model_out_with_memory_to_spare(
    words: dict[str, object], name: str
) -> None:
    asked = {"model": "llama-3.1-8b", "on": "h100_sxm:4", "gbs": 16, "seq": 4096, **words}
    found = answer_train(read_train_scenario(asked))
    framework = found.scenario.plan.framework
    assert framework.name == name
    assert not framework.lacks({n: getattr(found.scenario.plan, n) for n in ("tp", "pp", "cp", "ep")})
    most = found.stages[found.peak_stage].reserved_bytes * framework.memory_margin(0.8)
    assert most <= found.capacity_bytes
