"""Decoders of autoencoders that turn latents into pictures and videos: of Stable Diffusion and FLUX (Rombach 2022),
of CogVideoX, Wan and HunyuanVideo. Videos are decoded in pieces, as the libraries do: a graph is one piece, with the
frames that causal convolutions keep of the piece before it.
"""

from __future__ import annotations

from dataclasses import dataclass

from steelyard.errors import InputError
from steelyard.workload.networks.builder import Builder
from steelyard.workload.networks.sizes import plus, times
from steelyard.workload.networks.values import symbol

__all__ = ["CogVideoDecoder", "HunyuanVideoDecoder", "KlDecoder", "WanDecoder"]


def _open(net: Builder, size: tuple[int, ...]) -> None:
    """Rows and columns of the latents are open; the size is the usual one."""
    if len(size) != 2:
        raise InputError("expected rows and columns of the latents", field="size")
    net.dtype = "bf16"
    net.symbols = {**net.symbols, "rows": size[0], "columns": size[1]}


def _latents(net: Builder, channels: int, frames: int = 0) -> int:
    shape = (symbol("batch"), channels, *((frames,) if frames else ()), symbol("rows"), symbol("columns"))
    return net.input(shape, net.dtype)


def _silu(net: Builder, x: int) -> int:
    return net.act(x, "silu", inplace=False)


@dataclass(frozen=True, slots=True)
class KlDecoder:
    """The decoder of pictures; ``size``: rows and columns of the latents. ``first``: it begins with a 1 x 1 convolution
    of them."""

    latent: int = 16
    widths: tuple[int, ...] = (128, 256, 512, 512)
    blocks: int = 3
    first: bool = False

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`."""
        _open(net, size)
        x = _latents(net, self.latent)
        if self.first:
            x = net.conv(x, self.latent, bias=True)
        x = net.conv(x, self.widths[-1], 3, bias=True)
        x = self._block(net, self._attend(net, self._block(net, x, self.widths[-1])), self.widths[-1])
        for i, width in enumerate(reversed(self.widths)):
            for _ in range(self.blocks):
                x = self._block(net, x, width)
            if i < len(self.widths) - 1:
                x = net.conv(net.upsample(x), width, 3, bias=True)
        return net.conv(_silu(net, net.group_norm(x)), 3, 3, bias=True)

    def _block(self, net: Builder, x: int, width: int) -> int:
        y = net.conv(_silu(net, net.group_norm(x)), width, 3, bias=True)
        y = net.conv(_silu(net, net.group_norm(y)), width, 3, bias=True)
        return net.add(x if net.channels(x) == width else net.conv(x, width, bias=True), y)

    def _attend(self, net: Builder, x: int) -> int:
        batch, c, rows, columns = net.shape(x)
        y = net.copy(net.transpose(net.view(net.group_norm(x), batch, c, times(rows, columns)), 1, 2))
        q, k, v = (net.view(net.linear(y, c), batch, 1, times(rows, columns), c) for _ in range(3))
        y = net.view(net.attention(q, k, v), batch, times(rows, columns), c)
        return net.add(x, net.view(net.copy(net.transpose(net.linear(y, c), 1, 2)), batch, c, rows, columns))


@dataclass(frozen=True, slots=True)
class WanDecoder:
    """The decoder of Wan 2.1, and of Qwen-Image: one frame of latents becomes four of the video.

    ``first``: the first frame, which becomes one, with nothing before it (a picture). ``size``: rows and columns of the
    latents.
    """

    latent: int = 16
    width: int = 96
    grown: tuple[int, ...] = (1, 2, 4, 4)
    blocks: int = 3
    longer: tuple[bool, ...] = (True, True, False)
    first: bool = False

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`. ``longer``: steps that double the frames."""
        _open(net, size)
        top = self.width * self.grown[-1]
        x = net.conv(_latents(net, self.latent, 1), self.latent, bias=True)
        x = self._causal(net, x, top)
        x = self._block(net, self._attend(net, self._block(net, x, top)), top)
        for i, grown in enumerate(reversed(self.grown)):
            for _ in range(self.blocks):
                x = self._block(net, x, self.width * grown)
            if i < len(self.longer):
                x = self._up(net, x, self.longer[i])
        return self._causal(net, _silu(net, self._norm(net, x)), 3)

    def _causal(self, net: Builder, x: int, channels: int, kernel: tuple[int, int, int] = (3, 3, 3)) -> int:
        if not self.first:
            batch, c, frames, *sides = net.shape(x)
            x = net.copy(x, batch, c, plus(frames, 2), *sides)  # the last two frames of the piece before it
        side = kernel[1] // 2
        x = net.pad(x, side, side, side, side, *((2, 0) if self.first else ()))
        return net.conv(x, channels, kernel, pad=0, bias=True)

    def _norm(self, net: Builder, x: int) -> int:
        batch, c, *sides = net.shape(x)
        length = net.node("norm", (x,), (batch, 1, *sides))
        y = net.binary("div", x, length)
        return net.scale(net.node("mul", (y,), net.shape(y)), c, *(1 for _ in sides))

    def _block(self, net: Builder, x: int, width: int) -> int:
        y = self._causal(net, _silu(net, self._norm(net, x)), width)
        y = self._causal(net, _silu(net, self._norm(net, y)), width)
        return net.add(x if net.channels(x) == width else net.conv(x, width, bias=True), y)

    def _attend(self, net: Builder, x: int) -> int:
        batch, _, _, rows, columns = net.shape(x)
        c = net.channels(x)
        y = self._norm(net, net.view(x, batch, c, rows, columns))
        y = net.copy(net.transpose(net.view(net.conv(y, 3 * c, bias=True), batch, 1, 3 * c, times(rows, columns))))
        q, k, v = net.split(y, 3, 3)
        y = net.view(net.copy(net.transpose(net.attention(q, k, v))), batch, c, rows, columns)
        return net.add(x, net.view(net.conv(y, c, bias=True), *net.shape(x)))

    def _up(self, net: Builder, x: int, longer: bool) -> int:
        batch, c, frames, rows, columns = net.shape(x)
        assert isinstance(c, int)
        if longer and self.first:  # loaded and not run
            net.weight(2 * c, c, 3, 1, 1)
            net.weight(2 * c)
        elif longer:
            x = self._causal(net, x, 2 * c, (3, 1, 1))
            x = net.copy(x, batch, c, times(frames, 2), rows, columns)
            frames = times(frames, 2)
        y = net.copy(net.transpose(x, 1, 2))
        y = net.upsample(net.view(y, times(batch, frames), c, rows, columns))
        y = net.conv(y, c // 2, 3, bias=True)
        y = net.view(y, batch, frames, c // 2, times(rows, 2), times(columns, 2))
        return net.transpose(y, 1, 2)


@dataclass(frozen=True, slots=True)
class CogVideoDecoder:
    """The decoder of CogVideoX: two frames of latents become eight of the video; normalisations are scaled and moved by
    convolutions of the latents. ``size``: rows and columns of the latents."""

    latent: int = 16
    widths: tuple[int, ...] = (128, 256, 256, 512)
    blocks: int = 4
    frames: int = 2
    longer: int = 2

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`. ``longer``: steps that double the frames."""
        _open(net, size)
        given = _latents(net, self.latent, self.frames)
        x = self._causal(net, given, self.widths[-1])
        for _ in range(2):
            x = self._block(net, x, given, self.widths[-1])
        for i, width in enumerate(reversed(self.widths)):
            for _ in range(self.blocks):
                x = self._block(net, x, given, width)
            if i < len(self.widths) - 1:
                x = self._up(net, x, i < self.longer)
        return self._causal(net, _silu(net, self._norm(net, x, given)), 3)

    def _causal(self, net: Builder, x: int, channels: int) -> int:
        batch, c, frames, *sides = net.shape(x)
        x = net.copy(x, batch, c, plus(frames, 2), *sides)
        return net.conv(x, channels, 3, pad=(0, 1, 1), bias=True)

    def _norm(self, net: Builder, x: int, given: int) -> int:
        near = net.resize(given, *net.shape(x)[2:])
        scale, moved = (net.conv(net.copy(near), net.channels(x), bias=True) for _ in range(2))
        return net.add(net.mul(net.group_norm(x), scale), moved)

    def _block(self, net: Builder, x: int, given: int, width: int) -> int:
        y = self._causal(net, _silu(net, self._norm(net, x, given)), width)
        y = self._causal(net, _silu(net, self._norm(net, y, given)), width)
        return net.add(y, x if net.channels(x) == width else net.conv(x, width, bias=True))

    def _up(self, net: Builder, x: int, longer: bool) -> int:
        batch, c, frames, rows, columns = net.shape(x)
        frames = times(frames, 2) if longer else frames
        y = net.resize(x, frames, times(rows, 2), times(columns, 2))
        y = net.view(net.copy(net.transpose(y, 1, 2)), times(batch, frames), c, times(rows, 2), times(columns, 2))
        assert isinstance(c, int)
        y = net.conv(y, c, 3, bias=True)
        return net.transpose(net.view(y, batch, frames, c, times(rows, 2), times(columns, 2)), 1, 2)


@dataclass(frozen=True, slots=True)
class HunyuanVideoDecoder:
    """The decoder of HunyuanVideo: one tile, ``size`` its frames, rows and columns of latents (5 x 32 x 32)."""

    latent: int = 16
    widths: tuple[int, ...] = (128, 256, 512, 512)
    blocks: int = 3

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`."""
        if len(size) != 3:
            raise InputError("expected frames, rows and columns of the latents of a tile", field="size")
        net.dtype = "bf16"
        x = net.conv(net.input((symbol("batch"), self.latent, *size), net.dtype), self.latent, bias=True)
        x = self._causal(net, x, self.widths[-1])
        x = self._block(net, self._attend(net, self._block(net, x, self.widths[-1])), self.widths[-1])
        for i, width in enumerate(reversed(self.widths)):
            for _ in range(self.blocks):
                x = self._block(net, x, width)
            if i < len(self.widths) - 1:
                batch, c, frames, rows, columns = net.shape(x)
                assert isinstance(frames, int)
                longer = 2 * frames - 1 if i else frames  # the first frame stays one
                x = net.resize(net.copy(x), longer, times(rows, 2), times(columns, 2))
                x = self._causal(net, net.copy(x, batch, c, *net.shape(x)[2:]), width)
        return self._causal(net, _silu(net, net.group_norm(x)), 3)

    def _causal(self, net: Builder, x: int, channels: int) -> int:
        return net.conv(net.pad(x, 1, 1, 1, 1, 2, 0), channels, 3, pad=0, bias=True)

    def _block(self, net: Builder, x: int, width: int) -> int:
        y = self._causal(net, _silu(net, net.group_norm(x)), width)
        y = self._causal(net, _silu(net, net.group_norm(y)), width)
        return net.add(y, x if net.channels(x) == width else net.conv(x, width, bias=True))

    def _attend(self, net: Builder, x: int) -> int:
        batch, c, frames, rows, columns = net.shape(x)
        tokens = times(times(rows, columns), frames)
        y = net.group_norm(net.copy(net.view(x, batch, c, tokens)))
        y = net.copy(net.transpose(y, 1, 2))
        q, k, v = (net.view(net.linear(y, c), batch, 1, tokens, c) for _ in range(3))
        y = net.linear(net.view(net.attention(q, k, v), batch, tokens, c), c)
        return net.add(x, net.view(net.copy(net.transpose(y, 1, 2)), batch, c, frames, rows, columns))
