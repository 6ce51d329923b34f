"""FLOPs and parameters of families with blocks of their own against PyTorch: small models of transformers.

As :mod:`test_torch_flops`, for state spaces, hybrids, indexers, compressed caches, streams, shared blocks, routed heads
and convolutions on keys. Where the reference computes the same in another form, :func:`_otherwise` says by how much.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import pytest
from tests.reference.test_torch_flops import BATCH, DELTA, EXPERTS, SMALL, _build, _flops, _ours, _parameters

from steelyard.workload import Step
from steelyard.workload.blocks.delta_net import DeltaNet
from steelyard.workload.families import read_config
from steelyard.workload.transformer import Transformer, transformer_of

pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(
        find_spec("torch") is None or find_spec("transformers") is None,
        reason="needs the torch extra, and transformers as the oracle",
    ),
]

#: A multiple of every chunk, so that no reference pads.
TOKENS = 128
LATENT: Mapping[str, Any] = {
    "num_key_value_heads": 8,
    "q_lora_rank": 64,
    "kv_lora_rank": 64,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 32,
    "v_head_dim": 32,
}
INDEX: Mapping[str, Any] = {"index_n_heads": 4, "index_head_dim": 32, "index_topk": 1024}
ROUTED: Mapping[str, Any] = {
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "moe_intermediate_size": 128,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
MAMBA: Mapping[str, Any] = {"mamba_n_heads": 8, "mamba_d_head": 64, "mamba_d_state": 32, "mamba_chunk_size": 32}

DECODERS: Mapping[str, Mapping[str, Any]] = {
    # state spaces and recurrences
    "mamba": {**SMALL, "state_size": 8},
    "mamba2": {**SMALL, "num_heads": 8, "head_dim": 64, "state_size": 32, "n_groups": 8, "chunk_size": 32},
    "falcon_h1": {**SMALL, **MAMBA, "mamba_d_ssm": 512},
    "granitemoehybrid": {
        **EXPERTS,
        **MAMBA,
        "num_local_experts": 8,
        "shared_intermediate_size": 128,
        "num_hidden_layers": 4,
        "layer_types": ["mamba", "attention"] * 2,
    },
    "nemotron_h": {
        **EXPERTS,
        **ROUTED,
        "head_dim": 32,
        "layers_block_type": ["mamba", "moe", "attention", "mlp"],
        "moe_shared_expert_intermediate_size": 128,
        "mamba_num_heads": 8,
        "mamba_head_dim": 64,
        "ssm_state_size": 32,
        "n_groups": 2,
        "chunk_size": 32,
    },
    "jamba": {**EXPERTS, "num_hidden_layers": 8, "num_experts": 4, "mamba_d_state": 16},
    "lfm2": {**SMALL, "num_hidden_layers": 4, "full_attn_idxs": [1, 3], "block_auto_adjust_ff_dim": False},
    "recurrent_gemma": {**SMALL, "num_hidden_layers": 6, "num_key_value_heads": 1},
    "rwkv": {k: v for k, v in SMALL.items() if "heads" not in k},
    "minimax": {**EXPERTS, "num_local_experts": 8, "num_hidden_layers": 4, "head_dim": 32},
    "xlstm": {**SMALL, "num_heads": 4},
    # shared blocks
    "zamba": {
        **SMALL,
        "num_hidden_layers": 6,
        "num_key_value_heads": 8,
        "attn_layer_period": 3,
        "attn_layer_offset": 1,
    },
    "zamba2": {
        **SMALL,
        "num_hidden_layers": 6,
        "layers_block_type": ["mamba", "hybrid"] * 3,
        "num_mem_blocks": 2,
        "use_shared_attention_adapter": True,
        "adapter_rank": 16,
        "num_key_value_heads": 8,
        "chunk_size": 32,
        "mamba_ngroups": 8,
    },
    # delta rules
    "qwen3_next": DELTA,
    "kimi_linear": {
        **SMALL,
        **LATENT,
        "q_lora_rank": None,
        "num_hidden_layers": 4,
        "num_experts": 8,
        "num_experts_per_token": 2,
        "moe_intermediate_size": 128,
        "num_shared_experts": 1,
        "first_k_dense_replace": 1,
    },
    "olmo_hybrid": {**SMALL, "num_hidden_layers": 4, "linear_key_head_dim": 24, "linear_value_head_dim": 48},
    "qwen4_exp_text": {
        **DELTA,
        "head_dim": 64,
        "indexer_n_heads": 4,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 64,
        "indexer_budget": 1024,
        "indexer_compress_ratio": 16,
        "hc_lowrank": 16,
        "eos_token_id": 1,
    },
    # indexers, routed heads, products beside the blocks, embeddings of layers and streams
    "deepseek_v32": {**SMALL, **LATENT, **INDEX, **ROUTED},
    "axk2": {**SMALL, **LATENT, **INDEX, **ROUTED, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
    "jetmoe": {
        **{k: v for k, v in SMALL.items() if k != "num_attention_heads"},
        "kv_channels": 32,
        "num_key_value_heads": 4,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
    },
    "zaya": {**SMALL, "head_dim": 32, "num_experts": 8, "moe_intermediate_size": 128, "router_hidden_size": 32},
    "inkling2_text": {
        **SMALL,
        "head_dim": 32,
        "swa_num_attention_heads": 8,
        "swa_num_key_value_heads": 4,
        "swa_head_dim": 32,
        "num_hidden_layers": 6,
        "sliding_window_size": 32,
        "rel_extent": 64,
        "n_routed_experts": 8,
        "moe_intermediate_size": 128,
        "num_experts_per_tok": 2,
        "unpadded_vocab_size": 900,
    },
    "gemma3n_text": {
        **SMALL,
        "head_dim": 64,
        "sliding_window": 32,
        "num_hidden_layers": 10,
        "num_kv_shared_layers": 4,
        "vocab_size_per_layer_input": 1000,
        "hidden_size_per_layer_input": 32,
        "laurel_rank": 16,
    },
    "deepseek_v4": {
        **SMALL,
        **INDEX,
        **ROUTED,
        "head_dim": 64,
        "num_key_value_heads": 1,
        "q_lora_rank": 64,
        "o_groups": 4,
        "o_lora_rank": 32,
        "qk_rope_head_dim": 16,
        "num_hidden_layers": 4,
        "sliding_window": 32,
    },
}


def _otherwise(model: Transformer) -> float:
    """FLOPs the counter sees in the reference and not in ours, less those it does not see there.

    Delta rules solve a triangular system of a chunk, unseen, where ours multiply by its inverse. Keys of compressed
    entries come on top of the context, which dense counts of ours leave out. Streams are mixed by a matrix of each
    token, which is elementwise work here.
    """
    total = 0.0
    for layer in model.layers:
        if isinstance(layer.mixer, DeltaNet):
            mixer = layer.mixer
            solved = mixer.chunk * (mixer.key_dim + mixer.value_dim) * mixer.value_heads
            total -= 2 * BATCH * TOKENS * layer.count * solved
        a = layer.attention
        if a is not None and a.compress:
            total += 4 * BATCH * TOKENS * (TOKENS // a.compress) * a.heads * a.head_dim * layer.count
        if model.streams:
            total += 2 * BATCH * TOKENS * 2 * model.streams.count**2 * model.hidden * layer.count
    return total


@pytest.mark.parametrize("model_type", DECODERS)
def test_decoder(model_type: str) -> None:
    import torch

    torch.manual_seed(0)
    model = _build(model_type, DECODERS[model_type], "cpu", masked=False)
    config = json.loads(json.dumps({**model.config.to_dict(), "model_type": model_type}, default=str))
    ours = transformer_of(read_config(config), "this test")
    graph = ours.graph(Step.prefill(BATCH, TOKENS, logits=BATCH * TOKENS), absorb=False)
    counted = _flops(model, use_cache=False, input_ids=torch.ones((BATCH, TOKENS), dtype=torch.long))
    assert ours.parameters() == pytest.approx(_parameters(model), rel=1e-3)
    assert _ours(graph) == pytest.approx(counted - _otherwise(ours), rel=0.01)


T5: Mapping[str, Any] = {
    "d_model": 256,
    "d_kv": 32,
    "d_ff": 512,
    "num_layers": 3,
    "num_heads": 8,
    "vocab_size": 1000,
    "pad_token_id": 0,
    "decoder_start_token_id": 0,
}
PAIR: Mapping[str, Any] = {
    "d_model": 256,
    "vocab_size": 1000,
    "pad_token_id": 0,
    **{
        f"{side}_{key}": value
        for side in ("encoder", "decoder")
        for key, value in (("layers", 3), ("attention_heads", 8), ("ffn_dim", 512))
    },
}
GEMMA: Mapping[str, Any] = {**SMALL, "head_dim": 32, "sliding_window": 256, "num_hidden_layers": 6}
TEXT: Mapping[str, Mapping[str, Any]] = {
    "t5": T5,
    "bart": PAIR,
    "mbart": PAIR,
    "blenderbot": {**PAIR, "max_position_embeddings": 256},
    "switch_transformers": {
        **T5,
        "num_experts": 4,
        "num_sparse_encoder_layers": 1,
        "num_sparse_decoder_layers": 1,
        "expert_capacity": 10**6,
    },
    "nllb-moe": {**PAIR, "num_experts": 4, "encoder_sparse_step": 3, "decoder_sparse_step": 3},
    "t5gemma": {"encoder": {**GEMMA, "intermediate_size": 384}, "decoder": GEMMA},
}


@pytest.mark.parametrize("model_type", TEXT)
def test_encoder_decoder(model_type: str) -> None:
    """The encoder reads the source and the decoder begins with one token."""
    import torch
    import transformers

    config = transformers.AutoConfig.for_model(model_type, **TEXT[model_type])
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model = transformers.AutoModelForSeq2SeqLM.from_config(config, attn_implementation="eager").eval()
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")
    stated = json.loads(json.dumps({**model.config.to_dict(), "model_type": model_type}, default=str))
    ours = transformer_of(read_config(stated), "this test")
    source, first = (torch.ones((BATCH, n), dtype=torch.long) for n in (TOKENS, 1))
    counted = _flops(model, use_cache=False, input_ids=source, decoder_input_ids=first)
    assert ours.parameters() == pytest.approx(_parameters(model), rel=1e-3)
    # the reference NLLB runs every expert on every token and masks the result
    dense = model_type == "nllb-moe"
    assert _ours(ours.graph(Step.prefill(BATCH, TOKENS)), dense) == pytest.approx(counted, rel=0.01)


CONFORMER: Mapping[str, Any] = {
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "num_mel_bins": 80,
    "subsampling_conv_channels": 32,
}
SPEECH: Mapping[str, Mapping[str, Any]] = {
    "whisper": {**PAIR, "num_mel_bins": 80},
    "moonshine": {**SMALL, "num_key_value_heads": None, "encoder_num_hidden_layers": 2, "decoder_num_hidden_layers": 2},
    "cohere_asr": {**SMALL, "num_key_value_heads": None, "encoder_config": CONFORMER},
}


@pytest.mark.parametrize("model_type", SPEECH)
def test_transcriber(model_type: str) -> None:
    """Half a minute of sound, and the first token of what was said."""
    import torch
    import transformers

    fields = {k: v for k, v in SPEECH[model_type].items() if v is not None}
    config = transformers.AutoConfig.for_model(model_type, **fields)
    model = transformers.AutoModelForSpeechSeq2Seq.from_config(config, attn_implementation="eager").eval()
    stated = json.loads(json.dumps({**model.config.to_dict(), "model_type": model_type}, default=str))
    ours = transformer_of(read_config(stated), "this test")
    sound = {
        "whisper": {"input_features": torch.zeros((BATCH, 80, 3000))},
        "moonshine": {"input_values": torch.zeros((BATCH, 480_000))},
        "cohere_asr": {"input_features": torch.zeros((BATCH, 3000, 80))},
    }[model_type]
    first = torch.ones((BATCH, 1), dtype=torch.long)
    counted = _flops(model, use_cache=False, **sound, decoder_input_ids=first)
    assert ours.parameters() == pytest.approx(_parameters(model), rel=2e-3)
    assert _ours(ours.graph(Step.prefill(BATCH, 1))) == pytest.approx(counted, rel=0.01)
