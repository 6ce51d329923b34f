"""Layers run depth first on an array: lines that are held, what moves outside, and a published accelerator."""

from __future__ import annotations

import pytest

import steelyard as sy
from steelyard.cost.array_fused import lines_of, stacks_of
from steelyard.errors import InputError
from steelyard.report.network import report
from steelyard.workload.nets import load_net
from steelyard.workload.tensor_graph import TensorGraph


def starts(graph: TensorGraph) -> set[int]:
    return {k for k, n in enumerate(graph.nodes) if n.op == "conv" or n.kind.group == "pool"}


def test_five_layers_of_vgg_hold_and_move_what_their_accelerator_does() -> None:
    """M. Alwani et al., MICRO 2016, abstract: 362 KB on chip, 3.6 MB of maps an image in place of 77; 32 bits."""
    graph = load_net("vgg19")
    lag = lines_of(graph, 0, 12, graph.nodes[11].outputs[0], graph.symbols)
    assert lag.bytes(56, 56, 4.0)[0] == pytest.approx(362e3, rel=0.01)  # pixel by pixel of the fifth layer's output
    sizes = {**graph.symbols, "batch": 1.0}
    first = stacks_of(graph, sizes, starts(graph), 3e6, 4.0, 4.0, True)[0]
    assert (first.first, first.last, first.resident) == (0, 12, True)
    assert (first.read_bytes + first.written_bytes) / 2**20 == pytest.approx(3.6, abs=0.05)


def test_a_map_that_is_added_later_waits_as_long_as_its_branch_lags() -> None:
    graph = load_net("resnet18")
    sizes = {**graph.symbols, "batch": 1.0}
    stack = next(s for s in stacks_of(graph, sizes, starts(graph), 6e5, 1.0, 1.0, True) if s.resident and s.rows > 1)
    left = graph.nodes[stack.last - 1].outputs[0]
    lag = lines_of(graph, stack.first, stack.last, left, sizes)
    assert set(lag.rows) <= {0.0, 1.0, 2.0, 5.0}  # of windows of one, two, three and seven rows
    assert stack.lines_bytes == lag.bytes(stack.rows, stack.columns, 1.0)[0]


def test_depth_first_moves_less_and_is_told() -> None:
    words = {"on": "dpu_b4096", "batch": 1}
    apart = sy.estimate("mobilenetv2_100", **words, techniques=["chip-array:buffer=3e5"])  # type: ignore[arg-type]
    deep = sy.estimate("mobilenetv2_100", **words, techniques=["depth-first:3e5"])  # type: ignore[arg-type]
    assert deep.energy_j_per_item < 0.5 * apart.energy_j_per_item
    assert deep.latency_s < 0.5 * apart.latency_s
    assert "depth first  products 1 to " in report(deep)
    none = sy.estimate("bert_tiny", on="tpu_v1", batch=1, techniques=["depth-first"])
    assert "depth first  no layers: one by one is as good" in report(none)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="depth-first: h100_sxm has no array with a memory of inputs and outputs"):
        sy.estimate("vgg16", on="h100_sxm", techniques=["depth-first"])
