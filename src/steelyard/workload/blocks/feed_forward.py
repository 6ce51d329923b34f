"""Feed-forward blocks: plain and gated MLP, mixture of experts with shared experts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from steelyard.workload.blocks.writer import OpWriter
from steelyard.workload.op import Array, Op, Size
from steelyard.workload.shapes import FeedForward, Layer, Shapes
from steelyard.workload.step import Step

__all__ = ["expected_experts_hit", "expert_ops", "mlp_ops", "routed_to"]

_WEIGHTED = ("activation", "weight", "activation")


def mlp_ops(model: Shapes, layer: Layer, step: Step, prefix: str) -> Iterator[Op]:
    """Up (and gate) projection, activation, down projection."""
    f = layer.feed_forward
    assert f is not None
    yield from _dense(OpWriter(prefix, layer.count, {"t": step.tokens, "d": model.hidden}, "mlp"), f, f.intermediate)


def _dense(w: OpWriter, f: FeedForward, width: int, label: str = "") -> Iterator[Op]:
    w = replace(w, sizes={**w.sizes, "f": width, "u": 2 if f.gated else 1})
    yield w.op(f"{label}up", "t d, u d f -> t u f", ("x", f"{label}w_up", "up"), _WEIGHTED)
    if f.up_bias and not label:
        yield w.bias("up_bias", "u f")
    combined = "mul" if f.gated else "none"
    yield w.op(f"{label}act", "t u f -> t f", ("up", "hidden"), (), apply=f.activation, reduce=combined)
    if f.inner_norm:
        norm = f"{label}inner_norm"
        names = ("hidden", norm, "normed")
        yield w.op(norm, "t f, f -> t f", names, _WEIGHTED, apply="norm", reduce="none", bits={norm: 16})
    yield w.op(f"{label}down", "t f, f d -> t d", ("hidden", f"{label}w_down", "y"), _WEIGHTED)
    if f.down_bias and not label:
        yield w.bias("down_bias", "d")


def routed_to(tokens: Size, top_k: float, experts: int, step: Step) -> dict[str, Any]:
    """What a product over experts is told: its pairs of token and expert, the experts it visits, how it is routed."""
    return {
        "domain": {("t", "e"): tokens * top_k},
        "visited": {"e": expected_experts_hit(tokens, top_k, experts, step.skew)},
        "facts": {"skew": step.skew},
    }


def expected_experts_hit(tokens: Size, top_k: float, experts: int, skew: float = 0.0) -> Array:
    """Expected number of distinct experts that ``tokens`` tokens visit, each choosing ``top_k`` of ``experts``.

    Uniform routing: ``E (1 - (1 - k/E)^T)``. With ``skew = s > 0`` expert i is chosen with a probability proportional
    to ``i^-s`` (power law), capped at one choice per token: ``sum_i 1 - (1 - min(1, k p_i))^T``.

    Args:
        tokens: tokens routed, int or array.
        top_k: experts per token.
        experts: experts in the layer.
        skew: exponent of the power law of expert popularity; 0 = uniform.
    """
    count = np.asarray(tokens, dtype=np.float64)
    if skew <= 0:
        return np.asarray(experts * -np.expm1(count * np.log1p(-min(top_k / experts, 1 - 1e-12))), dtype=np.float64)
    weights = np.arange(1, experts + 1, dtype=np.float64) ** -skew
    chosen = np.minimum(top_k * weights / weights.sum(), 1 - 1e-12)
    return np.asarray(-np.expm1(count[..., None] * np.log1p(-chosen)).sum(axis=-1), dtype=np.float64)


def expert_ops(model: Shapes, layer: Layer, step: Step, prefix: str) -> Iterator[Op]:
    """Router, top-k, routed experts as grouped products, shared experts, weighted combination."""
    f = layer.feed_forward
    assert f is not None
    choices = f.experts + f.idle_experts
    top_k: float = f.top_k * f.experts / choices if f.idle_experts else f.top_k
    tokens = step.tokens if step.expert_tokens is None else np.asarray(step.expert_tokens, dtype=np.float64)
    w = OpWriter(prefix, layer.count, {"t": step.tokens, "d": model.hidden, "r": choices, "k": f.top_k}, "moe")
    reads = {"d": f.router_reads or model.hidden}
    names = ("x", "w_router", "logits")
    yield w.op("router", "t d, d r -> t r", names, _WEIGHTED, bits={"w_router": 16}, more=reads)
    if f.router_bias:
        yield w.bias("router_bias", "r")
    domain: dict[tuple[str, ...], Size] = {("r", "k"): choices}
    yield w.op("top_k", "t r -> t k", ("logits", "choice"), (), apply="top_k", reduce="none", domain=domain)
    if f.expert_hidden:
        yield w.product("to_experts", "t d, d m -> t m", {"m": f.expert_hidden})
    yield from _routed(replace(w, sizes={"t": tokens, "d": f.expert_hidden or model.hidden}), f, top_k, step)
    if f.expert_hidden:
        yield w.product("from_experts", "t d, d m -> t m", {"d": f.expert_hidden, "m": model.hidden})
    if f.shared_intermediate:
        yield from _dense(w, f, f.shared_intermediate, "shared_")
        if f.shared_gate:
            yield w.op("shared_gate", "t d, d -> t", ("x", "w_shared_gate", "gate"), _WEIGHTED)


def _routed(w: OpWriter, f: FeedForward, top_k: float, step: Step) -> Iterator[Op]:
    """What the tokens of ``w`` do with the experts they are sent to: one kernel."""
    w = replace(w, sizes={**w.sizes, "e": f.experts, "u": 2 if f.gated else 1, "f": f.intermediate})
    told = routed_to(w.sizes["t"], top_k, f.experts, step)

    def op(name: str, einsum: str, operands: tuple[str, ...], **more: Any) -> Op:
        return replace(w.op(name, einsum, operands, more.pop("roles", ()), fuse="experts", **more), **told)

    def bias(name: str, index: str) -> Op:
        names, bits = ("x", "expert_bias", "y"), {"expert_bias": 16}
        made = op(
            name,
            f"t e {index}, e {index} -> t e {index}",
            names,
            roles=_WEIGHTED,
            apply="add",
            reduce="none",
            bits=bits,
        )
        return replace(made, facts={})

    yield op("expert_up", "t d, e u d f -> t e u f", ("x", "expert_w_up", "up"), roles=_WEIGHTED)
    if f.up_bias:
        yield bias("expert_up_bias", "u f")
    combined = "mul" if f.gated else "none"
    yield op("expert_act", "t e u f -> t e f", ("up", "hidden"), apply=f.activation, reduce=combined)
    yield op("expert_down", "t e f, e f d -> t e d", ("hidden", "expert_w_down", "y"), roles=_WEIGHTED)
    if f.down_bias:
        yield bias("expert_down_bias", "d")
    yield op("combine", "t e d, t e -> t d", ("y", "gates", "z"))
