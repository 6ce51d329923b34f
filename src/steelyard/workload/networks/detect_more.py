"""Detectors: EfficientDet (Tan et al., CVPR 2020) and DETR (Carion et al., ECCV 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from steelyard.units import Quantity
from steelyard.workload.networks.builder import Builder
from steelyard.workload.networks.mobile import Mobile, Once, rounded
from steelyard.workload.networks.resnet import ResNet
from steelyard.workload.networks.values import symbol

__all__ = ["Detr", "EfficientDet"]

#: Stages of EfficientNet.
_STAGES = (
    *("ds 16 r4", "mb 24 s2 x6 n2 r4", "mb 40 k5 s2 x6 n2 r4", "mb 80 s2 x6 n3 r4", "mb 112 k5 x6 n3 r4"),
    *("mb 192 k5 s2 x6 n4 r4", "mb 320 x6 r4"),
)


@dataclass(frozen=True, slots=True)
class EfficientDet:
    """An EfficientNet, ``layers`` of a pyramid in both directions whose joints are weighed, shared separable heads."""

    width: Annotated[float, Quantity("1", "times the channels of the backbone", gt=0, le=100)] = 1.0
    depth: Annotated[float, Quantity("1", "times its blocks", gt=0, le=100)] = 1.0
    pyramid: int = 64
    layers: int = 3
    heads: int = 3
    anchors: int = 9
    classes: int = 90
    channels: int = 3

    def build(self, net: Builder, size: tuple[int, ...]) -> Sequence[int]:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`. Sides are multiples of 128."""
        body = Mobile(_STAGES, act="silu", width=self.width, depth=self.depth)
        x = net.conv_norm(net.image(self.channels, size), rounded(32 * self.width), 3, 2, act="silu")
        made: dict[int, int] = {}
        for i, row in enumerate(body.blocks()):
            for j, block in enumerate(row):
                with net.within(f"blocks.{i}.{j}"):
                    x = Once(net, block, "input")(x)
            made[net.size(x, 2)] = x
        levels = [net.conv_norm(x, self.pyramid, act="") for x in [*made.values()][-3:]]
        last = net.max_pool(net.conv_norm(x, self.pyramid, act=""), 3, 2, 1)
        levels += [last, net.max_pool(last, 3, 2, 1)]
        given = [*made.values()][-2:]
        for i in range(self.layers):
            with net.within(f"pyramid.{i}"):
                levels = self._joined(net, levels, given if not i else ())
        return [self._head(net, levels, numbers) for numbers in (self.classes, 4)]

    def _joined(self, net: Builder, levels: list[int], given: Sequence[int]) -> list[int]:
        """From the top down, and up again beside what was given; the first layer sees the backbone once more."""
        down = [levels[-1]]
        for x in reversed(levels[:-1]):
            down.insert(0, self._sum(net, [x, net.upsample(down[0])]))
        up = [down[0]]
        second = [net.conv_norm(x, self.pyramid, act="") for x in given] or levels[1:3]
        kept = [*second, *levels[3:]]
        for i, x in enumerate(down[1:]):
            lower = net.max_pool(up[-1], 3, 2, 1)
            parts = [kept[i], x, lower] if i < len(down) - 2 else [x, lower]
            up.append(self._sum(net, parts))
        return up

    def _sum(self, net: Builder, parts: Sequence[int]) -> int:
        """A sum with a learned weight for each part, and a separable convolution."""
        y = net.scale(parts[0])
        for part in parts[1:]:
            y = net.add(y, net.scale(part))
        return self._separable(net, net.act(y, "silu"), self.pyramid, normed=True)

    def _separable(self, net: Builder, x: int, channels: int, *, normed: bool) -> int:
        y = net.conv(net.conv(x, net.channels(x), 3, groups=net.channels(x)), channels, bias=True)
        return net.norm(y) if normed else y

    def _head(self, net: Builder, levels: Sequence[int], numbers: int) -> int:
        made = []
        for x in levels:
            with net.sharing(f"head of {numbers}"):
                for _ in range(self.heads):
                    x = net.act(self._separable(net, x, self.pyramid, normed=True), "silu")
                x = self._separable(net, x, self.anchors * numbers, normed=False)
            batch = net.shape(x)[0]
            made.append(net.view(net.copy(net.permute(x, 0, 2, 3, 1)), batch, -1, numbers))
        return net.concat(made)


@dataclass(frozen=True, slots=True)
class Detr:
    """A ResNet, layers of attention over its last map, and layers of queries that look at it: a box for each."""

    depths: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 256
    heads: int = 8
    hidden: int = 2048
    encoder: int = 6
    decoder: int = 6
    queries: int = 100
    classes: int = 91
    channels: int = 3

    def build(self, net: Builder, size: tuple[int, ...]) -> Sequence[int]:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`."""
        batch = symbol("batch")
        x = ResNet(self.depths).stages(net, net.image(self.channels, size))[-1]
        x = net.conv(x, self.width, bias=True)
        x = net.copy(net.transpose(net.flatten(x, 2), 1, 2))
        place = net.value(net.shape(x), "constant")
        for i in range(self.encoder):
            with net.within(f"encoder.{i}"):
                seen = net.add(x, place)
                x = self._after(net, x, self._attend(net, seen, seen, x))
                x = self._after(net, x, net.mlp(x, self.hidden, "relu"))
        learned = net.weight(1, self.queries, self.width)
        y = net.expand(net.value((1, 1, self.width), "constant"), batch, self.queries, self.width)
        for i in range(self.decoder):
            with net.within(f"decoder.{i}"):
                asked = net.add(y, learned)
                y = self._after(net, y, self._attend(net, asked, asked, y))
                y = self._after(net, y, self._attend(net, net.add(y, learned), net.add(x, place), x))
                y = self._after(net, y, net.mlp(y, self.hidden, "relu"))
        y = net.layer_norm(y)
        box = y
        for _ in range(2):
            box = net.act(net.linear(box, self.width), "relu", inplace=False)
        return [net.linear(y, self.classes + 1), net.sigmoid(net.linear(box, 4))]

    def _after(self, net: Builder, x: int, y: int) -> int:
        return net.layer_norm(net.add(x, y))

    def _attend(self, net: Builder, queries: int, keys: int, values: int) -> int:
        batch, rows, c = net.shape(queries)
        head = self.width // self.heads

        def parted(x: int) -> int:
            length = net.shape(x)[1]
            return net.transpose(net.view(net.linear(x, self.width), batch, length, self.heads, head), 1, 2)

        y = net.attention(parted(queries), parted(keys), parted(values))
        return net.linear(net.view(net.copy(net.transpose(y, 1, 2)), batch, rows, c), self.width)
