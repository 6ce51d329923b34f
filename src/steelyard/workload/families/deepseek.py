"""DeepSeek V2, V3, R1 and those built like them (Kimi K2): latent attention, shared and routed experts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from steelyard.workload.families._base import Fields, decoder
from steelyard.workload.families.decoders import borrowed_indexers, latent_attention, without_indexer
from steelyard.workload.transformer import Attention, Layer, Streams, Transformer

__all__ = ["deepseek_v1", "deepseek_v2", "deepseek_v3", "deepseek_v4", "deepseek_v32"]


def deepseek_v1(config: Mapping[str, Any]) -> Transformer:
    """DeepSeek MoE (arXiv:2401.06066): grouped attention, fine-grained and shared experts."""
    return _deepseek(Fields({**config, "kv_lora_rank": None}), router_bias=False)


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


_RATES = {"compressed_sparse_attention": 4, "heavily_compressed_attention": 128, "sliding_attention": 0}


def deepseek_v4(config: Mapping[str, Any]) -> Transformer:
    """DeepSeek-V4: windows beside compressed caches, an indexer over the finer one, four residual streams."""
    f = Fields(config)
    depth, heads, width = f.depth(), f.size("num_attention_heads"), f.size("head_dim", default=512)
    attention = Attention(
        heads=heads,
        kv_heads=1,
        head_dim=width,
        window=f.size("sliding_window", default=128),
        sinks=True,
        rotary_dim=f.optional("qk_rope_head_dim", default=width // 8),
        q_rank=f.size("q_lora_rank"),
        joint_kv=True,
        out_groups=f.size("o_groups"),
        out_rank=f.size("o_lora_rank"),
    )
    f.divides("num_attention_heads", heads, "o_groups", attention.out_groups)
    index = (f.size("index_n_heads"), f.size("index_head_dim"), f.size("index_topk"))
    experts = f.experts(
        "moe_intermediate_size",
        count=("n_routed_experts",),
        shared=f.optional("n_shared_experts") * f.size("moe_intermediate_size"),
        router_bias=True,
    )
    layers = []
    for every in _rates(f, depth):
        block = replace(attention, compress=every)
        if every and every == min(_rates_stated(f).values()):
            block = replace(block, index_heads=index[0], index_dim=index[1], index_top_k=index[2])
        layers.append(Layer(1, block, experts))
    streams = f.size("hc_mult", default=4)
    model = decoder(f, layers, tied=f.flag("tie_word_embeddings", False))
    return replace(model, streams=Streams(streams, "hyper", mixes=(2 + streams) * streams))


def _rates_stated(f: Fields) -> dict[str, int]:
    """Tokens per entry of the two kinds of compressed layers."""
    stated = f.config.get("compress_rates")
    rates = f.under(stated if isinstance(stated, Mapping) else {})
    return {kind: rates.size(kind, default=rate) for kind, rate in _RATES.items() if rate}


def _rates(f: Fields, depth: int) -> list[int]:
    """Tokens per entry of each layer's compressed cache, 0 = a window alone."""
    ratios, kinds, rates = f.whole_list("compress_ratios"), f.config.get("layer_types"), _rates_stated(f)
    if ratios is not None and len(ratios) >= depth:
        if any(x < 0 for x in ratios):
            f.problem("compress_ratios", "expected whole numbers of at least 0")
        return [max(0, x) for x in ratios[:depth]]
    if isinstance(kinds, list) and len(kinds) == depth and all(kind in _RATES for kind in kinds):
        return [rates.get(kind, 0) for kind in kinds]
    if kinds is not None or ratios is not None:
        f.problem("layer_types" if kinds is not None else "compress_ratios", f"expected {depth} entries, one per layer")
    fine, coarse = rates["compressed_sparse_attention"], rates["heavily_compressed_attention"]
    return [coarse if i < 2 or i % 2 == 0 else fine for i in range(depth)]


def _attention(f: Fields) -> Attention:
    """Latent attention, or grouped where the config says it has none (DeepSeek-VL2 and OCR)."""
    plain = not f.optional("kv_lora_rank") and f.config.get("kv_lora_rank", 0) is None
    if plain or not f.flag("use_mla", True):
        return f.attention()
    return latent_attention(f)


def _deepseek(f: Fields, *, router_bias: bool, index: tuple[int, int, int] = (0, 0, 0)) -> Transformer:
    attention, depth = _attention(f), f.depth()
    attention = replace(attention, index_heads=index[0], index_dim=index[1], index_top_k=index[2])
    borrowed = borrowed_indexers(f, depth) if index[0] else [False] * depth
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
    layers = [
        Layer(1, without_indexer(attention) if other else attention, experts if here else dense)
        for here, other in zip(routed, borrowed, strict=True)
    ]
    return decoder(f, layers, tied=f.flag("tie_word_embeddings", False))
