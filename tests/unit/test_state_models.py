"""State-space, hybrid and recurrent models: parameters, state and work of small configs, by hand and by count.

The totals were counted on the module trees that ``transformers`` 5.24 builds from these configs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from steelyard.errors import InputError
from steelyard.workload.families import read_config
from steelyard.workload.transformer import Step, Transformer

_SIZES = {"vocab_size": 1000, "hidden_size": 128, "num_hidden_layers": 4}
_HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 256}
_MAMBA2 = {"mamba_n_heads": 8, "mamba_d_head": 32, "mamba_d_state": 16, "mamba_n_groups": 2}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}

#: ``model_type``, config, parameters, bytes of state per sequence.
CASES: list[tuple[str, dict[str, Any], int, int]] = [
    ("mamba", {**_SIZES, "state_size": 16}, 594_560, 71_680),
    ("mamba2", {**_SIZES, "state_size": 16, "num_heads": 8, "head_dim": 32, "n_groups": 2}, 694_240, 40_448),
    ("falcon_mamba", {**_SIZES, "state_size": 8}, 569_984, 38_912),
    ("jamba", {**_SIZES, **_HEADS, **_EXPERTS, "mamba_dt_rank": 8}, 1_707_296, 71_680),
    ("bamba", {**_SIZES, **_HEADS, **_MAMBA2, "attn_layer_indices": [1]}, 1_027_720, 30_336),
    (
        "granitemoehybrid",
        {
            **_SIZES,
            **_HEADS,
            **_MAMBA2,
            "layer_types": ["mamba", "attention", "mamba", "mamba"],
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "shared_intermediate_size": 64,
            "tie_word_embeddings": True,
        },
        2_179_720,
        30_336,
    ),
    ("falcon_h1", {**_SIZES, **_HEADS, **_MAMBA2, "mamba_d_ssm": 256, "mamba_rms_norm": True}, 1_284_576, 40_448),
    (
        "nemotron_h",
        {
            **_SIZES,
            **_HEADS,
            "head_dim": 32,
            "layers_block_type": ["mamba", "moe", "attention", "mlp"],
            "mamba_num_heads": 8,
            "mamba_head_dim": 32,
            "ssm_state_size": 16,
            "n_groups": 2,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_shared_experts": 1,
            "moe_intermediate_size": 64,
            "moe_shared_expert_intermediate_size": 96,
            "moe_latent_size": 32,
        },
        530_392,
        18_304,
    ),
    ("lfm2", {**_SIZES, **_HEADS, "layer_types": ["conv", "conv", "full_attention", "conv"]}, 769_344, 1_536),
    (
        "lfm2_moe",
        {
            **_SIZES,
            **_HEADS,
            **_EXPERTS,
            "moe_intermediate_size": 64,
            "num_dense_layers": 1,
            "layer_types": ["conv", "conv", "full_attention", "conv"],
        },
        770_880,
        1_536,
    ),
    (
        "minimax",
        {
            **_SIZES,
            **_HEADS,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "head_dim": 32,
            "layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"],
        },
        2_127_360,
        49_152,
    ),
    (
        "kimi_linear",
        {
            **_SIZES,
            **_HEADS,
            "num_key_value_heads": 4,
            "num_experts": 4,
            "num_experts_per_token": 2,
            "num_shared_experts": 1,
            "moe_intermediate_size": 64,
            "kv_lora_rank": 32,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 16,
            "v_head_dim": 16,
            "linear_num_heads": 4,
            "linear_head_dim": 16,
            "layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"],
            "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
            "pad_token_id": 0,
        },
        876_188,
        15_744,
    ),
    ("recurrent_gemma", {**_SIZES, **_HEADS, "head_dim": 32, "lru_width": 128}, 552_832, 3_840),
    ("xlstm", {**_SIZES, "num_blocks": 4, "embedding_dim": 128, "num_heads": 4}, 1_113_760, 32_768),
    ("rwkv", {**_SIZES, "context_length": 256}, 1_114_112, 8_192),
    (
        "olmo_hybrid",
        {
            **_SIZES,
            **_HEADS,
            "linear_num_key_heads": 4,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 24,
            "linear_value_head_dim": 48,
            "pad_token_id": 0,
            "layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"],
        },
        1_002_472,
        34_560,
    ),
]


@pytest.mark.parametrize(("model_type", "config", "parameters", "state"), CASES, ids=[c[0] for c in CASES])
def test_parameters_and_state_are_counted(model_type: str, config: dict[str, Any], parameters: int, state: int) -> None:
    model = read_config({"model_type": model_type, **config})
    # the correction biases of routers are no parameters there, and are stored all the same
    assert 0 <= model.parameters() - parameters <= 16
    assert model.state_bytes == state


def _model(name: str, **more: Any) -> Transformer:
    config = next(config for model_type, config, _, _ in CASES if model_type == name)
    model = read_config({"model_type": name, **config, **more})
    assert isinstance(model, Transformer)
    return model


def test_the_state_by_hand() -> None:
    # 4 layers: 256 channels x 16 in 32 bits, three taps of 256 channels in 16
    assert _model("mamba").state_bytes == 4 * (256 * 16 * 4 + 3 * 256 * 2)
    # 8 heads of 32 x 16, three taps of 256 + 2 x 2 x 16 channels; the engine may keep the state in 32 bits
    taps = 3 * (256 + 64) * 2
    assert _model("mamba2").state_bytes == 4 * (8 * 32 * 16 * 2 + taps)
    assert _model("mamba2", mamba_ssm_cache_dtype="float32").state_bytes == 4 * (8 * 32 * 16 * 4 + taps)
    # three convolutions over 128 channels with two taps to remember, and one layer of attention
    lfm2 = _model("lfm2")
    assert lfm2.state_bytes == 3 * 128 * 2 * 2
    assert lfm2.kv_elements_per_token == 2 * 2 * 32


def test_attention_and_state_space_side_by_side() -> None:
    model = _model("falcon_h1")
    assert model.kv_elements_per_token == 4 * 2 * 2 * 32
    names = {op.name for op in model.graph(Step.prefill(1, 8))}
    assert {"layer0.qkv", "layer0.mixer.in", "layer0.mixer.scan_write"} <= names
    assert len(names) == len(model.graph(Step.prefill(1, 8)).ops)


@pytest.mark.parametrize("name", [c[0] for c in CASES])
def test_work_grows_with_tokens_and_a_long_state_costs_no_more(name: str) -> None:
    model = _model(name)
    short, long = (float(model.graph(Step.prefill(1, n)).matmul_flops()) for n in (256, 1024))
    assert 3.9 * short < long < 8 * short
    early, late = (float(model.graph(Step.decode(1, n)).matmul_flops()) for n in (64, 4096))
    grows = model.kv_elements_per_token > 0
    assert (late > early) == grows


def test_a_decode_step_reads_and_writes_the_state() -> None:
    graph = _model("mamba2").graph(Step.decode(3, 10))
    width = {"activation": 16.0, "weight": 16.0, "table": 16.0, "kv": 16.0, "state": 16.0}
    moved = sum(float(op.bytes(width, roles=("state",)) * op.count) for op in graph)
    assert moved == pytest.approx(2 * 3 * 4 * 8 * 32 * 16 * 2)


def test_a_step_of_many_tokens_writes_the_state_once() -> None:
    def written(tokens: int) -> Any:
        op = next(op for op in _model("mamba2").graph(Step.prefill(1, tokens)) if op.name.endswith("scan_write"))
        return op.elements(op.output)

    assert np.asarray(written(8)) == np.asarray(written(4096)) == 8 * 32 * 16


@pytest.mark.parametrize(
    ("model_type", "config", "field"),
    [
        ("nemotron_h", {**_SIZES, "hybrid_override_pattern": "MXMM"}, "hybrid_override_pattern"),
        ("nemotron_h", {**_SIZES, **_HEADS, "hybrid_override_pattern": "MM"}, "hybrid_override_pattern"),
        ("recurrent_gemma", {**_SIZES, **_HEADS, "block_types": ["conv"]}, "block_types"),
        ("minimax", {**_SIZES, **_HEADS, "num_local_experts": 2, "attn_type_list": [0]}, "attn_type_list"),
        ("xlstm", {**_SIZES, "num_heads": 4, "qk_dim_factor": "half"}, "qk_dim_factor"),
        ("mamba2", {**_SIZES, "state_size": -1}, "state_size"),
    ],
)
def test_what_is_wrong_is_named(model_type: str, config: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError, match=field):
        read_config({"model_type": model_type, **config})


def test_a_chunked_scan_is_several_launches_outside_a_graph() -> None:
    from dataclasses import replace

    import numpy as np

    from steelyard import load_model
    from steelyard.cost.price import launched
    from steelyard.cost.step import Replica
    from steelyard.deployment.engine import find_engine
    from steelyard.deployment.plan import Plan
    from steelyard.machine.cluster import parse_cluster
    from steelyard.workload.step import Step

    def launches(name: str, step: Step) -> tuple[float, float]:
        model = load_model(name).transformer
        cluster = parse_cluster("h100_sxm:4")
        plan = Plan(tp=4).resolved(model, cluster.machine)
        engine = find_engine("sglang")
        kernels = Replica(model, plan, cluster, engine).lower(step).kernels
        scans = sum(k.count for k in kernels if k.kind == "state_scan")
        plain = launched([replace(k, features={}) for k in kernels], engine)
        return float(np.max(launched(kernels, engine)) - plain), float(scans)

    more, scans = launches("qwen3-next", Step.prefill(1, 512))
    assert scans == 36 and more == 9 * scans  # ten kernels of the delta rule each
    more, scans = launches("nemotron-3-nano", Step.prefill(1, 512))
    assert scans > 0 and more == 4 * scans
    assert launches("qwen3-next", Step.decode(1, 512))[0] == 0  # a decode updates the state in one


def test_prompts_launched_one_by_one_wait_for_the_scans() -> None:
    from steelyard import estimate

    hybrid = estimate("qwen3-next", "b200_sxm:8", tp=8, engine="sglang", isl=128, osl=2)
    assert hybrid.ttft_s > 0.07  # 36 layers of ten launches more: 0.13 s measured


def test_one_type_of_two_generations_of_ling() -> None:
    """Ling and Ring 2.5 and 2.6 have lightning attention where Ling 3, of the same type, has delta layers."""
    config = {
        **_SIZES,
        **_HEADS,
        **_EXPERTS,
        "model_type": "bailing_hybrid",
        "head_dim": 32,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 8,
        "v_head_dim": 16,
        "moe_intermediate_size": 64,
        "layer_group_size": 4,
    }
    newer, older = read_config(config), read_config({**config, "num_kv_heads_for_linear_attn": 4})
    names = [type(x.mixer).__name__ for model in (newer, older) for x in model.layers if x.mixer is not None]
    assert set(names[:1]) == {"DeltaNet"} and names[-1] == "LinearAttention"
    assert older.state_bytes == 3 * 4 * 32 * 32 * 4  # no convolutions
    assert read_config({**config, "num_kv_heads_for_linear_attn": 0}).parameters() == newer.parameters()
