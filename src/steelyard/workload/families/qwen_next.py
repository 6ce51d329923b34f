"""Qwen3-Next and Qwen 3.5: gated delta nets with one gated full-attention layer in four."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from steelyard.workload.blocks.delta_net import DeltaNet
from steelyard.workload.families._base import Fields, decoder
from steelyard.workload.families.qwen import sparse_layers
from steelyard.workload.transformer import FeedForward, Layer, Transformer

__all__ = ["lara_mini", "qwen3_5", "qwen3_5_moe", "qwen3_next"]


def qwen3_next(config: Mapping[str, Any]) -> Transformer:
    """Qwen3-Next: 512 experts, a gated shared expert, output gates on full attention."""
    f = Fields(config)
    return _hybrid(f, _experts(f))


def qwen3_5_moe(config: Mapping[str, Any]) -> Transformer:
    """Qwen 3.5 sparse, text model: Qwen3-Next's layers."""
    f = Fields(config)
    return _hybrid(f, _experts(f))


def qwen3_5(config: Mapping[str, Any]) -> Transformer:
    """Qwen 3.5 dense, text model."""
    f = Fields(config)
    return _hybrid(f, f.gated_mlp())


def _experts(f: Fields) -> FeedForward:
    shared = f.optional("shared_expert_intermediate_size")
    return f.experts("moe_intermediate_size", count=("num_experts",), shared=shared, shared_gate=bool(shared))


def lara_mini(config: Mapping[str, Any]) -> Transformer:
    """Lara Mini: Qwen3-Next's delta layers beside windowed and full attention without gates."""
    f = Fields(config)
    return _hybrid(f, replace(_experts(f), shared_gate=False), gate=False, window=f.size("sliding_window", default=512))


def _hybrid(f: Fields, mlp: FeedForward, *, gate: bool = True, window: int = 0) -> Transformer:
    depth, bias = f.depth(), f.flag("attention_bias", False)
    full = f.attention(
        qkv_bias=bias, out_bias=bias, qk_norm="head", head_dim=256 if gate else 128, rotary=0.25 if gate else 1.0
    )
    full = replace(full, query_gate=gate)
    linear = DeltaNet(
        key_heads=f.size("linear_num_key_heads"),
        value_heads=f.size("linear_num_value_heads"),
        key_dim=f.size("linear_key_head_dim"),
        value_dim=f.size("linear_value_head_dim"),
        conv_kernel=f.size("linear_conv_kernel_dim", default=4),
    )
    every = f.size("full_attention_interval", default=4)
    kinds = f.layer_kinds(depth, lambda i: "linear" if (i + 1) % every else "full", also=("linear",))
    routed = sparse_layers(f, depth) if mlp.is_moe else [False] * depth
    dense = f.gated_mlp() if mlp.is_moe and not all(routed) else mlp
    layers = []
    for kind, here in zip(kinds, routed, strict=True):
        part = mlp if here else dense
        block = None if kind == "linear" else replace(full, window=window if kind == "window" else 0)
        layers.append(Layer(1, block, part, mixer=linear if block is None else None))
    return decoder(f, layers, tied=f.flag("tie_word_embeddings", False))
