"""U-Nets (Ronneberger et al., MICCAI 2015): down, up, and what was seen on the way down beside it."""

from __future__ import annotations

from dataclasses import dataclass

from steelyard.errors import InputError, show
from steelyard.workload.networks.builder import Builder
from steelyard.workload.networks.values import symbol

__all__ = ["UNet", "UNet3d"]


@dataclass(frozen=True, slots=True)
class UNet:
    """Two 3x3 convolutions a level; pools down, transposed convolutions up.

    ``axes`` 3: volumes instead of images; ``padded`` keeps sizes (the paper's does not, and cuts what it joins);
    ``normed``: batch normalised, without biases.
    """

    width: int = 64
    levels: int = 4
    axes: int = 2
    padded: bool = True
    normed: bool = True
    channels: int = 3
    classes: int = 2

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`. Sides are multiples of 2 to the levels."""
        if self.axes not in (2, 3) or not 1 <= self.levels <= 10:
            raise InputError(f"expected 2 or 3 axes and 1 to 10 levels, got {show((self.axes, self.levels))}")
        sides = size if len(size) == self.axes else (size[0],) * self.axes
        x = self._double(net, net.input((symbol("batch"), self.channels, *sides)), self.width)
        kept = [x]
        for level in range(self.levels):
            with net.within(f"down{level + 1}"):
                x = self._double(net, net.max_pool(x, 2, 2), self.width * 2 ** (level + 1))
            kept.append(x)
        for level in reversed(range(self.levels)):
            width = self.width * 2**level
            with net.within(f"up{level + 1}"):
                x = net.deconv(x, width, 2, 2)
                beside = kept[level]
                for axis in range(2, 2 + self.axes):
                    beside = beside if self.padded else net.part(beside, net.size(x, axis), axis)
                x = self._double(net, net.concat([beside, x]), width)
        return net.conv(x, self.classes, bias=True)

    def _double(self, net: Builder, x: int, width: int) -> int:
        for _ in range(2):
            x = net.conv(x, width, 3, pad=None if self.padded else 0, bias=not self.normed)
            x = net.relu(net.norm(x) if self.normed else x)
        return x


@dataclass(frozen=True, slots=True)
class UNet3d:
    """The volume network of MLPerf's "3D-UNet": strided convolutions down, instance normalised."""

    widths: tuple[int, ...] = (32, 64, 128, 256, 320, 320)
    channels: int = 1
    classes: int = 3

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`. Sides are multiples of 32."""
        sides = size if len(size) == 3 else (size[0],) * 3
        x = net.input((symbol("batch"), self.channels, *sides))
        kept = []
        for level, width in enumerate(self.widths):
            with net.within(f"down{level}"):
                x = self._unit(net, self._unit(net, x, width, 2 if level else 1), width, 1)
            kept.append(x)
        for level in reversed(range(len(self.widths) - 1)):
            with net.within(f"up{level}"):
                x = net.deconv(x, self.widths[level], 2, 2)
                x = net.concat([x, kept[level]])
                x = self._unit(net, self._unit(net, x, self.widths[level], 1), self.widths[level], 1)
        return net.conv(x, self.classes, bias=True)

    def _unit(self, net: Builder, x: int, width: int, stride: int) -> int:
        return net.relu(net.group_norm(net.conv(x, width, 3, stride), width))
