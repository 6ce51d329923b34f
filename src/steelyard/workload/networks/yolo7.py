"""YOLOv7 and its tiny one (Wang et al., CVPR 2023), as deployed, and the tiny YOLOv3."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from steelyard.workload.networks.builder import Builder

__all__ = ["YoloV3Tiny", "YoloV7", "YoloV7Tiny"]


def _heads(net: Builder, levels: Sequence[int], numbers: int) -> Sequence[int]:
    return [net.conv(x, numbers, bias=True) for x in levels]


def _chain(net: Builder, x: int, widths: tuple[int, int, int], taken: Sequence[int], act: str) -> int:
    """Two 1x1 of the first width, 3x3 of the second one behind the other; those ``taken`` are joined by a 1x1.

    ``taken`` counts from the last one back, as far as the two 1x1.
    """
    first, second, out = widths
    made = [net.conv_norm(x, first, act=act), net.conv_norm(x, first, act=act)]
    for _ in range(max(taken) - 2):
        made.append(net.conv_norm(made[-1], second, 3, act=act))
    return net.conv_norm(net.concat([made[-i] for i in taken]), out, act=act)


@dataclass(frozen=True, slots=True)
class YoloV7:
    """Chains of 3x3 whose every second is kept; images halved by a pool and a strided convolution side by side."""

    classes: int = 80
    anchors: int = 3
    channels: int = 3

    def build(self, net: Builder, size: tuple[int, ...]) -> Sequence[int]:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`. Sides are multiples of 32."""
        x = self._unit(net, self._unit(net, net.image(self.channels, size), 32, 3), 64, 3, 2)
        x = self._unit(net, self._unit(net, x, 64, 3), 128, 3, 2)
        x = self._deep(net, x, 64, 256)
        p3 = self._deep(net, self._halved(net, x, 128), 128, 512)
        p4 = self._deep(net, self._halved(net, p3, 256), 256, 1024)
        x = self._deep(net, self._halved(net, p4, 512), 256, 1024)
        top = self._pools(net, x)
        x = net.concat([self._unit(net, p4, 256), net.upsample(self._unit(net, top, 256))])
        middle = self._wide(net, x, 256)
        x = net.concat([self._unit(net, p3, 128), net.upsample(self._unit(net, middle, 128))])
        n3 = self._wide(net, x, 128)
        n4 = self._wide(net, net.concat([self._halved(net, n3, 128), middle]), 256)
        n5 = self._wide(net, net.concat([self._halved(net, n4, 256), top]), 512)
        made = [net.act(net.conv(y, c, 3, bias=True), "silu") for y, c in ((n3, 256), (n4, 512), (n5, 1024))]
        return _heads(net, made, self.anchors * (self.classes + 5))

    def _unit(self, net: Builder, x: int, channels: int, kernel: int = 1, stride: int = 1) -> int:
        return net.conv_norm(x, channels, kernel, stride, act="silu")

    def _deep(self, net: Builder, x: int, width: int, out: int) -> int:
        return _chain(net, x, (width, width, out), (1, 3, 5, 6), "silu")

    def _wide(self, net: Builder, x: int, width: int) -> int:
        return _chain(net, x, (width, width // 2, width), (1, 2, 3, 4, 5, 6), "silu")

    def _halved(self, net: Builder, x: int, width: int) -> int:
        pooled = self._unit(net, net.max_pool(x, 2, 2), width)
        return net.concat([self._unit(net, self._unit(net, x, width), width, 3, 2), pooled])

    def _pools(self, net: Builder, x: int) -> int:
        y = self._unit(net, self._unit(net, self._unit(net, x, 512), 512, 3), 512)
        y = net.concat([y, *(net.max_pool(y, k, 1, k // 2) for k in (5, 9, 13))])
        y = self._unit(net, self._unit(net, y, 512), 512, 3)
        return self._unit(net, net.concat([y, self._unit(net, x, 512)]), 512)


@dataclass(frozen=True, slots=True)
class YoloV7Tiny:
    """The small one, with leaky rectifiers."""

    classes: int = 80
    anchors: int = 3
    channels: int = 3

    def build(self, net: Builder, size: tuple[int, ...]) -> Sequence[int]:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`. Sides are multiples of 32."""
        x = self._unit(net, self._unit(net, net.image(self.channels, size), 32, 3, 2), 64, 3, 2)
        x = self._chain(net, x, 32)
        p3 = self._chain(net, net.max_pool(x, 2, 2), 64)
        p4 = self._chain(net, net.max_pool(p3, 2, 2), 128)
        x = self._chain(net, net.max_pool(p4, 2, 2), 256)
        beside, y = self._unit(net, x, 256), self._unit(net, x, 256)
        y = net.concat([*(net.max_pool(y, k, 1, k // 2) for k in (13, 9, 5)), y])
        top = self._unit(net, net.concat([self._unit(net, y, 256), beside]), 256)
        x = net.concat([self._unit(net, p4, 128), net.upsample(self._unit(net, top, 128))])
        middle = self._chain(net, x, 64)
        x = net.concat([self._unit(net, p3, 64), net.upsample(self._unit(net, middle, 64))])
        n3 = self._chain(net, x, 32)
        n4 = self._chain(net, net.concat([self._unit(net, n3, 128, 3, 2), middle]), 64)
        n5 = self._chain(net, net.concat([self._unit(net, n4, 256, 3, 2), top]), 128)
        made = [self._unit(net, y, c, 3) for y, c in ((n3, 128), (n4, 256), (n5, 512))]
        return _heads(net, made, self.anchors * (self.classes + 5))

    def _unit(self, net: Builder, x: int, channels: int, kernel: int = 1, stride: int = 1) -> int:
        return net.conv_norm(x, channels, kernel, stride, act="leaky_relu")

    def _chain(self, net: Builder, x: int, width: int) -> int:
        return _chain(net, x, (width, width, 2 * width), (1, 2, 3, 4), "leaky_relu")


@dataclass(frozen=True, slots=True)
class YoloV3Tiny:
    """Seven convolutions with pools between, two heads."""

    classes: int = 80
    anchors: int = 3
    channels: int = 3

    def build(self, net: Builder, size: tuple[int, ...]) -> Sequence[int]:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`. Sides are multiples of 32."""
        x = net.image(self.channels, size)
        kept = x
        for width in (16, 32, 64, 128, 256):
            kept = self._unit(net, x, width, 3)
            x = net.max_pool(kept, 2, 2)
        x = net.max_pool(net.pad(self._unit(net, x, 512, 3), 0, 1, 0, 1), 2, 1)
        x = self._unit(net, self._unit(net, x, 1024, 3), 256)
        large = self._unit(net, x, 512, 3)
        small = net.concat([net.upsample(self._unit(net, x, 128)), kept])
        return _heads(net, (large, self._unit(net, small, 256, 3)), self.anchors * (self.classes + 5))

    def _unit(self, net: Builder, x: int, channels: int, kernel: int = 1) -> int:
        return net.conv_norm(x, channels, kernel, act="leaky_relu")
