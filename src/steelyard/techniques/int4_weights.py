"""Weights in 4-bit integers with a scale per group, products in 16 bits (AWQ, GPTQ)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from steelyard.techniques._base import Citation, Technique

__all__ = ["Int4Weights"]


@dataclass(frozen=True)
class Int4Weights(Technique):
    """Weight-only quantisation; what it costs in quality is not predicted."""

    name: ClassVar[str] = "int4-weights"
    layer: ClassVar[str] = "format"
    paper: ClassVar[Citation] = Citation(
        "AWQ: activation-aware weight quantization for LLM compression and acceleration", "arXiv:2306.00978"
    )
    effect: ClassVar[str] = "a quarter of the weight bytes: smaller devices, shorter decode steps at small batches"
    costs: ClassVar[str] = "accuracy, a few tenths of a point with calibrated rounding"

    def words(self, verb: str) -> Mapping[str, Any]:
        """The format of the weights."""
        return {"weights": "int4"}
