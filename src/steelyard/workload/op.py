"""The one op type: an extended einsum over named ranks.

``t d, d h c -> t h c`` is a projection, ``n c 2*p+r 2*q+s, k c r s -> n k p q`` a strided convolution, and a
recurrence is an einsum with an *iterative* rank. Multiply-accumulates, FLOPs, bytes and arithmetic intensity are
derived from the expression and the sizes; they are never typed in.

Sizes are ints or numpy arrays over scenarios, so one op stands for thousands of shapes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import prod
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from steelyard.errors import InputError, UnknownName
from steelyard.registry import Registry

__all__ = [
    "ELEMENTWISE_COST",
    "OPERATORS",
    "Array",
    "Op",
    "Operand",
    "Size",
    "operator_cost",
    "parse_einsum",
    "part_of",
]

Array = npt.NDArray[np.float64]
Size = int | float | Array

#: An affine index expression: ``((coefficient, rank), ...)``.
Axis = tuple[tuple[int, str], ...]

#: Arithmetic operations one application of a map or reduce operator costs. ``mul`` then ``add`` make the usual
#: 2 FLOP per MAC. Transcendentals follow the convention of counting a short polynomial; they matter only for vector
#: engines. ``take`` and ``copy`` move data without arithmetic.
ELEMENTWISE_COST: Mapping[str, float] = MappingProxyType(
    {
        "mul": 1.0,
        "add": 1.0,
        "sub": 1.0,
        "max": 1.0,
        "min": 1.0,
        "exp": 4.0,
        "softmax": 5.0,
        "sigmoid": 5.0,
        "silu": 6.0,
        "gelu": 8.0,
        "relu": 1.0,
        "relu2": 2.0,
        "tanh": 5.0,
        "norm": 4.0,
        "rotary": 3.0,
        "top_k": 2.0,
        "sample": 6.0,
        "modmul": 3.0,
        "quantise": 2.0,
        "take": 0.0,
        "copy": 0.0,
        "none": 0.0,
    }
)

#: Further operators, by name: numbers like those of :data:`ELEMENTWISE_COST`.
OPERATORS: Registry[float] = Registry("operator", "steelyard.operators")


def operator_cost(name: str) -> float:
    """Arithmetic operations of one application of a map or reduce operator. Raises :class:`UnknownName`."""
    if name in ELEMENTWISE_COST:
        return ELEMENTWISE_COST[name]
    if name in OPERATORS.names():
        return OPERATORS.get(name)
    raise UnknownName("operator", name, (*ELEMENTWISE_COST, *OPERATORS))


_TERM = re.compile(r"^(?:(\d+)\*)?([A-Za-z_][A-Za-z0-9_]*)$")


@dataclass(frozen=True, slots=True)
class Operand:
    """One tensor of an op: its index expressions, what it is, and its width.

    ``index[i]`` is an affine expression as ``((coefficient, rank), ...)``. ``role`` is one of ``weight``,
    ``activation``, ``kv``, ``state`` or ``table`` (an embedding that is gathered from); the plan chooses the number
    format by role unless ``bits`` is given.
    """

    name: str
    index: tuple[Axis, ...]
    role: str = "activation"
    bits: float | None = None

    @property
    def ranks(self) -> tuple[str, ...]:
        """The ranks that appear in the index expressions, in order, once each."""
        return tuple(dict.fromkeys(rank for axis in self.index for _, rank in axis))


@lru_cache(maxsize=4096)
def parse_einsum(text: str) -> tuple[tuple[Axis, ...], ...]:
    """The index expressions of every operand, output last.

    ``"n c 2*p+r, k c r -> n k p"`` gives three operands whose axes are affine sums ``((coefficient, rank), ...)``.

    Raises:
        InputError: there is no ``->`` or an index is not a sum of ``[integer*]name``.
    """
    left, arrow, right = text.partition("->")
    if not arrow:
        raise InputError(f"expected 'inputs -> output', got {text!r}", field="einsum")
    operands: list[tuple[Axis, ...]] = []
    for operand in (*left.split(","), right):
        axes: list[Axis] = []
        for axis in operand.split():
            terms: list[tuple[int, str]] = []
            for term in axis.split("+"):
                match = _TERM.match(term)
                if match is None:
                    raise InputError(f"index {axis!r} in {text!r} is not a sum of [integer*]name", field="einsum")
                terms.append((int(match.group(1) or 1), match.group(2)))
            axes.append(tuple(terms))
        operands.append(tuple(axes))
    return tuple(operands)


@lru_cache(maxsize=4096)
def _ranks(text: str) -> tuple[str, ...]:
    """Every rank of an einsum, once each."""
    return tuple(dict.fromkeys(r for operand in parse_einsum(text) for axis in operand for _, r in axis))


@lru_cache(maxsize=4096)
def _reduced(text: str) -> tuple[str, ...]:
    """Ranks of an einsum that its output does not have."""
    kept = {rank for axis in parse_einsum(text)[-1] for _, rank in axis}
    return tuple(r for r in _ranks(text) if r not in kept)


@lru_cache(maxsize=4096)
def _windows(text: str) -> tuple[str, ...]:
    """Ranks behind the first of an affine index of an input."""
    return tuple(dict.fromkeys(r for operand in parse_einsum(text)[:-1] for axis in operand for _, r in axis[1:]))


@lru_cache(maxsize=4096)
def _tensors(
    text: str, names: tuple[str, ...], roles: tuple[str, ...], bits: tuple[tuple[str, float], ...]
) -> tuple[Operand, ...]:
    """Inputs then output of an einsum whose operands have names, roles and, some of them, widths."""
    parsed, widths = parse_einsum(text), dict(bits)
    names = names or (*(f"in{i}" for i in range(len(parsed) - 1)), "out")
    roles = roles or ("activation",) * len(parsed)
    return tuple(Operand(n, index, role, widths.get(n)) for n, index, role in zip(names, parsed, roles, strict=True))


@dataclass(frozen=True, eq=False)
class Op:
    """An extended einsum with sizes.

    Args:
        name: unique within its block.
        einsum: e.g. ``"t d, d f -> t f"``.
        sizes: rank -> extent, int or array over scenarios.
        operands: tensor names, inputs then output; defaults to ``in0, in1, ..., out``.
        roles: role of each operand; defaults to activations.
        map: operator applied at every point (``mul``, ``exp``, ...; see :data:`ELEMENTWISE_COST`).
        reduce: operator over the ranks missing from the output, usually ``add``.
        domain: joint extents that are not a product: ``{("s", "t"): pairs}`` is the number of (query, key) pairs
            of a causal or windowed mask, ``{("t", "e"): tokens * top_k}`` the routed pairs of a mixture of experts.
        visited: extent of a rank really touched in the operands (experts hit, table rows read); default: all.
        derived: ranks that are sums of others, ``{"p": (("h", 1), ("g", 2))}``, so that sharding ``h`` reshapes ``p``.
        iterative: ranks that must run one after another (recurrences).
        count: how many identical copies run in sequence (layers).
        fuse: ops with the same non-empty label in a row run as one kernel; what passes between them stays on chip.
        tied: names of weight operands whose storage is counted elsewhere.
        bits: widths of operands that do not follow their role, by operand name.
        block: what part of the model it belongs to (``attention``, ``mlp``, ``moe``, ``head``, ...).
        facts: what a cost model may want to know that the einsum does not say (``window``, ``causal``).

    Points computed = product of all ranks, with each ``domain`` group replaced by its joint extent.
    """

    name: str
    einsum: str
    sizes: Mapping[str, Size]
    operands: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    map: str = "mul"
    reduce: str = "add"
    domain: Mapping[tuple[str, ...], Size] = field(default_factory=dict)
    visited: Mapping[str, Size] = field(default_factory=dict)
    derived: Mapping[str, tuple[tuple[str, int], ...]] = field(default_factory=dict)
    iterative: tuple[str, ...] = ()
    count: Size = 1
    fuse: str = ""
    tied: tuple[str, ...] = ()
    bits: Mapping[str, float] = field(default_factory=dict)
    block: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        parsed = parse_einsum(self.einsum)
        if self.operands and len(self.operands) != len(parsed):
            raise InputError(f"{len(parsed)} operands in {self.einsum!r}, {len(self.operands)} names", field=self.name)
        if self.roles and len(self.roles) != len(parsed):
            raise InputError(f"{len(parsed)} operands in {self.einsum!r}, {len(self.roles)} roles", field=self.name)
        for operator in (self.map, self.reduce):
            if operator not in ELEMENTWISE_COST:
                try:
                    operator_cost(operator)
                except UnknownName as error:
                    raise error.at(self.name) from None
        missing = [r for r in self.ranks if r not in self.sizes and r not in self.derived]
        if missing:
            raise InputError(f"no size for rank {missing[0]!r} of {self.einsum!r}", field=self.name)

    @property
    def ranks(self) -> tuple[str, ...]:
        """Every rank of the iteration space, once each."""
        return _ranks(self.einsum)

    def size(self, rank: str) -> Size:
        """Extent of a rank; derived ranks are summed from their parts."""
        if rank in self.derived:
            return sum(coefficient * self.size(part) for part, coefficient in self.derived[rank])
        return self.sizes[rank]

    @property
    def tensors(self) -> tuple[Operand, ...]:
        """Inputs then output."""
        return _tensors(self.einsum, tuple(self.operands), tuple(self.roles), tuple(self.bits.items()))

    @property
    def inputs(self) -> tuple[Operand, ...]:
        """The tensors read."""
        return self.tensors[:-1]

    @property
    def output(self) -> Operand:
        """The tensor written."""
        return self.tensors[-1]

    @property
    def reduced(self) -> tuple[str, ...]:
        """Ranks that the output does not have."""
        return _reduced(self.einsum)

    @property
    def contracts(self) -> bool:
        """Whether it combines two tensors and adds over a rank: a product, a convolution, a modular product."""
        return self.reduce == "add" and len(self.inputs) == 2 and bool(self.reduced)

    @property
    def windows(self) -> tuple[str, ...]:
        """Ranks that slide over another one in an input: ``r`` and ``s`` of ``n c 2*p+r 2*q+s``."""
        return _windows(self.einsum)

    def points(self, dense: bool = False) -> Array:
        """Points of the iteration space, per copy. ``dense`` ignores ``domain`` (as frameworks count masked work)."""
        ranks = set(self.ranks)
        total: Any = 1.0
        if not dense:
            for group, extent in self.domain.items():
                if ranks.issuperset(group):
                    total = total * np.asarray(extent, dtype=np.float64)
                    ranks.difference_update(group)
        for rank in self.ranks:
            if rank in ranks:
                total = total * self.size(rank)
        return np.asarray(total, dtype=np.float64)

    def macs(self, dense: bool = False) -> Array:
        """Multiply-accumulates per copy: the points of a ``mul``/``add`` contraction, else 0."""
        contraction = self.map in ("mul", "modmul") and self.reduce == "add" and bool(self.reduced)
        return self.points(dense) if contraction else np.zeros_like(self.points(dense))

    def flops(self, dense: bool = False) -> Array:
        """Arithmetic operations per copy: points x (map cost + reduce cost). 1 MAC = 2 FLOP."""
        cost = operator_cost(self.map) + (operator_cost(self.reduce) if self.reduced else 0.0)
        return self.points(dense) * cost

    def elements(self, operand: Operand, visited: bool = True) -> Array:
        """Elements of a tensor per copy; with ``visited``, only those the op touches.

        The extent of an affine axis ``a*p + b*r`` is ``a(P-1) + b(R-1) + 1``.
        """
        plain = {axis[0][1] for axis in operand.index if len(axis) == 1}
        total: Any = 1.0
        joint: set[str] = set()
        for group, extent in self.domain.items():
            if visited and plain.issuperset(group):
                total = total * np.asarray(extent, dtype=np.float64)
                joint.update(group)
        for axis in operand.index:
            if len(axis) == 1 and axis[0][1] in joint:
                continue
            span: Any = 1 - sum(coefficient for coefficient, _ in axis)
            for coefficient, rank in axis:
                size = self.visited[rank] if visited and rank in self.visited else self.size(rank)
                span = span + coefficient * size
            total = total * np.asarray(span, dtype=np.float64)
        return np.asarray(total, dtype=np.float64)

    def bytes(self, bits: Mapping[str, float], roles: tuple[str, ...] | None = None) -> Array:
        """Compulsory traffic per copy in bytes: every tensor touched once.

        Args:
            bits: width by role, e.g. ``{"activation": 16, "weight": 8, "kv": 8}``; an operand's own width wins.
            roles: count only these roles.
        """
        total: Any = 0.0
        for operand in self.tensors:
            if roles is None or operand.role in roles:
                width = operand.bits if operand.bits is not None else bits[operand.role]
                total = total + self.elements(operand) * (width / 8)
        return np.asarray(total, dtype=np.float64)

    def intensity(self, bits: Mapping[str, float]) -> Array:
        """Arithmetic intensity in FLOP per byte of compulsory traffic."""
        return self.flops() / np.maximum(self.bytes(bits), 1e-30)

    def steps(self) -> Array:
        """Length of the serial chain: product of the iterative ranks, 1 when there is none."""
        return np.asarray(prod(np.asarray(self.size(r), dtype=np.float64) for r in self.iterative), dtype=np.float64)

    def gemm_shape(self) -> tuple[Array, Array, Array, Array]:
        """The op as a batched matrix product: ``(m, n, k, groups)``.

        Ranks of both inputs and the output are groups, of the first input alone m, of the second alone n, and reduced
        ranks of both k. A reduced rank of one input is a sum of rows after the product (an indexer's heads).

        Raises:
            InputError: the op has not two inputs.
        """
        if len(self.inputs) != 2:
            raise InputError(f"{self.einsum!r} is no product of two tensors", field=self.name)
        left, right = (set(t.ranks) for t in self.inputs)
        output = set(self.output.ranks)
        names = {
            "m": left - right,
            "n": right - left,
            "k": left & right - output,
            "g": left & right & output,
        }
        shape: dict[str, Any] = dict.fromkeys(names, 1.0)
        for key, ranks in names.items():
            for rank in self.ranks:
                if rank in ranks:
                    shape[key] = shape[key] * np.asarray(self.size(rank), dtype=np.float64)
        m, n, k, g = (np.asarray(shape[key], dtype=np.float64) for key in ("m", "n", "k", "g"))
        return m, n, k, g

    def resized(self, sizes: Mapping[str, Size]) -> Op:
        """A copy with some ranks resized (sharding, batching). Derived ranks follow by themselves."""
        known = {r: s for r, s in sizes.items() if r in self.sizes}
        return replace(self, sizes={**self.sizes, **known}) if known else self


def part_of(op: Op) -> str:
    """The part of the model an op's weights are stored as: its block, of experts ``router``, ``shared`` or ``moe``.

    What quantisers tell apart: routed experts, experts that every token visits, and what chooses among them.
    """
    if op.block != "moe":
        return op.block
    name = op.name.rpartition(".")[2]
    return "router" if name.startswith(("router", "shared_gate")) else "shared" if name.startswith("shared_") else "moe"
