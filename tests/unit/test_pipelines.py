"""Diffusion pipelines: phases, steps, sizes, frames, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

import steelyard as sy
from steelyard.errors import InputError
from steelyard.estimation.network import NetEstimate
from steelyard.workload.pipelines import by_width, find_pipeline, over_devices, phases_of, pipelines


def asked(name: str, **words: Any) -> NetEstimate:
    found = sy.estimate(name, "h100_sxm", **words)
    assert isinstance(found, NetEstimate)
    return found


def test_steps_repeat_the_denoiser_alone() -> None:
    ten, fifty = (asked("flux.1-dev", steps=n, size="1024x1024") for n in (10, 50))
    time = [{p.name: p.time_s for p in e.phases} for e in (ten, fifty)]
    assert time[1]["denoise"] == pytest.approx(5 * time[0]["denoise"])
    assert time[1]["decode"] == time[0]["decode"]
    assert fifty.latency_s == pytest.approx(sum(p.time_s for p in fifty.phases))
    assert fifty.weight_bytes == ten.weight_bytes and fifty.macs > 4 * ten.macs


def test_sizes_count_tokens_and_pixels() -> None:
    small, large = (asked("sdxl", steps=20, size=s) for s in ("512x512", "1024x1024"))
    assert large.macs > 4 * small.macs  # attention grows faster than the pixels
    flux = phases_of("flux.1-dev", size="1024x512")[2]
    assert flux.sizes == {"rows": 64, "columns": 32}
    assert flux.graph.macs({**flux.sizes, "batch": 1}) < flux.graph.macs({"rows": 64, "columns": 64, "batch": 1})
    text, video, decode = phases_of("wan-2.1-t2v-1.3b", sets={"frames": 41})
    assert video.sizes["frames"] == 11 and video.items == text.items == 2
    assert decode.repeats == 41 / 4 and decode.sizes == {"rows": 60, "columns": 104}  # piece by piece


def test_every_pipeline_of_the_catalogue_is_priced_with_no_unknown_op() -> None:
    for name, one in pipelines().items():
        found = asked(f"net:{name}", steps=1 if any(phase.each == "step" for phase in one.phase) else None)
        assert found.latency_s > 0 and not found.unknown_ops, name
    assert find_pipeline("black-forest-labs/FLUX.1-dev").name == "flux.1-dev"
    # published: 11.9 billion in the denoiser of FLUX.1, 2.6 in SDXL's, 8.1 in that of SD 3.5 large
    for name, billions in (("flux.1-dev", 11.9), ("sdxl", 2.57), ("sd-3.5-large", 8.06)):
        denoise = next(p for p in phases_of(name) if p.name == "denoise")
        assert denoise.graph.parameters / 1e9 == pytest.approx(billions, rel=0.01)


def test_devices_that_share_an_item_are_faster_and_dearer() -> None:
    alone = asked("sd-3.5-large", steps=10)
    together = sy.estimate("sd-3.5-large", "h100_sxm:4", steps=10, cp=4)
    assert isinstance(together, NetEstimate)
    one, four = ({p.name: p.time_s for p in e.phases} for e in (alone, together))
    assert one["denoise"] / 4 < four["denoise"] < one["denoise"] and four["decode"] == one["decode"]
    assert together.energy_j_per_item > alone.energy_j_per_item
    assert together.throughput_per_s == pytest.approx(1 / together.latency_s)
    apart = sy.estimate("sd-3.5-large", "h100_sxm:4", steps=10, cp=2)
    assert apart.throughput_per_s == pytest.approx(2 / apart.latency_s)


def test_a_device_of_several_has_its_rows_and_all_of_the_text() -> None:
    whole = next(p for p in phases_of("sd-3.5-large") if p.stepped)
    part = over_devices(whole, 4)
    of_whole, of_part = (float(p.graph.macs({**p.sizes, "batch": 1})) for p in (whole, part))
    assert of_whole / 4 < of_part < of_whole / 4 * 1.3  # 333 tokens of text beside 1,024 of the picture
    assert part.shared is not None and part.shared.attentions == 38
    assert part.shared.elements == 38 * 64 * 1024  # heads, width of one, tokens
    sana = over_devices(next(p for p in phases_of("sana-1.6b") if p.stepped), 2)
    assert sana.shared is not None and sana.shared.attentions == 20 and sana.shared.borders == 20


def test_a_ring_takes_longer_than_heads_that_are_exchanged() -> None:
    heads, ring = (sy.estimate("pixart-sigma", "h100_sxm:8", cp=8, ring=n, batch=16, steps=4) for n in (1, 8))
    assert isinstance(heads, NetEstimate) and isinstance(ring, NetEstimate)
    assert ring.latency_s > heads.latency_s
    assert ring.weight_bytes == heads.weight_bytes


@pytest.mark.parametrize(
    ("name", "words", "field"),
    [
        ("sdxl", {"cp": 3}, "cp"),
        ("sdxl", {"ring": 2}, "ring"),
        ("sdxl", {"tp": 3}, "tp"),
        ("resnet50", {"tp": 2}, "tp"),
        ("resnet50", {"cp": 1000}, "cp"),
        ("sdxl", {"size": "8x8"}, "size"),
        ("sdxl", {"set": "frames=9"}, "set"),
        ("wan-2.1-t2v-14b", {"set": "frames=many"}, "set"),
        ("sdxl", {"set": "tokens=9"}, "set"),
        ("sdxl", {"train": True}, "train"),
        ("resnet50", {"steps": 4}, "steps"),
        ("sdxl", {"steps": 0}, "steps"),
    ],
)
def test_wrong_words_are_refused_by_their_field(name: str, words: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        sy.estimate(name, "h100_sxm", **words)
    assert any(p.field.partition(".")[0] == field for p in caught.value.problems), caught.value.problems


def test_layers_cut_by_width_halve_products_and_add_up_what_pairs_put_out() -> None:
    whole = next(p for p in phases_of("flux.1-dev") if p.stepped)
    half = by_width(whole, 2)
    of_whole, of_half = (float(p.graph.macs({**p.sizes, "batch": 1})) for p in (whole, half))
    assert of_half == pytest.approx(of_whole / 2, rel=0.001)
    assert half.graph.parameters == whole.graph.parameters
    assert half.exchanges == 19 * 4 + 38  # two attentions and two feed-forwards of two streams, one of one
    one = asked("flux.1-dev", steps=10)
    two = sy.estimate("flux.1-dev", "h100_sxm:2", steps=10, tp=2)
    assert isinstance(two, NetEstimate)
    assert one.latency_s / 2 < two.latency_s < one.latency_s
    assert two.weight_bytes < one.weight_bytes and two.macs == pytest.approx(one.macs, rel=0.001)
    wan = by_width(next(p for p in phases_of("wan-2.1-t2v-1.3b") if p.stepped), 2)
    assert wan.exchanges == 3 * 30 + 1  # heads are normalised together: queries and keys stay whole
    axes = [len(half.graph.tensors[n.inputs[0]].shape) for n in half.graph.nodes if n.op == "attention"]
    assert set(axes) == {4}  # kernels of attention take no more
