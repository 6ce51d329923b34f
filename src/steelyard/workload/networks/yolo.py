"""Detectors of the YOLO line: v3 (Redmon and Farhadi 2018), v5 (2020, release 6.0), YOLOX (Ge et al. 2021), v8 (2023)
and 11 (2024)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from steelyard.units import Quantity
from steelyard.workload.networks.builder import Builder
from steelyard.workload.networks.sizes import divided

__all__ = ["SIDES", "YoloV3", "YoloV5", "YoloV8", "YoloX", "found_boxes", "fused", "pyramid", "unit", "wide"]

#: Masks are sums of so many images of a detector with masks; a pose has so many numbers.
_MASKS, _POSE = 32, 17 * 3
#: A box's four sides are each a distribution over so many places.
SIDES = 4 * 16


def fused(net: Builder, parts: Sequence[int], channels: int) -> int:
    return unit(net, net.concat(parts), channels)


def unit(net: Builder, x: int, channels: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> int:
    return net.conv_norm(x, channels, kernel, stride, groups=groups, act="silu")


def _step(net: Builder, x: int, hidden: int, first: int, *, added: bool) -> int:
    """Two convolutions, of which the second is a 3x3, and a shortcut."""
    y = unit(net, unit(net, x, hidden, first), net.channels(x), 3)
    return net.add(x, y) if added else y


def pyramid(net: Builder, x: int, channels: int) -> int:
    """Three pools one behind the other, all four joined."""
    made = [unit(net, x, net.channels(x) // 2)]
    for _ in range(3):
        made.append(net.max_pool(made[-1], 5, 1, 2))
    return fused(net, made, channels)


def _c3(net: Builder, x: int, channels: int, count: int, *, added: bool = True) -> int:
    """Half of the channels through steps, half past them, joined."""
    y = unit(net, x, channels // 2)
    for _ in range(count):
        y = _step(net, y, channels // 2, 1, added=added)
    return fused(net, [y, unit(net, x, channels // 2)], channels)


def _prototypes(net: Builder, x: int, channels: int, *, learned: bool) -> int:
    """Images that masks are sums of, at twice the size; ``learned``: made larger by a transposed convolution."""
    y = unit(net, x, channels, 3)
    y = net.deconv(y, channels, 2, 2) if learned else net.upsample(y)
    return unit(net, unit(net, y, channels, 3), _MASKS)


def wide(channels: int, width: float, most: int) -> int:
    return -int(-min(channels, most) * width // 8) * 8


@dataclass(frozen=True, slots=True)
class YoloV5:
    """C3 blocks, a pyramid of pools, three heads of anchors; ``masks``: they put out masks too."""

    depth: Annotated[float, Quantity("1", "times the blocks", gt=0, le=100)] = 0.33
    width: Annotated[float, Quantity("1", "times the channels", gt=0, le=100)] = 0.5
    classes: int = 80
    anchors: int = 3
    masks: bool = False
    channels: int = 3

    def build(self, net: Builder, size: tuple[int, ...]) -> Sequence[int]:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`. Sides are multiples of 32."""
        c64, c128, c256, c512, c1024 = (wide(64 * 2**i, self.width, 1 << 20) for i in range(5))
        x = net.conv_norm(net.image(self.channels, size), c64, 6, 2, 2, act="silu")
        x = self._c3(net, unit(net, x, c128, 3, 2), c128, 3)
        p3 = self._c3(net, unit(net, x, c256, 3, 2), c256, 6)
        p4 = self._c3(net, unit(net, p3, c512, 3, 2), c512, 9)
        x = self._c3(net, unit(net, p4, c1024, 3, 2), c1024, 3)
        top = unit(net, pyramid(net, x, c1024), c512)
        x = self._c3(net, net.concat([net.upsample(top), p4]), c512, 3, added=False)
        middle = unit(net, x, c256)
        n3 = self._c3(net, net.concat([net.upsample(middle), p3]), c256, 3, added=False)
        n4 = self._c3(net, net.concat([unit(net, n3, c256, 3, 2), middle]), c512, 3, added=False)
        n5 = self._c3(net, net.concat([unit(net, n4, c512, 3, 2), top]), c1024, 3, added=False)
        made = [self._head(net, x) for x in (n3, n4, n5)]
        return [*made, _prototypes(net, n3, c256, learned=False)] if self.masks else made

    def _c3(self, net: Builder, x: int, channels: int, count: int, *, added: bool = True) -> int:
        return _c3(net, x, channels, max(round(count * self.depth), 1), added=added)

    def _head(self, net: Builder, x: int) -> int:
        numbers = self.classes + 5 + (_MASKS if self.masks else 0)
        y = net.conv(x, self.anchors * numbers, bias=True)
        batch, _, height, width = net.shape(y)
        y = net.copy(net.permute(net.view(y, batch, self.anchors, numbers, height, width), 0, 1, 3, 4, 2))
        return net.sigmoid(y)


#: What stages of YOLO 11 and v8 hold: channels, blocks, the expansion of the block, whether YOLO 11 nests in it.
_STAGES = {
    "8": ((128, 3, 0.5, False), (256, 6, 0.5, False), (512, 6, 0.5, False), (1024, 3, 0.5, False)),
    "11": ((256, 2, 0.25, False), (512, 2, 0.25, False), (512, 2, 0.5, True), (1024, 2, 0.5, True)),
}


@dataclass(frozen=True, slots=True)
class YoloV8:
    """Blocks that keep every step, heads without anchors that put out distributions of box sides.

    ``version`` 11 has smaller steps, nested blocks (``nested``: everywhere), attention at the top and depthwise heads.
    """

    depth: Annotated[float, Quantity("1", "times the blocks", gt=0, le=100)] = 0.33
    width: Annotated[float, Quantity("1", "times the channels", gt=0, le=100)] = 0.25
    most: int = 1024
    version: Literal["8", "11"] = "8"
    nested: bool = False
    finds: Literal["boxes", "masks", "poses"] = "boxes"
    classes: int = 80
    channels: int = 3

    def build(self, net: Builder, size: tuple[int, ...]) -> Sequence[int]:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`. Sides are multiples of 32."""
        later = self.version == "11"
        count = 2 if later else 3
        x = unit(net, net.image(self.channels, size), self._wide(64), 3, 2)
        levels = []
        for i, (c, n, expand, nested) in enumerate(_STAGES[self.version]):
            x = unit(net, x, self._wide(128 * 2**i), 3, 2)
            x = self._block(net, x, self._wide(c), n, expand=expand, nested=nested)
            levels.append(x)
        p3, p4 = levels[1], levels[2]
        top = pyramid(net, x, self._wide(1024))
        if later:
            top = self._attended(net, top)
        x = self._block(net, net.concat([net.upsample(top), p4]), self._wide(512), count, added=later)
        n3 = self._block(net, net.concat([net.upsample(x), p3]), self._wide(256), count, added=later)
        y = net.concat([unit(net, n3, self._wide(256), 3, 2), x])
        n4 = self._block(net, y, self._wide(512), count, added=later)
        y = net.concat([unit(net, n4, self._wide(512), 3, 2), top])
        n5 = self._block(net, y, self._wide(1024), count, added=later, nested=later)
        levels = [n3, n4, n5]
        made = []
        if self.finds == "masks":
            made = [_prototypes(net, n3, self._wide(256), learned=True), self._more(net, levels, _MASKS)]
        if self.finds == "poses":
            made = [self._more(net, levels, _POSE)]
        return [*self._heads(net, levels), *made]

    def _more(self, net: Builder, levels: Sequence[int], numbers: int) -> int:
        """Numbers of every place beside its box: parts of masks, points of a pose."""
        hidden = max(net.channels(levels[0]) // 4, numbers)
        made = []
        for x in levels:
            y = net.conv(unit(net, unit(net, x, hidden, 3), hidden, 3), numbers, bias=True)
            made.append(net.view(y, net.shape(y)[0], numbers, -1))
        return net.concat(made, 2)

    def _wide(self, channels: int) -> int:
        return wide(channels, self.width, self.most)

    def _count(self, count: int) -> int:
        return max(round(count * self.depth), 1)

    def _block(
        self,
        net: Builder,
        x: int,
        channels: int,
        count: int,
        *,
        expand: float = 0.5,
        nested: bool = False,
        added: bool = True,
    ) -> int:
        hidden = int(channels * expand)
        made = list(net.split(unit(net, x, 2 * hidden), 2))
        for _ in range(self._count(count)):
            if self.version == "11" and (nested or self.nested):
                y = unit(net, made[-1], hidden // 2)
                for _ in range(2):
                    y = _step(net, y, hidden // 2, 3, added=added)
                made.append(fused(net, [y, unit(net, made[-1], hidden // 2)], hidden))
            else:
                inner = hidden // 2 if self.version == "11" else hidden
                made.append(_step(net, made[-1], inner, 3, added=added))
        return fused(net, made, channels)

    def _attended(self, net: Builder, x: int) -> int:
        channels = net.channels(x)
        kept, y = net.split(unit(net, x, channels), 2)
        c = channels // 2
        heads = max(c // 64, 1)
        head = c // heads
        key = head // 2
        batch, _, height, width = net.shape(x)
        for _ in range(self._count(2)):
            qkv = net.conv_norm(y, c + 2 * key * heads, act="")
            q, k, v = net.split(net.view(qkv, batch, heads, 2 * key + head, -1), (key, key, head), 2)
            scores = net.softmax(net.mul(net.matmul(net.transpose(q), k), net.value((), "constant")))
            z = net.view(net.matmul(v, net.transpose(scores)), batch, c, height, width)
            z = net.add(z, net.conv_norm(net.view(net.copy(v), batch, c, height, width), c, 3, groups=c, act=""))
            y = net.add(y, net.conv_norm(z, c, act=""))
            y = net.add(y, net.conv_norm(unit(net, y, 2 * c), c, act=""))
        return fused(net, [kept, y], channels)

    def _heads(self, net: Builder, levels: Sequence[int]) -> Sequence[int]:
        """Sides as distributions over 16 places, classes; boxes from their means."""
        first = net.channels(levels[0])
        box, named = max(16, first // 4, SIDES), max(first, min(self.classes, 100))
        batch = net.shape(levels[0])[0]
        made = []
        for x in levels:
            sides = net.conv(unit(net, unit(net, x, box, 3), box, 3), SIDES, bias=True)
            if self.version == "8":
                y = unit(net, unit(net, x, named, 3), named, 3)
            else:
                c = net.channels(x)
                y = unit(net, unit(net, x, c, 3, groups=c), named)
                y = unit(net, unit(net, y, named, 3, groups=named), named)
            y = net.concat([sides, net.conv(y, self.classes, bias=True)])
            made.append(net.view(y, batch, SIDES + self.classes, -1))
        return [found_boxes(net, made, self.classes)]


def found_boxes(net: Builder, levels: Sequence[int], classes: int) -> int:
    """Boxes from the means of their sides' distributions over 16 places, and a score for each class."""
    y = net.concat(levels, 2)
    batch, _, places = net.shape(y)
    sides, named = net.split(y, (SIDES, classes))
    sides = net.softmax(net.copy(net.permute(net.view(sides, batch, 4, SIDES // 4, places), 0, 3, 1, 2)))
    sides = net.view(net.conv(net.permute(sides, 0, 3, 2, 1), 1), batch, 4, places)
    near, far = net.split(sides, 2)
    boxes = net.concat([net.binary("sub", near, near), net.add(far, far)])
    return net.concat([net.mul(boxes, net.value((1, places), "constant")), net.sigmoid(named)])


@dataclass(frozen=True, slots=True)
class YoloV3:
    """Darknet-53 with leaky rectifiers and three heads."""

    classes: int = 80
    anchors: int = 3
    channels: int = 3

    def build(self, net: Builder, size: tuple[int, ...]) -> Sequence[int]:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`. Sides are multiples of 32."""
        x = self._leaky(net, net.image(self.channels, size), 32, 3)
        levels = []
        for count, width in ((1, 64), (2, 128), (8, 256), (8, 512), (4, 1024)):
            x = self._leaky(net, x, width, 3, 2)
            for _ in range(count):
                x = net.add(x, self._leaky(net, self._leaky(net, x, width // 2), width, 3))
            levels.append(x)
        made = []
        for i, width in enumerate((512, 256, 128)):
            if i:
                x = net.concat([net.upsample(self._leaky(net, x, width)), levels[4 - i]])
            for _ in range(2):
                x = self._leaky(net, self._leaky(net, x, width), 2 * width, 3)
            x = self._leaky(net, x, width)
            made.append(net.conv(self._leaky(net, x, 2 * width, 3), self.anchors * (self.classes + 5), bias=True))
        return made

    def _leaky(self, net: Builder, x: int, channels: int, kernel: int = 1, stride: int = 1) -> int:
        return net.conv_norm(x, channels, kernel, stride, act="leaky_relu")


@dataclass(frozen=True, slots=True)
class YoloX:
    """C3 blocks after an image cut into four, heads without anchors that part classes from boxes."""

    depth: Annotated[float, Quantity("1", "times the blocks", gt=0, le=100)] = 0.33
    width: Annotated[float, Quantity("1", "times the channels", gt=0, le=100)] = 0.5
    classes: int = 80
    channels: int = 3

    def build(self, net: Builder, size: tuple[int, ...]) -> Sequence[int]:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`. Sides are multiples of 32."""
        n = max(round(self.depth * 3), 1)
        c64, c128, c256, c512, c1024 = (int(64 * 2**i * self.width) for i in range(5))
        x = net.image(self.channels, size)
        _, _, height, width = net.shape(x)
        quarter = net.part(net.part(x, divided(height, 2), 2), divided(width, 2), 3)
        x = unit(net, net.concat([quarter] * 4), c64, 3)
        x = _c3(net, unit(net, x, c128, 3, 2), c128, n)
        p3 = _c3(net, unit(net, x, c256, 3, 2), c256, 3 * n)
        p4 = _c3(net, unit(net, p3, c512, 3, 2), c512, 3 * n)
        x = unit(net, unit(net, p4, c1024, 3, 2), c512)
        x = fused(net, [x, *(net.max_pool(x, k, 1, k // 2) for k in (5, 9, 13))], c1024)
        top = unit(net, _c3(net, x, c1024, n, added=False), c512)
        x = _c3(net, net.concat([net.upsample(top), p4]), c512, n, added=False)
        middle = unit(net, x, c256)
        n3 = _c3(net, net.concat([net.upsample(middle), p3]), c256, n, added=False)
        n4 = _c3(net, net.concat([unit(net, n3, c256, 3, 2), middle]), c512, n, added=False)
        n5 = _c3(net, net.concat([unit(net, n4, c512, 3, 2), top]), c1024, n, added=False)
        return [self._head(net, x, c256) for x in (n3, n4, n5)]

    def _head(self, net: Builder, x: int, width: int) -> int:
        x = unit(net, x, width)
        named = unit(net, unit(net, x, width, 3), width, 3)
        boxes = unit(net, unit(net, x, width, 3), width, 3)
        sure = net.sigmoid(net.conv(boxes, 1, bias=True))
        classes = net.sigmoid(net.conv(named, self.classes, bias=True))
        return net.concat([net.conv(boxes, 4, bias=True), sure, classes])
