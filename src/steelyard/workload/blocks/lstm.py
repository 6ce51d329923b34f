"""The two blocks of xLSTM (arXiv:2405.04517): matrix memories inside an up-projection, and scalar memories.

The scalar memory (sLSTM) mixes the output before into the gates by a matrix of every head, so its tokens run one after
another; the matrix memory (mLSTM) is linear attention with gates and runs in chunks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from steelyard.workload.blocks.scan import scan_ops
from steelyard.workload.blocks.writer import OpWriter
from steelyard.workload.op import Op, Size
from steelyard.workload.shapes import Layer, Shapes
from steelyard.workload.step import Step

__all__ = ["MatrixMemory", "ScalarMemory"]


@dataclass(frozen=True, slots=True)
class MatrixMemory:
    """One mLSTM block: up to ``inner``, queries, keys and values by small blocks on the diagonal, a matrix per head."""

    heads: int
    inner: int
    block: int = 4
    """Channels that a block of the projections mixes."""
    kernel: int = 4
    """Taps of the convolution before queries and keys; 0 = none."""
    bias: bool = False
    """On the projections."""
    chunk: int = 64

    @property
    def state(self) -> tuple[tuple[int, int], ...]:
        """A matrix, a normaliser and a maximum per head, and the last taps of the convolution."""
        width = self.inner // self.heads
        taps = self.inner * max(0, self.kernel - 1)
        return ((self.heads * (width * width + width + 1), 32), *(((taps, 16),) if taps else ()))

    def ops(self, model: Shapes, layer: Layer, step: Step, prefix: str) -> Iterator[Op]:
        """Up, convolution, projections, gates, scan in chunks, norm, skip and gate, down."""
        width = self.inner // self.heads
        sizes: dict[str, Size] = {
            "t": step.tokens,
            "d": model.hidden,
            "h": self.heads,
            "c": width,
            "f": self.inner // self.block,
            "i": self.block,
            "o": self.block,
            "k": 3 * self.inner,
            "w": self.kernel,
            "u": 2,
            "p": 3,
        }
        w = OpWriter(prefix, layer.count, sizes)
        yield w.product("up", "t d, d u h c -> t u h c")
        if self.bias:
            yield w.bias("up_bias", "u h c")
        if self.kernel:
            yield w.product("conv", "t+w h c, h c w -> t h c", fuse="conv")
            yield w.vectors("conv_bias", "h c", "h c", apply="silu", fuse="conv", reads="y")
        yield w.product("qkv", "t f i, p f i o -> t p f o")
        if self.bias:
            yield w.bias("qkv_bias", "p f o")
        yield w.product("gates", "t k, k y -> t y", derived={"y": (("h", 2),)})
        yield w.bias("gates_bias", "y", derived={"y": (("h", 2),)})
        yield from scan_ops(
            prefix,
            step,
            layer.count,
            heads=self.heads,
            key_dim=width,
            value_dim=width,
            chunk=self.chunk,
            inside=2 * width,
            bits=32,
        )
        yield w.vectors("norm", "h c", "h c", apply="norm")
        yield w.vectors("skip", "h c", "h c")
        yield w.op("gate", "t h c, t h c -> t h c", ("y", "z", "x"), ("activation",) * 3, apply="silu", reduce="none")
        yield w.product("down", "t h c, h c d -> t d")
        if self.bias:
            yield w.bias("down_bias", "d")


@dataclass(frozen=True, slots=True)
class ScalarMemory:
    """One sLSTM block: four gates from the token and from the output before, each head on its own."""

    heads: int
    width: int
    kernel: int = 4
    """Taps of the convolution before the input and forget gates; 0 = none."""

    @property
    def state(self) -> tuple[tuple[int, int], ...]:
        """Cell, normaliser, maximum and output of every channel, and the last taps of the convolution."""
        taps = self.width * max(0, self.kernel - 1)
        return ((4 * self.width, 32), *(((taps, 16),) if taps else ()))

    def ops(self, model: Shapes, layer: Layer, step: Step, prefix: str) -> Iterator[Op]:
        """Convolution and gates of all tokens, then the recurrence token by token, and a norm."""
        width = self.width // self.heads
        sizes: dict[str, Size] = {
            "t": step.tokens,
            "b": step.batch,
            "n": step.new,
            "m": 1,
            "h": self.heads,
            "c": width,
            "o": width,
            "u": 4,
            "w": self.kernel,
        }
        w = OpWriter(prefix, layer.count, sizes)
        if self.kernel:
            yield w.product("conv", "t+w h c, h c w -> t h c", fuse="conv")
            yield w.vectors("conv_bias", "h c", "h c", apply="silu", fuse="conv", reads="y")
        yield w.product("gates", "t h c, h u c o -> t h u o")
        # one kernel: the weights of the mixing stay on chip, the tokens follow one another
        weighted, mixed = ("activation", "weight", "activation"), "b n h u o"
        serial = replace(w, iterative=("n",))
        yield serial.op("mix", f"b n h c, h c u o -> {mixed}", ("y", "w_mix", "mixed"), weighted, fuse="scan")
        bits, names = {"bias": 32.0}, ("mixed", "bias", "h")
        yield w.op("cell", f"{mixed}, h u o -> b n h o", names, weighted, apply="exp", fuse="scan", bits=bits)
        yield w.op(
            "states",
            "b k -> b k",
            ("before", "after"),
            ("state", "state"),
            apply="copy",
            reduce="none",
            fuse="scan",
            bits={"before": 32.0, "after": 32.0},
            derived={"k": (("h", 4 * width),)},
        )
        yield w.vectors("norm", "h c", "h c", apply="norm")
