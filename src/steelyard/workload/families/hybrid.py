"""State-space models and hybrids: Mamba 1 and 2, Jamba, Bamba, Granite 4, Nemotron-H, Falcon-H1, LFM2, StripedHyena.

Which layer is what comes from the config; each layer is attention, a state space, both, or neither.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from steelyard.workload.blocks.hyena import LongConvolution
from steelyard.workload.blocks.mamba import Mamba, Mamba2
from steelyard.workload.blocks.recurrent import ShortConvolution
from steelyard.workload.families._base import Fields, decoder, mixed_layers
from steelyard.workload.transformer import FeedForward, Layer, Transformer

__all__ = [
    "bamba",
    "falcon_h1",
    "granite_hybrid",
    "jamba",
    "lfm2",
    "lfm2_moe",
    "lfm3",
    "mamba",
    "mamba2",
    "nemotron_h",
    "stripedhyena",
]

#: Widths of a state in the cache by the name engines and configs use.
_STATE_BITS: Mapping[str, int] = {"float32": 32, "bfloat16": 16, "float16": 16}


def mamba(config: Mapping[str, Any]) -> Transformer:
    """Mamba (arXiv:2312.00752): one block per layer, nothing else; Falcon Mamba (arXiv:2410.05355), whose norms
    inside have no weights."""
    f = Fields(config)
    hidden = f.size("hidden_size", "d_model")
    channels = f.size("intermediate_size", "d_inner", default=f.size("expand", default=2) * hidden)
    mixer = Mamba(
        channels,
        f.size("state_size", "d_state", default=16),
        _step_rank(f, "time_step_rank", hidden),
        conv_kernel=f.size("conv_kernel", "d_conv", default=4),
        conv_bias=f.flag("use_conv_bias", True),
        bias=f.flag("use_bias", False),
        state_bits=32,
    )
    layers = [Layer(f.depth("num_hidden_layers", "n_layer"), None, None, norms=1, mixer=mixer)]
    return decoder(f, layers, hidden=hidden, tied=f.flag("tie_word_embeddings", True))


def _step_rank(f: Fields, name: str, hidden: int) -> int:
    """Rank of the projection of step sizes: stated, or a sixteenth of the hidden width (``auto``)."""
    usual = -(-hidden // 16)
    return usual if f.config.get(name) == "auto" else f.size(name, default=usual)


def mamba2(config: Mapping[str, Any]) -> Transformer:
    """Mamba 2 (arXiv:2405.21060), Codestral Mamba: one block per layer, nothing else."""
    f = Fields(config)
    hidden = f.size("hidden_size", "d_model")
    width = f.size("head_dim", default=64)
    heads = f.size("num_heads", default=max(1, f.size("expand", default=2) * hidden // width))
    mixer = Mamba2(
        heads,
        width,
        f.size("state_size", default=128),
        groups=f.size("n_groups", default=8),
        conv_kernel=f.size("conv_kernel", default=4),
        conv_bias=f.flag("use_conv_bias", True),
        bias=f.flag("use_bias", False),
        chunk=f.size("chunk_size", default=256),
        state_bits=state_bits(f),
    )
    layers = [Layer(f.depth(), None, None, norms=1, mixer=mixer)]
    return decoder(f, layers, hidden=hidden, tied=f.flag("tie_word_embeddings", False))


def state_bits(f: Fields, default: int = 16) -> int:
    """Width of a state element in the cache, which some configs state."""
    return _STATE_BITS.get(str(f.config.get("mamba_ssm_cache_dtype") or f.config.get("mamba_ssm_dtype")), default)


def _mamba_prefixed(f: Fields, *, groups: int, norm: bool = True) -> Mamba2:
    """Mamba 2 under the ``mamba_`` keys of Bamba, Granite 4 and Falcon-H1."""
    hidden, heads = f.size("hidden_size"), f.size("mamba_n_heads", default=128)
    inner = f.optional("mamba_d_ssm") or f.size("mamba_expand", default=2) * hidden
    stated = f.config.get("mamba_d_head")
    width = f.size("mamba_d_head") if isinstance(stated, int) and stated else max(1, inner // heads)
    return Mamba2(
        heads,
        width,
        f.size("mamba_d_state", default=256),
        groups=f.size("mamba_n_groups", default=groups),
        conv_kernel=f.size("mamba_d_conv", default=4),
        conv_bias=f.flag("mamba_conv_bias", True),
        bias=f.flag("mamba_proj_bias", False),
        norm=norm,
        chunk=f.size("mamba_chunk_size", default=256),
        state_bits=state_bits(f),
    )


def bamba(config: Mapping[str, Any]) -> Transformer:
    """Bamba: Mamba 2 with full attention in the layers of ``attn_layer_indices``, an MLP in each."""
    f = Fields(config)
    bias = f.flag("attention_bias", False)
    attention = f.attention(qkv_bias=bias, out_bias=bias, rotary=0.5)
    places = f.whole_list("attn_layer_indices") or []
    kinds = f.layer_kinds(f.depth(), lambda i: "full" if i in places else "linear", also=("linear",))
    mlp = f.gated_mlp(bias=f.flag("mlp_bias", False))
    layers = mixed_layers(kinds, attention, _mamba_prefixed(f, groups=1), [mlp] * len(kinds))
    return decoder(f, layers, tied=f.flag("tie_word_embeddings", False))


def granite_hybrid(config: Mapping[str, Any]) -> Transformer:
    """Granite 4: Mamba 2 and attention, each layer with a shared MLP and, in the larger ones, routed experts."""
    f = Fields(config)
    bias = f.flag("attention_bias", False)
    attention = f.attention(qkv_bias=bias, out_bias=bias)
    if f.config.get("position_embedding_type") in (None, "nope"):
        attention = replace(attention, rotary_dim=0)
    shared = f.size("shared_intermediate_size", default=1024)
    mlp = FeedForward(shared, activation=f.activation(default="silu"))
    if f.optional("num_local_experts"):
        mlp = f.experts("intermediate_size", count=("num_local_experts",), shared=shared)
    kinds = f.layer_kinds(f.depth(), lambda i: "linear", also=("linear",))
    layers = mixed_layers(kinds, attention, _mamba_prefixed(f, groups=1), [mlp] * len(kinds))
    return decoder(f, layers, tied=f.flag("tie_word_embeddings", False))


def falcon_h1(config: Mapping[str, Any]) -> Transformer:
    """Falcon-H1 (arXiv:2507.22448): attention and Mamba 2 side by side in every layer."""
    f = Fields(config)
    bias = f.flag("attention_bias", False)
    mixer = _mamba_prefixed(f, groups=1, norm=f.flag("mamba_rms_norm", False))
    mlp = f.gated_mlp(bias=f.flag("mlp_bias", False))
    layer = Layer(f.depth(), f.attention(qkv_bias=bias, out_bias=bias), mlp, mixer=mixer)
    return decoder(f, [layer], tied=f.flag("tie_word_embeddings", False))


def jamba(config: Mapping[str, Any]) -> Transformer:
    """Jamba (arXiv:2403.19887): Mamba with attention every ``attn_layer_period``, experts every second layer."""
    f = Fields(config)
    hidden = f.size("hidden_size")
    mixer = Mamba(
        f.size("mamba_expand", default=2) * hidden,
        f.size("mamba_d_state", default=16),
        _step_rank(f, "mamba_dt_rank", hidden),
        conv_kernel=f.size("mamba_d_conv", default=4),
        conv_bias=f.flag("mamba_conv_bias", True),
        bias=f.flag("mamba_proj_bias", False),
        inner_norms=True,
        state_bits=32,
    )
    attention = replace(f.attention(kv_heads=8), rotary_dim=0)
    every, at = f.size("attn_layer_period", default=8), f.optional("attn_layer_offset", default=4)
    spread, first = f.size("expert_layer_period", default=2), f.optional("expert_layer_offset", default=1)
    dense = f.gated_mlp()
    routed = f.optional("num_experts", default=16) > 1
    experts = f.experts("intermediate_size", count=("num_experts",)) if routed else dense
    places = range(f.depth())
    kinds = ["full" if i % every == at else "linear" for i in places]
    layers = mixed_layers(kinds, attention, mixer, [experts if i % spread == first else dense for i in places])
    return decoder(f, layers, tied=f.flag("tie_word_embeddings", False))


#: Kinds of layers of Nemotron-H by the letters of its pattern and the words of newer configs.
_NEMOTRON: Mapping[str, str] = {
    "M": "mamba",
    "*": "attention",
    "-": "mlp",
    "E": "moe",
    "mamba": "mamba",
    "linear_attention": "mamba",
    "attention": "attention",
    "full_attention": "attention",
    "mlp": "mlp",
    "moe": "moe",
}


def nemotron_h(config: Mapping[str, Any]) -> Transformer:
    """Nemotron-H, Nano 2 and Nemotron 3 (arXiv:2504.03624): one mixer, MLP or expert block per layer."""
    f = Fields(config)
    name, pattern = f.find(("layers_block_type", "hybrid_override_pattern"))
    known = isinstance(pattern, str | list | tuple) and all(isinstance(x, str) and x in _NEMOTRON for x in pattern)
    if not known or not pattern:
        f.problem(name, f"expected one of {', '.join(_NEMOTRON)} per layer")
        pattern = "M"
    kinds = [_NEMOTRON[x] for x in pattern]
    depth = f.depth() if f.config.get("num_hidden_layers") is not None else len(kinds)
    if known and depth != len(kinds):
        f.problem(name, f"expected {depth} entries, one per layer, got {len(kinds)}")
    bias, act = f.flag("mlp_bias", False), f.activation("mlp_hidden_act", default="relu2")
    parts: dict[str, Layer] = {}
    if "mamba" in kinds:
        mixer = Mamba2(
            f.size("mamba_num_heads", default=128),
            f.size("mamba_head_dim", default=64),
            f.size("ssm_state_size", default=128),
            groups=f.size("n_groups", default=8),
            conv_kernel=f.size("conv_kernel", default=4),
            conv_bias=f.flag("use_conv_bias", True),
            bias=f.flag("mamba_proj_bias", False) or f.flag("use_bias", False),
            chunk=f.size("chunk_size", default=128),
            state_bits=state_bits(f, 32),
        )
        parts["mamba"] = Layer(1, None, None, norms=1, mixer=mixer)
    if "attention" in kinds:
        wide = f.flag("attention_bias", False)
        attention = replace(
            f.attention(qkv_bias=wide, out_bias=wide, head_dim=f.optional("attention_head_dim")), rotary_dim=0
        )
        parts["attention"] = Layer(1, attention, None, norms=1)
    if "mlp" in kinds:
        mlp = FeedForward(f.size("intermediate_size"), gated=False, activation=act, up_bias=bias, down_bias=bias)
        parts["mlp"] = Layer(1, None, mlp, norms=1)
    if "moe" in kinds:
        width = f.size("moe_intermediate_size")
        shared = f.optional("n_shared_experts") * f.size("moe_shared_expert_intermediate_size", default=width)
        experts = f.experts("moe_intermediate_size", count=("n_routed_experts",), shared=shared, router_bias=True)
        latent = f.optional("moe_latent_size")
        experts = replace(experts, gated=False, activation=act, expert_hidden=latent)
        parts["moe"] = Layer(1, None, experts, norms=1)
    return decoder(f, [parts[k] for k in kinds], tied=f.flag("tie_word_embeddings", False))


def lfm2(config: Mapping[str, Any]) -> Transformer:
    """LFM2: gated short convolutions and full attention, an MLP whose width is rounded from the stated one."""
    f = Fields(config)
    return _lfm2(f, [_lfm2_mlp(f)] * f.depth())


def lfm2_moe(config: Mapping[str, Any]) -> Transformer:
    """LFM2 with experts from layer ``num_dense_layers`` on."""
    f = Fields(config)
    dense, first = f.gated_mlp(), f.optional("num_dense_layers")
    bias = f.flag("use_expert_bias", True)
    experts = f.experts("moe_intermediate_size", count=("num_experts",), router_bias=bias)
    return _lfm2(f, [dense if i < first else experts for i in range(f.depth())])


def lfm3(config: Mapping[str, Any]) -> Transformer:
    """LFM3: LFM2's short convolutions, windowed and full attention with a gate per head, norms around each block."""
    f = Fields(config)
    mixer = ShortConvolution(f.size("hidden_size"), f.size("conv_L_cache", default=7), f.flag("conv_bias", False))
    window = f.size("sliding_window", default=256)
    kinds = f.layer_kinds(
        f.depth(), lambda i: "linear" if i % 2 or not i else "full" if i % 4 == 2 else "window", also=("linear",)
    )
    attention = replace(f.attention(qk_norm="head", head_dim=128), head_gate=f.flag("use_attention_gate", True))
    norms, mlp = 4 if f.flag("use_sandwich_norm", True) else 2, f.gated_mlp()
    layers = []
    for kind in kinds:
        block = None if kind == "linear" else replace(attention, window=window if kind == "window" else 0)
        layers.append(Layer(1, block, mlp, norms=norms, mixer=mixer if block is None else None))
    return decoder(f, layers, tied=f.flag("tie_word_embeddings", True))


def _lfm2_mlp(f: Fields) -> FeedForward:
    width = f.size("block_ff_dim", "intermediate_size")
    if f.flag("block_auto_adjust_ff_dim", True):
        scale, step = f.config.get("block_ffn_dim_multiplier", 1.0), f.size("block_multiple_of", default=256)
        width = int((scale if isinstance(scale, int | float) else 1.0) * int(2 * width / 3))
        width = -(-width // step) * step
    return FeedForward(max(1, width))


def _lfm2(f: Fields, blocks: Sequence[FeedForward]) -> Transformer:
    bias = f.flag("conv_bias", False)
    mixer = ShortConvolution(f.size("hidden_size"), f.size("conv_L_cache", default=3), bias)
    places = f.whole_list("full_attn_idxs")
    kinds = f.layer_kinds(
        len(blocks), lambda i: "full" if places is None or i in places else "linear", also=("linear",)
    )
    attention = f.attention(qk_norm="head", kv_heads=8)
    layers = mixed_layers(kinds, attention, mixer, blocks)
    tied = f.flag("tie_word_embeddings", f.flag("tie_embedding", True))
    return decoder(f, layers, tied=tied)


def stripedhyena(config: Mapping[str, Any]) -> Transformer:
    """StripedHyena: long convolutions in the layers of ``hyena_layer_idxs``, grouped attention in the others."""
    f = Fields(config)
    hidden, depth = f.size("hidden_size"), f.depth("num_layers", "num_hidden_layers")
    heads, groups = f.size("num_attention_heads"), f.size("proj_groups", default=1)
    f.divides("num_attention_heads", heads, "proj_groups", groups)
    keys = f.under({"num_attention_heads": heads, "num_key_value_heads": max(1, heads // groups)})
    attention = keys.attention(qkv_bias=f.flag("qkv_proj_bias", True), out_bias=f.flag("mha_out_proj_bias", True))
    shared = f.size("hyena_filter_groups", default=1)
    f.divides("hidden_size", hidden, "hyena_filter_groups", shared)
    taps, bias = f.size("short_filter_length", default=3), f.flag("short_filter_bias", True)
    mixer = LongConvolution(hidden, f.size("state_size", default=2), shared, taps, bias)
    places = f.whole_list("attn_layer_idxs") or []
    kinds = ["full" if i in places else "linear" for i in range(depth)]
    step = f.size("inner_size_multiple_of", default=64)
    width = f.size("inner_mlp_size", default=-(-int(8 * hidden / 3) // step) * step)
    mlp = FeedForward(width, activation=f.activation("mlp_activation", default="silu"))
    tied, context = f.flag("tie_embeddings", f.flag("tie_word_embeddings", False)), f.optional("max_seqlen")
    norm, layers = f.flag("final_norm", True), mixed_layers(kinds, attention, mixer, [mlp] * depth)
    return decoder(f, layers, hidden=hidden, tied=tied, final_norm=norm, max_context=context)
