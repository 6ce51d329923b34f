"""Feed-forward blocks: plain and gated MLP, mixture of experts with shared experts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from steelyard.workload.op import Array, Op, Size
from steelyard.workload.shapes import FeedForward, Layer, Shapes
from steelyard.workload.step import Step

__all__ = ["expected_experts_hit", "expert_ops", "mlp_ops"]


def mlp_ops(model: Shapes, layer: Layer, step: Step, prefix: str) -> Iterator[Op]:
    """Up (and gate) projection, activation, down projection."""
    f = layer.feed_forward
    assert f is not None
    yield from _dense(model, layer.count, step.tokens, prefix, f, f.intermediate, "mlp")


def _dense(
    model: Shapes, count: int, tokens: Size, prefix: str, f: FeedForward, width: int, block: str
) -> Iterator[Op]:
    sizes: dict[str, Size] = {"t": tokens, "d": model.hidden, "f": width, "u": 2 if f.gated else 1}
    label = "" if block == "mlp" else "shared_"
    yield Op(
        f"{prefix}.{label}up",
        "t d, u d f -> t u f",
        sizes,
        operands=("x", f"{label}w_up", "up"),
        roles=("activation", "weight", "activation"),
        count=count,
        block=block,
    )
    if f.up_bias and not label:
        yield _bias(f"{prefix}.up_bias", "u f", sizes, count, block)
    yield _activation(f"{prefix}.{label}act", "t u f -> t f", sizes, f, count, block)
    if f.inner_norm:
        yield Op(
            f"{prefix}.{label}inner_norm",
            "t f, f -> t f",
            sizes,
            operands=("hidden", f"{label}inner_norm", "normed"),
            roles=("activation", "weight", "activation"),
            map="norm",
            reduce="none",
            bits={f"{label}inner_norm": 16},
            count=count,
            block=block,
        )
    yield Op(
        f"{prefix}.{label}down",
        "t f, f d -> t d",
        sizes,
        operands=("hidden", f"{label}w_down", "y"),
        roles=("activation", "weight", "activation"),
        count=count,
        block=block,
    )
    if f.down_bias and not label:
        yield _bias(f"{prefix}.down_bias", "d", sizes, count, block)


def _activation(
    name: str, einsum: str, sizes: dict[str, Size], f: FeedForward, count: int, block: str, **more: object
) -> Op:
    return Op(
        name,
        einsum,
        sizes,
        operands=("up", "hidden"),
        map=f.activation,
        reduce="mul" if f.gated else "none",
        count=count,
        block=block,
        **more,  # type: ignore[arg-type]
    )


def _bias(name: str, index: str, sizes: dict[str, Size], count: int, block: str) -> Op:
    return Op(
        name,
        f"t {index}, {index} -> t {index}",
        sizes,
        operands=("x", "bias", "y"),
        roles=("activation", "weight", "activation"),
        map="add",
        reduce="none",
        bits={"bias": 16, "x": 0, "y": 0},  # an epilogue of the product before it: no traffic of its own
        count=count,
        fuse=name,
        block=block,
    )


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
    own, count = step.tokens, layer.count
    choices = f.experts + f.idle_experts
    top_k: float = f.top_k * f.experts / choices if f.idle_experts else f.top_k
    tokens = own if step.expert_tokens is None else np.asarray(step.expert_tokens, dtype=np.float64)
    yield Op(
        f"{prefix}.router",
        "t d, d r -> t r",
        {"t": own, "d": f.router_reads or model.hidden, "r": choices},
        operands=("x", "w_router", "logits"),
        roles=("activation", "weight", "activation"),
        bits={"w_router": 16},
        count=count,
        block="moe",
    )
    if f.router_bias:
        yield _bias(f"{prefix}.router_bias", "r", {"t": own, "r": choices}, count, "moe")
    yield Op(
        f"{prefix}.top_k",
        "t r -> t k",
        {"t": own, "r": choices, "k": f.top_k},
        operands=("logits", "choice"),
        map="top_k",
        reduce="none",
        count=count,
        domain={("r", "k"): choices},
        block="moe",
    )
    sizes: dict[str, Size] = {
        "t": tokens,
        "d": f.expert_hidden or model.hidden,
        "e": f.experts,
        "u": 2 if f.gated else 1,
        "f": f.intermediate,
    }
    routed = {**routed_to(tokens, top_k, f.experts, step), "count": count, "block": "moe"}
    hit = routed["visited"]["e"]
    if f.expert_hidden:
        yield _resized(f"{prefix}.to_experts", model.hidden, f.expert_hidden, own, count)
    yield Op(
        f"{prefix}.expert_up",
        "t d, e u d f -> t e u f",
        sizes,
        operands=("x", "expert_w_up", "up"),
        roles=("activation", "weight", "activation"),
        fuse=f"{prefix}.experts",
        **routed,
    )
    if f.up_bias:
        yield _expert_bias(f"{prefix}.expert_up_bias", "u f", sizes, count, prefix, tokens * top_k, hit)
    yield Op(
        f"{prefix}.expert_act",
        "t e u f -> t e f",
        sizes,
        operands=("up", "hidden"),
        map=f.activation,
        reduce="mul" if f.gated else "none",
        fuse=f"{prefix}.experts",
        **routed,
    )
    yield Op(
        f"{prefix}.expert_down",
        "t e f, e f d -> t e d",
        sizes,
        operands=("hidden", "expert_w_down", "y"),
        roles=("activation", "weight", "activation"),
        fuse=f"{prefix}.experts",
        **routed,
    )
    if f.down_bias:
        yield _expert_bias(f"{prefix}.expert_down_bias", "d", sizes, count, prefix, tokens * top_k, hit)
    yield Op(
        f"{prefix}.combine",
        "t e d, t e -> t d",
        sizes,
        operands=("y", "gates", "z"),
        fuse=f"{prefix}.experts",
        **routed,
    )
    if f.expert_hidden:
        yield _resized(f"{prefix}.from_experts", f.expert_hidden, model.hidden, own, count)
    if f.shared_intermediate:
        yield from _dense(model, count, own, prefix, f, f.shared_intermediate, "moe")
        if f.shared_gate:
            yield Op(
                f"{prefix}.shared_gate",
                "t d, d -> t",
                {"t": own, "d": model.hidden},
                operands=("x", "w_shared_gate", "gate"),
                roles=("activation", "weight", "activation"),
                count=count,
                block="moe",
            )


def _resized(name: str, width: int, to: int, tokens: Size, count: int) -> Op:
    """Projection between the hidden width and the one the experts work at."""
    return Op(
        name,
        "t d, d m -> t m",
        {"t": tokens, "d": width, "m": to},
        operands=("x", f"w_{name.rpartition('.')[2]}", "y"),
        roles=("activation", "weight", "activation"),
        count=count,
        block="moe",
    )


def _expert_bias(
    name: str, index: str, sizes: dict[str, Size], count: int, prefix: str, pairs: Array, hit: Array
) -> Op:
    return Op(
        name,
        f"t e {index}, e {index} -> t e {index}",
        sizes,
        operands=("x", "expert_bias", "y"),
        roles=("activation", "weight", "activation"),
        map="add",
        reduce="none",
        domain={("t", "e"): pairs},
        visited={"e": hit},
        bits={"expert_bias": 16},
        count=count,
        fuse=f"{prefix}.experts",
        block="moe",
    )
