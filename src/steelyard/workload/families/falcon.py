"""Falcon 1 and 2: multi-query or grouped attention, plain MLP, layer norms with bias, tied head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steelyard.workload.families._base import Fields, decoder
from steelyard.workload.transformer import Attention, FeedForward, Layer, Transformer

__all__ = ["falcon"]


def falcon(config: Mapping[str, Any]) -> Transformer:
    """Falcon 7B, 40B, 180B and 11B (arXiv:2311.16867).

    ``new_decoder_architecture`` has ``num_kv_heads`` groups and two norms before the parallel blocks (one when
    ``num_ln_in_parallel_attn`` is 1); the older one has a single key-value head (``multi_query``) and one norm when
    ``parallel_attn``, else two.
    """
    f = Fields(config)
    hidden = f.size("hidden_size", "n_embed")
    heads = f.size("num_attention_heads", "n_head")
    new, parallel = f.flag("new_decoder_architecture", False), f.flag("parallel_attn", True)
    if new:
        groups = f.size("num_kv_heads", "n_head_kv", default=heads)
        norms = f.size("num_ln_in_parallel_attn", default=2) if parallel else 2
    else:
        groups = 1 if f.flag("multi_query", True) else f.size("num_kv_heads", default=heads)
        norms = 1 if parallel else 2
    f.divides("num_attention_heads", heads, "num_kv_heads", groups)
    f.divides("hidden_size", hidden, "num_attention_heads", heads)
    bias, width = f.flag("bias", False), hidden // heads
    attention = Attention(
        heads=heads,
        kv_heads=groups,
        head_dim=width,
        q_bias=bias,
        kv_bias=bias,
        out_bias=bias,
        rotary_dim=0 if f.flag("alibi", False) else width,
    )
    mlp = FeedForward(
        f.size("ffn_hidden_size", default=4 * hidden),
        gated=False,
        activation=f.activation("activation", default="gelu"),
        up_bias=bias,
        down_bias=bias,
    )
    layer = Layer(f.depth("num_hidden_layers", "n_layer"), attention, mlp, norms=norms, norm_bias=True)
    tied = f.flag("tie_word_embeddings", True)
    return decoder(
        f,
        [layer],
        hidden=hidden,
        tied=tied,
        norm_bias=True,
        max_context=f.optional("max_position_embeddings", default=2048),
    )
