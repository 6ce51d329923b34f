"""Convolutions one after the other: AlexNet (Krizhevsky 2012, 2014), VGG (Simonyan 2015), SqueezeNet (Iandola 2016)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from steelyard.workload.networks.builder import Builder

__all__ = ["AlexNet", "SqueezeNet", "Vgg"]


@dataclass(frozen=True, slots=True)
class AlexNet:
    """The one-tower version of 2014, as libraries have it."""

    channels: int = 3
    classes: int = 1000

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`."""
        x = net.relu(net.conv(net.image(self.channels, size), 64, 11, 4, 2, bias=True))
        x = net.relu(net.conv(net.max_pool(x, 3, 2), 192, 5, bias=True))
        x = net.max_pool(x, 3, 2)
        for width in (384, 256, 256):
            x = net.relu(net.conv(x, width, 3, bias=True))
        x = net.flatten(net.pooled_to(net.max_pool(x, 3, 2), 6, 6))
        return net.linear(net.relu(net.linear(net.relu(net.linear(x, 4096)), 4096)), self.classes)


@dataclass(frozen=True, slots=True)
class Vgg:
    """Five groups of 3x3 convolutions, each ended by a pool; the first linear layer is a convolution over 7x7."""

    depths: tuple[int, ...] = (2, 2, 3, 3, 3)
    normed: bool = False
    channels: int = 3
    classes: int = 1000

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`."""
        x = net.image(self.channels, size)
        for depth, width in zip(self.depths, (64, 128, 256, 512, 512), strict=True):
            for _ in range(depth):
                x = net.conv(x, width, 3, bias=True)
                x = net.relu(net.norm(x) if self.normed else x)
            x = net.max_pool(x, 2, 2)
        x = net.relu(net.conv(x, 4096, 7, 1, 0, bias=True))
        x = net.relu(net.conv(x, 4096, bias=True))
        return net.classify(x, self.classes)


@dataclass(frozen=True, slots=True)
class SqueezeNet:
    """Fire modules: a 1x1 that squeezes, a 1x1 and a 3x3 side by side that expand."""

    version: Literal["1.0", "1.1"] = "1.1"
    channels: int = 3
    classes: int = 1000

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`."""
        first = self.version == "1.0"
        x = net.conv(net.image(self.channels, size), 96 if first else 64, 7 if first else 3, 2, 0, bias=True)
        x = net.max_pool(net.relu(x), 3, 2, up=True)
        pooled = (2, 6) if first else (1, 3)
        for i, squeezed in enumerate((16, 16, 32, 32, 48, 48, 64, 64)):
            with net.within(f"fire{i + 2}"):
                y = net.relu(net.conv(x, squeezed, bias=True))
                x = net.concat([net.relu(net.conv(y, squeezed * 4, k, bias=True)) for k in (1, 3)])
            if i in pooled:
                x = net.max_pool(x, 3, 2, up=True)
        x = net.relu(net.conv(x, self.classes, bias=True))
        return net.flatten(net.mean(x))
