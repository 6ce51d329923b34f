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
}
PIPED = "denoiser-pruning few-steps guidance latent-optimisation patch-parallel step-cache stream-batch"
NETS: dict[str, str] = {"frame-cache": "r3d_18", "unfused-attention": "deit_tiny_patch16_224"}
NETS |= dict.fromkeys(PIPED.split(), "sd-1.5")
WORDS: dict[str, dict[str, Any]] = {
    "adversarial-step": {"train": True},
    "low-bit": {"precision": ""},
    "spiking": {"batch": 64},
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
    rows = 20 * 20 * 5 * 5 * 96, 20 * 5 * 24 * 96
    assert [(x.activation_bytes - base.activation_bytes) / 4.4 for x in (col, win)] == pytest.approx(rows)
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
