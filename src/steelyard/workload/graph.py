"""A workload: ops in order, grouped into blocks, with sizes still open to scenarios."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from steelyard.workload.op import Array, Op

__all__ = ["Graph"]


@dataclass(frozen=True, eq=False)
class Graph:
    """Ops in execution order.

    Tensors connect by name within a block; every op carries how many copies run (``count``), so a model of 80 equal
    layers is a dozen ops. ``facts`` holds what a reader may want to know about where the graph came from.
    """

    name: str
    ops: tuple[Op, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    held: tuple[Op, ...] = ()
    """Ops whose weights are loaded, and which this step does not run."""

    def __iter__(self) -> Iterator[Op]:
        return iter(self.ops)

    def __len__(self) -> int:
        return len(self.ops)

    def where(self, test: Callable[[Op], bool]) -> Graph:
        """The ops for which ``test`` holds."""
        return replace(self, ops=tuple(op for op in self.ops if test(op)))

    def __add__(self, other: Graph) -> Graph:
        return replace(self, ops=self.ops + other.ops)

    def macs(self, dense: bool = False) -> Array:
        """Multiply-accumulates of the whole graph."""
        return self._total(op.macs(dense) * op.count for op in self.ops)

    def flops(self, dense: bool = False) -> Array:
        """Arithmetic operations of the whole graph (2 per MAC plus elementwise work)."""
        return self._total(op.flops(dense) * op.count for op in self.ops)

    def matmul_flops(self, dense: bool = False) -> Array:
        """2 x MACs: what framework FLOP counters report."""
        return 2.0 * self.macs(dense)

    def bytes(self, bits: Mapping[str, float]) -> Array:
        """Compulsory traffic when no op is fused, in bytes."""
        return self._total(op.bytes(bits) * op.count for op in self.ops)

    def weight_elements(self) -> Array:
        """Elements of all weights and tables stored, tied ones once: the parameter count."""
        return self._total(n for _, _, n in self.weights(held=True))

    def weights(self, *, held: bool = False) -> Iterator[tuple[Op, str, Array]]:
        """Every stored weight as ``(op, operand name, elements over all copies)``; with those that are ``held``."""
        for op in (*self.ops, *self.held) if held else self.ops:
            for operand in op.inputs:
                if operand.role in ("weight", "table") and operand.name not in op.tied:
                    yield op, operand.name, op.elements(operand, visited=False) * op.count

    @staticmethod
    def _total(values: Iterable[Array]) -> Array:
        total: Any = 0.0
        for value in values:
            total = total + value
        return np.asarray(total, dtype=np.float64)
