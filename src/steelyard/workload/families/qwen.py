"""Qwen 1 to 3, dense and sparse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from steelyard.workload.families._base import Fields, decoder
from steelyard.workload.transformer import Attention, FeedForward, Layer, Transformer

__all__ = ["qwen", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "sparse_layers"]


def qwen(config: Mapping[str, Any]) -> Transformer:
    """Qwen 1 (``model_type`` qwen): ``intermediate_size`` is twice the width of the gated MLP; biases on q, k, v."""
    f = Fields(config)
    mlp = FeedForward(f.size("intermediate_size", minimum=2) // 2 or 1)
    layer = Layer(f.depth(), f.attention(qkv_bias=True), mlp)
    return decoder(f, [layer], tied=f.flag("tie_word_embeddings", False), max_context=f.optional("seq_length"))


def qwen2(config: Mapping[str, Any]) -> Transformer:
    """Qwen 1.5, 2 and 2.5 (arXiv:2407.10671, 2412.15115): biases on query, key and value."""
    f = Fields(config)
    attention = f.attention(qkv_bias=True)
    layers = [Layer(1, block, f.gated_mlp()) for block in _windows(f, attention)]
    return decoder(f, layers, tied=f.flag("tie_word_embeddings", False))


def qwen3(config: Mapping[str, Any]) -> Transformer:
    """Qwen 3 dense (arXiv:2505.09388): query-key norm per head, no biases, head width 128 unless stated."""
    f = Fields(config)
    layers = [Layer(1, block, f.gated_mlp()) for block in _windows(f, _attention3(f))]
    return decoder(f, layers, tied=f.flag("tie_word_embeddings", False))


def qwen2_moe(config: Mapping[str, Any]) -> Transformer:
    """Qwen 1.5 and 2 MoE: a gated shared expert beside the routed ones."""
    f = Fields(config)
    attention = f.attention(qkv_bias=f.flag("qkv_bias", True))
    experts = f.experts(
        "moe_intermediate_size",
        count=("num_experts",),
        shared=f.size("shared_expert_intermediate_size"),
        shared_gate=True,
    )
    return _sparse(f, attention, experts)


def qwen3_moe(config: Mapping[str, Any]) -> Transformer:
    """Qwen 3 MoE: no shared expert."""
    f = Fields(config)
    return _sparse(f, _attention3(f, width=0), f.experts("moe_intermediate_size", count=("num_experts",)))


def sparse_layers(f: Fields, depth: int) -> list[bool]:
    """Whether each layer is routed: every ``decoder_sparse_step``-th, less those in ``mlp_only_layers``."""
    step = f.size("decoder_sparse_step", default=1)
    dense = set(f.whole_list("mlp_only_layers") or ())
    return [i not in dense and (i + 1) % step == 0 for i in range(depth)]


def _attention3(f: Fields, width: int = 128) -> Attention:
    bias = f.flag("attention_bias", False)
    return f.attention(qkv_bias=bias, out_bias=bias, qk_norm="head", head_dim=width)


def _sparse(f: Fields, attention: Attention, experts: FeedForward) -> Transformer:
    blocks = _windows(f, attention)
    routed = sparse_layers(f, len(blocks))
    dense = experts if all(routed) else f.gated_mlp()
    layers = [Layer(1, block, experts if here else dense) for block, here in zip(blocks, routed, strict=True)]
    return decoder(f, layers, tied=f.flag("tie_word_embeddings", False))


def _windows(f: Fields, attention: Attention) -> list[Attention]:
    """Layers from ``max_window_layers`` on are windowed when ``use_sliding_window`` is set."""
    depth = f.depth()
    window = f.window() if f.flag("use_sliding_window", False) else 0
    first = f.optional("max_window_layers", default=28)
    kinds = f.layer_kinds(depth, lambda i: "window" if window and i >= first else "full")
    return [replace(attention, window=window if kind == "window" else 0) for kind in kinds]
