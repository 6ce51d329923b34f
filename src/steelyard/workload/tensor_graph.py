"""Any network as a graph of tensors: nodes of known ops, tensors with sizes open to batch and tokens.

Importers (torch, ONNX) and family generators make a :class:`TensorGraph`; runtimes fuse its nodes into kernels, and the
cost models of networks price those. What an op is (a product, a pointwise function, a move) stands in one table for the
names of all frameworks, see :mod:`steelyard.workload.op_table`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

from steelyard.workload.extent import Extent, at
from steelyard.workload.op import Array
from steelyard.workload.op_table import OpKind, kind_of

__all__ = ["WIDTHS", "Node", "Tensor", "TensorGraph"]

#: Bits of one element by data type.
WIDTHS: Mapping[str, float] = {
    "f64": 64,
    "i64": 64,
    "f32": 32,
    "i32": 32,
    "f16": 16,
    "bf16": 16,
    "i16": 16,
    "f8": 8,
    "i8": 8,
    "u8": 8,
    "bool": 8,
    "c64": 64,
    "c128": 128,
    "i4": 4,
    "f4": 4,
    "i2": 2,
}


@dataclass(frozen=True, slots=True)
class Tensor:
    """A value of the graph.

    ``role`` is ``input``, ``weight`` (a parameter), ``buffer`` (loaded and not learned), ``constant`` (made on the
    way) or ``activation``. ``of`` is the tensor whose storage it is a view of; -1: it has its own.
    """

    shape: tuple[int | Extent, ...]
    dtype: str = "f32"
    role: str = "activation"
    of: int = -1


@dataclass(frozen=True, slots=True)
class Node:
    """One op: its name in the op table, tensors it reads and writes, its module, and what shapes do not say.

    ``facts`` of a convolution: ``stride``, ``kernel``, ``padding``, ``dilation``, ``groups``, ``transposed``, ``same``
    (no op of its own lays its borders); of an attention: ``causal``; of a recurrence: ``layers``, ``hidden``,
    ``directions``, ``gates``; of a scan: ``state``, the numbers of a channel's state; of a gather: ``visited``
    elements, or the ``rows_per_bag`` that each row of its output sums.
    """

    op: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    name: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> OpKind:
        """Its row of the op table."""
        return kind_of(self.op)


@dataclass(frozen=True, eq=False)
class TensorGraph:
    """Nodes in the order they run.

    Args:
        name: what results call it.
        nodes: ops in execution order.
        tensors: every value; nodes name them by position.
        outputs: tensors that are alive at the end.
        symbols: open sizes and their usual values, ``{"batch": 1}``.
        source: where it is from.
    """

    name: str
    nodes: tuple[Node, ...]
    tensors: tuple[Tensor, ...]
    outputs: tuple[int, ...] = ()
    symbols: Mapping[str, int] = field(default_factory=lambda: {"batch": 1})
    source: str = ""

    def __len__(self) -> int:
        return len(self.nodes)

    @property
    def inputs(self) -> list[int]:
        """Tensors that it is given."""
        return [i for i, t in enumerate(self.tensors) if t.role == "input" and t.of < 0]

    def shape(self, tensor: int, sizes: Mapping[str, Any]) -> tuple[Any, ...]:
        """Extents of a tensor with the symbols set."""
        return tuple(at(d, sizes) for d in self.tensors[tensor].shape)

    def elements(self, tensor: int, sizes: Mapping[str, Any]) -> Any:
        """Elements of a tensor."""
        return prod(self.shape(tensor, sizes), start=1.0)

    def storage(self, tensor: int) -> int:
        """The tensor that owns the memory of this one."""
        while self.tensors[tensor].of >= 0:
            tensor = self.tensors[tensor].of
        return tensor

    @cached_property
    def parameters(self) -> int:
        """Elements of all weights."""
        return round(
            float(
                sum(
                    self.elements(i, self.symbols)
                    for i, t in enumerate(self.tensors)
                    if t.role == "weight" and t.of < 0
                )
            )
        )

    def weight_bytes(self, bits: float = 0.0, sizes: Mapping[str, Any] | None = None) -> float:
        """Bytes of all weights, as stored, or with floats at a width in bits; ``sizes`` where a device has a share."""
        owned = [i for i, t in enumerate(self.tensors) if t.role in ("weight", "buffer") and t.of < 0]
        return float(sum(self._bytes(i, {**self.symbols, **(sizes or {})}, bits) for i in owned))

    def macs(self, sizes: Mapping[str, Any] | None = None, *, counted_as: str = "") -> Any:
        """Multiply-accumulates of one pass.

        Args:
            sizes: values of symbols; default: the usual ones.
            counted_as: ``"fvcore"`` adds 2 per element of a batch normalisation and 5 of the other normalisations,
                as tables of networks often do; default: products alone.
        """
        from steelyard.workload.tensor_counts import macs, norm_macs

        sizes = {**self.symbols, **(sizes or {})}
        total: Any = sum((macs(self, n, sizes) for n in self.nodes), 0.0)
        if counted_as == "fvcore":
            total = total + sum((norm_macs(self, n, sizes) for n in self.nodes), 0.0)
        return total

    def activations(self, sizes: Mapping[str, Any] | None = None) -> Any:
        """Elements that convolutions, linear layers and matrix products put out, as tables of networks count."""
        sizes = {**self.symbols, **(sizes or {})}
        products = [n for n in self.nodes if n.kind.group == "product"]
        return sum((self.elements(o, sizes) for n in products for o in n.outputs[:1]), 0.0)

    def peak_bytes(
        self,
        sizes: Mapping[str, Any] | None = None,
        bits: float | Mapping[int, float] = 0.0,
        beside: Mapping[int, Any] | None = None,
    ) -> Array:
        """Most bytes of activations alive at once, by the last use of every storage.

        Args:
            sizes: values of symbols.
            bits: width of all floats, or of each tensor; 0: as they are.
            beside: what nodes need while they run beside their tensors, bytes by their number.
        """
        sizes = {**self.symbols, **(sizes or {})}
        last: dict[int, int] = {self.storage(o): len(self.nodes) for o in self.outputs}
        for i, node in enumerate(self.nodes):
            for tensor in (*node.inputs, *node.outputs):
                s = self.storage(tensor)
                last[s] = max(last.get(s, 0), i)
        leaves: dict[int, list[int]] = {}
        for storage, i in last.items():
            leaves.setdefault(i, []).append(storage)
        alive = {i: self._bytes(i, sizes, bits) for i in self.inputs}
        now: Any = sum(alive.values(), 0.0)
        peak = np.asarray(now, dtype=np.float64)
        for i, node in enumerate(self.nodes):
            for o in node.outputs:
                s = self.storage(o)
                if s not in alive and self.tensors[s].role == "activation":
                    alive[s] = self._bytes(s, sizes, bits)
                    now = now + alive[s]
            peak = np.maximum(peak, now + beside[i] if beside and i in beside else now)
            for s in leaves.get(i, ()):
                if s in alive and self.tensors[s].role == "activation":
                    now = now - alive.pop(s)
        return peak

    def joined(self, norms: bool = True) -> TensorGraph:
        """The graph as memory sees it when kernels join what follows them: a pointwise op, or a normalisation of a
        batch, writes over what it alone reads, the first input of its size."""
        tensors, users = list(self.tensors), self.users()
        for node in self.nodes:
            over = node.inputs[0] if node.inputs else -1
            group, out = node.kind.group, node.outputs[0] if node.outputs else -1
            if over < 0 or out < 0 or not (group == "pointwise" or (norms and node.op == "batch_norm")):
                continue
            a, b = tensors[over], tensors[out]
            alone = len(users.get(over, ())) == 1 and a.role == "activation" and over not in self.outputs
            if alone and a.of < 0 and b.of < 0 and (a.shape, a.dtype) == (b.shape, b.dtype):
                tensors[out] = replace(b, of=over)
        return replace(self, tensors=tuple(tensors))

    def _bytes(self, tensor: int, sizes: Mapping[str, Any], bits: float | Mapping[int, float]) -> Any:
        t = self.tensors[tensor]
        if isinstance(bits, Mapping):
            bits = bits.get(tensor, 0.0)
        width = bits if bits and t.dtype in ("f32", "f16", "bf16") else WIDTHS[t.dtype]
        return self.elements(tensor, sizes) * width / 8

    def users(self) -> dict[int, list[int]]:
        """The nodes that read each tensor."""
        found: dict[int, list[int]] = {}
        for i, node in enumerate(self.nodes):
            for tensor in node.inputs:
                found.setdefault(tensor, []).append(i)
        return found

    def unknown(self) -> Iterator[Node]:
        """Nodes of ops that the table does not have."""
        return (n for n in self.nodes if n.kind.group == "unknown")
