"""Optimizers as data: what they keep of a parameter, what an update reads and writes, and what it multiplies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated

from steelyard.documents import build_file
from steelyard.errors import UnknownName, normalise
from steelyard.folders import catalogue_files
from steelyard.units import Quantity

__all__ = ["Optimizer", "find_optimizer", "optimizers"]


@dataclass(frozen=True, slots=True)
class Optimizer:
    """One rule of updating."""

    __pydantic_config__ = {"extra": "forbid"}

    name: str
    title: str
    state_bytes: Annotated[float, Quantity("byte", "kept of a parameter beside weight, master copy and gradient", ge=0)]
    aliases: tuple[str, ...] = ()
    master: Annotated[bool, "keeps a copy of a 16-bit weight in 32 bits"] = True
    rows: Annotated[bool, "keeps state for rows and columns of a matrix, not for its elements"] = False
    products: Annotated[
        float, Quantity("1", "products of a weight with itself in an update (n x n by n x m)", ge=0)
    ] = 0.0
    gradient: Annotated[bool, "has gradients (zeroth-order methods have none)"] = True
    source: str = ""

    @property
    def master_bytes(self) -> float:
        """Of the 32-bit copy."""
        return 4.0 if self.master else 0.0

    def update_bytes(self, weight_bytes: float, gradient_bytes: float) -> float:
        """Traffic of an update per parameter: everything read once, all but the gradient written back."""
        kept = self.state_bytes + self.master_bytes
        return gradient_bytes + 2.0 * kept + weight_bytes * (1.0 if self.master else 2.0)


@dataclass(frozen=True, slots=True)
class _File:
    __pydantic_config__ = {"extra": "forbid"}

    optimizer: tuple[Optimizer, ...] = field(default_factory=tuple)


@cache
def optimizers() -> Mapping[str, Optimizer]:
    """Every optimizer by name; the user's come first. Raises :class:`InputError` where a file is wrong."""
    found: dict[str, Optimizer] = {}
    for path in catalogue_files("optimizers"):
        for one in build_file(_File, path).optimizer:
            found.setdefault(one.name, one)
    return found


def find_optimizer(name: str) -> Optimizer:
    """The optimizer of this name. Raises :class:`UnknownName`."""
    wanted = normalise(name)
    for one in optimizers().values():
        if wanted in {normalise(n) for n in (one.name, *one.aliases)}:
            return one
    raise UnknownName("optimizer", name, optimizers())
