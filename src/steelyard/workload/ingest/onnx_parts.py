"""The graph of an ONNX model as plain objects: what a walk needs of it, read once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from steelyard.errors import InputError, printable, show
from steelyard.workload.ingest.onnx_fold import MOST_VALUES
from steelyard.workload.ingest.onnx_sizes import MOST_EXTENT
from steelyard.workload.ingest.onnx_values import BOOL, F16, F32, F64, GRAPH, GRAPHS, I32, I64, TENSOR, Value

__all__ = ["Part", "Step", "part", "weight"]

#: Values of attributes that are looked at, by kind in onnx.proto, and those of them that are lists.
_ATTRIBUTES = {1: "f", 2: "i", 3: "s", 6: "floats", 7: "ints"}
_LISTS = (6, 7)
#: Types of initialisers whose values are read.
_READ = (F32, I32, I64, BOOL, F16, F64)


@dataclass(slots=True)
class Step:
    """A node: ``key`` is it without its names, equal for nodes that do the same."""

    domain: str
    op: str
    name: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any]
    key: bytes


@dataclass(slots=True)
class Part:
    """A graph, or the body of a loop or a branch."""

    inputs: list[str]
    outputs: list[str]
    steps: list[Step]
    weights: dict[str, Value]


def weight(shape: Sequence[int], elem: int, data: np.ndarray[Any, Any] | None = None) -> Value:
    """The value of an initialiser: numbers that are learned are weights, whole numbers are not."""
    value = Value(tuple(shape), elem, "weight", const=True, data=data)
    if value.type in ("i64", "i32", "bool"):
        value.role = "buffer"
    if prod(shape) <= 1:
        value.role = "constant"
    return value


def part(graph: Any) -> Part:
    """The plain form of a ``GraphProto``. Raises :class:`InputError`: data and shape of an initialiser differ."""
    return Part(
        [i.name for i in graph.input],
        [o.name for o in graph.output],
        [_step(n) for n in graph.node],
        {t.name: _initialiser(t) for t in graph.initializer},
    )


def _step(node: Any) -> Step:
    import onnx

    domain = "" if node.domain == "ai.onnx" else node.domain
    bare = onnx.NodeProto(op_type=node.op_type, domain=domain)
    bare.input.extend(f"i{i}" if n else "" for i, n in enumerate(node.input))
    bare.output.extend(f"o{i}" for i, _ in enumerate(node.output))
    bare.attribute.extend(a for a in node.attribute if a.type not in (GRAPH, GRAPHS))
    attributes = {a.name: _value(a) for a in node.attribute}
    key = bare.SerializeToString(deterministic=True)
    return Step(domain, node.op_type, printable(node.name[:200]), list(node.input), list(node.output), attributes, key)


def _value(attribute: Any) -> Any:
    """The value of an attribute in Python; tensors as weights, graphs as parts."""
    if attribute.type in _ATTRIBUTES:
        value = getattr(attribute, _ATTRIBUTES[attribute.type])
        return list(value) if attribute.type in _LISTS else value
    if attribute.type == TENSOR:
        return _initialiser(attribute.t)
    return part(attribute.g) if attribute.type == GRAPH else None


def _initialiser(tensor: Any) -> Value:
    from onnx import numpy_helper

    if any(not 0 <= d <= MOST_EXTENT for d in tensor.dims):
        raise InputError(f"{show(tensor.name)}: expected extents from 0 to 2^40")
    data = None
    if prod(tensor.dims) <= MOST_VALUES and tensor.data_type in _READ:
        try:
            data = numpy_helper.to_array(tensor)
        except (TypeError, ValueError, KeyError, OverflowError):
            raise InputError(f"the data of {show(tensor.name)} does not fit its shape") from None
    return weight(tuple(tensor.dims), tensor.data_type, data)
