"""Decoders with rotary positions and layer norms: StarCoder 2, StableLM, Nemotron."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from steelyard.workload.families._base import Fields, decoder
from steelyard.workload.transformer import FeedForward, Layer, Transformer

__all__ = ["nemotron", "stablelm", "starcoder2"]


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
