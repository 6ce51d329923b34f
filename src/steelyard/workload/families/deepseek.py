"""DeepSeek V2, V3, R1 and those built like them (Kimi K2): latent attention, shared and routed experts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from steelyard.workload.families._base import Fields, decoder
from steelyard.workload.transformer import Attention, Layer, Transformer

__all__ = ["deepseek_v2", "deepseek_v3", "deepseek_v32"]


def deepseek_v2(config: Mapping[str, Any]) -> Transformer:
    """DeepSeek V2 (arXiv:2405.04434): ``q_lora_rank`` null in the Lite model."""
    return _deepseek(Fields(config), router_bias=False)


def deepseek_v3(config: Mapping[str, Any]) -> Transformer:
    """DeepSeek V3 and R1 (arXiv:2412.19437), Kimi K2, Moonlight: the router carries a correction bias."""
    return _deepseek(Fields(config), router_bias=config.get("topk_method", "noaux_tc") == "noaux_tc")


def deepseek_v32(config: Mapping[str, Any]) -> Transformer:
    """DeepSeek V3.2 (arXiv:2512.02556) and GLM-5: V3 with an indexer that picks the tokens each query attends to."""
    f = Fields(config)
    heads, width, chosen = f.size("index_n_heads"), f.size("index_head_dim"), f.size("index_topk")
    f.size("q_lora_rank")
    return _deepseek(f, router_bias=True, index=(heads, width, chosen))


def latent_attention(f: Fields) -> Attention:
    """Multi-head latent attention from the config's ranks and head widths."""
    heads, rope, nope = f.size("num_attention_heads"), f.size("qk_rope_head_dim"), f.size("qk_nope_head_dim")
    if f.flag("attention_bias", False):
        f.problem("attention_bias", "latent attention with biases is not known here")
    return Attention(
        heads=heads,
        kv_heads=heads,
        head_dim=rope + nope,
        value_dim=f.size("v_head_dim"),
        rotary_dim=rope,
        q_rank=f.optional("q_lora_rank"),
        kv_rank=f.size("kv_lora_rank"),
        nope_dim=nope,
        rope_dim=rope,
    )


def _deepseek(f: Fields, *, router_bias: bool, index: tuple[int, int, int] = (0, 0, 0)) -> Transformer:
    attention, depth = latent_attention(f), f.depth()
    attention = replace(attention, index_heads=index[0], index_dim=index[1], index_top_k=index[2])
    first, step = f.optional("first_k_dense_replace"), f.size("moe_layer_freq", default=1)
    routed = [i >= first and i % step == 0 for i in range(depth)] if f.optional("n_routed_experts") else [False] * depth
    dense = f.gated_mlp() if not all(routed) else None
    experts = dense
    if any(routed):
        experts = f.experts(
            "moe_intermediate_size",
            count=("n_routed_experts",),
            shared=f.optional("n_shared_experts") * f.size("moe_intermediate_size"),
            router_bias=router_bias,
        )
    layers = [Layer(1, attention, experts if here else dense) for here in routed]
    return decoder(f, layers, tied=f.flag("tie_word_embeddings", False))
