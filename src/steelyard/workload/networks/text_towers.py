"""Text encoders of diffusion pipelines: T5 (Raffel 2020) and UMT5, and decoder language models whose hidden states a
denoiser reads (Llama, Qwen, Mistral, Gemma). Eager nodes of the libraries: a normalisation is the kernels it launches.
"""

from __future__ import annotations

from dataclasses import dataclass

from steelyard.workload.networks.builder import Builder
from steelyard.workload.networks.sizes import Size
from steelyard.workload.networks.values import symbol

__all__ = ["LanguageTower", "T5Encoder", "narrow", "rms_norm", "wide"]


def wide(net: Builder, x: int) -> int:
    """A copy in 32 bits."""
    return net.node("cast", (x,), net.shape(x), dtype="f32")


def narrow(net: Builder, x: int) -> int:
    """A copy in the width of the network."""
    return net.node("cast", (x,), net.shape(x), dtype=net.dtype)


def rms_norm(net: Builder, x: int, *, scaled: bool = True) -> int:
    """A root mean square normalisation over the last axis in 32 bits, op by op as eager libraries write it."""
    y = wide(net, x)
    *rows, width = net.shape(y)
    mean = net.mean(net.mul(y, y), (-1,))
    root = net.node("exp", (mean,), (*rows, 1), dtype="f32")
    y = narrow(net, net.mul(y, root))
    return net.scale(y, width) if scaled else y


def heads_of(net: Builder, x: int, heads: int, head: Size) -> int:
    """``(batch, rows, heads * head)`` as ``(batch, heads, rows, head)``, without a copy."""
    batch, rows, _ = net.shape(x)
    return net.transpose(net.view(x, batch, rows, heads, head), 1, 2)


def joined(net: Builder, x: int) -> int:
    """``(batch, heads, rows, head)`` as ``(batch, rows, width)``, with a copy."""
    batch, heads, rows, head = net.shape(x)
    assert isinstance(heads, int)
    assert isinstance(head, int)
    return net.view(net.copy(net.transpose(x, 1, 2)), batch, rows, heads * head)


@dataclass(frozen=True, slots=True)
class T5Encoder:
    """The encoder of T5: gated feed-forwards, a bias by distance added to scores; ``size`` is the tokens.

    ``own_distances``: every layer has its own biases (UMT5).
    """

    depth: int = 24
    width: int = 4096
    heads: int = 64
    head: int = 64
    hidden: int = 10240
    words: int = 32128
    own_distances: bool = False
    distances: int = 32

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`."""
        net.dtype = "bf16"
        x = net.embedding(net.tokens(size[0]), self.words, self.width)
        bias = -1
        for i in range(self.depth):
            with net.within(f"block.{i}"):
                y = rms_norm(net, x)
                q, k, v = (
                    heads_of(net, net.linear(y, self.heads * self.head, bias=False), self.heads, self.head)
                    for _ in range(3)
                )
                if bias < 0 or self.own_distances:
                    found = net.node(
                        "gather", (net.weight(self.distances, self.heads),), (size[0], size[0], self.heads)
                    )
                    bias = net.copy(net.permute(found, 2, 0, 1), symbol("batch"), self.heads, size[0], size[0])
                y = joined(net, net.attention(q, k, v, mask=bias))
                x = net.add(x, net.linear(y, self.width, bias=False))
                y = rms_norm(net, x)
                gate = net.act(net.linear(y, self.hidden, bias=False), "gelu", inplace=False)
                y = net.mul(gate, net.linear(y, self.hidden, bias=False))
                x = net.add(x, net.linear(y, self.width, bias=False))
        return rms_norm(net, x)


@dataclass(frozen=True, slots=True)
class LanguageTower:
    """A decoder language model without its scores of words, read once over a prompt; ``size`` is the tokens.

    ``biased``: of queries, keys and values (Qwen 2); ``normed``: heads of queries and keys are normalised (Qwen 3);
    ``sandwich``: what layers add is normalised too (Gemma 2).
    """

    depth: int = 32
    width: int = 4096
    heads: int = 32
    kv_heads: int = 8
    head: int = 128
    hidden: int = 14336
    words: int = 128256
    biased: bool = False
    normed: bool = False
    sandwich: bool = False

    def build(self, net: Builder, size: tuple[int, ...]) -> int:
        """See :class:`~steelyard.workload.networks._base.NetworkFamily`."""
        net.dtype = "bf16"
        x = net.embedding(net.tokens(size[0]), self.words, self.width)
        for i in range(self.depth):
            with net.within(f"layers.{i}"):
                y = self._attend(net, rms_norm(net, x))
                x = net.add(x, rms_norm(net, y) if self.sandwich else y)
                y = rms_norm(net, x)
                gate = net.act(net.linear(y, self.hidden, bias=False), "silu", inplace=False)
                y = net.linear(net.mul(gate, net.linear(y, self.hidden, bias=False)), self.width, bias=False)
                x = net.add(x, rms_norm(net, y) if self.sandwich else y)
        return rms_norm(net, x)

    def _attend(self, net: Builder, y: int) -> int:
        q = heads_of(net, net.linear(y, self.heads * self.head, bias=self.biased), self.heads, self.head)
        k, v = (
            heads_of(net, net.linear(y, self.kv_heads * self.head, bias=self.biased), self.kv_heads, self.head)
            for _ in range(2)
        )
        if self.normed:
            q, k = rms_norm(net, q), rms_norm(net, k)
        q, k = (rotated(net, x) for x in (q, k))
        batch, _, rows, _ = net.shape(q)
        k, v = (net.copy(x, batch, self.heads, rows, self.head) for x in (k, v))  # a head for each of the queries'
        y = joined(net, net.attention(q, k, v, causal=True))
        return net.linear(y, self.width, bias=False)


def rotated(net: Builder, x: int, *, precise: bool = False) -> int:
    """Positions turned into the vectors: ``x cos + turned sin``, in 32 bits where ``precise``."""
    y = wide(net, x) if precise else x
    *_, rows, head = net.shape(y)
    angle = net.value((rows, head), "constant", dtype=net.tensors[y].dtype)
    turned = net.copy(y)
    y = net.add(net.mul(y, angle), net.mul(turned, angle))
    return narrow(net, y) if precise else y
