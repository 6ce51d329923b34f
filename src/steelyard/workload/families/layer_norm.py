"""Decoders with rotary positions and layer norms: StarCoder 2, StableLM, Nemotron; Kosmos without rotary ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from steelyard.workload.families._base import Fields, decoder
from steelyard.workload.transformer import Attention, Beside, FeedForward, Layer, Transformer

__all__ = ["kosmos", "nemotron", "stablelm", "starcoder2"]


def starcoder2(config: Mapping[str, Any]) -> Transformer:
    """StarCoder 2 (arXiv:2402.19173): plain biased MLP, one window for all layers."""
    f = Fields(config)
    bias = f.flag("use_bias", True)
    attention = replace(f.attention(qkv_bias=bias, out_bias=bias), window=f.window())
    mlp = _plain(f, bias, "gelu_pytorch_tanh")
    layer = Layer(f.depth(), attention, mlp, norm_bias=True)
    return decoder(f, [layer], tied=f.flag("tie_word_embeddings", True), norm_bias=True)


def stablelm(config: Mapping[str, Any]) -> Transformer:
    """StableLM 3B and 2 (arXiv:2402.17834): gated MLP; the 12B has parallel blocks and per-head query-key norms."""
    f = Fields(config)
    norm = "per_head" if f.flag("qk_layernorm", False) else ""
    attention = f.attention(qkv_bias=f.flag("use_qkv_bias", False), qk_norm=norm, rotary=0.25)
    norms = 1 if f.flag("use_parallel_residual", False) else 2
    layer = Layer(f.depth(), attention, f.gated_mlp(), norms=norms, norm_bias=True)
    return decoder(f, [layer], tied=f.flag("tie_word_embeddings", False), norm_bias=True)


def nemotron(config: Mapping[str, Any]) -> Transformer:
    """Nemotron-4 and Minitron (arXiv:2406.11704): plain MLP with squared ReLU, half of each head rotated."""
    f = Fields(config)
    bias = f.flag("attention_bias", False)
    attention = f.attention(qkv_bias=bias, out_bias=bias, rotary=0.5)
    layer = Layer(f.depth(), attention, _plain(f, f.flag("mlp_bias", False), "relu2"), norm_bias=True)
    return decoder(f, [layer], tied=f.flag("tie_word_embeddings", False), norm_bias=True)


def _plain(f: Fields, bias: bool, act: str) -> FeedForward:
    return FeedForward(
        f.size("intermediate_size"), gated=False, activation=f.activation(default=act), up_bias=bias, down_bias=bias
    )


def kosmos(config: Mapping[str, Any]) -> Transformer:
    """Kosmos 2 (arXiv:2306.14824) and 2.5, text: biases everywhere, norms inside attention and feed-forward."""
    f = Fields(config)
    hidden, heads, width = f.size("embed_dim"), f.size("attention_heads"), f.size("ffn_dim")
    f.divides("embed_dim", hidden, "attention_heads", heads)
    newer = "2_5" in str(config.get("model_type"))
    attention = Attention(heads, heads, max(1, hidden // heads), q_bias=True, kv_bias=True, out_bias=True)
    act = f.activation("activation_function", default="gelu")
    mlp = FeedForward(width, gated=False, activation=act, up_bias=True, down_bias=True)
    inner = (Beside("inner_norms", 0, 2 * width + (0 if newer else 2 * hidden)),)
    layer = Layer(f.depth("layers"), attention, mlp, norm_bias=True, beside=inner)
    tied = f.flag("tie_word_embeddings", True)
    model = decoder(f, [layer], hidden=hidden, tied=tied, norm_bias=True)
    return replace(model, extra_parameters=2 * hidden if newer else 0)
