"""ONNX files: counts by hand, open sizes, loops and branches, integers, and files that are refused in a line."""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import steelyard
from steelyard.errors import InputError, SteelyardError
from steelyard.workload.extent import Extent
from steelyard.workload.tensor_graph import TensorGraph

onnx = pytest.importorskip("onnx", reason="needs the onnx extra")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from steelyard.workload.ingest import onnx as door  # noqa: E402
from steelyard.workload.ingest.onnx_model import graph_of_model  # noqa: E402
from steelyard.workload.ingest.onnx_slim import slim  # noqa: E402
from tests.onnx_nets import (  # noqa: E402
    F,
    attention,
    branches,
    functions,
    loop,
    model,
    node,
    number,
    of_runtime,
    ours,
    quantised,
    quantisers,
    small_net,
    value,
    weight,
)


def read(made: Any, sets: Mapping[str, int] | None = None) -> TensorGraph:
    """The graph of a model, in this process."""
    data = made if isinstance(made, bytes) else made.SerializeToString()
    return graph_of_model(slim(io.BytesIO(data), len(data)), "m", sets or {})


def refused(made: Any, sets: Mapping[str, int] | None = None) -> str:
    with pytest.raises(InputError) as caught:
        read(made, sets)
    return str(caught.value)


def ops(graph: TensorGraph) -> list[str]:
    return [n.op for n in graph.nodes]


def test_a_convolutional_net_has_its_counts_and_its_batch_stays_open(tmp_path: Path) -> None:
    path = tmp_path / "small.onnx"
    onnx.save(small_net(), path)
    graph = door.read_onnx(path)
    assert ops(graph) == ["conv", "relu", "conv", "add", "mean", "view", "linear"] and graph.name == "small"
    assert graph.macs() == 16 * 16 * 27 + 16 * 16 * 9 + 160
    assert graph.macs({"batch": 8}) == 8 * graph.macs()
    assert graph.parameters == 16 * 27 + 16 + 16 * 9 + 160 + 10
    # the convolution, its activation and the second convolution of it, which is added to it, are alive together
    assert float(graph.peak_bytes({"batch": 2})) == 4 * 2 * (192 + 3 * 256)
    wide = {"kernel": [3, 3], "stride": [1, 1], "padding": [2, 2], "dilation": [2, 2], "groups": 16}
    assert graph.nodes[2].facts == wide and graph.nodes[0].facts["stride"] == [2, 2]
    assert graph.symbols == {"batch": 1} and isinstance(graph.tensors[0].shape[0], Extent)
    assert graph.source.startswith("ONNX of opset 18")


def test_an_attention_written_out_and_its_shape_arithmetic() -> None:
    """Sizes reckoned in the graph are no work; products with weights are linear, those of activations are not."""
    graph = read(attention())
    assert ops(graph) == ["linear", "view", "copy", "copy", "matmul", "softmax", "matmul", "view", "linear"]
    assert graph.macs({"batch": 3}) == 3 * (2 * 6 * 32 * 32 + 2 * 4 * 6 * 6 * 8)
    assert graph.parameters == 2 * 32 * 32 and not list(graph.unknown())


def test_products_recurrences_and_einsums_know_their_depth() -> None:
    x, w = value("x", 8, 5), weight("w", 8, 16)
    assert read(model([node("Gemm", ["x", "w"], ["y"], transA=1)], [x], "y", [w])).macs() == 5 * 8 * 16
    equal = node("Einsum", ["x", "z"], ["y"], equation="bhqd,bhkd->bhqk")
    pair = [value("x", "b", 2, 6, 8), value("z", "b", 2, 7, 8)]
    assert read(model([equal], pair, "y")).macs({"batch": 4}) == 4 * 2 * 6 * 7 * 8
    lstm = node("LSTM", ["x", "w", "r"], ["y"], hidden_size=16, direction="bidirectional")
    graph = read(
        model([lstm], [value("x", 7, "batch", 12)], "y", [weight("w", 2, 64, 12), weight("r", 2, 64, 16)]), {"batch": 3}
    )
    assert graph.nodes[0].facts == {"layers": 1, "hidden": 16, "gates": 4, "directions": 2}
    assert graph.macs() == 7 * 3 * 2 * 4 * 16 * (12 + 16)
    up = node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2])
    graph = read(model([up], [value("x", "n", 4, 5, 5)], "y", [weight("w", 4, 6, 2, 2)]))
    assert graph.macs() == 25 * 4 * 6 * 4 and graph.nodes[0].facts["transposed"]


def test_open_sizes_are_named_with_their_flag_and_expressions_are_evaluated() -> None:
    same = [node("Relu", ["x"], ["y"])]
    message = refused(model(same, [value("x", "N", 3, "height", "w x"), value("z", None, None)], "y"))
    for words in ("height (the third of 'x')", "--set 'height=64,w x=64,z_1=64'", "z_1 (the second of 'z')"):
        assert words in message
    graph = read(model(same, [value("x", "2*n_batch", "floor(h/2) + 1", "h % 5")], "y"), {"h": 9, "n_batch": 4})
    assert [str(d) for d in graph.tensors[0].shape] == ["2*batch", "5", "4"] and graph.symbols == {"batch": 4}
    assert "did you mean 'batch'" in refused(model(same, [value("x", "N", 3)], "y"), {"bach": 2})
    assert "every size of this file is fixed" in refused(model(same, [value("x", 2, 3)], "y"), {"batch": 2})
    assert "whole number" in refused(model(same, [value("x", "N", 3)], "y"), {"N": 0})
    # frames first are no batch; a square of it is kept; what is no polynomial needs a number
    assert "frames" in refused(model(same, [value("x", "frames", 80)], "y"))
    alike = [node("Transpose", ["x"], ["t"], perm=[1, 0]), node("MatMul", ["x", "t"], ["y"])]
    assert read(model(alike, [value("x", "batch", 8)], "y")).macs({"batch": 10}) == 10 * 10 * 8
    halved = node("AveragePool", ["t"], ["y"], kernel_shape=[2], strides=[2])
    odd = model([node("Transpose", ["x"], ["t"], perm=[1, 2, 0]), halved], [value("x", "batch", 3, 4)], "y")
    assert "--set batch=1" in refused(odd)
    assert read(odd, {"batch": 7}).tensors[-1].shape == (3, 4, 3)


def test_a_file_exported_at_one_batch_answers_for_others_where_its_results_grow_with_it(tmp_path: Path) -> None:
    def net(target: Sequence[int], back: Sequence[int]) -> Any:
        """Windows cut out of an image, a class token and a flattened end, the batch of 1 written into every shape."""
        nodes = [
            node("Reshape", ["x", "windows"], ["w1"]),
            node("MatMul", ["w1", "w"], ["w2"]),
            node("Reshape", ["w2", "rows"], ["w3"]),
            node("Concat", ["token", "w3"], ["t"], axis=1),
            node("Reshape", ["t", "flat"], ["f"]),
            node("Gemm", ["f", "head"], ["y"]),
        ]
        numbers = [number("windows", *target), number("rows", *back), number("flat", 1, -1)]
        weights = [weight("w", 8, 8), weight("token", 1, 1, 8), weight("head", 17 * 8, 10)]
        return model(nodes, [value("x", 1, 4, 4, 8)], "y", [*numbers, *weights])

    graph = read(net([4, 4, 8], [1, 16, 8]))
    assert graph.symbols == {"batch": 1} and "exported at batch 1" in graph.source
    assert graph.macs() == 16 * 64 + 17 * 80 and graph.macs({"batch": 6}) == 6 * graph.macs()
    assert read(net([4, 4, 8], [1, 16, 8]), {"batch": 4}).symbols == {"batch": 4}
    # an image without a batch: channels of another number do not fit its convolution
    nodes = [node("Unsqueeze", ["x", "front"], ["u"]), node("Conv", ["u", "w"], ["y"])]
    alone = model(nodes, [value("x", 3, 8, 8)], "y", [number("front", 0), weight("w", 4, 3, 3, 3)])
    assert read(alone).symbols == {} and read(alone, {"batch": 3}).macs() == 36 * 4 * 27
    assert "its batch is fixed at 3" in refused(alone, {"batch": 2})
    path = tmp_path / "alone.onnx"
    onnx.save(alone, path)
    with pytest.raises(InputError, match=r"^batch: the graph has one batch only"):
        steelyard.estimate(str(path), on="rtx_4090", batch=8)


def test_loops_are_unrolled_and_of_an_open_branch_the_dearer_is_taken() -> None:
    graph = read(loop(5))
    assert ops(graph) == ["linear"] * 5 and graph.macs() == 5 * 64 and graph.parameters == 64
    graph = read(loop(None))
    assert ops(graph) == ["linear"] and "of unknown length, counted once" in graph.source
    assert "unroll to more than 200,000 nodes" in refused(loop(10**6))
    graph = read(branches(inputs=[value("go", kind=TensorProto.BOOL)]))
    assert ops(graph) == ["linear"] and "the dearer branch" in graph.source
    told = read(branches([numpy_helper.from_array(np.array(True), "go")]))
    assert ops(told) == ["relu"] and told.parameters == 0


def test_ops_that_exporters_take_apart_are_one_again() -> None:
    one = [numpy_helper.from_array(np.float32(v), n) for n, v in (("root", 1.4), ("one", 1), ("half", 0.5), ("two", 2))]
    gelu = [
        node("Div", ["x", "root"], ["a"]),
        node("Erf", ["a"], ["e"]),
        node("Add", ["e", "one"], ["p"]),
        node("Mul", ["x", "p"], ["m"]),
        node("Mul", ["m", "half"], ["g"]),
    ]
    gate = [node("Sigmoid", ["g"], ["s"]), node("Mul", ["g", "s"], ["h"])]
    norm = [
        node("ReduceMean", ["h"], ["mean"], axes=[-1]),
        node("Sub", ["h", "mean"], ["c"]),
        node("Pow", ["c", "two"], ["sq"]),
        node("ReduceMean", ["sq"], ["var"], axes=[-1]),
        node("Add", ["var", "one"], ["ve"]),
        node("Sqrt", ["ve"], ["sd"]),
        node("Div", ["c", "sd"], ["n"]),
        node("Mul", ["n", "gamma"], ["ng"]),
        node("Add", ["ng", "beta"], ["y"]),
    ]
    weights = [*one, weight("gamma", 8), weight("beta", 8)]
    made = model([*gelu, *gate, *norm], [value("x", "N", 6, 8)], "y", weights)
    made.opset_import[0].version = 17
    graph = read(made)
    assert ops(graph) == ["gelu", "silu", "layer_norm"] and graph.parameters == 16
    assert float(graph.peak_bytes({"batch": 2})) == 4 * 2 * 3 * 48  # the input, and one op's two sides
    made.graph.output.append(helper.make_tensor_value_info("p", F, None))  # what somebody else reads stays
    assert ops(read(made)) == ["mul", "gelu", "add", "mul", "mul", "silu", "layer_norm"]


def test_what_is_quantised_runs_in_integers_and_weights_have_their_widths(tmp_path: Path) -> None:
    graph = read(quantised())
    assert ops(graph) == ["quantise", "conv", "relu", "quantise"] and graph.macs() == 36 * 32
    conv, relu = graph.nodes[1:3]
    assert [graph.tensors[i].dtype for i in (*conv.inputs, *relu.inputs, *relu.outputs)] == ["i8"] * 4
    assert graph.parameters == 32 and graph.weight_bytes() == 32 == graph.weight_bytes(bits=16)
    onnx.save(quantised(), tmp_path / "q.onnx")
    assert steelyard.estimate(str(tmp_path / "q.onnx"), on="rk3588").to_dict()["precision"] == "int8"
    few = node("MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft", K=64, N=32, bits=4, block_size=32)
    packed = [weight("w", 32, 2, 16, kind=np.uint8), weight("s", 64)]
    graph = read(model([few], [value("x", "N", 6, 64)], "y", packed))
    assert graph.macs() == 6 * 64 * 32 and graph.weight_bytes() == 32 * 64 / 2 + 4 * 64
    whole = node("QLinearConv", ["x", "sx", "zx", "w", "sw", "zw", "sy", "zy"], ["y"])
    weights = [weight("w", 8, 4, 1, 1, kind=np.int8), *quantisers()]
    graph = read(model([whole], [value("x", "N", 4, 6, 6, kind=3)], "y", weights))
    assert graph.macs() == 36 * 32 and float(graph.peak_bytes()) == 36 * 4 + 36 * 8


def test_a_file_is_priced_in_its_own_element_types_and_says_which(tmp_path: Path) -> None:
    def asked(name: str, on: str, **words: str) -> tuple[str, bool]:
        answer = steelyard.estimate(str(tmp_path / name), on=on, **words)
        said = any("element types that the network has itself" in text for text in answer.ledger.assumptions)
        return answer.to_dict()["precision"], said

    onnx.save(small_net(), tmp_path / "wide.onnx")
    half = node("Conv", ["x", "w"], ["y"])
    given = [value("x", "N", 4, 6, 6, kind=onnx.TensorProto.FLOAT16)]
    onnx.save(model([half], given, "y", [weight("w", 8, 4, 1, 1, kind=np.float16)]), tmp_path / "half.onnx")
    for machine in ("rtx_4090", "xeon_8592"):
        assert asked("wide.onnx", machine) == ("fp32", True)
        assert asked("half.onnx", machine) == ("fp16", True)
    assert asked("wide.onnx", "rtx_4090", precision="fp16") == ("fp16", False)
    assert asked("wide.onnx", "rtx_4090", runtime="tensorrt") == ("fp16", False)
    assert asked("wide.onnx", "snapdragon_8_elite") == ("fp16", False)  # its compiler makes 16 bits of them
    wide, narrow = (steelyard.estimate(str(tmp_path / n), on="jetson_nano") for n in ("wide.onnx", "half.onnx"))
    assert wide.weight_bytes == 4 * (16 * 27 + 16 + 16 * 9 + 160 + 10) and narrow.weight_bytes == 2 * 32


def test_ops_of_onnx_runtime_have_their_work() -> None:
    graph = read(of_runtime())
    assert graph.macs() == 6 * 32 * 96 + 2 * 6 * 6 * 32 + 6 * 32 * 64
    assert [n.op for n in graph.unknown()] == ["unknown:f.Made"] and "layer_norm" in ops(graph)
    query = ours("MultiHeadAttention", ["q", "k", "v", "", "", "", "pk", "pv"], ["y", "nk", "nv"], num_heads=4)
    past = [value("pk", "batch", 4, 10, 8), value("pv", "batch", 4, 10, 8)]
    given = [value(n, "batch", 1, 32) for n in "qkv"]
    assert read(model([query], [*given, *past], "y")).macs() == 2 * 11 * 32
    grouped = ours(
        "GroupQueryAttention", ["q", "k", "v", "pk", "pv", "n", "t"], ["y", "nk", "nv"], num_heads=8, kv_num_heads=2
    )
    past = [value("pk", "batch", 2, 10, 8), value("pv", "batch", 2, 10, 8)]
    given = [value("q", "batch", 1, 64), value("k", "batch", 1, 16), value("v", "batch", 1, 16)]
    counts = [value("n", "batch", kind=TensorProto.INT32), value("t", kind=TensorProto.INT32)]
    assert read(model([grouped], [*given, *past, *counts], "y")).macs() == 8 * 11 * (8 + 8)


def test_files_that_break_the_rules_are_refused_in_one_line(tmp_path: Path) -> None:
    x, relu = value("x", "N", 4), node("Relu", ["x"], ["y"])
    good = model([node("MatMul", ["x", "w"], ["y"])], [x], "y", [weight("w", 4, 8)])
    bytes_ = good.SerializeToString()
    million = bytes_ + b"\x3a\x80\x80\xf0\x02" + (b"\x0a\x04\x22\x02re") * 1_004_886
    for wrong, words in (
        (b"", "no graph"),
        (b"hello world" * 50, "no known kind"),
        (bytes_[:-20], "it ends within"),
        (model([relu, node("Abs", ["x"], ["y"])], [x], "y"), "static single assignment|single static"),
        (model([node("Relu", ["b"], ["a"]), node("Relu", ["a"], ["b"])], [x], "b"), "topologically sorted"),
        (model([relu], [value("x", -3, 4)], "y"), "an extent of -3"),
        (model([relu], [value("x", 2**62, 4)], "y"), "0 to 2\\^40"),
        (
            model([node("MatMul", ["x", "w"], ["y"])], [x], "y", [weight("w", 5, 8)]),
            "MatMul 'y': its inputs do not fit",
        ),
        (model([node("Split", ["x"], ["y", "z"], num_outputs=1)], [x], "y"), "another number of parts"),
        (functions(25), "unfold to more than 200,000"),
        (million, "more than 200,000 nodes"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            read(wrong)
        assert len(str(caught.value)) < 600
    path = tmp_path / "wrong.onnx"
    path.write_bytes(bytes_[:-20])
    with pytest.raises(InputError, match=r"^model: wrong\.onnx: it ends within"):
        door.read_onnx(path)
    for missing in (tmp_path, tmp_path / "none.onnx"):
        with pytest.raises(InputError, match=r"^model: "):
            door.read_onnx(missing)


def test_data_in_other_files_is_never_looked_for_and_a_process_that_dies_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = model([node("MatMul", ["x", "w"], ["y"])], [value("x", "N", 64)], "y", [weight("w", 64, 1000)])
    tensor = made.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, text in (("location", "../../../etc/passwd"), ("offset", "0")):
        tensor.external_data.add(key=key, value=text)
    graph = read(made)
    assert graph.parameters == 64_000 and graph.macs() == 64_000
    path = tmp_path / "m.onnx"
    onnx.save(small_net(), path)
    monkeypatch.setattr(door, "_CHILD", "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(InputError, match=r"^model: m\.onnx: cannot be read as ONNX"):
        door.read_onnx(path)
    monkeypatch.setattr(door, "_CHILD", "import time; time.sleep(60)")
    monkeypatch.setattr(door, "MOST_S", 0.2)
    with pytest.raises(InputError, match="was not read within"):
        door.read_onnx(path)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    with pytest.raises(SteelyardError, match="cannot start a process"):
        door.read_onnx(path)
    monkeypatch.setattr(door, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"steelyard\[onnx\]"):
        door.read_onnx(path)


def test_names_of_a_file_steer_no_terminal() -> None:
    nodes = [
        node("Made\x1b[31m", ["x"], ["h"], domain="f", name="\x1b]0;t\x07"),
        node("Relu", ["h"], ["y"], name="\u202ea"),
    ]
    made = model(nodes, [value("x", "N", 4)], "y")
    made.producer_name = "\x1b[2Jmaker"
    graph = read(made)
    words = [graph.source, *(n.name for n in graph.nodes), *ops(graph)]
    assert "Made" in words[-2] and not any(c in w for w in words for c in "\x1b\x07\u202e")


def test_weights_inside_a_file_are_passed_over() -> None:
    made = model([node("MatMul", ["x", "w"], ["y"])], [value("x", "N", 1024)], "y", [weight("w", 1024, 2048)])
    data = made.SerializeToString()
    assert len(data) > 8 << 20 and len(slim(io.BytesIO(data), len(data))) < 1000
    assert read(data).parameters == 1024 * 2048


def test_a_batch_that_the_file_calls_otherwise_is_asked_for_by_that_name(tmp_path: Path) -> None:
    path = tmp_path / "named.onnx"
    onnx.save(model([node("Relu", ["x"], ["y"])], [value("x", "N", 64, 64, 64)], "y"), path)
    both = [steelyard.estimate(str(path), on="rtx_4090", **words) for words in ({"set": "N=16"}, {"batch": 16})]
    assert both[0].scenario.batch == 16
    assert both[0].latency_s == both[1].latency_s
    assert steelyard.estimate(str(path), on="rtx_4090", set="N=16", batch=4).scenario.batch == 4
    with pytest.raises(InputError, match="give one"):
        steelyard.estimate(str(path), on="rtx_4090", set="batch=5", batch=4)
    with pytest.raises(InputError, match="given twice"):
        steelyard.estimate(str(path), on="rtx_4090", set="N=5,N=4")


def test_a_batch_that_stands_elsewhere_than_first_is_given_as_any_size(tmp_path: Path) -> None:
    path = tmp_path / "frames_first.onnx"
    onnx.save(model([node("Relu", ["x"], ["y"])], [value("x", 10, "batch", 64)], "y"), path)
    with pytest.raises(InputError, match="--set batch=64"):
        steelyard.estimate(str(path), on="rtx_4090")
    found = steelyard.estimate(str(path), on="rtx_4090", set="batch=64")
    assert found.scenario.batch == 1
    assert found.scenario.phases[0].graph.tensors[0].shape == (10, 64, 64)
