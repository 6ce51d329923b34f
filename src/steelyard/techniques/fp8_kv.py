"""The KV cache in 8-bit floating point: half the bytes per token of memory and of every decode's reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from steelyard.errors import Problem
from steelyard.techniques._base import Citation, Technique
from steelyard.techniques.refusals import no_cache

__all__ = ["Fp8Kv"]


@dataclass(frozen=True)
class Fp8Kv(Technique):
    """One scale per tensor; no further bytes."""

    name: ClassVar[str] = "fp8-kv"
    layer: ClassVar[str] = "format"
    paper: ClassVar[Citation] = Citation("FP8 formats for deep learning", "arXiv:2209.05433")
    effect: ClassVar[str] = "half the cache: more requests at once, shorter decode steps"
    costs: ClassVar[str] = "little accuracy; scales per tensor"

    def applies(self, scenario: Any) -> list[Problem]:
        """A model without a cache."""
        return no_cache(self.name, scenario.transformer)

    def words(self, verb: str) -> Mapping[str, Any]:
        """The format of the cache."""
        return {"kv": "fp8"}
