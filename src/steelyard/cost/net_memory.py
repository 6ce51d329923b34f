"""Activations of a network that lie in memory together, and what kernels cannot address.

A pass holds every tensor until its last use. Under autocast tensors have the width that autocast gives them, and what
is copied for a product lies beside; a runtime that joins ops holds nothing between the joined ones. A training step
keeps what the backward pass reads: operands of products (as they were cast), inputs of normalisations and of most
pointwise ops, outputs of ReLU, softmax and their like, places of a pooling's largest. Allocators hold blocks that do
not fit together and libraries their workspaces: a share of the peak that each runtime states (``beside``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steelyard.cost.net_cycles import arena_bytes
from steelyard.cost.net_kernels import Lowering, is_product, product_of, settle
from steelyard.deployment.runtime import Precision, Runtime
from steelyard.workload.op import Array
from steelyard.workload.tensor_graph import TensorGraph

__all__ = ["alive_bytes", "past_index"]

#: Elements that a kernel with an index of 32 bits reaches.
MOST_INDEXED = 2.0**31
#: Ops whose gradient is of what they put out.
_BY_OUTPUT = ("relu", "relu6", "sigmoid", "tanh", "softmax", "exp", "sqrt", "rsqrt")
#: Pointwise ops whose gradient needs neither side.
_BY_NOTHING = ("add", "sub", "neg", "cast", "scale", "dropout")
#: Bytes of a place of a pooling's largest.
_PLACE = 8.0


def alive_bytes(
    graph: TensorGraph, sizes: Mapping[str, Any], runtime: Runtime, precision: Precision, train: bool = False
) -> Array:
    """Most bytes of activations in memory at once, with what allocators hold beside them, ``[scenarios]``.

    Args:
        graph: the network.
        sizes: values of its symbols, arrays over scenarios.
        runtime: what runs it.
        precision: how numbers are kept.
        train: all that the backward pass reads, at its beginning.
    """
    if runtime.library is not None:
        return arena_bytes(graph, sizes, runtime, precision)
    if train:
        return _kept(graph, sizes, precision) * (1.0 + runtime.beside)
    if runtime.fuses != "nothing":
        joined = graph.joined(runtime.folds_norm)
        return joined.peak_bytes(sizes, bits=precision.bits) * (1.0 + runtime.beside)
    if not precision.cast:
        return graph.peak_bytes(sizes, bits=precision.bits) * (1.0 + runtime.beside)
    lowering = _settled(graph, sizes, precision)
    bits = {i: lowering.bits(i) for i, t in enumerate(graph.tensors) if t.role == "activation"}
    copies = {k: extra for k, n in enumerate(graph.nodes) if (extra := _cast_bytes(lowering, n)) is not None}
    return graph.peak_bytes(sizes, bits=bits, beside=copies) * (1.0 + runtime.beside)


def past_index(graph: TensorGraph, sizes: Mapping[str, Any], runtime: Runtime) -> NDArray[np.bool_]:
    """Where a kernel that a runtime makes with an index of 32 bits has more elements, ``[scenarios]``.

    Compiled PyTorch ran none of 80 networks of timm whose depthwise convolutions put out 2^31 elements and more, in the
    batch that the tables tried first.
    """
    most: Any = 0.0
    given = {**graph.symbols, **sizes}
    for node in graph.nodes if runtime.indexed else ():
        if is_product(node) and product_of(graph, node, given)[0] in runtime.indexed:
            most = np.maximum(most, np.maximum(*(graph.elements(i, given) for i in (node.inputs[0], node.outputs[0]))))
    return np.atleast_1d(np.asarray(most >= MOST_INDEXED))


def _settled(graph: TensorGraph, sizes: Mapping[str, Any], precision: Precision) -> Lowering:
    """Widths of all tensors."""
    lowering = Lowering(graph, {**graph.symbols, **sizes}, precision)
    for node in graph.nodes:
        settle(lowering, node)
    return lowering


def _cast_bytes(lowering: Lowering, node: Any) -> Any:
    """What autocast copies of activations for a product; None: nothing."""
    if not is_product(node):
        return None
    graph, bits = lowering.graph, lowering.precision.bits
    wide = [
        i
        for i in node.inputs
        if graph.tensors[i].dtype == "f32"
        and graph.tensors[graph.storage(i)].role in ("input", "activation")
        and lowering.bits(i) > bits
    ]
    return sum(graph.elements(i, lowering.sizes) * bits / 8 for i in wide) if wide else None


def _kept(graph: TensorGraph, sizes: Mapping[str, Any], precision: Precision) -> Array:
    """Bytes that the backward pass reads; of an operand that was cast, its copy."""
    lowering = _settled(graph, sizes, precision)
    kept: dict[int, Any] = {}
    more: Any = 0.0
    for node in graph.nodes:
        copied = _cast_bytes(lowering, node) if precision.cast else None
        if copied is not None:
            more = more + copied
        for i in _read_again(node):
            storage = graph.storage(i)
            wide = copied is not None and lowering.bits(i) > precision.bits
            if graph.tensors[storage].role in ("input", "activation") and not wide:
                size = graph.elements(storage, lowering.sizes) * lowering.bits(storage) / 8
                kept[storage] = np.maximum(kept.get(storage, 0.0), size)
        if node.op == "max_pool":
            more = more + graph.elements(node.outputs[0], lowering.sizes) * _PLACE
    return np.asarray(sum(kept.values(), more), dtype=np.float64)


def _read_again(node: Any) -> tuple[int, ...]:
    """Tensors of a node that its gradient reads."""
    group = node.kind.group
    if is_product(node):
        return (*node.inputs[:3], *(node.outputs[:1] if node.op in ("attention", "recurrent") else ()))
    if node.op in _BY_OUTPUT or group == "softmax":
        return tuple(node.outputs[:1])
    if group == "norm" or node.op == "max_pool":
        return tuple(node.inputs[:1])
    if group == "pointwise" and node.op not in _BY_NOTHING:
        return tuple(node.inputs[:2]) if node.op == "mul" else tuple(node.inputs[:1])
    return ()
