"""Hybrids, detectors, denoisers and codecs by name: what their papers and authors say of them, and how they grow."""

from __future__ import annotations

import pytest

from steelyard.errors import InputError
from steelyard.workload.nets import kept_net, load_net
from steelyard.workload.networks.builder import Builder
from steelyard.workload.networks.denoise import DenoiserUNet
from steelyard.workload.networks.mixers import AsCan

#: Learned numbers and multiply-accumulates by papers or their repositories, and how near.
COUNTS = {
    "cas_vit_xs": (3.20e6, 560e6, 0.025),
    "cas_vit_s": (5.76e6, 932e6, 0.025),
    "cas_vit_m": (12.42e6, 1887e6, 0.02),
    "cas_vit_t": (21.76e6, 3597e6, 0.02),
    "flatten_swin_tiny": (29e6, 4.5e9, 0.03),
    "efficient_tdnn_base": (5.79e6, 1.45e9, 0.01),
    "efficientnet_l2": (480.3e6, 479e9, 0.01),
}
#: Detectors: parameters, multiply-accumulates (half of the FLOPs that their repositories say), and how near.
DETECTORS = {
    "yolov4": (64.4e6, 128.5e9 / 2, 0.005),
    "yolov6n": (4.7e6, 11.4e9 / 2, 0.015),
    "yolov6s": (18.5e6, 45.3e9 / 2, 0.01),
    "yolov9t": (2.0e6, 7.7e9 / 2, 0.01),
    "yolov9s": (7.1e6, 26.4e9 / 2, 0.005),
    "yolov9m": (20.0e6, 76.3e9 / 2, 0.005),
    "yolov9c": (25.3e6, 102.1e9 / 2, 0.005),
    "yolov10n": (2.3e6, 6.7e9 / 2, 0.01),
    "yolov10s": (7.2e6, 21.6e9 / 2, 0.01),
    "yolov10m": (15.4e6, 59.1e9 / 2, 0.005),
    "yolov10b": (19.1e6, 92.0e9 / 2, 0.005),
    "yolov10l": (24.4e6, 120.3e9 / 2, 0.005),
    "yolov10x": (29.5e6, 160.4e9 / 2, 0.005),
    "efficientdet_d0": (3.9e6, 2.54e9, 0.025),
    "efficientdet_d1": (6.6e6, 6.1e9, 0.02),
    "efficientdet_d4": (20.7e6, 55.2e9, 0.02),
    "efficientdet_d7": (51.9e6, 325e9, 0.03),
    "detr_resnet50": (41e6, 86e9, 0.06),
}
PARAMETERS = {"ldm_imagenet": 400.92e6, "coatnet_7": 2.44e9}


@pytest.mark.parametrize("name", COUNTS | DETECTORS)
def test_counts_are_those_of_the_papers(name: str) -> None:
    parameters, macs, near = (COUNTS | DETECTORS)[name]
    graph = load_net(name)
    assert graph.parameters == pytest.approx(parameters, rel=near)
    assert float(graph.macs()) == pytest.approx(macs, rel=near)
    assert not list(graph.unknown())


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_those_of_the_papers(name: str) -> None:
    assert load_net(name).parameters == pytest.approx(PARAMETERS[name], rel=0.015)


def test_the_generated_denoiser_is_the_traced_one() -> None:
    net, traced = Builder("unet"), kept_net("unet_sd15")
    made = net.graph(DenoiserUNet().build(net, (64, 64)))
    assert made.parameters == traced.parameters
    assert float(made.macs()) == pytest.approx(float(traced.macs()), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "size", "published"), [("nano", 320, 0.66e9), ("small", 640, 4.5e9), ("large", 768, 8.4e9)]
)
def test_leyolo_counts_as_its_authors_do(name: str, size: int, published: float) -> None:
    graph = load_net(f"leyolo_{name}", size=size)
    normed = (float(graph.macs(counted_as="fvcore")) - float(graph.macs())) / 2  # elements that are normalised
    assert 2 * (float(graph.macs()) + 4 * normed) == pytest.approx(published, rel=0.02)


def test_linear_attention_grows_with_the_pixels_and_softmax_with_their_square() -> None:
    def mixing(name: str, size: int) -> float:
        graph = load_net(name, size=size, sets={"window": size // 4})
        return sum(float(graph.elements(n.outputs[0], {"batch": 1})) for n in graph.nodes if n.op == "softmax")

    assert mixing("flatten_swin_tiny", 448) < mixing("swin_tiny_patch4_window7_224", 448) / 20
    folded, plain = (load_net(f"{n}_swin_tiny") for n in ("slab", "flatten"))
    assert not any(n.op == "layer_norm" for n in folded.nodes) and any(n.op == "layer_norm" for n in plain.nodes)


def test_kernels_of_each_image_are_its_own() -> None:
    turned, plain = load_net("arc_resnet50"), load_net("resnet50")
    each = [
        n for n in turned.nodes if n.op == "conv" and turned.tensors[turned.storage(n.inputs[1])].role == "activation"
    ]
    assert len(each) == 13  # the 3x3 of the last three stages
    weights = sum(float(turned.elements(n.inputs[1], {"batch": 8})) for n in each)
    assert weights == 8 * sum(float(turned.elements(n.inputs[1], {"batch": 1})) for n in each)
    assert float(turned.macs()) > float(plain.macs())


def test_a_block_of_frames_takes_hardly_more_than_one() -> None:
    one, five = (float(load_net("mcvd", sets={"frames": n}).macs()) for n in (1, 5))
    assert one < five < 1.02 * one


def test_wrong_stages_are_refused() -> None:
    for stages in (("C", "C"), ("C", "C", "X", "T")):
        with pytest.raises(InputError, match="a text of C and T for each width"):
            AsCan(stages=stages).build(Builder("wrong"), (224, 224))
