"""Gated delta nets: a state per head that decays and is corrected (arXiv:2412.06464, 2510.26692)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from steelyard.workload.blocks.scan import scan_ops
from steelyard.workload.blocks.writer import OpWriter
from steelyard.workload.op import Op, Size
from steelyard.workload.shapes import Layer, Shapes
from steelyard.workload.step import Step

__all__ = ["DeltaNet"]


@dataclass(frozen=True, slots=True)
class DeltaNet:
    """One gated delta net block.

    With keys k, values v, queries q, decay a and strength b, per token and head: ``S <- a S + b k (v - S^T k)^T`` and
    ``o = S^T q``, three products of ``key_dim x value_dim``. Inside a chunk of m tokens
    ``3 m^2 key_dim + 2 m^2 value_dim`` MACs replace the chain.
    """

    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    conv_kernel: int = 4
    """Taps of the causal convolution over queries, keys and values."""
    chunk: int = 64
    """Tokens a prefill works on at once between two updates of the state."""
    channel_decay: bool = False
    """Kimi delta attention: a decay of its own for every channel of a head."""
    gate_rank: int = 0
    """The channels' decay and the output gate come through two products of this rank each; 0 = through one."""
    state_bits: int = 16

    @property
    def conv_channels(self) -> int:
        """Channels of queries, keys and values together."""
        return 2 * self.key_heads * self.key_dim + self.value_heads * self.value_dim

    @property
    def state(self) -> tuple[tuple[int, int], ...]:
        """One matrix per value head, and the last taps of the convolution."""
        matrix = self.value_heads * self.key_dim * self.value_dim
        return ((matrix, self.state_bits), (self.conv_channels * (self.conv_kernel - 1), 16))

    def ops(self, model: Shapes, layer: Layer, step: Step, prefix: str) -> Iterator[Op]:
        """Projections, short convolution, state update in chunks, gated norm, output projection."""
        sizes: dict[str, Size] = {
            "t": step.tokens,
            "d": model.hidden,
            "g": self.key_heads,
            "h": self.value_heads,
            "c": self.key_dim,
            "z": self.value_dim,
            "w": self.conv_kernel,
            "r": self.gate_rank or 1,
            "x": 2,
        }
        w = OpWriter(prefix, layer.count, sizes)
        gates = 1 if self.gate_rank else 2
        scalars = 1 if self.channel_decay else 2
        # queries and keys, values and (unless it has a low rank) the gate of the output; gates per value head
        if self.key_dim == self.value_dim:
            yield w.product("qkvz", "t d, d p c -> t p c", derived={"p": (("g", 2), ("h", gates))})
        else:
            yield w.product("qk", "t d, d p c -> t p c", derived={"p": (("g", 2),)})
            yield w.product("vz", "t d, d p z -> t p z", derived={"p": (("h", gates),)})
        yield w.product("ba", "t d, d y -> t y", derived={"y": (("h", scalars),)})
        if self.gate_rank:
            yield w.product("gates_down", "t d, d x r -> t x r")
            yield w.product("gates_up", "t x r, x r h z -> t x h z")
        elif self.channel_decay:
            yield w.product("decays", "t d, d h z -> t h z")
        channels = (("g", 2 * self.key_dim), ("h", self.value_dim))
        yield w.product("conv", "t+w k, k w -> t k", fuse="conv", derived={"k": channels})
        # a decay and a bias of it: one of each per head, or the bias per channel
        decays = (("h", 1 + self.value_dim if self.channel_decay else 2),)
        yield w.vectors("decay", "y", "y", apply="exp", bits=32, fuse="conv", derived={"y": decays})
        yield from scan_ops(
            prefix,
            step,
            layer.count,
            heads=self.value_heads,
            key_dim=self.key_dim,
            value_dim=self.value_dim,
            chunk=self.chunk,
            inside=3 * self.key_dim + 2 * self.value_dim,
            corrects=True,
            bits=self.state_bits,
            label="delta",
        )
        yield w.vectors("gated_norm", "h z", "z", apply="norm")
        yield w.product("out", "t h z, h z d -> t d")
