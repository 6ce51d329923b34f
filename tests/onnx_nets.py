"""Small ONNX models made by hand; needs the onnx extra."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

F = TensorProto.FLOAT
node = helper.make_node


def value(name: str, *shape: int | str | None, kind: int = F) -> Any:
    return helper.make_tensor_value_info(name, kind, list(shape))


def weight(name: str, *shape: int, kind: Any = np.float32) -> Any:
    return numpy_helper.from_array(np.zeros(shape, kind), name)


def number(name: str, *values: int) -> Any:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def ours(op: str, ins: Sequence[str], outs: Sequence[str], **a: Any) -> Any:
    """A node of ONNX Runtime's own ops."""
    return node(op, list(ins), list(outs), domain="com.microsoft", **a)


def quantisers() -> list[Any]:
    """Scales and zero points of an input, a weight and an output in eight bits."""
    scales = [numpy_helper.from_array(np.float32(0.1), s) for s in ("sx", "sw", "sy")]
    return [*scales, *(numpy_helper.from_array(np.int8(0), z) for z in ("zx", "zw", "zy"))]


def model(
    nodes: Sequence[Any], inputs: Sequence[Any], output: str, weights: Sequence[Any] = (), functions: Sequence[Any] = ()
) -> Any:
    end = helper.make_tensor_value_info(output, F, None)
    graph = helper.make_graph(list(nodes), "g", list(inputs), [end], list(weights))
    domains = [helper.make_opsetid(d, v) for d, v in (("", 18), ("com.microsoft", 1), ("f", 1))]
    return helper.make_model(graph, opset_imports=domains, ir_version=9, functions=list(functions))


def small_net() -> Any:
    nodes = [
        node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Relu", ["c"], ["r"]),
        node("Conv", ["r", "dw"], ["d"], pads=[2, 2, 2, 2], dilations=[2, 2], group=16),
        node("Add", ["d", "r"], ["s"]),
        node("GlobalAveragePool", ["s"], ["p"]),
        node("Flatten", ["p"], ["f"]),
        node("Gemm", ["f", "head", "bias"], ["y"], transB=1),
    ]
    weights = [weight("w", 16, 3, 3, 3), weight("b", 16), weight("dw", 16, 1, 3, 3)]
    return model(nodes, [value("x", "N", 3, 8, 8)], "y", [*weights, weight("head", 10, 16), weight("bias", 10)])


def attention() -> Any:
    """An attention written out, with the sizes of its heads reckoned in the graph."""
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "zero"], ["n"]),
        node("Unsqueeze", ["n", "front"], ["n1"]),
        node("Concat", ["n1", "rest"], ["to"], axis=0),
        node("MatMul", ["x", "wq"], ["q0"]),
        node("Reshape", ["q0", "to"], ["q1"]),
        node("Transpose", ["q1"], ["q"], perm=[0, 2, 1, 3]),
        node("Transpose", ["q1"], ["k"], perm=[0, 2, 3, 1]),
        node("MatMul", ["q", "k"], ["scores"]),
        node("Softmax", ["scores"], ["p"], axis=-1),
        node("MatMul", ["p", "q"], ["o"]),
        node("Transpose", ["wo"], ["wt"], perm=[1, 0]),
        node("Reshape", ["o", "flat"], ["o1"]),
        node("MatMul", ["o1", "wt"], ["y"]),
    ]
    weights = [number("front", 0), number("rest", 6, 4, 8), number("flat", -1, 6, 32)]
    weights += [numpy_helper.from_array(np.int64(0), "zero"), weight("wq", 32, 32), weight("wo", 32, 32)]
    return model(nodes, [value("x", "batch", 6, 32)], "y", weights)


def quantised() -> Any:
    """A convolution between quantisers, its weight in eight bits."""
    nodes = [
        node("QuantizeLinear", ["x", "sx", "zx"], ["xq"]),
        node("DequantizeLinear", ["xq", "sx", "zx"], ["xd"]),
        node("DequantizeLinear", ["w", "sw", "zw"], ["wd"]),
        node("Conv", ["xd", "wd"], ["f"]),
        node("Relu", ["f"], ["c"]),
        node("QuantizeLinear", ["c", "sy", "zy"], ["cq"]),
        node("DequantizeLinear", ["cq", "sy", "zy"], ["y"]),
    ]
    return model(nodes, [value("x", "N", 4, 6, 6)], "y", [weight("w", 8, 4, 1, 1, kind=np.int8), *quantisers()])


def loop(trips: int | None) -> Any:
    """A product in a loop of so many steps, or of as many as an input says."""
    carried = [value("i", kind=TensorProto.INT64), value("on", kind=TensorProto.BOOL), value("h")]
    steps = [node("MatMul", ["h", "w"], ["h2"]), node("Identity", ["on"], ["on2"])]
    body = helper.make_graph(steps, "b", carried, [value("on2", kind=TensorProto.BOOL), value("h2")])
    nodes = [node("Loop", ["m", "", "x"], ["y"], body=body)]
    w, x = weight("w", 8, 8), value("x", "batch", 8)
    if trips is None:
        return model(nodes, [x, value("m", kind=TensorProto.INT64)], "y", [w])
    return model(nodes, [x], "y", [w, numpy_helper.from_array(np.int64(trips), "m")])


def branches(weights: Sequence[Any] = (), inputs: Sequence[Any] = ()) -> Any:
    """A product or an activation, as ``go`` says."""
    dear = helper.make_graph([node("MatMul", ["x", "w"], ["a"])], "t", [], [value("a")])
    cheap = helper.make_graph([node("Relu", ["x"], ["c"])], "e", [], [value("c")])
    either = node("If", ["go"], ["y"], then_branch=cheap, else_branch=dear)
    return model([either], [value("x", "batch", 8), *inputs], "y", [weight("w", 8, 8), *weights])


def of_runtime() -> Any:
    """Ops that the optimiser of ONNX Runtime writes, and one that nobody knows."""
    nodes = [
        ours("Attention", ["x", "w", "b"], ["a"], num_heads=4),
        ours("SkipLayerNormalization", ["a", "x", "g"], ["n"]),
        ours("FusedMatMul", ["n", "up"], ["u"], transB=1),
        ours("BiasGelu", ["u", "bu"], ["h"]),
        node("Made", ["h"], ["y"], domain="f"),
    ]
    weights = [weight("w", 32, 96), weight("b", 96), weight("g", 32), weight("up", 64, 32), weight("bu", 64)]
    return model(nodes, [value("x", "batch", 6, 32)], "y", weights)


def functions(count: int) -> Any:
    """Functions of which each calls the one before twice."""
    domains = [helper.make_opsetid("", 18), helper.make_opsetid("f", 1)]
    calls = []
    for i in range(count):
        name, domain = (f"F{i - 1}", "f") if i else ("Relu", "")
        body = [node(name, ["a"], ["t"], domain=domain), node(name, ["t"], ["b"], domain=domain)]
        calls.append(helper.make_function("f", f"F{i}", ["a"], ["b"], body, domains))
    return model([node(f"F{count - 1}", ["x"], ["y"], domain="f")], [value("x", "N", 4)], "y", functions=calls)


def several() -> Any:
    """A recurrence, an einsum, pools, a look-up and a split."""
    nodes = [
        node("Gather", ["table", "ids"], ["e"]),
        node("Transpose", ["e"], ["t"], perm=[1, 0, 2]),
        node("LSTM", ["t", "wi", "wr"], ["h"], hidden_size=4, direction="bidirectional"),
        node("Split", ["h"], ["one", "two"], axis=1, num_outputs=2),
        node("Einsum", ["one", "two"], ["pair"], equation="abcd,abed->abce"),
        node("MaxPool", ["pair"], ["m"], kernel_shape=[1, 1], auto_pad="SAME_UPPER"),
        node("ReduceSum", ["m", "axes"], ["y"], keepdims=0),
    ]
    weights = [weight("table", 50, 6), weight("wi", 2, 16, 6), weight("wr", 2, 16, 4), number("axes", 1)]
    return model(nodes, [value("ids", 3, "len", kind=TensorProto.INT64)], "y", weights)
