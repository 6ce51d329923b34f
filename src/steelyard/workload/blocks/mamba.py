"""Selective state spaces: Mamba (arXiv:2312.00752) and Mamba-2, state space duality (arXiv:2405.21060)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from steelyard.workload.blocks.scan import scan_ops
from steelyard.workload.blocks.writer import OpWriter
from steelyard.workload.op import Op, Size
from steelyard.workload.shapes import Layer, Shapes
from steelyard.workload.step import Step

__all__ = ["Mamba", "Mamba2"]


@dataclass(frozen=True, slots=True)
class Mamba:
    """One Mamba block: a state of ``state_dim`` per channel, with a decay of its own in every element."""

    channels: int
    state_dim: int
    step_rank: int
    """Rank of the projection that yields the step sizes."""
    conv_kernel: int = 4
    conv_bias: bool = True
    bias: bool = False
    """On the projections in and out."""
    inner_norms: bool = False
    """Norms with weights on step sizes, inputs and outputs of the state (Jamba)."""
    heads: int = 1
    """Groups of channels with projections of their own (Zamba)."""
    state_bits: int = 16

    @property
    def state(self) -> tuple[tuple[int, int], ...]:
        """The state of every channel, and the last taps of the convolution."""
        return ((self.channels * self.state_dim, self.state_bits), (self.channels * (self.conv_kernel - 1), 16))

    def ops(self, model: Shapes, layer: Layer, step: Step, prefix: str) -> Iterator[Op]:
        """Projection of input and gate, convolution, step sizes, scan token by token, gate, output projection."""
        n, r = self.state_dim, self.step_rank
        sizes: dict[str, Size] = {
            "t": step.tokens,
            "d": model.hidden,
            "h": self.channels // self.heads,
            "y": self.heads,
            "n": n,
            "r": r,
            "s": r + 2 * n,
            "u": 2,
            "w": self.conv_kernel,
        }
        w = OpWriter(prefix, layer.count, sizes)
        yield w.product("in", "t d, d u y h -> t u y h")
        if self.bias:
            yield w.bias("in_bias", "u y h")
        yield w.product("conv", "t+w y h, y h w -> t y h", fuse="conv")
        if self.conv_bias:
            yield w.vectors("conv_bias", "y h", "y h", apply="silu", fuse="conv", reads="y")
        yield w.product("x", "t y h, y h s -> t y s")
        if self.inner_norms:
            yield w.vectors("x_norm", "y s", "s", apply="norm")
        yield w.product("step", "t y r, y r h -> t y h")
        yield w.bias("step_bias", "y h")
        # the decay exp(step * A) of every element of the state, and the channels' direct path
        yield w.op(
            "decay",
            "t y h, y h n -> t y h n",
            ("steps", "decay", "decays"),
            ("activation", "weight", "activation"),
            apply="exp",
            reduce="none",
            fuse="scan",
            bits={"decay": 32},
        )
        yield w.vectors("skip", "y h", "y h", bits=32, fuse="scan")
        yield from scan_ops(
            prefix,
            step,
            layer.count,
            heads=self.channels,
            key_dim=n,
            value_dim=1,
            chunk=1,
            inside=0,
            bits=self.state_bits,
        )
        yield w.op("gate", "t y h, t y h -> t y h", ("y", "z", "out"), ("activation",) * 3, apply="silu", reduce="none")
        yield w.product("out", "t y h, y h d -> t d")
        if self.bias:
            yield w.bias("out_bias", "d")


@dataclass(frozen=True, slots=True)
class Mamba2:
    """One Mamba-2 block: ``heads`` states of ``head_dim x state_dim``, inputs and outputs shared by ``groups``."""

    heads: int
    head_dim: int
    state_dim: int
    groups: int = 1
    conv_kernel: int = 4
    conv_bias: bool = True
    bias: bool = False
    """On the projections in and out."""
    norm: bool = True
    """A gated norm before the output projection."""
    chunk: int = 256
    state_bits: int = 16

    @property
    def conv_channels(self) -> int:
        """Channels of values, inputs and outputs together."""
        return self.heads * self.head_dim + 2 * self.groups * self.state_dim

    @property
    def state(self) -> tuple[tuple[int, int], ...]:
        """One matrix per head, and the last taps of the convolution."""
        matrix = self.heads * self.head_dim * self.state_dim
        return ((matrix, self.state_bits), (self.conv_channels * (self.conv_kernel - 1), 16))

    def ops(self, model: Shapes, layer: Layer, step: Step, prefix: str) -> Iterator[Op]:
        """One projection for all inputs, convolution, scan in chunks, gated norm, output projection."""
        sizes: dict[str, Size] = {
            "t": step.tokens,
            "d": model.hidden,
            "h": self.heads,
            "z": self.head_dim,
            "y": self.groups,
            "c": self.state_dim,
            "w": self.conv_kernel,
        }
        w = OpWriter(prefix, layer.count, sizes)
        # gate and values, inputs and outputs of the state, step sizes; groups are not split over devices
        parts = (("h", 2 * self.head_dim + 1), ("y", 2 * self.state_dim))
        yield w.product("in", "t d, d p -> t p", derived={"p": parts})
        if self.bias:
            yield w.bias("in_bias", "p", derived={"p": parts})
        channels = (("h", self.head_dim), ("y", 2 * self.state_dim))
        yield w.product("conv", "t+w k, k w -> t k", fuse="conv", derived={"k": channels})
        if self.conv_bias:
            yield w.vectors("conv_bias", "k", "k", apply="silu", fuse="conv", reads="y", derived={"k": channels})
        # step bias, decay and direct path of every head
        yield w.vectors("decay", "k", "k", apply="exp", bits=32, fuse="conv", derived={"k": (("h", 3),)})
        yield from scan_ops(
            prefix,
            step,
            layer.count,
            heads=self.heads,
            key_dim=self.state_dim,
            value_dim=self.head_dim,
            chunk=self.chunk,
            inside=self.head_dim + self.state_dim * self.groups / self.heads,
            bits=self.state_bits,
        )
        if self.norm:
            yield w.vectors("gated_norm", "h z", "h z", apply="norm")
        yield w.product("out", "t h z, h z d -> t d")
        if self.bias:
            yield w.bias("out_bias", "d")
