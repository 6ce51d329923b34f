"""Reading model files: exact bytes from headers built here (sparse files: only the header is real), and bad input."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from steelyard.errors import InputError, UnknownName
from steelyard.workload.catalogue import find_model, load_model
from steelyard.workload.ingest.gguf import GGML_TYPES, read_gguf
from steelyard.workload.ingest.safetensors import MAX_HEADER, read_safetensors
from tests.weights import write_safetensors

CONFIG: Mapping[str, Any] = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
}
TYPE_IDS = {name: kind for kind, (name, _, _) in GGML_TYPES.items()}
Tensors = Iterable[tuple[str, tuple[int, ...], str]]


# ---- writers ---------------------------------------------------------------------------------------------------------


def _text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def _value(value: Any) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + _text(value)
    if value and isinstance(value[0], str):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(_text(v) for v in value)
    return struct.pack("<IIQ", 9, 5, len(value)) + struct.pack(f"<{len(value)}i", *value)


def gguf_header(metadata: Mapping[str, Any], tensors: Tensors) -> tuple[bytes, int]:
    """The header, and the bytes of data that follow."""
    infos, at = b"", 0
    tensors = list(tensors)
    for name, shape, label in tensors:
        _, block, size = GGML_TYPES[TYPE_IDS[label]]
        elements = 1
        for extent in shape:
            elements *= extent
        infos += _text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, TYPE_IDS[label], at)
        at += -(-(elements // block * size) // 32) * 32
    entries = b"".join(_text(k) + _value(v) for k, v in metadata.items())
    return b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata)) + entries + infos, at


def write_gguf(path: Path, metadata: Mapping[str, Any], tensors: Tensors) -> None:
    head, data = gguf_header(metadata, tensors)
    with path.open("wb") as file:
        file.write(head)
        file.truncate(-(-len(head) // 32) * 32 + data)


# ---- real models -----------------------------------------------------------------------------------------------------


def llama_8b() -> Tensors:
    """Tensors of Llama-3.1-8B under their Hugging Face names."""
    yield "model.embed_tokens.weight", (128_256, 4096), ""
    for i in range(32):
        block = f"model.layers.{i}."
        for name, shape in {
            "self_attn.q_proj": (4096, 4096),
            "self_attn.k_proj": (1024, 4096),
            "self_attn.v_proj": (1024, 4096),
            "self_attn.o_proj": (4096, 4096),
            "mlp.gate_proj": (14_336, 4096),
            "mlp.up_proj": (14_336, 4096),
            "mlp.down_proj": (4096, 14_336),
            "input_layernorm": (4096,),
            "post_attention_layernorm": (4096,),
        }.items():
            yield f"{block}{name}.weight", shape, ""
    yield "model.norm.weight", (4096,), ""
    yield "lm_head.weight", (128_256, 4096), ""


def llama_8b_q4_k_m() -> Tensors:
    """The mix of a Q4_K_M file: half of the value and down projections, and the head, are q6_k."""
    yield "token_embd.weight", (4096, 128_256), "q4_k"
    for i in range(32):
        better = "q6_k" if i < 4 or i >= 28 or (i - 4) % 3 == 2 else "q4_k"
        for name, shape, label in (
            ("attn_q", (4096, 4096), "q4_k"),
            ("attn_k", (4096, 1024), "q4_k"),
            ("attn_v", (4096, 1024), better),
            ("attn_output", (4096, 4096), "q4_k"),
            ("ffn_gate", (4096, 14_336), "q4_k"),
            ("ffn_up", (4096, 14_336), "q4_k"),
            ("ffn_down", (14_336, 4096), better),
            ("attn_norm", (4096,), "fp32"),
            ("ffn_norm", (4096,), "fp32"),
        ):
            yield f"blk.{i}.{name}.weight", shape, label
    yield "output_norm.weight", (4096,), "fp32"
    yield "rope_freqs.weight", (64,), "fp32"
    yield "output.weight", (4096, 128_256), "q6_k"


LLAMA_METADATA: Mapping[str, Any] = {
    "general.architecture": "llama",
    "general.name": "Llama 3.1 8B",
    "llama.block_count": 32,
    "llama.context_length": 131_072,
    "llama.embedding_length": 4096,
    "llama.feed_forward_length": 14_336,
    "llama.attention.head_count": 32,
    "llama.attention.head_count_kv": 8,
    "llama.rope.dimension_count": 128,
    "llama.rope.freq_base": 500_000.0,
    "tokenizer.ggml.tokens": ["a", "bc", "def"],
}


def gpt_oss_20b() -> Tensors:
    """Experts in mxfp4, the other matrices in q8_0, vectors in fp32."""
    yield "token_embd.weight", (2880, 201_088), "q8_0"
    for i in range(24):
        for name, shape, label in (
            ("attn_q.weight", (2880, 4096), "q8_0"),
            ("attn_k.weight", (2880, 512), "q8_0"),
            ("attn_v.weight", (2880, 512), "q8_0"),
            ("attn_output.weight", (4096, 2880), "q8_0"),
            ("attn_q.bias", (4096,), "fp32"),
            ("attn_k.bias", (512,), "fp32"),
            ("attn_v.bias", (512,), "fp32"),
            ("attn_output.bias", (2880,), "fp32"),
            ("attn_sinks.weight", (64,), "fp32"),
            ("ffn_gate_inp.weight", (2880, 32), "fp32"),
            ("ffn_gate_inp.bias", (32,), "fp32"),
            ("ffn_gate_exps.weight", (2880, 2880, 32), "mxfp4"),
            ("ffn_up_exps.weight", (2880, 2880, 32), "mxfp4"),
            ("ffn_down_exps.weight", (2880, 2880, 32), "mxfp4"),
            ("ffn_gate_exps.bias", (2880, 32), "fp32"),
            ("ffn_up_exps.bias", (2880, 32), "fp32"),
            ("ffn_down_exps.bias", (2880, 32), "fp32"),
            ("attn_norm.weight", (2880,), "fp32"),
            ("post_attention_norm.weight", (2880,), "fp32"),
        ):
            yield f"blk.{i}.{name}", shape, label
    yield "output_norm.weight", (2880,), "fp32"
    yield "output.weight", (2880, 201_088), "q8_0"


def test_safetensors_shards_with_an_index(tmp_path: Path) -> None:
    """Llama-3.1-8B in two files: the 16,060,522,496 bytes its published index states."""
    entry = find_model("llama-3.1-8b")
    (tmp_path / "config.json").write_text(json.dumps(dict(entry.config)))
    tensors = list(llama_8b())
    parts = {"model-00001-of-00002.safetensors": tensors[:150], "model-00002-of-00002.safetensors": tensors[150:]}
    for name, part in parts.items():
        write_safetensors(tmp_path / name, ((t, shape, "BF16") for t, shape, _ in part), {"format": "pt"})
    table = {tensor: name for name, part in parts.items() for tensor, _, _ in part}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": table}))
    for path in (tmp_path, tmp_path / "model.safetensors.index.json", tmp_path / "model-00001-of-00002.safetensors"):
        model = load_model(path)
        assert model.weight_bytes == 16_060_522_496
        assert model.tensor_bytes == {"bf16": 16_060_522_496}
        assert model.transformer.parameters() * 2 == model.weight_bytes


@pytest.mark.parametrize("data", [0, 1 << 30])
def test_a_header_of_safetensors_is_enough(data: int, tmp_path: Path) -> None:
    """A planner has the header alone, or the beginning of the file."""
    (tmp_path / "config.json").write_text(json.dumps(dict(find_model("llama-3.1-8b").config)))
    path = tmp_path / "model.safetensors"
    whole = write_safetensors(path, ((t, shape, "BF16") for t, shape, _ in llama_8b()))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - whole + data)
    for asked in (tmp_path, path):
        model = load_model(asked)
        assert model.weight_bytes == 16_060_522_496
        there = f"{data / 2**30:.2f} of 14.96 GiB of the weight files are there; sizes are those of their headers"
        assert there in model.transformer.notes


def test_gguf_mixed_formats(tmp_path: Path) -> None:
    """Llama-3.1-8B Q4_K_M: the published file has 4,920,739,232 bytes, vocabulary included."""
    path = tmp_path / "llama.gguf"
    write_gguf(path, LLAMA_METADATA, llama_8b_q4_k_m())
    model = load_model(path)
    assert model.weight_bytes == pytest.approx(4_920_739_232, rel=0.01)
    assert set(model.tensor_bytes) == {"q4_k", "q6_k", "fp32"}
    assert model.transformer.parameters() == 8_030_261_248
    own = dict(model.transformer.native_formats)
    assert model.transformer.native_weights == "q4_k@4.844"  # a third of it is half in q6_k
    assert own == {"embedding": "q4_k", "attention": "q4_k@4.603", "head": "q6_k"}
    assert model.transformer.max_context == 131_072
    assert model.name == "Llama 3.1 8B"
    assert not model.transformer.notes


def test_gguf_experts(tmp_path: Path) -> None:
    """gpt-oss-20b with mxfp4 experts: the published file has 12,109,566,560 bytes."""
    metadata = {
        "general.architecture": "gpt-oss",
        "gpt-oss.block_count": 24,
        "gpt-oss.context_length": 131_072,
        "gpt-oss.embedding_length": 2880,
        "gpt-oss.feed_forward_length": 2880,
        "gpt-oss.expert_feed_forward_length": 2880,
        "gpt-oss.expert_count": 32,
        "gpt-oss.expert_used_count": 4,
        "gpt-oss.attention.head_count": 64,
        "gpt-oss.attention.head_count_kv": 8,
        "gpt-oss.attention.key_length": 64,
        "gpt-oss.attention.sliding_window": 128,
    }
    path = tmp_path / "gpt-oss.gguf"
    write_gguf(path, metadata, gpt_oss_20b())
    model = load_model(tmp_path)  # the only .gguf of a folder
    assert model.weight_bytes == pytest.approx(12_109_566_560, rel=0.01)
    assert model.transformer.parameters() == find_model("gpt-oss-20b").parameters
    assert model.transformer.native_weights == "mxfp4"
    assert dict(model.transformer.native_formats) == {
        "embedding": "q8_0",
        "attention": "q8_0",
        "router": "fp32",
        "head": "q8_0",
    }


def test_gguf_in_parts(tmp_path: Path) -> None:
    """A split model is the sum of its parts; without one its bytes are not known."""
    tensors = list(llama_8b_q4_k_m())
    first, second = (tmp_path / f"llama-0000{i}-of-00002.gguf" for i in (1, 2))
    write_gguf(first, LLAMA_METADATA, tensors[:100])
    write_gguf(second, {"split.no": 1}, tensors[100:])
    whole = load_model(tmp_path)
    assert whole.weight_bytes == sum(read_gguf(p).weight_bytes for p in (first, second))
    assert load_model(second).weight_bytes == whole.weight_bytes
    second.unlink()
    assert load_model(first).weight_bytes is None


def test_gguf_routed_llama_is_mixtral(tmp_path: Path) -> None:
    """The architecture "llama" with experts."""
    metadata = {**LLAMA_METADATA, "llama.expert_count": 8, "llama.expert_used_count": 2, "llama.vocab_size": 32_000}
    path = tmp_path / "mixtral.gguf"
    write_gguf(
        path, {k: v for k, v in metadata.items() if "tokens" not in k}, [("output.weight", (4096, 32_000), "q8_0")]
    )
    model = load_model(path)
    assert model.transformer.parameters() == find_model("mixtral-8x7b").parameters
    assert any("hold" in note for note in model.transformer.notes)  # this file lacks most tensors, and that is said


#: Metadata as converters write it: architecture, keys after its prefix, tensors that only their presence matters of.
CONVERTED: Mapping[str, tuple[str, Mapping[str, Any], tuple[str, ...]]] = {
    "qwen2.5-7b": (
        "qwen2",
        {
            "block_count": 28,
            "embedding_length": 3584,
            "feed_forward_length": 18_944,
            "heads": 28,
            "kv": 4,
            "vocab": 152_064,
        },
        ("output.weight", "blk.0.attn_q.bias"),
    ),
    "qwen3-30b-a3b": (
        "qwen3moe",
        {
            "block_count": 48,
            "embedding_length": 2048,
            "feed_forward_length": 6144,
            "expert_feed_forward_length": 768,
            "expert_count": 128,
            "expert_used_count": 8,
            "attention.key_length": 128,
            "heads": 32,
            "kv": 4,
            "vocab": 151_936,
        },
        ("output.weight", "blk.0.attn_q_norm.weight"),
    ),
    "qwen2-57b-a14b": (
        "qwen2moe",
        {
            "block_count": 28,
            "embedding_length": 3584,
            "feed_forward_length": 18_944,
            "expert_feed_forward_length": 2560,
            "expert_shared_feed_forward_length": 20_480,
            "expert_count": 64,
            "expert_used_count": 8,
            "heads": 28,
            "kv": 4,
            "vocab": 151_936,
        },
        ("output.weight", "blk.0.attn_q.bias"),
    ),
    "gemma-3-4b": (
        "gemma3",
        {
            "block_count": 34,
            "embedding_length": 2560,
            "feed_forward_length": 10_240,
            "attention.key_length": 256,
            "attention.sliding_window": 1024,
            "heads": 8,
            "kv": 4,
            "vocab": 262_208,
        },
        (),
    ),
    "gemma-2-27b": (
        "gemma2",
        {
            "block_count": 46,
            "embedding_length": 4608,
            "feed_forward_length": 36_864,
            "attention.key_length": 128,
            "attention.sliding_window": 4096,
            "heads": 32,
            "kv": 16,
            "vocab": 256_000,
        },
        (),
    ),
    "phi-4": (
        "phi3",
        {
            "block_count": 40,
            "embedding_length": 5120,
            "feed_forward_length": 17_920,
            "heads": 40,
            "kv": 10,
            "vocab": 100_352,
        },
        ("output.weight",),
    ),
    "deepseek-v2-lite": (
        "deepseek2",
        {
            "block_count": 27,
            "embedding_length": 2048,
            "feed_forward_length": 10_944,
            "expert_feed_forward_length": 1408,
            "expert_count": 64,
            "expert_used_count": 6,
            "expert_shared_count": 2,
            "leading_dense_block_count": 1,
            "attention.kv_lora_rank": 512,
            "attention.key_length": 192,
            "attention.value_length": 128,
            "rope.dimension_count": 64,
            "heads": 16,
            "kv": 16,
            "vocab": 102_400,
        },
        ("output.weight",),
    ),
    "deepseek-v3": (
        "deepseek2",
        {
            "block_count": 61,
            "embedding_length": 7168,
            "feed_forward_length": 18_432,
            "expert_feed_forward_length": 2048,
            "expert_count": 256,
            "expert_used_count": 8,
            "expert_shared_count": 1,
            "leading_dense_block_count": 3,
            "attention.q_lora_rank": 1536,
            "attention.kv_lora_rank": 512,
            "attention.key_length": 576,
            "attention.value_length": 512,
            "attention.key_length_mla": 192,
            "attention.value_length_mla": 128,
            "rope.dimension_count": 64,
            "heads": 128,
            "kv": 1,
            "vocab": 129_280,
        },
        ("output.weight", "blk.3.exp_probs_b.bias"),
    ),
    "command-r-plus": (
        "command-r",
        {
            "block_count": 64,
            "embedding_length": 12_288,
            "feed_forward_length": 33_792,
            "heads": 96,
            "kv": 8,
            "vocab": 256_000,
        },
        ("blk.0.attn_q_norm.weight",),
    ),
    "starcoder2-7b": (
        "starcoder2",
        {
            "block_count": 32,
            "embedding_length": 4608,
            "feed_forward_length": 18_432,
            "heads": 36,
            "kv": 4,
            "vocab": 49_152,
        },
        ("blk.0.attn_q.bias",),
    ),
    "falcon-7b": (
        "falcon",
        {
            "block_count": 32,
            "embedding_length": 4544,
            "feed_forward_length": 18_176,
            "heads": 71,
            "kv": 1,
            "vocab": 65_024,
        },
        (),
    ),
    "falcon-40b": (
        "falcon",
        {
            "block_count": 60,
            "embedding_length": 8192,
            "feed_forward_length": 32_768,
            "heads": 128,
            "kv": 8,
            "vocab": 65_024,
        },
        ("blk.0.attn_norm_2.weight",),
    ),
    "gpt2": (
        "gpt2",
        {
            "block_count": 12,
            "embedding_length": 768,
            "feed_forward_length": 3072,
            "heads": 12,
            "context_length": 1024,
            "vocab": 50_257,
        },
        ("blk.0.attn_qkv.bias",),
    ),
    "glm-4.5-air": (
        "glm4moe",
        {
            "block_count": 47,
            "nextn_predict_layers": 1,
            "embedding_length": 4096,
            "feed_forward_length": 10_944,
            "expert_feed_forward_length": 1408,
            "expert_count": 128,
            "expert_used_count": 8,
            "expert_shared_count": 1,
            "leading_dense_block_count": 1,
            "attention.key_length": 128,
            "rope.dimension_count": 64,
            "heads": 96,
            "kv": 8,
            "vocab": 151_552,
        },
        ("output.weight", "blk.0.attn_q.bias"),
    ),
    "qwen3-next": (
        "qwen3next",
        {
            "block_count": 48,
            "embedding_length": 2048,
            "feed_forward_length": 5120,
            "expert_feed_forward_length": 512,
            "expert_shared_feed_forward_length": 512,
            "expert_count": 512,
            "expert_used_count": 10,
            "attention.key_length": 256,
            "rope.dimension_count": 64,
            "ssm.conv_kernel": 4,
            "ssm.state_size": 128,
            "ssm.group_count": 16,
            "ssm.time_step_rank": 32,
            "ssm.inner_size": 4096,
            "heads": 16,
            "kv": 2,
            "vocab": 151_936,
        },
        ("output.weight",),
    ),
    "apertus-8b": (
        "apertus",
        {
            "block_count": 32,
            "embedding_length": 4096,
            "feed_forward_length": 21_504,
            "heads": 32,
            "kv": 8,
            "vocab": 131_072,
        },
        ("output.weight", "blk.0.attn_q_norm.weight"),
    ),
    "dots1": (
        "dots1",
        {
            "block_count": 62,
            "embedding_length": 4096,
            "feed_forward_length": 10_944,
            "expert_feed_forward_length": 1408,
            "expert_count": 128,
            "expert_used_count": 6,
            "expert_shared_count": 2,
            "leading_dense_block_count": 1,
            "heads": 32,
            "kv": 32,
            "vocab": 152_064,
        },
        ("output.weight",),
    ),
    "ernie-4.5-21b": (
        "ernie4_5-moe",
        {
            "block_count": 28,
            "embedding_length": 2560,
            "feed_forward_length": 12_288,
            "expert_feed_forward_length": 1536,
            "expert_shared_feed_forward_length": 3072,
            "expert_count": 64,
            "expert_used_count": 6,
            "leading_dense_block_count": 1,
            "heads": 20,
            "kv": 4,
            "vocab": 103_424,
        },
        (),
    ),
    "ling-mini-2.0": (
        "bailingmoe2",
        {
            "block_count": 20,
            "embedding_length": 2048,
            "feed_forward_length": 5120,
            "expert_feed_forward_length": 512,
            "expert_shared_feed_forward_length": 512,
            "expert_count": 256,
            "expert_used_count": 8,
            "expert_shared_count": 1,
            "leading_dense_block_count": 1,
            "heads": 16,
            "kv": 4,
            "vocab": 157_184,
        },
        ("output.weight", "blk.0.attn_q_norm.weight", "blk.1.exp_probs_b.bias"),
    ),
    "trinity-mini": (
        "afmoe",
        {
            "block_count": 32,
            "embedding_length": 2048,
            "feed_forward_length": 6144,
            "expert_feed_forward_length": 1024,
            "expert_count": 128,
            "expert_used_count": 8,
            "expert_shared_count": 1,
            "leading_dense_block_count": 2,
            "attention.key_length": 128,
            "attention.sliding_window": 2048,
            "heads": 32,
            "kv": 4,
            "vocab": 200_192,
        },
        ("output.weight",),
    ),
    "hunyuan-a13b": (
        "hunyuan-moe",
        {
            "block_count": 32,
            "embedding_length": 4096,
            "feed_forward_length": 3072,
            "expert_feed_forward_length": 3072,
            "expert_shared_feed_forward_length": 3072,
            "expert_count": 64,
            "expert_used_count": 8,
            "attention.key_length": 128,
            "heads": 32,
            "kv": 8,
            "vocab": 128_167,
        },
        ("blk.0.attn_q_norm.weight",),
    ),
}
_SHORT = {"heads": "attention.head_count", "kv": "attention.head_count_kv", "vocab": "vocab_size"}


@pytest.mark.parametrize("name", CONVERTED)
def test_gguf_architectures(tmp_path: Path, name: str) -> None:
    """The metadata of a converted model gives the parameters of the original."""
    arch, keys, present = CONVERTED[name]
    metadata = {"general.architecture": arch, **{f"{arch}.{_SHORT.get(k, k)}": v for k, v in keys.items()}}
    write_gguf(tmp_path / "m.gguf", metadata, [(tensor, (32,), "fp32") for tensor in present])
    assert load_model(tmp_path / "m.gguf").transformer.parameters() == find_model(name).parameters


@pytest.mark.parametrize("label", sorted(TYPE_IDS))
def test_every_ggml_type_has_whole_blocks(tmp_path: Path, label: str) -> None:
    """Rows of 256 are whole blocks of every type."""
    _, block, size = GGML_TYPES[TYPE_IDS[label]]
    write_gguf(tmp_path / "one.gguf", {"general.architecture": "llama"}, [("t", (256, 3), label)])
    assert read_gguf(tmp_path / "one.gguf").weight_bytes == 256 * 3 // block * size


# ---- other doors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["json", "yaml", "toml"])
def test_config_files(tmp_path: Path, suffix: str) -> None:
    """A config alone: no exact bytes, named for its folder."""
    path = tmp_path / f"config.{suffix}"
    if suffix == "toml":
        path.write_text("\n".join(f"{k} = {json.dumps(v)}" for k, v in CONFIG.items()))
    else:
        path.write_text(json.dumps(CONFIG))  # JSON is YAML
    model = load_model(str(path))
    assert model.weight_bytes is None
    assert model.name == tmp_path.name
    assert model.transformer.depth == 2


def test_names(tmp_path: Path) -> None:
    """A repository in the local cache keeps its name; a path of the training machine is no name."""
    folder = tmp_path / "models--my-org--My-Model" / "snapshots" / "0123abc"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    assert load_model(folder).name == "my-org/My-Model"
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "_name_or_path": "/home/me/run-7"}))
    assert load_model(tmp_path).name == tmp_path.name
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "_name_or_path": "my-org/other"}))
    assert load_model(tmp_path).name == "my-org/other"


def test_missing_shards_are_said(tmp_path: Path) -> None:
    """Bytes are exact or absent, never partial."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    table = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    model = load_model(tmp_path)
    assert model.weight_bytes is None
    assert any("2 of 2 weight files" in note for note in model.transformer.notes)


def test_folder_of_the_same_name_as_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bare name is the catalogue's unless the folder holds a model."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gpt2").mkdir()
    assert load_model("gpt2").entry is not None
    (tmp_path / "gpt2" / "config.json").write_text(json.dumps(CONFIG))
    assert load_model("gpt2").entry is None


# ---- bad input -------------------------------------------------------------------------------------------------------


def _sparse(path: Path, size: int, start: bytes = b"") -> None:
    with path.open("wb") as file:
        file.write(start)
        file.truncate(size)


def _write(name: str, content: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "config.json").write_text(json.dumps(CONFIG))
        path = folder / name
        path.write_bytes(content)
        return path

    return make


def _hole(name: str, size: int, start: bytes = b"") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "config.json").write_text(json.dumps(CONFIG))
        _sparse(folder / name, size, start)
        return folder / name

    return make


def _endless(folder: Path) -> Path:
    """Five texts of 16 MiB, each allowed, together too much; all holes."""
    path = folder / "m.gguf"
    with path.open("wb") as file:
        file.write(START + struct.pack("<QQ", 0, 5))
        for i in range(5):
            file.write(_text(f"key{i}") + struct.pack("<IQ", 8, 2**24))
            file.seek(2**24, 1)
        file.truncate()
    return path


def _header(entry: Any, data: int = 64) -> bytes:
    text = json.dumps(entry).encode()
    return struct.pack("<Q", len(text)) + text + bytes(data)


BOMB = "\n".join(
    ["a: &a [x, x, x, x]"] + [f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]" for i in range(20)]
)
FINE = gguf_header(LLAMA_METADATA, [("token_embd.weight", (256, 8), "q4_k")])[0]
START = b"GGUF" + struct.pack("<I", 3)

BAD: Mapping[str, tuple[Callable[[Path], Path], str]] = {
    "malformed json": (_write("bad.json", b'{"model_type": "llama",'), "malformed JSON"),
    "json list": (_write("bad.json", b"[1, 2]"), "expected a table"),
    "json of great depth": (_write("bad.json", b"[" * 200_000), "malformed JSON"),
    "json of no text": (_write("bad.json", b"\xff\xfe\x00"), "is UTF-16"),
    "huge number": (_write("bad.json", b'{"model_type": "llama", "hidden_size": ' + b"9" * 6000 + b"}"), "bad.json"),
    "1 GB json": (_hole("bad.json", 10**9), "at most 8 MiB"),
    "yaml bomb": (_write("bad.yaml", BOMB.encode()), "aliases are not accepted"),
    "yaml object": (_write("bad.yaml", b"!!python/object/apply:os.system ['true']"), "malformed YAML"),
    "pickle": (_write("pytorch_model.bin", b"\x80\x04."), "may hold code"),
    "unknown ending": (_write("model.docx", b""), "cannot tell"),
    "empty safetensors": (_write("m.safetensors", b""), "truncated"),
    "header beyond the file": (_write("m.safetensors", struct.pack("<Q", 10**6) + b"{}"), "truncated"),
    "header above the limit": (_hole("m.safetensors", 16, struct.pack("<Q", MAX_HEADER + 1)), "are accepted"),
    "header of no json": (_write("m.safetensors", struct.pack("<Q", 4) + b"nope"), "malformed header"),
    "header a list": (_write("m.safetensors", _header([])), "expected a table"),
    "unknown dtype": (
        _write("m.safetensors", _header({"w": {"dtype": "F1", "shape": [1], "data_offsets": [0, 1]}})),
        "unknown dtype",
    ),
    "negative shape": (
        _write("m.safetensors", _header({"w": {"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]}})),
        "list of sizes",
    ),
    "offsets outside": (
        _write("m.safetensors", _header({"w": {"dtype": "F32", "shape": [2**52], "data_offsets": [0, 2**54]}})),
        "expected [begin, end] up to",
    ),
    "offsets and shape": (
        _write("m.safetensors", _header({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 8]}})),
        "does not fill",
    ),
    "empty gguf": (_write("m.gguf", b""), "truncated"),
    "not gguf": (_write("m.gguf", b"GGML" + bytes(64)), "not a GGUF"),
    "old gguf": (_write("m.gguf", b"GGUF" + struct.pack("<I", 1) + bytes(64)), "version 1"),
    "big-endian gguf": (_write("m.gguf", b"GGUF" + struct.pack(">I", 3) + bytes(64)), "big-endian"),
    "gguf cut in the metadata": (_write("m.gguf", FINE[:200]), "truncated"),
    "gguf of many tensors": (_write("m.gguf", START + struct.pack("<QQ", 2**60, 0)), "tensors"),
    "gguf of many entries": (_write("m.gguf", START + struct.pack("<QQ", 0, 2**60)), "metadata entries"),
    "gguf long key": (_write("m.gguf", START + struct.pack("<QQQ", 0, 1, 2**50)), "are accepted"),
    "gguf long array": (
        _write("m.gguf", START + struct.pack("<QQ", 0, 1) + _text("k") + struct.pack("<IIQ", 9, 8, 2**50)),
        "are accepted",
    ),
    "gguf endless header": (_endless, "header of more than"),
    "gguf deep array": (
        _write(
            "m.gguf",
            START + struct.pack("<QQ", 0, 1) + _text("k") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 50,
        ),
        "nested",
    ),
    "gguf unknown type": (
        _write("m.gguf", START + struct.pack("<QQ", 0, 1) + _text("k") + struct.pack("<I", 99)),
        "unknown metadata type",
    ),
    "gguf without architecture": (_write("m.gguf", gguf_header({"a": 1}, [])[0] + bytes(64)), "architecture"),
    "gguf without sizes": (
        _write("m.gguf", gguf_header({"general.architecture": "llama"}, [])[0] + bytes(64)),
        "required field",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_give_one_clear_line(tmp_path: Path, case: str) -> None:
    """Refused with an InputError (exit code 2) that says what is wrong."""
    make, expected = BAD[case]
    with pytest.raises(InputError) as caught:
        load_model(make(tmp_path))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_unknown_architecture(tmp_path: Path) -> None:
    """Read from its tensors, which say what it is; without them the nearest known ones are named."""
    metadata = {k.replace("llama.", "lama."): v for k, v in LLAMA_METADATA.items()} | {"general.architecture": "lama"}
    write_gguf(tmp_path / "m.gguf", metadata, llama_8b_q4_k_m())
    model = load_model(tmp_path / "m.gguf")
    assert model.transformer.parameters() == 8_030_261_248
    assert float(model.transformer.kv_elements(1000)) == 1000 * 2 * 8 * 128 * 32
    assert "'lama' is not known (the nearest is llama)" in model.transformer.notes[0]
    write_gguf(tmp_path / "none.gguf", metadata, [("blk.0.x", (32,), "fp32")])
    with pytest.raises(UnknownName, match="did you mean 'llama'"):
        load_model(tmp_path / "none.gguf")


def test_layers_that_differ_in_a_gguf(tmp_path: Path) -> None:
    """Of an architecture whose family has equal layers: heads of each layer, and one without attention."""
    keys = {"block_count": 3, "embedding_length": 256, "attention.head_count": [8, 4, 0], "vocab_size": 1000}
    keys |= {"attention.head_count_kv": [2, 4, 0], "attention.key_length": 64, "feed_forward_length": [512, 1024, 256]}
    metadata = {"general.architecture": "llama", **{f"llama.{k}": v for k, v in keys.items()}}
    tensors: list[tuple[str, tuple[int, ...], str]] = [("token_embd.weight", (256, 1000), "fp16")]
    tensors += [("output_norm.weight", (256,), "fp32")]
    for i, (heads, groups, width) in enumerate([(8, 2, 512), (4, 4, 1024), (0, 0, 256)]):
        parts = {"attn_q": heads * 64, "attn_k": groups * 64, "attn_v": groups * 64} if heads else {}
        tensors += [(f"blk.{i}.{name}.weight", (256, rows), "fp16") for name, rows in parts.items()]
        tensors += [(f"blk.{i}.attn_output.weight", (heads * 64, 256), "fp16")] if heads else []
        tensors += [(f"blk.{i}.{name}.weight", (256, width), "fp16") for name in ("ffn_gate", "ffn_up")]
        tensors += [(f"blk.{i}.ffn_down.weight", (width, 256), "fp16"), (f"blk.{i}.ffn_norm.weight", (256,), "fp32")]
    write_gguf(tmp_path / "m.gguf", metadata, tensors)
    model = load_model(tmp_path / "m.gguf")
    assert float(model.transformer.kv_elements(10)) == 10 * 2 * 64 * (2 + 4)
    assert model.structure is not None and model.structure.unknown == 0
    assert "layers of 'llama' differ" in model.transformer.notes[0]


def test_folder_without_a_model(tmp_path: Path) -> None:
    """One line that says what is looked for."""
    with pytest.raises(InputError, match=r"neither a config\.json nor a \.gguf"):
        load_model(tmp_path)


def test_safetensors_needs_its_config(tmp_path: Path) -> None:
    """Shapes alone do not tell the heads apart."""
    write_safetensors(tmp_path / "m.safetensors", [("w", (4, 4), "BF16")])
    with pytest.raises(InputError, match=r"config\.json"):
        load_model(tmp_path / "m.safetensors")


@pytest.mark.parametrize("name", ["../other.safetensors", "/etc/passwd", "sub/x.safetensors"])
def test_an_index_names_files_beside_it(tmp_path: Path, name: str) -> None:
    """No path out of the folder."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(InputError, match="weight_map"):
        load_model(tmp_path)


@pytest.mark.parametrize("path", ["./nowhere", "nowhere/config.json", "/nowhere/at/all.gguf", "~nobody/x.json"])
def test_missing_paths(path: str) -> None:
    """What looks like a path is never looked up as a name."""
    with pytest.raises(InputError, match="no file or folder"):
        load_model(path)


def test_a_large_vocabulary_is_skipped_not_kept(tmp_path: Path) -> None:
    """Only the length of a long array stays."""
    tokens = [f"t{i}" for i in range(50_000)]
    write_gguf(tmp_path / "m.gguf", {**LLAMA_METADATA, "tokenizer.ggml.tokens": tokens}, [])
    assert int(read_gguf(tmp_path / "m.gguf").metadata["tokenizer.ggml.tokens"]) == 50_000


def test_formats_by_tensor(tmp_path: Path) -> None:
    """Bytes per dtype, and a remark when the file does not hold the model of the config."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    write_safetensors(tmp_path / "model.safetensors", [("a", (64, 32), "F32"), ("b", (5,), "F32")])
    assert read_safetensors(tmp_path / "model.safetensors").bytes_by_format == {"fp32": 4 * (64 * 32 + 5)}
    assert any("hold 2,053 elements" in note for note in load_model(tmp_path).transformer.notes)


def test_sparse_files_stay_sparse(tmp_path: Path) -> None:
    """The headers above cost no disk: nothing of the data is written or read."""
    write_gguf(tmp_path / "m.gguf", LLAMA_METADATA, llama_8b_q4_k_m())
    status = (tmp_path / "m.gguf").stat()
    assert status.st_size > 4e9
    assert status.st_blocks * 512 < 2**20


def test_gguf_of_layers_that_differ(tmp_path: Path) -> None:
    """Gemma 4: heads, widths and which layers are full are read from the shapes of the tensors."""
    entry = find_model("gemma-4-31b").config["text_config"]
    depth, hidden, heads = 60, 5376, 32
    tensors: list[tuple[str, tuple[int, ...], str]] = [
        ("token_embd.weight", (hidden, 262_144), "bf16"),
        ("blk.0.ffn_up.weight", (hidden, 21_504), "bf16"),
        (f"blk.{depth - 1}.ffn_up.weight", (hidden, 21_504), "bf16"),
    ]
    for i in range(depth):
        full = (i + 1) % 6 == 0
        width, groups = (512, 4) if full else (256, 16)
        tensors.append((f"blk.{i}.attn_q.weight", (hidden, heads * width), "bf16"))
        tensors.append((f"blk.{i}.attn_k.weight", (hidden, groups * width), "bf16"))
        if not full:
            tensors.append((f"blk.{i}.attn_v.weight", (hidden, groups * width), "bf16"))
    metadata = {
        "general.architecture": "gemma4",
        "gemma4.block_count": depth,
        "gemma4.embedding_length": hidden,
        "gemma4.attention.head_count": heads,
        "gemma4.attention.head_count_kv": [16, 16, 16, 16, 16, 4] * 10,
        "gemma4.feed_forward_length": [21_504] * depth,
        "gemma4.attention.key_length": 512,
        "gemma4.attention.key_length_swa": 256,
        "gemma4.attention.sliding_window": entry["sliding_window"],
    }
    write_gguf(tmp_path / "gemma.gguf", metadata, tensors)
    model, named = load_model(tmp_path / "gemma.gguf").transformer, load_model("gemma-4-31b").transformer
    assert model.parameters() == named.parameters()
    assert float(model.kv_elements(10_000)) == float(named.kv_elements(10_000))


def test_a_generic_gguf_is_refused_where_it_has_a_state(tmp_path: Path) -> None:
    """An architecture nobody described that keeps a state is no Llama."""
    keys = {"block_count": 2, "embedding_length": 256, "feed_forward_length": 512, "vocab_size": 1000}
    metadata: dict[str, Any] = {"general.architecture": "new_arch", **{f"new_arch.{k}": v for k, v in keys.items()}}
    metadata["new_arch.attention.head_count"] = 8
    write_gguf(tmp_path / "plain.gguf", metadata, [("blk.0.x", (32,), "fp32")])
    assert load_model(tmp_path / "plain.gguf", generic=True).transformer.depth == 2
    write_gguf(tmp_path / "state.gguf", {**metadata, "new_arch.ssm.state_size": 16}, [("blk.0.x", (32,), "fp32")])
    with pytest.raises(InputError, match="generic reading would leave out"):
        load_model(tmp_path / "state.gguf", generic=True)
