"""ConvNeXt (Liu et al., CVPR 2022) and RepVGG (Ding et al., CVPR 2021)."""

from __future__ import annotations

from dataclasses import dataclass

from steelyard.workload.networks.builder import Builder

__all__ = ["ConvNext", "RepVgg"]


@dataclass(frozen=True, slots=True)
class ConvNext:
    """Stages of 7x7 depthwise convolutions and two linear layers over channels laid last; ``scaled``: a learned scale
    by channel before the shortcut."""

    depths: tuple[int, ...] = (3, 3, 9, 3)
    widths: tuple[int, ...] = (96, 192, 384, 768)
    kernel: int = 7
    expand: int = 4
    scaled: bool = True
    channels: int = 3
    classes: int = 1000

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`."""
        x = net.image(self.channels, size)
        for stage, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True)):
            if stage:
                x = net.conv(self._norm(net, x), width, 2, 2, 0, bias=True)
            else:
                x = self._norm(net, net.conv(x, width, 4, 4, 0, bias=True))
            for i in range(depth):
                with net.within(f"stages.{stage}.{i}"):
                    y = net.conv(x, width, self.kernel, groups=width, bias=True)
                    y = net.mlp(net.layer_norm(net.permute(y, 0, 2, 3, 1)), width * self.expand)
                    y = net.permute(y, 0, 3, 1, 2)
                    if self.scaled:
                        y = net.mul(y, net.view(net.weight(width), 1, width, 1, 1))
                    x = net.add(y, x)
        x = self._norm(net, net.mean(x))
        return net.linear(net.flatten(x), self.classes)

    def _norm(self, net: Builder, x: int) -> int:
        return net.permute(net.layer_norm(net.permute(x, 0, 2, 3, 1)), 0, 3, 1, 2)


@dataclass(frozen=True, slots=True)
class RepVgg:
    """3x3, 1x1 and identity side by side, each normalised; ``deployed``: they are one 3x3 with a bias."""

    depths: tuple[int, ...] = (2, 4, 14, 1)
    widths: tuple[int, ...] = (48, 48, 96, 192, 1280)
    groups: int = 1
    deployed: bool = False
    channels: int = 3
    classes: int = 1000

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`. Every second block has the groups."""
        x = self._block(net, net.image(self.channels, size), self.widths[0], 2, 1)
        layer = 0
        for stage, (depth, width) in enumerate(zip(self.depths, self.widths[1:], strict=True)):
            for i in range(depth):
                layer += 1
                with net.within(f"stages.{stage}.{i}"):
                    x = self._block(net, x, width, 1 if i else 2, 1 if layer % 2 else self.groups)
        return net.classify(x, self.classes)

    def _block(self, net: Builder, x: int, width: int, stride: int, groups: int) -> int:
        if self.deployed:
            return net.relu(net.conv(x, width, 3, stride, groups=groups, bias=True))
        same = stride == 1 and net.channels(x) == width
        kept = net.norm(x) if same else -1
        y = net.conv_norm(x, width, 1, stride, groups=groups, act="")
        y = net.add(y, net.conv_norm(x, width, 3, stride, groups=groups, act=""))
        return net.relu(net.add(y, kept, inplace=True) if same else y)
