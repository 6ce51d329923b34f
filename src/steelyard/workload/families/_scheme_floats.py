"""Narrow floats, and methods with formats per module: fp8, modelopt, compressed-tensors, quark, MXFP4.

Sources: the configs of these quantisers and the loaders of vLLM and SGLang.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steelyard.workload.families._modules import Stored, pattern
from steelyard.workload.families._scheme_config import Config, Read, integer, number, patterns

__all__ = ["compressed", "fp8", "fp_quant", "modelopt", "mxfp4", "quark", "w4afp8"]


def fp8(c: Config) -> Read | None:
    block = c.get("weight_block_size")
    sizes = [number(x) for x in block] if isinstance(block, list | tuple) else []
    if len(sizes) == 2 and sizes[0] and sizes[1] and min(sizes[0], sizes[1]) > 0:
        main = Stored("fp8_block", 8 + 32 / (sizes[0] * sizes[1]))
    else:
        main = Stored("fp8_weight_only" if c.get("activation_scheme") == "none" else "fp8", 8.0)
    rules = c.left()
    kv = "fp8" if c.get("kv_cache_scheme") in ("static", "dynamic") else _cache(c.get("kv_cache_scheme"))
    return c.read(main, rules, kv)


def _experts_only(c: Config) -> dict[str, Stored]:
    """Parts that stay plain where only routed experts are quantised."""
    return dict.fromkeys(("attention", "mlp", "shared"), c.plain)


def mxfp4(c: Config) -> Read | None:
    """Only the experts."""
    stored = Stored("mxfp4", 4.25)
    rules = c.left()
    return c.read(stored, rules, parts=_experts_only(c))


#: ``quant_algo`` of modelopt.
_MODELOPT: Mapping[str, Stored] = {
    **dict.fromkeys(("FP8", "FP8_PER_CHANNEL_PER_TOKEN", "FP8_PC_PT"), Stored("fp8", 8.0)),
    **dict.fromkeys(("FP8_PB_WO", "FP8_PB_REAL", "FP8_BLOCK_SCALES"), Stored("fp8_block", 8 + 32 / 16384)),
    **dict.fromkeys(("NVFP4", "NVFP4_AWQ", "NVFP4_SVDQUANT", "W4A4_NVFP4"), Stored("nvfp4", 4.5)),
    **dict.fromkeys(("W4A16_NVFP4", "NVFP4_W4A16"), Stored("nvfp4_weight_only", 4.5)),
    **dict.fromkeys(("W4A8_NVFP4_FP8",), Stored("nvfp4", 4.5)),
    **dict.fromkeys(("W4A16_AWQ", "W4A16", "W4A16_GPTQ"), Stored("int4", 4 + 16 / 128)),
    **dict.fromkeys(("W4A8_AWQ", "W4AFP8"), Stored("int4_fp8", 4 + 16 / 128)),
    **dict.fromkeys(("INT8_SQ", "W8A8_SQ_PER_CHANNEL", "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN"), Stored("int8", 8.0)),
    **dict.fromkeys(("W8A16", "INT8_WO", "W8A16_GPTQ"), Stored("int8_weight_only", 8.0)),
    **dict.fromkeys(("MXFP8",), Stored("mxfp8", 8.25)),
    **dict.fromkeys(("MXFP4", "W4A8_MXFP4_FP8", "W4A8_MXFP4_MXFP8", "W4A16_MXFP4"), Stored("mxfp4", 4.25)),
}


def modelopt(c: Config) -> Read | None:
    nested = c.get("quantization")
    c = Config({**c.quant, **nested}, c.plain, c.method) if isinstance(nested, Mapping) else c
    default = "NVFP4" if "fp4" in c.method else "FP8" if "fp8" in c.method else ""
    algorithm = str(c.get("quant_algo", default=default)).upper()
    cache = c.get("kv_cache_quant_algo")
    kv = _KV.get(str(cache).upper(), "") if cache is not None else _cache(c.get("kv_cache_scheme"))
    rules = c.left()
    if algorithm == "MIXED_PRECISION":
        each = c.get("quantized_layers")
        for name, entry in each.items() if isinstance(each, Mapping) else ():
            own = _MODELOPT.get(str(entry.get("quant_algo", "")).upper()) if isinstance(entry, Mapping) else None
            if own is not None:
                rules += ((pattern(str(name)), own),)
        return c.read(c.plain, rules, kv)
    main = _MODELOPT.get(algorithm)
    group = c.number("group_size")
    if main is not None and main.name.startswith("int4") and group is not None and group > 0:
        main = Stored(main.name, 4 + 16 / group)
    return c.read(main, rules, kv)


_KV: Mapping[str, str] = {"FP8": "fp8", "NVFP4": "nvfp4", "INT8": "int8", "MXFP8": "mxfp8", "MXFP4": "mxfp4"}


def _cache(scheme: Any) -> str:
    """The format a scheme ``{num_bits, type}`` stores the cache in."""
    if not isinstance(scheme, Mapping):
        return ""
    kind = "float" if str(scheme.get("type", "float")) == "float" else "int"
    named = {"8 float": "fp8", "8 int": "int8", "4 float": "nvfp4", "4 int": "int4"}
    return named.get(f"{scheme.get('num_bits')!s:.4} {kind}", "")


def _tensors(group: Mapping[str, Any], sparse: bool = False) -> Stored | None:
    """The weights of one group of compressed-tensors or quark."""
    weights = group.get("weights")
    weights = weights if isinstance(weights, Mapping) else group
    inputs = group.get("input_activations")
    inputs = inputs if isinstance(inputs, Mapping) else None
    bits, kind, strategy = weights.get("num_bits"), str(weights.get("type", "int")), str(weights.get("strategy") or "")
    size = number(weights.get("group_size"))
    narrow = number(inputs.get("num_bits")) if inputs else None
    stored: Stored | None = None
    if kind == "float" and bits == 4:
        if size == 16 or strategy == "tensor_group":
            stored = Stored("nvfp4" if inputs or "weights" not in group else "nvfp4_weight_only", 4.5)
        else:
            stored = Stored("mxfp4_w4a4" if narrow == 4 else "mxfp4", 4.25)
    elif kind == "float" and bits == 8:
        block = weights.get("block_structure")
        if strategy == "block" or block:
            stored = Stored("fp8_block", 8 + 32 / 16384)
        elif strategy == "group" and size == 32:
            stored = Stored("mxfp8", 8.25)
        else:
            stored = Stored("fp8" if inputs or "weights" not in group else "fp8_weight_only", 8.0)
    elif bits == 8 and inputs and "weights" in group:
        stored = Stored("int8", 8.0)  # activations are quantised too
    elif kind == "int":
        stored = integer(bits, size, zeros=weights.get("symmetric") is False)
        if stored is not None and stored.name == "int4" and narrow == 8:
            floats = inputs is not None and str(inputs.get("type", "int")) == "float"
            stored = Stored("int4_fp8" if floats else "int4_int8", stored.bits)
    if sparse and stored is not None:  # half of the weights, and which of them
        return Stored(stored.name, stored.bits / 2 + 1)
    return stored


#: Names of classes of modules among targets, which mean every linear layer.
_CLASSES = ("Linear", "FusedMoE", "MoE", "LinearBase", "ColumnParallelLinear", "RowParallelLinear")


def compressed(c: Config) -> Read | None:
    sparsity = c.get("sparsity_config")
    half = isinstance(sparsity, Mapping) and "24" in str(sparsity.get("format", ""))
    half = half or "24" in str(c.get("format", default=""))
    groups = c.get("config_groups")
    found = [g for g in groups.values() if isinstance(g, Mapping)] if isinstance(groups, Mapping) else []
    rules, main = c.left(), None
    kv = _cache(c.get("kv_cache_scheme"))
    if not found:  # a summary: the fields of one group
        main = _tensors(c.quant, half)
        if c.get("targets") == "routed experts" and main is not None:
            return c.read(main, rules, kv, parts=_experts_only(c))
        return c.read(main, rules, kv)
    unread = 0
    for group in found:
        own = _tensors(group, half)
        unread += own is None
        given = group.get("targets", ["Linear"])
        targets = given if isinstance(given, list | tuple) else [given]
        named = [t for t in targets if t not in _CLASSES]
        if own is not None:
            rules += tuple((p, own) for p in patterns(named))
            main = own if len(named) < len(targets) or not targets else main
    if unread == len(found):
        return None
    notes = (f"{unread} of {len(found)} groups are not known: their weights counted as published otherwise",)
    return c.read(main or c.plain, rules, kv, notes if unread else ())


def quark(c: Config) -> Read | None:
    def of(entry: Any) -> Stored | None:
        weight = entry.get("weight") if isinstance(entry, Mapping) else None
        weight = weight[0] if isinstance(weight, list) and weight else weight
        if not isinstance(weight, Mapping):
            return None
        dtype, inputs = str(weight.get("dtype", "")).lower(), entry.get("input_tensors")
        size = number(weight.get("group_size"))
        if "fp8" in dtype:
            return Stored("fp8" if inputs else "fp8_weight_only", 8.0)
        if dtype == "fp4" or "mxfp4" in dtype:
            return Stored("mxfp4_w4a4" if inputs else "mxfp4", 4.25)
        if "int8" in dtype:
            return Stored("int8" if inputs else "int8_weight_only", 8.0)
        if "int4" in dtype:
            return integer(4, size, zeros=weight.get("symmetric") is False)
        return None

    rules = c.left()
    each = c.get("layer_quant_config")
    for name, entry in each.items() if isinstance(each, Mapping) else ():
        own = of(entry)
        if own is not None:
            rules += ((pattern(str(name)), own),)
    group = c.get("kv_cache_group")
    export = c.get("export")
    if not group and isinstance(export, Mapping):
        group = export.get("kv_cache_group")
    return c.read(of(c.get("global_quant_config")), rules, "fp8" if group else "")


def w4afp8(c: Config) -> Read | None:
    """Experts in 4 bits multiplied in fp8, the rest in block-scaled fp8 (SGLang)."""
    return c.read(Stored("fp8_block", 8 + 32 / 16384), c.left(), parts={"moe": Stored("int4_fp8", 4 + 16 / 128)})


def fp_quant(c: Config) -> Read | None:
    kind = str(c.get("forward_dtype", default="mxfp4"))
    stored = {"mxfp4": Stored("mxfp4_w4a4", 4.25), "nvfp4": Stored("nvfp4", 4.5)}.get(kind)
    return c.read(stored, c.left())
