"""Qwen3-Next and Qwen 3.5: gated delta nets with one gated full-attention layer in four."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from steelyard.workload.blocks.delta_net import DeltaNet
from steelyard.workload.families._base import Fields, decoder
from steelyard.workload.families.hybrid import state_bits
from steelyard.workload.families.qwen import sparse_layers
from steelyard.workload.transformer import Beside, FeedForward, Layer, Streams, Transformer

__all__ = ["lara_mini", "qwen3_5", "qwen3_5_moe", "qwen3_next", "qwen4_exp"]


def qwen3_next(config: Mapping[str, Any]) -> Transformer:
    """Qwen3-Next: 512 experts, a gated shared expert, output gates on full attention."""
    f = Fields(config)
    return _hybrid(f, _experts(f))


def qwen3_5_moe(config: Mapping[str, Any]) -> Transformer:
    """Qwen 3.5 sparse, text model: Qwen3-Next's layers."""
    f = Fields(config)
    return _hybrid(f, _experts(f))


def qwen3_5(config: Mapping[str, Any]) -> Transformer:
    """Qwen 3.5 dense, text model."""
    f = Fields(config)
    return _hybrid(f, f.gated_mlp())


def _experts(f: Fields) -> FeedForward:
    shared = f.optional("shared_expert_intermediate_size")
    return f.experts("moe_intermediate_size", count=("num_experts",), shared=shared, shared_gate=bool(shared))


def lara_mini(config: Mapping[str, Any]) -> Transformer:
    """Lara Mini: Qwen3-Next's delta layers beside windowed and full attention without gates."""
    f = Fields(config)
    return _hybrid(f, replace(_experts(f), shared_gate=False), gate=False, window=f.size("sliding_window", default=512))


def qwen4_exp(config: Mapping[str, Any]) -> Transformer:
    """Qwen 4 (experimental), text: Qwen3-Next's layers with an indexer on full attention and mixed residual streams.

    Layers in ``ple_layer_ids`` look up hashed n-grams of the prompt in tables of their own.
    """
    f = Fields(config)
    depth, hidden, streams = f.depth(), f.size("hidden_size"), f.size("hc_count", default=4)
    kinds = config.get("layer_types")
    if isinstance(kinds, list):
        kinds = ["full_attention" if kind == "indexed_attention" else kind for kind in kinds]
    wide, rank = streams * hidden, f.size("hc_lowrank", default=320)
    parts: tuple[Beside, ...] = ()
    for name in ("attention", "mlp"):
        down, up = Beside(f"{name}_streams_down", wide, rank), Beside(f"{name}_streams_up", rank, wide)
        parts += (down, up, Beside(f"{name}_streams_norm", 0, wide))
    places = {i for i in f.whole_list("ple_layer_ids") or [] if 1 <= i <= depth}
    width, grams = f.size("ple_embed_dim", default=hidden), f.size("ngram_size", default=3, minimum=2)
    heads = (grams - 1) * f.size("heads_per_ngram", default=8)
    lookups = (
        Beside("ngram_key", width, wide),
        Beside("ngram_value", width, hidden),
        Beside("ngram_norms", 0, 3 * wide),
        Beside("ngram_conv", wide, wide, wide, taps=f.size("ple_conv_kernel_size", default=4)),
    )
    tables = len(places) * f.size("ngram_vocab_size_base", default=20_000_000) * heads * (width // heads)
    layers = []
    for i, layer in enumerate(_layers(f.under({"layer_types": kinds}) if kinds else f, _experts(f)), start=1):
        block = layer.attention
        if block is not None and f.optional("indexer_n_heads"):
            block = replace(
                block,
                index_heads=f.size("indexer_n_heads"),
                index_dim=f.size("indexer_head_dim"),
                index_top_k=f.size("indexer_budget"),
                index_block=f.size("indexer_compress_ratio", default=1),
            )
        layers.append(replace(layer, attention=block, beside=parts + (lookups if i in places else ())))
    if tables:
        f.notes.append(f"{tables / 1e9:.3g} B parameters of n-gram tables are held and looked up")
    model = decoder(f, layers, tied=f.flag("tie_word_embeddings", False))
    last = 2 * wide * rank + wide - wide * streams  # the streams end through a low rank too
    mixed = Streams(streams, "hyper", mixes=streams)
    return replace(model, streams=mixed, extra_parameters=tables + max(0, last))


def _hybrid(f: Fields, mlp: FeedForward, *, gate: bool = True, window: int = 0) -> Transformer:
    return decoder(f, _layers(f, mlp, gate=gate, window=window), tied=f.flag("tie_word_embeddings", False))


def _layers(f: Fields, mlp: FeedForward, *, gate: bool = True, window: int = 0) -> list[Layer]:
    """The layers one by one."""
    depth, bias = f.depth(), f.flag("attention_bias", False)
    full = f.attention(
        qkv_bias=bias, out_bias=bias, qk_norm="head", head_dim=256 if gate else 128, rotary=0.25 if gate else 1.0
    )
    full = replace(full, query_gate=gate)
    linear = DeltaNet(
        key_heads=f.size("linear_num_key_heads"),
        value_heads=f.size("linear_num_value_heads"),
        key_dim=f.size("linear_key_head_dim"),
        value_dim=f.size("linear_value_head_dim"),
        conv_kernel=f.size("linear_conv_kernel_dim", default=4),
        state_bits=state_bits(f),
    )
    every = f.size("full_attention_interval", default=4)
    kinds = f.layer_kinds(depth, lambda i: "linear" if (i + 1) % every else "full", also=("linear",))
    routed = sparse_layers(f, depth) if mlp.is_moe else [False] * depth
    dense = f.gated_mlp() if mlp.is_moe and not all(routed) else mlp
    layers = []
    for kind, here in zip(kinds, routed, strict=True):
        part = mlp if here else dense
        block = None if kind == "linear" else replace(full, window=window if kind == "window" else 0)
        layers.append(Layer(1, block, part, mixer=linear if block is None else None))
    return layers
