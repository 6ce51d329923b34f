"""Model families: caches counted by hand, multimodal configs, native formats, and errors that list everything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from steelyard.errors import InputError, UnknownName
from steelyard.workload import Step
from steelyard.workload.catalogue import load_model
from steelyard.workload.families import read_config

SMALL: Mapping[str, Any] = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
}
BF16_BYTES = 2


def test_llama_cache_by_hand() -> None:
    """2 (keys and values) x 32 layers x 8 heads x 128 wide x 2 bytes."""
    model = load_model("llama-3.1-8b").transformer
    assert model.kv_elements_per_token * BF16_BYTES == 131_072
    assert float(model.kv_elements(1000)) * BF16_BYTES == 131_072_000


def test_deepseek_latent_cache_by_hand() -> None:
    """61 layers x (512 latent + 64 rotary) x 2 bytes."""
    assert load_model("deepseek-v3").transformer.kv_elements_per_token * BF16_BYTES == 70_272


@pytest.mark.parametrize("context", [100, 1024, 1025, 32_768, 131_072])
def test_gemma3_windows_by_hand(context: int) -> None:
    """Gemma 3 27B: 62 layers, every sixth full (10), 52 with a window of 1024; 16 heads of 128, keys and values."""
    model = load_model("gemma-3-27b").transformer
    per_token = 2 * 16 * 128
    assert float(model.kv_elements(context)) == per_token * (10 * context + 52 * min(context, 1024))


@pytest.mark.parametrize("context", [64, 128, 129, 131_072])
def test_gpt_oss_windows_by_hand(context: int) -> None:
    """gpt-oss 120b: 36 layers, every other with a window of 128; 8 heads of 64, keys and values."""
    model = load_model("gpt-oss-120b").transformer
    assert float(model.kv_elements(context)) == 2 * 8 * 64 * 18 * (context + min(context, 128))


def test_llama4_chunks_by_hand() -> None:
    """Scout: 48 layers, every fourth full (12), 36 keep at most their chunk of 8192; 8 heads of 128."""
    model = load_model("llama-4-scout").transformer
    assert float(model.kv_elements(20_000)) == 2 * 8 * 128 * (12 * 20_000 + 36 * 8192)


def test_indexer_keys_are_cached() -> None:
    """DeepSeek-V3.2 adds one key of 128 per token and layer."""
    assert load_model("deepseek-v3.2").transformer.kv_elements_per_token == 61 * (512 + 64 + 128)


def test_linear_attention_keeps_a_state_and_no_cache() -> None:
    """Qwen3-Next: 12 of 48 layers are full; the others hold 32 x 128 x 128 and 3 taps of 8192 channels."""
    model = load_model("qwen3-next").transformer
    assert model.kv_elements_per_token == 12 * 2 * 2 * 256
    assert model.state_bytes == 2 * 36 * (32 * 128 * 128 + 3 * (2 * 16 * 128 + 32 * 128))


def test_delta_net_work_by_hand() -> None:
    """One token: projections, 4 taps, three products with each head's state, and the token with itself."""
    model = load_model("qwen3-next").transformer
    graph = model.graph(Step.decode(1, 1000)).where(
        lambda op: op.name.startswith("layer0.") and op.block == "attention"
    )
    projections = 2048 * (2 * 2048 + 2 * 4096) + 2048 * 64 + 4096 * 2048
    state = 32 * (3 * 128 * 128 + 5 * 128)
    assert float(graph.macs()) == 36 * (projections + 4 * 8192 + state)


def test_delta_net_splits_over_heads() -> None:
    """Tensor parallelism divides its weights and its state."""
    from steelyard.deployment.plan import Plan
    from steelyard.deployment.sharding import shard

    model = load_model("qwen3-next").transformer
    graph = model.graph(Step.decode(1, 1000)).where(lambda op: op.name.startswith("layer0."))
    for op in graph:
        if op.name.endswith((".qkvz", ".ba", ".conv", ".delta_read", ".out")):
            assert float(shard(op, Plan(tp=4)).macs()) == float(op.macs()) / 4, op.name


def test_sparse_attention_bounds_the_work_of_a_long_context() -> None:
    """With an indexer only index scores grow with the context, not scores and values."""
    sparse, full = load_model("deepseek-v3.2").transformer, load_model("deepseek-v3").transformer

    def scores(model: Any, context: int) -> float:
        graph = model.graph(Step.decode(1, context)).where(lambda op: op.name.endswith((".scores", ".values")))
        return float(graph.macs())

    assert scores(sparse, 2048) == scores(full, 2048)
    assert scores(sparse, 65_536) == scores(full, 2048)


def test_two_sided_window_pairs_are_exact() -> None:
    """A token sees up to w on each side: compare with a count over the mask."""
    from steelyard.workload.blocks.core import query_key_pairs

    for length in (1, 5, 64, 200):
        position = np.arange(length)
        mask = np.abs(position[:, None] - position[None, :]) <= 16
        assert float(query_key_pairs(length, length, causal=False, window=16)) == mask.sum()


def test_multimodal_counts_the_language_path() -> None:
    """The language model apart from its tower; class defaults fill what nested configs leave out."""
    outer = {
        "model_type": "llava",
        "text_config": {"model_type": "llama", "vocab_size": 32_064},
        "vision_config": {"x": 1},
    }
    model = read_config(outer)
    assert model.parameters() == 6_738_415_616 + 2 * 64 * 4096
    assert [tower.name for tower in model.towers] == ["vision tower"]
    assert any("hidden_size = 4096" in note for note in model.notes)


def test_nested_problems_carry_their_path() -> None:
    """Field paths start at the top of the file."""
    with pytest.raises(InputError) as caught:
        read_config({"model_type": "llava", "text_config": {"model_type": "internlm2", "hidden_size": "big"}})
    assert {"text_config.hidden_size", "text_config.vocab_size"} <= {p.field for p in caught.value.problems}


def test_every_problem_is_listed_at_once() -> None:
    """Missing, mistyped, negative and indivisible, in one error."""
    bad = {**SMALL, "hidden_size": -1, "vocab_size": "x", "num_attention_heads": 7, "tie_word_embeddings": "perhaps"}
    del bad["intermediate_size"]
    with pytest.raises(InputError) as caught:
        read_config(bad)
    fields = {p.field for p in caught.value.problems}
    assert fields == {"hidden_size", "vocab_size", "num_attention_heads", "tie_word_embeddings", "intermediate_size"}


def test_unknown_type_names_the_nearest() -> None:
    """Never guessed from the name: refused, unless a generic reading is asked for."""
    with pytest.raises(UnknownName, match="did you mean 'llama'"):
        read_config({**SMALL, "model_type": "lama"})
    generic = read_config({**SMALL, "model_type": "my_llama"}, generic=True)
    assert generic.parameters() == read_config(SMALL).parameters()
    assert any("Llama-like" in note for note in generic.notes)


@pytest.mark.parametrize("config", [{}, {"model_type": None}, {"model_type": 3}, {"model_type": ["llama"]}])
def test_no_type_is_an_error(config: dict[str, Any]) -> None:
    """One clear line."""
    with pytest.raises(InputError, match="model_type"):
        read_config(config)


@pytest.mark.parametrize("config", [None, [], "llama", 3])
def test_not_a_table(config: Any) -> None:
    """A JSON file may hold anything."""
    with pytest.raises(InputError, match="expected a table"):
        read_config(config)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_key_value_heads": 3},
        {"hidden_size": 250},
        {"hidden_size": 10**400},
        {"num_hidden_layers": 10**9},
        {"hidden_act": "sinus"},
        {"layer_types": ["full_attention"], "model_type": "qwen3"},
        {"layer_types": ["odd"] * 4, "model_type": "qwen3"},
        {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 5},
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any]) -> None:
    """Sizes that cannot go together."""
    with pytest.raises(InputError):
        read_config({**SMALL, **changes})


@pytest.mark.parametrize(
    ("quantisation", "expected"),
    [
        (None, "bf16"),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8_block"),
        ({"quant_method": "fbgemm_fp8"}, "fp8"),
        ({"quant_method": "mxfp4"}, "mxfp4"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "int4"),
        ({"quant_method": "awq", "bits": 4, "group_size": 64}, "int4_g64"),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1}, "int8_weight_only"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "nf4@4.5"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "int8_weight_only"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4"),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"a": {"weights": {"num_bits": 4, "type": "int", "group_size": 128}}},
            },
            "int4@4.125",
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {
                    "a": {"weights": {"num_bits": 8, "type": "int"}, "input_activations": {"num_bits": 8}}
                },
            },
            "int8",
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"a": {"weights": {"num_bits": 8, "type": "float"}}},
            },
            "fp8_weight_only",
        ),
        ({"quant_method": "compressed-tensors", "num_bits": 4, "group_size": 32}, "int4@4.5"),
        ({"quant_method": "somebodys_new_one"}, "bf16"),
        ({"quant_method": "gptq", "bits": "four"}, "bf16"),
    ],
)
def test_native_formats(quantisation: dict[str, Any] | None, expected: str) -> None:
    """``quantization_config`` names the stored format; an unknown method leaves a note."""
    model = read_config({**SMALL, "torch_dtype": "bfloat16", "quantization_config": quantisation})
    assert model.native_weights == expected
    if quantisation and expected == "bf16":
        assert any("not known" in note for note in model.notes)


def test_native_formats_of_parts() -> None:
    """What the quantiser left alone: embedding and head, and attention when its modules are named."""
    quantisation = {"quant_method": "compressed-tensors", "num_bits": 4, "ignore": ["lm_head", "re:.*self_attn.*"]}
    model = read_config({**SMALL, "torch_dtype": "bfloat16", "quantization_config": quantisation})
    assert dict(model.native_formats) == {"embedding": "bf16", "head": "bf16", "attention": "bf16"}
    assert dict(load_model("gpt-oss-20b").transformer.native_formats)["attention"] == "bf16"


def test_native_formats_are_known_to_the_plan() -> None:
    """Every catalogue model's stored format is one that can be planned."""
    from steelyard.deployment.formats import find_format
    from steelyard.workload.catalogue import model_names

    for name in model_names():
        model = load_model(name).transformer
        for stored in (model.native_weights, *(f for _, f in model.native_formats)):
            assert find_format(stored).name


def test_masked_language_head_follows_architectures() -> None:
    """BERT base: 109.48 M with its pooler; 110.11 M with both pre-training heads, as in its published file."""
    config = {
        "model_type": "bert",
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "vocab_size": 30_522,
    }
    assert read_config(config).parameters() == 109_482_240
    assert read_config({**config, "architectures": ["BertForPreTraining"]}).parameters() == 110_106_428
    masked = read_config({**config, "architectures": ["BertForMaskedLM"]})
    assert masked.parameters() == 109_514_298
    assert not masked.causal
    assert masked.kv_elements_per_token == 0


def test_published_heads_of_roberta_and_modernbert() -> None:
    """roberta-base with its masked-language head: 124,697,433; ModernBERT-base: 149,655,232."""
    roberta = {
        "model_type": "roberta",
        "architectures": ["RobertaForMaskedLM"],
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "vocab_size": 50_265,
        "max_position_embeddings": 514,
    }
    assert read_config(roberta).parameters() == 124_697_433
    assert read_config(roberta).max_context == 512
    modern = {
        "model_type": "modernbert",
        "architectures": ["ModernBertForMaskedLM"],
        "hidden_size": 768,
        "intermediate_size": 1152,
        "num_hidden_layers": 22,
        "num_attention_heads": 12,
        "vocab_size": 50_368,
    }
    assert read_config(modern).parameters() == 149_655_232


GENERIC: Mapping[str, Any] = {
    **SMALL,
    "model_type": "my_moe",
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 128,
}


def test_a_generic_reading_keeps_experts_and_latent_attention() -> None:
    """8 experts of 3 x 256 x 128 in each of 4 layers; a latent of 64 + 16 per token and layer."""
    model = read_config(GENERIC, generic=True)
    dense = read_config(SMALL).parameters() - 4 * 3 * 256 * 512
    assert model.parameters() == dense + 4 * (8 * 3 * 256 * 128 + 8 * 256)
    latent = {"kv_lora_rank": 64, "qk_rope_head_dim": 16, "qk_nope_head_dim": 32, "v_head_dim": 32}
    assert read_config({**GENERIC, **latent}, generic=True).kv_elements_per_token == 4 * (64 + 16)


@pytest.mark.parametrize(
    "changes",
    [
        {"mamba_d_state": 16},
        {"hybrid_override_pattern": "M-M*"},
        {"attn_type_list": [0, 1, 0, 1]},
        {"layer_types": ["linear_attention"] * 4},
        {"cross_attention_layers": [1]},
        {"compress_ratios": [0, 4]},
        {"altup_num_inputs": 4},
        {"block_configs": [{}]},
    ],
)
def test_a_generic_reading_refuses_what_it_would_drop(changes: dict[str, Any]) -> None:
    """State, other kinds of layers, and parts nobody described."""
    with pytest.raises(InputError) as caught:
        read_config({**GENERIC, **changes}, generic=True)
    assert next(iter(changes)) in {p.field for p in caught.value.problems}


def test_layers_of_a_kind_the_family_has_not_are_refused() -> None:
    """A Qwen 3 config with linear attention is no Qwen 3."""
    with pytest.raises(InputError, match="linear_attention"):
        read_config({**SMALL, "model_type": "qwen3", "layer_types": ["linear_attention"] * 4})


def test_who_ties_the_embeddings_of_a_nested_model() -> None:
    """The model around it, from transformers 5 on; its own config before."""
    inner = {**SMALL, "tie_word_embeddings": True}
    outer = {"model_type": "llava", "text_config": inner, "tie_word_embeddings": False}
    assert read_config(outer).tied
    assert not read_config({**outer, "transformers_version": "5.24.0"}).tied


def test_heads_caches_and_widths_that_differ_by_layer() -> None:
    """Gemma 4: full layers of wider heads whose keys serve as values; the last layers read caches of earlier ones."""
    config = {
        **SMALL,
        "model_type": "gemma4_text",
        "head_dim": 32,
        "global_head_dim": 64,
        "num_global_key_value_heads": 1,
        "attention_k_eq_v": True,
        "num_kv_shared_layers": 2,
        "sliding_window": 16,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "hidden_size_per_layer_input": 0,
    }
    model = read_config(config)
    assert float(model.kv_elements(100)) == 2 * 2 * 32 * 16 + 2 * 1 * 64 * 100
    full = next(x.attention for x in model.layers if x.attention and not x.attention.window)
    weights = {op.name: float(e) for op, name, e in model.graph(Step.prefill(1, 1)).weights() if name == "w_qkv"}
    assert weights["layer1.qkv"] == 256 * (full.heads + full.kv_heads) * 64
    assert weights["layer3.qkv"] == 256 * full.heads * 64


def test_choices_of_the_router_that_are_no_expert() -> None:
    """LongCat-Flash: a third of the choices pass the token on, so a token visits two thirds of top-k experts."""
    base = {
        **SMALL,
        "model_type": "longcat_flash",
        "num_layers": 2,
        "ffn_hidden_size": 512,
        "expert_ffn_hidden_size": 128,
        "n_routed_experts": 8,
        "moe_topk": 3,
        "kv_lora_rank": 64,
        "qk_rope_head_dim": 16,
        "qk_nope_head_dim": 32,
        "v_head_dim": 32,
    }
    all_real = read_config(base)
    some = read_config({**base, "zero_expert_num": 4})
    experts = 2 * 3 * 256 * 128
    router = 2 * 4 * (256 + 1)
    assert some.parameters() == all_real.parameters() + router
    assert some.active_parameters() == all_real.active_parameters() + router - experts * (3 - 2)


def test_compressed_caches_by_hand() -> None:
    """DeepSeek-V4-Flash at 100,000 tokens: 43 windows of 128; 21 layers of one entry (and index key) per 4 tokens, 20
    of one per 128; one vector of 512 is key and value."""
    model = load_model("deepseek-v4-flash").transformer
    entries = 21 * 25_000 * (512 + 128) + 20 * (100_000 / 128) * 512
    assert float(model.kv_elements(100_000)) == 43 * 128 * 512 + entries


def test_compressed_attention_sees_its_window_and_what_the_indexer_picks() -> None:
    """A decode step at 100,000 tokens: 128 and 512 keys where an indexer picks, 128 and all 781 entries elsewhere."""
    model = load_model("deepseek-v4-flash").transformer
    graph = model.graph(Step.decode(1, 100_000))
    pairs = {op.name: float(next(iter(op.domain.values()))) for op in graph if op.name.endswith(".scores")}
    assert sorted(round(x) for x in pairs.values()) == [128, 128 + 512, round(128 + 100_000 / 128)]


def test_index_scores_are_a_product_over_one_key_head() -> None:
    """An indexer's heads are rows of the product, summed after it: its keys are read once, not once per head."""
    graph = load_model("deepseek-v3.2").transformer.graph(Step.decode(2, 1000))
    op = next(op for op in graph if op.name.endswith(".index_scores"))
    assert [float(x) for x in op.gemm_shape()] == [64, 1000, 128, 2]
