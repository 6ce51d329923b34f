"""Adversarial training: a step looks for the change of its images that hurts most before it learns from them.

The search is a forward and a backward pass of its own down to the images; the step proper, with the update, follows it:
one after the other on the same devices they take two steps' time (the search has no update of its own; that it is
counted makes it longer by the share of an update in a step, a few hundredths). With ``stale`` the search uses the
weights of an earlier step and runs on further devices at the same time: the step takes as long as without.

Papers: Concurrent adversarial learning for large-batch training (ICLR 2022). What exchanges between devices take
is not priced, nor the devices of the concurrent search.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

from steelyard.errors import Problem
from steelyard.techniques._base import Citation
from steelyard.techniques.network_passes import NetTechnique, with_phases

__all__ = ["AdversarialStep"]


@dataclass(frozen=True)
class AdversarialStep(NetTechnique):
    """See the module's text."""

    name: ClassVar[str] = "adversarial-step"
    layer: ClassVar[str] = "training"
    effect: ClassVar[str] = (
        "a step of training looks for the worst change of its images first: a further pass both ways"
    )
    paper: ClassVar[Citation] = Citation("Concurrent adversarial learning for large-batch training", "ICLR 2022")

    stale: Annotated[bool, "with the weights of an earlier step, on further devices at the same time"] = False

    def network_problems(self, scenario: Any) -> list[Problem]:
        """See :class:`OnNetworks`."""
        return [] if scenario.words.get("train") else [Problem(self.name, "of training steps: give --train")]

    def network(self, scenario: Any) -> Any:
        """See :class:`OnNetworks`."""
        if self.stale:
            return scenario
        return with_phases(scenario, lambda p: replace(p, repeats=2 * p.repeats))
