"""What nobody described, priced as what it is at least: every weight matrix multiplies every token once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from steelyard.workload.blocks.writer import OpWriter
from steelyard.workload.op import Op, Size
from steelyard.workload.shapes import Layer, Mixer, Shapes
from steelyard.workload.step import Step

__all__ = ["Products"]


@dataclass(frozen=True, slots=True)
class Products:
    """Products of plain matrices, and vectors, beside what else a layer has."""

    matrices: tuple[tuple[int, int, int], ...] = ()
    """``(copies, inputs, outputs)`` of each shape."""
    vectors: int = 0
    """Elements of all other parameters."""
    beside: Mixer | None = None
    """The layer's own mixer."""

    @property
    def state(self) -> tuple[tuple[int, int], ...]:
        """That of the mixer beside them: what nobody described keeps nothing that is known."""
        return self.beside.state if self.beside is not None else ()

    def ops(self, model: Shapes, layer: Layer, step: Step, prefix: str) -> Iterator[Op]:
        """The mixer's ops, then one product per shape; what reads the hidden width is split by outputs."""
        if self.beside is not None:
            yield from self.beside.ops(model, layer, step, prefix)
        for i, (copies, inputs, outputs) in enumerate(self.matrices):
            sizes: dict[str, Size] = {"t": step.tokens, "u": copies, "d": inputs, "f": outputs}
            w = OpWriter(f"{prefix}.plain", layer.count, sizes)
            if outputs == model.hidden != inputs:
                more: dict[str, Size] = {"f": inputs, "d": outputs}
                yield w.product(f"{i}", "t u f, u f d -> t u d", more)
            else:
                yield w.product(f"{i}", "t d, u d f -> t u f")
        if self.vectors:
            w = OpWriter(f"{prefix}.plain", layer.count, {"t": step.tokens, "n": self.vectors})
            yield w.vectors("vectors", "n", "n")
