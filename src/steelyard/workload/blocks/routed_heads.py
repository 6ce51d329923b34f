"""Attention whose queries and outputs are made by experts (JetMoE): each token uses the heads of those it chose."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from steelyard.workload.blocks.feed_forward import expected_experts_hit
from steelyard.workload.op import Op, Size
from steelyard.workload.shapes import Layer, Shapes
from steelyard.workload.step import Step

__all__ = ["routed_outputs", "routed_queries"]

_WEIGHTED = ("activation", "weight", "activation")


def _shared(model: Shapes, layer: Layer, step: Step) -> tuple[dict[str, Size], Mapping[str, Any]]:
    """Sizes of the experts' products, and what their ops have in common."""
    a = layer.attention
    assert a is not None
    tokens, chosen = step.tokens, a.heads // a.kv_heads
    sizes: dict[str, Size] = {
        "t": tokens,
        "d": model.hidden,
        "e": a.query_experts,
        "g": a.kv_heads,
        "c": a.head_dim,
        "r": a.query_experts,
        "k": chosen,
    }
    hit = expected_experts_hit(tokens, chosen, a.query_experts, step.skew)
    return sizes, {"domain": {("t", "e"): tokens * chosen}, "visited": {"e": hit}, "count": layer.count, "block": "moe"}


def routed_queries(model: Shapes, layer: Layer, step: Step, prefix: str) -> Iterator[Op]:
    """Router, choice, and the queries of the chosen experts."""
    sizes, routed = _shared(model, layer, step)
    plain = {"count": layer.count, "block": "moe"}
    yield Op(
        f"{prefix}.head_router",
        "t d, d r -> t r",
        sizes,
        ("x", "w_head_router", "logits"),
        _WEIGHTED,
        bits={"w_head_router": 16},
        **plain,  # type: ignore[arg-type]
    )
    choices = sizes["r"]
    domain: dict[tuple[str, ...], Size] = {("r", "k"): choices}
    yield Op(
        f"{prefix}.head_top_k",
        "t r -> t k",
        sizes,
        ("logits", "choice"),
        map="top_k",
        reduce="none",
        domain=domain,
        **plain,  # type: ignore[arg-type]
    )
    yield Op(
        f"{prefix}.head_queries", "t d, e d g c -> t e g c", sizes, ("x", "expert_w_q", "queries"), _WEIGHTED, **routed
    )


def routed_outputs(model: Shapes, layer: Layer, step: Step, prefix: str) -> Op:
    """Outputs of the chosen experts."""
    sizes, routed = _shared(model, layer, step)
    return Op(
        f"{prefix}.head_outputs",
        "t e g c, e g c d -> t e d",
        sizes,
        ("attended", "expert_w_o", "y"),
        _WEIGHTED,
        **routed,
    )
