"""Networks whose layers see all layers before them (DenseNet, Huang 2017) or exchange halves of their channels
(ShuffleNet v2, Ma 2018)."""

from __future__ import annotations

from dataclasses import dataclass

from steelyard.workload.networks.builder import Builder

__all__ = ["DenseNet", "ShuffleNetV2"]


@dataclass(frozen=True, slots=True)
class DenseNet:
    """Blocks of layers that each add ``growth`` channels to what they got; a 1x1 of ``wide`` times that comes first."""

    depths: tuple[int, ...] = (6, 12, 24, 16)
    growth: int = 32
    stem: int = 64
    wide: int = 4
    channels: int = 3
    classes: int = 1000

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`."""
        x = net.max_pool(net.conv_norm(net.image(self.channels, size), self.stem, 7, 2), 3, 2, 1)
        for stage, depth in enumerate(self.depths):
            made = [x]
            for i in range(depth):
                with net.within(f"denseblock{stage + 1}.denselayer{i + 1}"):
                    y = net.relu(net.norm(net.concat(made)))
                    y = net.conv_norm(y, self.wide * self.growth)
                    made.append(net.conv(y, self.growth, 3))
            x = net.relu(net.norm(net.concat(made)))
            if stage < len(self.depths) - 1:
                x = net.avg_pool(net.conv(x, net.channels(x) // 2), 2, 2)
        return net.classify(x, self.classes)


@dataclass(frozen=True, slots=True)
class ShuffleNetV2:
    """Half of the channels pass, half go through 1x1, depthwise 3x3, 1x1; then both are mixed."""

    widths: tuple[int, ...] = (24, 116, 232, 464, 1024)
    depths: tuple[int, ...] = (4, 8, 4)
    channels: int = 3
    classes: int = 1000

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`."""
        stem, *widths, head = self.widths
        x = net.max_pool(net.conv_norm(net.image(self.channels, size), stem, 3, 2), 3, 2, 1)
        for stage, (depth, width) in enumerate(zip(self.depths, widths, strict=True)):
            for i in range(depth):
                with net.within(f"stage{stage + 2}.{i}"):
                    x = self._unit(net, x, width // 2, 1 if i else 2)
        x = net.conv_norm(x, head)
        return net.linear(net.mean(x, keep=False), self.classes)

    def _unit(self, net: Builder, x: int, half: int, stride: int) -> int:
        if stride == 1:
            kept, x = net.split(x, 2)
        else:
            kept = net.conv_norm(x, net.channels(x), 3, 2, groups=net.channels(x), act="")
            kept = net.conv_norm(kept, half)
        y = net.conv_norm(x, half)
        y = net.conv_norm(net.conv_norm(y, half, 3, stride, groups=half, act=""), half)
        return net.channel_shuffle(net.concat([kept, y]), 2)
