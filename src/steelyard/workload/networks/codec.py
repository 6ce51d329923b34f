"""Encoders of learned image codecs: scale hyperpriors (Balle et al. 2018, Minnen et al. 2018) and cascaded codebooks
(McQuic, Zhu et al., CVPR 2022), and what a context model computes for one place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from steelyard.workload.networks.builder import Builder
from steelyard.workload.networks.values import symbol

__all__ = ["CodecContext", "ImageCodec"]


@dataclass(frozen=True, slots=True)
class ImageCodec:
    """Four strided 5x5 convolutions, then a smaller image of side information, or vectors quantised at several levels.

    ``codes``: words of the codebooks of each level, a level at half the side of the one before; none: a hyperprior,
    read back through transposed convolutions to give mean and scale of every value.
    """

    width: int = 192
    latent: int = 320
    codes: tuple[int, ...] = ()
    books: int = 2
    channels: int = 3

    def build(self, net: Builder, size: tuple[int, ...]) -> Sequence[int]:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`. Sides are multiples of 64."""
        x = net.image(self.channels, size)
        for i in range(4):
            last = i == 3
            x = net.conv(x, self.latent if last else self.width, 5, 2, bias=True)
            x = x if last else self._normalised(net, x)
        return self._cascade(net, x) if self.codes else self._hyperprior(net, x)

    def _normalised(self, net: Builder, x: int) -> int:
        """Each channel over a root of the others' squares (generalised divisive normalisation)."""
        power = net.conv(net.mul(x, x), net.channels(x), bias=True)
        return net.binary("div", x, net.act(power, "sqrt", inplace=False))

    def _hyperprior(self, net: Builder, y: int) -> Sequence[int]:
        z = net.conv(y, self.width, 3, bias=True)
        for _ in range(2):
            z = net.conv(net.act(z, "leaky_relu"), self.width, 5, 2, bias=True)
        z = net.act(z, "round", inplace=False)
        for width in (self.latent, 3 * self.latent // 2):
            z = net.act(net.deconv(z, width, 5, 2, 2, extra=1), "leaky_relu")
        return [net.act(y, "round", inplace=False), net.conv(z, 2 * self.latent, 3, bias=True)]

    def _cascade(self, net: Builder, x: int) -> Sequence[int]:
        """Nearest words of the codebooks; what they miss goes on to the next level at half the side."""
        found = []
        for level, codes in enumerate(self.codes):
            if level:
                x = net.act(net.conv(x, self.latent, 5, 2, bias=True), "leaky_relu")
            x = net.conv(net.act(net.conv(x, self.latent, 3, bias=True), "leaky_relu"), self.latent, 3, bias=True)
            batch, c, high, wide = net.shape(x)
            part = self.latent // self.books
            rows = net.copy(net.transpose(net.view(x, batch, self.books, part, -1)))
            books = net.weight(1, self.books, part, codes)
            nearest = net.node("max", (net.matmul(rows, books),), net.shape(rows)[:-1], dtype="i64")
            found.append(nearest)
            words = net.node(
                "gather", (net.weight(self.books * codes, part), nearest), net.shape(rows), dtype=net.dtype
            )
            words = net.view(net.copy(net.transpose(words)), batch, c, high, wide)
            x = net.binary("sub", x, words)
        return found


@dataclass(frozen=True, slots=True)
class CodecContext:
    """One place of a latent image: a 5x5 of those known before it, and three layers that give mean and scale.

    ``size`` is not looked at: a place is one.
    """

    latent: int = 320

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`."""
        batch, m = symbol("batch"), self.latent
        around = net.conv(net.input((batch, m, 5, 5)), 2 * m, 5, 1, 0, bias=True)
        x = net.concat([net.view(around, batch, 2 * m), net.input((batch, 2 * m))])
        for width in (10 * m // 3, 8 * m // 3):
            x = net.act(net.linear(x, width), "leaky_relu")
        return net.linear(x, 2 * m)
