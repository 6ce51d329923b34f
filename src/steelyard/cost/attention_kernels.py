"""Which attention kernel runs where, and what is known about it: `kernels/attention.toml` of the catalogues."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from functools import cache
from typing import Any, TypeVar

from steelyard.cost.attention_facts import AttentionFacts
from steelyard.cost.mla import MlaFacts
from steelyard.documents import read_document
from steelyard.errors import InputError
from steelyard.folders import catalogue_folders

__all__ = ["attention_facts", "attention_kernel", "attention_kernel_names", "mla_facts", "mla_kernel"]

F = TypeVar("F", AttentionFacts, MlaFacts)


@cache
def _table() -> Mapping[str, Any]:
    """Every section of every catalogue; of two entries of one name the one that is searched first."""
    found: dict[str, dict[str, Any]] = {"facts": {}, "mla": {}, "select": {}, "select_mla": {}}
    for folder in catalogue_folders():
        path = folder / "kernels" / "attention.toml"
        if path.is_file():
            for section, entries in read_document(path).items():
                if not isinstance(entries, Mapping) or not all(isinstance(e, Mapping) for e in entries.values()):
                    raise InputError("expected a table of tables", field=f"{path.name}: {section}")
                for name, entry in entries.items():
                    found.setdefault(section, {}).setdefault(name, entry)
    return found


def _make(cls: type[F], name: str, section: str) -> F:
    values = _table()[section].get(name)
    if values is None:
        return cls(name="generic")
    kinds = {f.name: f.type for f in fields(cls)}
    typed: dict[str, Any] = {
        k: tuple(float(x) for x in v) if isinstance(v, list) else v if kinds[k] in ("bool", "str") else float(v)
        for k, v in values.items()
    }
    return cls(**{"name": name, **typed})


@cache
def attention_facts(name: str) -> AttentionFacts:
    """Facts of a kernel by name ("fa2", "fa3", "flashinfer", "trtllm", ...); an unknown name gives the generic
    kernel. ``fa2/splits=1`` cuts a cache into so many pieces at most, ``fa2/balanced`` shares it out evenly,
    ``fa2/single`` cuts it where every query head has its own as well (FlashAttention-2's entry for caches,
    ``flash_attn_with_kvcache``; the one for sequences of any length does not)."""
    kernel, *ways = name.split("/")
    facts = _make(AttentionFacts, kernel, "facts")
    for way in ways:
        word, _, number = way.partition("=")
        if word == "balanced":
            facts = replace(facts, balanced=True, splits_kv=True, splits_single_group=True, splits_above=0.0)
        elif word == "single":
            facts = replace(facts, splits_single_group=True)
        elif word == "splits":
            cut = int(number) > 1
            facts = replace(facts, max_splits=float(number), splits_kv=cut, splits_kv_windowed=cut)
    return facts


def attention_kernel_names() -> tuple[str, ...]:
    """Kernels that something is known about, by name."""
    return tuple(sorted(_table()["facts"]))


@cache
def mla_facts(name: str) -> MlaFacts:
    """Facts of an MLA decode kernel by name; an unknown name gives the generic one."""
    return _make(MlaFacts, name, "mla")


def attention_kernel(
    family: str, kv_bits: float, head_dim: float = 128, *, expanded: bool = False, own: str = ""
) -> str:
    """The kernel that runs: by machine family, then by KV format and head dimension; "generic" where nothing is known.

    Args:
        family: of the machine.
        kv_bits, head_dim: of the cache.
        expanded: latent attention with its keys and values written out.
        own: the engine's kernel; empty: what a current vLLM picks; ``/single``: that one, called another way.
    """
    if own.startswith("/"):
        return attention_kernel(family, kv_bits, head_dim, expanded=expanded) + own
    chosen = _table()["select"].get(family, {})
    if expanded and "latent" in chosen:
        return str(chosen["latent"])
    if own:
        return own
    if head_dim > chosen.get("large_head_above", 1e9):
        return str(chosen["large_head"])
    if kv_bits <= 8 and head_dim in chosen.get("fp8_odd_head_dims", ()):
        return str(chosen["fp8_odd_head"])
    return str(chosen.get("fp8" if kv_bits <= 8 else "bf16", "generic"))


def mla_kernel(family: str, kv_bits: float) -> str:
    """The MLA decode kernel a current vLLM picks by machine family and KV format."""
    return str(_table()["select_mla"].get(family, {}).get("fp8" if kv_bits <= 8 else "bf16", "triton_mla"))
