"""Llama and the decoders of the same shape: RMS norms, grouped queries, gated MLP, no or few biases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from steelyard.workload.families._base import Fields, decoder
from steelyard.workload.transformer import Layer, Transformer

__all__ = [
    "ernie4_5",
    "exaone",
    "exaone4",
    "internlm",
    "internlm2",
    "internlm3",
    "llama",
    "mistral",
    "seed_oss",
    "smollm3",
]


def llama(config: Mapping[str, Any]) -> Transformer:
    """Llama 1 to 3.3 (arXiv:2302.13971, 2407.21783), Granite dense, Yi, Baichuan and others with the same config."""
    f = Fields(config)
    bias = f.flag("attention_bias", False)
    attention = f.attention(qkv_bias=bias, out_bias=bias)
    layer = Layer(f.depth(), attention, f.gated_mlp(bias=f.flag("mlp_bias", False)))
    return decoder(f, [layer], tied=f.flag("tie_word_embeddings", False))


def mistral(config: Mapping[str, Any]) -> Transformer:
    """Mistral and Ministral: Llama's shapes, one sliding window in every layer or in those ``layer_types`` names."""
    f = Fields(config)
    attention, window, depth = f.attention(), f.window(), f.depth()
    kinds = f.layer_kinds(depth, lambda _: "window")
    mlp = f.gated_mlp()
    layers = [Layer(1, replace(attention, window=window if kind == "window" else 0), mlp) for kind in kinds]
    return decoder(f, layers, tied=f.flag("tie_word_embeddings", False))


def internlm(config: Mapping[str, Any]) -> Transformer:
    """InternLM 1: Llama with one ``bias`` switch for the four attention projections."""
    f = Fields(config)
    bias = f.flag("bias", True)
    layer = Layer(f.depth(), f.attention(qkv_bias=bias, out_bias=bias), f.gated_mlp())
    return decoder(f, [layer], tied=f.flag("tie_word_embeddings", False))


def internlm2(config: Mapping[str, Any]) -> Transformer:
    """InternLM 2 and 2.5 (arXiv:2403.17297): fused query-key-value weight, ``bias`` false in the published models."""
    return internlm({"bias": False, **config})


def internlm3(config: Mapping[str, Any]) -> Transformer:
    """InternLM 3: separate switches for query-key-value and other biases."""
    f = Fields(config)
    other = f.flag("bias", False)
    attention = f.attention(qkv_bias=f.flag("qkv_bias", False), out_bias=other)
    return decoder(f, [Layer(f.depth(), attention, f.gated_mlp(bias=other))], tied=f.flag("tie_word_embeddings", False))


def smollm3(config: Mapping[str, Any]) -> Transformer:
    """SmolLM3: Llama, with no rotary embedding on the layers that ``no_rope_layers`` marks 0 (every fourth)."""
    f = Fields(config)
    bias, depth = f.flag("attention_bias", False), f.depth()
    attention = f.attention(qkv_bias=bias, out_bias=bias)
    marks = f.whole_list("no_rope_layers")
    every = f.size("no_rope_layer_interval", default=4)
    if not marks:
        marks = [int((i + 1) % every != 0) for i in range(depth)]
    if len(marks) != depth:
        f.problem("no_rope_layers", f"expected {depth} entries, one per layer, got {len(marks)}")
    window = f.window() if f.flag("use_sliding_window", False) else 0
    kinds = f.layer_kinds(depth, lambda i: "window" if window and marks[i % len(marks)] else "full")
    mlp = f.gated_mlp(bias=f.flag("mlp_bias", False))
    layers = [
        Layer(
            1,
            replace(attention, rotary_dim=attention.rotary_dim * bool(mark), window=window if kind == "window" else 0),
            mlp,
        )
        for mark, kind in zip(marks, kinds, strict=False)
    ]
    return decoder(f, layers, tied=f.flag("tie_word_embeddings", True))


def exaone(config: Mapping[str, Any]) -> Transformer:
    """EXAONE 3 and 3.5 (arXiv:2412.04862): Llama's shapes under other key names."""
    f = Fields(config)
    mlp = replace(f.gated_mlp(), activation=f.activation("activation_function", "hidden_act", default="silu"))
    layer = Layer(f.depth("num_hidden_layers", "num_layers"), f.attention(), mlp)
    return decoder(f, [layer], tied=f.flag("tie_word_embeddings", False))


def exaone4(config: Mapping[str, Any]) -> Transformer:
    """EXAONE 4 (arXiv:2507.11407): norms after each block, query-key norms, three windowed layers to one full."""
    f = Fields(config)
    depth, window = f.depth(), f.window()
    pattern = f.config.get("sliding_window_pattern")

    def kind(i: int) -> str:
        if isinstance(pattern, str) and pattern:
            return "window" if pattern[i % len(pattern)] == "L" and i != depth - 1 else "full"
        every = pattern if isinstance(pattern, int) and pattern > 0 else 4
        return "window" if (i + 1) % every and i != depth - 1 else "full"

    attention, mlp = f.attention(qk_norm="head"), f.gated_mlp()
    kinds = f.layer_kinds(depth, kind if window else lambda _: "full")
    # the hybrid models rotate only inside windows; a model without windows rotates everywhere
    layers = [
        Layer(
            1,
            replace(attention, window=window)
            if k == "window"
            else replace(attention, rotary_dim=0 if window else attention.rotary_dim),
            mlp,
        )
        for k in kinds
    ]
    return decoder(f, layers, tied=f.flag("tie_word_embeddings", False))


def seed_oss(config: Mapping[str, Any]) -> Transformer:
    """Seed-OSS: Llama with biases on query, key and value only."""
    f = Fields(config)
    attention = f.attention(
        qkv_bias=f.flag("attention_bias", True), out_bias=f.flag("attention_out_bias", False), head_dim=128
    )
    layer = Layer(f.depth(), attention, f.gated_mlp(bias=f.flag("mlp_bias", False)))
    return decoder(f, [layer], tied=f.flag("tie_word_embeddings", False))


def ernie4_5(config: Mapping[str, Any]) -> Transformer:
    """ERNIE 4.5 dense: Llama with one ``use_bias`` switch for every projection."""
    f = Fields(config)
    bias = f.flag("use_bias", False)
    layer = Layer(f.depth(), f.attention(qkv_bias=bias, out_bias=bias), f.gated_mlp(bias=bias))
    return decoder(f, [layer], tied=f.flag("tie_word_embeddings", True))
