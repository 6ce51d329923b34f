"""Admission by what the running requests will hold at the fullest, from the lengths of past outputs (LightLLM)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from steelyard.techniques._base import Citation, Technique

__all__ = ["PastFuture"]


@dataclass(frozen=True)
class PastFuture(Technique):
    """LightLLM's scheduler with its admission."""

    name: ClassVar[str] = "past-future"
    layer: ClassVar[str] = "serving"
    paper: ClassVar[Citation] = Citation(
        "Past-Future scheduler for LLM serving under SLA guarantees", "arXiv:2507.10150"
    )
    effect: ClassVar[str] = "requests are admitted when the cache will hold them to their end: fewer preemptions"
    serving: ClassVar[bool] = True
    slot: ClassVar[str] = "scheduler"

    def words(self, verb: str) -> Mapping[str, Any]:
        """The scheduler."""
        return {"flags": {"scheduler": "lightllm"}}
