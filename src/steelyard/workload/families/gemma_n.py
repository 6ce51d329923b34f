"""Gemma 3n and 4: layers that share caches, heads of two widths, embeddings per layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from steelyard.workload.families._base import Fields, decoder
from steelyard.workload.families.decoders import EXPERTS, TOP_K, layer_settings
from steelyard.workload.transformer import FeedForward, Layer, LayerInputs, Streams, Transformer

__all__ = ["gemma3n", "gemma4"]

_ACTIVATION = "gelu_pytorch_tanh"


def gemma3n(config: Mapping[str, Any]) -> Transformer:
    """Gemma 3n text: four residual streams, low-rank branches, the last layers read caches of earlier ones."""
    f = Fields(config)
    depth = f.depth()
    window = f.size("sliding_window", default=512)
    kinds = f.layer_kinds(depth, lambda i: "window" if (i + 1) % 5 else "full")
    bias = f.flag("attention_bias", False)
    attention = f.attention(qkv_bias=bias, out_bias=bias, qk_norm="head", head_dim=256)
    widths = f.config.get("intermediate_size")
    if isinstance(widths, list):
        widths = f.whole_list("intermediate_size") or []
        if len(widths) != depth:
            f.problem("intermediate_size", f"expected {depth} widths, one per layer, got {len(widths)}")
            widths = [1] * depth
    else:
        widths = [f.size("intermediate_size")] * depth
    own = depth - f.optional("num_kv_shared_layers")
    act = f.activation(default=_ACTIVATION)
    layers = [
        Layer(
            1,
            replace(attention, window=window if kind == "window" else 0, shared_kv=i >= own),
            FeedForward(max(1, width), activation=act),
            norms=4,
        )
        for i, (kind, width) in enumerate(zip(kinds, widths, strict=False))
    ]
    inputs = LayerInputs(
        f.size("vocab_size_per_layer_input", default=262_144), f.size("hidden_size_per_layer_input", default=256)
    )
    streams = Streams(f.size("altup_num_inputs", default=4, minimum=2), "altup")
    laurel = f.optional("laurel_rank", default=64)
    model = decoder(f, layers, tied=f.flag("tie_word_embeddings", True))
    return replace(model, layer_inputs=inputs, streams=streams, laurel_rank=laurel)


def gemma4(config: Mapping[str, Any]) -> Transformer:
    """Gemma 4 text: full layers with wider heads (and keys as values), experts beside the dense feed-forward."""
    f = Fields(config)
    depth = f.depth()
    window = f.size("sliding_window", default=512)
    kinds = f.layer_kinds(depth, lambda i: "window" if (i + 1) % 6 and i != depth - 1 else "full")
    bias, same = f.flag("attention_bias", False), f.flag("attention_k_eq_v", config.get("model_type") != "gemma4_text")
    wide: dict[str, Any] = {"head_dim": f.size("global_head_dim", default=512)}
    if same and config.get("num_global_key_value_heads") is not None:
        wide["num_key_value_heads"] = f.size("num_global_key_value_heads")
    stated = layer_settings(f, kinds)
    written = isinstance(config.get("per_layer_config"), Mapping)
    shared = f.optional("num_kv_shared_layers")
    own = depth - shared
    double = f.flag("use_double_wide_mlp", False)
    width, act = f.size("intermediate_size"), f.activation(default=_ACTIVATION)
    experts = None
    if f.flag("enable_moe_block", bool(config.get("num_experts"))):
        experts = f.experts("moe_intermediate_size", count=EXPERTS, top_k=TOP_K)
        experts = replace(experts, activation=act, shared_intermediate=width)
    layers = []
    for i, (kind, setting) in enumerate(zip(kinds, stated, strict=True)):
        full = kind == "full"
        inner = f.under(setting if written else wide if full else {})
        attention = inner.attention(qkv_bias=bias, out_bias=bias, qk_norm="head", head_dim=256)
        attention = replace(
            attention,
            window=0 if full else window,
            keys_as_values=same and full,
            shared_kv=i >= own and shared < depth,
            rotary_dim=attention.head_dim // 4 if full else attention.head_dim,
        )
        dense = FeedForward(width * 2 if double and i >= own else width, activation=act)
        layers.append(Layer(1, attention, experts or dense, norms=8 if experts else 4))
    small = shared or config.get("vocab_size_per_layer_input") is not None  # only those have an embedding per layer
    inputs = f.optional("hidden_size_per_layer_input", default=256 if small else 0)
    rows = f.optional("vocab_size_per_layer_input", default=262_144)
    model = decoder(f, layers, tied=f.flag("tie_word_embeddings", True))
    return replace(model, layer_inputs=LayerInputs(rows, inputs) if inputs else None)
