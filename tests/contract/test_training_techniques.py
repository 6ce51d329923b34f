"""Techniques of training: each changes what it says, and those that can be idle are."""

from __future__ import annotations

from typing import Any

import pytest

import steelyard as sy
from steelyard.errors import InputError
from steelyard.techniques._registry import TECHNIQUES, parse

TEXTS = {
    "zeroth-order": "zeroth-order:stream=25e9",
    "layer-local": "layer-local",
    "token-dropping": "token-dropping:0.5",
    "sparse-attention": "sparse-attention:0.1",
    "critic": "critic",
    "distillation": "distillation:2",
    "cxl-memory": "cxl-memory:2,share=0.5",
}
#: Of models with scans, whose ranks share a sequence.
OF_SCANS = {"state-exchange"}
#: Of ranks that share the documents of a sequence: see below.
OF_DOCUMENTS = {"length-groups"}
#: Words that a technique needs.
NEEDS: dict[str, dict[str, Any]] = {"cxl-memory": {"offload": "optimizer"}}
#: Of replicas: on eight devices that reduce their gradients over a slow network.
OF_REPLICAS = {
    "gradient-compression": "gradient-compression:4",
    "local-sgd": "local-sgd:50",
    "stale-gradients": "stale-gradients",
    "gradient-coding": "gradient-coding:1,cv=0.1",
    "federated": "federated:10,every=20",
    "large-batch": "large-batch:1e6",
    "balanced-attention": "balanced-attention",
    "robust-aggregation": "robust-aggregation:3",
}


def _trained(*techniques: str, **words: Any) -> Any:
    given = {"gbs": 8, "seq": 4096, "tp": 1, "pp": 1, "dp": 1, "mbs": 1, "framework": "fsdp", "zero": 0, **words}
    return sy.train("llama-3.2-1b", "a100_sxm", techniques=list(techniques), **given)


def test_every_technique_of_training_is_tested_here() -> None:
    every = (n for n in TECHNIQUES if TECHNIQUES.built_in(n) and TECHNIQUES.get(n).of_training)
    assert set(TEXTS) | set(OF_REPLICAS) | OF_SCANS | OF_DOCUMENTS == {
        n for n in every if not TECHNIQUES.get(n).mechanism
    }


@pytest.mark.parametrize("name", TEXTS)
def test_it_is_read_back_from_its_words_and_changes_the_step(name: str) -> None:
    technique = parse(TEXTS[name])
    assert parse(str(technique)) == technique
    plain, changed = _trained(**NEEDS.get(name, {})), _trained(TEXTS[name], **NEEDS.get(name, {}))
    assert changed.step_s != plain.step_s
    assert changed.step_s >= changed.limit_s
    assert sum(changed.breakdown_s.values()) == pytest.approx(changed.step_s)


@pytest.mark.parametrize("name", TEXTS)
def test_other_verbs_refuse_it_and_networks_do(name: str) -> None:
    with pytest.raises(InputError, match="train does"):
        sy.estimate("llama-3.2-1b", on="a100_sxm", techniques=[TEXTS[name]])
    with pytest.raises(InputError, match="of language models"):
        sy.train("resnet50", "a100_sxm", gbs=64, techniques=[TEXTS[name]])


@pytest.mark.parametrize("name", ["token-dropping", "sparse-attention"])
def test_a_share_of_all_changes_nothing(name: str) -> None:
    assert _trained(f"{name}:1").step_s == pytest.approx(_trained().step_s)


@pytest.mark.parametrize("name", TEXTS)
def test_a_layout_that_is_chosen_takes_what_it_takes_when_asked_for(name: str) -> None:
    words = {"gbs": 8, "seq": 1024, "framework": "fsdp", "techniques": [TEXTS[name]], **NEEDS.get(name, {})}
    chosen = sy.train("llama-3.2-1b", "a100_sxm:2", **words)
    plan = chosen.scenario.plan
    degrees = {n: getattr(plan, n) for n in ("tp", "pp", "cp", "dp", "mbs")}
    asked = sy.train("llama-3.2-1b", "a100_sxm:2", recompute=plan.again, **degrees, **words)
    assert asked.step_s == pytest.approx(chosen.step_s)


def test_two_forward_passes_keep_nothing_and_take_less_than_one_each_way() -> None:
    plain, changed = _trained(optimizer="sgd_plain"), _trained("zeroth-order", optimizer="mezo")
    alone = _trained(optimizer="mezo")
    assert alone.step_s == pytest.approx(changed.step_s)
    assert alone.flops == pytest.approx(changed.flops)
    assert alone.flops == pytest.approx(plain.flops * 2 / 3)
    apart = _trained("zeroth-order:apart=true", optimizer="mezo")
    assert changed.stages[0].parts["activations"] == 0.0
    assert changed.step_s < plain.step_s
    assert apart.step_s < 0.7 * changed.step_s
    streamed = _trained("zeroth-order:stream=1e9", optimizer="mezo")
    assert streamed.step_s > changed.step_s
    assert streamed.stages[0].parts["weights"] < changed.stages[0].parts["weights"]


def test_half_the_tokens_keep_half_and_half_the_pairs_a_quarter() -> None:
    plain, half = _trained(), _trained("token-dropping:0.5")
    assert half.breakdown_s["attention"] == pytest.approx(plain.breakdown_s["attention"] / 4)
    assert half.breakdown_s["gemm"] == pytest.approx(plain.breakdown_s["gemm"] / 2)


def test_a_critic_doubles_the_layers_and_their_states_but_not_what_waits() -> None:
    plain, both = _trained(), _trained("critic")
    assert both.breakdown_s["gemm"] == pytest.approx(2 * plain.breakdown_s["gemm"])
    assert both.stages[0].parts["optimizer"] > 1.5 * plain.stages[0].parts["optimizer"]
    assert both.stages[0].parts["activations"] == pytest.approx(plain.stages[0].parts["activations"])
    with pytest.raises(InputError, match="give --pp 1"):
        sy.train("llama-3.2-1b", "a100_sxm:2", gbs=8, tp=1, pp=2, dp=1, mbs=1, techniques=["critic"])


def _replicas(*techniques: str, **words: Any) -> Any:
    given = {"gbs": 64, "seq": 2048, "tp": 1, "pp": 1, "dp": 16, "mbs": 1, "framework": "fsdp", "zero": 0, **words}
    given = {
        "docs": "lognormal:300,sigma=1.2",
        "set": "dp_exposed=1",
        "network": "ethernet_10",
        "tokens": "1B",
        "failures": "none",
        **given,
    }
    return sy.train("llama-3.2-1b", "a100_sxm:16", techniques=list(techniques), **given)


@pytest.mark.parametrize("name", OF_REPLICAS)
def test_what_replicas_exchange_is_read_back_and_changes_the_run(name: str) -> None:
    technique = parse(OF_REPLICAS[name])
    assert parse(str(technique)) == technique
    plain, changed = _replicas(), _replicas(OF_REPLICAS[name])
    assert changed.run.ideal_days != pytest.approx(plain.run.ideal_days, rel=1e-3)
    assert changed.step_s >= changed.limit_s
    assert sum(changed.breakdown_s.values()) == pytest.approx(changed.step_s)
    with pytest.raises(InputError, match="train does"):
        sy.estimate("llama-3.2-1b", on="a100_sxm", techniques=[OF_REPLICAS[name]])


def test_fewer_bits_and_rarer_exchanges_take_their_share_of_the_traffic() -> None:
    plain = _replicas().breakdown_s["dp"]
    assert _replicas("gradient-compression:8").breakdown_s["dp"] == pytest.approx(plain / 4)
    gathered = _replicas("gradient-compression:8,gathered=true").breakdown_s["dp"]
    assert gathered == pytest.approx(8 * plain / 4)
    assert _replicas("local-sgd:50").breakdown_s["dp"] == pytest.approx(plain / 50)
    hidden, work = _replicas("stale-gradients"), _replicas().step_s - plain
    assert hidden.breakdown_s["dp"] == pytest.approx(max(0.0, plain - work), rel=0.05)


def test_codes_trade_work_for_waiting_and_clients_wait_for_the_slowest() -> None:
    waits, coded = (_replicas(f"gradient-coding:{n},cv=0.6") for n in (0, 1))
    assert coded.breakdown_s["gemm"] != waits.breakdown_s["gemm"]
    many, few = (_replicas(f"federated:{n},every=20") for n in (1000, 10))
    assert many.step_s > few.step_s
    assert few.breakdown_s["dp"] > few.scenario.parameters * 4 / 1.25e6 / 20
    with pytest.raises(InputError, match="give --dp"):
        _replicas("gradient-coding:20")


def test_a_teacher_adds_its_forward_pass_and_its_weights_alone() -> None:
    plain, taught = _trained(), _trained("distillation:2")
    before, after = plain.stages[0].parts, taught.stages[0].parts
    grown = {"weights": 3.0, "logits": 2.0}  # the model's own weights are in 16 bits too
    for part in ("weights", "gradients", "optimizer", "activations", "logits"):
        assert after[part] == pytest.approx(before[part] * grown.get(part, 1.0))
    assert taught.cost.forward_s == pytest.approx(3.0 * plain.cost.forward_s, rel=1e-3)
    assert taught.cost.backward_s == pytest.approx(plain.cost.backward_s)
    with pytest.raises(InputError, match="expected --task pretrain or sft, got lora"):
        _trained("distillation:2", task="lora")


def test_a_critical_batch_doubles_the_tokens_and_needs_a_run() -> None:
    batch = 64 * 2048
    assert _replicas(f"large-batch:{batch}").run.tokens == pytest.approx(2e9)
    with pytest.raises(InputError, match="give --tokens"):
        _replicas("large-batch", tokens="", failures="")


def test_ranks_of_a_sequence_share_states_of_a_size_that_its_length_does_not_change() -> None:
    words: dict[str, Any] = {"gbs": 1, "tp": 1, "pp": 1, "dp": 1, "cp": 8, "mbs": 1, "set": "cp_exposed=1"}

    def shared(seq: int, *techniques: str) -> float:
        found = sy.train("mamba2-130m", "a100_sxm:8", seq=seq, techniques=list(techniques), **words)
        return found.breakdown_s["cp"]

    assert 0 < shared(65536) == pytest.approx(shared(131072))
    assert shared(65536) < shared(65536, "state-exchange:ring") < shared(65536, "state-exchange:keys")
    assert shared(131072, "state-exchange:keys") > 1.8 * shared(65536, "state-exchange:keys")
    with pytest.raises(InputError, match="models with scans"):
        _trained("state-exchange")


def test_groups_by_length_pass_around_what_long_documents_need() -> None:
    words = {"gbs": 4, "seq": 65536, "tp": 1, "pp": 1, "cp": 16, "dp": 1, "mbs": 1, "recompute": "full", "zero": 0}

    def step(docs: str, *with_: str) -> Any:
        asked: dict[str, Any] = {
            "framework": "megatron",
            "network": "ethernet_25",
            "docs": docs,
            "techniques": list(with_),
            **words,
        }
        return sy.train("llama-3.2-1b", "a100_sxm:16", **asked)

    short, mixed, long = "4096", "lognormal:6000,max=65536", "65536"
    assert step(long, "length-groups").step_s == step(long).step_s
    assert step(short).breakdown_s["cp"] > 0 == step(short, "length-groups").breakdown_s["cp"]
    one, groups = step(mixed), step(mixed, "length-groups")
    assert 0 < groups.breakdown_s["cp"] < one.breakdown_s["cp"]
    assert groups.step_s == pytest.approx(one.step_s - one.breakdown_s["cp"] + groups.breakdown_s["cp"])
    assert groups.stages[0].reserved_bytes == one.stages[0].reserved_bytes
    assert any("groups by length pass around" in text for text in groups.ledger.assumptions)
    for wrong, field in (({"docs": ""}, "length-groups"), ({"cp": 1}, "cp"), ({"ring": 2}, "ring")):
        asked: dict[str, Any] = {
            "framework": "megatron",
            "docs": mixed,
            "techniques": ["length-groups"],
            **words,
            **wrong,
        }
        with pytest.raises(InputError) as error:
            sy.train("llama-3.2-1b", "a100_sxm:16", **{**asked, "dp": 16 // asked["cp"]})
        assert field in {p.field for p in error.value.problems}
