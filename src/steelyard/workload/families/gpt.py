"""The GPT line: GPT-2, GPT-Neo, GPT-J, GPT-NeoX, OPT, BLOOM, MPT, StarCoder. Layer norms, plain MLPs, mostly biased."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from steelyard.workload.families._base import Fields, decoder
from steelyard.workload.transformer import Attention, FeedForward, Layer, Transformer

__all__ = ["bloom", "codegen", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox", "gptj", "mpt", "opt"]


def _plain(
    f: Fields, hidden: int, *, names: tuple[str, ...], bias: bool = True, act: str = "activation_function"
) -> FeedForward:
    return FeedForward(
        f.size(*names, default=4 * hidden),
        gated=False,
        activation=f.activation(act, "hidden_act", default="gelu"),
        up_bias=bias,
        down_bias=bias,
    )


def _attention(
    f: Fields, hidden: int, heads: int, *, qkv_bias: bool, out_bias: bool, kv_heads: int = 0, rotary_dim: int = 0
) -> Attention:
    f.divides("hidden size", hidden, "number of heads", heads)
    return Attention(
        heads=heads,
        kv_heads=kv_heads or heads,
        head_dim=max(1, hidden // heads),
        q_bias=qkv_bias,
        kv_bias=qkv_bias,
        out_bias=out_bias,
        rotary_dim=rotary_dim,
    )


def gpt2(config: Mapping[str, Any]) -> Transformer:
    """GPT-2 and GPT-3 shapes: learned positions, biases everywhere, tied head."""
    return _gpt2(Fields(config), kv_heads=0)


def gpt_bigcode(config: Mapping[str, Any]) -> Transformer:
    """StarCoder and SantaCoder (arXiv:2305.06161): GPT-2 with one key-value head when ``multi_query``."""
    f = Fields(config)
    return _gpt2(f, kv_heads=1 if f.flag("multi_query", True) else 0)


def _gpt2(f: Fields, kv_heads: int) -> Transformer:
    hidden, heads = f.size("n_embd", "hidden_size"), f.size("n_head", "num_attention_heads")
    rows = f.size("n_positions", "max_position_embeddings", default=1024)
    attention = _attention(f, hidden, heads, qkv_bias=True, out_bias=True, kv_heads=kv_heads)
    layer = Layer(
        f.depth("n_layer", "num_hidden_layers"), attention, _plain(f, hidden, names=("n_inner",)), norm_bias=True
    )
    tied = f.flag("tie_word_embeddings", True)
    return decoder(f, [layer], hidden=hidden, tied=tied, positions=rows, norm_bias=True, max_context=rows)


def gpt_neo(config: Mapping[str, Any]) -> Transformer:
    """GPT-Neo: global and local layers in turn, no biases on query, key and value."""
    f = Fields(config)
    hidden, depth = f.size("hidden_size"), f.depth("num_layers", "num_hidden_layers")
    heads = f.size("num_heads", "num_attention_heads")
    rows, window = f.size("max_position_embeddings"), f.size("window_size", default=256)
    attention = _attention(f, hidden, heads, qkv_bias=False, out_bias=True)
    kinds = f.config.get("attention_layers")
    if not isinstance(kinds, list) or not kinds or any(k not in ("global", "local") for k in kinds):
        if kinds is not None:
            f.problem("attention_layers", "expected a list of 'global' and 'local'")
        kinds = ["global", "local"]
    mlp = _plain(f, hidden, names=("intermediate_size",))
    layers = [
        Layer(1, replace(attention, window=window if kinds[i % len(kinds)] == "local" else 0), mlp, norm_bias=True)
        for i in range(depth)
    ]
    tied = f.flag("tie_word_embeddings", True)
    return decoder(f, layers, hidden=hidden, tied=tied, positions=rows, norm_bias=True, max_context=rows)


def gptj(config: Mapping[str, Any]) -> Transformer:
    """GPT-J: attention and MLP side by side after one norm, no attention biases, biased untied head."""
    f = Fields(config)
    hidden, heads = f.size("n_embd", "hidden_size"), f.size("n_head", "num_attention_heads")
    rotary = f.optional("rotary_dim", default=hidden // heads)
    attention = _attention(f, hidden, heads, qkv_bias=False, out_bias=False, rotary_dim=rotary)
    mlp = _plain(f, hidden, names=("n_inner",))
    layer = Layer(f.depth("n_layer", "num_hidden_layers"), attention, mlp, norms=1, norm_bias=True)
    tied, rows = f.flag("tie_word_embeddings", False), f.optional("n_positions", "max_position_embeddings")
    return decoder(f, [layer], hidden=hidden, tied=tied, norm_bias=True, head_bias=True, max_context=rows)


def codegen(config: Mapping[str, Any]) -> Transformer:
    """CodeGen (arXiv:2203.13474): GPT-J's shapes."""
    return gptj(config)


def gpt_neox(config: Mapping[str, Any]) -> Transformer:
    """GPT-NeoX and Pythia (arXiv:2204.06745): two norms also when the blocks are parallel, untied head."""
    f = Fields(config)
    hidden, heads = f.size("hidden_size"), f.size("num_attention_heads")
    bias = f.flag("attention_bias", True)
    rotary = int(hidden // heads * f.fraction("partial_rotary_factor", f.fraction("rotary_pct", 0.25)))
    attention = _attention(f, hidden, heads, qkv_bias=bias, out_bias=bias, rotary_dim=rotary)
    mlp = _plain(f, hidden, names=("intermediate_size",), act="hidden_act")
    layer = Layer(f.depth(), attention, mlp, norm_bias=True)
    return decoder(f, [layer], tied=f.flag("tie_word_embeddings", False), norm_bias=True)


def opt(config: Mapping[str, Any]) -> Transformer:
    """OPT (arXiv:2205.01068): position table with two rows of offset; the 350M model projects its embedding.

    ``do_layer_norm_before`` false (350M) puts the norms after the blocks and leaves out the final one.
    """
    f = Fields(config)
    hidden, heads = f.size("hidden_size"), f.size("num_attention_heads")
    context, bias = f.size("max_position_embeddings"), f.flag("enable_bias", True)
    weighted = f.flag("layer_norm_elementwise_affine", True)
    attention = _attention(f, hidden, heads, qkv_bias=bias, out_bias=bias)
    mlp = FeedForward(
        f.size("ffn_dim", "intermediate_size"),
        gated=False,
        activation=f.activation("activation_function", default="relu"),
        up_bias=bias,
        down_bias=bias,
    )
    layer = Layer(f.depth(), attention, mlp, norm_bias=weighted, norm_weight=weighted)
    final = f.flag("do_layer_norm_before", True) and not f.flag("_remove_final_layer_norm", False)
    tied, width = f.flag("tie_word_embeddings", True), f.size("word_embed_proj_dim", default=hidden)
    norms = {"final_norm": final, "norm_bias": weighted, "norm_weight": weighted}
    return replace(decoder(f, [layer], tied=tied, positions=context + 2, **norms), embedding_dim=width)


def bloom(config: Mapping[str, Any]) -> Transformer:
    """BLOOM (arXiv:2211.05100): ALiBi, a norm after the embedding, biases everywhere, tied head."""
    f = Fields(config)
    hidden, heads = f.size("hidden_size", "n_embed"), f.size("n_head", "num_attention_heads")
    attention = _attention(f, hidden, heads, qkv_bias=True, out_bias=True)
    mlp = FeedForward(4 * hidden, gated=False, activation="gelu", up_bias=True, down_bias=True)
    layer = Layer(f.depth("n_layer", "num_hidden_layers"), attention, mlp, norm_bias=True)
    tied, context = f.flag("tie_word_embeddings", True), f.optional("seq_length", default=2048)
    return decoder(f, [layer], hidden=hidden, tied=tied, embedding_norm=True, norm_bias=True, max_context=context)


def mpt(config: Mapping[str, Any]) -> Transformer:
    """MPT: ALiBi, no biases at all when ``no_bias`` (norms included), tied head."""
    f = Fields(config)
    hidden, heads = f.size("d_model"), f.size("n_heads")
    bias = not f.flag("no_bias", True)
    inner = config.get("attn_config")
    details = Fields(inner if isinstance(inner, Mapping) else {})
    groups = details.size("kv_n_heads", default=heads)
    if details.config.get("attn_type") == "multiquery_attention":
        groups = 1
    alibi, norm = details.flag("alibi", True), details.flag("qk_ln", False)
    for problem in details.problems:
        f.problem(f"attn_config.{problem.field}", problem.message)
    attention = _attention(f, hidden, heads, qkv_bias=bias, out_bias=bias, kv_heads=groups)
    ratio, context = f.size("expansion_ratio", default=4), f.size("max_seq_len", default=2048)
    mlp = FeedForward(ratio * hidden, gated=False, activation="gelu", up_bias=bias, down_bias=bias)
    layer = Layer(f.depth("n_layers"), replace(attention, qk_norm="full" if norm else ""), mlp, norm_bias=bias)
    learned = context if f.flag("learned_pos_emb", True) and not alibi else 0
    tied = f.flag("tie_word_embeddings", True)
    return decoder(f, [layer], hidden=hidden, tied=tied, positions=learned, norm_bias=bias, max_context=context)
