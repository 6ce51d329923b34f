"""Sparse decoders with Llama's attention: Mixtral, Granite MoE, MiniMax M2."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from steelyard.workload.families._base import Fields, decoder
from steelyard.workload.transformer import Layer, Transformer

__all__ = ["granitemoe", "minimax_m2", "mixtral"]

_LOCAL = ("num_local_experts",)


def mixtral(config: Mapping[str, Any]) -> Transformer:
    """Mixtral (arXiv:2401.04088): every layer routes to ``num_experts_per_tok`` of ``num_local_experts``."""
    f = Fields(config)
    attention = replace(f.attention(), window=f.window())
    layer = Layer(f.depth(), attention, f.experts("intermediate_size", count=_LOCAL))
    return decoder(f, [layer], tied=f.flag("tie_word_embeddings", False))


def granitemoe(config: Mapping[str, Any]) -> Transformer:
    """Granite 3 MoE, with or without a shared expert (``shared_intermediate_size``)."""
    f = Fields(config)
    bias = f.flag("attention_bias", False)
    experts = f.experts("intermediate_size", count=_LOCAL, shared=f.optional("shared_intermediate_size"))
    layer = Layer(f.depth(), f.attention(qkv_bias=bias, out_bias=bias), experts)
    return decoder(f, [layer], tied=f.flag("tie_word_embeddings", True))


def minimax_m2(config: Mapping[str, Any]) -> Transformer:
    """MiniMax M2: query-key norm over all heads together, a correction bias on the router."""
    f = Fields(config)
    attention = f.attention(qk_norm="full" if f.flag("use_qk_norm", True) else "")
    attention = replace(attention, rotary_dim=f.optional("rotary_dim", default=attention.rotary_dim))
    experts = f.experts(
        "intermediate_size",
        count=_LOCAL,
        shared=f.optional("shared_intermediate_size"),
        router_bias=f.flag("use_routing_bias", True),
    )
    return decoder(f, [Layer(f.depth(), attention, experts)], tied=f.flag("tie_word_embeddings", False))
