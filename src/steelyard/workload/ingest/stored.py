"""How the weights of a model are stored, from the tensors of its files: exact bits per weight of each part."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from steelyard.workload.families._native import bits_of, named
from steelyard.workload.ingest.gguf import GGML_TYPES
from steelyard.workload.ingest.safetensors import TensorInfo
from steelyard.workload.op import part_of
from steelyard.workload.protocol import Workload
from steelyard.workload.step import Step
from steelyard.workload.structure.names import place_of
from steelyard.workload.tower import Tower

__all__ = ["arithmetic_bytes", "gguf_formats", "held_towers", "stored_formats"]

#: Bits per weight of each GGML type.
_BITS: Mapping[str, float] = {name: 8 * size / block for name, block, size in GGML_TYPES.values()}
#: Stated and stored bits may differ by this share without a word (scales per row, index tables).
_ALIKE = 0.002
#: What tensors are stored in when the config does not say, by the type most bytes are in; packed ones by their bits.
_PLAIN: Mapping[str, str] = {"fp8": "fp8", "int8": "int8_weight_only", "bf16": "bf16", "fp16": "fp16"}
_PACKED: Mapping[int, str] = {1: "binary", 2: "int2", 3: "int3", 4: "int4", 5: "int5", 6: "int6", 8: "int8_weight_only"}

_LAYER = re.compile(r"(?:layers|h|blocks|layer)\.(\d+)\.")
_OUTSIDE = re.compile(r"visual|vision|audio|image|tower|multi_modal|mtp|projector|speech")
#: Parts by the words of tensor names, the first that is found.
_WORDS: tuple[tuple[str, str], ...] = (
    (r"(^|\.)(lm_head|output|embed_out)\.", "head"),
    (r"embed_tokens|\bwte\b|word_embeddings|tok_embeddings|embed_in", "embedding"),
    (r"shared_expert_gate|mlp\.gate\.|\.router\.|block_sparse_moe\.gate\.|e_score_correction", "router"),
    (r"shared_experts?\.|shared_mlp\.", "shared"),
    (r"\.experts\.|\.experts_", "moe"),
    (r"norm", ""),
    (r"mlp|feed_forward|\.ffn|\.fc[12]\.", "mlp"),
    (r"attn|attention|mixer|mamba|\.conv|linear_attn|indexer", "attention"),
)


def stored_formats(model: Workload, tensors: Iterable[TensorInfo]) -> dict[str, Any]:
    """What the tensors of safetensors files change in the formats that a config states, as fields of the model.

    Args:
        model: as its config describes it.
        tensors: of all files.
    """
    sizes: dict[str, dict[str, int]] = {}
    for tensor in tensors:
        table = sizes.setdefault(_part(tensor.name, model.depth), {})
        table[tensor.format] = table.get(tensor.format, 0) + tensor.bytes
    graph = model.graph(Step.prefill(1, 1))
    elements: dict[str, float] = {}
    for op, _, count in graph.weights():
        elements[part_of(op)] = elements.get(part_of(op), 0.0) + float(np.max(count))
    own, changed = dict(model.native_formats), False
    texts: dict[str, str] = {}
    for part in elements:
        if part != "norm":
            texts[part] = own.get(part) or (own.get("moe") if part == "shared" else None) or model.native_weights
    for part, text in texts.items():
        held = sizes.get(part, {})
        if not held or not elements[part]:
            continue
        bits = 8 * sum(held.values()) / elements[part]
        base, width = text.partition("@")[0], bits_of(text)
        top = max(held, key=lambda name: held[name])
        if top in ("bf16", "fp16", "fp32"):  # left as it was
            if width >= 15 or not 15 < bits < 17:
                continue
            base = top
        elif width >= 16 and bits < 15:  # the config says nothing of it
            base = _PLAIN.get(top) or _PACKED.get(round(bits), base)
        elif not 0.5 < bits / width < 1.5:  # something else than this model's weights
            continue
        if abs(bits - width) > _ALIKE * width:
            texts[part], changed = named(base, bits), True
    if not changed:
        return {}
    inner = {part: count for part, count in elements.items() if part not in ("head", "embedding", "norm")}
    main = texts[max(inner, key=lambda part: inner[part])] if inner else model.native_weights
    if "head" not in texts and "embedding" in texts:
        texts["head"] = texts["embedding"]
    return {"native_weights": main, "native_formats": tuple(texts.items())}


def arithmetic_bytes(model: Workload) -> float:
    """Bytes of the weights as the config and its formats come to, with what is loaded beside the language model."""
    own, total = dict(model.native_formats), 2.0 * model.extra_parameters
    total += sum(tower.bytes_on() for tower in model.towers)
    for op, name, count in model.graph(Step.prefill(1, 1)).weights(held=True):
        part = part_of(op)
        fixed = next((x.bits for x in op.inputs if x.name == name), None)
        text = own.get(part) or (own.get("moe") if part == "shared" else None) or model.native_weights
        total += float(np.max(count)) * (bits_of(text) if fixed is None else fixed) / 8
    return total


def held_towers(model: Workload, tensors: Iterable[TensorInfo]) -> tuple[Tower, ...]:
    """The towers of a model as its files hold them: with the bits that their tensors have, or none."""
    size = sum(tensor.bytes for tensor in tensors if place_of(tensor.name).kind == "tower")
    counted = sum(tower.parameters for tower in model.towers)
    bits = 8 * size / max(1, counted)
    if not 1 < bits < 33:  # no towers, or something else with a name like theirs
        return () if bits <= 1 else model.towers
    return tuple(t if abs(bits - t.bits) < 0.02 * t.bits else replace(t, bits=bits) for t in model.towers)


def _part(name: str, depth: int) -> str:
    """The part of a model a tensor of a safetensors file belongs to; ``""``: none of the language model's products."""
    layer = _LAYER.search(name)
    if _OUTSIDE.search(name) or (layer is not None and int(layer.group(1)[:9]) >= depth):
        return ""
    return next((part for words, part in _WORDS if re.search(words, name)), "")


def gguf_formats(tensors: Iterable[TensorInfo]) -> tuple[str, tuple[tuple[str, str], ...]]:
    """The format of most of a GGUF file's weights, and of each part that differs its own, with average bits."""
    counts: dict[str, dict[str, int]] = {}
    for tensor in tensors:
        part = _gguf_part(tensor.name)
        if part:
            table = counts.setdefault(part, {})
            table[tensor.format] = table.get(tensor.format, 0) + tensor.elements
    texts = {part: _averaged(table) for part, table in counts.items()}
    inner = {part: sum(table.values()) for part, table in counts.items() if part not in ("head", "embedding")}
    if not inner:
        return next(iter(texts.values()), "bf16"), ()
    main = texts[max(inner, key=lambda part: inner[part])]
    if "head" not in texts and "embedding" in texts:  # one table for both
        texts["head"] = texts["embedding"]
    return main, tuple((part, name) for part, name in texts.items() if name != main)


def _averaged(elements: Mapping[str, int]) -> str:
    total = max(1, sum(elements.values()))
    bits = sum(_BITS[name] * count for name, count in elements.items()) / total
    top = max(elements, key=lambda name: elements[name])
    return top if abs(bits - _BITS[top]) < 0.0005 * bits else f"{top}@{bits:.4g}"


def _gguf_part(name: str) -> str:
    """The part a tensor belongs to, ``""`` for norms and tables of numbers."""
    name = name.removeprefix("enc.").removeprefix("dec.")
    if name.startswith(("token_embd.", "position_embd.", "token_types.")):
        return "embedding"
    if name.startswith("output."):
        return "head"
    part = name.split(".")[2] if name.startswith("blk.") and name.count(".") >= 2 else ""
    if "norm" in part or not part or not name.endswith(".weight"):
        return ""
    if part.startswith("ffn_gate_inp"):
        return "router"
    if part.startswith("ffn"):
        return "moe" if part.endswith("exps") else "shared" if part.endswith("shexp") else "mlp"
    return "attention" if part.startswith(("attn", "ssm", "time_mix", "shortconv", "indexer")) else ""
