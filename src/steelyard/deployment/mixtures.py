"""The mixtures of llama.cpp's quantiser: which tensors of a model get which block format in a ``Q4_K_M`` file.

A mixture has one main format; output, values and down-projections get more bits, some in every layer and some in the
first and last eighth and every third between. Rows that do not fill a block of 256 fall back to blocks of 32. Source:
the quantiser (``llama-quant.cpp`` of https://github.com/ggml-org/llama.cpp, 2026); with an importance matrix, as files
are published since 2024.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from steelyard.deployment.formats import find_format
from steelyard.workload.graph import Graph
from steelyard.workload.ingest.gguf import GGML_TYPES
from steelyard.workload.op import Op, Operand, part_of

__all__ = ["MIXTURES", "mixture_of"]

_BLOCK: Mapping[str, int] = {name: block for name, block, _ in GGML_TYPES.values()}
#: What rows that do not fill a block of 256 are stored in instead.
_FALLBACK: Mapping[str, str] = {
    **dict.fromkeys(("iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s", "iq4_xs"), "iq4_nl"),
    **dict.fromkeys(("q2_k", "q3_k", "tq1_0", "tq2_0"), "q4_0"),
    "q4_k": "q5_0",
    "q5_k": "q5_1",
    "q6_k": "q8_0",
}

#: ``(where, format)``: the first whose condition holds. Conditions on the layer: ``more`` (the outer eighths and every
#: third layer between), ``eighth`` and ``sixteenth`` (the first), ``middle`` (all but the outer eighths), a number (so
#: many first); on the model: ``shared`` (four or more query heads per key-value head), ``routed`` (that or four or more
#: experts).
_Rule = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _Mixture:
    """One mixture: its main format and what differs, by class of tensor."""

    main: str
    head: str = "q6_k"
    embedding: str = ""
    value: _Rule = ()
    key: str = ""
    query: str = ""
    out: str = ""
    up: _Rule = ()
    down: _Rule = ()
    rest: str = ""
    """Everything but routed experts, where that differs."""


_LOW: _Rule = (("routed", "q4_k"), ("", "q2_k"))
_LOW2: _Rule = (("routed", "q4_k"), ("", "iq3_s"))
_Q2 = _Mixture("q2_k", value=(("shared", "q4_k"), ("", "q3_k")), down=(("", "q3_k"),), out="q3_k")
_Q3 = _Mixture("q3_k", value=(("2", "q5_k"), ("", "q4_k")), down=(("sixteenth", "q5_k"), ("", "q4_k")), out="q4_k")
_Q3L = _Mixture("q3_k", value=(("", "q5_k"),), down=(("", "q5_k"),), out="q5_k")
_Q4 = _Mixture("q4_k", value=(("more", "q6_k"),), down=(("more", "q6_k"),))
_Q5 = _Mixture("q5_k", value=(("more", "q6_k"),), down=(("more", "q6_k"),))
_FIVE: _Rule = (("shared", "q5_k"),)
_FOUR: _Rule = (("shared", "q4_k"),)

#: Every mixture by its name.
MIXTURES: Mapping[str, _Mixture] = {
    "q2_k": _Q2,
    "q2_k_l": _Mixture("q2_k", "q8_0", "q8_0", value=_Q2.value, down=_Q2.down, out="q3_k"),
    "q2_k_s": _Mixture("q2_k", value=_FOUR, down=(("eighth", "q4_k"),)),
    "q3_k_s": _Mixture("q3_k"),
    "q3_k_m": _Q3,
    "q3_k_l": _Q3L,
    "q3_k_xl": _Mixture("q3_k", "q8_0", "q8_0", value=_Q3L.value, down=_Q3L.down, out="q5_k"),
    "q4_k_s": _Mixture("q4_k", value=(("4", "q5_k"),), down=(("eighth", "q5_k"),)),
    "q4_k_m": _Q4,
    "q4_k_l": _Mixture("q4_k", "q8_0", "q8_0", value=_Q4.value, down=_Q4.down),
    "q5_k_s": _Mixture("q5_k"),
    "q5_k_m": _Q5,
    "q5_k_l": _Mixture("q5_k", "q8_0", "q8_0", value=_Q5.value, down=_Q5.down),
    "q6_k": _Mixture("q6_k"),
    "q6_k_l": _Mixture("q6_k", "q8_0", "q8_0"),
    "q8_0": _Mixture("q8_0", "q8_0"),
    "q4_0": _Mixture("q4_0", down=(("eighth", "q4_1"),)),
    "q4_1": _Mixture("q4_1"),
    "q5_0": _Mixture("q5_0", down=(("eighth", "q5_1"),)),
    "q5_1": _Mixture("q5_1"),
    "iq4_nl": _Mixture("iq4_nl", value=_FIVE),
    "iq4_xs": _Mixture("iq4_xs", value=_FIVE),
    "iq3_m": _Mixture("iq3_s", value=(("", "q4_k"),), down=(("eighth", "q4_k"),), out="q4_k"),
    "iq3_s": _Mixture("iq3_s", value=_FOUR),
    "iq3_xs": _Mixture("iq3_s", value=_FOUR, key="iq3_xxs", query="iq3_xxs", up=(("middle", "iq3_xxs"),)),
    "iq3_xxs": _Mixture("iq3_xxs", "q5_k", "iq3_s", value=_FOUR, key="iq2_s", query="iq2_s", out="iq3_s"),
    "iq2_m": _Mixture("iq2_s", "q5_k", "iq3_s", value=_LOW2, down=(("eighth", "iq3_s"),), out="iq3_s"),
    "iq2_s": _Mixture("iq2_xs", "q5_k", "iq3_s", value=_LOW2, down=(("eighth", "iq3_s"),), out="iq3_s"),
    "iq2_xs": _Mixture("iq2_xs", "q5_k", "q2_k", value=_LOW, down=(("eighth", "q2_k"),)),
    "iq2_xxs": _Mixture("iq2_xxs", "q5_k", "q2_k", value=_LOW, down=(("eighth", "q2_k"),)),
    "iq1_s": _Mixture("iq1_s", "q5_k", "q2_k", value=_LOW, down=(("eighth", "q2_k"),), out="iq2_xxs"),
    "iq1_m": _Mixture("iq1_m", "q5_k", "q2_k", value=_LOW, down=(("eighth", "q2_k"),), out="iq2_xxs"),
    "tq1_0": _Mixture("tq1_0", embedding="q4_k"),
    "tq2_0": _Mixture("tq2_0", embedding="q4_k"),
    "mxfp4_moe": _Mixture("mxfp4", "q8_0", "q8_0", rest="q8_0"),
}
#: What the quantiser takes short names as, and the mixture nearest to each of Unsloth's dynamic files.
_NEAREST: Mapping[str, str] = {
    "q3_k": "q3_k_m",
    "q4_k": "q4_k_m",
    "q5_k": "q5_k_m",
    "ud_q2_k_xl": "q2_k_l",
    "ud_q3_k_xl": "q3_k_m",
    "ud_q4_k_xl": "q4_k_s",
    "ud_q5_k_xl": "q5_k_m",
    "ud_q6_k_xl": "q6_k_l",
    "ud_q8_k_xl": "q8_0",
    **{f"ud_{name}": name for name in ("iq1_s", "iq1_m", "iq2_xxs", "iq2_m", "iq3_xxs", "iq4_xs")},
}

#: Families whose GGUF files hold queries, keys and values as one tensor, which counts as values.
_JOINED = ("gpt2", "bloom", "falcon", "gpt_neox", "phi", "phi3", "gpt_bigcode", "chatglm", "mpt", "dbrx", "qwen")
#: What is never quantised: numbers of 32 bits, small.
_KEPT = ("conv", "decay", "gated_norm", "position_embedding", "type_embedding")


@dataclass(frozen=True)
class _Tensor:
    """Equal tensors of a run of layers: what they are and how many elements they have together."""

    part: str
    kind: str
    elements: float
    columns: int
    """Elements of a row, which blocks must fill."""
    first: int = 0
    layers: int = 1


def mixture_of(name: str, graph: Graph) -> Mapping[str, str]:
    """The format of each part of a model in a file of one of the :data:`MIXTURES`; empty for other names."""
    base = _NEAREST.get(name, name)
    if base not in MIXTURES:
        return {}
    tensors = tuple(_tensors(graph))
    experts = max((int(np.max(op.size("e"))) for op in graph if op.block == "moe" and "e" in op.ranks), default=0)
    shared = max((_sharing(op) for op in graph if op.name.endswith(".qkv") and _told_apart(op)), default=1.0)
    return dict(_parts(base, tensors, experts, shared))


@lru_cache(maxsize=256)
def _parts(name: str, tensors: tuple[_Tensor, ...], experts: int, shared: float) -> tuple[tuple[str, str], ...]:
    mixture = MIXTURES[name]
    depth = max((t.first + t.layers for t in tensors), default=1)
    big = depth == 80 and shared > 1  # what the quantiser calls a 70B model
    found: dict[str, dict[str, float]] = {}
    for tensor in tensors:
        table = found.setdefault(tensor.part, {})
        for layer in range(tensor.first, tensor.first + tensor.layers):
            chosen = _fitting(_format(mixture, tensor, layer, depth, experts, shared, big), tensor.columns)
            table[chosen] = table.get(chosen, 0.0) + tensor.elements / tensor.layers
    return tuple((part, averaged(table)) for part, table in found.items())


def averaged(elements: Mapping[str, float]) -> str:
    """The format most elements are in, with the average bits of all: ``q4_k@4.83``."""
    total = sum(elements.values())
    bits = sum(find_format(name).stored_bits * count for name, count in elements.items()) / total
    return find_format(max(elements, key=lambda name: elements[name])).stored_in(bits).name


def _format(m: _Mixture, t: _Tensor, layer: int, depth: int, experts: int, shared: float, big: bool) -> str:
    holds = {
        "": True,
        "more": layer < depth // 8 or layer >= 7 * depth // 8 or (layer - depth // 8) % 3 == 2,
        "eighth": layer < depth // 8,
        "sixteenth": layer < depth // 16,
        "middle": depth // 8 <= layer < 7 * depth // 8,
        "shared": shared >= 4,
        "routed": shared >= 4 or experts >= 4,
    }

    def first(rule: _Rule) -> str:
        return next(
            (name for where, name in rule if (layer < int(where) if where.isdecimal() else holds[where])), m.main
        )

    rest = m.rest or m.main
    if t.kind == "kept":
        return "fp32"
    if t.kind in ("head", "embedding"):
        own = m.head if t.kind == "head" else m.embedding or m.main
        return "q8_0" if t.kind == "head" and t.columns % _BLOCK[m.main] else own
    if t.kind == "value":
        chosen = first(m.value) if m.value else rest
        chosen = "q5_k" if big and chosen in ("q3_k", "q4_k") else chosen
        low = m.value in (_LOW, _LOW2)
        return "q8_0" if experts == 8 and not low else chosen
    if experts == 8 and t.kind in ("key", "out") and m.main[-1] != "0" and m.main not in ("q5_k", "q6_k"):
        low = m.value in (_LOW, _LOW2)
        return ("q4_k" if low else "q8_0") if t.kind == "key" else "q5_k"
    if t.kind in ("up", "down"):
        rule = m.up if t.kind == "up" else m.down
        plain = m.main if t.part == "moe" else rest
        return first(rule) if rule else plain
    return {"key": m.key, "query": m.query, "out": m.out}.get(t.kind, "") or rest


def _fitting(name: str, columns: int) -> str:
    block = _BLOCK.get(name, 1)
    if columns % block == 0:
        return name
    other = _FALLBACK.get(name, "fp16")
    return other if columns % _BLOCK[other] == 0 else "fp16"


def _told_apart(op: Op) -> bool:
    """Whether the heads of a product of queries, keys and values are known: not of a decoder beside the layers."""
    return "h" in op.sizes and "g" in op.sizes


def _sharing(op: Op) -> float:
    """Query heads per key-value head."""
    return float(np.max(op.size("h"))) / max(1.0, float(np.max(op.size("g"))))


def _tensors(graph: Graph) -> Iterator[_Tensor]:
    """The stored tensors of a graph, by class and layers."""
    joined = str(graph.facts.get("model_type", "")) in _JOINED
    dense, routed = (any(op.name.endswith(end) and op.block == b for op in graph) for end, b in _ENDS)
    before: dict[str, int] = {}
    ops = [op for op in graph if "." in op.name]
    prefixes = {op.name.partition(".")[0]: int(np.max(op.count)) for op in ops}
    mixed = {op.name.partition(".")[0] for op in ops if op.block == "moe"} if dense and routed else set()
    start = 0
    for prefix in sorted(prefixes, key=lambda p: p in mixed):  # dense layers come before those with experts
        before[prefix], start = start, start + prefixes[prefix]
    tied = any(op.tied for op in graph)
    for op in graph:
        for operand in op.inputs:
            if operand.role not in ("weight", "table") or operand.name in op.tied:
                continue
            part, count = part_of(op), int(np.max(op.count))
            elements = float(np.max(op.elements(operand, visited=False))) * count
            at = before.get(op.name.partition(".")[0], 0)
            columns = _columns(op, operand)
            for kind, share in _kinds(op, operand, part, joined, tied):
                yield _Tensor(part, kind, elements * share, columns, at, count)
    if tied:  # the head reads the embedding's table
        table = next((op for op in graph if op.name == "embedding"), None)
        if table is not None:
            yield _Tensor("head", "head", 1.0, int(np.max(table.size("d"))))


_ENDS = ((".down", "mlp"), (".expert_down", "moe"))


def _columns(op: Op, operand: Operand) -> int:
    if operand.role == "table":  # one row per token: the last rank is its width, of a table per layer too
        return int(np.max(op.size("d" if "d" in operand.ranks else operand.ranks[-1])))
    if operand.name == "w_k_up":
        return int(np.max(op.size("c")))
    sizes = [int(np.max(op.size(rank))) for rank in operand.ranks if rank in op.reduced]
    return int(np.prod(sizes)) if sizes else 1


def _kinds(op: Op, operand: Operand, part: str, joined: bool, tied: bool) -> tuple[tuple[str, float], ...]:
    """Classes of tensor that one weight of a graph is in files, with their shares of its elements."""
    name = op.name.rpartition(".")[2]
    if name in _KEPT or part in ("norm", "router") or operand.bits is not None:
        return (("kept", 1.0),)
    if name == "embedding":
        return (("head" if tied else "embedding", 1.0),)
    if name == "lm_head":
        return (("head", 1.0),)
    if name == "qkv":
        if joined or not _told_apart(op):
            return (("value", 1.0),)
        own: dict[str, Any] = dict(op.derived.get("p", ()))
        heads, groups = float(np.max(op.size("h"))), float(np.max(op.size("g")))
        whole = own.get("h", 1) * heads + own.get("g", 2) * groups
        return (("query", own.get("h", 1) * heads / whole), ("key", groups / whole), ("value", groups / whole))
    if name == "qkvz":
        return (("value", 2 / 3), ("rest", 1 / 3))
    plain = name.removeprefix("expert_").removeprefix("shared_")
    return ((plain if plain in ("up", "down", "out") else "rest", 1.0),)
