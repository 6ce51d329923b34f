"""FLOPs and parameters of our graphs against PyTorch: small reference models of transformers under FlopCounterMode.

Decoders run on the meta device; routed models run on the processor, because routing needs values. The counter sees
products of matrices, masked scores in full, so our graph is asked for its dense products (experts stay routed).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import pytest

from steelyard.workload import Step
from steelyard.workload.families import read_config
from steelyard.workload.graph import Graph

pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(
        find_spec("torch") is None or find_spec("transformers") is None,
        reason="needs the torch extra, and transformers as the oracle",
    ),
]

BATCH, TOKENS = 2, 96
SMALL: Mapping[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
}
EXPERTS: Mapping[str, Any] = {**SMALL, "num_experts_per_tok": 2}
GPT: Mapping[str, Any] = {"n_embd": 256, "n_layer": 3, "n_head": 8, "n_positions": 256, "vocab_size": 1000}
DELTA: Mapping[str, Any] = {
    **EXPERTS,
    "num_hidden_layers": 4,
    "head_dim": 32,
    "num_experts": 8,
    "moe_intermediate_size": 128,
    "shared_expert_intermediate_size": 128,
    "linear_num_key_heads": 4,
    "linear_num_value_heads": 8,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
}

DENSE: Mapping[str, Mapping[str, Any]] = {
    "llama": SMALL,
    "mistral": {**SMALL, "head_dim": 64, "sliding_window": 32},
    "ministral": {**SMALL, "head_dim": 32, "sliding_window": 32},
    "qwen2": SMALL,
    "qwen3": {**SMALL, "head_dim": 64},
    "gemma": {**SMALL, "head_dim": 64},
    "gemma2": {**SMALL, "head_dim": 64, "sliding_window": 32},
    "gemma3_text": {**SMALL, "head_dim": 64, "sliding_window": 32, "num_hidden_layers": 7},
    "phi": {**SMALL, "num_key_value_heads": 8},
    "phi3": SMALL,
    "smollm3": {**SMALL, "num_hidden_layers": 4},
    "granite": SMALL,
    "cohere": SMALL,
    "cohere2": {**SMALL, "num_hidden_layers": 4, "sliding_window": 32},
    "olmo": SMALL,
    "olmo2": SMALL,
    "olmo3": {**SMALL, "num_hidden_layers": 4, "sliding_window": 32},
    "starcoder2": {**SMALL, "sliding_window": None},
    "stablelm": SMALL,
    "nemotron": {**SMALL, "head_dim": 32},
    "glm": {**SMALL, "head_dim": 32},
    "glm4": {**SMALL, "head_dim": 32},
    "seed_oss": {**SMALL, "head_dim": 32},
    "exaone4": {**SMALL, "num_hidden_layers": 4, "sliding_window": 32, "sliding_window_pattern": 4},
    "ernie4_5": {**SMALL, "head_dim": 32},
    "falcon": {
        **{k: v for k, v in SMALL.items() if k not in ("num_key_value_heads", "intermediate_size")},
        "multi_query": True,
        "parallel_attn": True,
        "bias": False,
    },
    "gpt2": GPT,
    "gptj": {**GPT, "rotary_dim": 16},
    "gpt_bigcode": {**GPT, "multi_query": True},
    "gpt_neo": {
        "hidden_size": 256,
        "num_layers": 4,
        "num_heads": 8,
        "vocab_size": 1000,
        "max_position_embeddings": 256,
        "attention_types": [[["global", "local"], 2]],
    },
    "gpt_neox": {k: v for k, v in SMALL.items() if k != "num_key_value_heads"},
    "opt": {
        "hidden_size": 256,
        "ffn_dim": 512,
        "num_hidden_layers": 3,
        "num_attention_heads": 8,
        "vocab_size": 1000,
        "max_position_embeddings": 256,
        "word_embed_proj_dim": 128,
        "pad_token_id": 0,
    },
    "bloom": {"hidden_size": 256, "n_layer": 3, "n_head": 8, "vocab_size": 1000},
    "mpt": {"d_model": 256, "n_layers": 3, "n_heads": 8, "vocab_size": 1000, "max_seq_len": 256},
    "deepseek_v3": {
        **SMALL,
        "num_key_value_heads": 8,
        "q_lora_rank": 64,
        "kv_lora_rank": 64,
        "qk_rope_head_dim": 16,
        "qk_nope_head_dim": 32,
        "v_head_dim": 32,
        "first_k_dense_replace": 3,
        "n_routed_experts": 8,
        "moe_intermediate_size": 128,
    },
}
SPARSE: Mapping[str, Mapping[str, Any]] = {
    "mixtral": {**EXPERTS, "num_local_experts": 8},
    "qwen2_moe": {
        **EXPERTS,
        "num_experts": 8,
        "moe_intermediate_size": 128,
        "shared_expert_intermediate_size": 256,
        "decoder_sparse_step": 2,
    },
    "qwen3_moe": {**EXPERTS, "head_dim": 64, "num_experts": 8, "moe_intermediate_size": 128},
    "olmoe": {**EXPERTS, "num_experts": 8},
    "phimoe": {**EXPERTS, "num_local_experts": 8, "attention_bias": True, "lm_head_bias": True},
    "granitemoe": {**EXPERTS, "num_local_experts": 8},
    "gpt_oss": {**EXPERTS, "head_dim": 32, "num_local_experts": 8, "sliding_window": 32},
    "glm4_moe": {
        **EXPERTS,
        "head_dim": 32,
        "n_routed_experts": 8,
        "n_shared_experts": 1,
        "moe_intermediate_size": 128,
        "first_k_dense_replace": 1,
        "use_qk_norm": True,
        "n_group": 1,
        "topk_group": 1,
    },
    "minimax_m2": {**EXPERTS, "head_dim": 32, "num_local_experts": 8},
    "deepseek_v2": {
        **EXPERTS,
        "num_key_value_heads": 8,
        "q_lora_rank": None,
        "kv_lora_rank": 64,
        "qk_rope_head_dim": 16,
        "qk_nope_head_dim": 32,
        "v_head_dim": 32,
        "first_k_dense_replace": 1,
        "n_routed_experts": 8,
        "n_shared_experts": 2,
        "moe_intermediate_size": 128,
    },
    "deepseek_v3": {
        **EXPERTS,
        "num_key_value_heads": 8,
        "q_lora_rank": 64,
        "kv_lora_rank": 64,
        "qk_rope_head_dim": 16,
        "qk_nope_head_dim": 32,
        "v_head_dim": 32,
        "first_k_dense_replace": 1,
        "n_routed_experts": 8,
        "n_shared_experts": 1,
        "moe_intermediate_size": 128,
        "n_group": 1,
        "topk_group": 1,
    },
    "llama4_text": {
        **SMALL,
        "num_hidden_layers": 4,
        "head_dim": 32,
        "num_local_experts": 4,
        "num_experts_per_tok": 1,
        "interleave_moe_layer_step": 2,
        "intermediate_size_mlp": 384,
        "attention_chunk_size": 128,
    },
    "hunyuan_v1_dense": {**SMALL, "head_dim": 32},
}
#: Families whose products the counter sees in another form: parameters only.
COUNTED_ONLY: Mapping[str, Mapping[str, Any]] = {
    "codegen": {**GPT, "rotary_dim": 16},
    "granitemoeshared": {**EXPERTS, "num_local_experts": 8, "shared_intermediate_size": 256},
    "hunyuan_v1_moe": {**EXPERTS, "head_dim": 32, "num_experts": 8, "moe_topk": 2, "num_shared_expert": 1},
    "qwen3_next": DELTA,
}
ENCODERS: Mapping[str, Mapping[str, Any]] = {
    "bert": {k: v for k, v in SMALL.items() if k != "num_key_value_heads"},
    "roberta": {k: v for k, v in SMALL.items() if k != "num_key_value_heads"} | {"pad_token_id": 1},
    "xlm-roberta": {k: v for k, v in SMALL.items() if k != "num_key_value_heads"} | {"pad_token_id": 1},
    "distilbert": {
        "dim": 256,
        "hidden_dim": 512,
        "n_layers": 3,
        "n_heads": 8,
        "vocab_size": 1000,
        "max_position_embeddings": 256,
    },
    "modernbert": {k: v for k, v in SMALL.items() if k != "num_key_value_heads"} | {"local_attention": 32},
}


def _build(model_type: str, fields: Mapping[str, Any], device: str, masked: bool) -> Any:
    import torch
    import transformers

    config = transformers.AutoConfig.for_model(model_type, **fields)
    config._attn_implementation = "eager"
    kind = transformers.AutoModelForMaskedLM if masked else transformers.AutoModelForCausalLM
    with torch.device(device):
        model = kind.from_config(config, attn_implementation="eager").eval()
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")  # grouped products are not seen by the counter
    return model


def _flops(model: Any, **inputs: Any) -> float:
    """What the counter sees of one pass."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(**inputs)
    return float(counter.get_total_flops())


def _counted(model: Any, device: str, masked: bool) -> float:
    import torch

    ids = torch.ones((BATCH, TOKENS), dtype=torch.long, device=device)
    more: dict[str, Any] = {}
    if not masked:
        more["use_cache"] = False
    accepted = inspect.signature(model.forward).parameters
    if device == "meta" and "position_ids" in accepted:  # making masks and positions needs values
        more["position_ids"] = torch.zeros((BATCH, TOKENS), dtype=torch.long, device=device)
        more["attention_mask"] = torch.zeros((BATCH, 1, TOKENS, TOKENS), device=device)
    return _flops(model, input_ids=ids, **more)


def _ours(graph: Graph, dense: bool = False) -> float:
    """Dense products, as the counter sees masked scores; experts as they are routed unless ``dense``."""
    return sum(2 * float(op.macs(dense=dense or op.block != "moe")) * float(op.count) for op in graph)


def _parameters(model: Any) -> int:
    """Parameters without repeats (tied heads share one tensor), plus the router's correction biases (buffers there)."""
    unique = {id(p): p.numel() for p in model.parameters()}
    corrections = sum(b.numel() for n, b in model.named_buffers() if "e_score_correction_bias" in n)
    return sum(unique.values()) + corrections


def _compare(
    model_type: str, fields: Mapping[str, Any], device: str, masked: bool = False, dense: bool = False
) -> None:
    model = _build(model_type, fields, device, masked)
    config = {**model.config.to_dict(), "model_type": model_type}
    if masked:
        config["architectures"] = [type(model).__name__]
    ours = read_config(config)
    graph = ours.graph(Step.prefill(BATCH, TOKENS, logits=BATCH * TOKENS), absorb=False)
    assert ours.parameters() == _parameters(model)
    assert _ours(graph, dense) == pytest.approx(_counted(model, device, masked), rel=0.01)


@pytest.mark.parametrize("model_type", DENSE)
def test_decoder(model_type: str) -> None:
    _compare(model_type, DENSE[model_type], "meta")


@pytest.mark.parametrize("model_type", SPARSE)
def test_routed_decoder(model_type: str) -> None:
    # the reference Llama 4 runs every expert on every token and masks the result
    _compare(model_type, SPARSE[model_type], "cpu", dense=model_type == "llama4_text")


@pytest.mark.parametrize("model_type", COUNTED_ONLY)
def test_parameters(model_type: str) -> None:
    model = _build(model_type, COUNTED_ONLY[model_type], "meta", masked=False)
    assert read_config({**model.config.to_dict(), "model_type": model_type}).parameters() == _parameters(model)


@pytest.mark.parametrize("model_type", ENCODERS)
def test_encoder(model_type: str) -> None:
    _compare(model_type, ENCODERS[model_type], "meta", masked=True)
