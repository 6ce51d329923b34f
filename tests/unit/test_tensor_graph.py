"""Graphs of tensors: sizes, counts, lifetimes, the table of ops, and graphs as files."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from steelyard.errors import InputError
from steelyard.workload.extent import Extent, at, extent, parse, stated
from steelyard.workload.ingest.kept_graph import packed, read_graph
from steelyard.workload.op_table import kind_of, named_by, op_kinds
from steelyard.workload.tensor_counts import operations, touched
from steelyard.workload.tensor_graph import Node, Tensor, TensorGraph

B = extent({("batch",): 1})


def small_net() -> TensorGraph:
    """A convolution, its normalisation, an activation in place, a pool and a classifier."""
    tensors = (
        Tensor((B, 3, 8, 8), role="input"),
        Tensor((16, 3, 3, 3), role="weight"),
        Tensor((B, 16, 4, 4)),
        Tensor((16,), role="buffer"),
        Tensor((B, 16, 4, 4)),
        Tensor((B, 16, 4, 4), of=4),
        Tensor((B, 16)),
        Tensor((10, 16), role="weight"),
        Tensor((B, 10)),
    )
    conv = {"kernel": [3, 3], "stride": [2, 2], "padding": [1, 1], "dilation": [1, 1], "groups": 1}
    nodes = (
        Node("conv", (0, 1), (2,), "stem", conv),
        Node("batch_norm", (2, 3), (4,)),
        Node("relu", (4,), (5,)),
        Node("mean", (5,), (6,)),
        Node("linear", (6, 7), (8,), "head"),
    )
    return TensorGraph("small", nodes, tensors, (8,))


def test_sizes_are_polynomials_of_symbols() -> None:
    size = extent({("batch", "tokens"): 2, ("batch",): 3, (): 1})
    assert at(size, {"batch": np.array([1, 2]), "tokens": 5}).tolist() == [14, 27]
    assert parse(stated(size)) == size and parse(7) == 7 and extent({(): 4, ("batch",): 0}) == 4
    with pytest.raises(InputError, match=r"set\.tokens"):
        at(size, {"batch": 1})
    for bad in ("batch", "1*", "2**batch", None, 1.5, "1+" * 300):
        with pytest.raises(InputError):
            parse(bad)


def test_counts_follow_the_batch_and_lifetimes_end_with_the_last_use() -> None:
    net = small_net()
    assert net.parameters == 16 * 27 + 160 and net.weight_bytes() == 4 * (16 * 27 + 160 + 16)
    assert net.macs() == 16 * 16 * 27 + 160
    assert net.macs({"batch": np.array([1, 4])}).tolist() == [16 * 16 * 27 + 160, 4 * (16 * 16 * 27 + 160)]
    assert net.macs(counted_as="fvcore") == net.macs() + 2 * 256
    assert net.activations() == 256 + 10
    # the input and the output of the convolution, then that and the normalised copy; the activation is in place
    assert float(net.peak_bytes({"batch": 2})) == 4 * 2 * (192 + 256 + 256)
    assert float(net.peak_bytes(bits=16)) == 2 * (192 + 256 + 256)


def test_reads_of_gathers_strided_convolutions_and_views() -> None:
    table = TensorGraph(
        "t",
        (Node("gather", (0, 1), (2,)), Node("view", (2,), (3,))),
        (Tensor((1000, 64), role="weight"), Tensor((B,), "i64", "input"), Tensor((B, 64)), Tensor((B, 8, 8), of=2)),
    )
    assert touched(table, table.nodes[0], {"batch": 4}) == ([256, 4], [256])
    assert touched(table, table.nodes[1], {"batch": 4}) == ([0.0], [0.0])
    one = Node("conv", (0, 1), (2,), "", {"kernel": [1, 1], "stride": [2, 2]})
    net = TensorGraph("s", (one,), (Tensor((B, 4, 8, 8)), Tensor((4, 4, 1, 1), role="weight"), Tensor((B, 4, 4, 4))))
    assert touched(net, one, {"batch": 1})[0][0] == 64
    assert operations(net, one, {"batch": 1}) == 2 * 4 * 4 * 16
    assert operations(small_net(), small_net().nodes[2], {"batch": 1}) == 256


def test_the_table_names_each_op_of_a_framework_once() -> None:
    for framework in ("aten", "onnx"):
        names = [n for kind in op_kinds().values() for n in getattr(kind, framework)]
        assert len(names) == len(set(names)), sorted(n for n in names if names.count(n) > 1)
    assert named_by("aten", "relu_") == "relu" == named_by("onnx", "Relu")
    assert named_by("aten", "made_up") == "unknown:made_up" and kind_of("unknown:made_up").group == "unknown"


def test_a_graph_survives_its_file_and_a_wrong_file_is_refused_in_a_line(tmp_path: Path) -> None:
    net = small_net()
    path = tmp_path / "net.json.gz"
    path.write_bytes(packed(net))
    again = read_graph(path)
    assert (again.nodes, again.tensors, again.outputs, again.symbols) == (net.nodes, net.tensors, (8,), {"batch": 1})
    assert packed(again) == path.read_bytes()
    good = json.loads(gzip.decompress(path.read_bytes()))
    wrong = [
        {**good, "schema": "x"},
        {k: v for k, v in good.items() if k != "nodes"},
        {**good, "tensors": [[[-1], "f32", "weight", -1]]},
        {**good, "tensors": [[[1], "f32", "weight", 0]]},
        {**good, "nodes": [["conv", [99], [0], "", {}]]},
        {**good, "nodes": [["conv", 1]]},
        [],
    ]
    for data in wrong:
        path.write_text(json.dumps(data), "utf-8")
        with pytest.raises(InputError) as caught:
            read_graph(path)
        assert len(caught.value.problems) == 1 and "net.json.gz" in str(caught.value)
    path.write_bytes(packed(net)[:40])
    with pytest.raises(InputError, match=r"net\.json\.gz"):
        read_graph(path)
    assert isinstance(net.tensors[0].shape[0], Extent)
