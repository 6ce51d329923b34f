"""OLMo 1 to 3 and OLMoE."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from steelyard.workload.families._base import Fields, decoder
from steelyard.workload.transformer import Layer, Transformer

__all__ = ["olmo", "olmo2", "olmo3", "olmoe"]


def olmo(config: Mapping[str, Any]) -> Transformer:
    """OLMo 1 (arXiv:2402.00838): layer norms without weights."""
    f = Fields(config)
    bias = f.flag("attention_bias", False)
    layer = Layer(f.depth(), f.attention(qkv_bias=bias, out_bias=bias), f.gated_mlp(), norm_weight=False)
    return decoder(f, [layer], tied=f.flag("tie_word_embeddings", False), norm_weight=False)


def olmo2(config: Mapping[str, Any]) -> Transformer:
    """OLMo 2 (arXiv:2501.00656): norms after the blocks, query-key norm over all heads together."""
    f = Fields(config)
    bias = f.flag("attention_bias", False)
    layer = Layer(f.depth(), f.attention(qkv_bias=bias, out_bias=bias, qk_norm="full"), f.gated_mlp())
    return decoder(f, [layer], tied=f.flag("tie_word_embeddings", False))


def olmo3(config: Mapping[str, Any]) -> Transformer:
    """OLMo 3: OLMo 2 with three windowed layers to one full."""
    f = Fields(config)
    bias, depth = f.flag("attention_bias", False), f.depth()
    attention, mlp = f.attention(qkv_bias=bias, out_bias=bias, qk_norm="full"), f.gated_mlp()
    window = f.size("sliding_window", default=4096)
    kinds = f.layer_kinds(depth, lambda i: "window" if (i + 1) % 4 else "full")
    layers = [Layer(1, replace(attention, window=window if kind == "window" else 0), mlp) for kind in kinds]
    return decoder(f, layers, tied=f.flag("tie_word_embeddings", False))


def olmoe(config: Mapping[str, Any]) -> Transformer:
    """OLMoE (arXiv:2409.02060): 64 experts, query-key norm over all heads together."""
    f = Fields(config)
    bias = f.flag("attention_bias", False)
    attention = f.attention(qkv_bias=bias, out_bias=bias, qk_norm="full")
    layer = Layer(f.depth(), attention, f.experts("intermediate_size", count=("num_experts",)))
    return decoder(f, [layer], tied=f.flag("tie_word_embeddings", False))
