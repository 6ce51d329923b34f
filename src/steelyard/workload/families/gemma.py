"""Gemma 1 to 3: tied embeddings, gated GELU, and from Gemma 2 on four norms per layer and windowed layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from steelyard.workload.families._base import Fields, decoder
from steelyard.workload.transformer import Layer, Transformer

__all__ = ["gemma", "gemma2", "gemma3"]

_ACTIVATION = "gelu_pytorch_tanh"


def gemma(config: Mapping[str, Any]) -> Transformer:
    """Gemma 1 (arXiv:2403.08295): head width 256."""
    f = Fields(config)
    bias = f.flag("attention_bias", False)
    attention = f.attention(qkv_bias=bias, out_bias=bias, head_dim=256)
    layer = Layer(f.depth(), attention, f.gated_mlp(act=_ACTIVATION))
    return decoder(f, [layer], tied=f.flag("tie_word_embeddings", True))


def gemma2(config: Mapping[str, Any]) -> Transformer:
    """Gemma 2 (arXiv:2408.00118): windowed and full layers alternate, the first is windowed."""
    return _alternating(Fields(config), every=2, window=4096, qk_norm="")


def gemma3(config: Mapping[str, Any]) -> Transformer:
    """Gemma 3 text (arXiv:2503.19786): five windowed layers to one full, query-key norm per head."""
    f = Fields(config)
    return _alternating(
        f, every=f.size("sliding_window_pattern", "_sliding_window_pattern", default=6), window=4096, qk_norm="head"
    )


def _alternating(f: Fields, *, every: int, window: int, qk_norm: str) -> Transformer:
    bias, depth = f.flag("attention_bias", False), f.depth()
    attention = f.attention(qkv_bias=bias, out_bias=bias, qk_norm=qk_norm, head_dim=256)
    reach = f.size("sliding_window", default=window)
    mlp = f.gated_mlp(act=_ACTIVATION)
    kinds = f.layer_kinds(depth, lambda i: "window" if (i + 1) % every else "full")
    layers = [Layer(1, replace(attention, window=reach if k == "window" else 0), mlp, norms=4) for k in kinds]
    return decoder(f, layers, tied=f.flag("tie_word_embeddings", True))
