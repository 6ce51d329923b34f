"""Attention whose queries and outputs are made by experts (JetMoE): each token uses the heads of those it chose."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from steelyard.workload.blocks.feed_forward import routed_to
from steelyard.workload.op import Op, Size
from steelyard.workload.shapes import Layer, Shapes
from steelyard.workload.step import Step

__all__ = ["routed_heads"]

_WEIGHTED = ("activation", "weight", "activation")


def routed_heads(model: Shapes, layer: Layer, step: Step, prefix: str) -> Iterator[Op]:
    """Router, choice, queries of the chosen experts and their outputs, as the experts of a feed-forward are written.

    The scores come between the last two; where they stand makes no difference to what they cost.
    """
    a = layer.attention
    assert a is not None
    tokens, chosen, experts = step.tokens, a.heads // a.kv_heads, a.query_experts
    sizes: dict[str, Size] = {"t": tokens, "d": model.hidden, "e": experts, "u": 1, "f": a.kv_heads * a.head_dim}
    choices: dict[str, Size] = {"t": tokens, "d": model.hidden, "r": experts, "k": chosen}
    plain: dict[str, Any] = {"count": layer.count, "block": "moe"}
    operands = ("x", "w_head_router", "logits")
    yield Op(f"{prefix}.head_router", "t d, d r -> t r", choices, operands, _WEIGHTED, bits={operands[1]: 16}, **plain)
    domain: dict[tuple[str, ...], Size] = {("r", "k"): experts}
    yield Op(
        f"{prefix}.head_top_k",
        "t r -> t k",
        choices,
        ("logits", "choice"),
        map="top_k",
        reduce="none",
        domain=domain,
        **plain,
    )
    plain |= {**routed_to(tokens, chosen, experts, step), "fuse": f"{prefix}.head_experts"}
    yield Op(f"{prefix}.expert_queries", "t d, e u d f -> t e u f", sizes, ("x", "expert_w_q", "q"), _WEIGHTED, **plain)
    yield Op(f"{prefix}.expert_outputs", "t e f, e f d -> t e d", sizes, ("o", "expert_w_o", "y"), _WEIGHTED, **plain)
