"""Linear attention and recurrent models: MiniMax-01, Kimi Linear, Ling 3, OLMo Hybrid, RecurrentGemma, RWKV."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from steelyard.workload.blocks.delta_net import DeltaNet
from steelyard.workload.blocks.linear_attention import LinearAttention
from steelyard.workload.blocks.recurrent import GatedRecurrence, Rwkv
from steelyard.workload.families._base import Fields, decoder, mixed_layers
from steelyard.workload.families.decoders import borrowed_indexers, latent_attention, routed_layers, without_indexer
from steelyard.workload.families.xlstm import share
from steelyard.workload.transformer import FeedForward, Layer, Streams, Transformer

__all__ = [
    "bailing_hybrid",
    "glm5_next",
    "kimi_linear",
    "minimax",
    "olmo_hybrid",
    "recurrent_gemma",
    "rwkv",
    "rwkv6",
    "rwkv7",
]


def minimax(config: Mapping[str, Any]) -> Transformer:
    """MiniMax-Text-01 and M1 (arXiv:2501.08313): seven lightning layers to one of softmax attention."""
    f = Fields(config)
    attention = f.attention(rotary=0.5)
    heads = attention.heads
    mixer = LinearAttention(heads, attention.head_dim, attention.head_dim, chunk=f.size("block_size", default=256))
    marks, depth = f.whole_list("attn_type_list"), f.depth()
    if marks is not None and len(marks) != depth:
        f.problem("attn_type_list", f"expected {depth} entries, one per layer, got {len(marks)}")
        marks = None
    kinds = f.layer_kinds(
        depth, lambda i: "full" if (marks[i] if marks else i % 2 == 0) else "linear", also=("linear",)
    )
    experts = f.experts("intermediate_size", count=("num_local_experts",))
    return decoder(
        f, mixed_layers(kinds, attention, mixer, [experts] * depth), tied=f.flag("tie_word_embeddings", False)
    )


def kimi_linear(config: Mapping[str, Any]) -> Transformer:
    """Kimi Linear (arXiv:2510.26692): three delta layers with a decay per channel to one of latent attention."""
    return _kimi(Fields(config), full_rank=False)


def bailing_hybrid(config: Mapping[str, Any]) -> Transformer:
    """Ling 3: Kimi Linear's layers with gates of full rank, five to one; head gates on the latent attention.

    Ling and Ring 2.5 and 2.6 go by the same type and have lightning attention in seven of eight layers instead; they
    state its key-value heads, which Ling 3 sets to 0 or leaves out.
    """
    f = Fields(config)
    return _ling_2_5(f) if f.optional("num_kv_heads_for_linear_attn") else _kimi(f, full_rank=True)


def _ling_2_5(f: Fields) -> Transformer:
    depth, heads = f.depth(), f.size("num_attention_heads")
    width, groups = f.size("head_dim", default=128), f.size("num_kv_heads_for_linear_attn")
    f.divides("num_attention_heads", heads, "num_kv_heads_for_linear_attn", groups)
    mixer = LinearAttention(heads, width, width, kv_heads=groups, qk_norm=True)
    every = f.size("layer_group_size", default=8)
    kinds = f.layer_kinds(
        depth, lambda i: "full" if (i + 1) % every == 0 or i >= depth // every * every else "linear", also=("linear",)
    )
    wide = f.size("moe_shared_expert_intermediate_size", "moe_intermediate_size")
    experts = f.experts(
        "moe_intermediate_size",
        count=("num_experts",),
        shared=f.optional("num_shared_experts") * wide,
        router_bias=f.flag("moe_router_enable_expert_bias", True),
    )
    routed, dense = routed_layers(f, depth), f.gated_mlp()
    layers = mixed_layers(kinds, latent_attention(f), mixer, [experts if here else dense for here in routed])
    return decoder(f, layers, tied=f.flag("tie_word_embeddings", False))


def _kimi(f: Fields, *, full_rank: bool) -> Transformer:
    depth = f.depth()
    inner = f.config.get("linear_attn_config")
    part = Fields(inner if isinstance(inner, Mapping) else f.config)
    heads = part.size("num_heads", "linear_num_heads", "num_attention_heads")
    width = part.size("linear_head_dim", "head_dim", "v_head_dim", default=128)
    if not isinstance(inner, Mapping) and "linear_head_dim" not in f.config:
        width = f.size("v_head_dim")
    taps = part.size("short_conv_kernel_size", "linear_conv_kernel_dim", default=4)
    mixer = DeltaNet(
        heads, heads, width, width, taps, channel_decay=True, gate_rank=0 if full_rank else width, state_bits=32
    )
    full = part.whole_list("full_attn_layers")
    for problem in part.problems:
        f.problem(f"linear_attn_config.{problem.field}", problem.message)
    every = f.size("layer_group_size", default=4)
    kinds = f.layer_kinds(
        depth, lambda i: "full" if (i + 1 in full if full else (i + 1) % every == 0) else "linear", also=("linear",)
    )
    attention = latent_attention(f)
    dense = f.gated_mlp()
    experts = f.experts(
        "moe_intermediate_size",
        count=("num_experts",),
        top_k=("num_experts_per_token", "num_experts_per_tok"),
        shared=f.optional("num_shared_experts") * f.size("moe_intermediate_size"),
        router_bias=True,
    )
    first, step = f.optional("first_k_dense_replace", default=1), f.size("moe_layer_freq", default=1)
    blocks = [experts if i >= first and i % step == 0 else dense for i in range(depth)]
    return decoder(
        f,
        mixed_layers(kinds, attention, mixer, blocks),
        tied=f.flag("tie_word_embeddings", False),
        max_context=f.optional("model_max_length", "max_position_embeddings"),
    )


def glm5_next(config: Mapping[str, Any]) -> Transformer:
    """GLM-5.3-Flash: three delta layers with a decay per channel to one of latent attention with an indexer."""
    f = Fields(config)
    depth = f.depth()
    heads, width = f.size("linear_num_heads"), f.size("linear_head_dim", default=128)
    taps = f.size("linear_conv_kernel_dim", default=4)
    mixer = DeltaNet(heads, heads, width, width, taps, channel_decay=True, gate_rank=width, state_bits=32)
    attention = replace(
        latent_attention(f),
        index_heads=f.size("index_n_heads"),
        index_dim=f.size("index_head_dim"),
        index_top_k=f.size("index_topk"),
    )
    kinds = f.layer_kinds(depth, lambda i: "linear" if (i + 1) % 4 else "indexed", also=("linear", "indexed"))
    borrowed = borrowed_indexers(f, depth)
    experts = f.experts(
        "moe_intermediate_size",
        count=("n_routed_experts",),
        shared=f.optional("n_shared_experts") * f.size("moe_intermediate_size"),
        router_bias=True,
    )
    routed = routed_layers(f, depth, 3)
    dense = None if all(routed) else f.gated_mlp()
    layers = []
    for kind, here, other in zip(kinds, routed, borrowed, strict=True):
        block = None if kind == "linear" else without_indexer(attention) if other else attention
        mlp = experts if here else dense
        layers.append(Layer(1, block, mlp, mixer=mixer if block is None else None))
    streams = f.size("hc_mult", default=4)
    model = decoder(f, layers, tied=f.flag("tie_word_embeddings", False))
    return replace(model, streams=Streams(streams, "hyper", mixes=(2 + streams) * streams))


def olmo_hybrid(config: Mapping[str, Any]) -> Transformer:
    """OLMo Hybrid: three gated delta layers to one of full attention with norms over all query and key heads."""
    f = Fields(config)
    bias, depth = f.flag("attention_bias", False), f.depth()
    attention = f.attention(qkv_bias=bias, out_bias=bias, qk_norm="full")
    mixer = DeltaNet(
        f.size("linear_num_key_heads", default=attention.heads),
        f.size("linear_num_value_heads", default=attention.heads),
        f.size("linear_key_head_dim"),
        f.size("linear_value_head_dim"),
        f.size("linear_conv_kernel_dim", default=4),
    )
    kinds = f.layer_kinds(depth, lambda i: "linear" if (i + 1) % 4 else "full", also=("linear",))
    mlp = f.gated_mlp()
    return decoder(f, mixed_layers(kinds, attention, mixer, [mlp] * depth), tied=f.flag("tie_word_embeddings", False))


def recurrent_gemma(config: Mapping[str, Any]) -> Transformer:
    """RecurrentGemma (arXiv:2404.07839): two recurrent blocks to one of windowed attention, biased gated MLPs."""
    f = Fields(config)
    hidden, depth = f.size("hidden_size"), f.depth()
    bias = f.flag("attention_bias", False)
    attention = f.attention(qkv_bias=bias, out_bias=True, head_dim=hidden // max(1, f.size("num_attention_heads")))
    attention = replace(attention, window=f.size("attention_window_size", default=2048))
    width = f.size("lru_width", default=hidden)
    f.divides("lru_width", width, "num_attention_heads", attention.heads)
    mixer = GatedRecurrence(width, attention.heads, f.size("conv1d_width", default=4))
    pattern = f.config.get("block_types") or f.config.get("_block_types") or ["recurrent", "recurrent", "attention"]
    if not isinstance(pattern, list | tuple) or any(x not in ("recurrent", "attention") for x in pattern):
        f.problem("block_types", "expected a list of 'recurrent' and 'attention'")
        pattern = ["recurrent"]
    kinds = ["linear" if pattern[i % len(pattern)] == "recurrent" else "full" for i in range(depth)]
    mlp = FeedForward(
        max(1, f.size("intermediate_size") // 2),
        activation=f.activation("hidden_activation", default="gelu"),
        up_bias=True,
        down_bias=True,
    )
    return decoder(f, mixed_layers(kinds, attention, mixer, [mlp] * depth), tied=f.flag("tie_word_embeddings", True))


def rwkv(config: Mapping[str, Any]) -> Transformer:
    """RWKV-4 (arXiv:2305.13048): three numbers of state per channel, squared ReLU with a gate in the channel mixing."""
    f = Fields(config)
    hidden = f.size("hidden_size")
    width = f.size("attention_hidden_size", default=hidden)
    # mixing vectors of the channel mixing (two) are counted with those of the time mixing
    mixer = Rwkv(width, mixes=5, receptance=True)
    mlp = FeedForward(f.size("intermediate_size", default=4 * hidden), gated=False, activation="relu2")
    layer = Layer(f.depth(), None, mlp, norm_bias=True, mixer=mixer)
    tied = f.flag("tie_word_embeddings", False)
    context = f.optional("context_length")
    return decoder(f, [layer], tied=tied, embedding_norm=True, norm_bias=True, max_context=context)


def rwkv6(config: Mapping[str, Any]) -> Transformer:
    """RWKV-5 and 6 (arXiv:2404.05892): a matrix per head, a gate; version 6 with decays and mixing of low rank."""
    f = Fields(config)
    hidden, newer = f.size("hidden_size"), config.get("model_type") == "rwkv6"
    width, head = f.size("attention_hidden_size", default=hidden), f.size("head_size", default=64)
    f.divides("attention_hidden_size", width, "head_size", head)
    wide = 64 if hidden < 4096 else 128
    # low ranks: five of mixing together, and the decay; vectors: decay, bonus, two of the norm over heads
    ranks = (5 * (wide // 2), wide) if newer else ()
    mixes = 8 if newer else 6  # with two of the channel mixing
    mixer = Rwkv(width, version=6, head_dim=head, ranks=ranks, mixes=mixes, receptance=True, gated=True, vectors=4)
    inner = f.size("intermediate_size", default=int(3.5 * hidden) // 32 * 32)
    mlp = FeedForward(inner, gated=False, activation="relu2")
    layer = Layer(f.depth(), None, mlp, norm_bias=True, mixer=mixer)
    tied, context = f.flag("tie_word_embeddings", False), f.optional("context_length")
    return decoder(f, [layer], tied=tied, embedding_norm=True, norm_bias=True, max_context=context)


def rwkv7(config: Mapping[str, Any]) -> Transformer:
    """RWKV-7 (arXiv:2503.14456): a matrix per head with the delta rule, low-rank decays, rates, residuals and gates."""
    f = Fields(config)
    hidden = f.size("hidden_size")
    names = ("decay_low_rank_dim", "a_low_rank_dim", "v_low_rank_dim", "gate_low_rank_dim")
    ranks = tuple(f.size(name, default=default) for name, default in zip(names, (64, 64, 32, 128), strict=True))
    head = f.size("head_dim", default=64)
    f.divides("hidden_size", hidden, "head_dim", head)
    # six mixing vectors and one of the channel mixing; decay, rate and residual biases, three bonuses, a norm
    mixer = Rwkv(hidden, version=7, head_dim=head, ranks=ranks, mixes=7, vectors=8)
    ratio = share(f, "hidden_ratio", 4.0)
    mlp = FeedForward(f.size("intermediate_size", default=int(ratio * hidden)), gated=False, activation="relu2")
    layer = Layer(f.depth(), None, mlp, norm_bias=True, mixer=mixer)
    tied = f.flag("tie_word_embeddings", False)
    return decoder(f, [layer], tied=tied, embedding_norm=True, norm_bias=True)
