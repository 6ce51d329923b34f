"""GGUF files of state-space, hybrid and recurrent models, and of encoder-decoders: keys of llama.cpp to configs.

A layer without key-value heads (``attention.head_count_kv`` has one number per layer) is a state space, a convolution
or a recurrence; where metadata does not say what else it holds, its tensors do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from steelyard.workload.ingest.gguf_metadata import Metadata

__all__ = ["STATES", "latent"]


def _share(whole: int | None, parts: int | None) -> int | None:
    return whole // parts if whole and parts else None


def _full(m: Metadata) -> tuple[int, ...]:
    """The layers that have attention."""
    return tuple(i for i, groups in enumerate(m.per_layer("attention.head_count_kv")) if groups)


def _kinds(m: Metadata, other: str) -> list[str] | None:
    """``layer_types`` by the key-value heads of each layer."""
    groups = m.per_layer("attention.head_count_kv")
    return [("full_attention" if other == "conv" else "attention") if g else other for g in groups] or None


def _mamba(m: Metadata) -> dict[str, Any]:
    return {
        "model_type": "falcon_mamba" if m.get("ssm.dt_b_c_rms") is True else "mamba",
        "intermediate_size": m.number("ssm.inner_size"),
        "state_size": m.number("ssm.state_size"),
        "time_step_rank": m.number("ssm.time_step_rank"),
        "conv_kernel": m.number("ssm.conv_kernel"),
        "use_conv_bias": True,
    }


def _mamba2(m: Metadata) -> dict[str, Any]:
    heads = m.number("ssm.time_step_rank")
    return {
        "num_heads": heads,
        "head_dim": _share(m.number("ssm.inner_size"), heads),
        "state_size": m.number("ssm.state_size"),
        "n_groups": m.number("ssm.group_count"),
        "conv_kernel": m.number("ssm.conv_kernel"),
    }


def _prefixed(m: Metadata) -> dict[str, Any]:
    """Mamba 2 under the ``mamba_`` keys of Granite 4 and Falcon-H1."""
    inner, heads = m.number("ssm.inner_size"), m.number("ssm.time_step_rank")
    return {
        "mamba_d_ssm": inner,
        "mamba_n_heads": heads,
        "mamba_d_head": _share(inner, heads),
        "mamba_d_state": m.number("ssm.state_size"),
        "mamba_n_groups": m.number("ssm.group_count"),
        "mamba_d_conv": m.number("ssm.conv_kernel"),
    }


def _granite(m: Metadata) -> dict[str, Any]:
    experts, width = m.number("expert_count") or 0, m.number("feed_forward_length")
    own = m.number("expert_shared_feed_forward_length")
    return {
        **_prefixed(m),
        "layer_types": _kinds(m, "mamba"),
        "num_local_experts": experts,
        "num_experts_per_tok": m.number("expert_used_count") or 0,
        "intermediate_size": m.number("expert_feed_forward_length") or width,
        "shared_intermediate_size": (own or None) if experts else width,
    }


def _falcon_h1(m: Metadata) -> dict[str, Any]:
    return {**_prefixed(m), "mamba_rms_norm": m.has("ssm_norm.weight")}


def _jamba(m: Metadata) -> dict[str, Any]:
    depth, full = m.depth, _full(m)
    routed = [i for i in range(depth) if "ffn_gate_inp.weight" in m.names(i)]
    found = {
        "mamba_expand": _share(m.number("ssm.inner_size"), m.number("embedding_length")),
        "mamba_d_state": m.number("ssm.state_size"),
        "mamba_dt_rank": m.number("ssm.time_step_rank"),
        "mamba_d_conv": m.number("ssm.conv_kernel"),
        "num_experts": m.number("expert_count") or 1,
        "num_experts_per_tok": m.number("expert_used_count"),
    }
    for name, layers in (("attn", full), ("expert", routed)):
        if layers:
            found[f"{name}_layer_offset"] = layers[0]
            found[f"{name}_layer_period"] = layers[1] - layers[0] if len(layers) > 1 else depth
    return found


def _nemotron_h(m: Metadata) -> dict[str, Any]:
    depth, groups = m.depth, m.per_layer("attention.head_count_kv")
    widths, experts = m.per_layer("feed_forward_length"), m.number("expert_count") or 0
    pattern = ""
    for i in range(depth):
        held = m.names(i)
        if any(name.startswith("attn_q") for name in held) or (groups[i : i + 1] or (0,))[0]:
            pattern += "*"
        elif any(name.startswith(("ffn_up_exps", "ffn_gate_inp")) for name in held):
            pattern += "E"
        elif any(name.startswith("ffn_up") for name in held) or (widths[i : i + 1] or (0,))[0]:
            pattern += "E" if experts and not held else "-"
        else:
            pattern += "M"
    heads = m.number("ssm.time_step_rank")
    return {
        "hybrid_override_pattern": pattern,
        "mamba_num_heads": heads,
        "mamba_head_dim": _share(m.number("ssm.inner_size"), heads),
        "ssm_state_size": m.number("ssm.state_size"),
        "n_groups": m.number("ssm.group_count"),
        "conv_kernel": m.number("ssm.conv_kernel"),
        "n_routed_experts": experts or None,
        "num_experts_per_tok": m.number("expert_used_count"),
        "moe_intermediate_size": m.number("expert_feed_forward_length"),
        "n_shared_experts": m.number("expert_shared_count"),
        "moe_shared_expert_intermediate_size": m.number("expert_shared_feed_forward_length"),
        "moe_latent_size": m.number("moe_latent_size"),
    }


def _lfm2(m: Metadata) -> dict[str, Any]:
    return {
        "conv_L_cache": m.number("shortconv.l_cache"),
        "layer_types": _kinds(m, "conv"),
        "block_auto_adjust_ff_dim": False,  # the width in the file is the rounded one
    }


def _lfm2_moe(m: Metadata) -> dict[str, Any]:
    return {
        **_lfm2(m),
        "num_experts": m.number("expert_count"),
        "num_experts_per_tok": m.number("expert_used_count"),
        "moe_intermediate_size": m.number("expert_feed_forward_length"),
        "num_dense_layers": m.number("leading_dense_block_count"),
        "use_expert_bias": m.has("exp_probs_b.bias"),
    }


def latent(m: Metadata) -> dict[str, Any]:
    """Multi-head latent attention, and the dense layers and experts that come with it."""
    rope = m.number("rope.dimension_count")
    key = m.number("attention.key_length_mla") or m.number("attention.key_length")
    return {
        "first_k_dense_replace": m.number("leading_dense_block_count"),
        "q_lora_rank": m.number("attention.q_lora_rank"),
        "kv_lora_rank": m.number("attention.kv_lora_rank"),
        "qk_rope_head_dim": rope,
        "qk_nope_head_dim": key - rope if key and rope else None,
        "v_head_dim": m.number("attention.value_length_mla") or m.number("attention.value_length"),
        "attention_bias": False,
    }


def _kimi_linear(m: Metadata) -> dict[str, Any]:
    head = m.number("kda.head_dim")
    return {
        "linear_attn_config": {
            "num_heads": m.number("attention.head_count"),
            **({"head_dim": head} if head else {}),
            "short_conv_kernel_size": m.number("ssm.conv_kernel") or 4,
            "full_attn_layers": [i + 1 for i in _full(m)],
        },
        **latent(m),
        "num_experts": m.number("expert_count"),
        "num_experts_per_token": m.number("expert_used_count"),
        "moe_intermediate_size": m.number("expert_feed_forward_length"),
        "num_shared_experts": m.number("expert_shared_count"),
        "head_dim": None,
    }


def _rwkv7(m: Metadata) -> dict[str, Any]:
    ranks = {"decay": "decay", "a": "iclr", "v": "value_residual_mix", "gate": "gate"}
    return {
        "head_dim": m.number("wkv.head_size"),
        **{f"{ours}_low_rank_dim": m.number(f"attention.{theirs}_lora_rank") for ours, theirs in ranks.items()},
    }


def _t5(m: Metadata) -> dict[str, Any]:
    gated = bool(m.shape("enc.blk.0.ffn_gate.weight"))
    return {
        "d_model": m.number("embedding_length"),
        "num_heads": m.number("attention.head_count"),
        "d_kv": m.number("attention.key_length"),
        "d_ff": m.number("feed_forward_length"),
        "num_layers": m.number("block_count"),
        "num_decoder_layers": m.number("decoder_block_count") or m.number("block_count"),
        "feed_forward_proj": "gated-gelu" if gated else "relu",
        "relative_attention_num_buckets": m.number("attention.relative_buckets_count"),
    }


#: As :data:`~steelyard.workload.ingest.gguf_model._ARCHITECTURES`.
STATES: Mapping[str, tuple[str, Callable[[Metadata], dict[str, Any]]]] = {
    "mamba": ("mamba", _mamba),
    "mamba2": ("mamba2", _mamba2),
    "jamba": ("jamba", _jamba),
    "granitehybrid": ("granitemoehybrid", _granite),
    "falcon-h1": ("falcon_h1", _falcon_h1),
    "nemotron_h": ("nemotron_h", _nemotron_h),
    "nemotron_h_moe": ("nemotron_h", _nemotron_h),
    "lfm2": ("lfm2", _lfm2),
    "lfm2moe": ("lfm2_moe", _lfm2_moe),
    "kimi-linear": ("kimi_linear", _kimi_linear),
    "rwkv7": ("rwkv7", _rwkv7),
    "t5": ("t5", _t5),
}
