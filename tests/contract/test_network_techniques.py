"""Techniques of networks: each moves the figures where its formula says, and refuses what it is not of."""

from __future__ import annotations

from typing import Any

import pytest

from steelyard.errors import InputError
from steelyard.estimation.estimate import estimate
from steelyard.estimation.network import NetEstimate
from steelyard.techniques._registry import TECHNIQUES, parse

#: Text of every built-in technique of networks, and a network that it changes.
TEXTS: dict[str, tuple[str, ...]] = {
    "patch-inference": ("patch-inference:2", "patch-inference:4,until=4"),
    "conv-lowering": ("conv-lowering", "conv-lowering:im2win"),
    "adversarial-step": ("adversarial-step",),
    "spiking": ("spiking", "spiking:5,rate=0.2,exit=0.6"),
    "denoiser-pruning": ("denoiser-pruning:0.6",),
    "few-steps": ("few-steps:2",),
    "frame-cache": ("frame-cache", "frame-cache:0.9"),
    "guidance": ("guidance", "guidance:share=0"),
    "low-bit": ("low-bit:w=4,kept=0.1", "low-bit:w=8,a=16"),
    "latent-optimisation": ("latent-optimisation:4,inner=2,backward=2",),
    "patch-parallel": ("patch-parallel", "patch-parallel:0.3,warmup=2,synchronous"),
    "step-cache": ("step-cache", "step-cache:interval=2,kept=0.3"),
    "stream-batch": ("stream-batch", "stream-batch:none,skip=0.5"),
    "unfused-attention": ("unfused-attention",),
    "network-split": ("network-split", "network-split:raspberry_pi_4,cut=0.3,link=1MB/s,latency=1ms,ratio=0.1"),
    "glance": ("glance", "glance:mobilenetv3_small_100,size=160,share=0.2"),
    "stepwise": ("stepwise:10", "stepwise:4,net=bert_tiny,size=32"),
    "network-exit": ("network-exit", "network-exit:0.3,at=0.2,head=0"),
    "block-fusion": ("block-fusion", "block-fusion:0.5"),
    "token-reduction": ("token-reduction:merge,merged=8", "token-reduction:prune,keep=0.5,stages=2"),
    "activation-zeros": ("activation-zeros", "activation-zeros:0.2"),
    "network-pruning": ("network-pruning", "network-pruning:weights,keep=0.1", "network-pruning:pattern"),
    "shift-add": ("shift-add", "shift-add:0.5,added=0"),
    "analogue-arrays": ("analogue-arrays", "analogue-arrays:0.5,pass_s=1e-7"),
    "layer-bits": ("layer-bits:0.5,few=8",),
    "fixed-point-training": ("fixed-point-training", "fixed-point-training:1,bits=8"),
    "chip-array": ("chip-array:flow=output_stationary", "chip-array:rows=16,columns=16,buffer=65536,memory=5e8"),
    "depth-first": ("depth-first:1e6",),
}
PIPED = "denoiser-pruning few-steps guidance latent-optimisation patch-parallel step-cache stream-batch"
NETS: dict[str, str] = {"frame-cache": "r3d_18", "unfused-attention": "deit_tiny_patch16_224"}
NETS |= {"token-reduction": "deit_small_patch16_224"}
NETS |= dict.fromkeys(PIPED.split(), "sd-1.5")
WORDS: dict[str, dict[str, Any]] = {
    "adversarial-step": {"train": True},
    "fixed-point-training": {"train": True, "precision": "fp32"},
    "activation-zeros": {"on": "eyeriss", "precision": ""},
    "chip-array": {"on": "eyeriss", "precision": ""},
    "depth-first": {"on": "eyeriss", "precision": ""},
    "low-bit": {"precision": ""},
    **{n: {"batch": 64} for n in ("spiking", "network-pruning", "shift-add", "layer-bits")},
}


def asked(model: str, *techniques: str, **words: Any) -> NetEstimate:
    """An estimate of a network."""
    return estimate(model, **{"on": "rtx_4090", "precision": "fp32", **words}, techniques=techniques)


def test_every_built_in_technique_of_networks_is_here() -> None:
    every = (n for n in TECHNIQUES if TECHNIQUES.built_in(n) and TECHNIQUES.get(n).of_networks)
    assert set(TEXTS) == {n for n in every if not TECHNIQUES.get(n).mechanism}


@pytest.mark.parametrize("name", TEXTS)
def test_it_reads_back_changes_an_answer_and_is_of_networks_alone(name: str) -> None:
    cls, net = TECHNIQUES.get(name), NETS.get(name, "mobilenetv2_100")
    assert cls.effect and cls.paper.title and cls.verbs() == ("estimate",)
    assert all(p.doc for p in cls.parameters())
    words: dict[str, Any] = {"on": "rtx_4090:2", "precision": "bf16", **WORDS.get(name, {})}
    base = asked(net, **words)
    for text in TEXTS[name]:
        assert parse(str(parse(text))) == parse(text)
        found = asked(net, text, **words)
        assert found.latency_s != base.latency_s or found.activation_bytes != base.activation_bytes
        assert any(name in line for line in found.ledger.assumptions)
    with pytest.raises(InputError, match="is served token by token"):
        estimate("llama-3.2-1b", "h100_sxm", techniques=TEXTS[name][:1])


def test_techniques_of_served_models_refuse_networks_and_words_are_theirs() -> None:
    with pytest.raises(InputError) as error:
        asked("resnet50", "fp8-kv", "spiking:rate=2")
    assert "rate" in str(error.value)
    with pytest.raises(InputError, match="served token by token, not of networks"):
        asked("resnet50", "fp8-kv")


def test_patches_cost_work_and_save_memory() -> None:
    base, two, four = (asked("mobilenetv2_100", *t) for t in ((), ("patch-inference:2",), ("patch-inference:4",)))
    assert base.activation_bytes > two.activation_bytes > four.activation_bytes
    assert base.macs < two.macs < four.macs < 2 * base.macs
    assert base.parameters == four.parameters and base.weight_bytes == four.weight_bytes
    with pytest.raises(InputError, match="parts of its image"):
        asked("deit_tiny_patch16_224", "patch-inference")


def test_kernels_that_join_what_follows_write_over_it() -> None:
    eager, joined = (asked("deit_tiny_patch16_224", runtime=r) for r in ("eager", "compile"))
    assert joined.activation_bytes < eager.activation_bytes  # a GELU and its input are one tensor
    held = asked("mobilenetv2_100").scenario.phases[0].graph.joined()
    stage = 96 * (112 * 112 + 56 * 56) + 3 * 224 * 224  # the widest map, what is made of it, and the image
    assert float(held.peak_bytes(bits=8)) == pytest.approx(stage, rel=0.01)


def test_an_adversarial_step_takes_two_passes_unless_its_weights_are_stale() -> None:
    found = [
        asked("resnet18", *t, train=True, batch=32) for t in ((), ("adversarial-step",), ("adversarial-step:stale",))
    ]
    assert found[1].latency_s == pytest.approx(2 * found[0].latency_s)
    assert found[2].latency_s == found[0].latency_s
    with pytest.raises(InputError, match="--train"):
        asked("resnet18", "adversarial-step")


def test_windows_are_copied_by_their_formula() -> None:
    words: dict[str, Any] = {"size": "24", "set": "inputs=96,outputs=256,kernel=5", "batch": 1}
    base, col, win = (asked("one_conv", *t, **words) for t in ((), ("conv-lowering",), ("conv-lowering:im2win",)))
    rows, held = (20 * 20 * 5 * 5 * 96, 20 * 5 * 24 * 96), 4.0 * (1.0 + base.scenario.runtime.beside)
    assert [(x.activation_bytes - base.activation_bytes) / held for x in (col, win)] == pytest.approx(rows)
    assert base.macs == col.macs == win.macs
    words["batch"] = 256  # so many that the kernels take longer than the host
    base, col, win = (asked("one_conv", *t, **words) for t in ((), ("conv-lowering",), ("conv-lowering:im2win",)))
    assert base.latency_s < win.latency_s < col.latency_s


def test_windows_of_one_point_do_not_overlap() -> None:
    from steelyard.techniques.network_patches import PatchInference
    from steelyard.workload.networks.builder import Builder

    net = Builder("points")
    x = net.relu(net.conv(net.image(3, (32, 32)), 8, 1))
    graph = net.graph(net.conv(net.max_pool(x, 2, stride=2), 8, 1))
    for patches in (2, 4):
        found = PatchInference(patches=patches, until=2)._patched(graph)
        assert found.macs() == graph.macs()
        assert found.peak_bytes() < graph.peak_bytes()


def test_spikes_cost_additions_by_rate_and_step() -> None:
    base, one, four = (asked("vgg16", *t) for t in ((), ("spiking:rate=0.25",), ("spiking:4,rate=0.25",)))
    first = 2 * 3 * 9 * 64 * 224 * 224 / (2 * base.macs)
    assert one.arithmetic_j_per_item / base.arithmetic_j_per_item == pytest.approx(0.25 * 0.9 / 4.6 + first, rel=0.05)
    assert four.arithmetic_j_per_item == pytest.approx(4 * one.arithmetic_j_per_item)
    leaving = asked("vgg16", "spiking:4,rate=0.25,exit=0.5")
    assert leaving.latency_s == pytest.approx(four.latency_s / 2)
    assert one.latency_s < base.latency_s < four.latency_s


def test_a_light_network_runs_for_all_and_the_network_for_some() -> None:
    base, light = asked("resnet50"), asked("mobilenetv2_100")
    found = asked("resnet50", "glance:mobilenetv2_100,share=0.3")
    assert found.latency_s == pytest.approx(light.latency_s + 0.3 * base.latency_s)
    assert found.macs == pytest.approx(light.macs + 0.3 * base.macs)
    assert found.weight_bytes == base.weight_bytes + light.weight_bytes
    left = asked("resnet50", "network-exit:0.4,at=0.25,head=0.1")
    assert left.latency_s == pytest.approx((0.4 * 0.25 + 0.6 + 0.1) * base.latency_s)
    with pytest.raises(InputError, match="no_such_net"):
        asked("resnet50", "glance:no_such_net")
    with pytest.raises(InputError, match="in training every item runs whole"):
        asked("resnet50", "glance", train=True)


def test_a_small_network_runs_step_after_step() -> None:
    base, small, found = (asked("mbt2018_mean"), asked("codec_context"), asked("mbt2018_mean", "stepwise:100"))
    assert found.latency_s == pytest.approx(base.latency_s + 100 * small.latency_s)


def test_blocks_are_kernels_whose_insides_are_no_traffic() -> None:
    words: dict[str, Any] = {"batch": 64, "runtime": "compile", "precision": "fp16"}
    base, fused = (asked("convnext_tiny", *t, **words) for t in ((), ("block-fusion:0",)))
    kernels = [x.prices[0].kernels for x in (base, fused)]
    assert len(kernels[1]) < len(kernels[0]) / 2
    assert kernels[1].bytes.sum() < kernels[0].bytes.sum() / 2
    assert kernels[1].flops.sum() == pytest.approx(kernels[0].flops.sum())
    assert kernels[1].weights.sum() == pytest.approx(kernels[0].weights.sum())
    assert fused.latency_s < base.latency_s


def test_tokens_become_fewer_as_their_papers_count() -> None:
    base, merged, pruned = (asked("vit_base_patch16_224", *t) for t in ((), ("tome",), ("dynamicvit",)))
    assert base.macs == pytest.approx(17.56e9, rel=0.01) and merged.macs == pytest.approx(13.1e9, rel=0.01)
    assert 0.6 < pruned.macs / base.macs < 0.7 and merged.parameters == base.parameters
    with pytest.raises(InputError, match="at most 16 merged a layer of 197 tokens"):
        asked("vit_base_patch16_224", "token-reduction:merge,merged=40")
    with pytest.raises(InputError, match="attention over one number of tokens"):
        asked("resnet50", "tome")


def test_pruned_weights_save_what_their_kind_saves() -> None:
    words: dict[str, Any] = {"precision": "fp16", "batch": 64}
    base, slim, zeros = (
        asked("resnet50", *t, **words) for t in ((), ("network-slimming",), ("network-pruning:weights",))
    )
    assert slim.macs == base.macs / 2 and slim.weight_bytes == base.weight_bytes / 2 and slim.latency_s < base.latency_s
    assert zeros.macs == base.macs and zeros.weight_bytes == pytest.approx(base.weight_bytes * 0.5 * 20 / 16)
    older, newer = (
        [asked("resnet50", *t, on=on, **words).latency_s for t in ((), ("two-of-four",))] for on in ("t4", "a100_sxm")
    )
    assert newer[1] < 0.95 * newer[0] and older[1] > 0.98 * older[0]  # tensor cores of Turing know no pattern
    with pytest.raises(InputError, match="a whole number of every 4 weights"):
        asked("resnet50", "network-pruning:pattern,keep=0.3")


def test_energy_of_products_without_multiplications_and_in_arrays() -> None:
    base, shifted, held = (asked("resnet50", *t) for t in ((), ("shift-add",), ("analogue-arrays:0.1,head=false",)))
    products = shifted.arithmetic_j_per_item / base.arithmetic_j_per_item
    assert 0.124 / 4.6 < products < 0.124 / 4.6 + 0.01  # what is no product stays
    rest = base.arithmetic_j_per_item * (products - 0.124 / 4.6) / (1 - 0.124 / 4.6)
    assert held.arithmetic_j_per_item == pytest.approx(base.macs * 0.1e-12 + rest, rel=1e-3)
    assert held.latency_s > 1e-6 * 112 * 112  # every point of the first map is a reading


def test_layers_in_few_bits_run_at_the_rate_of_the_machine() -> None:
    words: dict[str, Any] = {"precision": "int8", "batch": 128, "runtime": "compile"}
    base, half, all_of = (asked("vgg16", *t, on="a100_sxm", **words) for t in ((), ("layer-bits",), ("layer-bits:1",)))
    assert base.latency_s > half.latency_s > all_of.latency_s > base.latency_s / 2
    assert all_of.weight_bytes == base.weight_bytes / 2
    none, few = (asked("vgg16", *t, on="h100_sxm", **words).latency_s for t in ((), ("layer-bits:1",)))
    assert few > 0.98 * none  # Hopper has no products in 4 bits: bytes alone
    with pytest.raises(InputError, match="fewer bits than the 8 of int8"):
        asked("vgg16", "layer-bits:few=8", on="a100_sxm", **words)


def test_a_network_is_cut_where_one_tensor_passes() -> None:
    def split(**more: Any) -> float:
        said = ",".join(f"{k}={v}" for k, v in {"cut": 0.3, "link": "1MB/s", "latency": "0s", **more}.items())
        return asked("resnet50", f"network-split:jetson_nano,{said}").latency_s

    sent = 1024 * 14 * 14 * 4  # what a block of the third stage puts out
    assert split(ratio=0.5, cut=0.6) - split(ratio=0.25, cut=0.6) == pytest.approx(0.25 * sent / 1e6)
    assert split(latency="20ms") - split() == pytest.approx(0.02)
    whole = asked("resnet50").latency_s
    image = 3 * 224 * 224 * 4 / 1e6
    assert split(cut=0) == pytest.approx(image + whole)
    fast = {"link": "1000GB/s"}
    assert (
        whole < split(cut=0.2, **fast) < split(cut=0.6, **fast) < asked("resnet50", on="jetson_nano").latency_s * 1.05
    )
    with pytest.raises(InputError, match="no_such_machine"):
        asked("resnet50", "network-split:no_such_machine")
    with pytest.raises(InputError, match="pipelines and training are not cut"):
        asked("sd-1.5", "network-split")
