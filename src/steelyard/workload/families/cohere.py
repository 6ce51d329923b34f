"""Cohere Command and Aya: attention and MLP side by side after one layer norm without bias, tied head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from steelyard.workload.families._base import Fields, decoder
from steelyard.workload.transformer import Layer, Transformer

__all__ = ["cohere", "cohere2"]


def cohere(config: Mapping[str, Any]) -> Transformer:
    """Command R, R+ and Aya: R+ norms each query and key head with weights of its own."""
    f = Fields(config)
    bias = f.flag("attention_bias", False)
    norm = "per_head" if f.flag("use_qk_norm", False) else ""
    layer = Layer(f.depth(), f.attention(qkv_bias=bias, out_bias=bias, qk_norm=norm), f.gated_mlp(), norms=1)
    return decoder(f, [layer], tied=f.flag("tie_word_embeddings", True))


def cohere2(config: Mapping[str, Any]) -> Transformer:
    """Command R7B and A (arXiv:2504.00698): three windowed rotary layers to one full layer without positions."""
    f = Fields(config)
    bias, depth = f.flag("attention_bias", False), f.depth()
    attention = f.attention(qkv_bias=bias, out_bias=bias)
    window = f.size("sliding_window", default=4096)
    every = f.size("sliding_window_pattern", "_sliding_window_pattern", default=4)
    kinds = f.layer_kinds(depth, lambda i: "window" if (i + 1) % every else "full")
    mlp = f.gated_mlp()
    local, everything = replace(attention, window=window), replace(attention, rotary_dim=0)
    layers = [Layer(1, local if kind == "window" else everything, mlp, norms=1) for kind in kinds]
    return decoder(f, layers, tied=f.flag("tie_word_embeddings", True))
