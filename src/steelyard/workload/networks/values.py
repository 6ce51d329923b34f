"""Values of a network that is being built: its tensors and nodes so far, views, moves and pointwise ops.

Layers with weights are in :mod:`steelyard.workload.networks.builder`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from steelyard.errors import InputError, show
from steelyard.workload.extent import Extent, extent
from steelyard.workload.networks.sizes import Size, divided, plus, product
from steelyard.workload.op_table import named_by, op_kinds
from steelyard.workload.tensor_graph import Node, Tensor, TensorGraph

__all__ = ["MOST_NODES", "Tensors", "symbol"]

#: Most nodes of a network: more is a wrong parameter.
MOST_NODES = 30_000
#: Largest extent of a tensor.
_MOST = 2**40


def symbol(name: str) -> Extent:
    """An open size: ``batch``, ``tokens``, ``frames``."""
    found = extent({(name,): 1})
    assert isinstance(found, Extent)
    return found


@dataclass
class Tensors:
    """The values and nodes of a network so far; :class:`~steelyard.workload.networks.builder.Builder` adds layers.

    Args:
        name: of the network.
        symbols: usual values of the open sizes.
        source: where its shape is from.
        dtype: of weights and activations.
    """

    name: str
    symbols: Mapping[str, int] = field(default_factory=lambda: {"batch": 1})
    source: str = ""
    dtype: str = "f32"
    nodes: list[Node] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    path: list[str] = field(default_factory=list)
    _kept: dict[str, list[int]] = field(default_factory=dict)
    _again: list[int] | None = None
    _edges: int = 0

    def graph(self, *outputs: int) -> TensorGraph:
        """What was built, with the tensors that are its answer."""
        return TensorGraph(
            self.name, tuple(self.nodes), tuple(self.tensors), tuple(outputs), dict(self.symbols), self.source
        )

    @contextmanager
    def within(self, name: str) -> Iterator[None]:
        """Nodes of a block carry its name."""
        self.path.append(name)
        try:
            yield
        finally:
            self.path.pop()

    @contextmanager
    def sharing(self, name: str) -> Iterator[None]:
        """Layers under one name use the same weights, made when it is first used (heads of a detector, ALBERT)."""
        known = name in self._kept
        start = len(self.tensors)
        self._again = list(self._kept[name]) if known else None
        try:
            yield
        finally:
            self._again = None
        if not known:
            self._kept[name] = [
                i for i in range(start, len(self.tensors)) if self.tensors[i].role in ("weight", "buffer")
            ]

    # --- values

    def shape(self, x: int) -> tuple[Size, ...]:
        """Extents of a tensor."""
        return self.tensors[x].shape

    def size(self, x: int, axis: int) -> int:
        """One extent, which must be a number. Raises :class:`InputError`."""
        found = self.shape(x)[axis]
        if not isinstance(found, int):
            raise InputError(f"expected a fixed size, got {found}", field="size")
        return found

    def channels(self, x: int) -> int:
        """The second extent, of images and sequences of frames."""
        return self.size(x, 1)

    def value(self, shape: Sequence[Size], role: str = "activation", of: int = -1, dtype: str = "") -> int:
        """A new tensor. ``of``: it is a view of that one. Raises :class:`InputError` beyond the limits."""
        for extent_ in shape:
            if isinstance(extent_, int) and not 0 <= extent_ <= _MOST:
                raise InputError(f"expected extents of 0 to 2^40, got {show(extent_)}", field="size")
        while of >= 0 and self.tensors[of].of >= 0:
            of = self.tensors[of].of
        self.tensors.append(Tensor(tuple(shape), dtype or self.dtype, role, of))
        return len(self.tensors) - 1

    def input(self, shape: Sequence[Size], dtype: str = "") -> int:
        """What is given to the network."""
        return self.value(shape, "input", dtype=dtype)

    def image(self, channels: int = 3, size: int | Sequence[int] = 224) -> int:
        """A batch of images, ``(batch, channels, height, width)``."""
        height, width = (size, size) if isinstance(size, int) else size
        return self.input((symbol("batch"), channels, height, width))

    def tokens(self, count: Size = 128) -> int:
        """A batch of token numbers, ``(batch, tokens)``."""
        return self.input((symbol("batch"), count), "i64")

    def weight(self, *shape: Size, dtype: str = "") -> int:
        """A learned tensor."""
        if self._again:
            return self._again.pop(0)
        return self.value(shape, "weight", dtype=dtype)

    def buffer(self, *shape: Size, dtype: str = "") -> int:
        """A tensor that is loaded and not learned."""
        if self._again:
            return self._again.pop(0)
        return self.value(shape, "buffer", dtype=dtype)

    def add_node(self, op: str, inputs: Sequence[int], outputs: Sequence[int], facts: Mapping[str, Any]) -> int:
        """Append a node and return its first output. Raises :class:`InputError` where there are too many."""
        self._edges += len(inputs)
        if len(self.nodes) >= MOST_NODES or self._edges > 10 * MOST_NODES:
            raise InputError(f"expected a network of at most {MOST_NODES:,} nodes", field="model")
        self.nodes.append(Node(op, tuple(inputs), tuple(outputs), ".".join(self.path), dict(facts)))
        return outputs[0]

    def node(self, op: str, inputs: Sequence[int], shape: Sequence[Size], of: int = -1, dtype: str = "") -> int:
        """A node with one output of that shape, a view of ``of`` or with a storage of its own.

        ``op``: a row of the op table, or else the name PyTorch has for it.
        """
        dtype = dtype or (self.tensors[inputs[0]].dtype if inputs else "")
        return self.add_node(_row(op), inputs, (self.value(shape, of=of, dtype=dtype),), {})

    # --- views and moves

    def view(self, x: int, *shape: Size) -> int:
        """The elements in another shape, without a copy; one extent may be -1.

        Raises:
            InputError: the numbers of elements differ.
        """
        total = product(self.shape(x))
        known = product(s for s in shape if s != -1)
        if -1 in shape:
            shape = tuple(divided(total, known) if s == -1 else s for s in shape)
        elif total != known:
            raise InputError(f"cannot view {_said(self.shape(x))} as {_said(shape)}", field="size")
        return self.node("view", (x,), shape, of=x)

    def flatten(self, x: int, start: int = 1, end: int = -1) -> int:
        """Axes from ``start`` to ``end`` as one."""
        shape = self.shape(x)
        end = end % len(shape)
        return self.view(x, *shape[:start], product(shape[start : end + 1]), *shape[end + 1 :])

    def permute(self, x: int, *axes: int) -> int:
        """Axes in another order, without a copy."""
        shape = self.shape(x)
        return self.node("view", (x,), [shape[a] for a in axes], of=x)

    def transpose(self, x: int, one: int = -2, other: int = -1) -> int:
        """Two axes exchanged, without a copy."""
        axes = list(range(len(self.shape(x))))
        axes[one], axes[other] = axes[other], axes[one]
        return self.permute(x, *axes)

    def expand(self, x: int, *shape: Size) -> int:
        """Axes of one repeated, without a copy."""
        return self.node("view", (x,), shape, of=x)

    def part(self, x: int, size: Size, axis: int = 1) -> int:
        """A slice of an axis, without a copy."""
        shape = list(self.shape(x))
        shape[axis] = size
        return self.node("view", (x,), shape, of=x)

    def split(self, x: int, parts: int | Sequence[Size], axis: int = 1) -> tuple[int, ...]:
        """An axis in equal parts or parts of those sizes, without a copy, by one node."""
        shape = list(self.shape(x))
        if isinstance(parts, int):
            parts = [divided(shape[axis], parts)] * parts
        made = []
        for size in parts:
            shape[axis] = size
            made.append(self.value(shape, of=x, dtype=self.tensors[x].dtype))
        self.add_node("view", (x,), made, {})
        return tuple(made)

    def unbind(self, x: int, axis: int = 0) -> tuple[int, ...]:
        """One tensor for each place of an axis, without a copy, by one node."""
        shape = list(self.shape(x))
        count = shape.pop(axis)
        assert isinstance(count, int)
        made = [self.value(shape, of=x, dtype=self.tensors[x].dtype) for _ in range(count)]
        self.add_node("view", (x,), made, {})
        return tuple(made)

    def copy(self, x: int, *shape: Size) -> int:
        """A copy in memory order, or of that shape (a pad, a roll, a repeat)."""
        return self.node("copy", (x,), shape or self.shape(x))

    def pad(self, x: int, *sides: int) -> int:
        """Zeros laid around the last axes: ``(left, right, top, bottom, ...)`` as PyTorch orders them."""
        shape = list(self.shape(x))
        for i in range(len(sides) // 2):
            shape[-1 - i] = plus(shape[-1 - i], sides[2 * i] + sides[2 * i + 1])
        return self.copy(x, *shape)

    def concat(self, parts: Sequence[int], axis: int = 1) -> int:
        """Tensors one behind the other along an axis."""
        shape = list(self.shape(parts[0]))
        for part in parts[1:]:
            other = list(self.shape(part))
            if [s for i, s in enumerate(other) if i != axis % len(other)] != [
                s for i, s in enumerate(shape) if i != axis % len(shape)
            ]:
                raise InputError(
                    f"cannot join {_said(shape)} and {_said(other)}: another size of input may fit", field="size"
                )
            shape[axis] = plus(shape[axis], other[axis])
        return self.node("concat", parts, shape)

    # --- pointwise

    def act(self, x: int, kind: str, *, inplace: bool = True) -> int:
        """An activation by PyTorch's name of it (``relu``, ``silu``, ``gelu``, ``hardswish``, ``sigmoid``...)."""
        return self.node(kind, (x,), self.shape(x), of=x if inplace else -1)

    def relu(self, x: int) -> int:
        """A rectifier, in place."""
        return self.act(x, "relu")

    def gelu(self, x: int) -> int:
        """A Gaussian error unit, not in place as in PyTorch."""
        return self.act(x, "gelu", inplace=False)

    def sigmoid(self, x: int) -> int:
        """A gate, not in place."""
        return self.act(x, "sigmoid", inplace=False)

    def binary(self, op: str, a: int, b: int, *, inplace: bool = False) -> int:
        """A pointwise op of two tensors; axes of one are repeated. ``inplace``: the result takes the first's place.

        Raises:
            InputError: the shapes do not fit.
        """
        shape = _broadcast(self.shape(a), self.shape(b))
        return self.node(op, (a, b), shape, of=a if inplace else -1)

    def add(self, a: int, b: int, *, inplace: bool = False) -> int:
        """A sum, such as a residual's."""
        return self.binary("add", a, b, inplace=inplace)

    def mul(self, a: int, b: int, *, inplace: bool = False) -> int:
        """A product of elements, such as a gate's."""
        return self.binary("mul", a, b, inplace=inplace)

    def scale(self, x: int, *shape: Size, inplace: bool = False) -> int:
        """Elements times a learned tensor (a layer scale)."""
        return self.mul(x, self.weight(*shape), inplace=inplace)


def _row(op: str) -> str:
    return op if op in op_kinds() else named_by("aten", op)


def _broadcast(a: Sequence[Size], b: Sequence[Size]) -> list[Size]:
    rank = max(len(a), len(b))
    left, right = [1] * (rank - len(a)) + list(a), [1] * (rank - len(b)) + list(b)
    made: list[Size] = []
    for x, y in zip(left, right, strict=True):
        if x != y and 1 not in (x, y):
            raise InputError(f"shapes {_said(a)} and {_said(b)} do not fit: another size of input may", field="size")
        made.append(y if x == 1 else x)
    return made


def _said(shape: Sequence[Size]) -> str:
    return "x".join(str(s) for s in shape)
