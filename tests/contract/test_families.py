"""Every built-in model family against the contract shipped to plug-in authors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from steelyard.testing.families import ModelFamilyContract
from steelyard.workload.families import FAMILIES, Family
from steelyard.workload.families.decoders import DECODERS

BASE: Mapping[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "max_position_embeddings": 4096,
    "sliding_window": 64,
}
SPARSE: Mapping[str, Any] = {
    **BASE,
    "num_experts_per_tok": 2,
    "moe_topk": 2,
    "num_experts": 8,
    "num_local_experts": 8,
    "n_routed_experts": 8,
    "moe_intermediate_size": 128,
}
LATENT: Mapping[str, Any] = {
    **SPARSE,
    "q_lora_rank": 64,
    "kv_lora_rank": 64,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 32,
    "v_head_dim": 32,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
}
INDEXED: Mapping[str, Any] = {**LATENT, "index_n_heads": 4, "index_head_dim": 32, "index_topk": 64}
SHARED: Mapping[str, Any] = {**SPARSE, "shared_expert_intermediate_size": 256}
HYBRID: Mapping[str, Any] = {
    **SHARED,
    "linear_num_key_heads": 4,
    "linear_num_value_heads": 8,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
}
TWO_KINDS: Mapping[str, Any] = {**SPARSE, "intermediate_size_mlp": 512, "interleave_moe_layer_step": 2}
T5: Mapping[str, Any] = {"d_model": 256, "num_layers": 4, "num_heads": 8, "d_kv": 32, "d_ff": 512, "vocab_size": 1000}
PAIR: Mapping[str, Any] = {
    "d_model": 256,
    "vocab_size": 1000,
    **{
        f"{side}_{key}": value
        for side in ("encoder", "decoder")
        for key, value in (("layers", 4), ("attention_heads", 8), ("ffn_dim", 512))
    },
}
GPT: Mapping[str, Any] = {"n_embd": 256, "n_layer": 4, "n_head": 8, "n_positions": 4096, "vocab_size": 1000}

MORE_PAIRS = ("blenderbot", "blenderbot-small", "mvp", "plbart", "nllb-moe")
PICKED: Mapping[str, Any] = {"num_heads": 8, "num_kv_heads": 2, "block_size": 16, "block_counts": 3, "window_size": 32}
KOSMOS: Mapping[str, Any] = {"embed_dim": 256, "attention_heads": 8, "ffn_dim": 512, "layers": 4, "vocab_size": 1000}
STATE: Mapping[str, Any] = {**BASE, "state_size": 16, "num_heads": 8, "head_dim": 64, "n_groups": 2}
MAMBA: Mapping[str, Any] = {**BASE, "mamba_n_heads": 8, "mamba_d_head": 64, "mamba_d_state": 16}
NAS_BLOCK: Mapping[str, Any] = {"attention": {"n_heads_in_group": 4}, "ffn": {"ffn_mult": 1.5}}
#: What a row of the table of decoders needs.
ROWS = {name: LATENT if row.latent else SPARSE if row.moe else BASE for name, row in DECODERS.items()}

#: Configs of the families that need more than :data:`BASE`.
CONFIGS: Mapping[str, Mapping[str, Any]] = {
    **ROWS,
    "cohere2_moe": {**SPARSE, "prefix_dense_intermediate_size": 512},
    "dbrx": {
        "d_model": 256,
        "n_heads": 8,
        "n_layers": 4,
        "max_seq_len": 4096,
        "vocab_size": 1000,
        "attn_config": {"kv_n_heads": 2},
        "ffn_config": {"moe_num_experts": 8, "moe_top_k": 2, "ffn_hidden_size": 128},
    },
    "deepseek_vl_v2": LATENT,
    "openelm": {
        "model_dim": 256,
        "num_transformer_layers": 4,
        "head_dim": 32,
        "num_query_heads": [4, 4, 8, 8],
        "num_kv_heads": [1, 1, 2, 2],
        "ffn_multipliers": [0.5, 1.0, 2.0, 4],
        "vocab_size": 1000,
    },
    "hrm_text": {**BASE, "num_layers_per_stack": 2, "H_cycles": 2, "L_cycles": 3},
    "dory": {**BASE, "n_input_layers": 0, "n_recurrent_layers": 2, "n_output_layers": 0, "n_recurrent_loops": 2},
    "lara_mini": HYBRID,
    "deepseek": {**SPARSE, "n_shared_experts": 1, "first_k_dense_replace": 1},
    "mimo_v2": {**SPARSE, "head_dim": 48, "v_head_dim": 32},
    "hy_v4": INDEXED,
    "hy_v4_vl_text": INDEXED,
    "inkling_text": {**SPARSE, "sliding_window_size": 64},
    "glm5_next_text": {**INDEXED, "linear_num_heads": 8, "linear_head_dim": 32},
    "deepseek_v4": {
        **INDEXED,
        "head_dim": 64,
        "num_key_value_heads": 1,
        "o_groups": 4,
        "o_lora_rank": 32,
        "compress_ratios": [0, 4, 128, 4],
    },
    "ernie4_5_vl_moe_text": {**SPARSE, "moe_num_experts": 8, "moe_intermediate_size": [128, 64]},
    "gemma3n_text": {**BASE, "num_kv_shared_layers": 1},
    "gemma4_text": {**BASE, "num_kv_shared_layers": 1, "num_global_key_value_heads": 1, "attention_k_eq_v": True},
    "longcat_flash": {
        **{k: v for k, v in LATENT.items() if k not in ("num_hidden_layers", "intermediate_size")},
        "num_layers": 4,
        "ffn_hidden_size": 512,
        "zero_expert_num": 4,
    },
    "mimo_v2_flash": {**SPARSE, "head_dim": 48, "v_head_dim": 32},
    "minimax_m3_vl_text": {**SPARSE, "dense_intermediate_size": 512},
    "mistral_large4_text": {**LATENT, "index_n_heads": 4, "index_head_dim": 32, "index_topk": 64},
    "muse_spark_text": {**SPARSE, "moe_hidden_size": 128},
    "nemotron-nas": {**BASE, "block_configs": [NAS_BLOCK] * 4},
    "step3_text": {**SPARSE, "share_q_dim": 64, "head_dim": 32},
    **dict.fromkeys(("llama4", "llama4_text"), TWO_KINDS),
    **dict.fromkeys(("mixtral", "granitemoe", "granitemoeshared", "minimax_m2", "phimoe", "olmoe", "gpt_oss"), SPARSE),
    **dict.fromkeys(("qwen3_moe", "qwen3_vl_moe_text", "hunyuan_v1_moe", "glm4_moe", "glm4v_moe_text"), SPARSE),
    **dict.fromkeys(("qwen3_next", "qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text"), HYBRID),
    **dict.fromkeys(("t5", "mt5", "umt5"), T5),
    **dict.fromkeys(("bart", "mbart", "pegasus", "marian", "m2m_100", "whisper", *MORE_PAIRS), PAIR),
    "qwen2_moe": SHARED,
    **dict.fromkeys(("mamba", "falcon_mamba", "mamba2"), STATE),
    **dict.fromkeys(("bamba", "falcon_h1"), MAMBA),
    "granitemoehybrid": {**MAMBA, **SPARSE},
    "jamba": SPARSE,
    "nemotron_h": {**SPARSE, "layers_block_type": ["mamba", "moe", "attention", "mlp"]},
    **{key: {**SPARSE, "num_dense_layers": 1} for key in ("lfm2", "lfm2_moe")},
    **dict.fromkeys(("minimax", "minimax_text_01", "minimax_m1"), SPARSE),
    **{key: {**LATENT, "q_lora_rank": None} for key in ("kimi_linear", "bailing_hybrid")},
    "olmo_hybrid": HYBRID,
    "xlstm": {**BASE, "num_heads": 4},
    **{key: {**BASE, **PICKED, "moba_chunk_size": 16, "moba_topk": 3} for key in ("nsa", "moba")},
    "stripedhyena": {**BASE, "num_layers": 4, "attn_layer_idxs": [1], "inner_mlp_size": 512, "proj_groups": 2},
    **dict.fromkeys(("deepseek_v2", "deepseek_v3", "kimi_k2"), LATENT),
    **dict.fromkeys(("deepseek_v32", "glm_moe_dsa"), INDEXED),
    "chatglm": {
        "hidden_size": 256,
        "ffn_hidden_size": 512,
        "num_layers": 4,
        "num_attention_heads": 8,
        "kv_channels": 32,
        "multi_query_attention": True,
        "multi_query_group_num": 2,
        "padded_vocab_size": 1000,
        "add_qkv_bias": True,
    },
    "gpt_neo": {
        "hidden_size": 256,
        "num_layers": 4,
        "num_heads": 8,
        "vocab_size": 1000,
        "max_position_embeddings": 4096,
    },
    **dict.fromkeys(("gpt2", "gptj", "gpt_bigcode", "codegen"), GPT),
    "opt": {**BASE, "ffn_dim": 512, "word_embed_proj_dim": 128},
    "bloom": {"hidden_size": 256, "n_layer": 4, "n_head": 8, "vocab_size": 1000},
    "mpt": {"d_model": 256, "n_layers": 4, "n_heads": 8, "vocab_size": 1000, "attn_config": {"alibi": True}},
    "distilbert": {"dim": 256, "hidden_dim": 512, "n_layers": 4, "n_heads": 8, "vocab_size": 1000},
    "zamba2": {**BASE, "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"]},
    "axk2": INDEXED,
    "jetmoe": {**SPARSE, "kv_channels": 32},
    **dict.fromkeys(("zaya", "inkling2_text"), SPARSE),
    "inkling2_loop_text": {**SPARSE, "loop_config": {"core_start": 0, "core_end": 0}},
    "mllama_text_model": {**BASE, "cross_attention_layers": []},
    "qwen4_exp_text": HYBRID,
    "moonshine": {**BASE, "encoder_num_hidden_layers": 4, "decoder_num_hidden_layers": 4},
    "moonshine_streaming": {**BASE, "encoder_config": {**BASE, "num_key_value_heads": 8}},
    "kyutai_speech_to_text": {**BASE, "ffn_dim": 1024, "num_codebooks": 4},
    "kosmos_2_text_model": KOSMOS,
    "kosmos_2_5_text_model": KOSMOS,
    "pop2piano": T5,
    "switch_transformers": {**T5, "num_experts": 4, "encoder_sparse_step": 2, "decoder_sparse_step": 2},
    "nllb-moe": {**PAIR, "num_experts": 4, "encoder_sparse_step": 2, "decoder_sparse_step": 2},
}
#: Families that read several parts, each with a depth of its own: ``tests/transformers_types`` has them.
OF_PARTS = (
    "canary",
    "csm",
    "dia",
    "gemma4_assistant",
    "gemma4_unified_assistant",
    "moshi",
    "musicgen",
    "musicgen_melody",
    "pp_formulanet",
    "t5gemma",
    "t5gemma2",
)
DEPTH: Mapping[str, str] = {
    **dict.fromkeys(("t5", "mt5", "umt5"), "num_layers"),
    **dict.fromkeys(("bart", "mbart", "pegasus", "marian", "m2m_100", "whisper", *MORE_PAIRS), "decoder_layers"),
    **dict.fromkeys(("gpt2", "gptj", "gpt_bigcode", "codegen", "bloom"), "n_layer"),
    **dict.fromkeys(("mpt", "distilbert"), "n_layers"),
    **dict.fromkeys(("chatglm", "gpt_neo", "longcat_flash"), "num_layers"),
    "dbrx": "n_layers",
    "openelm": "num_transformer_layers",
    "switch_transformers": "num_layers",
    "pop2piano": "num_layers",
    "moonshine": "decoder_num_hidden_layers",
    **dict.fromkeys(("kosmos_2_text_model", "kosmos_2_5_text_model"), "layers"),
    "hrm_text": "num_layers_per_stack",
    "stripedhyena": "num_layers",
    "dory": "n_recurrent_layers",
}
REQUIRED: Mapping[str, tuple[str, ...]] = {
    "jetmoe": ("hidden_size", "num_hidden_layers", "num_key_value_heads", "vocab_size"),
    "moonshine": ("hidden_size", "vocab_size"),
    "cohere_asr": ("num_hidden_layers", "vocab_size"),
    **dict.fromkeys(("kosmos_2_text_model", "kosmos_2_5_text_model"), ("embed_dim", "layers", "vocab_size")),
    **dict.fromkeys(
        ("t5", "mt5", "umt5", "pop2piano", "switch_transformers"),
        ("d_model", "num_layers", "num_heads", "d_ff", "vocab_size"),
    ),
    **dict.fromkeys(
        ("bart", "mbart", "pegasus", "marian", "m2m_100", "whisper", *MORE_PAIRS),
        ("d_model", "vocab_size", "decoder_layers", "decoder_ffn_dim", "decoder_attention_heads", "encoder_ffn_dim"),
    ),
    **dict.fromkeys(
        ("mamba", "falcon_mamba", "mamba2", "rwkv", "rwkv5", "rwkv6", "rwkv7"),
        ("hidden_size", "num_hidden_layers", "vocab_size"),
    ),
    "xlstm": ("hidden_size", "num_hidden_layers", "num_heads", "vocab_size"),
    "nemotron_h": ("hidden_size", "num_attention_heads", "vocab_size"),
    **dict.fromkeys(("nsa", "moba"), ("hidden_size", "num_hidden_layers", "vocab_size")),
    "stripedhyena": ("hidden_size", "num_attention_heads", "vocab_size"),
    **dict.fromkeys(("gpt2", "gptj", "gpt_bigcode", "codegen"), ("n_embd", "n_layer", "n_head", "vocab_size")),
    "mpt": ("d_model", "n_layers", "n_heads", "vocab_size"),
    "distilbert": ("dim", "hidden_dim", "n_layers", "n_heads", "vocab_size"),
    "openelm": ("model_dim", "num_transformer_layers", "head_dim", "vocab_size"),
    "dbrx": ("d_model", "n_layers", "n_heads", "vocab_size"),
    "longcat_flash": ("hidden_size", "ffn_hidden_size", "num_layers", "num_attention_heads", "vocab_size"),
    "chatglm": ("hidden_size", "ffn_hidden_size", "num_layers", "num_attention_heads", "padded_vocab_size"),
    "gpt_neo": ("hidden_size", "num_layers", "num_heads", "vocab_size", "max_position_embeddings"),
    "bloom": ("hidden_size", "n_layer", "n_head", "vocab_size"),
}


class TestBuiltInFamilies(ModelFamilyContract):
    """One run of the contract per ``model_type``."""

    @pytest.fixture(params=[name for name in FAMILIES.names() if name not in OF_PARTS])
    def model_type(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    @pytest.fixture
    def family(self, model_type: str) -> Family:
        return FAMILIES.get(model_type)

    @pytest.fixture
    def config(self, model_type: str) -> Mapping[str, Any]:
        return {"model_type": model_type, **CONFIGS.get(model_type, BASE)}

    @pytest.fixture
    def depth_key(self, model_type: str) -> str:
        return DEPTH.get(model_type, "num_hidden_layers")

    @pytest.fixture
    def required(self, model_type: str, depth_key: str) -> tuple[str, ...]:
        return REQUIRED.get(model_type, ("hidden_size", depth_key, "num_attention_heads", "vocab_size"))
