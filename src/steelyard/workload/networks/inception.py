"""Branches side by side: GoogLeNet (Szegedy et al., CVPR 2015) and Inception v3 (CVPR 2016), batch normalised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from steelyard.workload.networks.builder import Builder

__all__ = ["GoogLeNet", "InceptionV3"]

#: Channels of GoogLeNet's modules: 1x1, 3x3 reduced and full, 5x5 reduced and full, after the pool.
_MODULES = (
    (64, 96, 128, 16, 32, 32),
    (128, 128, 192, 32, 96, 64),
    (192, 96, 208, 16, 48, 64),
    (160, 112, 224, 24, 64, 64),
    (128, 128, 256, 24, 64, 64),
    (112, 144, 288, 32, 64, 64),
    (256, 160, 320, 32, 128, 128),
    (256, 160, 320, 32, 128, 128),
    (384, 192, 384, 48, 128, 128),
)


@dataclass(frozen=True, slots=True)
class GoogLeNet:
    """Nine modules; the 5x5 is a 3x3, as in libraries. The classifiers on the way, of training, are left out."""

    channels: int = 3
    classes: int = 1000

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`."""
        x = net.conv_norm(net.image(self.channels, size), 64, 7, 2)
        x = net.conv_norm(net.conv_norm(net.max_pool(x, 3, 2, up=True), 64), 192, 3)
        x = net.max_pool(x, 3, 2, up=True)
        for i, (one, three_in, three, five_in, five, pooled) in enumerate(_MODULES):
            with net.within(f"inception{i}"):
                x = net.concat(
                    [
                        net.conv_norm(x, one),
                        net.conv_norm(net.conv_norm(x, three_in), three, 3),
                        net.conv_norm(net.conv_norm(x, five_in), five, 3),
                        net.conv_norm(net.max_pool(x, 3, 1, 1, up=True), pooled),
                    ]
                )
            if i == 1:
                x = net.max_pool(x, 3, 2, up=True)
            if i == 6:
                x = net.max_pool(x, 2, 2, up=True)
        return net.classify(x, self.classes)


#: A convolution of a branch: channels and window.
_Step = tuple[int, int | tuple[int, int]]


@dataclass(frozen=True, slots=True)
class InceptionV3:
    """Modules of 5x5 and double 3x3, of 1x7 and 7x1, and of split 3x3."""

    channels: int = 3
    classes: int = 1000

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`."""
        x = net.conv_norm(net.image(self.channels, size), 32, 3, 2, 0)
        x = net.conv_norm(net.conv_norm(x, 32, 3, 1, 0), 64, 3)
        x = net.conv_norm(net.conv_norm(net.max_pool(x, 3, 2), 80), 192, 3, 1, 0)
        x = net.max_pool(x, 3, 2)
        for pooled in (32, 64, 64):
            x = self._module(net, x, [((64, 1),), ((48, 1), (64, 5)), ((64, 1), (96, 3), (96, 3))], pooled)
        x = self._smaller(net, x, [((384, 3),), ((64, 1), (96, 3), (96, 3))])
        for c in (128, 160, 160, 192):
            two: tuple[_Step, ...] = ((c, 1), (c, (1, 7)), (192, (7, 1)))
            four: tuple[_Step, ...] = ((c, 1), (c, (7, 1)), (c, (1, 7)), (c, (7, 1)), (192, (1, 7)))
            x = self._module(net, x, [((192, 1),), two, four], 192)
        x = self._smaller(net, x, [((192, 1), (320, 3)), ((192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3))])
        for _ in range(2):
            one = net.conv_norm(x, 320)
            three = self._split(net, net.conv_norm(x, 384))
            double = self._split(net, net.conv_norm(net.conv_norm(x, 448), 384, 3))
            x = net.concat([one, three, double, net.conv_norm(net.avg_pool(x, 3, 1, 1), 192)])
        return net.classify(x, self.classes)

    def _module(self, net: Builder, x: int, branches: Sequence[Sequence[_Step]], pooled: int) -> int:
        made = []
        for steps in branches:
            y = x
            for c, kernel in steps:
                y = net.conv_norm(y, c, kernel)
            made.append(y)
        return net.concat([*made, net.conv_norm(net.avg_pool(x, 3, 1, 1), pooled)])

    def _smaller(self, net: Builder, x: int, branches: Sequence[Sequence[_Step]]) -> int:
        made = []
        for steps in branches:
            y = x
            for c, kernel in steps[:-1]:
                y = net.conv_norm(y, c, kernel)
            made.append(net.conv_norm(y, steps[-1][0], 3, 2, 0))
        return net.concat([*made, net.max_pool(x, 3, 2)])

    def _split(self, net: Builder, x: int) -> int:
        return net.concat([net.conv_norm(x, 384, (1, 3)), net.conv_norm(x, 384, (3, 1))])
