"""Vision transformers (Dosovitskiy 2021), DeiT (Touvron 2021) and encoders of text (BERT, Devlin 2019)."""

from __future__ import annotations

from dataclasses import dataclass

from steelyard.workload.networks.builder import Builder
from steelyard.workload.networks.values import symbol

__all__ = ["ClipText", "TextEncoder", "Vit"]


@dataclass(frozen=True, slots=True)
class Vit:
    """Patches of an image and learned tokens through layers of attention and two linear layers.

    ``tokens`` 1 has the class token, 2 the distilled one of DeiT too; 0: the mean of patches is classified.
    """

    depth: int = 12
    width: int = 768
    heads: int = 12
    patch: int = 16
    hidden: int = 4
    tokens: int = 1
    normed_first: bool = False
    channels: int = 3
    classes: int = 1000

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`."""
        batch = symbol("batch")
        x = net.conv(net.image(self.channels, size), self.width, self.patch, self.patch, 0, bias=not self.normed_first)
        x = net.transpose(net.flatten(x, 2), 1, 2)
        places = net.size(x, 1) + self.tokens
        learned = [net.expand(net.weight(1, 1, self.width), batch, 1, self.width) for _ in range(self.tokens)]
        x = net.add(net.concat([*learned, x]) if learned else x, net.weight(1, places, self.width))
        if self.normed_first:
            x = net.layer_norm(x)
        for i in range(self.depth):
            with net.within(f"blocks.{i}"):
                x = net.add(x, net.self_attention(net.layer_norm(x), self.heads))
                x = net.add(x, net.mlp(net.layer_norm(x), self.width * self.hidden))
        if not self.tokens:
            x = net.layer_norm(net.mean(x, (1,), keep=False))
            return net.linear(x, self.classes)
        x = net.layer_norm(x)
        made = [net.linear(net.expand(x, batch, self.width), self.classes) for _ in range(self.tokens)]
        return made[0] if len(made) == 1 else net.mul(net.add(*made), net.value((), "constant"))


@dataclass(frozen=True, slots=True)
class TextEncoder:
    """BERT and its kind: embeddings of words, places and segments, layers normed after each sum.

    ``embedded``: width of the word table where it is another; ``shared``: all layers have the same weights (ALBERT).
    """

    depth: int = 12
    width: int = 768
    heads: int = 12
    hidden: int = 3072
    words: int = 30522
    places: int = 512
    segments: int = 2
    embedded: int = 0
    pooler: bool = True
    shared: bool = False
    classes: int = 0

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`."""
        batch, length = symbol("batch"), size[0]
        given = net.tokens(length)
        wide = self.embedded or self.width
        place = net.part(net.buffer(1, self.places, dtype="i64"), length)
        x = net.embedding(given, self.words, wide)
        if self.segments:
            x = net.add(x, net.embedding(net.expand(place, batch, length), self.segments, wide))
        x = net.layer_norm(net.add(x, net.embedding(place, self.places, wide)))
        if wide != self.width:
            x = net.linear(x, self.width)
        head = self.width // self.heads
        for i in range(self.depth):
            with net.within(f"layer.{i}"), net.sharing("layer" if self.shared else f"layer.{i}"):
                q, k, v = (
                    net.transpose(net.view(net.linear(x, self.width), batch, length, self.heads, head), 1, 2)
                    for _ in range(3)
                )
                y = net.transpose(net.attention(q, k, v), 1, 2)
                y = net.linear(net.view(net.copy(y), batch, length, self.width), self.width)
                x = net.layer_norm(net.add(y, x))
                x = net.layer_norm(net.add(net.mlp(x, self.hidden), x))
        if self.pooler:
            x = net.act(net.linear(net.expand(x, batch, self.width), self.width), "tanh", inplace=False)
        return net.linear(x, self.classes) if self.classes else x


@dataclass(frozen=True, slots=True)
class ClipText:
    """The text side of CLIP (Radford et al. 2021): layers normed before, each token sees those before it."""

    depth: int = 12
    width: int = 512
    heads: int = 8
    words: int = 49408
    joint: int = 512

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`. ``joint``: width shared with the images."""
        length = size[0]
        x = net.add(net.embedding(net.tokens(length), self.words, self.width), net.weight(length, self.width))
        for i in range(self.depth):
            with net.within(f"layers.{i}"):
                x = net.add(x, net.self_attention(net.layer_norm(x), self.heads, causal=True))
                x = net.add(x, net.mlp(net.layer_norm(x), 4 * self.width))
        x = net.layer_norm(x)
        last = net.node("gather", (x,), (symbol("batch"), self.width))
        return net.linear(last, self.joint, bias=False)
