"""Recurrences over channels: short convolutions, the real-gated linear unit (arXiv:2402.19427), RWKV's time mixing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from steelyard.workload.blocks.scan import scan_ops
from steelyard.workload.blocks.writer import OpWriter
from steelyard.workload.op import Op, Size
from steelyard.workload.shapes import Layer, Shapes
from steelyard.workload.step import Step

__all__ = ["GatedRecurrence", "Rwkv", "ShortConvolution"]


@dataclass(frozen=True, slots=True)
class ShortConvolution:
    """A gated causal convolution of a few taps over the hidden width."""

    channels: int
    kernel: int
    """Taps."""
    bias: bool = False

    @property
    def state(self) -> tuple[tuple[int, int], ...]:
        """The last taps of every channel."""
        return ((self.channels * (self.kernel - 1), 16),)

    def ops(self, model: Shapes, layer: Layer, step: Step, prefix: str) -> Iterator[Op]:
        """Input and two gates, the convolution, output projection."""
        sizes: dict[str, Size] = {"t": step.tokens, "d": model.hidden, "f": self.channels, "u": 3, "w": self.kernel}
        w = OpWriter(prefix, layer.count, sizes)
        yield w.product("in", "t d, d u f -> t u f")
        if self.bias:
            yield w.bias("in_bias", "u f")
        yield w.product("conv", "t+w f, f w -> t f", fuse="conv")
        if self.bias:
            yield w.vectors("conv_bias", "f", "f", apply="add", fuse="conv", reads="y")
        yield w.op("gate", "t u f -> t f", ("in", "y"), ("activation",) * 2, apply="mul", reduce="mul", fuse="conv")
        yield w.product("out", "t f, f d -> t d")
        if self.bias:
            yield w.bias("out_bias", "d")


@dataclass(frozen=True, slots=True)
class GatedRecurrence:
    """Griffin's recurrent block: a convolution and a gated linear recurrence of one number per channel."""

    width: int
    blocks: int
    """Diagonal blocks of the gates' weights."""
    conv_kernel: int = 4

    @property
    def state(self) -> tuple[tuple[int, int], ...]:
        """One number per channel, and the last taps of the convolution."""
        return ((self.width, 32), (self.width * (self.conv_kernel - 1), 16))

    def ops(self, model: Shapes, layer: Layer, step: Step, prefix: str) -> Iterator[Op]:
        """Two branches, convolution, gates, recurrence, output projection; all biased."""
        sizes: dict[str, Size] = {
            "t": step.tokens,
            "d": model.hidden,
            "h": self.blocks,
            "c": self.width // self.blocks,
            "o": self.width // self.blocks,
            "u": 2,
            "w": self.conv_kernel,
        }
        w = OpWriter(prefix, layer.count, sizes)
        yield w.product("in", "t d, d u h c -> t u h c")
        yield w.bias("in_bias", "u h c")
        yield w.product("conv", "t+w h c, h c w -> t h c", fuse="conv")
        yield w.vectors("conv_bias", "h c", "h c", apply="add", fuse="conv", reads="y")
        yield w.product("gates", "t h c, u h c o -> t u h o")
        yield w.bias("gates_bias", "u h o")
        yield w.vectors("decay", "h c", "h c", apply="exp", bits=32, fuse="scan")
        yield from scan_ops(
            prefix, step, layer.count, heads=self.width, key_dim=1, value_dim=1, chunk=1, inside=0, bits=32
        )
        yield w.op("branch", "t h c, t h c -> t h c", ("y", "z", "x"), ("activation",) * 3, apply="gelu", reduce="none")
        yield w.product("out", "t h c, h c d -> t d")
        yield w.bias("out_bias", "d")


@dataclass(frozen=True, slots=True)
class Rwkv:
    """The time mixing of RWKV (arXiv:2305.13048, version 4; 2404.05892, 5 and 6; 2503.14456, 7).

    Version 4 keeps three numbers per channel; later ones a matrix per head, version 7 with the delta rule and
    low-rank projections of decay, rate, value residual and gate.
    """

    width: int
    version: int = 4
    head_dim: int = 0
    ranks: tuple[int, ...] = ()
    """Inner widths of the low-rank projections, each from and to ``width``."""
    mixes: int = 3
    """Vectors that mix a token with the one before it."""
    receptance: bool = False
    """The channel mixing gates its output with one more product of the width (versions 4 to 6)."""
    gated: bool = False
    """One more product of the width gates the output (versions 5 and 6)."""
    vectors: int = 2
    """Further vectors of the width: decay, bonus, norms, biases."""

    @property
    def state(self) -> tuple[tuple[int, int], ...]:
        """The state of every channel or head, and the token before for both mixers."""
        return ((self.width * (self.head_dim or 3), 32), (2 * self.width, 16))

    def ops(self, model: Shapes, layer: Layer, step: Step, prefix: str) -> Iterator[Op]:
        """Mixing with the token before, projections, recurrence, gate, output projection."""
        head = self.head_dim or 1
        sizes: dict[str, Size] = {
            "t": step.tokens,
            "d": model.hidden,
            "h": self.width // head,
            "c": head,
            "m": self.mixes,
            "u": 3 + self.gated,
            "n": self.vectors,
            "r": sum(self.ranks) or 1,
        }
        w = OpWriter(prefix, layer.count, sizes)
        yield w.vectors("shift", "m d", "m d", apply="add")
        yield w.product("in", "t d, d u h c -> t u h c")
        if self.ranks:
            yield w.product("low_down", "t d, d r -> t r")
            yield w.product("low_up", "t r, r h c -> t h c")
        yield w.vectors("decay", "n h c", "n h c", apply="exp", fuse="scan")
        yield from scan_ops(
            prefix,
            step,
            layer.count,
            heads=self.width // head,
            key_dim=head,
            value_dim=head,
            chunk=1 if self.version <= 4 else 16,
            inside=5 * head if self.version >= 7 else 2 * head,
            corrects=self.version >= 7,
            bits=32,
        )
        yield w.product("out", "t h c, h c d -> t d")
        if self.receptance:
            yield w.product("receptance", "t d, d h c -> t h c")
