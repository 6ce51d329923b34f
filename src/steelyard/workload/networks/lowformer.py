"""LowFormer (Nottebaum, WACV 2025): fused convolutions, and attention over a map that a convolution makes smaller."""

from __future__ import annotations

from dataclasses import dataclass

from steelyard.workload.networks.builder import Builder
from steelyard.workload.networks.sizes import Size, times

__all__ = ["LowFormer"]

#: Channels from which a block expands by a 1x1 and a depthwise convolution in place of one 3x3.
_APART = 256


@dataclass(frozen=True, slots=True)
class LowFormer:
    """Two stages of fused inverted bottlenecks, then two whose blocks attend to a map of fewer points first.

    ``grown``: how often a block that halves the map widens it; ``first``: the same of blocks of the stem.
    """

    widths: tuple[int, ...] = (16, 32, 64, 128, 256)
    depths: tuple[int, ...] = (0, 1, 1, 5, 5)
    grown: int = 6
    first: int = 2
    head: tuple[int, int] = (1536, 1600)
    classes: int = 1000

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`. ``head``: widths before the classes."""
        x = net.conv_norm(net.image(3, size), self.widths[0], 3, 2, act="hardswish")
        for _ in range(self.depths[0]):
            x = net.add(self._fused(net, x, self.widths[0], self.first), x)
        for stage in range(1, 5):
            width, depth = self.widths[stage], self.depths[stage]
            with net.within(f"stages.{stage}"):
                x = self._fused(net, x, width, self.grown, 2)
                for _ in range(depth - 1 if stage < 3 else depth):
                    x = net.add(self._fused(net, x, width, 4), x) if stage < 3 else self._block(net, x, stage == 3)
        x = net.mean(net.conv_norm(x, self.head[0], act="hardswish"))
        x = net.layer_norm(net.linear(net.flatten(x), self.head[1], bias=False))
        return net.linear(net.act(x, "hardswish"), self.classes)

    def _fused(self, net: Builder, x: int, width: int, grown: int, stride: int = 1, *, bias: bool = False) -> int:
        y = net.norm(net.conv(x, net.channels(x) * grown, 3, stride, bias=bias))
        return net.norm(net.conv(net.act(y, "hardswish"), width))

    def _block(self, net: Builder, x: int, halved: bool) -> int:
        """Attention, two 1x1 convolutions, and an inverted bottleneck, with a shortcut each."""
        width = net.channels(x)
        x = net.add(self._attend(net, net.group_norm(x, 1), halved), x)
        y = net.gelu(net.conv(net.group_norm(x, 1), 4 * width, bias=True))
        x = net.add(net.conv(y, width, bias=True), x)
        if width < _APART:
            return net.add(self._fused(net, x, width, 4, bias=True), x)
        y = net.act(net.conv(x, 4 * width, bias=True), "hardswish")
        y = net.act(net.conv(y, 4 * width, 3, groups=4 * width, bias=True), "hardswish")
        return net.add(net.norm(net.conv(y, width)), x)

    def _attend(self, net: Builder, x: int, halved: bool) -> int:
        """A depthwise convolution makes the map smaller, heads of half the width attend, a transposed one undoes it."""
        batch, channels = net.shape(x)[0], net.channels(x)
        share = 2 if channels > 80 else 1
        heads = max(1, channels // share // 30)
        head = channels // heads // share
        y = net.norm(net.conv(x, channels, 5 if halved else 3, 2 if halved else 1, groups=channels))
        y = net.conv(y, 3 * heads * head)
        rows, columns = net.shape(y)[2:]
        points: Size = times(rows, columns)
        q, k, v = net.split(net.permute(net.view(y, batch, heads, 3 * head, points), 0, 1, 3, 2), 3, 3)
        scores = net.act(net.matmul(q, net.transpose(k)), "mul", inplace=False)
        y = net.matmul(net.softmax(scores), v)
        y = net.view(net.copy(net.transpose(y)), batch, heads * head, rows, columns)
        return net.deconv(y, channels, 4 if halved else 3, 2 if halved else 1, 1)
