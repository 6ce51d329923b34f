"""Hyena's long convolution as StripedHyena has it (arXiv:2302.10866, 2310.18780): a filter that is a sum of modes.

A filter over the whole sequence is a sum of ``modes`` complex exponentials, so it is a recurrence of that many complex
numbers per channel, which is how it is priced. Published code runs a prompt through FFTs instead: fewer steps one after
another, more arithmetic, the same numbers in and out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from steelyard.workload.blocks.scan import scan_ops
from steelyard.workload.blocks.writer import OpWriter
from steelyard.workload.op import Op, Size
from steelyard.workload.shapes import Layer, Shapes
from steelyard.workload.step import Step

__all__ = ["LongConvolution"]


@dataclass(frozen=True, slots=True)
class LongConvolution:
    """One block: projections, a short convolution, the long one between two gates, output projection."""

    channels: int
    modes: int
    """Complex modes of a filter."""
    groups: int = 1
    """Channels that share a filter."""
    kernel: int = 3
    """Taps of the short convolution over both gates and the input."""
    kernel_bias: bool = True

    @property
    def state(self) -> tuple[tuple[int, int], ...]:
        """The modes of every channel, two real numbers each, and the last taps of the short convolution."""
        return ((2 * self.channels * self.modes, 32), (3 * self.channels * (self.kernel - 1), 16))

    def ops(self, model: Shapes, layer: Layer, step: Step, prefix: str) -> Iterator[Op]:
        """Both gates and the input, the short convolution, the modes token by token, the direct path, output."""
        sizes: dict[str, Size] = {
            "t": step.tokens,
            "d": model.hidden,
            "f": self.channels,
            "u": 3,
            "w": self.kernel,
            "m": 2,
            "n": 2 * self.modes,
        }
        w = OpWriter(prefix, layer.count, sizes)
        yield w.product("in", "t d, d u f -> t u f")
        yield w.bias("in_bias", "u f")
        yield w.product("conv", "t+w u f, u f w -> t u f", fuse="conv")
        if self.kernel_bias:
            yield w.vectors("conv_bias", "u f", "u f", apply="add", fuse="conv", reads="y")
        roles = ("activation", "weight", "activation")
        # poles and residues of the modes; their powers are made on chip
        bits = {"modes": 32.0, "x": 0.0, "y": 0.0}
        filters = {"f": self.channels // self.groups}
        index = "t m f n"
        yield w.op(
            "modes",
            f"{index}, m f n -> {index}",
            ("x", "modes", "y"),
            roles,
            reduce="none",
            fuse="scan",
            bits=bits,
            more=filters,
        )
        yield w.vectors("skip", "f", "f", bits=32, fuse="scan")
        yield from scan_ops(
            prefix,
            step,
            layer.count,
            heads=self.channels,
            key_dim=2 * self.modes,
            value_dim=1,
            chunk=1,
            inside=0,
            bits=32,
        )
        yield w.op("gate", "t u f -> t f", ("in", "y"), ("activation",) * 2, reduce="mul")
        yield w.product("out", "t f, f d -> t d")
        yield w.bias("out_bias", "d")
