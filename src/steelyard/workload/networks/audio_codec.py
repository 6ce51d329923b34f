"""A codec of sound: EnCodec (Défossez 2022), convolutions and an LSTM around codes of several books.

``size`` is the samples, 24,000 of a second.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from steelyard.errors import InputError
from steelyard.workload.networks.builder import Builder
from steelyard.workload.networks.values import symbol

__all__ = ["AudioDecoder", "AudioEncoder"]


def _conv(net: Builder, x: int, channels: int, kernel: int, stride: int = 1) -> int:
    """A convolution that sees the past alone, its kernels with a learned length each."""
    net.weight(channels, 1, 1)
    return net.conv(net.pad(x, kernel - stride, 0), channels, kernel, stride, 0, bias=True)


def _elu(net: Builder, x: int) -> int:
    return net.act(x, "elu", inplace=False)


def _residual(net: Builder, x: int) -> int:
    width = net.channels(x)
    y = _conv(net, _elu(net, _conv(net, _elu(net, x), width // 2, 3)), width, 1)
    return net.add(_conv(net, x, width, 1), y)


def _recurrent(net: Builder, x: int) -> int:
    """Two layers of an LSTM over the frames and a shortcut; the library keeps two offsets of a gate."""
    width = net.channels(x)
    y = net.transpose(x, 1, 2)
    found = net.recurrent(y, width, 2)
    return net.transpose(net.add(found, y), 1, 2)


@dataclass(frozen=True, slots=True)
class _Codec:
    """``rates``: strides in the order they come; ``books``: 8 of 6 kbit/s, of ``rows`` each."""

    rates: tuple[int, ...]
    width: int = 32
    code: int = 128
    books: int = 8
    rows: int = 1024

    def frames(self, samples: int) -> int:
        """Places with codes of so many samples."""
        hop = prod(self.rates)
        if samples % hop:
            raise InputError(f"expected a multiple of {hop} samples, got {samples}", field="size")
        return samples // hop


@dataclass(frozen=True, slots=True)
class AudioEncoder(_Codec):
    """Sound to codes: convolutions that leave every 320th place, an LSTM, and the nearest row of each book in turn."""

    rates: tuple[int, ...] = (2, 4, 5, 8)

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`."""
        self.frames(size[0])
        x = _conv(net, net.input((symbol("batch"), 1, size[0])), self.width, 7)
        for i, rate in enumerate(self.rates):
            with net.within(f"layers.{i}"):
                x = _conv(net, _elu(net, _residual(net, x)), self.width << i + 1, 2 * rate, rate)
        x = _conv(net, _elu(net, _recurrent(net, x)), self.code, 7)
        rest = net.transpose(x, 1, 2)
        batch, frames, _ = net.shape(rest)
        found = -1
        for i in range(self.books):
            with net.within(f"books.{i}"):
                book = net.buffer(self.rows, self.code)
                near = net.matmul(rest, net.transpose(book))
                near = net.add(net.act(near, "mul", inplace=False), net.buffer(self.rows))
                found = net.node("max", (near,), (batch, frames), dtype="i64")
                chosen = net.node("gather", (book, found), (batch, frames, self.code), dtype=net.dtype)
                rest = net.binary("sub", rest, chosen)
        return found


@dataclass(frozen=True, slots=True)
class AudioDecoder(_Codec):
    """Codes to sound: sums of the books' rows, an LSTM, transposed convolutions. ``size`` is the samples."""

    rates: tuple[int, ...] = (8, 5, 4, 2)

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`."""
        batch, frames, total = symbol("batch"), self.frames(size[0]), -1
        for _ in range(self.books):
            codes = net.input((batch, frames), "i64")
            row = net.node("gather", (net.buffer(self.rows, self.code), codes), (batch, frames, self.code), dtype="f32")
            total = row if total < 0 else net.add(total, row)
        wide = self.width << len(self.rates)
        x = _recurrent(net, _conv(net, net.transpose(total, 1, 2), wide, 7))
        for i, rate in enumerate(self.rates):
            with net.within(f"layers.{i}"):
                net.weight(wide >> i, 1, 1)
                x = net.deconv(_elu(net, x), wide >> i + 1, 2 * rate, rate)
                x = _residual(net, net.part(x, net.size(x, 2) - rate, 2))
        return _conv(net, _elu(net, x), 1, 7)
