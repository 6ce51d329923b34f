"""Integers in groups, codebooks and ternary weights, as the configs of their quantisers state them.

Bits count scales and zero points as the files of each method hold them. Sources: the configs and packing of the
methods' own tools and of the loaders in transformers, vLLM and MLX.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import log2
from typing import Any

from steelyard.errors import printable
from steelyard.workload.families._modules import Stored, pattern
from steelyard.workload.families._scheme_config import Config, Read, each, integer, number, patterns, wide

__all__ = [
    "auto_round",
    "bitnet",
    "bitsandbytes",
    "codebooks",
    "exl",
    "fixed",
    "gptq",
    "higgs",
    "hqq",
    "mlx",
    "quanto",
    "quip",
    "spqr",
    "torchao",
    "vptq",
]


def _gptq_bits(c: Config) -> Stored | None:
    bits = c.number("bits", "wbits", "w_bit", default=4)
    return c.plain if bits is not None and bits >= 16 else integer(bits, c.get("group_size", "q_group_size"))


def gptq(c: Config) -> Read | None:
    if c.get("bits", "w_bit", "wbits") is not None and c.number("bits", "w_bit", "wbits") is None:
        return None
    rules = c.left(
        "modules_to_not_convert", "modules_in_block_to_not_quantize", kind="part" if "awq" in c.method else ""
    )
    dynamic = c.get("dynamic")
    if isinstance(dynamic, Mapping):
        for name, entry in dynamic.items():
            own = None if str(name).startswith("-:") else each({"x": entry}, _gptq_bits, c)[0][1]
            rules += ((pattern(str(name).removeprefix("+:").removeprefix("-:"), "regex"), own or c.plain),)
    rules += each(c.get("extra_config"), _gptq_bits, c)
    main = _gptq_bits(c)
    only = c.get("modules_in_block_to_quantize", "inside_layer_modules")
    if isinstance(only, list) and only and main is not None:
        flat = [m for entry in only for m in (entry if isinstance(entry, list) else [entry])]
        rules += tuple((p, main) for p in patterns(flat))
        return c.read(c.plain, rules)
    head = {"head": main} if main is not None and c.get("lm_head", "quant_lm_head") is True else {}
    return c.read(main, rules, parts=head)


def hqq(c: Config) -> Read | None:
    def of(entry: Config) -> Stored | None:
        own = entry.get("weight_quant_params")
        table = Config(own if isinstance(own, Mapping) else entry.quant, c.plain, c.method)
        small = table.get("quant_scale") is True, table.get("quant_zero") is True
        shared = (8.0 if small[0] else 16.0) + (8.0 if small[1] else 16.0)
        return integer(table.get("nbits", default=4), table.get("group_size", default=64), shared, zeros=False)

    inner = c.get("quant_config")
    inner = inner if isinstance(inner, Mapping) else c.quant
    table = Config(inner, c.plain, c.method)
    entries = {k: v for k, v in inner.items() if isinstance(v, Mapping) and k.endswith(("_proj", "_mlp", "attn"))}
    return c.read(of(table), (*c.left(), *each(entries, of, table)))


_SHARED_EXPONENT: Mapping[str, Stored] = {
    "mxfp4": Stored("mxfp4", 4.25),
    "nvfp4": Stored("nvfp4_weight_only", 4.5),
    "mxfp8": Stored("mxfp8", 8.25),
}


def mlx(c: Config) -> Read | None:
    """MLX quantises embeddings and head too."""
    nested = c.get("quantization")
    c = Config(nested, c.plain, c.method) if isinstance(nested, Mapping) else c

    def of(entry: Config) -> Stored | None:
        mode = str(entry.get("mode") or "affine")
        if mode in _SHARED_EXPONENT:
            return _SHARED_EXPONENT[mode]
        return integer(entry.get("bits", default=4), entry.get("group_size", default=64), 32.0, zeros=False)

    main = of(c)
    if main is None:
        return None
    entries = {k: v for k, v in c.quant.items() if isinstance(v, Mapping | bool) and ("." in k or k.endswith("head"))}
    return c.read(main, each(entries, of, c), parts=dict.fromkeys(("embedding", "head", "router"), main))


def bitsandbytes(c: Config) -> Read | None:
    rules = c.left("llm_int8_skip_modules")
    if c.get("load_in_8bit", "_load_in_8bit") is True:
        return c.read(Stored("int8_weight_only", 8.0), rules)
    if c.get("load_in_4bit", "_load_in_4bit") is False:
        return None
    block = c.number("bnb_4bit_blocksize", default=64) or 64
    scales = (8 + 32 / 256) / block if c.get("bnb_4bit_use_double_quant") is True else 32 / block
    kind = str(c.get("bnb_4bit_quant_type", default="fp4"))
    notes = () if kind == "nf4" else (f"bitsandbytes {printable(kind)[:20]}, counted as nf4",)
    return c.read(Stored("nf4", 4 + scales), rules, notes=notes)


def exl(c: Config) -> Read | None:
    """ExLlama: an average of bits over the linear layers, and the bits of the head."""
    bits, head = c.number("bits"), c.number("head_bits", default=6)
    if bits is None or not 1 <= bits <= 16 or head is None:
        return None
    return c.read(wide(bits), parts={"head": wide(min(head, 16))})


def codebooks(c: Config) -> Read | None:
    """AQLM: ``codebooks`` codes per group of weights, one 16-bit scale per row; every module holds its codebooks."""
    width, books = c.number("nbits_per_codebook", default=16), c.number("num_codebooks", default=1)
    group = (c.number("in_group_size", default=8) or 8) * (c.number("out_group_size", default=1) or 1)
    if width is None or books is None or not 1 <= width <= 20 or not 1 <= books <= 32:
        return None
    stored = Stored("int2", width * books / group, books * 2**width * group * 2)
    return c.read(stored, c.left("linear_weights_not_to_quantize"))


def vptq(c: Config) -> Read | None:
    """VPTQ: an index of a centroid per vector of weights, and one of a residual centroid."""
    tables = [c.get("shared_layer_config"), c.get("config_for_layers"), {"": c.quant}]
    entry = next((e for t in tables if isinstance(t, Mapping) for e in t.values() if isinstance(e, Mapping)), {})
    if isinstance(entry.get("config"), Mapping):
        entry = entry["config"]

    def last(key: str) -> float:
        value = entry.get(key)
        value = value[-1] if isinstance(value, list | tuple) and value else value
        return number(value, 0.0) or 0.0

    vector, main, rest = last("vector_lens"), last("num_centroids"), last("num_res_centroids")
    if vector < 1 or main < 2 or main > 2**20 or rest > 2**20:
        return None
    bits = (log2(main) + (log2(rest) if rest > 1 else 0.0)) / vector
    groups = number(entry.get("group_num"), 1.0) or 1.0
    return c.read(Stored("int2" if bits < 2.5 else "int3", bits, (main + max(rest, 0.0)) * vector * 2 * groups))


def spqr(c: Config) -> Read | None:
    bits, first, second = (c.number(k, default=d) or d for k, d in (("bits", 3.0), ("beta1", 16.0), ("beta2", 16.0)))
    note = "SpQR keeps outliers besides, as many as the file holds: not counted"
    main = integer(bits, -1)
    if main is None:
        return None
    stored = Stored(main.name, bits + 2 * bits / first + 64 / (first * second))
    return c.read(stored, c.left(), notes=(note,))


def quip(c: Config) -> Read | None:
    params = c.get("quip_params")
    book = str((params if isinstance(params, Mapping) else c.quant).get("codebook") or "E8P12").upper()
    bits = next((b for name, b in (("RVQ4", 4.0), ("RVQ3", 3.0)) if name in book), 2.0)
    return c.read(wide(bits))


def fixed(name: str, bits: float) -> Callable[[Config], Read | None]:
    """A method that has one form."""

    def read(c: Config) -> Read | None:
        return c.read(Stored(name, bits), c.left())

    return read


def bitnet(c: Config) -> Read | None:
    """Ternary weights, four in a byte; ``online`` keeps the weights as they are and rounds them as it loads."""
    main = c.plain if c.get("quantization_mode") == "online" and c.get("linear_class") else Stored("ternary", 2.0)
    return c.read(main, c.left())


def torchao(c: Config) -> Read | None:
    kind: Any = c.get("quant_type")
    group: Any = c.get("quant_type_kwargs")
    entry = kind.get("default") if isinstance(kind, Mapping) else None
    if isinstance(entry, Mapping):
        kind, group = entry.get("_type"), entry.get("_data")
    size = number(group.get("group_size"), 128.0) if isinstance(group, Mapping) else 128.0
    name = str(kind or "").lower().replace("_", "").removesuffix("config")
    main = next((make(size) for key, make in _TORCHAO if key in name), None)
    ends = {"embedding": main, "head": main} if c.get("include_input_output_embeddings") is True and main else {}
    return c.read(main, c.left(), parts=ends)


_TORCHAO: tuple[tuple[str, Callable[[float | None], Stored | None]], ...] = (
    ("dynamicactivationint8weight", lambda _: Stored("int8", 8.0)),
    ("int8dynamicactivationint4", lambda g: Stored("int4_int8", 4 + 32 / (g or 32))),
    ("float8dynamicactivationfloat8", lambda _: Stored("fp8", 8.0)),
    ("float8staticactivationfloat8", lambda _: Stored("fp8", 8.0)),
    ("float8weightonly", lambda _: Stored("fp8_weight_only", 8.0)),
    ("float8dynamicactivationint4", lambda g: Stored("int4_fp8", 4 + 32 / (g or 128))),
    ("int4weightonly", lambda g: Stored("int4", 4 + 32 / (g or 128))),
    ("int8weightonly", lambda _: Stored("int8_weight_only", 8.0)),
    ("nvfp4", lambda _: Stored("nvfp4", 4.5)),
    ("mxfp4", lambda _: Stored("mxfp4_w4a4", 4.25)),
)


def auto_round(c: Config) -> Read | None:
    kind = str(c.get("data_type", default="int"))
    if kind.startswith(("mx_fp", "nv_fp")):
        width, inputs = c.number("bits", default=4), c.number("act_bits", default=16) or 16
        stored = Stored("nvfp4" if inputs <= 4 else "nvfp4_weight_only", 4.5)
        if kind.startswith("mx_fp"):
            stored = Stored("mxfp8", 8.25) if width == 8 else Stored("mxfp4_w4a4" if inputs <= 4 else "mxfp4", 4.25)
        return c.read(stored, each(c.get("extra_config"), lambda e: None, c))
    if kind.startswith("fp"):
        return c.read(Stored("fp8", 8.0))
    return gptq(c)


def quanto(c: Config) -> Read | None:
    kind = str(c.get("weights", default="int8"))
    stored = {"int8": Stored("int8_weight_only", 8.0), "float8": Stored("fp8_weight_only", 8.0)}.get(kind)
    bits = {"int4": 4, "int2": 2}.get(kind)
    return c.read(stored or (integer(bits, 128, 32.0, zeros=False) if bits else None), c.left())


def higgs(c: Config) -> Read | None:
    return c.read(
        integer(c.get("bits", default=4), c.get("group_size", default=256), zeros=False),
        c.left(),
    )
