"""Which weights of a model the module names of a quantisation config mean.

Configs name modules as the framework does (``model.layers.3.self_attn.q_proj``, ``re:.*mlp.*``, ``lm_head``); a graph
has ops. :func:`formats_of` spells every weight of a graph as published files do, asks a :class:`Scheme` for the format
of each and adds up per part of the model.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import translate
from functools import lru_cache
from typing import Any

import numpy as np

from steelyard.errors import InputError, show
from steelyard.workload.graph import Graph
from steelyard.workload.op import Op, Operand, part_of

__all__ = ["Pattern", "Scheme", "Stored", "formats_of", "pattern"]

#: Longest pattern read, characters; most repetitions in a regular expression; seconds that all matching may take.
_MOST_TEXT, _MOST_REPEATS, _MOST_SECONDS = 2000, 6, 3.0


@dataclass(frozen=True, slots=True)
class Stored:
    """How weights are stored: format and bits per weight with scales; bytes that every module has besides."""

    name: str
    bits: float
    module_bytes: float = 0.0


@dataclass(frozen=True, eq=False)
class Pattern:
    """Module names meant: ``exact`` (a run of whole dotted words), or what ``matches`` accepts."""

    text: str
    matches: Callable[[str], bool] | None = None


@dataclass(frozen=True, eq=False)
class Scheme:
    """What a quantiser did with the modules of a model: the first rule that matches, else what holds for the part."""

    plain: Stored
    main: Stored
    rules: tuple[tuple[Pattern, Stored], ...] = ()
    parts: Mapping[str, Stored] = field(default_factory=dict)
    """Parts of the model that are not in ``main`` unless a rule says so."""

    def of_part(self, part: str) -> Stored:
        """What a part is stored in when no rule matches."""
        return self.parts.get(part, self.main)


@lru_cache(maxsize=4096)
def pattern(text: str, kind: str = "") -> Pattern:
    """A pattern as configs write them: ``re:`` and a regular expression, ``*`` wildcards, or words of a module's path.

    Args:
        text: the pattern.
        kind: ``regex`` reads all of it as a regular expression, ``part`` matches anywhere in the name.

    Raises:
        InputError: an expression that is malformed, or too costly to search for.
    """
    if len(text) > _MOST_TEXT:
        raise InputError(f"pattern of {len(text):,} characters", field="quantization_config")
    if kind == "part":
        return Pattern(text, lambda name: text in name)
    if text.startswith("re:") or kind == "regex":
        found = _regex(text.removeprefix("re:"))
        return Pattern(text, lambda name: found.match(name) is not None)
    if "*" in text or "?" in text:
        wild = re.compile(translate(re.sub(r"\*+", "*", text)))
        return Pattern(text, lambda name: any(wild.match(n) for n in (f"{name}.weight", *_upward(name))))
    return Pattern(text)


def _upward(name: str) -> Iterator[str]:
    """A module and those that hold it."""
    while name:
        yield name
        name = name.rpartition(".")[0]


def _regex(text: str) -> re.Pattern[str]:
    repeats = len(re.findall(r"(?<!\\)[*+{]", text))
    if repeats > _MOST_REPEATS or re.search(r"\)[*+{]", text):
        raise InputError(f"{show(text)} is too costly a pattern to search for", field="quantization_config")
    try:
        return re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise InputError(f"{show(text)} is no regular expression: {error}", field="quantization_config") from None


def formats_of(scheme: Scheme, graph: Graph) -> dict[str, dict[Stored, float]]:
    """Elements of each part of the model by how they are stored."""
    resolver = _Resolver(scheme, int(sum(_depths(graph).values())))
    found: dict[str, dict[Stored, float]] = {}
    for op in graph:
        for operand in op.inputs:
            if operand.role not in ("weight", "table") or operand.bits is not None:
                continue
            part = part_of(op)
            elements = float(np.max(op.elements(operand, visited=False)))
            if operand.name in op.tied:
                elements = 0.0
            for share, names, modules in _spelt(op, operand, part, graph):
                for stored, count in resolver.layers(part, names, int(np.max(op.count))).items():
                    table = found.setdefault(part, {})
                    size = elements * share
                    if stored.module_bytes and size:
                        stored = Stored(stored.name, stored.bits + 8 * stored.module_bytes * modules / size)
                    table[stored] = table.get(stored, 0.0) + size * count
    return found


class _Resolver:
    """Finds the rule of a module in each layer."""

    def __init__(self, scheme: Scheme, depth: int) -> None:
        self.scheme, self.depth = scheme, max(1, depth)
        text = "\n".join(p.text for p, _ in scheme.rules)
        self.numbered = any(c.isdigit() for c in text)
        self.prefixes = [p for i, p in enumerate(_PREFIXES) if i == 0 or _plain(p) in text.replace("\\", "")]
        self.exact = {p.text.removesuffix(".weight"): i for i, (p, _) in reversed(list(enumerate(scheme.rules)))}
        self.exact = {text: i for text, i in self.exact.items() if scheme.rules[i][0].matches is None}
        self.patterns = [(i, p.matches) for i, (p, _) in enumerate(scheme.rules) if p.matches is not None]
        self.until = time.monotonic() + _MOST_SECONDS

    def layers(self, part: str, names: Sequence[str], count: int) -> dict[Stored, float]:
        """In how many of ``count`` layers the module ``names`` spells is stored how."""
        default = self.scheme.of_part(part)
        if not self.scheme.rules:
            return {default: float(count)}
        if part in ("head", "embedding"):
            return {self._one(names, default): float(count)}
        sampled = self.depth if self.numbered else 1
        found: dict[Stored, float] = {}
        for layer in range(sampled):
            spelled = [prefix.replace("#", str(layer)) + name for prefix in self.prefixes for name in names]
            stored = self._one(spelled, default)
            found[stored] = found.get(stored, 0.0) + self.depth / sampled
        other = {s: n for s, n in found.items() if s is not default}
        told = sum(other.values())
        if told >= count:  # names of this kind of layer only, listed one by one
            return {s: n * count / told for s, n in other.items()}
        return {**other, default: count - told}

    def _one(self, names: Iterable[str], default: Stored) -> Stored:
        best = len(self.scheme.rules)
        for name in names:
            words = name.split(".")
            if self.exact:
                for i in range(len(words)):
                    for j in range(i + 1, len(words) + 1):
                        best = min(best, self.exact.get(".".join(words[i:j]), best))
            for i, matches in self.patterns:
                if i < best and matches(name):
                    best = i
        if time.monotonic() > self.until:
            raise InputError("its patterns take too long to search for", field="quantization_config")
        return self.scheme.rules[best][1] if best < len(self.scheme.rules) else default


#: What stands before a module of layer ``#``; the first always, the others where the config writes them.
_PREFIXES = (
    "model.layers.#.",
    "language_model.model.layers.#.",
    "model.language_model.layers.#.",
    "language_model.layers.#.",
    "transformer.h.#.",
    "transformer.encoder.layers.#.",
    "backbone.layers.#.",
    "gpt_neox.layers.#.",
    "model.decoder.layers.#.",
)


def _plain(prefix: str) -> str:
    return prefix.partition("#")[0]


_SELF = ("self_attn", "attention", "attn", "self_attention")
_MIXER = ("linear_attn", "mixer", "mamba", "self_attn", "attn", "conv", "temporal_block")
_MLP = ("mlp", "feed_forward", "ffn", "mixer")
_EXPERTS: tuple[str, ...] = (
    *(f"{block}.experts.0" for block in ("mlp", "block_sparse_moe", "feed_forward", "moe", "mixer")),
    "mlp.experts",
)
_SHARED = (
    "mixer.shared_experts",
    "mlp.shared_experts",
    "mlp.shared_expert",
    "feed_forward.shared_expert",
    "block_sparse_moe.shared_experts",
)
_ROUTERS = ("mlp.gate", "mlp.router", "block_sparse_moe.gate", "feed_forward.router", "mixer.gate", "moe.gate")
_GATE = ("gate_proj", "gate_up_proj", "w1")
_UP = ("up_proj", "gate_up_proj", "w3", "fc1", "c_fc", "dense_h_to_4h")
_DOWN = ("down_proj", "w2", "fc2", "c_proj", "dense_4h_to_h")
_ENDS: Mapping[str, tuple[str, ...]] = {
    "head": ("lm_head", "output", "embed_out", "language_model.lm_head", "model.lm_head"),
    "embedding": ("model.embed_tokens", "embed_tokens", "transformer.wte", "model.language_model.embed_tokens", "wte"),
}
_ATTENTION: Mapping[str, tuple[str, ...]] = {
    "out": ("o_proj", "out_proj", "wo", "dense", "c_proj"),
    "latent": ("q_a_proj", "kv_a_proj_with_mqa", "fused_qkv_a_proj_with_mqa"),
    "q_up": ("q_b_proj",),
    "q": ("q_proj",),
    **dict.fromkeys(("k_absorb", "v_absorb", "k_up", "v_up"), ("kv_b_proj",)),
    "index_q": ("indexer.wq_b",),
    "index_k": ("indexer.wk",),
    "index_w": ("indexer.weights_proj",),
}
_FUSED = ("qkv_proj", "Wqkv", "query_key_value", "c_attn", "wqkv")


def _within(containers: Sequence[str], modules: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{c}.{m}" for c in containers for m in modules)


def _spelt(op: Op, operand: Operand, part: str, graph: Graph) -> Iterator[tuple[float, tuple[str, ...], int]]:
    """``(share of the elements, its spellings without the layer, modules)`` of what one weight of a graph is."""
    prefix, _, name = op.name.rpartition(".")
    if part in _ENDS:
        yield 1.0, _ENDS[part], 1
    elif part == "router":
        extra = ("mlp.shared_expert_gate",) if name == "shared_gate" else ()
        yield 1.0, (*extra, *_ROUTERS), 1
    elif part in ("mlp", "moe", "shared"):
        containers = {"mlp": _MLP, "moe": _EXPERTS, "shared": _SHARED}[part]
        experts = int(np.max(op.size("e"))) if "e" in operand.ranks else 1
        gated = "u" in operand.ranks and int(np.max(op.size("u"))) == 2
        for spelt in (_GATE, _UP) if gated else (_UP,) if name.endswith("up") else (_DOWN,):
            yield 0.5 if gated else 1.0, _within(containers, spelt), experts
    elif part != "attention":
        yield 1.0, (part,), 1
    elif name == "qkv":
        heads, groups = (float(np.max(op.size(r))) if r in op.sizes else 1.0 for r in ("h", "g"))
        own: Mapping[str, Any] = dict(op.derived.get("p", ()))
        queries = own.get("h", 1) * heads
        whole = queries + own.get("g", 2) * groups
        yield queries / whole, (*_within(_SELF, ("q_proj", "wq", *_FUSED)), "mixer.q_proj"), 1
        for letter in "kv":
            yield (
                (whole - queries) / 2 / whole,
                (*_within(_SELF, (f"{letter}_proj", f"w{letter}", *_FUSED)), f"mixer.{letter}_proj"),
                1,
            )
    elif _attends(prefix, graph):
        yield 1.0, (*_within(_SELF, _ATTENTION.get(name, (f"{name}_proj",))), f"mixer.{name[0]}_proj"), 1
    else:
        modules = {"out": ("out_proj", "o_proj"), "conv": ("conv1d", "conv")}.get(name, ("in_proj", f"in_proj_{name}"))
        yield 1.0, _within(_MIXER, (*modules, f"{name}_proj")), 1


def _attends(prefix: str, graph: Graph) -> bool:
    """Whether the layers of a prefix have attention and no state."""
    return any(op.name in (f"{prefix}.qkv", f"{prefix}.latent") for op in graph)


def _depths(graph: Graph) -> dict[str, int]:
    """Layers by the prefix of their ops."""
    found: dict[str, int] = {}
    for op in graph:
        prefix, dot, _ = op.name.rpartition(".")
        if dot:
            found[prefix] = max(found.get(prefix, 0), int(np.max(op.count)))
    return found
