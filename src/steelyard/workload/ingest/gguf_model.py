"""From a GGUF header to a model: its metadata keys become a config that the families read."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from steelyard.documents import is_file
from steelyard.errors import InputError, Problem, UnknownName, printable
from steelyard.workload.families import read_config
from steelyard.workload.ingest.gguf import GgufHeader, Length, read_gguf
from steelyard.workload.ingest.gguf_metadata import LayersDiffer, Metadata
from steelyard.workload.ingest.gguf_states import STATES, latent
from steelyard.workload.ingest.safetensors import TensorInfo, elements_note
from steelyard.workload.ingest.stored import gguf_formats
from steelyard.workload.model import Model
from steelyard.workload.protocol import Workload, restated
from steelyard.workload.structure import Structure, read_structure, torch_name

__all__ = ["config_of", "first_parts", "load_gguf"]

_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf$")
_MOST_PARTS = 1000


def first_parts(files: Sequence[Path]) -> list[Path]:
    """The files without the later parts of split models."""
    return [f for f in files if (m := _PART.match(f.name)) is None or int(m.group(2)) == 1]


def load_gguf(path: Path, *, generic: bool = False) -> Model:
    """The model in a GGUF file, or in all parts of a split one. Of a file the header is enough.

    Raises:
        InputError: see :func:`~steelyard.workload.ingest.gguf.read_gguf`; the first part is missing; metadata is
            incomplete.
        UnknownName: the architecture is not known.
    """
    first, others, absent = _parts(path)
    headers = [read_gguf(part) for part in (first, *others)]
    tensors = tuple(t for part in headers for t in part.tensors)
    short = sum(part.missing_bytes for part in headers)
    header = GgufHeader(headers[0].version, headers[0].metadata, tensors, short)
    name = printable(str(header.metadata.get("general.name") or path.stem))[:200]
    try:
        model, structure = _read(header, name, generic, whole=not absent)
    except UnknownName:
        raise
    except InputError as error:
        found = [_named(p, header) for p in error.problems]
        message = f"{found[0].message} (from the metadata of {path.name})"
        raise InputError(message, field=found[0].field, problems=found) from None
    main, blocks = gguf_formats(header.tensors)
    note = elements_note(model.parameters(), sum(t.elements for t in header.tensors)) if not absent else ()
    if absent:
        note = (
            f"{absent} of {1 + len(others) + absent} parts of {printable(path.name)[:80]} are not there; estimated",
        )
    elif short:
        there = f"{max(0, header.weight_bytes - short) / 2**30:.2f} of {header.weight_bytes / 2**30:.2f} GiB"
        note += (f"{there} of {printable(path.name)[:80]} are there; sizes are those of its header",)
    model = restated(model, native_weights=main, native_formats=blocks, native_kv="", notes=(*model.notes, *note))
    return Model(
        name,
        model,
        f"file {path.name}",
        weight_bytes=None if absent else header.weight_bytes,
        tensor_bytes={} if absent else header.bytes_by_format,
        engine="llamacpp",
        structure=structure,
    )


def _read(header: GgufHeader, name: str, generic: bool, *, whole: bool) -> tuple[Workload, Structure | None]:
    """The model of a header: by its metadata, or by its tensors where metadata does not tell."""
    whole = whole and any(t.name == "token_embd.weight" for t in header.tensors)
    if not whole or header.metadata.get("general.architecture") in (None, *_ARCHITECTURES):
        try:
            return read_config(config_of(header, generic=generic), name=name, generic=generic), None
        except LayersDiffer:
            if not whole:
                raise
    return _by_structure(header, name, generic)


def _by_structure(header: GgufHeader, name: str, generic: bool) -> tuple[Workload, Structure]:
    """The model of an architecture nobody described, from its tensors; metadata says what shapes do not."""
    arch = header.metadata.get("general.architecture")
    if not isinstance(arch, str) or not arch:
        raise InputError("the file does not name its architecture", field="general.architecture")
    m = Metadata(header, arch)
    depth, ahead = m.get("block_count"), m.get("nextn_predict_layers")
    if isinstance(depth, int) and isinstance(ahead, int):
        depth -= ahead
    told: dict[str, Any] = {"model_type": arch, "num_hidden_layers": depth}
    told |= {key: m.get(stated) for key, stated in _TOLD.items()}
    pattern = m.get("attention.sliding_window_pattern")
    if isinstance(pattern, tuple):
        told["layer_types"] = ["sliding_attention" if x else "full_attention" for x in pattern]
    elif isinstance(pattern, int):
        told["sliding_window_pattern"] = pattern
    config = {k: v for k, v in told.items() if v is not None and not isinstance(v, Length)}
    tensors = [TensorInfo(torch_name(t.name), t.shape[::-1], t.format, t.bytes) for t in header.tensors]
    return read_structure(tensors, config, name=name, asked=generic)


#: What the shapes of tensors do not tell: our key, and the key of the metadata after its architecture.
_TOLD: Mapping[str, str] = {
    "hidden_size": "embedding_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "kv_lora_rank": "attention.kv_lora_rank",
    "sliding_window": "attention.sliding_window",
    "max_position_embeddings": "context_length",
    "num_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
    "ssm_state_size": "ssm.state_size",
    "linear_key_head_dim": "ssm.state_size",
    "index_topk": "attention.indexer.top_k",
}

#: Keys of the metadata under the names that families of configs give what they hold, where it is missing.
_KEYS: Mapping[str, str] = {
    **_TOLD,
    **dict.fromkeys(("n_routed_experts", "num_local_experts", "moe_num_experts"), "expert_count"),
    **dict.fromkeys(("moe_topk", "moe_k"), "expert_used_count"),
    "moe_intermediate_size": "expert_feed_forward_length",
    "num_hidden_layers": "block_count",
    "intermediate_size": "feed_forward_length",
    "linear_num_key_heads": "ssm.group_count",
    "linear_num_value_heads": "ssm.time_step_rank",
    "linear_value_head_dim": "ssm.inner_size",
}


def _named(problem: Problem, header: GgufHeader) -> Problem:
    """A problem of a config under the key of the metadata it was read from."""
    key, missing = _KEYS.get(problem.field), "required field is missing"
    if key is None or not problem.message.startswith(missing):
        return problem
    return Problem(f"{header.metadata.get('general.architecture')}.{key}", missing)


def _parts(path: Path) -> tuple[Path, list[Path], int]:
    """The first part of a model, the others that are there, and how many are not."""
    match = _PART.match(path.name)
    if match is None:
        return path, [], 0
    count = int(match.group(3))
    if count > _MOST_PARTS:
        raise InputError(f"{count} parts; at most {_MOST_PARTS} are accepted", field=path.name)
    files = [path.with_name(f"{match.group(1)}-{i:05d}-of-{match.group(3)}.gguf") for i in range(1, count + 1)]
    if not files or not is_file(files[0]):
        name = files[0].name if files else path.name
        raise InputError(
            f"the first part {printable(name)[:80]!r}, which describes the model, is not there", field=path.name
        )
    others = [f for f in files[1:] if is_file(f)]
    return files[0], others, count - 1 - len(others)


#: Metadata that says a model has parts no Llama has.
_OTHER_PARTS = re.compile(r"ssm|wkv|time_mix|shortconv|recurrent|altup|per_layer|shared_kv|indexer|kda|compress|latent")


def _common(m: Metadata) -> dict[str, Any]:
    table = m.shape("token_embd.weight")
    tokens = m.header.metadata.get("tokenizer.ggml.tokens")
    vocab = table[1] if len(table) == 2 else m.number("vocab_size")
    if vocab is None and isinstance(tokens, Length | tuple):
        vocab = int(tokens) if isinstance(tokens, Length) else len(tokens)
    heads, width = m.number("attention.head_count"), m.number("attention.key_length")
    hidden = m.number("embedding_length")
    if width is None and heads and hidden:
        width = hidden // heads
    rotary = m.number("rope.dimension_count")
    bias = m.has("attn_q.bias", "attn_qkv.bias")
    depth, ahead = m.number("block_count"), m.number("nextn_predict_layers") or 0
    return {
        "hidden_size": hidden,
        "num_hidden_layers": depth - ahead if depth is not None else None,
        "num_attention_heads": heads,
        "num_key_value_heads": m.number("attention.head_count_kv") or heads,
        "head_dim": width,
        "intermediate_size": m.number("feed_forward_length") or next(iter(m.shape("blk.0.ffn_up.weight")[1:]), None),
        "vocab_size": vocab,
        "max_position_embeddings": m.number("context_length"),
        "tie_word_embeddings": not m.shape("output.weight"),
        "sliding_window": m.number("attention.sliding_window"),
        "partial_rotary_factor": min(1.0, rotary / width) if rotary and width else None,
        "attention_bias": bias,
        "mlp_bias": m.has("ffn_up.bias"),
        "use_qk_norm": m.has("attn_q_norm.weight"),
    }


def _experts(m: Metadata, count: str = "num_experts", width: str = "moe_intermediate_size") -> dict[str, Any]:
    return {
        count: m.number("expert_count"),
        "num_experts_per_tok": m.number("expert_used_count"),
        width: m.number("expert_feed_forward_length") or m.number("feed_forward_length"),
    }


def _llama(m: Metadata) -> dict[str, Any]:
    if not m.number("expert_count"):
        return {"model_type": "llama"}
    return {"model_type": "mixtral", **_experts(m, "num_local_experts", "intermediate_size")}


def _llama4(m: Metadata) -> dict[str, Any]:
    return {
        "model_type": "llama4_text",
        **_experts(m, "num_local_experts", "intermediate_size"),
        "intermediate_size_mlp": m.number("feed_forward_length"),
        "interleave_moe_layer_step": m.number("interleave_moe_layer_step"),
    }


def _qwen_moe(m: Metadata) -> dict[str, Any]:
    return {**_experts(m), "shared_expert_intermediate_size": m.number("expert_shared_feed_forward_length")}


def _deepseek(m: Metadata) -> dict[str, Any]:
    corrected = m.has("exp_probs_b.bias")
    return {
        "model_type": "deepseek_v3" if corrected else "deepseek_v2",
        **_experts(m, "n_routed_experts"),
        "n_shared_experts": m.number("expert_shared_count"),
        **latent(m),
    }


def _glm4moe(m: Metadata) -> dict[str, Any]:
    shared = {"n_shared_experts": m.number("expert_shared_count")}
    return {**_experts(m, "n_routed_experts"), **shared, "first_k_dense_replace": m.number("leading_dense_block_count")}


def _routed(m: Metadata) -> dict[str, Any]:
    """Experts as most newer families have them: shared ones, leading dense layers, a bias on the router or not."""
    return {
        **_experts(m),
        "n_shared_experts": m.number("expert_shared_count"),
        "shared_expert_intermediate_size": m.number("expert_shared_feed_forward_length"),
        "first_k_dense_replace": m.number("leading_dense_block_count"),
        "moe_router_enable_expert_bias": m.has("exp_probs_b.bias"),
    }


def _hunyuan_moe(m: Metadata) -> dict[str, Any]:
    width, shared = m.number("expert_feed_forward_length"), m.number("expert_shared_feed_forward_length")
    return {
        "num_experts": m.number("expert_count"),
        "moe_topk": m.number("expert_used_count"),
        "moe_intermediate_size": width,
        "num_shared_expert": shared // width if shared and width else 1,
    }


def _ernie_moe(m: Metadata) -> dict[str, Any]:
    width, shared = m.number("expert_feed_forward_length"), m.number("expert_shared_feed_forward_length")
    return {**_routed(m), "n_shared_experts": shared // width if shared and width else m.number("expert_shared_count")}


def _gemma3n(m: Metadata) -> dict[str, Any]:
    table = m.shape("per_layer_token_embd.weight")
    return {
        "hidden_size_per_layer_input": m.number("embedding_length_per_layer_input"),
        "vocab_size_per_layer_input": table[1] if len(table) == 2 else None,
        "num_kv_shared_layers": m.number("attention.shared_kv_layers"),
        "altup_num_inputs": m.number("altup.num_inputs"),
    }


def _gemma4(m: Metadata) -> dict[str, Any]:
    """Which layers are full, and their heads, stand in the shapes of the tensors: the metadata has one per layer."""
    wide, narrow = m.number("attention.key_length"), m.number("attention.key_length_swa")
    heads, depth = m.number("attention.head_count"), m.depth

    def outer(name: str) -> int:
        shape = m.shape(name)
        return shape[1] if len(shape) == 2 else 0

    full = [
        bool(wide and heads) and outer(f"blk.{i}.attn_q.weight") == (heads or 0) * (wide or 0) for i in range(depth)
    ]
    found: dict[str, Any] = {
        "head_dim": narrow or wide,
        "global_head_dim": wide,
        "hidden_size_per_layer_input": m.number("embedding_length_per_layer_input") or 0,
        "num_kv_shared_layers": m.number("attention.shared_kv_layers"),
    }
    if any(full) and not all(full):
        found["layer_types"] = ["full_attention" if mark else "sliding_attention" for mark in full]
        near, far = full.index(False), full.index(True)
        found["num_key_value_heads"] = outer(f"blk.{near}.attn_k.weight") // (narrow or wide or 1) or None
        found["attention_k_eq_v"] = not m.shape(f"blk.{far}.attn_v.weight")
        found["num_global_key_value_heads"] = outer(f"blk.{far}.attn_k.weight") // (wide or 1) or None
    first, last = outer("blk.0.ffn_up.weight"), outer(f"blk.{depth - 1}.ffn_up.weight")
    if first:
        found |= {"intermediate_size": first, "use_double_wide_mlp": last == 2 * first}
    if m.number("expert_count"):
        found |= {**_experts(m), "enable_moe_block": True}
    return found


def _falcon(m: Metadata) -> dict[str, Any]:
    groups = m.number("attention.head_count_kv") or 1
    return {
        "new_decoder_architecture": groups > 1,
        "num_kv_heads": groups,
        "num_ln_in_parallel_attn": 2 if m.has("attn_norm_2.weight") else 1,
        "ffn_hidden_size": m.number("feed_forward_length"),
    }


def _qwen_hybrid(m: Metadata) -> dict[str, Any]:
    values, inner = m.number("ssm.time_step_rank"), m.number("ssm.inner_size")
    return {
        "linear_num_key_heads": m.number("ssm.group_count"),
        "linear_num_value_heads": values,
        "linear_key_head_dim": m.number("ssm.state_size"),
        "linear_value_head_dim": inner // values if inner and values else None,
        "linear_conv_kernel_dim": m.number("ssm.conv_kernel"),
        "full_attention_interval": m.number("full_attention_interval"),
    }


def _stablelm(m: Metadata) -> dict[str, Any]:
    return {
        "use_qkv_bias": m.has("attn_q.bias"),
        "use_parallel_residual": not m.has("ffn_norm.weight"),
        "qk_layernorm": m.has("attn_q_norm.weight"),
    }


_Extra = Callable[[Metadata], dict[str, Any]]


def _nothing(_: Metadata) -> dict[str, Any]:
    return {}


#: ``general.architecture`` -> (``model_type``, what to add to the common keys; a ``model_type`` there wins).
_ARCHITECTURES: Mapping[str, tuple[str, _Extra]] = {
    "llama": ("llama", _llama),
    "llama4": ("llama4_text", _llama4),
    "mistral3": ("ministral3", _nothing),
    "baichuan": ("baichuan", _nothing),
    "qwen2": ("qwen2", _nothing),
    "qwen2vl": ("qwen2_vl", _nothing),
    "qwen2moe": ("qwen2_moe", _qwen_moe),
    "qwen3": ("qwen3", _nothing),
    "qwen3vl": ("qwen3_vl_text", _nothing),
    "qwen3moe": ("qwen3_moe", _experts),
    "qwen3vlmoe": ("qwen3_vl_moe_text", _experts),
    "qwen3next": ("qwen3_next", lambda m: {**_qwen_moe(m), **_qwen_hybrid(m)}),
    "qwen35": ("qwen3_5", _qwen_hybrid),
    "qwen35moe": ("qwen3_5_moe", lambda m: {**_qwen_moe(m), **_qwen_hybrid(m)}),
    "gemma": ("gemma", _nothing),
    "gemma2": ("gemma2", _nothing),
    "gemma3": ("gemma3_text", _nothing),
    "phi2": ("phi", _nothing),
    "phi3": ("phi3", _nothing),
    "phimoe": (
        "phimoe",
        lambda m: {
            **_experts(m, "num_local_experts", "intermediate_size"),
            "lm_head_bias": bool(m.shape("output.bias")),
        },
    ),
    "deepseek2": ("deepseek_v3", _deepseek),
    "gpt-oss": ("gpt_oss", lambda m: _experts(m, "num_local_experts", "intermediate_size")),
    "command-r": ("cohere", _nothing),
    "cohere2": ("cohere2", _nothing),
    "starcoder2": ("starcoder2", _nothing),
    "starcoder": (
        "gpt_bigcode",
        lambda m: {"n_inner": m.number("feed_forward_length"), "multi_query": m.number("attention.head_count_kv") == 1},
    ),
    "falcon": ("falcon", _falcon),
    "gpt2": ("gpt2", lambda m: {"n_inner": m.number("feed_forward_length")}),
    "gptneox": ("gpt_neox", _nothing),
    "bloom": ("bloom", _nothing),
    "stablelm": ("stablelm", _stablelm),
    "nemotron": ("nemotron", _nothing),
    "internlm2": ("internlm2", _nothing),
    "chatglm": ("glm", _nothing),
    "glm4": ("glm4", _nothing),
    "glm4moe": ("glm4_moe", _glm4moe),
    "minimax-m2": ("minimax_m2", lambda m: _experts(m, "num_local_experts", "intermediate_size")),
    "olmo": ("olmo", _nothing),
    "olmo2": ("olmo2", _nothing),
    "olmoe": ("olmoe", lambda m: _experts(m, width="intermediate_size")),
    "granite": ("granite", _nothing),
    "granitemoe": ("granitemoe", lambda m: _experts(m, "num_local_experts", "intermediate_size")),
    "smollm3": ("smollm3", _nothing),
    "seed_oss": ("seed_oss", _nothing),
    "exaone": ("exaone", _nothing),
    "exaone4": ("exaone4", _nothing),
    "hunyuan-dense": ("hunyuan_v1_dense", _nothing),
    "hunyuan-moe": ("hunyuan_v1_moe", _hunyuan_moe),
    "dots1": ("dots1", _routed),
    "ernie4_5": ("ernie4_5", _nothing),
    "ernie4_5-moe": ("ernie4_5_moe", _ernie_moe),
    "bailingmoe": ("bailing_moe", _routed),
    "bailingmoe2": ("bailing_moe_v2", _routed),
    "afmoe": ("afmoe", _routed),
    "apertus": ("apertus", _nothing),
    "arcee": ("arcee", _nothing),
    "jais2": ("jais2", _nothing),
    "minicpm": ("minicpm", _nothing),
    "gemma3n": ("gemma3n_text", _gemma3n),
    "gemma4": ("gemma4_text", _gemma4),
    "exaone-moe": ("exaone_moe", _routed),
    **STATES,
    "nomic-bert": ("nomic_bert", lambda m: {"type_vocab_size": next(iter(m.shape("token_types.weight")[1:]), 0)}),
    "bert": ("bert", _nothing),
}


def config_of(header: GgufHeader, *, generic: bool = False) -> dict[str, Any]:
    """The config a GGUF header amounts to.

    Args:
        header: what was read.
        generic: treat an unknown architecture as a Llama-like decoder.

    Raises:
        UnknownName: the architecture is not known.
        InputError: the file names no architecture, or its layers differ in a way not known here.
    """
    arch = header.metadata.get("general.architecture")
    if not isinstance(arch, str) or not arch:
        raise InputError("the file does not name its architecture", field="general.architecture")
    if arch not in _ARCHITECTURES and not generic:
        raise UnknownName("general.architecture", arch, _ARCHITECTURES)
    model_type, extra = _ARCHITECTURES.get(arch, (arch, _llama))
    m = Metadata(header, arch)
    config = {"model_type": model_type, **_common(m), **extra(m)}
    if arch not in _ARCHITECTURES:
        config["model_type"] = arch
        own = ((k.partition(".")[2], v) for k, v in header.metadata.items() if k.startswith(f"{arch}."))
        config |= {f"{arch}.{k}": v for k, v in own if _OTHER_PARTS.search(k) and isinstance(v, int) and v > 0}
    return {k: v for k, v in config.items() if v is not None}
