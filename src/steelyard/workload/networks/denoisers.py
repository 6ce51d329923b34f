"""Transformers that denoise pictures beside their text: FLUX.2 and Qwen-Image (two streams that attend together, after
Esser 2024), Z-Image (arXiv:2511.22699) and Ideogram 4 (one stream). A row and a column are tokens of the picture.

Sizes are two: rows and columns of the picture's tokens; ``text`` is the tokens of a prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from steelyard.errors import InputError
from steelyard.workload.networks.builder import Builder
from steelyard.workload.networks.sizes import Size, plus, times
from steelyard.workload.networks.text_towers import heads_of, joined, rms_norm, rotated
from steelyard.workload.networks.values import symbol

__all__ = ["Flux2", "Ideogram4", "QwenImage", "ZImage"]


def _tokens(net: Builder, size: tuple[int, ...]) -> Size:
    """Tokens of the picture, with open rows and columns."""
    if len(size) != 2:
        raise InputError("expected rows and columns of the picture's tokens", field="size")
    net.dtype = "bf16"
    net.symbols = {**net.symbols, "rows": size[0], "columns": size[1]}
    return times(symbol("rows"), symbol("columns"))


def _given(net: Builder, rows: Size, width: int) -> int:
    return net.input((symbol("batch"), rows, width), net.dtype)


def _silu(net: Builder, x: int) -> int:
    return net.act(x, "silu", inplace=False)


def _time(net: Builder, width: int, *, bias: bool = True, pair: int = 1) -> int:
    """The embedding of the step: waves, two linear layers; ``pair``: as many, of guidance or pooled text, summed."""
    found = -1
    for _ in range(pair):
        waves = net.node("exp", (net.input((symbol("batch"),), net.dtype),), (symbol("batch"), 256), dtype="f32")
        y = net.node("cast", (waves,), net.shape(waves), dtype=net.dtype)
        y = net.linear(_silu(net, net.linear(y, width, bias=bias)), width, bias=bias)
        found = y if found < 0 else net.add(found, y)
    return found


def _modulation(net: Builder, step: int, width: int, parts: int, *, bias: bool = True) -> tuple[int, ...]:
    """Scales, offsets and gates that a linear layer makes of the step, ``(batch, 1, width)`` each."""
    found = net.linear(_silu(net, step), parts * width, bias=bias)
    return net.split(net.view(found, symbol("batch"), 1, parts * width), parts, 2)


def _moved(net: Builder, x: int, scale: int, moved: int) -> int:
    """A normalisation without weights, scaled and moved: ``(1 + scale) norm(x) + moved``."""
    y = net.layer_norm(x, affine=False)
    more = net.node("add", (scale,), net.shape(scale))
    return net.add(net.mul(y, more), moved)


def _final(net: Builder, x: int, step: int, width: int, out: int, *, bias: bool) -> int:
    scale, moved = _modulation(net, step, width, 2, bias=bias)
    return net.linear(_moved(net, x, scale, moved), out, bias=bias)


@dataclass(frozen=True, slots=True)
class _Heads:
    count: int
    head: int
    precise: bool = True

    def of(self, net: Builder, x: int, *, turned: bool = True) -> int:
        """Heads, normalised each; ``turned``: positions are turned in."""
        y = rms_norm(net, heads_of(net, x, self.count, self.head))
        return rotated(net, y, precise=self.precise) if turned else y

    def plain(self, net: Builder, x: int) -> int:
        return heads_of(net, x, self.count, self.head)


@dataclass(frozen=True, slots=True)
class Flux2:
    """FLUX.2: layers of two streams, then of one whose attention and feed-forward lie beside each other; modulations
    are shared by all layers of a kind."""

    double: int = 8
    single: int = 48
    heads: int = 48
    head: int = 128
    latent: int = 128
    prompt: int = 15360
    text: int = 512
    ratio: float = 3.0
    guided: bool = True
    """The strength of guidance is an input."""

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`. ``prompt``: width of the text's states."""
        tokens, width, heads = _tokens(net, size), self.heads * self.head, _Heads(self.heads, self.head)
        step = _time(net, width, bias=False, pair=2 if self.guided else 1)
        of_x, of_y = (_modulation(net, step, width, 6, bias=False) for _ in range(2))
        of_both = _modulation(net, step, width, 3, bias=False)
        x = net.linear(_given(net, tokens, self.latent), width, bias=False)
        y = net.linear(_given(net, self.text, self.prompt), width, bias=False)
        for i in range(self.double):
            with net.within(f"double.{i}"):
                x, y = self._double(net, x, y, of_x, of_y, heads)
        x = net.concat([y, x], 1)
        for i in range(self.single):
            with net.within(f"single.{i}"):
                x = self._single(net, x, of_both, heads)
        return _final(net, net.part(x, tokens, 1), step, width, self.latent, bias=False)

    def _gated(self, net: Builder, x: int) -> int:
        a, b = net.split(x, 2, 2)
        return net.mul(_silu(net, a), b)

    def _double(
        self, net: Builder, x: int, y: int, of_x: tuple[int, ...], of_y: tuple[int, ...], heads: _Heads
    ) -> tuple[int, int]:
        width, hidden = net.size(x, 2), int(net.size(x, 2) * self.ratio)
        parts = []
        for stream, mod in ((y, of_y), (x, of_x)):
            z = _moved(net, stream, mod[1], mod[0])
            q, k, v = (net.linear(z, width, bias=False) for _ in range(3))
            parts.append((heads.of(net, q, turned=False), heads.of(net, k, turned=False), heads.plain(net, v)))
        q, k, v = (net.concat([a, b], 2) for a, b in zip(*parts, strict=True))
        z = joined(net, net.attention(rotated(net, q, precise=True), rotated(net, k, precise=True), v))
        found = []
        for stream, mod in ((y, of_y), (x, of_x)):
            z_own = net.linear(net.part(z, net.shape(stream)[1], 1), width, bias=False)
            s = net.add(stream, net.mul(z_own, mod[2]))
            m = net.linear(_moved(net, s, mod[4], mod[3]), 2 * hidden, bias=False)
            found.append(net.add(s, net.mul(net.linear(self._gated(net, m), width, bias=False), mod[5])))
        return found[1], found[0]

    def _single(self, net: Builder, x: int, mod: tuple[int, ...], heads: _Heads) -> int:
        width, hidden = net.size(x, 2), int(net.size(x, 2) * self.ratio)
        z = net.linear(_moved(net, x, mod[1], mod[0]), 3 * width + 2 * hidden, bias=False)
        q, k, v, m = net.split(z, (width, width, width, 2 * hidden), 2)
        z = joined(net, net.attention(heads.of(net, q), heads.of(net, k), heads.plain(net, v)))
        z = net.linear(net.concat([z, self._gated(net, m)], 2), width, bias=False)
        return net.add(x, net.mul(z, mod[2]))


@dataclass(frozen=True, slots=True)
class QwenImage:
    """Qwen-Image (arXiv:2508.02324): layers of two streams, each with modulations of its own.

    ``beside``: pictures of the size of the one made that are given with it (editing)."""

    depth: int = 60
    heads: int = 24
    head: int = 128
    latent: int = 64
    prompt: int = 3584
    text: int = 64
    beside: int = 0

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`."""
        tokens, width, heads = _tokens(net, size), self.heads * self.head, _Heads(self.heads, self.head)
        step = _time(net, width)
        x = net.linear(_given(net, times(tokens, 1 + self.beside), self.latent), width)
        y = net.linear(rms_norm(net, _given(net, self.text, self.prompt)), width)
        for i in range(self.depth):
            with net.within(f"blocks.{i}"):
                of_x, of_y = (_modulation(net, step, width, 6) for _ in range(2))
                parts = []
                for stream, mod in ((y, of_y), (x, of_x)):
                    z = _moved(net, stream, mod[1], mod[0])
                    q, k, v = (net.linear(z, width) for _ in range(3))
                    parts.append((heads.of(net, q), heads.of(net, k), heads.plain(net, v)))
                z = joined(net, net.attention(*(net.concat([a, b], 2) for a, b in zip(*parts, strict=True))))
                found = []
                for stream, mod in ((y, of_y), (x, of_x)):
                    s = net.linear(net.part(z, net.shape(stream)[1], 1), width)
                    s = net.add(stream, net.mul(s, mod[2]))
                    m = net.mlp(_moved(net, s, mod[4], mod[3]), 4 * width)
                    found.append(net.add(s, net.mul(m, mod[5])))
                y, x = found
        return _final(net, x, step, width, self.latent, bias=True)


def _sandwich(net: Builder, x: int, mod: tuple[int, ...], heads: _Heads, hidden: int) -> int:
    """A layer of one stream whose inputs and outputs are normalised; scales and gates where a step makes them."""
    width = net.size(x, 2)

    def scaled(y: int, i: int) -> int:
        y = rms_norm(net, y)
        return net.mul(y, net.node("add", (mod[i],), net.shape(mod[i]))) if mod else y

    def added(x: int, y: int, i: int) -> int:
        y = rms_norm(net, y)
        return net.add(x, net.mul(y, net.act(mod[i], "tanh", inplace=False)) if mod else y)

    z = scaled(x, 0)
    q, k, v = (net.linear(z, width, bias=False) for _ in range(3))
    z = joined(net, net.attention(heads.of(net, q), heads.of(net, k), heads.plain(net, v)))
    x = added(x, net.linear(z, width, bias=False), 1)
    z = scaled(x, 2)
    z = net.mul(_silu(net, net.linear(z, hidden, bias=False)), net.linear(z, hidden, bias=False))
    return added(x, net.linear(z, width, bias=False), 3)


@dataclass(frozen=True, slots=True)
class ZImage:
    """Z-Image: text and picture are refined apart, then one stream of both. Prompts are filled up to 32 tokens."""

    depth: int = 30
    refiners: int = 2
    heads: int = 30
    head: int = 128
    latent: int = 64
    prompt: int = 2560
    text: int = 64
    step_width: int = 256

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`."""
        tokens, width, heads = _tokens(net, size), self.heads * self.head, _Heads(self.heads, self.head)
        hidden = width * 8 // 3
        waves = net.node("exp", (net.input((symbol("batch"),), net.dtype),), (symbol("batch"), 256), dtype="bf16")
        step = net.linear(_silu(net, net.linear(waves, 1024)), self.step_width)

        def modulated() -> tuple[int, ...]:
            found = net.linear(step, 4 * width)
            return net.split(net.view(found, symbol("batch"), 1, 4 * width), 4, 2)

        x = net.linear(_given(net, tokens, self.latent), width)
        for i in range(self.refiners):
            with net.within(f"picture.{i}"):
                x = _sandwich(net, x, modulated(), heads, hidden)
        y = net.linear(rms_norm(net, _given(net, ceil(self.text / 32) * 32, self.prompt)), width)
        for i in range(self.refiners):
            with net.within(f"text.{i}"):
                y = _sandwich(net, y, (), heads, hidden)
        x = net.concat([x, y], 1)
        for i in range(self.depth):
            with net.within(f"layers.{i}"):
                x = _sandwich(net, x, modulated(), heads, hidden)
        scale = net.view(net.linear(_silu(net, step), width), symbol("batch"), 1, width)
        y = net.mul(net.layer_norm(x, affine=False), net.node("add", (scale,), net.shape(scale)))
        return net.linear(y, self.latent)


@dataclass(frozen=True, slots=True)
class Ideogram4:
    """Ideogram 4: one stream of text and picture, with states of many layers of a language model as text."""

    depth: int = 34
    heads: int = 18
    head: int = 256
    hidden: int = 12288
    latent: int = 128
    prompt: int = 53248
    text: int = 256
    step_width: int = 512

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`."""
        tokens, width, heads = _tokens(net, size), self.heads * self.head, _Heads(self.heads, self.head, precise=False)
        total = plus(tokens, self.text)
        x = net.linear(_given(net, total, self.latent), width)
        text = net.linear(rms_norm(net, _given(net, total, self.prompt)), width)
        waves = net.node("exp", (net.input((symbol("batch"),), net.dtype),), (symbol("batch"), width), dtype="bf16")
        step = net.linear(_silu(net, net.linear(waves, width)), width)
        step = net.linear(step, self.step_width)
        x = net.add(x, text)
        x = net.add(x, net.embedding(net.tokens(total), 2, width))
        for i in range(self.depth):
            with net.within(f"layers.{i}"):
                found = net.view(net.linear(step, 4 * width), symbol("batch"), 1, 4 * width)
                x = _sandwich(net, x, net.split(found, 4, 2), heads, self.hidden)
        scale = net.view(net.linear(_silu(net, step), width), symbol("batch"), 1, width)
        y = net.mul(net.layer_norm(x, affine=False), net.node("add", (scale,), net.shape(scale)))
        return net.linear(y, self.latent)
