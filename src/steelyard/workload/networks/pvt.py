"""Pyramid vision transformers v2 (Wang et al., 2022): attention whose keys and values are of a smaller image."""

from __future__ import annotations

from dataclasses import dataclass

from steelyard.workload.networks.builder import Builder
from steelyard.workload.networks.sizes import Size, divided, times

__all__ = ["PvtV2"]


@dataclass(frozen=True, slots=True)
class PvtV2:
    """``reduce``: keys and values of a stage see the image cut by so much at each side; a 3x3 depthwise convolution
    lies between the two linear layers."""

    depths: tuple[int, ...] = (2, 2, 2, 2)
    widths: tuple[int, ...] = (32, 64, 160, 256)
    heads: tuple[int, ...] = (1, 2, 5, 8)
    hidden: tuple[int, ...] = (8, 8, 4, 4)
    reduce: tuple[int, ...] = (8, 4, 2, 1)
    channels: int = 3
    classes: int = 1000

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`."""
        x = net.image(self.channels, size)
        for stage, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True)):
            kernel, stride = (3, 2) if stage else (7, 4)
            y = net.conv(x, width, kernel, stride, kernel // 2, bias=True)
            batch, _, high, wide = net.shape(y)
            y = net.layer_norm(net.permute(y, 0, 2, 3, 1))
            y = net.view(y, batch, times(high, wide), width)
            for i in range(depth):
                with net.within(f"stages.{stage}.{i}"):
                    y = net.add(y, self._attention(net, net.layer_norm(y), stage, (high, wide)))
                    y = net.add(y, self._mlp(net, net.layer_norm(y), width * self.hidden[stage], (high, wide)))
            y = net.layer_norm(y)
            x = net.copy(net.permute(net.view(y, batch, high, wide, width), 0, 3, 1, 2))
        return net.linear(net.mean(x, keep=False), self.classes)

    def _attention(self, net: Builder, x: int, stage: int, sides: tuple[Size, ...]) -> int:
        batch, rows, _ = net.shape(x)
        width, heads, cut = net.size(x, 2), self.heads[stage], self.reduce[stage]
        head = divided(width, heads)
        q = net.transpose(net.view(net.linear(x, width), batch, rows, heads, head), 1, 2)
        kept = x
        if cut > 1:
            y = net.conv(net.view(net.transpose(x), batch, width, *sides), width, cut, cut, 0, bias=True)
            kept = net.layer_norm(net.transpose(net.flatten(y, 2)))
        kv = net.view(net.linear(kept, 2 * width), batch, net.shape(kept)[1], 2, heads, head)
        k, v = net.unbind(net.permute(kv, 2, 0, 3, 1, 4))
        y = net.transpose(net.attention(q, k, v), 1, 2)
        y = net.copy(y) if heads > 1 else y
        return net.linear(net.view(y, batch, rows, width), width)

    def _mlp(self, net: Builder, x: int, hidden: int, sides: tuple[Size, ...]) -> int:
        batch, width = net.shape(x)[0], net.shape(x)[2]
        y = net.linear(x, hidden)
        y = net.conv(net.view(net.transpose(y), batch, hidden, *sides), hidden, 3, groups=hidden, bias=True)
        return net.linear(net.gelu(net.transpose(net.flatten(y, 2))), width)
