"""xLSTM (Beck 2024; the 7B of arXiv:2503.13427): layers with a memory of matrices and gates that are exponentials."""

from __future__ import annotations

from dataclasses import dataclass

from steelyard.errors import InputError
from steelyard.workload.networks.builder import Builder
from steelyard.workload.networks.values import symbol

__all__ = ["XLstm"]


@dataclass(frozen=True, slots=True)
class XLstm:
    """Blocks of a memory (mLSTM, chunk by chunk) and a gated feed-forward; ``size`` is the tokens.

    Within a chunk tokens meet each other as in attention; a matrix of each head carries what came before.
    """

    depth: int = 32
    width: int = 4096
    heads: int = 8
    keys: float = 0.5
    """Width of queries and keys over that of values."""
    hidden: int = 10944
    words: int = 50304
    chunk: int = 64

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`. ``chunk``: tokens; of a short text all."""
        chunk = min(self.chunk, size[0])
        if size[0] % chunk:
            raise InputError(f"expected a multiple of {chunk} tokens, got {size[0]}", field="size")
        x = net.embedding(net.tokens(size[0]), self.words, self.width)
        for i in range(self.depth):
            with net.within(f"blocks.{i}"):
                x = net.add(x, self._remember(net, net.rms_norm(x), size[0] // chunk, chunk))
                y = net.rms_norm(x)
                gate = net.act(net.linear(y, self.hidden, bias=False), "silu", inplace=False)
                y = net.mul(gate, net.linear(y, self.hidden, bias=False))
                x = net.add(x, net.linear(y, self.width, bias=False))
        return net.act(net.linear(net.rms_norm(x), self.words, bias=False), "tanh", inplace=False)

    def _remember(self, net: Builder, x: int, chunks: int, chunk: int) -> int:
        batch, heads, wide = symbol("batch"), self.heads, self.width // self.heads
        narrow = int(wide * self.keys)
        q, k, v = (
            self._heads(net, net.linear(x, heads * w, bias=False), chunks, chunk, w) for w in (narrow, narrow, wide)
        )
        out = net.linear(x, self.width, bias=False)
        keep, forget = (self._heads(net, net.linear(x, heads), chunks, chunk, 1) for _ in range(2))
        past = net.node("cumsum", (net.act(forget, "log_sigmoid", inplace=False),), net.shape(forget))
        states = net.matmul(net.transpose(net.mul(k, net.add(keep, past))), v)
        states = net.node("cumsum", (states,), net.shape(states))
        decay = net.act(net.add(net.transpose(keep), past), "exp", inplace=False)
        near = net.matmul(net.mul(net.matmul(q, net.transpose(k)), decay), v)
        y = net.add(near, net.matmul(net.mul(q, past), states))
        y = net.binary("div", y, net.node("sum", (near,), (*net.shape(near)[:-1], 1)))
        y = net.transpose(net.view(y, batch, heads, chunks * chunk, wide), 1, 2)
        y = net.mul(net.layer_norm(net.copy(y), affine=False), net.weight(heads, wide))
        y = net.mul(net.view(y, batch, chunks * chunk, self.width), net.sigmoid(out))
        return net.linear(y, self.width, bias=False)

    def _heads(self, net: Builder, x: int, chunks: int, chunk: int, width: int) -> int:
        y = net.view(x, symbol("batch"), chunks, chunk, self.heads, width)
        return net.permute(y, 0, 3, 1, 2, 4)
