"""Quantisation methods by the name their configs give them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from steelyard.errors import printable
from steelyard.workload.families._scheme_config import Config, Read, integer, wide
from steelyard.workload.families._scheme_floats import compressed, fp8, fp_quant, modelopt, mxfp4, quark, w4afp8
from steelyard.workload.families._scheme_integers import (
    auto_round,
    bitnet,
    bitsandbytes,
    codebooks,
    exl,
    fixed,
    gptq,
    higgs,
    hqq,
    mlx,
    quanto,
    quip,
    spqr,
    torchao,
    vptq,
)

__all__ = ["SCHEMES", "fallback"]


def fallback(c: Config) -> Read | None:
    """A method nobody described: its bits, where it states them; None where it does not."""
    bits = c.number("bits", "nbits", "w_bit", "wbits", "num_bits", "weight_bits", "w_bits")
    if bits is None or not 1 <= bits <= 16:
        return None
    group = c.number("group_size", "q_group_size", "weight_group_size", default=-1)
    stored = integer(bits, group) or wide(bits)
    named = printable(c.method)[:40] or "without a name"
    note = f"NOTE: quantisation {named} is not known; {bits:g} bits as its config states, unquantised ends assumed"
    return c.read(stored, c.left(), notes=(note,))


_Reader = Callable[[Config], Read | None]


def _table(rows: Iterable[tuple[str, _Reader]]) -> Mapping[str, _Reader]:
    return {name: read for names, read in rows for name in names.split()}


#: How to read the config of each ``quant_method`` (dashes as underscores).
SCHEMES: Mapping[str, _Reader] = _table(
    (
        ("gptq gptqmodel gptq_marlin awq awq_marlin autoawq marlin moe_wna16 inc", gptq),
        ("auto_round autoround intel/auto_round", auto_round),
        ("compressed_tensors compressed_tensor", compressed),
        ("modelopt modelopt_fp4 modelopt_fp8 modelopt_mixed nvfp4 petit_nvfp4", modelopt),
        ("fp8 fine_grained_fp8 deepseek_fp8 w8a8_fp8", fp8),
        ("fbgemm_fp8 ptpc_fp8", fixed("fp8", 8.0)),
        ("mxfp8", fixed("mxfp8", 8.25)),
        ("mxfp4 gpt_oss_mxfp4", mxfp4),
        ("bitsandbytes bnb", bitsandbytes),
        ("hqq", hqq),
        ("mlx", mlx),
        ("exl2 exl3", exl),
        ("aqlm", codebooks),
        ("vptq", vptq),
        ("spqr", spqr),
        ("quip quip# quip_sharp", quip),
        ("higgs", higgs),
        ("bitnet", bitnet),
        ("torchao", torchao),
        ("quark", quark),
        ("eetq experts_int8 tpu_int8 int8", fixed("int8_weight_only", 8.0)),
        ("w8a8_int8 smoothquant", fixed("int8", 8.0)),
        ("w4afp8", w4afp8),
        ("fp_quant", fp_quant),
        ("quanto", quanto),
    )
)
