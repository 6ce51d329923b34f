"""U-Nets that denoise (Dhariwal and Nichol 2021; latent diffusion, Rombach et al. 2022; MCVD, Voleti et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass

from steelyard.workload.networks.builder import Builder
from steelyard.workload.networks.sizes import Size
from steelyard.workload.networks.values import symbol

__all__ = ["DenoiserUNet"]


@dataclass(frozen=True, slots=True)
class DenoiserUNet:
    """Residual blocks that see the time step, attention where a side was halved as ``attended`` says, down and up.

    ``grown``: channels of each level over ``width``; ``context``: width of what attention looks at besides (0:
    nothing, and attention alone in place of whole Transformer blocks), ``seen`` rows of it: words of a prompt, or
    neighbours that were retrieved; ``frames``: of a block of video, their channels one behind the other, and ``past``
    ones that it follows.
    """

    width: int = 320
    grown: tuple[int, ...] = (1, 2, 4, 4)
    blocks: int = 2
    attended: tuple[int, ...] = (1, 2, 4)
    heads: int = 8
    context: int = 768
    seen: int = 77
    channels: int = 4
    frames: int = 1
    past: int = 0

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`. ``size``: of the latent, halved by level."""
        batch = symbol("batch")
        text = net.input((batch, self.seen, self.context)) if self.context else -1
        image = net.image(self.channels * (self.frames + self.past), size)
        time = net.linear(net.input((batch, self.width)), 4 * self.width)
        time = net.linear(net.act(time, "silu", inplace=False), 4 * self.width)
        x = net.conv(image, self.width, 3, bias=True)
        kept, halved = [x], 1
        for level, grown in enumerate(self.grown):
            for i in range(self.blocks):
                with net.within(f"down.{level}.{i}"):
                    x = self._block(net, x, time, grown * self.width)
                    x = self._attend(net, x, text) if halved in self.attended else x
                kept.append(x)
            if level < len(self.grown) - 1:
                x = net.conv(x, net.channels(x), 3, 2, bias=True)
                kept.append(x)
                halved *= 2
        with net.within("middle"):
            x = self._attend(net, self._block(net, x, time, net.channels(x)), text)
            x = self._block(net, x, time, net.channels(x))
        for level, grown in reversed(list(enumerate(self.grown))):
            for i in range(self.blocks + 1):
                with net.within(f"up.{level}.{i}"):
                    x = self._block(net, net.concat([x, kept.pop()]), time, grown * self.width)
                    x = self._attend(net, x, text) if halved in self.attended else x
            if level:
                x = net.conv(net.upsample(x), net.channels(x), 3, bias=True)
                halved //= 2
        x = net.act(net.group_norm(x), "silu", inplace=False)
        return net.conv(x, self.channels * self.frames, 3, bias=True)

    def _block(self, net: Builder, x: int, time: int, channels: int) -> int:
        y = net.conv(net.act(net.group_norm(x), "silu", inplace=False), channels, 3, bias=True)
        step = net.linear(net.act(time, "silu", inplace=False), channels)
        y = net.add(y, net.view(step, *net.shape(step), 1, 1))
        y = net.conv(net.act(net.group_norm(y), "silu", inplace=False), channels, 3, bias=True)
        return net.add(x if net.channels(x) == channels else net.conv(x, channels, bias=True), y)

    def _attend(self, net: Builder, x: int, text: int) -> int:
        batch, c, high, wide = net.shape(x)
        y = net.group_norm(x)
        if text < 0:
            y = net.self_attention(net.transpose(net.flatten(y, 2), 1, 2), self.heads)
        else:
            y = net.transpose(net.flatten(net.conv(y, net.channels(x), bias=True), 2), 1, 2)
            y = net.add(y, self._heads(net, net.layer_norm(y), -1))
            y = net.add(y, self._heads(net, net.layer_norm(y), text))
            a, b = net.split(net.linear(net.layer_norm(y), 8 * net.channels(x)), 2, 2)
            y = net.add(y, net.linear(net.mul(a, net.gelu(b)), net.channels(x)))
        y = net.view(net.copy(net.transpose(y, 1, 2)), batch, c, high, wide)
        return net.add(x, y if text < 0 else net.conv(y, net.channels(x), bias=True))

    def _heads(self, net: Builder, x: int, text: int) -> int:
        """Attention to the image's own rows, or to those of ``text``."""
        batch, rows, _ = net.shape(x)
        c = net.size(x, 2)

        def parted(y: int, length: Size) -> int:
            return net.transpose(
                net.view(net.linear(y, c, bias=False), batch, length, self.heads, c // self.heads), 1, 2
            )

        seen, length = (x, rows) if text < 0 else (text, self.seen)
        y = net.attention(parted(x, rows), parted(seen, length), parted(seen, length))
        return net.linear(net.view(net.copy(net.transpose(y, 1, 2)), batch, rows, c), c)
