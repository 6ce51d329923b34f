"""In which number formats a published model keeps its weights and cache, read from its quantisation config."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from steelyard.errors import printable
from steelyard.workload.families._modules import Scheme, Stored, formats_of
from steelyard.workload.families._scheme_config import Config, Read
from steelyard.workload.families._schemes import SCHEMES, fallback
from steelyard.workload.graph import Graph
from steelyard.workload.protocol import Workload
from steelyard.workload.step import Step

__all__ = ["bits_of", "named", "outside", "published"]

_DTYPES: Mapping[str, str] = {
    "float32": "fp32",
    "float": "fp32",
    "bfloat16": "bf16",
    "float16": "fp16",
    "half": "fp16",
    "float8_e4m3fn": "fp8",
    "float8_e5m2": "fp8",
}
_WIDTHS: Mapping[str, float] = {"fp32": 32, "bf16": 16, "fp16": 16, "fp8": 8}
#: Bits per weight of formats that have a name of their own; others are written ``NAME@BITS``.
_NAMED: Mapping[str, tuple[tuple[str, float], ...]] = {
    "int4": (("int4", 4 + 20 / 128), ("int4_g64", 4 + 20 / 64), ("int4_g32", 4 + 20 / 32)),
    "int3": (("int3", 3 + 19 / 128),),
    "int2": (("int2", 2 + 18 / 64),),
    "nf4": (("nf4", 4 + 8.125 / 64),),
    "mxfp4": (("mxfp4", 4.25),),
    "mxfp4_w4a4": (("mxfp4_w4a4", 4.25),),
    "mxfp8": (("mxfp8", 8.25),),
    "nvfp4": (("nvfp4", 4.5),),
    "nvfp4_weight_only": (("nvfp4_weight_only", 4.5),),
    "fp8_block": (("fp8_block", 8 + 32 / 16384),),
    **{name: ((name, 8.0),) for name in ("fp8", "fp8_weight_only", "int8", "int8_weight_only")},
    **{name: ((name, 16.0),) for name in ("bf16", "fp16")},
}


def published(config: Mapping[str, Any], model: Workload) -> dict[str, Any]:
    """Facts about how a model is stored: ``native_weights``, ``native_formats``, ``native_kv``, and notes.

    Args:
        config: the content of a ``config.json``.
        model: what the config was read into, for the sizes of its weights.

    Raises:
        InputError: a pattern of module names that is no expression, or too costly.
    """
    quant, dtype = _quantisation(config), _dtype(config)
    if quant is None:
        return {"native_weights": dtype}
    method = _method(config, quant)
    read = SCHEMES.get(method, fallback)(Config(quant, _plain(dtype), method))
    if read is None:
        named = f"{printable(method)[:40]} is" if method else "without a name is"
        note = f"quantisation {named} not known and states no bits: weights counted as {dtype}, an upper bound"
        return {"native_weights": dtype, "notes": (note,)}
    if (config.get("expert_dtype") or quant.get("expert_dtype")) == "fp4":  # DeepSeek-V4 states its experts apart
        scheme = replace(read.scheme, parts={**read.scheme.parts, "moe": Stored("mxfp4", 4.25)})
        read = replace(read, scheme=scheme)
    return _facts(read, model.graph(Step.prefill(1, 1)))


#: Methods that quantise every linear layer of a model which their config does not except, those of towers too.
_EVERYWHERE = ("bitsandbytes", "compressed_tensors", "fp8")
#: What configs that except towers write.
_TOWERS = re.compile(r"vis(?:ion|ual)|audio|multi_?modal|merger|mm_|projector|experts")


def outside(config: Mapping[str, Any]) -> Stored:
    """How the weights of towers are stored: as quantisers leave what they do not touch, or as all else."""
    quant, dtype = _quantisation(config), _dtype(config)
    if quant is None:
        return Stored(dtype, _WIDTHS[dtype])
    method = _method(config, quant)
    if method in _EVERYWHERE and not _TOWERS.search(repr(quant)):
        read = SCHEMES[method](Config(quant, _plain(dtype), method))
        if read is not None:
            return read.scheme.main
    return _plain(dtype)


def _method(config: Mapping[str, Any], quant: Mapping[str, Any]) -> str:
    """The name of the quantiser, as its config says or by what it writes."""
    method = str(quant.get("quant_method") or ("modelopt" if quant.get("quant_algo") else "")).lower().replace("-", "_")
    if not method and isinstance(config.get("quantization"), Mapping):
        return "modelopt" if isinstance(quant.get("quantization"), Mapping) else "mlx"
    return "modelopt" if not method and isinstance(quant.get("producer"), Mapping) else method


def _dtype(config: Mapping[str, Any]) -> str:
    stored = str(config.get("torch_dtype") or config.get("dtype") or "bfloat16").removeprefix("torch.")
    return _DTYPES.get(stored, "bf16")


def _plain(dtype: str) -> Stored:
    return Stored("bf16", 16.0) if dtype in ("fp32", "fp8") else Stored(dtype, _WIDTHS[dtype])


def _quantisation(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    return next((q for q in map(config.get, _KEYS) if isinstance(q, Mapping) and q), None)


#: Where configs keep it, the first that is there.
_KEYS = ("quantization_config", "compression_config", "quantization")


def _facts(read: Read, graph: Graph) -> dict[str, Any]:
    scheme: Scheme = read.scheme
    found = formats_of(scheme, graph)
    if scheme.main.bits < 16 and all(set(table) == {scheme.plain} for table in found.values()):
        # a method for routed experts, of a model that has none
        ends = {part: scheme.parts.get(part, scheme.plain) for part in ("embedding", "head")}
        found = formats_of(replace(scheme, parts=ends), graph)
    inner = {stored: 0.0 for table in found.values() for stored in table}
    for part, table in found.items():
        if part not in ("head", "embedding", "norm"):
            for stored, elements in table.items():
                inner[stored] += elements
    kinds: dict[str, float] = {}
    for stored, elements in inner.items():
        if stored.bits < 16 or scheme.main.bits >= 16:
            kinds[stored.name] = kinds.get(stored.name, 0.0) + elements
    top = max(kinds, key=lambda name: kinds[name], default=scheme.main.name)
    if kinds.get(top, 0.0) == 0.0:  # nothing of the model is quantised
        main, text = scheme.plain.name, dict.fromkeys(found, scheme.plain.name)
    else:
        text = {part: _text(table) for part, table in found.items()}
        sizes = {part: sum(n for s, n in table.items() if s.name == top) for part, table in found.items()}
        main = text[max(sizes, key=lambda part: sizes[part])]
    outer = ("embedding", "head") if main != scheme.plain.name else ()
    own = tuple((part, name) for part, name in text.items() if name != main or part in outer)
    if "moe" in dict(own) and text.get("shared") == main:  # what holds for experts would hold for shared ones
        own += (("shared", main),)
    notes = read.notes
    if len({name.partition("@")[0] for part, name in text.items() if part not in ("head", "embedding", "router")}) > 1:
        each = ", ".join(f"{part} {name}" for part, name in text.items())
        notes += (f"published weights: {each}",)
    if read.kv:
        notes += (f"the files declare a KV cache in {read.kv}; --kv chooses another",)
    return {"native_weights": main, "native_formats": own, "native_kv": read.kv, "notes": notes}


def _text(table: Mapping[Stored, float]) -> str:
    """The format most weights are in, with the average bits of all."""
    total = sum(table.values())
    kinds: dict[str, float] = {}
    for stored, elements in table.items():
        kinds[stored.name] = kinds.get(stored.name, 0.0) + elements
    top = max(kinds, key=lambda name: kinds[name])
    if total:
        bits = sum(stored.bits * elements for stored, elements in table.items()) / total
    else:  # a tied head: no weights of its own
        bits = next(iter(table)).bits
    return named(top, bits)


def named(base: str, bits: float) -> str:
    """A format by its name, with its bits per weight where they are not those of the name."""
    for name, width in _NAMED.get(base, ()):
        if abs(bits - width) < 0.0005 * width:
            return name
    return f"{base}@{bits:.4g}"


def bits_of(text: str) -> float:
    """Bits per weight of a format :func:`named` wrote."""
    base, at, stated = text.partition("@")
    if at:
        return float(stated)
    return next((width for names in _NAMED.values() for name, width in names if name == base), 32.0)
