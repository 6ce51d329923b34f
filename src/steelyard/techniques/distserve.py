"""Prompts and outputs on replicas of their own; the cache is pulled when the prompt is computed (DistServe)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from steelyard.techniques._base import Citation, Technique
from steelyard.units import Quantity

__all__ = ["DistServe"]


@dataclass(frozen=True)
class DistServe(Technique):
    """The pools, and how much of a cache is sent early."""

    name: ClassVar[str] = "distserve"
    layer: ClassVar[str] = "parallel"
    paper: ClassVar[Citation] = Citation(
        "DistServe: disaggregating prefill and decoding for goodput-optimized large language model serving",
        "arXiv:2401.09670",
    )
    effect: ClassVar[str] = "no output waits for a prompt's step; caches travel between the pools"
    serving: ClassVar[bool] = True
    unplanned: ClassVar[str] = "plan chooses pools itself (--mode disaggregated)"
    slot: ClassVar[str] = "deployment"
    first: ClassVar[str] = "pools"

    pools: Annotated[tuple[str, ...], "COUNT P or D:DEGREES[@MACHINE], 2P:tp4 and 1D:tp8"]
    transfer_overlap: Annotated[
        float, Quantity("1", "share of a cache that is sent while its prompt is computed", ge=0, le=1)
    ] = 0.0

    def words(self, verb: str) -> Mapping[str, Any]:
        """The pools."""
        sent = {"transfer_overlap": self.transfer_overlap} if self.transfer_overlap else {}
        return {"disaggregate": ",".join(self.pools), **sent}
