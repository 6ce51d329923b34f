"""Microsoft Phi: phi-1 to phi-2 (parallel blocks, biases), Phi-3 and Phi-4 (Llama's shapes), Phi-3.5-MoE."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from steelyard.workload.families._base import Fields, decoder
from steelyard.workload.transformer import FeedForward, Layer, Transformer

__all__ = ["phi", "phi3", "phimoe"]


def phi(config: Mapping[str, Any]) -> Transformer:
    """phi-1, 1.5 and 2: attention and MLP side by side after one layer norm, biases everywhere, also in the head."""
    f = Fields(config)
    if f.flag("qk_layernorm", False):
        f.problem("qk_layernorm", "query-key layer norms of phi are not known here")
    attention = f.attention(qkv_bias=True, out_bias=True, rotary=0.5)
    width = f.size("intermediate_size", default=4 * f.size("hidden_size"))
    mlp = FeedForward(width, gated=False, activation=f.activation(default="gelu_new"), up_bias=True, down_bias=True)
    layer = Layer(f.depth(), attention, mlp, norms=1, norm_bias=True)
    return decoder(f, [layer], tied=f.flag("tie_word_embeddings", False), norm_bias=True, head_bias=True)


def phi3(config: Mapping[str, Any]) -> Transformer:
    """Phi-3 and Phi-4 (arXiv:2404.14219, 2412.08905): Llama's shapes with fused weights, one window for all layers."""
    f = Fields(config)
    bias = f.flag("attention_bias", False)
    attention = replace(f.attention(qkv_bias=bias, out_bias=bias), window=f.window())
    return decoder(f, [Layer(f.depth(), attention, f.gated_mlp())], tied=f.flag("tie_word_embeddings", False))


def phimoe(config: Mapping[str, Any]) -> Transformer:
    """Phi-3.5-MoE and Phi-mini-MoE: layer norms with bias, biased attention, 16 gated experts, biased head."""
    f = Fields(config)
    bias = f.flag("attention_bias", False)
    attention = replace(f.attention(qkv_bias=bias, out_bias=bias), window=f.window())
    experts = f.experts("intermediate_size", count=("num_local_experts",))
    layer = Layer(f.depth(), attention, experts, norm_bias=True)
    return decoder(
        f,
        [layer],
        tied=f.flag("tie_word_embeddings", False),
        norm_bias=True,
        head_bias=f.flag("lm_head_bias", False),
    )
