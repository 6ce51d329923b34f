"""Single-shot detectors over MobileNets (Liu et al. 2016; Howard et al. 2017; Sandler et al. 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from steelyard.workload.networks.builder import Builder
from steelyard.workload.networks.mobile import Block, Once

__all__ = ["SsdMobile"]


@dataclass(frozen=True, slots=True)
class SsdMobile:
    """Six levels of boxes: two of the MobileNet, four that follow. With version 2 all that is added is depthwise."""

    version: Literal["1", "2"] = "1"
    classes: int = 91
    channels: int = 3

    def build(self, net: Builder, size: tuple[int, ...]) -> Sequence[int]:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`."""
        x = net.conv_norm(net.image(self.channels, size), 32, 3, 2, act="relu6")
        levels = self._first(net, x) if self.version == "1" else self._second(net, x)
        for squeezed, width in ((256, 512), (128, 256), (128, 256), (64, 128)):
            y = net.conv_norm(levels[-1], squeezed, act="relu6")
            if self.version == "1":
                y = net.conv_norm(y, width, 3, 2, act="relu6")
            else:
                y = net.conv_norm(y, squeezed, 3, 2, groups=squeezed, act="relu6")
                y = net.conv_norm(y, width, act="relu6")
            levels.append(y)
        made = []
        for i, level in enumerate(levels):
            boxes = 6 if i else 3
            made += [self._head(net, level, boxes * 4), self._head(net, level, boxes * self.classes)]
        return made

    def _first(self, net: Builder, x: int) -> list[int]:
        rows = ((64, 1, 1), (128, 2, 2), (256, 2, 2), (512, 2, 6))
        for width, stride, count in rows:
            for i in range(count):
                x = Once(net, Block("sep", width, 3, 1 if i else stride, act="relu6"))(x)
        y = Once(net, Block("sep", 1024, 3, 2, act="relu6"))(x)
        return [x, Once(net, Block("sep", 1024, act="relu6"))(y)]

    def _second(self, net: Builder, x: int) -> list[int]:
        x = Once(net, Block("ds", 16, act="relu6"))(x)
        for width, stride, count in ((24, 2, 2), (32, 2, 3), (64, 2, 4), (96, 1, 3)):
            for i in range(count):
                x = Once(net, Block("mb", width, 3, 1 if i else stride, 6.0, act="relu6"))(x)
        inner = 6 * net.channels(x)
        wide = net.conv_norm(x, inner, act="relu6")
        x = net.conv_norm(net.conv_norm(wide, inner, 3, 2, groups=inner, act="relu6"), 160, act="")
        for width in (160, 160, 320):
            x = Once(net, Block("mb", width, 3, 1, 6.0, act="relu6"))(x)
        return [wide, net.conv_norm(x, 1280, act="relu6")]

    def _head(self, net: Builder, x: int, numbers: int) -> int:
        if self.version == "2":
            x = net.conv_norm(x, net.channels(x), 3, groups=net.channels(x), act="relu6")
        y = net.conv(x, numbers, bias=True)
        batch = net.shape(y)[0]
        return net.view(net.copy(net.permute(y, 0, 2, 3, 1)), batch, -1)
