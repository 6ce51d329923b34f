"""Running requests move to the replica of their pool with the most room instead of being preempted (Llumnix)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from steelyard.deployment.dynamics import Dynamics
from steelyard.techniques._base import Citation, Technique

__all__ = ["Llumnix"]


@dataclass(frozen=True)
class Llumnix(Technique):
    """Live migration between replicas; needs two of them to do anything."""

    name: ClassVar[str] = "llumnix"
    layer: ClassVar[str] = "fleet"
    paper: ClassVar[Citation] = Citation(
        "Llumnix: dynamic scheduling for large language model serving", "arXiv:2406.03243"
    )
    effect: ClassVar[str] = "running requests move to the replica with the most room instead of being preempted"
    serving: ClassVar[bool] = True

    def dynamics(self, dynamics: Dynamics) -> Dynamics:
        """Requests may move."""
        return replace(dynamics, migrate=True)
