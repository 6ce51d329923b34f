"""Kernels that run beside each other (NanoFlow, arXiv:2408.12757; TokenWeave, arXiv:2505.11329).

A step is cut into parts, so that what reads memory or waits for the network runs beside the products of another part.
The step tables price both orders and the faster one is used; reading weights twice is paid for. How each is priced:
:mod:`steelyard.cost.step_table`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from steelyard.techniques._base import Citation, PoolFit, Technique

__all__ = ["NanoFlow", "TokenWeave"]


@dataclass(frozen=True)
class _Overlap(Technique):
    """Another order of a step's kernels."""

    layer: ClassVar[str] = "kernel"
    serving: ClassVar[bool] = True
    in_steps: ClassVar[bool] = True
    slot: ClassVar[str] = "overlap"

    @classmethod
    def from_flag(cls, text: str, label: str) -> _Overlap | None:
        """Its own name."""
        return cls() if text.strip().lower() == cls.name else None

    @property
    def overlap(self) -> str:
        """Its name in the step tables."""
        return self.name

    def fit(self, pool: PoolFit) -> None:
        """What is assumed; the tables hold the prices."""
        pool.notes.append(f"kernels overlap as {self.name} does, where that is faster than one after another")

    def report(self, counts: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
        """That it was used."""
        yield "overlap", f"kernels beside each other as {self.name} does, where that is faster"


@dataclass(frozen=True)
class NanoFlow(_Overlap):
    """Nano-batches: what reads memory or waits for the network runs beside the products."""

    name: ClassVar[str] = "nanoflow"
    paper: ClassVar[Citation] = Citation(
        "NanoFlow: towards optimal large language model serving throughput", "arXiv:2408.12757"
    )
    effect: ClassVar[str] = "memory-bound kernels and collectives run beside the products of another nano-batch"


@dataclass(frozen=True)
class TokenWeave(_Overlap):
    """Two halves: collectives run under the other half of the batch."""

    name: ClassVar[str] = "tokenweave"
    paper: ClassVar[Citation] = Citation(
        "TokenWeave: efficient compute-communication overlap for distributed LLM inference", "arXiv:2505.11329"
    )
    effect: ClassVar[str] = "collectives run under the other half of the batch"
