"""Prompts and outputs on replicas of their own; the cache is sent layer by layer under the prompt (Splitwise)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from steelyard.techniques._base import Citation
from steelyard.techniques.distserve import DistServe
from steelyard.units import Quantity

__all__ = ["Splitwise"]


@dataclass(frozen=True)
class Splitwise(DistServe):
    """As DistServe, with transfers that hide behind the prompt's layers."""

    name: ClassVar[str] = "splitwise"
    paper: ClassVar[Citation] = Citation(
        "Splitwise: efficient generative LLM inference using phase splitting", "arXiv:2311.18677"
    )

    transfer_overlap: Annotated[
        float, Quantity("1", "share of a cache that is sent while its prompt is computed", ge=0, le=1)
    ] = 1.0
