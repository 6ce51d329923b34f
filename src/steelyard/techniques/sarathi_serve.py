"""Chunked prefill: steps of a fixed token budget, decodes first, prompt chunks in what is left (Sarathi-Serve)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from steelyard.techniques._base import Citation, Technique
from steelyard.units import Quantity

__all__ = ["SarathiServe"]


@dataclass(frozen=True)
class SarathiServe(Technique):
    """The token budget of a step."""

    name: ClassVar[str] = "sarathi-serve"
    layer: ClassVar[str] = "serving"
    paper: ClassVar[Citation] = Citation(
        "Taming throughput-latency tradeoff in LLM inference with Sarathi-Serve", "arXiv:2403.02310"
    )
    effect: ClassVar[str] = "prompts are cut into chunks that share steps with decodes: shorter gaps between tokens"
    serving: ClassVar[bool] = True
    first: ClassVar[str] = "chunk"
    slot: ClassVar[str] = "scheduler"

    chunk: Annotated[int, Quantity("1", "tokens of a step, decodes and prompt chunk together", ge=1, le=1e9)] = 512

    def words(self, verb: str) -> Mapping[str, Any]:
        """The scheduler and its budget."""
        flags = {"scheduler": "sarathi", "max_num_batched_tokens": self.chunk, "enable_chunked_prefill": True}
        return {"flags": flags}
