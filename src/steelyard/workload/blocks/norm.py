"""Normalisation with the residual addition it is fused with."""

from __future__ import annotations

from steelyard.workload.op import Op, Size
from steelyard.workload.shapes import Layer, Shapes
from steelyard.workload.step import Step

__all__ = ["norm_op"]


def norm_op(model: Shapes, layer: Layer, step: Step, name: str, residual: bool) -> Op:
    """RMS or layer norm over the hidden width; ``residual`` also adds the residual stream (4 passes of t x d)."""
    weights = (1 if layer.norm_weight else 0) + (1 if layer.norm_bias else 0)
    sizes: dict[str, Size] = {"t": step.tokens, "d": model.hidden, "w": max(1, weights)}
    inputs, names, roles = ["t d"], ["x"], ["activation"]
    if residual:
        inputs, names, roles = ["t d", "t d"], ["x", "residual"], ["activation", "activation"]
    if weights:
        inputs.append("w d")
        names.append("norm")
        roles.append("weight")
    else:
        sizes.pop("w")
    return Op(
        name,
        ", ".join(inputs) + " -> t d",
        sizes,
        operands=(*names, "y"),
        roles=(*roles, "activation"),
        map="norm",
        reduce="none",
        domain={("t", "w"): step.tokens} if weights else {},
        bits={"norm": 16, "residual": 32},  # the 16-bit residual stream is read and written back
        count=layer.count,
        block="norm",
    )
