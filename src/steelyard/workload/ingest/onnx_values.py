"""What a walk through an ONNX graph holds: values with shapes at one batch, and nodes as they are found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from steelyard.errors import InputError

__all__ = [
    *("BOOL", "DTYPES", "F16", "F32", "F64", "FLOATS", "GRAPH", "GRAPHS", "I8", "I32", "I64", "TENSOR", "U8"),
    *("Found", "Recorder", "Value", "memory"),
]

#: Types of tensors, and kinds of attributes, by their number in onnx.proto.
F32, U8, I8, I32, I64, BOOL, F16, F64 = 1, 2, 3, 6, 7, 9, 10, 11
TENSOR, GRAPH, GRAPHS = 4, 5, 10

#: Types of onnx.proto by their number, in ours.
DTYPES: Mapping[int, str] = {
    1: "f32",
    2: "u8",
    3: "i8",
    4: "i16",
    5: "i16",
    6: "i32",
    7: "i64",
    8: "i64",
    9: "bool",
    10: "f16",
    11: "f64",
    12: "i32",
    13: "i64",
    14: "c64",
    15: "c128",
    16: "bf16",
    17: "f8",
    18: "f8",
    19: "f8",
    20: "f8",
    21: "i4",
    22: "i4",
    23: "f4",
    24: "f8",
    25: "i2",
    26: "i2",
}
FLOATS = ("f32", "f16", "bf16", "f64")


@dataclass(eq=False, slots=True)
class Value:
    """A value of the graph at one batch.

    ``elem`` is its type by the number of onnx.proto, ``data`` what is in it where that is known, ``const`` whether it
    is the same in every run, ``of`` the value it is a view of, ``stored`` the one that is in memory in its place (of a
    weight that is dequantised where it is used), ``items`` what a sequence holds.
    """

    shape: tuple[int, ...] = ()
    elem: int = F32
    role: str = "activation"
    const: bool = False
    data: np.ndarray[Any, Any] | None = None
    of: Value | None = None
    stored: Value | None = None
    dtype: str = ""
    items: list[Value] | None = None
    number: int = -1

    @property
    def size(self) -> int:
        """Elements."""
        return prod(self.shape)

    @property
    def type(self) -> str:
        """Its data type, in our words."""
        return self.dtype or DTYPES.get(self.elem, "f32")

    def viewed(self, shape: Sequence[int]) -> Value:
        """The same memory in another shape."""
        return Value(tuple(shape), self.elem, "activation", of=self, dtype=self.dtype)


@dataclass(slots=True)
class Found:
    """One op as it was found."""

    op: str
    inputs: list[Value]
    outputs: list[Value]
    facts: dict[str, Any] = field(default_factory=dict)
    name: str = ""
    was: str = ""
    """What ONNX calls it."""


class Recorder:
    """What one walk found."""

    def __init__(self) -> None:
        self.nodes: list[Found] = []
        self.inputs: list[Value] = []
        self.outputs: list[Value] = []
        self.kept: list[Value] = []  # weights of which something is made that a node reads
        self.notes: dict[str, int] = {}

    def note(self, words: str) -> None:
        """Something the user should know; equal notes are counted."""
        self.notes[words] = self.notes.get(words, 0) + 1

    def tensors(self) -> list[Value]:
        """Every value that a node, an input or an output names, numbered so that a view follows what it views."""
        made: list[Value] = []
        for value in self._named():
            chain = []
            at: Value | None = memory(value)
            while at is not None and at.number < 0:
                chain.append(at)
                at = memory(at.of) if at.of is not None else None
                if len(chain) > 100_000:
                    raise InputError("views of one another")
            for each in reversed(chain):
                each.number = len(made)
                made.append(each)
        return made

    def _named(self) -> Iterator[Value]:
        yield from self.inputs
        yield from self.kept
        for node in self.nodes:
            yield from node.inputs
            yield from node.outputs
        yield from self.outputs


def memory(value: Value) -> Value:
    """The value that is in memory in the place of this one."""
    while value.stored is not None:
        value = value.stored
    return value
