"""Training steps: gradients derived from ops, what is saved, steps of layouts, memory of stages."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import steelyard as sy
from steelyard.deployment.formats import find_format
from steelyard.deployment.train_plan import TrainPlan
from steelyard.errors import InputError
from steelyard.scenario.training import read_train_scenario
from steelyard.training.estimate import TrainEstimate
from steelyard.workload.backward import backward, gradients, saved
from steelyard.workload.catalogue import load_model
from steelyard.workload.op import Op
from steelyard.workload.step import Step

MODEL, ON = "llama-3.1-8b", "h100_sxm:8"


def trained(**words: object) -> TrainEstimate:
    return sy.train(
        **{
            "model": MODEL,
            "on": ON,
            "gbs": 64,
            "seq": 4096,
            "tp": 1,
            "pp": 1,
            "mbs": 1,
            "framework": "megatron",
            **words,
        }  # type: ignore[arg-type]
    )


def test_gradients_of_a_product_are_products_with_ranks_exchanged() -> None:
    op = Op("up", "t d, d f -> t f", {"t": 7, "d": 3, "f": 5}, ("x", "w", "y"), ("activation", "weight", "activation"))
    flows, weight = gradients(op)
    assert (flows.einsum, weight.einsum) == ("t f, d f -> t d", "t d, t f -> d f")
    assert (flows.facts["which"], weight.facts["which"]) == ("dgrad", "wgrad")
    assert float(flows.macs()) == float(weight.macs()) == float(op.macs())
    assert tuple(float(x) for x in flows.gemm_shape()[:3]) == (7.0, 3.0, 5.0)


def test_gradients_of_a_convolution_visit_the_same_points() -> None:
    op = Op("conv", "n c 2*p+r, k c r -> n k p", {"n": 2, "c": 3, "p": 4, "r": 3, "k": 5})
    for one in gradients(op):
        assert float(one.macs()) == float(op.macs())


@pytest.mark.parametrize("name", ["llama-3.1-8b", "qwen3-30b-a3b", "deepseek-v3"])
def test_a_backward_pass_is_twice_the_products_and_scores_once_more(name: str) -> None:
    graph = load_model(name).transformer.graph(Step.prefill(1, 512, logits=512.0), absorb=False)
    scores = sum(float(op.macs() * op.count) for op in graph if op.name.endswith("scores"))
    forward, back = float(graph.macs()), float(backward(graph).macs())
    outer = sum(float(op.macs() * op.count) for op in graph if op.name.endswith("combine"))  # adds over nothing
    assert back == pytest.approx(2.0 * forward + scores - outer, rel=1e-6)
    frozen = float(backward(graph, frozen=True).macs())
    weights = sum(float(op.macs() * op.count) for op in graph if op.contracts and op.inputs[1].role == "weight")
    assert frozen == pytest.approx(back - weights, rel=1e-6)


def test_a_dense_layer_saves_what_transformer_engine_saves() -> None:
    """8 d + 2 (2 h + 2 kv) c + 6 f bytes of a token and layer, and 4 bytes a head: Korthikanti et al., 2023."""
    graph = load_model(MODEL).transformer.graph(Step.prefill(1, 64, logits=64.0))
    layer = [op for op in graph if op.name.startswith("layer0.")]
    total = sum(float(np.asarray(s.elements)) * (s.bits / 8 or 2.0) for s in saved(layer)) / 64
    d, h, kv, c, f = 4096, 32, 8, 128, 14336
    assert total == pytest.approx(8 * d + 2 * (2 * h + 2 * kv) * c + 6 * f + 4 * h)


def test_a_step_is_never_faster_than_its_operations() -> None:
    for found in (trained(), trained(tp=2), trained(pp=2), trained(recompute="full"), trained(zero=3)):
        assert found.step_s >= found.limit_s > 0
        assert found.step_s == pytest.approx(sum(found.breakdown_s.values()), rel=1e-9)
        assert found.hfu_frac >= found.mfu_frac > 0
        low, high = found.interval["step_s"]
        assert low <= found.step_s <= high


def test_more_recompute_never_needs_more_memory_nor_less_time() -> None:
    rows = [trained(recompute=r, mbs=2) for r in ("none", "core_attn", "core_attn,act", "core_attn,act,mlp", "full")]
    for less, more in itertools.pairwise(rows):
        assert more.stages[0].allocated_bytes <= less.stages[0].allocated_bytes * (1 + 1e-9)
        assert more.step_s >= less.step_s


def test_zero_stages_hold_ever_less_state() -> None:
    held = [trained(zero=z).stages[0] for z in (0, 1, 2, 3)]
    state = [sum(s.parts[n] for n in ("weights", "gradients", "optimizer")) for s in held]
    assert state == sorted(state, reverse=True)
    assert held[0].parts["optimizer"] == pytest.approx(8 * held[1].parts["optimizer"], rel=1e-6)


def test_layers_of_stages_add_up_and_chunks_shrink_the_bubble() -> None:
    one, two = trained(pp=4), trained(pp=4, vp=2)
    for found in (one, two):
        assert sum(s.layers for s in found.stages) == pytest.approx(32)
    assert 0 < two.breakdown_s["pp_bubble"] < one.breakdown_s["pp_bubble"]


def test_a_flat_pipeline_has_the_exact_bubble_of_1f1b() -> None:
    found = trained(pp=2, gbs=32)
    cost = found.cost
    ideal = found.scenario.plan.micro_batches * float(cost.forward_s + cost.backward_s)
    assert found.breakdown_s["pp_bubble"] < ideal
    assert found.step_s > ideal


@pytest.mark.parametrize(
    ("words", "field", "said"),
    [
        ({"tp": 3}, "tp", "nearest is 2"),
        ({"gbs": 63}, "gbs", "nearest is 64"),
        ({"gbs": "4Mtoks"}, "gbs", "4Mtok"),
        ({"ep": 2}, "ep", "no experts"),
        ({"pp": 3}, "dp", "--on has 8"),
        ({"recompute": "fulll"}, "recompute", "full"),
        ({"recompute": "full:99"}, "recompute", "nearest is full"),
        ({"optimizer": "adamm"}, "optimizer", "adamw"),
        ({"framework": "megatorn"}, "framework", "megatron"),
        ({"set": "tp_exposd=1"}, "set", "tp_exposed"),
        ({"vp": 2}, "vp", "--pp"),
    ],
)
def test_a_wrong_layout_names_the_field_and_the_nearest(words: dict[str, object], field: str, said: str) -> None:
    with pytest.raises(InputError) as error:
        trained(**words)
    found = {p.field: p.message for p in error.value.problems}
    assert said in found[field], found


def test_a_step_in_tokens_is_one_in_sequences() -> None:
    plan = read_train_scenario({"model": MODEL, "on": ON, "gbs": "4Mtok", "seq": 8192, "tp": 1, "pp": 1, "mbs": 1}).plan
    assert isinstance(plan, TrainPlan)
    assert plan.gbs == 512


def test_open_degrees_are_chosen_and_fit() -> None:
    found = sy.train("llama-3.1-70b", "h100_sxm:64", gbs=256, seq=8192)
    plan = found.scenario.plan
    assert found.fits
    assert plan.devices == 64
    assert any("fastest layout that fits" in text for text in found.ledger.assumptions)
    slower = sy.train("llama-3.1-70b", "h100_sxm:64", gbs=256, seq=8192, tp=8, pp=8, mbs=1, recompute="full")
    assert found.step_s <= slower.step_s


def test_a_run_has_days_money_and_failures() -> None:
    words = {"model": "llama-3.1-70b", "on": "h100_sxm:64", "gbs": 256, "seq": 8192, "tp": 8, "pp": 4, "tokens": "100B"}
    sound, failing = sy.train(**words, failures="none").run, sy.train(**words, failures="50/1000node-day").run  # type: ignore[arg-type]
    assert sound is not None
    assert failing is not None
    assert sound.interruptions == 0
    assert failing.days["p50"] > sound.days["p50"]
    assert sound.days["p10"] <= sound.days["p50"] <= sound.days["p90"]
    assert failing.usd is not None
    assert failing.tokens == 100e9


def test_what_does_not_fit_says_what_would() -> None:
    from steelyard.report.train import flat, remedy, report

    found = sy.train("qwen3-8b", "rtx_4090", task="lora", mbs=1, seq=4096, loss="whole")
    assert not found.fits
    assert remedy(found).startswith("--loss fused")
    run = sy.train("qwen3-8b", "rtx_4090", task="lora", mbs=1, seq=4096, loss="whole", tokens="1B", by="30d")
    assert remedy(run) == remedy(found)
    assert (run.run, run.usd_per_trillion_tokens, flat(run)["usd_per_trillion_tokens"]) == (None, None, None)
    verdict, _, rest = report(run).partition("were it to fit:")
    assert "does not fit" in verdict
    assert "USD" not in rest.partition("sources")[0]
    longer = sy.train("qwen3-8b", "rtx_4090", task="lora", mbs=1, seq=16384, offload="none")
    assert not longer.fits
    changes = {one.words: one.found for one in longer.would_fit}
    assert all(one.fits for one in changes.values())
    assert any(words.startswith("--task qlora") for words in changes)
    assert any(words.startswith("--seq ") for words in changes)


def test_a_loss_in_parts_holds_few_scores_and_is_chosen_where_the_framework_has_it() -> None:
    whole, fused = (
        sy.train("qwen3-8b", "rtx_4090", task="lora", tp=1, pp=1, dp=1, mbs=1, loss=x) for x in ("whole", "fused")
    )
    held = [x.stages[0].parts["logits"] for x in (whole, fused)]
    assert held[0] == pytest.approx(4096 * 151936 * 12)
    assert held[1] == pytest.approx(128 * 151936 * 4)
    assert {**whole.stages[0].parts, "logits": 0} == {**fused.stages[0].parts, "logits": 0}
    assert whole.step_s < fused.step_s
    chosen = sy.train("qwen3-8b", "rtx_4090", task="lora", mbs=1, seq=4096)
    assert chosen.fits
    assert chosen.scenario.plan.loss == "fused"
    with pytest.raises(sy.InputError, match="has none that is fused"):
        sy.train("qwen3-8b", "h100_sxm:8", framework="megatron", loss="fused")


def test_weights_in_four_bits_leave_embedding_and_head_in_sixteen() -> None:
    lora, qlora = (sy.train("qwen3-8b", "rtx_4090", task=x, tp=1, pp=1, dp=1, mbs=1) for x in ("lora", "qlora"))
    ends = 2 * 151936 * 4096
    cut = lora.stages[0].parts["weights"] - qlora.stages[0].parts["weights"]
    model = load_model("qwen3-8b").transformer.parameters()
    assert cut == pytest.approx((model - ends) * (2.0 - find_format("nf4").stored_bits / 8), rel=1e-3)
    assert qlora.breakdown_s["elementwise"] > lora.breakdown_s["elementwise"]


def test_a_network_is_trained_on_devices_that_add_up_gradients() -> None:
    one, eight = sy.train("resnet50", "a100_sxm", gbs=256), sy.train("resnet50", "a100_sxm:8", gbs=2048, epochs=90)
    assert eight.step_s > one.step_s
    assert eight.step_s == pytest.approx(one.step_s + eight.breakdown_s["dp"], rel=1e-6)
    assert eight.step_s == pytest.approx(sum(eight.breakdown_s.values()), rel=1e-6)
    assert eight.run is not None
    assert eight.run.tokens == 90 * 1_281_167
    with pytest.raises(InputError, match="language models"):
        sy.train("resnet50", "a100_sxm:8", gbs=2048, tp=2)


@pytest.mark.parametrize("words", [{"model": MODEL, "on": ON, "gbs": 64}, {"model": "resnet50", "on": ON, "gbs": 512}])
def test_an_answer_can_be_asked_again_from_its_provenance(words: dict[str, object]) -> None:
    from steelyard.training.estimate import provenance_of

    found = sy.train(**words)  # type: ignore[arg-type]
    again = sy.train(**provenance_of(found.scenario)["inputs"])
    assert again.step_s == found.step_s


@pytest.mark.parametrize("schedule", ["zb-h2", "zb-v"])
def test_no_schedule_is_faster_than_one_micro_batch_through_all_stages(schedule: str) -> None:
    words = {"pp": 4, "dp": 2, "gbs": 2}
    plain, other = trained(**words), trained(**words, schedule=schedule)
    assert other.step_s >= 0.6 * plain.step_s


@pytest.mark.parametrize(
    "words",
    [{"model": "llama-3.2-1b", "mbs": 4, "seq": 2048, "framework": "megatron"}, {"model": "resnet50", "mbs": 64}],
    ids=("language", "network"),
)
def test_devices_answer_for_their_share_of_a_host(words: dict[str, Any]) -> None:
    """One device of a node of eight does not pay for the fans of all."""
    one, eight = (sy.train(**words, on=f"h100_sxm:{n}") for n in (1, 8))
    alone, together = one.energy_j / one.step_s, eight.energy_j / eight.step_s / 8
    assert alone == pytest.approx(together, rel=0.1)
    assert 300 < alone < 1100


def test_a_ring_passes_every_pair_and_its_smaller_kernels_take_no_less() -> None:
    whole = trained(cp=1, mbs=1, seq=32768)
    ring = trained(cp=4, mbs=1, seq=32768)
    heads = trained(cp=4, mbs=1, seq=32768, ring=1)
    of_one = [x.breakdown_s["attention"] / x.scenario.plan.micro_batches for x in (whole, ring, heads)]
    assert of_one[1] > of_one[0] / 4
    assert of_one[1] > of_one[2]
    assert ring.flops == pytest.approx(whole.flops)


def test_adapters_take_the_time_of_what_they_lie_beside() -> None:
    few, more, all_ = (
        trained(task="lora", set=f"adapted={where}", precision="fp8") for where in ("qkv", "attention", "all")
    )
    assert few.step_s < more.step_s < all_.step_s
    held = [x.stages[0].allocated_bytes for x in (few, more, all_)]
    assert held == sorted(set(held))  # inputs that wait for the gradients of adapters


def test_frozen_weights_in_8_bits_lie_once_where_operands_lie_as_they_will() -> None:
    words: dict[str, object] = {"task": "lora", "precision": "fp8", "framework": "nemo"}
    blackwell, hopper = (trained(on=on, **words).stages[0].parts["weights"] for on in ("b200_sxm:8", "h100_sxm:8"))
    ends = 2 * 128256 * 4096  # elements of embedding and head, which stay in 16 bits
    assert blackwell == pytest.approx(hopper / 2 + ends, rel=0.02)
    assert trained(on="b200_sxm:8", **{**words, "precision": "bf16"}).stages[0].parts["weights"] == hopper


def test_what_a_release_does_and_nobody_told_widens_a_step_with_experts() -> None:
    def width(**words: object) -> float:
        low, high = trained(model="qwen3-30b-a3b", ep=8, framework="bridge", **words).interval["step_s"]
        return high / low

    assert width(set="dispatcher=alltoall,graph=false") < width(set="graph=false") < width()


def test_parameters_in_8_bits_lie_alone_beside_the_master_copy() -> None:
    words: dict[str, object] = {"precision": "fp8", "framework": "bridge"}
    alone, copied = (trained(set=f"narrow_weights={said}", **words).stages[0].parts for said in ("true", "false"))
    assert alone["weights"] == pytest.approx(copied["weights"] / 2, rel=0.01)
    assert alone["optimizer"] == copied["optimizer"]


@pytest.mark.parametrize(
    ("model", "words", "field", "said"),
    [
        ("mobilenet_v2", {"on": "stm32h743"}, "on", "forward kernels alone"),
        ("resnet18", {"on": "apple_a17_pro"}, "on", "forward kernels alone"),
        ("resnet18", {"on": "rtx_4090", "precision": "int8"}, "precision", "backward kernels"),
    ],
)
def test_what_only_infers_says_why_it_trains_nothing(
    model: str, words: dict[str, object], field: str, said: str
) -> None:
    with pytest.raises(InputError) as error:
        sy.train(model, **words)
    assert said in {p.field: p.message for p in error.value.problems}[field]


def test_nothing_is_moved_to_a_host_whose_memory_is_the_devices_own() -> None:
    found = sy.train("llama-3.2-1b", "m4_max", task="lora", seq=512)
    assert found.fits
    assert not found.scenario.plan.offload
    short = sy.train("llama-3.2-3b", "jetson_orin_nano", seq=512)
    assert not short.fits
    assert not any("offload" in str(remedy) for remedy in short.would_fit)
