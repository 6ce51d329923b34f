"""Networks that are trained while an architecture is searched: every choice is computed, and their outputs are mixed.

DARTS (Liu et al., ICLR 2019): cells of four nodes whose edges are sums of eight operations. PC-DARTS (Xu et al., ICLR
2020): the operations see one of ``parts`` of the channels, the others pass by. FBNet (Wu et al., CVPR 2019): each of 22
layers is the sum of all nine blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from steelyard.errors import InputError
from steelyard.units import Quantity
from steelyard.workload.networks.builder import Builder
from steelyard.workload.networks.spaces import FBNET_OPS, fbnet_layer, fbnet_layers

__all__ = ["DartsSupernet", "FbNetSupernet"]

#: Nodes of a cell, and the first of three cells that halve the image.
_NODES = 4


def _mixed(net: Builder, outputs: Sequence[int]) -> int:
    """The sum of outputs, each times its weight."""
    total = -1
    for y in outputs:
        weighed = net.mul(y, net.value((), "constant"))
        total = weighed if total < 0 else net.add(total, weighed)
    return total


@dataclass(frozen=True, slots=True)
class DartsSupernet:
    """Cells on small images, of which two halve the image; all operations of all edges are computed.

    ``parts``: of so many parts of the channels one sees the operations, the others pass by (PC-DARTS); 1: all do.
    ``sharp``: separable convolutions are one pair of a depthwise and a pointwise one, not two.
    ``halvings``: convolutions at the beginning that halve the image, of large images.
    """

    parts: Annotated[int, Quantity("1", "of which one sees the operations", ge=1, le=64)] = 1
    sharp: bool = False
    width: Annotated[int, Quantity("1", "channels of a node in the first cell", ge=1, le=4096)] = 16
    cells: Annotated[int, Quantity("1", "one above the other", ge=3, le=200)] = 8
    halvings: Annotated[int, Quantity("1", "convolutions that halve the image first", ge=0, le=3)] = 0
    channels: int = 3
    classes: int = 10

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`."""
        if self.width % self.parts:
            raise InputError(f"{self.width} channels have no {self.parts} parts", field="parts")
        x = net.image(self.channels, size)
        for i in range(self.halvings):
            x = net.conv_norm(x, self.width // (1 if i else 2), 3, 2)
        if not self.halvings:
            x = net.conv_norm(x, 3 * self.width, 3, act="")
        before, halved, width = x, False, self.width
        for i in range(self.cells):
            halves = i in (self.cells // 3, 2 * self.cells // 3)
            width *= 2 if halves else 1
            with net.within(f"cells.{i}"):
                before, x = x, self._cell(net, before, x, width, halves, halved)
            halved = halves
        return net.classify(x, self.classes)

    def _cell(self, net: Builder, before: int, x: int, width: int, halves: bool, halved: bool) -> int:
        nodes = [_halved(net, before, width) if halved else _unit(net, before, width), _unit(net, x, width)]
        for _ in range(_NODES):
            edges = [self._edge(net, y, 2 if halves and i < 2 else 1) for i, y in enumerate(nodes)]
            total = edges[0]
            for y in edges[1:]:
                total = net.add(total, y)
            nodes.append(total)
        return net.concat(nodes[2:], 1)

    def _edge(self, net: Builder, x: int, stride: int) -> int:
        """All operations of an edge, on one part of the channels."""
        if self.parts == 1:
            return self._operations(net, x, stride)
        c = net.channels(x)
        seen, passes = net.split(x, (c // self.parts, c - c // self.parts), 1)
        if stride > 1:
            passes = net.max_pool(passes, 2, 2)
        return net.channel_shuffle(net.concat([self._operations(net, seen, stride), passes], 1), self.parts)

    def _operations(self, net: Builder, x: int, stride: int) -> int:
        pools = [net.norm(pool(x, 3, stride, 1)) for pool in (net.max_pool, net.avg_pool)]
        skip = x if stride == 1 else _halved(net, x, net.channels(x))
        convolved = [self._separable(net, x, k, stride) for k in (3, 5)]
        dilated = [_pair(net, x, k, stride, 2) for k in (3, 5)]
        return _mixed(net, [*pools, skip, *convolved, *dilated])

    def _separable(self, net: Builder, x: int, kernel: int, stride: int) -> int:
        y = _pair(net, x, kernel, stride)
        return y if self.sharp else _pair(net, y, kernel)


def _unit(net: Builder, x: int, width: int) -> int:
    return net.conv_norm(net.act(x, "relu", inplace=False), width, act="")


def _halved(net: Builder, x: int, width: int) -> int:
    """Two pointwise convolutions of every other pixel, side by side."""
    y = net.act(x, "relu", inplace=False)
    return net.norm(net.concat([net.conv(y, width // 2, 1, 2), net.conv(y, width - width // 2, 1, 2)], 1))


def _pair(net: Builder, x: int, kernel: int, stride: int = 1, dilation: int = 1) -> int:
    """A depthwise and a pointwise convolution with a normalisation."""
    c = net.channels(x)
    y = net.conv(net.act(x, "relu", inplace=False), c, kernel, stride, groups=c, dilation=dilation)
    return net.norm(net.conv(y, c))


@dataclass(frozen=True, slots=True)
class FbNetSupernet:
    """22 layers, each the weighed sum of all blocks of :class:`~steelyard.workload.networks.spaces.FbNet`."""

    stem: int = 16
    head: int = 1984
    channels: int = 3
    classes: int = 1000

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`."""
        x = net.conv_norm(net.image(self.channels, size), self.stem, 3, 2)
        for i, (c, stride) in enumerate(fbnet_layers()):
            with net.within(f"blocks.{i}"):
                x = _mixed(net, [fbnet_layer(net, x, op, c, stride) for op in range(len(FBNET_OPS))])
        return net.classify(net.conv_norm(x, self.head), self.classes)
