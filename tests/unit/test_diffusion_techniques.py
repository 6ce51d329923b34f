"""Techniques of diffusion pipelines: their formulas, what they refuse, and that their order does not matter."""

from __future__ import annotations

from typing import Any

import pytest

from steelyard.errors import InputError
from steelyard.estimation.estimate import estimate
from steelyard.estimation.network import NetEstimate
from steelyard.report.network import to_dict


def asked(*techniques: str, model: str = "sd-1.5", on: str = "a100_sxm", **words: Any) -> NetEstimate:
    """An estimate of a pipeline."""
    return estimate(model, on, techniques=techniques, **words)


def steps_of(found: NetEstimate, name: str = "denoise") -> float:
    """Time in the denoiser."""
    return sum(p.time_s for p in found.phases if p.name == name)


def test_steps_count_by_the_work_they_run() -> None:
    base = asked(steps=20)
    for text, share in (("step-cache:4", 1 / 4), ("step-cache:4,kept=0.2", 0.4), ("denoiser-pruning:0.6", 0.6)):
        found = asked(text, steps=20)
        assert steps_of(found) == pytest.approx(share * steps_of(base)), text
        assert found.parameters == base.parameters and found.weight_bytes == base.weight_bytes


def test_guidance_is_a_second_item_of_a_share_of_the_steps() -> None:
    base, half, none = (asked(*t, steps=20, batch=8) for t in ((), ("guidance",), ("guidance:0",)))
    few = asked("few-steps:20", batch=8)
    rest = base.macs - 2 * (base.macs - none.macs)  # what is no denoiser's
    assert half.macs - rest == pytest.approx(0.75 * (base.macs - rest))
    assert base.latency_s > half.latency_s > none.latency_s
    assert few.latency_s == pytest.approx(none.latency_s) and half.weight_bytes == base.weight_bytes
    with pytest.raises(InputError, match="without a second pass for guidance"):
        asked("guidance", model="flux.1-dev")
    with pytest.raises(InputError, match="few-steps"):
        asked("few-steps:4", steps=20)


def test_steps_of_a_stream_are_one_batch() -> None:
    one, stream, full = (asked(*t, steps=4) for t in (("guidance:0",), ("stream-batch:none",), ("stream-batch",)))
    assert steps_of(one) / 4 < steps_of(stream) < steps_of(one)
    assert steps_of(full) > steps_of(stream) and stream.phases[0].time_s == 0
    assert steps_of(asked("stream-batch:none,skip=0.5", steps=4)) == pytest.approx(steps_of(stream) / 2)
    with pytest.raises(InputError, match="steps of a stream run together"):
        asked("stream-batch", "step-cache")


def test_gradients_run_through_the_denoiser_and_back() -> None:
    plain, many = asked("guidance:0", steps=10), asked("latent-optimisation:5,inner=2,backward=2", steps=10)
    assert steps_of(many, "optimise") == pytest.approx(5 * 2 * 3 * steps_of(plain) / 10)


def test_patches_split_the_work_and_exchange_keys() -> None:
    one = asked(model="pixart-sigma", size="2048x2048", steps=10)
    texts = ("patch-parallel:warmup=0", "patch-parallel:synchronous", "patch-parallel:0.3,synchronous")
    hidden, waiting, fewer = (
        asked(t, model="pixart-sigma", on="a100_sxm:8", size="2048x2048", steps=10) for t in texts
    )
    assert one.latency_s / 8 < hidden.latency_s < waiting.latency_s < one.latency_s / 2
    exchanges = [sum(p.exchange_s for p in f.phases) for f in (one, waiting, fewer)]
    assert exchanges[0] == 0 < exchanges[2] < 0.5 * exchanges[1]
    assert steps_of(waiting) - steps_of(hidden) <= exchanges[1] * (1 + 1e-9)
    # keys of all patches: four times eight halves of the products of one device, all work of attention included
    whole, patch = (sum(float(k.flops.sum()) for k in (p.prices[1].kernels,)) for p in (one, hidden))
    assert 8 * patch == pytest.approx(whole, rel=0.02)
    assert waiting.throughput_per_s == pytest.approx(1 / waiting.latency_s)
    assert to_dict(waiting)["phases"][1]["exchange_s"] > 0
    assert any("8 on one pass" in line for line in waiting.ledger.assumptions)
    with pytest.raises(InputError, match="expected several devices"):
        asked("patch-parallel")
    with pytest.raises(InputError, match="at most 8 devices"):
        asked("patch-parallel", on="a100_sxm:16", size="512x512")


def test_frames_of_earlier_clips_are_not_computed() -> None:
    for model, words in (("cogvideox-2b", {"set": "frames=25", "steps": 10}), ("r3d_18", {})):
        whole, kept = (asked(*t, model=model, **words) for t in ((), ("frame-cache:0.75",)))
        times = [sum(p.time_s for p in f.phases if p.name in ("denoise", "forward")) for f in (whole, kept)]
        assert times[1] == pytest.approx(times[0] / 4)
    with pytest.raises(InputError, match="takes no clips of frames"):
        asked("frame-cache")


def test_attention_taken_apart_moves_its_scores() -> None:
    fused, apart = (asked(*t, model="vit_base_patch16_224", batch=8) for t in ((), ("unfused-attention",)))
    assert apart.macs == fused.macs and apart.latency_s > fused.latency_s
    more = apart.prices[0].kernels.bytes.sum() - fused.prices[0].kernels.bytes.sum()
    assert more >= 12 * 4 * 8 * 12 * 197 * 197 * 2
    with pytest.raises(InputError, match="no fused attention"):
        asked("unfused-attention", model="resnet50")


def test_the_order_of_techniques_does_not_matter() -> None:
    for texts in (
        ("guidance", "step-cache:2"),
        ("latent-optimisation:3", "guidance:0"),
        ("guidance", "patch-parallel"),
    ):
        one, other = (asked(*t, on="a100_sxm:4", steps=10) for t in (texts, texts[::-1]))
        assert one.latency_s == other.latency_s
    few, cut = asked("few-steps:4"), asked("few-steps:4", "deepcache:interval=2,kept=0")
    assert steps_of(cut) == pytest.approx(steps_of(few) / 2)


def test_they_are_of_diffusion_pipelines() -> None:
    for text in ("few-steps", "guidance", "step-cache", "stream-batch", "latent-optimisation", "denoiser-pruning"):
        with pytest.raises(InputError, match="expected a diffusion pipeline"):
            asked(text, model="deit_tiny_patch16_224")


def test_few_bits_shrink_weights_and_quicken_products() -> None:
    base, eight, four, some, alone = (
        asked(*t, model="hunyuan-dit", steps=10, **w)
        for t, w in (
            ((), {"precision": "fp16"}),
            (("low-bit",), {}),
            (("low-bit:4",), {}),
            (("low-bit:4,kept=0.25",), {}),
            (("low-bit:4,a=16",), {}),
        )
    )
    saved = base.weight_bytes - eight.weight_bytes  # of the denoiser; text encoders keep their width
    assert saved > 1.3e9 and eight.weight_bytes - four.weight_bytes > 0.4 * saved
    assert four.weight_bytes < some.weight_bytes < eight.weight_bytes
    assert base.latency_s / 2 < eight.latency_s < base.latency_s
    assert eight.latency_s < alone.latency_s <= base.latency_s * 1.01
    with pytest.raises(InputError, match="precision"):
        asked("low-bit", precision="fp16")
