"""Detectors of the YOLO line: v4 (Bochkovskiy et al. 2020) and v6 (Li et al. 2023, release 3.0, as deployed)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from steelyard.units import Quantity
from steelyard.workload.networks.builder import Builder
from steelyard.workload.networks.yolo import wide

__all__ = ["YoloV4", "YoloV6"]


@dataclass(frozen=True, slots=True)
class YoloV4:
    """Darknet-53 whose stages send half of their channels past the residual blocks, pools, a path up and one down."""

    classes: int = 80
    anchors: int = 3
    channels: int = 3

    def build(self, net: Builder, size: tuple[int, ...]) -> Sequence[int]:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`. Sides are multiples of 32."""
        x = self._mish(net, net.image(self.channels, size), 32, 3)
        levels = []
        for i, count in enumerate((1, 2, 8, 8, 4)):
            x = self._stage(net, x, 64 * 2**i, count, first=not i)
            levels.append(x)
        _, _, p3, p4, x = levels
        x = self._row(net, x, 512, 3)
        x = net.concat([*(net.max_pool(x, k, 1, k // 2) for k in (13, 9, 5)), x])
        top = self._row(net, x, 512, 3)
        middle = self._up(net, top, p4, 256)
        low = self._up(net, middle, p3, 128)
        made = [self._head(net, low, 256)]
        x = low
        for beside, width in ((middle, 256), (top, 512)):
            x = net.concat([self._leaky(net, x, width, 3, 2), beside])
            x = self._row(net, x, width, 5)
            made.append(self._head(net, x, 2 * width))
        return made

    def _stage(self, net: Builder, x: int, width: int, count: int, *, first: bool) -> int:
        x = self._mish(net, x, width, 3, 2)
        half = width if first else width // 2
        past, y = self._mish(net, x, half), self._mish(net, x, half)
        for _ in range(count):
            y = net.add(y, self._mish(net, self._mish(net, y, width // 2), half, 3))
        return self._mish(net, net.concat([self._mish(net, y, half), past]), width)

    def _up(self, net: Builder, x: int, beside: int, width: int) -> int:
        y = net.upsample(self._leaky(net, x, width))
        return self._row(net, net.concat([self._leaky(net, beside, width), y]), width, 5)

    def _row(self, net: Builder, x: int, width: int, count: int) -> int:
        for i in range(count):
            x = self._leaky(net, x, 2 * width, 3) if i % 2 else self._leaky(net, x, width)
        return x

    def _head(self, net: Builder, x: int, width: int) -> int:
        return net.conv(self._leaky(net, x, width, 3), self.anchors * (self.classes + 5), bias=True)

    def _mish(self, net: Builder, x: int, channels: int, kernel: int = 1, stride: int = 1) -> int:
        return net.act(net.norm(net.conv(x, channels, kernel, stride)), "mish", inplace=False)

    def _leaky(self, net: Builder, x: int, channels: int, kernel: int = 1, stride: int = 1) -> int:
        return net.conv_norm(x, channels, kernel, stride, act="leaky_relu")


@dataclass(frozen=True, slots=True)
class YoloV6:
    """Plain 3x3 layers, each folded of three branches, a neck that joins three levels at a time, two light heads."""

    depth: Annotated[float, Quantity("1", "times the blocks", gt=0, le=100)] = 0.33
    width: Annotated[float, Quantity("1", "times the channels", gt=0, le=100)] = 0.25
    classes: int = 80
    channels: int = 3

    def build(self, net: Builder, size: tuple[int, ...]) -> Sequence[int]:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`. Sides are multiples of 32."""
        x = self._plain(net, net.image(self.channels, size), 64, 2)
        levels = []
        for i, count in enumerate((6, 12, 18, 6)):
            x = self._row(net, self._plain(net, x, 128 * 2**i, 2), 128 * 2**i, count)
            levels.append(x)
        p2, p3, p4, x = levels
        top = self._relu(net, self._pools(net, x), 256)
        middle = self._row(net, self._join(net, top, p4, p3, 256), 256, 12)
        between = self._relu(net, middle, 128)
        n3 = self._row(net, self._join(net, between, p3, p2, 128), 128, 12)
        n4 = self._row(net, net.concat([self._relu(net, n3, 128, 3, 2), between]), 256, 12)
        n5 = self._row(net, net.concat([self._relu(net, n4, 256, 3, 2), top]), 512, 12)
        return [self._head(net, x) for x in (n3, n4, n5)]

    def _wide(self, channels: int) -> int:
        return wide(channels, self.width, 1 << 20)

    def _plain(self, net: Builder, x: int, channels: int, stride: int = 1) -> int:
        return net.relu(net.conv(x, self._wide(channels), 3, stride, bias=True))

    def _row(self, net: Builder, x: int, channels: int, count: int) -> int:
        for _ in range(max(round(count * self.depth), 1)):
            x = self._plain(net, x, channels)
        return x

    def _relu(self, net: Builder, x: int, channels: int, kernel: int = 1, stride: int = 1) -> int:
        return net.conv_norm(x, self._wide(channels), kernel, stride)

    def _pools(self, net: Builder, x: int) -> int:
        """Half of the channels through pools, half past them."""
        y = self._relu(net, x, 512)
        y = self._relu(net, self._relu(net, y, 512, 3), 512)
        pools = [y]
        for _ in range(3):
            pools.append(net.max_pool(pools[-1], 5, 1, 2))
        y = self._relu(net, self._relu(net, net.concat(pools), 512), 512, 3)
        return self._relu(net, net.concat([self._relu(net, x, 512), y]), 1024)

    def _join(self, net: Builder, above: int, here: int, below: int, channels: int) -> int:
        """The level above made larger, this one, and the one below made smaller."""
        c = self._wide(channels)
        parts = [net.deconv(above, c, 2, 2), self._relu(net, here, channels)]
        parts.append(self._relu(net, self._relu(net, below, channels), channels, 3, 2))
        return self._relu(net, net.concat(parts), channels)

    def _head(self, net: Builder, x: int) -> int:
        c = net.channels(x)
        x = net.conv_norm(x, c, act="silu")
        named = net.conv(net.conv_norm(x, c, 3, act="silu"), self.classes, bias=True)
        boxes = net.conv(net.conv_norm(x, c, 3, act="silu"), 4, bias=True)
        return net.concat([boxes, net.sigmoid(named)])
