"""In which number format a published model keeps its weights, read from ``quantization_config``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["native_formats"]

_DTYPES: Mapping[str, str] = {
    "float32": "fp32",
    "float": "fp32",
    "bfloat16": "bf16",
    "float16": "fp16",
    "half": "fp16",
    "float8_e4m3fn": "fp8",
    "float8_e5m2": "fp8",
}
#: Weight-only integers by width; 5 to 7 bits are stored in 8.
_INTEGERS: Mapping[int, str] = {
    2: "int2",
    3: "int3",
    4: "int4",
    5: "int8_weight_only",
    6: "int8_weight_only",
    8: "int8_weight_only",
}
#: Blocks (``Op.block``) that weight quantisers leave alone unless they say otherwise.
_KEPT = ("embedding", "head")


def native_formats(config: Mapping[str, Any]) -> tuple[str, tuple[tuple[str, str], ...], tuple[str, ...]]:
    """The main weight format, the blocks that differ from it, and remarks.

    Returns:
        ``(name, ((block, name), ...), notes)``: ``name`` is one of ``fp32 bf16 fp16 fp8 fp8_block mxfp4 nvfp4 nf4 int8
        int8_weight_only int4 int4_g64 int4_g32 int3 int2``. An unknown quantiser keeps the stored type and leaves a
        note.
    """
    stored = _DTYPES.get(
        str(config.get("torch_dtype") or config.get("dtype") or "bfloat16").removeprefix("torch."), "bf16"
    )
    quant = config.get("quantization_config") or config.get("compression_config")
    if not isinstance(quant, Mapping):
        return stored, (), ()
    method = str(quant.get("quant_method") or quant.get("quant_algo") or "").lower().replace("-", "_")
    plain = "bf16" if stored == "fp32" else stored
    kept = tuple((block, plain) for block in _KEPT)
    notes: tuple[str, ...] = ()
    name = ""
    if method in ("fp8", "fbgemm_fp8"):
        name = "fp8_block" if quant.get("weight_block_size") else "fp8"
    elif method == "mxfp4":  # only the experts are stored in it
        name, kept = "mxfp4", (*kept, ("attention", plain))
    elif method in ("gptq", "awq", "autoround", "auto_round", "gptq_marlin", "awq_marlin"):
        name, notes = _integer(
            quant.get("bits", quant.get("w_bit", 4)), quant.get("group_size", quant.get("q_group_size"))
        )
    elif method in ("compressed_tensors", "compressed_tensor"):
        name, notes = _compressed(quant)
    elif method in ("bitsandbytes", "bnb"):
        name, notes = _bitsandbytes(quant)
    elif method in ("modelopt", "modelopt_fp4", "nvfp4"):
        algorithm = str(quant.get("quant_algo") or "nvfp4").upper()
        name = {"FP8": "fp8", "NVFP4": "nvfp4", "W4A16_AWQ": "int4", "INT8_SQ": "int8"}.get(algorithm, "")
    if name and ("attention", plain) not in kept and _spares_attention(quant):
        kept = (*kept, ("attention", plain))
    if not name:
        return stored, (), (f"quantisation {method or 'without a name'!s} is not known; weights taken as {stored}",)
    return name, kept, notes


def _spares_attention(quant: Mapping[str, Any]) -> bool:
    """Whether the modules left out (or, in a summary, the targets) keep attention in the plain format."""
    left_out = quant.get("ignore") or quant.get("modules_to_not_convert") or ()
    if isinstance(left_out, list | tuple):
        return any("attn" in str(entry) for entry in left_out) or quant.get("targets") == "routed experts"
    return False


def _integer(bits: Any, group: Any) -> tuple[str, tuple[str, ...]]:
    if isinstance(bits, bool) or not isinstance(bits, int) or bits not in _INTEGERS:
        return "", ()
    if bits == 4 and group in (32, 64):
        return f"int4_g{group}", ()
    told = isinstance(group, int) and group > 0 and group != 128
    return _INTEGERS[bits], (f"weights quantised in groups of {group}",) if told else ()


def _compressed(quant: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    groups = quant.get("config_groups")
    first = next(iter(groups.values()), None) if isinstance(groups, Mapping) else None
    weights = first.get("weights") if isinstance(first, Mapping) else None
    if not isinstance(weights, Mapping):
        weights = quant
    bits, kind = weights.get("num_bits"), str(weights.get("type", "int"))
    if kind == "float":
        if bits == 4:
            return ("nvfp4" if weights.get("group_size") == 16 else "mxfp4"), ()
        return ("fp8_block" if weights.get("strategy") == "block" else "fp8") if bits == 8 else "", ()
    if bits == 8 and isinstance(first, Mapping) and first.get("input_activations"):
        return "int8", ()  # activations are quantised too
    return _integer(bits, weights.get("group_size"))


def _bitsandbytes(quant: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    if quant.get("load_in_8bit") or quant.get("_load_in_8bit"):
        return "int8_weight_only", ()
    kind = str(quant.get("bnb_4bit_quant_type", "fp4"))
    return "nf4", () if kind == "nf4" else (f"bitsandbytes {kind}, counted as nf4",)
