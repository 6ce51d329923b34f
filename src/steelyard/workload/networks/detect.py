"""Detectors over feature pyramids: RetinaNet (Lin et al., ICCV 2017) and Faster R-CNN (Ren et al. 2015, with the
pyramid of Lin et al., CVPR 2017), from image to scores; cutting, sorting and suppressing boxes is left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from steelyard.workload.networks.builder import Builder
from steelyard.workload.networks.resnet import ResNet
from steelyard.workload.networks.sizes import times
from steelyard.workload.networks.values import symbol

__all__ = ["FasterRcnn", "RetinaNet"]

#: Boxes that Faster R-CNN proposes at a place of each level, and places of a side that a box is pooled to.
_ANCHORS, _POOLED = 3, 7


def _pyramid(net: Builder, stages: Sequence[int], width: int) -> list[int]:
    """Levels of one width, the small ones added to the larger ones."""
    inner = net.conv(stages[-1], width, bias=True)
    made = [net.conv(inner, width, 3, bias=True)]
    for x in reversed(stages[:-1]):
        lateral = net.conv(x, width, bias=True)
        inner = net.add(lateral, net.resize(inner, *net.shape(lateral)[2:]))
        made.insert(0, net.conv(inner, width, 3, bias=True))
    return made


@dataclass(frozen=True, slots=True)
class RetinaNet:
    """A ResNet, five levels, two heads of four convolutions whose weights all levels share."""

    depths: tuple[int, ...] = (3, 4, 6, 3)
    groups: int = 1
    base_width: int = 64
    width: int = 256
    anchors: int = 9
    classes: int = 91
    channels: int = 3

    def build(self, net: Builder, size: tuple[int, ...]) -> Sequence[int]:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`."""
        body = ResNet(self.depths, groups=self.groups, base_width=self.base_width)
        levels = _pyramid(net, body.stages(net, net.image(self.channels, size))[1:], self.width)
        levels.append(net.conv(levels[-1], self.width, 3, 2, bias=True))
        levels.append(net.conv(net.act(levels[-1], "relu", inplace=False), self.width, 3, 2, bias=True))
        return [self._head(net, levels, n) for n in (self.classes, 4)]

    def _head(self, net: Builder, levels: Sequence[int], numbers: int) -> int:
        made = []
        for x in levels:
            with net.sharing(f"head of {numbers}"):
                for _ in range(4):
                    x = net.relu(net.conv(x, self.width, 3, bias=True))
                x = net.conv(x, self.anchors * numbers, 3, bias=True)
            batch, _, height, width = net.shape(x)
            x = net.copy(net.permute(net.view(x, batch, self.anchors, numbers, height, width), 0, 3, 4, 1, 2))
            made.append(net.view(x, batch, -1, numbers))
        return net.concat(made)


@dataclass(frozen=True, slots=True)
class FasterRcnn:
    """A ResNet, five levels, a head that proposes boxes, two linear layers for each of ``proposals`` of them."""

    depths: tuple[int, ...] = (3, 4, 6, 3)
    groups: int = 1
    base_width: int = 64
    width: int = 256
    hidden: int = 1024
    proposals: int = 1000
    classes: int = 91
    channels: int = 3

    def build(self, net: Builder, size: tuple[int, ...]) -> Sequence[int]:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`."""
        body = ResNet(self.depths, groups=self.groups, base_width=self.base_width)
        levels = _pyramid(net, body.stages(net, net.image(self.channels, size)), self.width)
        levels.append(net.max_pool(levels[-1], 1, 2))
        made = []
        for x in levels:
            with net.sharing("proposals"):
                y = net.relu(net.conv(x, self.width, 3, bias=True))
                made += [net.conv(y, _ANCHORS, bias=True), net.conv(y, 4 * _ANCHORS, bias=True)]
        boxes = times(symbol("batch"), self.proposals)
        y = net.node("roi_align", levels[:4], (boxes, self.width, _POOLED, _POOLED))
        y = net.act(net.linear(net.flatten(y), self.hidden), "relu", inplace=False)
        y = net.act(net.linear(y, self.hidden), "relu", inplace=False)
        return [*made, net.linear(y, self.classes), net.linear(y, 4 * self.classes)]
