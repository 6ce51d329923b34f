"""LeYOLO (Hollard et al. 2024): a detector of inverted residuals throughout, with heads of depthwise layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from steelyard.units import Quantity
from steelyard.workload.networks.builder import Builder
from steelyard.workload.networks.yolo import SIDES, found_boxes, pyramid, unit, wide

__all__ = ["LeYolo"]

#: Most channels of a row before they are scaled.
_MOST = 576


@dataclass(frozen=True, slots=True)
class LeYolo:
    """Inverted residuals down to a 32nd of the image, up and down again beside what was seen, three heads.

    ``more``: one block more in every row and a wider one at the end of two (the medium and large networks). The heads
    of those see the rows' first blocks, as in the file of their authors; the blocks after them run.
    """

    width: Annotated[float, Quantity("1", "times the channels", gt=0, le=100)] = 1.0
    more: bool = False
    classes: int = 80
    channels: int = 3

    def build(self, net: Builder, size: tuple[int, ...]) -> Sequence[int]:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`. Sides are multiples of 32."""
        n = int(self.more)
        x = net.image(self.channels, size)
        for kernel, stride in ((3, 2), (1, 1)):
            x = unit(net, x, self._wide(16), kernel, stride)
        x = self._block(net, x, 16, 16, 3, 2, expand=False)
        p3 = x = self._row(net, self._block(net, x, 32, 96, 3, 2), 32, 96, 3, 1 + n)
        p4 = x = self._row(net, self._block(net, x, 64, 96, 5, 2), 64, 192, 5, 4 + n)
        x = self._row(net, self._block(net, x, 96, 576, 5, 2), 96, 576, 5, 3 + n)
        top = pyramid(net, x, self._wide(96))
        middle = self._row(net, net.concat([net.upsample(top), p4]), 64, 128, 5, 3 + n)
        x = net.concat([net.upsample(middle), p3])
        x = self._block(net, x, 32, 0 if self.more else 96, 3, expand=False)
        low = x = self._block(net, x, 32, 64, 3)
        n3 = self._last(net, self._block(net, x, 32, 64, 3))
        x = net.concat([unit(net, n3, self._wide(64), 3, 2), middle])
        between = x = self._block(net, x, 64, 128, 5)
        n4 = self._row(net, x, 64, 128, 5, 2 + n)
        high = net.concat([unit(net, n4, self._wide(96), 3, 2), top])
        n5 = self._last(net, self._row(net, high, 96, 192, 5, 3))
        return [self._heads(net, (low, between, high) if self.more else (n3, n4, n5))]

    def _wide(self, channels: int) -> int:
        return wide(channels, self.width, _MOST)

    def _last(self, net: Builder, x: int) -> int:
        return self._block(net, x, 64, 128, 5) if self.more else x

    def _row(self, net: Builder, x: int, channels: int, hidden: int, kernel: int, count: int) -> int:
        for _ in range(count):
            x = self._block(net, x, channels, hidden, kernel)
        return x

    def _block(
        self, net: Builder, x: int, channels: int, hidden: int, kernel: int, stride: int = 1, *, expand: bool = True
    ) -> int:
        """1x1 that expands (where asked), depthwise, 1x1 without activation; a shortcut where the shape stays."""
        c = self._wide(channels)
        y = unit(net, x, self._wide(hidden)) if expand else x
        y = unit(net, y, net.channels(y), kernel, stride, net.channels(y))
        y = net.conv_norm(y, c, act="")
        return net.add(x, y) if stride == 1 and net.channels(x) == c else y

    def _heads(self, net: Builder, levels: Sequence[int]) -> int:
        first = net.channels(levels[0])
        named = max(first, min(self.classes, 100))
        made = []
        for x in levels:
            parts = []
            for hidden, numbers in (max(first // 4, SIDES), SIDES), (named, self.classes):
                y = unit(net, x, hidden)
                for _ in range(2):
                    y = unit(net, y, hidden, 3, groups=hidden)
                parts.append(net.conv(y, numbers, bias=True))
            y = net.concat(parts)
            made.append(net.view(y, net.shape(y)[0], SIDES + self.classes, -1))
        return found_boxes(net, made, self.classes)
