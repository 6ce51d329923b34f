"""What ops of frameworks are: one table for the names of PyTorch (aten) and ONNX, the folder ``ops`` of a catalogue."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated

from steelyard.documents import build_file
from steelyard.errors import Problem, UnknownName, raise_all
from steelyard.folders import catalogue_files
from steelyard.units import Quantity

__all__ = ["GROUPS", "OpKind", "kind_of", "named_by", "op_kinds"]

#: What cost models tell apart.
GROUPS: tuple[str, ...] = (
    *("product", "pointwise", "norm", "softmax", "reduce", "pool", "resize", "move", "view", "gather", "scatter"),
    *("sort", "recurrent", "scan", "transform", "fill", "unknown"),
)


@dataclass(frozen=True, slots=True)
class OpKind:
    """One row of the table."""

    __pydantic_config__ = {"extra": "forbid"}

    name: str
    group: Annotated[str, "what it is to a cost model: product, pointwise, norm, move, gather, ..."]
    cost: Annotated[float, Quantity("1", "arithmetic operations per element of the larger side", ge=0, le=1e6)] = 1.0
    aten: Annotated[tuple[str, ...], "names of PyTorch, without the underscore of ops in place"] = ()
    onnx: Annotated[tuple[str, ...], "names of ONNX"] = ()

    def __post_init__(self) -> None:
        raise_all(list(self._problems()))

    def _problems(self) -> Iterator[Problem]:
        if self.group not in GROUPS:
            yield Problem("group", UnknownName("group of ops", self.group, GROUPS).message)


@dataclass(frozen=True, slots=True)
class _File:
    """One file of the table."""

    __pydantic_config__ = {"extra": "forbid"}

    op: tuple[OpKind, ...] = field(default_factory=tuple)


@cache
def op_kinds() -> Mapping[str, OpKind]:
    """Every row by name; the user's come before ours. Raises :class:`InputError` where a file is wrong."""
    found: dict[str, OpKind] = {}
    for path in catalogue_files("ops"):
        for kind in build_file(_File, path).op:
            found.setdefault(kind.name, kind)
    return found


@cache
def _names(framework: str) -> Mapping[str, str]:
    """The row of each name of a framework."""
    found: dict[str, str] = {}
    for kind in op_kinds().values():
        for name in kind.aten if framework == "aten" else kind.onnx:
            found.setdefault(name, kind.name)
    return found


def named_by(framework: str, name: str) -> str:
    """The row of an op that ``aten`` or ``onnx`` calls so; ``unknown:NAME`` where the table has none.

    A trailing underscore of aten (in place) is left out.
    """
    names = _names(framework)
    for known in (name, name.rstrip("_")):
        if known in names:
            return names[known]
    return f"unknown:{name}"


def kind_of(op: str) -> OpKind:
    """The row of a node's op; an op that no row has is traffic and one operation per element."""
    known = op_kinds().get(op)
    return known if known is not None else OpKind(op, "unknown")
