"""What a tower computes for what it reads: the ops of its stem, layers and projector."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from steelyard.errors import InputError
from steelyard.workload.blocks.writer import OpWriter
from steelyard.workload.graph import Graph
from steelyard.workload.op import Op, Size
from steelyard.workload.shapes import Layer, Shapes
from steelyard.workload.step import Step
from steelyard.workload.tower import Read, Tower
from steelyard.workload.transformer import layer_ops

__all__ = ["layer_parameters", "tower_graph"]


def layer_parameters(encoder: Shapes) -> int:
    """Parameters of the layers of an encoder."""
    ops = [op for i, layer in enumerate(encoder.layers) for op in layer_ops(encoder, layer, _ONE, f"layer{i}", False)]
    return round(float(Graph("", tuple(ops)).weight_elements()))


#: Enough to see every weight.
_ONE = Step.prefill(1, 1)


def tower_graph(tower: Tower, read: Read, count: Size = 1) -> Graph:
    """The ops that a tower runs for ``count`` images (or sounds) of which it reads this.

    Args:
        tower: with an encoder that is described.
        read: sequences and tokens of one image.
        count: images.

    Raises:
        InputError: its layers are not described.
    """
    if tower.encoder is None:
        raise InputError(f"only the weights of the {tower.name} are described, not what it computes", field="images")
    ops = list(_ops(tower, tower.encoder, read, count))
    for at, (first, seen) in enumerate(tower.before):
        assert first.encoder is not None
        ops[:0] = _ops(first, first.encoder, seen, count, f"tower_{at}_")
    return Graph(tower.name, tuple(ops), {"native_weights": tower.format})


def _ops(tower: Tower, encoder: Shapes, read: Read, count: Size, first: str = "tower") -> Iterator[Op]:
    for at, (sequences, positions) in enumerate(read.sequences):
        name = f"{first}{at}" if at else first.rstrip("_")
        step = Step(sequences * count, positions, positions)
        sizes: dict[str, Size] = {"t": step.tokens}
        for i, (inner, outer) in enumerate(tower.stem):
            yield _product(f"{name}.stem{i}", {**sizes, "i": inner, "o": outer})
        for i, layer in enumerate(encoder.layers):
            yield from layer_ops(encoder, *_windows(layer, step), f"{name}_layer{i}", False)
    for i, (rows, inner, outer) in enumerate(tower.projector):
        yield _product(
            f"{'projector' if first == 'tower' else first}{i}",
            {"t": read.handed * rows * count, "i": inner, "o": outer},
        )


def _windows(layer: Layer, step: Step) -> tuple[Layer, Step]:
    """The layer and its step, where it attends inside windows: each of these is a sequence of its own."""
    a = layer.attention
    if a is None or not a.chunk or a.causal:
        return layer, step
    cut = np.asarray(step.batch, dtype=np.float64) * step.new / np.minimum(a.chunk, step.new)
    size = np.minimum(a.chunk, step.new)
    return replace(layer, attention=replace(a, chunk=0)), Step(cut, size, size)


def _product(name: str, sizes: dict[str, Size]) -> Op:
    prefix, _, short = name.rpartition(".")
    return OpWriter(prefix or "tower", 1, sizes, "encoder").product(short, "t i, i o -> t o")
