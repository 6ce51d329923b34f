"""Llama 4: chunked attention on rotary layers, full attention on the others, one routed and one shared expert."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from steelyard.workload.families._base import Fields, decoder
from steelyard.workload.transformer import Layer, Transformer

__all__ = ["llama4"]


def llama4(config: Mapping[str, Any]) -> Transformer:
    """The text model of Llama 4 Scout and Maverick.

    Every layer whose ``no_rope_layers`` mark is 1 has rotary positions and attends within its chunk of
    ``attention_chunk_size`` tokens; the others see everything. Sparse layers are every
    ``interleave_moe_layer_step``-th. The query-key norm has no weights.
    """
    f = Fields(config)
    bias, depth = f.flag("attention_bias", False), f.depth()
    attention = f.attention(qkv_bias=bias, out_bias=bias)
    marks = f.whole_list("no_rope_layers")
    every = f.size("no_rope_layer_interval", default=4)
    if not marks:
        marks = [int((i + 1) % every != 0) for i in range(depth)]
    if len(marks) != depth:
        f.problem("no_rope_layers", f"expected {depth} entries, one per layer, got {len(marks)}")
        marks = [1] * depth
    kinds = f.layer_kinds(depth, lambda i: "chunk" if marks[i] else "full", also=("chunk",))
    chunk = f.optional("attention_chunk_size", default=8192)
    step = f.size("interleave_moe_layer_step", default=1)
    sparse = f.whole_list("moe_layers")
    chosen = set(sparse if sparse is not None else range(step - 1, depth, step))
    experts = f.experts("intermediate_size", count=("num_local_experts",))
    experts = replace(experts, shared_intermediate=experts.intermediate)
    dense = f.gated_mlp("intermediate_size_mlp") if len(chosen) < depth else experts
    layers = []
    for i in range(depth):
        block = replace(
            attention, chunk=chunk if kinds[i] == "chunk" else 0, rotary_dim=attention.rotary_dim if marks[i] else 0
        )
        layers.append(Layer(1, block, experts if i in chosen else dense))
    return decoder(f, layers, tied=f.flag("tie_word_embeddings", False))
