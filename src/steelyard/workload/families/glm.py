"""GLM: ChatGLM 2 to 4, GLM-4 and GLM-4.5 MoE."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from steelyard.workload.families._base import Fields, decoder
from steelyard.workload.transformer import FeedForward, Layer, Transformer

__all__ = ["chatglm", "glm", "glm4", "glm4_moe", "glm4v"]


def chatglm(config: Mapping[str, Any]) -> Transformer:
    """ChatGLM 2, 3 and GLM-4-9B in their first form (arXiv:2406.12793): few key-value groups, biases on q, k, v."""
    f = Fields(config)
    heads = f.size("num_attention_heads")
    groups = f.size("multi_query_group_num", default=heads) if f.flag("multi_query_attention", False) else heads
    other = f.flag("add_bias_linear", False)
    shape = {**config, "num_key_value_heads": groups, "head_dim": config.get("kv_channels")}
    inner = Fields(shape)
    attention = inner.attention(qkv_bias=f.flag("add_qkv_bias", False) or other, out_bias=other, rotary=0.5)
    f.problems.extend(inner.problems)
    mlp = FeedForward(f.size("ffn_hidden_size"), up_bias=other, down_bias=other)
    return decoder(
        f,
        [Layer(f.depth("num_layers", "num_hidden_layers"), attention, mlp)],
        tied=f.flag("tie_word_embeddings", False),
        vocab=f.size("padded_vocab_size", "vocab_size"),
        max_context=f.optional("seq_length"),
    )


def glm(config: Mapping[str, Any]) -> Transformer:
    """GLM-4-9B: biases on query, key and value, half of each head rotated."""
    return _glm(Fields(config), norms=2)


def glm4(config: Mapping[str, Any]) -> Transformer:
    """GLM-4-0414: as GLM, with a norm before and after each block."""
    return _glm(Fields(config), norms=4)


def glm4v(config: Mapping[str, Any]) -> Transformer:
    """GLM-4.1V and 4.6V-Flash, text: GLM-4 with biases on query, key and value."""
    return _glm(Fields(config), norms=4, bias=True)


def _glm(f: Fields, norms: int, bias: bool = False) -> Transformer:
    attention = f.attention(qkv_bias=f.flag("attention_bias", bias), head_dim=128, rotary=0.5)
    layer = Layer(f.depth(), attention, f.gated_mlp(), norms=norms)
    return decoder(f, [layer], tied=f.flag("tie_word_embeddings", False))


def glm4_moe(config: Mapping[str, Any]) -> Transformer:
    """GLM-4.5 to 4.7 (arXiv:2508.06471): dense first layers, shared expert, correction bias on the router."""
    f = Fields(config)
    norm = "head" if f.flag("use_qk_norm", False) else ""
    attention = f.attention(qkv_bias=f.flag("attention_bias", False), qk_norm=norm, rotary=0.5)
    depth, dense = f.depth(), f.optional("first_k_dense_replace", default=1)
    experts = f.experts("moe_intermediate_size", count=("n_routed_experts",), router_bias=True)
    experts = replace(experts, shared_intermediate=f.optional("n_shared_experts") * experts.intermediate)
    mlp = f.gated_mlp() if dense else experts
    layers = [Layer(1, attention, mlp if i < dense else experts) for i in range(depth)]
    return decoder(f, layers, tied=f.flag("tie_word_embeddings", False))
