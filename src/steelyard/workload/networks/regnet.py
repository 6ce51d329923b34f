"""RegNet (Radosavovic et al., Designing network design spaces, CVPR 2020): widths that grow linearly, in few steps."""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import Annotated

from steelyard.units import Quantity
from steelyard.workload.networks.builder import Builder

__all__ = ["RegNet"]


@dataclass(frozen=True, slots=True)
class RegNet:
    """The parameters of the paper: ``depth`` blocks, the width of block i is ``start + slope * i`` moved to a power of
    ``step``; ``group`` channels a group; ``reduce`` cuts squeeze and excitation (4 in RegNetY, 0 in RegNetX)."""

    depth: int = 22
    start: Annotated[float, Quantity("1", "channels of the first block", gt=0, le=1e5)] = 24.0
    slope: Annotated[float, Quantity("1", "channels from block to block", ge=0, le=1e5)] = 24.48
    step: Annotated[float, Quantity("1", "ratio of two widths", gt=1, le=100)] = 2.54
    group: int = 16
    reduce: int = 0
    stem: int = 32
    channels: int = 3
    classes: int = 1000

    def widths(self) -> list[int]:
        """Channels of every block: multiples of 8, and of the group."""
        found = []
        for i in range(min(self.depth, 10_000)):
            power = round(log((self.start + self.slope * i) / self.start) / log(self.step))
            width = round(self.start * self.step**power / 8) * 8
            group = min(self.group, width)
            found.append(round(width / group) * group)
        return found

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`."""
        x = net.conv_norm(net.image(self.channels, size), self.stem, 3, 2)
        last = 0
        for i, width in enumerate(self.widths()):
            stride = 1 if width == last else 2
            with net.within(f"b{i + 1}"):
                y = net.conv_norm(x, width)
                y = net.conv_norm(y, width, 3, stride, groups=width // min(self.group, width))
                if self.reduce:
                    y = net.squeeze(y, round(net.channels(x) / self.reduce))
                y = net.conv_norm(y, width, act="")
                if stride > 1 or net.channels(x) != width:
                    x = net.conv_norm(x, width, 1, stride, act="")
                x = net.act(net.add(y, x), "relu", inplace=False)
            last = width
        return net.classify(x, self.classes)
