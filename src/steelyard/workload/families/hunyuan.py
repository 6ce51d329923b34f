"""Tencent Hunyuan V1, dense and sparse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from steelyard.workload.families._base import Fields, decoder
from steelyard.workload.transformer import Attention, Layer, Transformer

__all__ = ["hunyuan_dense", "hunyuan_moe"]

#: Keys the published configs give as one number or as one number per layer.
_PER_LAYER = ("moe_topk", "num_shared_expert", "moe_intermediate_size")


def hunyuan_dense(config: Mapping[str, Any]) -> Transformer:
    """Hunyuan dense: Llama's shapes with query-key norms per head."""
    f = Fields(config)
    bias = f.flag("mlp_bias", False)
    return decoder(
        f, [Layer(f.depth(), _attention(f), f.gated_mlp(bias=bias))], tied=f.flag("tie_word_embeddings", True)
    )


def hunyuan_moe(config: Mapping[str, Any]) -> Transformer:
    """Hunyuan A13B: 64 experts, 8 per token, one shared."""
    single = {k: _first(v) if k in _PER_LAYER else v for k, v in config.items()}
    f = Fields(single)
    for key in _PER_LAYER:
        stated = config.get(key)
        if isinstance(stated, list) and len(set(map(str, stated))) > 1:
            f.problem(key, "layers that differ are not known here")
    width = "moe_intermediate_size" if single.get("moe_intermediate_size") is not None else "intermediate_size"
    experts = f.experts(width, count=("num_experts",), top_k=("moe_topk",))
    experts = replace(experts, shared_intermediate=f.optional("num_shared_expert", default=1) * experts.intermediate)
    return decoder(f, [Layer(f.depth(), _attention(f), experts)], tied=f.flag("tie_word_embeddings", True))


def _attention(f: Fields) -> Attention:
    bias = f.flag("attention_bias", False)
    return f.attention(qkv_bias=bias, out_bias=bias, qk_norm="head" if f.flag("use_qk_norm", True) else "")


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list) and value else value
