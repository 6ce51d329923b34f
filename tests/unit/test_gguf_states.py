"""GGUF files of state-space and hybrid models, encoder-decoders, and files of which only a part is there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import steelyard
from steelyard.errors import InputError
from steelyard.workload.catalogue import find_model, load_model
from tests.unit.test_ingest import gguf_header, write_gguf

Config = Mapping[str, Any]


def _ssm(inner: int, state: int, rank: int, taps: int, groups: int = 0) -> dict[str, Any]:
    found = {"ssm.inner_size": inner, "ssm.state_size": state, "ssm.time_step_rank": rank, "ssm.conv_kernel": taps}
    return {**found, "ssm.group_count": groups} if groups else found


def _mamba(c: Config) -> dict[str, Any]:
    hidden = c["hidden_size"]
    return _ssm(2 * hidden, 16, -(-hidden // 16), 4)


def _codestral(c: Config) -> dict[str, Any]:
    return _ssm(c["num_heads"] * c["head_dim"], c["state_size"], c["num_heads"], 4, c["n_groups"])


def _jamba(c: Config) -> dict[str, Any]:
    at = range(c["attn_layer_offset"], c["num_hidden_layers"], c["attn_layer_period"])
    inner = c["mamba_expand"] * c["hidden_size"]
    ssm = _ssm(inner, c["mamba_d_state"], c["mamba_dt_rank"], c["mamba_d_conv"])
    return {**ssm, "attention.head_count_kv": [8 if i in at else 0 for i in range(c["num_hidden_layers"])]}


def _prefixed(c: Config) -> dict[str, Any]:
    heads = c["mamba_n_heads"]
    inner = c.get("mamba_d_ssm") or heads * c["mamba_d_head"]
    return _ssm(inner, c["mamba_d_state"], heads, c["mamba_d_conv"], c["mamba_n_groups"])


def _granite(c: Config) -> dict[str, Any]:
    groups = [c["num_key_value_heads"] if kind == "attention" else 0 for kind in c["layer_types"]]
    shared = {"expert_shared_feed_forward_length": c["shared_intermediate_size"]}
    return {**_prefixed(c), "attention.head_count_kv": groups, **shared}


def _nemotron(c: Config) -> dict[str, Any]:
    pattern, heads = c["hybrid_override_pattern"], c["mamba_num_heads"]
    ssm = _ssm(heads * c["mamba_head_dim"], c["ssm_state_size"], heads, c["conv_kernel"], c["n_groups"])
    groups = [c["num_key_value_heads"] if kind == "*" else 0 for kind in pattern]
    widths = [c["intermediate_size"] if kind in "-E" else 0 for kind in pattern]
    return {**ssm, "attention.head_count_kv": groups, "feed_forward_length": widths}


def _lfm2(c: Config) -> dict[str, Any]:
    depth, kinds = c["num_hidden_layers"], c.get("layer_types")
    full = c.get("full_attn_idxs") or [i for i in range(depth) if kinds[i] == "full_attention"]
    width = c.get("block_ff_dim", 0) * 2 // 3 or c["intermediate_size"]
    groups = [c["num_key_value_heads"] if i in full else 0 for i in range(depth)]
    return {
        "shortconv.l_cache": c["conv_L_cache"],
        "attention.head_count_kv": groups,
        "feed_forward_length": -(-width // 256) * 256,
    }


def _kimi(c: Config) -> dict[str, Any]:
    full = c["linear_attn_config"]["full_attn_layers"]
    return {
        "attention.head_count_kv": [1 if i + 1 in full else 0 for i in range(c["num_hidden_layers"])],
        "attention.kv_lora_rank": c["kv_lora_rank"],
        "attention.key_length_mla": c["qk_nope_head_dim"] + c["qk_rope_head_dim"],
        "attention.value_length_mla": c["v_head_dim"],
        "rope.dimension_count": c["qk_rope_head_dim"],
        "kda.head_dim": c["linear_attn_config"]["head_dim"],
        "ssm.conv_kernel": 4,
        "expert_used_count": c["num_experts_per_token"],
        "expert_shared_count": c["num_shared_experts"],
        "leading_dense_block_count": c["first_k_dense_replace"],
    }


def _t5(c: Config) -> dict[str, Any]:
    return {
        "embedding_length": c["d_model"],
        "attention.head_count": c["num_heads"],
        "attention.key_length": c["d_kv"],
        "feed_forward_length": c["d_ff"],
        "block_count": c["num_layers"],
        "decoder_block_count": c.get("num_decoder_layers") or c["num_layers"],
        "attention.relative_buckets_count": c.get("relative_attention_num_buckets", 32),
    }


#: Catalogue entry -> architecture, its keys in llama.cpp's words, tensors that tell something.
CONVERTED: Mapping[str, tuple[str, Callable[[Config], dict[str, Any]], tuple[str, ...]]] = {
    "mamba-2.8b-hf": ("mamba", _mamba, ()),
    "Mamba-Codestral-7B-v0.1": ("mamba2", _codestral, ("output.weight",)),
    "AI21-Jamba-Mini-1.6": (
        "jamba",
        _jamba,
        ("output.weight", "blk.1.ffn_gate_inp.weight", "blk.3.ffn_gate_inp.weight"),
    ),
    "granite-4.0-h-tiny": ("granitehybrid", _granite, ()),
    "Falcon-H1-7B-Base": ("falcon-h1", _prefixed, ("output.weight", "blk.0.ssm_norm.weight")),
    "NVIDIA-Nemotron-Nano-9B-v2": ("nemotron_h", _nemotron, ("output.weight",)),
    "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": ("nemotron_h_moe", _nemotron, ("output.weight",)),
    "LFM2-1.2B": ("lfm2", _lfm2, ()),
    "LFM2-8B-A1B": ("lfm2moe", _lfm2, ("blk.2.exp_probs_b.bias",)),
    "Kimi-Linear-48B-A3B-Instruct": ("kimi-linear", _kimi, ("output.weight",)),
    "flan-t5-xl": ("t5", _t5, ("output.weight", "enc.blk.0.ffn_gate.weight")),
}
#: What every architecture states, from the names of configs.
COMMON = {
    "num_hidden_layers": "block_count",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "vocab_size": "vocab_size",
    "max_position_embeddings": "context_length",
    "num_experts": "expert_count",
    "num_local_experts": "expert_count",
    "n_routed_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length",
    "n_shared_experts": "expert_shared_count",
    "moe_shared_expert_intermediate_size": "expert_shared_feed_forward_length",
    "num_dense_layers": "leading_dense_block_count",
}


@pytest.mark.parametrize("name", CONVERTED)
def test_state_space_architectures(tmp_path: Path, name: str) -> None:
    """The metadata of a converted model gives the parameters, the state and the cache of the original."""
    arch, more, present = CONVERTED[name]
    entry = find_model(name)
    keys = {theirs: entry.config[ours] for ours, theirs in COMMON.items() if isinstance(entry.config.get(ours), int)}
    keys |= more(entry.config)
    metadata = {"general.architecture": arch, **{f"{arch}.{k}": v for k, v in keys.items()}}
    write_gguf(tmp_path / "m.gguf", metadata, [(tensor, (32,), "fp32") for tensor in present])
    found, own = load_model(tmp_path / "m.gguf"), load_model(name)
    assert found.transformer.parameters() == own.transformer.parameters()
    assert found.transformer.active_parameters() == own.transformer.active_parameters()
    assert found.engine == "llamacpp"
    layers = [(x.count, x.attention is None, x.mixer is None) for x in own.transformer.layers]
    assert [(x.count, x.attention is None, x.mixer is None) for x in found.transformer.layers] == layers


def test_an_encoder_of_embeddings(tmp_path: Path) -> None:
    """nomic-embed-text v1.5: 136.7 M parameters."""
    keys = {"block_count": 12, "embedding_length": 768, "feed_forward_length": 3072, "attention.head_count": 12}
    keys |= {"context_length": 2048}
    metadata = {"general.architecture": "nomic-bert", **{f"nomic-bert.{k}": v for k, v in keys.items()}}
    tensors = [("token_embd.weight", (768, 30_528), "fp16"), ("token_types.weight", (768, 2), "fp32")]
    write_gguf(tmp_path / "m.gguf", metadata, tensors)
    found = load_model(tmp_path / "m.gguf").transformer
    assert found.parameters() == 136_731_648
    assert not found.causal


LLAMA = {
    "general.architecture": "llama",
    "llama.block_count": 2,
    "llama.embedding_length": 256,
    "llama.feed_forward_length": 512,
    "llama.attention.head_count": 8,
    "llama.attention.head_count_kv": 2,
    "llama.context_length": 4096,
}


def _tensors(layers: range) -> list[tuple[str, tuple[int, ...], str]]:
    each = {"attn_q": (256, 256), "attn_k": (256, 64), "attn_v": (256, 64), "attn_output": (256, 256)}
    each |= {"ffn_gate": (256, 512), "ffn_up": (256, 512), "ffn_down": (512, 256)}
    return [(f"blk.{i}.{name}.weight", shape, "q4_k") for i in layers for name, shape in each.items()]


ENDS: list[tuple[str, tuple[int, ...], str]] = [
    ("token_embd.weight", (256, 1024), "q4_k"),
    ("output.weight", (256, 1024), "q6_k"),
]


def test_a_header_alone_is_priced_as_the_whole_file(tmp_path: Path) -> None:
    whole, head, part = tmp_path / "whole.gguf", tmp_path / "head.gguf", tmp_path / "part.gguf"
    write_gguf(whole, LLAMA, [*ENDS, *_tensors(range(2))])
    start, data = gguf_header(LLAMA, [*ENDS, *_tensors(range(2))])
    head.write_bytes(start)
    part.write_bytes(start + bytes(data // 2))
    asked = {"isl": 128, "osl": 16}
    full = steelyard.estimate(str(whole), "rtx_4090", **asked)
    assert full.scenario.engine.name == "llamacpp_cuda"
    assert not any("are there" in note for note in full.ledger.assumptions)
    for path in (head, part):
        found = steelyard.estimate(str(path), "rtx_4090", **asked)
        assert (found.tpot_s, found.memory.weights) == (full.tpot_s, full.memory.weights)
        assert any(f"{path.name} are there; sizes are those of its header" in note for note in found.ledger.assumptions)


def test_parts_that_are_not_there_are_estimated(tmp_path: Path) -> None:
    names = [tmp_path / f"m-0000{i}-of-00002.gguf" for i in (1, 2)]
    write_gguf(names[0], LLAMA, [*ENDS, *_tensors(range(1))])
    lonely = load_model(names[0])
    assert lonely.weight_bytes is None
    assert any("1 of 2 parts" in note for note in lonely.transformer.notes)
    write_gguf(names[1], {"general.architecture": "llama"}, _tensors(range(1, 2)))
    both = load_model(names[0])
    assert both.weight_bytes
    assert both.transformer.native_weights == lonely.transformer.native_weights == "q4_k"
    names[0].unlink()
    with pytest.raises(InputError, match="first part"):
        load_model(names[1])


def test_a_file_that_claims_too_much_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_header(LLAMA, [("token_embd.weight", (2**40, 2**40), "q4_k")])[0])
    with pytest.raises(InputError, match="are accepted"):
        load_model(path)
    write_gguf(path, {"general.architecture": "nemotron_h", "nemotron_h.block_count": 2**31}, [])
    with pytest.raises(InputError, match="layers"):
        load_model(path)


STATES = ("group_count", "time_step_rank", "state_size", "inner_size")


@pytest.mark.parametrize("arch", ["dots1", "glm4moe", "hunyuan-moe", "llama4", "minimax-m2", "qwen3next"])
def test_what_metadata_lacks_is_named_by_its_own_keys(tmp_path: Path, arch: str) -> None:
    sizes = {"block_count": 2, "context_length": 4096, "embedding_length": 64, "feed_forward_length": 128}
    heads = {"attention.head_count": 4, "attention.head_count_kv": 2, "attention.key_length": 16}
    metadata = {"general.architecture": arch, **{f"{arch}.{k}": v for k, v in (sizes | heads).items()}}
    write_gguf(tmp_path / "m.gguf", metadata, [("token_embd.weight", (64, 512), "fp16")])
    with pytest.raises(InputError) as caught:
        load_model(tmp_path / "m.gguf")
    fields = [p.field for p in caught.value.problems]
    assert fields[:2] == [f"{arch}.expert_count", f"{arch}.expert_used_count"]
    assert fields[2:] == ([f"{arch}.ssm.{key}" for key in STATES] if "qwen" in arch else [])
