"""Small products beside the blocks of a layer: low-rank gates, adapters, convolutions, scales."""

from __future__ import annotations

from collections.abc import Iterator

from steelyard.workload.blocks.writer import OpWriter
from steelyard.workload.op import Op, Size
from steelyard.workload.shapes import Beside, Layer
from steelyard.workload.step import Step

__all__ = ["beside_ops"]


def beside_ops(layer: Layer, step: Step, prefix: str) -> Iterator[Op]:
    """What runs beside the blocks of ``layer.count`` copies for every token of the step."""
    for part in layer.beside:
        yield _beside(part, OpWriter(prefix, layer.count, {"t": step.tokens * part.uses}, "streams"))


def _beside(part: Beside, w: OpWriter) -> Op:
    if not part.inputs:
        # scales and shifts belong to the kernels before them: no traffic of their own
        roles, more = ("activation", "weight", "activation"), {"i": part.outputs}
        names = ("x", part.name, "y")
        return w.op(
            part.name, "t i, i -> t i", names, roles, reduce="none", bits={part.name: 16, "x": 0, "y": 0}, more=more
        )
    sizes: dict[str, Size] = {"n": part.groups, "i": part.inputs // part.groups, "o": part.outputs // part.groups}
    if part.taps > 1 and part.groups == part.inputs == part.outputs:
        return w.product(part.name, "t+w i, i w -> t i", {"i": part.inputs, "w": part.taps})
    if part.taps > 1:
        return w.product(part.name, "t+w n i, n i o w -> t n o", {**sizes, "w": part.taps})
    if part.groups > 1:
        return w.product(part.name, "t n i, n i o -> t n o", sizes)
    if part.heads:
        return w.product(part.name, "t i, i h c -> t h c", {**sizes, "h": part.heads, "c": part.outputs // part.heads})
    if not part.stored:
        return w.op(part.name, "t i, i o -> t o", ("x", "z", "y"), ("activation",) * 3, more=sizes)
    return w.product(part.name, "t i, i o -> t o", sizes)
