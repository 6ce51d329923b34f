"""Families of networks against the modules of timm and torchvision, traced: the same totals, node for node.

Needs torch, timm and torchvision; nothing is downloaded, no weights are made.
"""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from steelyard.workload.nets import find_net, load_net
from steelyard.workload.tensor_counts import touched
from steelyard.workload.tensor_graph import WIDTHS, TensorGraph

pytestmark = pytest.mark.skipif(
    not all(find_spec(m) for m in ("torch", "timm", "torchvision")), reason="needs torch, timm and torchvision"
)

TIMM = (
    *("resnet18", "resnet50", "resnet50d", "resnext50_32x4d", "wide_resnet50_2", "seresnet50", "vgg16", "vgg11_bn"),
    *("densenet121", "densenet161", "inception_v3", "mobilenetv1_100", "mobilenetv2_100", "mobilenetv2_140"),
    *("mobilenetv3_large_100", "mobilenetv3_small_100", "mobilenetv4_conv_small", "mnasnet_100", "semnasnet_100"),
    *("fbnetc_100", "spnasnet_100", "efficientnet_b0", "efficientnet_b4", "efficientnetv2_s", "regnetx_032"),
    *("regnety_016", "convnext_tiny", "repvgg_a0", "vit_tiny_patch16_224", "deit_base_distilled_patch16_224"),
    *("swin_tiny_patch4_window7_224", "pvt_v2_b0", "levit_192", "mobilevit_s"),
)
TORCHVISION = ("alexnet", "squeezenet1_0", "squeezenet1_1", "shufflenet_v2_x1_0", "googlenet", "resnet50")


def bytes_touched(graph: TensorGraph) -> float:
    """Of a pass of two items."""
    total = 0.0
    for node in graph.nodes:
        read, written = touched(graph, node, {"batch": 2})
        for tensor, elements in zip((*node.inputs, *node.outputs), (*read, *written), strict=True):
            total += float(elements) * WIDTHS[graph.tensors[tensor].dtype] / 8
    return total


@pytest.mark.parametrize("name", [f"timm:{n}" for n in TIMM] + [f"torchvision:{n}" for n in TORCHVISION])
def test_a_family_builds_what_the_library_runs(name: str) -> None:
    plain = name.partition(":")[2]
    ours, theirs = load_net(plain), load_net(name, size=find_net(plain).size)
    assert float(ours.macs()) == float(theirs.macs())
    assert ours.parameters == theirs.parameters
    assert float(ours.activations()) == float(theirs.activations())
    assert bytes_touched(ours) == pytest.approx(bytes_touched(theirs), rel=1e-3)
    assert float(ours.peak_bytes({"batch": 2})) == pytest.approx(float(theirs.peak_bytes({"batch": 2})), rel=1e-3)
