"""Zamba 1 and 2: state spaces, and one or a few attention blocks that are used again and again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steelyard.workload.blocks.mamba import Mamba, Mamba2
from steelyard.workload.families._base import Fields, decoder
from steelyard.workload.families.hybrid import state_bits
from steelyard.workload.transformer import Attention, Beside, FeedForward, Layer, Mixer, Transformer

__all__ = ["zamba", "zamba2"]


def zamba(config: Mapping[str, Any]) -> Transformer:
    """Zamba (arXiv:2405.16712): Mamba, and one attention block, whose weights are stored once, before every sixth."""
    f = Fields(config)
    hidden, depth = f.size("hidden_size"), f.depth()
    rank = f.config.get("mamba_dt_rank")
    usual = -(-hidden // 16)
    mixer = Mamba(
        f.size("mamba_expand", default=2) * hidden,
        f.size("mamba_d_state", default=16),
        usual if rank == "auto" else f.size("mamba_dt_rank", default=usual),
        conv_kernel=f.size("mamba_d_conv", default=4),
        conv_bias=f.flag("mamba_conv_bias", True),
        bias=f.flag("mamba_proj_bias", False),
        heads=f.size("n_mamba_heads", default=2),
        state_bits=32,
    )
    every, at = f.size("attn_layer_period", default=6), f.optional("attn_layer_offset", default=4)
    shared = _shared_at(f, depth, lambda i: i == 2 or (i > 2 and (i - 3) % every == at))
    return _zamba(f, hidden, shared, mixer, f.gated_mlp(act="gelu"), blocks=1)


def zamba2(config: Mapping[str, Any]) -> Transformer:
    """Zamba 2 (arXiv:2411.15242): Mamba 2, and ``num_mem_blocks`` attention blocks used in turn.

    Every use has low-rank corrections of its own.
    """
    f = Fields(config)
    hidden, depth = f.size("hidden_size"), f.depth()
    heads, bias = f.size("n_mamba_heads", default=8), f.flag("add_bias_linear", False)
    inner = f.size("mamba_expand", default=2) * hidden
    f.divides("hidden_size", inner, "n_mamba_heads", heads)
    mixer = Mamba2(
        heads,
        max(1, inner // heads),
        f.size("mamba_d_state", default=64),
        groups=f.size("mamba_ngroups", default=1),
        conv_kernel=f.size("mamba_d_conv", default=4),
        bias=bias,
        chunk=f.size("chunk_size", default=256),
        state_bits=state_bits(f),
    )
    width, rank = f.size("intermediate_size", default=4 * hidden), f.size("adapter_rank", default=128)
    mlp = FeedForward(width, activation=f.activation(default="gelu"), up_bias=bias, down_bias=bias)
    adapters = [Beside("mlp_adapter_down", hidden, rank), Beside("mlp_adapter_up", rank, 2 * width)]
    if f.flag("use_shared_attention_adapter", False):
        for name in "qkv":
            adapters.append(Beside(f"{name}_adapter_down", 2 * hidden, rank))
            adapters.append(Beside(f"{name}_adapter_up", rank, 2 * hidden))
    shared = _shared_at(f, depth, lambda i: i in (47, 51) or (i and i % 6 == 0 and i < 47))
    blocks = f.size("num_mem_blocks", default=1)
    rotary = f.flag("use_mem_rope", False)
    return _zamba(f, hidden, shared, mixer, mlp, blocks=blocks, adapters=tuple(adapters), rotary=rotary)


def _shared_at(f: Fields, depth: int, usual: Any) -> list[bool]:
    """Before which layers a shared block stands."""
    kinds = f.config.get("layers_block_type")
    kinds = f.config.get("layer_types") if kinds is None else kinds
    if kinds is None:
        return [bool(usual(i)) for i in range(depth)]
    known = ("hybrid", "mamba", "linear_attention")
    if not isinstance(kinds, list) or len(kinds) != depth or any(x not in known for x in kinds):
        f.problem("layers_block_type", f"expected {depth} entries, each one of {', '.join(known)}")
        return [False] * depth
    return [kind == "hybrid" for kind in kinds]


def _zamba(
    f: Fields,
    hidden: int,
    shared: list[bool],
    mixer: Mixer,
    mlp: FeedForward,
    *,
    blocks: int,
    adapters: tuple[Beside, ...] = (),
    rotary: bool = False,
) -> Transformer:
    """Layers with a state space each; a shared block reads the hidden state beside the token's embedding."""
    heads = f.size("num_attention_heads")
    groups = f.size("num_key_value_heads", default=heads)
    f.divides("num_attention_heads", heads, "num_key_value_heads", groups)
    width = f.size("attention_head_dim", default=max(1, 2 * hidden // heads))
    attention = Attention(heads, groups, width, rotary_dim=width if rotary else 0, reads=2 * hidden)
    joined = Beside("both_norm", 0, 2 * hidden)
    layers: list[Layer] = []
    used = 0
    for here in shared:
        if here:
            layers.append(Layer(1, attention, mlp, norms=1, beside=(joined,), tied=used >= blocks))
            used += 1
        added = (Beside("shared_out", hidden, hidden), *adapters) if here else ()
        layers.append(Layer(1, None, None, norms=1, mixer=mixer, beside=added))
    return decoder(f, layers, tied=f.flag("tie_word_embeddings", True))
