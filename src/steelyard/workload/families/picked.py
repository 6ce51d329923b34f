"""Attention to picked blocks of earlier tokens: native sparse attention and MoBA, by flash-linear-attention's keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from steelyard.workload.families._base import Fields, decoder
from steelyard.workload.families.decoders import Decoder
from steelyard.workload.transformer import Attention, Beside, BlockChoice, FeedForward, Layer, Transformer

__all__ = ["minicpm", "moba", "nsa"]


def nsa(config: Mapping[str, Any]) -> Transformer:
    """Native sparse attention (arXiv:2502.11089): means of blocks, picked blocks, a window; a gate each per head."""
    f = Fields(config)
    attention = _attention(f, head_dim=32)
    choice = BlockChoice(
        f.size("block_size", default=64),
        f.size("block_counts", default=16),
        pooled=True,
        window=f.optional("window_size", default=512),
        gates=3,
    )
    layer = Layer(f.depth(), replace(attention, blocks=choice), _gated_mlp(f))
    return decoder(f, [layer], tied=f.flag("tie_word_embeddings", False))


def moba(config: Mapping[str, Any]) -> Transformer:
    """MoBA (arXiv:2502.13189): every head picks blocks by their mean keys; outputs normed, gated at low rank."""
    f = Fields(config)
    attention = _attention(f)
    choice = BlockChoice(f.size("moba_chunk_size", default=256), f.size("moba_topk", default=4), per_head=True)
    hidden, width, heads = f.size("hidden_size"), attention.head_dim, attention.heads
    beside = [Beside("output_norm", 0, width)]
    if f.flag("use_output_gate", True):
        beside += [Beside("gate_down", hidden, width), Beside("gate_up", width, hidden, heads=heads)]
    layer = Layer(f.depth(), replace(attention, blocks=choice), _gated_mlp(f), beside=tuple(beside))
    return decoder(f, [layer], tied=f.flag("tie_word_embeddings", False))


def minicpm(config: Mapping[str, Any]) -> Transformer:
    """MiniCPM, 4 and 4.1: Llama's layers. What their ``sparse_config`` picks (InfLLM v2) is priced as all tokens.

    Published weights are those of full attention, which is what vLLM, llama.cpp and MLX run.
    """
    f = Fields(config)
    if isinstance(config.get("sparse_config"), Mapping):
        f.notes.append("attention to the blocks that sparse_config picks is not priced: engines attend to all tokens")
    return Decoder(tied=True).read(f)


def _attention(f: Fields, head_dim: int = 0) -> Attention:
    heads = f.size("num_heads", "num_attention_heads")
    groups = f.size("num_kv_heads", "num_key_value_heads", default=heads)
    names = {"num_attention_heads": heads, "num_key_value_heads": groups}
    norm = "head" if f.flag("qk_norm", False) else ""
    return f.under(names).attention(qkv_bias=f.flag("qkv_bias", False), qk_norm=norm, head_dim=head_dim)


def _gated_mlp(f: Fields) -> FeedForward:
    """As wide as stated, else two thirds of ``hidden_ratio`` times the hidden width, rounded up to 256."""
    wide = int(f.size("hidden_size") * f.size("hidden_ratio", default=4) * 2 / 3)
    width = f.size("intermediate_size", default=-(-wide // 256) * 256)
    return FeedForward(width, activation=f.activation(default="silu"))
