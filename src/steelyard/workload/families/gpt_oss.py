"""gpt-oss: attention sinks, biases everywhere, windowed and full layers in turn, experts in MXFP4."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from steelyard.workload.families._base import Fields, decoder
from steelyard.workload.transformer import Layer, Transformer

__all__ = ["gpt_oss"]


def gpt_oss(config: Mapping[str, Any]) -> Transformer:
    """gpt-oss 20b and 120b (arXiv:2508.10925): the first layer is windowed, one sink logit per head."""
    f = Fields(config)
    bias, depth = f.flag("attention_bias", True), f.depth()
    attention = replace(f.attention(qkv_bias=bias, out_bias=bias, head_dim=64), sinks=True)
    window = f.size("sliding_window", default=128)
    kinds = f.layer_kinds(depth, lambda i: "window" if i % 2 == 0 else "full")
    experts = f.experts(
        "intermediate_size",
        count=("num_local_experts",),
        top_k=("num_experts_per_tok", "experts_per_token"),
        router_bias=True,
        bias=True,
    )
    layers = [Layer(1, replace(attention, window=window if k == "window" else 0), experts) for k in kinds]
    return decoder(f, layers, tied=f.flag("tie_word_embeddings", False))
