"""Linear attention with a decaying state: lightning attention, gated linear attention, mLSTM.

arXiv:2401.04658 (lightning), 2312.06635 (gated linear attention), 2405.04517 (xLSTM).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from steelyard.workload.blocks.scan import scan_ops
from steelyard.workload.blocks.writer import OpWriter
from steelyard.workload.op import Op, Size
from steelyard.workload.shapes import Layer, Shapes
from steelyard.workload.step import Step

__all__ = ["LinearAttention"]


@dataclass(frozen=True, slots=True)
class LinearAttention:
    """One block: ``S <- a S + k v^T``, ``o = q^T S`` per head, with decays that are fixed or come from the tokens."""

    heads: int
    key_dim: int
    value_dim: int
    kv_heads: int = 0
    """Heads of keys and values; 0 = ``heads``."""
    qkv_bias: bool = False
    qk_norm: bool = False
    """Norms of queries and keys, one vector of the head width each."""
    gate: bool = True
    """An output gate of the width of all values."""
    gate_rank: int = 0
    """Rank of the output gate's projection; 0 = full."""
    gates: int = 0
    """Scalar gates per head and token, with biases."""
    norm: str = "full"
    """Norm of the output: ``full`` (a vector over all heads), ``head`` (one of the head width) or none."""
    rotary: bool = False
    chunk: int = 256
    state_bits: int = 32

    @property
    def state(self) -> tuple[tuple[int, int], ...]:
        """One matrix per head."""
        return ((self.heads * self.key_dim * self.value_dim, self.state_bits),)

    def ops(self, model: Shapes, layer: Layer, step: Step, prefix: str) -> Iterator[Op]:
        """Projections, scan in chunks, norm, gate, output projection."""
        sizes: dict[str, Size] = {
            "t": step.tokens,
            "d": model.hidden,
            "h": self.heads,
            "g": self.kv_heads or self.heads,
            "c": self.key_dim,
            "z": self.value_dim,
            "r": self.gate_rank or 1,
            "n": 2,
        }
        w = OpWriter(prefix, layer.count, sizes)
        yield w.product("qk", "t d, d p c -> t p c", derived={"p": (("h", 1), ("g", 1))})
        yield w.product("v", "t d, d g z -> t g z")
        if self.qkv_bias:
            yield w.bias("qk_bias", "p c", derived={"p": (("h", 1), ("g", 1))})
            yield w.bias("v_bias", "g z")
        if self.qk_norm:
            yield w.op(
                "qk_norm",
                "t p c, n c -> t p c",
                ("qk", "norm", "qk_normed"),
                ("activation", "weight", "activation"),
                apply="norm",
                reduce="none",
                bits={"norm": 16},
                derived={"p": (("h", 1), ("g", 1))},
            )
        if self.gates:
            yield w.product("gates", "t d, d y -> t y", derived={"y": (("h", self.gates),)})
            yield w.bias("gates_bias", "y", derived={"y": (("h", self.gates),)})
        yield from scan_ops(
            prefix,
            step,
            layer.count,
            heads=self.heads,
            key_dim=self.key_dim,
            value_dim=self.value_dim,
            chunk=self.chunk,
            inside=self.key_dim + self.value_dim,
            bits=self.state_bits,
        )
        if self.norm:
            yield w.vectors("norm", "h z", "h z" if self.norm == "full" else "z", apply="norm")
        if self.gate and self.gate_rank:
            yield w.product("gate_down", "t d, d r -> t r")
            yield w.product("gate_up", "t r, r h z -> t h z")
        elif self.gate:
            yield w.product("gate", "t d, d h z -> t h z")
        yield w.product("out", "t h z, h z d -> t d")
