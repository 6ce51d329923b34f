"""Transformers that denoise an image and know of the step by scales and offsets: DiT (Peebles 2023) and PixArt
(Chen 2024), whose layers also attend to a text. A row and a column are patches of the latent image."""

from __future__ import annotations

from dataclasses import dataclass

from steelyard.workload.networks.builder import Builder
from steelyard.workload.networks.sizes import Size, times
from steelyard.workload.networks.values import symbol

__all__ = ["DiT"]


@dataclass(frozen=True, slots=True)
class DiT:
    """Layers of attention and a feed-forward, moved and scaled by the step: by a linear layer of each (DiT), or by one
    of all with offsets of each (``text > 0``, PixArt). Sizes are rows and columns of patches.

    ``told``: figures of the picture, its size and shape, that are embedded beside the step.
    """

    depth: int = 28
    width: int = 1152
    heads: int = 16
    latent: int = 4
    labels: int = 1001
    text: int = 0
    prompt: int = 4096
    told: bool = False

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`. ``labels``: rows of the table of classes;
        ``text``: tokens of a prompt, ``prompt`` wide."""
        net.dtype = "bf16"
        net.symbols = {**net.symbols, "rows": size[0], "columns": size[-1]}
        batch, rows, columns, d = symbol("batch"), symbol("rows"), symbol("columns"), self.width
        image = net.input((batch, self.latent, times(rows, 2), times(columns, 2)), net.dtype)
        tokens = times(rows, columns)
        x = net.conv(image, d, 2, 2, 0, bias=True)
        x = net.transpose(net.view(x, batch, d, tokens), 1, 2)
        x = net.add(x, net.input((1, tokens, d), net.dtype))  # where each patch is
        step = self._embedded(net, d)
        if self.text:
            if self.told:  # height, width and shape, a third of the width each
                parts = [self._embedded(net, d // 3, count) for count in (2, 1)]
                step = net.add(step, net.concat(parts))
            shared = net.linear(net.act(step, "silu", inplace=False), 6 * d)
            y = net.linear(net.input((batch, self.text, self.prompt), net.dtype), d)
            words = net.linear(net.gelu(y), d)
        else:
            label = net.node("gather", (net.weight(self.labels, d), net.input((batch,), "i64")), (batch, d))
            step, words = net.add(step, label), -1
        for i in range(self.depth):
            with net.within(f"blocks.{i}"):
                if self.text:
                    moves = net.add(net.weight(1, 6, d), net.view(shared, batch, 6, d))
                else:
                    moves = net.view(net.linear(net.act(step, "silu", inplace=False), 6 * d), batch, 6, d)
                x = self._block(net, x, net.split(moves, 6), words)
        return self._out(net, x, step, tokens)

    def _embedded(self, net: Builder, width: int, count: int = 1) -> int:
        """Waves of ``count`` figures of an item and two linear layers of each, one behind the other."""
        figures = times(symbol("batch"), count)
        waves = net.node("exp", (net.input((figures,), net.dtype),), (figures, 256), dtype="f32")
        y = net.linear(net.node("cast", (waves,), net.shape(waves), dtype=net.dtype), width)
        y = net.linear(net.act(y, "silu", inplace=False), width)
        return y if count == 1 else net.view(y, symbol("batch"), count * width)

    def _moved(self, net: Builder, x: int, moved: int, scale: int) -> int:
        y = net.layer_norm(x, affine=False)
        return net.add(net.mul(y, net.node("add", (scale,), net.shape(scale))), moved)

    def _attend(self, net: Builder, x: int, given: int) -> int:
        batch, rows, head = symbol("batch"), net.shape(x)[1], self.width // self.heads
        q, k, v = (
            net.transpose(net.view(net.linear(of, self.width), batch, net.shape(of)[1], self.heads, head), 1, 2)
            for of in (x, given, given)
        )
        y = net.copy(net.transpose(net.attention(q, k, v), 1, 2))
        return net.linear(net.view(y, batch, rows, self.width), self.width)

    def _block(self, net: Builder, x: int, moves: tuple[int, ...], words: int) -> int:
        first, scale, gate, second, scale_2, gate_2 = moves
        y = self._moved(net, x, first, scale)
        x = net.add(net.mul(self._attend(net, y, y), gate), x)
        if words >= 0:
            x = net.add(self._attend(net, x, words), x)
        y = net.mlp(self._moved(net, x, second, scale_2), 4 * self.width)
        return net.add(net.mul(y, gate_2), x)

    def _out(self, net: Builder, x: int, step: int, tokens: Size) -> int:
        batch, d = symbol("batch"), self.width
        if self.text:
            moves = net.add(net.weight(1, 2, d), net.view(step, batch, 1, d))
        else:
            moves = net.view(net.linear(net.act(step, "silu", inplace=False), 2 * d), batch, 2, d)
        x = net.linear(self._moved(net, x, *net.split(moves, 2)), 8 * self.latent)
        rows, columns = symbol("rows"), symbol("columns")
        x = net.permute(net.view(x, batch, rows, columns, 2, 2, 2 * self.latent), 0, 5, 1, 3, 2, 4)
        return net.view(net.copy(x), batch, 2 * self.latent, times(rows, 2), times(columns, 2))
