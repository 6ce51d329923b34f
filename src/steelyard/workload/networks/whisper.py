"""Whisper (Radford 2022): an encoder over half a minute of sound, a decoder that writes token by token."""

from __future__ import annotations

from dataclasses import dataclass

from steelyard.errors import InputError
from steelyard.workload.networks.builder import Builder
from steelyard.workload.networks.values import symbol

__all__ = ["WhisperDecoder", "WhisperEncoder"]


def _heads(net: Builder, x: int, heads: int) -> int:
    batch, rows, _ = net.shape(x)
    return net.transpose(net.view(x, batch, rows, heads, net.size(x, 2) // heads), 1, 2)


def _joined(net: Builder, y: int, rows: int, width: int) -> int:
    return net.linear(net.view(net.copy(net.transpose(y, 1, 2)), symbol("batch"), rows, width), width)


@dataclass(frozen=True, slots=True)
class WhisperEncoder:
    """Two convolutions over frames of 10 ms, one of which leaves every second, and layers of attention over them.

    ``size`` is the frames: 3,000 of half a minute, which every shorter sound is filled up to.
    """

    depth: int = 12
    width: int = 768
    heads: int = 12
    mels: int = 80

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`."""
        x = net.gelu(net.conv(net.input((symbol("batch"), self.mels, size[0])), self.width, 3, bias=True))
        x = net.transpose(net.gelu(net.conv(x, self.width, 3, 2, bias=True)), 1, 2)
        rows = net.size(x, 1)
        x = net.add(x, net.weight(rows, self.width))
        for i in range(self.depth):
            with net.within(f"layers.{i}"):
                y = net.layer_norm(x)
                q, k, v = (_heads(net, net.linear(y, self.width, bias=b), self.heads) for b in (True, False, True))
                x = net.add(x, _joined(net, net.attention(q, k, v), rows, self.width))
                x = net.add(x, net.mlp(net.layer_norm(x), 4 * self.width))
        return net.layer_norm(x)


@dataclass(frozen=True, slots=True)
class WhisperDecoder:
    """A pass of the decoder: ``tokens`` new ones after ``size`` that are cached, and the sound's keys and values.

    ``opened``: the pass that also makes keys and values of the ``heard`` frames; later ones read them.
    """

    depth: int = 12
    width: int = 768
    heads: int = 12
    words: int = 51865
    places: int = 448
    heard: int = 1500
    tokens: int = 1
    opened: bool = False

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`. ``places``: most tokens of an answer."""
        if self.tokens + size[0] > self.places:
            raise InputError(f"expected at most {self.places} tokens, got {self.tokens + size[0]}", field="size")
        batch, head = symbol("batch"), self.width // self.heads
        table, given = net.weight(self.words, self.width), net.tokens(self.tokens)
        x = net.node("gather", (table, given), (batch, self.tokens, self.width), dtype=net.dtype)
        x = net.add(x, net.part(net.weight(self.places, self.width), self.tokens, 0))
        sound = net.input((batch, self.heard, self.width)) if self.opened else -1
        for i in range(self.depth):
            with net.within(f"layers.{i}"):
                y = net.layer_norm(x)
                q, k, v = (_heads(net, net.linear(y, self.width, bias=b), self.heads) for b in (True, False, True))
                if not self.opened:
                    past = (batch, self.heads, size[0], head)
                    k, v = (net.concat([net.input(past), new], 2) for new in (k, v))
                y = net.attention(q, k, v, causal=self.tokens > 1)
                x = net.add(x, _joined(net, y, self.tokens, self.width))
                q = _heads(net, net.linear(net.layer_norm(x), self.width), self.heads)
                y = net.attention(q, *self._of_sound(net, sound))
                x = net.add(x, _joined(net, y, self.tokens, self.width))
                x = net.add(x, net.mlp(net.layer_norm(x), 4 * self.width))
        return net.node("linear", (net.layer_norm(x), table), (batch, self.tokens, self.words))

    def _of_sound(self, net: Builder, sound: int) -> tuple[int, int]:
        """Keys and values of the sound: made of it, or read where an earlier pass left them (its weights lie idle)."""
        if self.opened:
            return (
                _heads(net, net.linear(sound, self.width, bias=False), self.heads),
                _heads(net, net.linear(sound, self.width), self.heads),
            )
        for shape in ((self.width, self.width), (self.width, self.width), (self.width,)):
            net.weight(*shape)
        kept = (symbol("batch"), self.heads, self.heard, self.width // self.heads)
        return net.input(kept), net.input(kept)
