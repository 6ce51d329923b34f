"""Detectors of the YOLO line: v9 (Wang et al. 2024, as deployed, without the branch that helps training) and v10 (Wang
et al. 2024, without suppression of boxes)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from steelyard.units import Quantity
from steelyard.workload.networks.builder import Builder
from steelyard.workload.networks.yolo import SIDES, found_boxes, fused, pyramid, unit, wide

__all__ = ["YoloV9", "YoloV10"]


def _heads(net: Builder, levels: Sequence[int], classes: int, box: int, named: int, *, groups: int) -> int:
    """Sides and classes of every level; ``groups`` of the boxes' layers, and 0: classes by depthwise layers."""
    made = []
    for x in levels:
        sides = unit(net, unit(net, x, box, 3), box, 3, groups=max(groups, 1))
        sides = net.conv(sides, SIDES, groups=max(groups, 1), bias=True)
        if groups:
            y = unit(net, unit(net, x, named, 3), named, 3)
        else:
            y = unit(net, unit(net, x, net.channels(x), 3, groups=net.channels(x)), named)
            y = unit(net, unit(net, y, named, 3, groups=named), named)
        y = net.concat([sides, net.conv(y, classes, bias=True)])
        made.append(net.view(y, net.shape(y)[0], SIDES + classes, -1))
    return found_boxes(net, made, classes)


@dataclass(frozen=True, slots=True)
class YoloV9:
    """Stages that keep every step (GELAN), a step being a split stack of residual blocks.

    ``widths`` of the four stages, ``reduced`` of the levels of the neck; ``depth``: residual blocks of a step;
    ``light``: the first stage is plain, images are halved by one convolution; else by two ways of half the channels.
    """

    stem: tuple[int, int] = (16, 32)
    widths: tuple[int, ...] = (32, 64, 96, 128)
    hidden: tuple[int, ...] = (32, 64, 96, 128)
    depth: int = 3
    neck: tuple[int, int] = (96, 64)
    back: tuple[int, int] = (48, 64)
    halved: tuple[int, ...] = (64, 96, 128)
    light: bool = True
    ways: bool = False
    classes: int = 80
    channels: int = 3

    def build(self, net: Builder, size: tuple[int, ...]) -> Sequence[int]:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`. Sides are multiples of 32."""
        x = unit(net, net.image(self.channels, size), self.stem[0], 3, 2)
        x = unit(net, x, self.stem[1], 3, 2)
        levels = []
        for i, (width, hidden) in enumerate(zip(self.widths, self.hidden, strict=True)):
            x = self._halve(net, x, self.halved[i - 1]) if i else x
            x = self._plain(net, x, width) if self.light and not i else self._stage(net, x, width, hidden)
            levels.append(x)
        _, p3, p4, x = levels
        h3, h4, h5 = self.hidden[1:]
        top = self._pools(net, x)
        middle = self._stage(net, net.concat([net.upsample(top), p4]), self.neck[0], h4)
        n3 = self._stage(net, net.concat([net.upsample(middle), p3]), self.neck[1], h3 if self.light else self.neck[1])
        x = net.concat([self._halve(net, n3, self.back[0]), middle])
        n4 = self._stage(net, x, self.neck[0], h4)
        x = net.concat([self._halve(net, n4, self.back[1]), top])
        n5 = self._stage(net, x, self.widths[-1], h5)
        first = net.channels(n3)
        box = -(-max(16, first // 4, SIDES) // 4) * 4
        return [_heads(net, (n3, n4, n5), self.classes, box, max(first, min(self.classes, 100)), groups=4)]

    def _plain(self, net: Builder, x: int, width: int) -> int:
        made = list(net.split(unit(net, x, width), 2))
        for _ in range(2):
            made.append(unit(net, made[-1], width // 2, 3))
        return fused(net, made, width)

    def _stage(self, net: Builder, x: int, width: int, hidden: int) -> int:
        made = list(net.split(unit(net, x, hidden), 2))
        for _ in range(2):
            made.append(unit(net, self._step(net, made[-1], hidden // 2), hidden // 2, 3))
        return fused(net, made, width)

    def _step(self, net: Builder, x: int, width: int) -> int:
        """Half of the channels through residual blocks, half past them; a block's first layer is folded of two."""
        y = unit(net, x, width // 2)
        for _ in range(self.depth):
            y = net.add(y, unit(net, unit(net, y, width // 2, 3), width // 2, 3))
        return fused(net, [y, unit(net, x, width // 2)], width)

    def _halve(self, net: Builder, x: int, width: int) -> int:
        x = net.avg_pool(x, 2, 1)
        if not self.ways:
            return _halved(net, x, width)
        a, b = net.split(x, 2)
        b = net.max_pool(b, 3, 2, 1)
        return net.concat([_halved(net, a, width // 2), unit(net, b, width // 2)])

    def _pools(self, net: Builder, x: int) -> int:
        """Three pools one behind the other, all four joined."""
        made = [unit(net, x, self.widths[-1] // 2)]
        for _ in range(3):
            made.append(net.max_pool(made[-1], 5, 1, 2))
        return fused(net, made, self.widths[-1])


def _halved(net: Builder, x: int, channels: int) -> int:
    """A 3x3 convolution at stride 2 with its norm and activation."""
    return net.conv_norm(x, channels, 3, 2, 1, act="silu")


#: Stages of v10 whose blocks are compact inverted ones (2: with a 7x7 in the middle): the backbone's 512 and 1024, the
#: neck's way down at 512, and up at 512 and 1024.
_COMPACT = {
    "n": (0, 0, 0, 0, 2),
    "s": (0, 2, 0, 0, 2),
    "m": (0, 1, 0, 1, 1),
    "b": (0, 1, 1, 1, 1),
    "l": (0, 1, 1, 1, 1),
    "x": (1, 1, 1, 1, 1),
}


@dataclass(frozen=True, slots=True)
class YoloV10:
    """Blocks that keep every step, some compact (depthwise, 1x1, depthwise, 1x1, depthwise), images halved channel by
    channel, attention at the top, light heads of one box an object."""

    scale: str = "n"
    depth: Annotated[float, Quantity("1", "times the blocks", gt=0, le=100)] = 0.33
    width: Annotated[float, Quantity("1", "times the channels", gt=0, le=100)] = 0.25
    most: int = 1024
    classes: int = 80
    channels: int = 3

    def build(self, net: Builder, size: tuple[int, ...]) -> Sequence[int]:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`. Sides are multiples of 32."""
        low, high, down, up, last = _COMPACT.get(self.scale, _COMPACT["n"])
        x = unit(net, unit(net, net.image(self.channels, size), self._wide(64), 3, 2), self._wide(128), 3, 2)
        x = self._block(net, x, 128, 3, 0, added=True)
        p3 = x = self._block(net, unit(net, x, self._wide(256), 3, 2), 256, 6, 0, added=True)
        p4 = x = self._block(net, self._halve(net, x, 512), 512, 6, low, added=True)
        x = self._block(net, self._halve(net, x, 1024), 1024, 3, high, added=True)
        top = self._attended(net, pyramid(net, x, self._wide(1024)))
        middle = self._block(net, net.concat([net.upsample(top), p4]), 512, 3, down)
        n3 = self._block(net, net.concat([net.upsample(middle), p3]), 256, 3, 0)
        n4 = self._block(net, net.concat([unit(net, n3, self._wide(256), 3, 2), middle]), 512, 3, up)
        n5 = self._block(net, net.concat([self._halve(net, n4, 512), top]), 1024, 3, last)
        first = net.channels(n3)
        named = max(first, min(self.classes, 100))
        return [_heads(net, (n3, n4, n5), self.classes, max(16, first // 4, SIDES), named, groups=0)]

    def _wide(self, channels: int) -> int:
        return wide(channels, self.width, self.most)

    def _halve(self, net: Builder, x: int, channels: int) -> int:
        c = self._wide(channels)
        return net.conv_norm(unit(net, x, c), c, 3, 2, groups=c, act="")

    def _block(self, net: Builder, x: int, channels: int, count: int, compact: int, *, added: bool = False) -> int:
        c = self._wide(channels)
        hidden = c // 2
        made = list(net.split(unit(net, x, 2 * hidden), 2))
        for _ in range(max(round(count * self.depth), 1)):
            y = made[-1]
            if compact:
                y = unit(net, unit(net, y, hidden, 3, groups=hidden), 2 * hidden)
                y = unit(net, y, 2 * hidden, 7 if compact == 2 else 3, groups=2 * hidden)
                y = unit(net, unit(net, y, hidden), hidden, 3, groups=hidden)
            else:
                y = unit(net, unit(net, y, hidden, 3), hidden, 3)
            made.append(net.add(made[-1], y) if compact or added else y)
        return fused(net, made, c)

    def _attended(self, net: Builder, x: int) -> int:
        """Half of the channels through attention whose keys are half as wide as its values, and two 1x1."""
        channels = net.channels(x)
        kept, y = net.split(unit(net, x, channels), 2)
        c = channels // 2
        heads = max(c // 64, 1)
        head, key = c // heads, c // heads // 2
        batch, _, height, width = net.shape(x)
        qkv = net.view(net.conv_norm(y, c + 2 * key * heads, act=""), batch, heads, 2 * key + head, -1)
        q, k, v = net.split(qkv, (key, key, head), 2)
        scores = net.softmax(net.mul(net.matmul(net.transpose(q), k), net.value((), "constant")))
        z = net.view(net.matmul(v, net.transpose(scores)), batch, c, height, width)
        z = net.add(z, net.conv_norm(net.view(net.copy(v), batch, c, height, width), c, 3, groups=c, act=""))
        y = net.add(y, net.conv_norm(z, c, act=""))
        y = net.add(y, net.conv_norm(unit(net, y, 2 * c), c, act=""))
        return fused(net, [kept, y], channels)
