"""Context-parallel groups as wide as each document needs, not as the longest does.

``length-groups`` (FlexSP, arXiv:2412.01523; ByteScale, arXiv:2502.21231)
    Of packed documents (``--docs``) over ``--cp`` ranks. One group for all passes keys and values of every token around
    all ranks. Here a document of ``l`` tokens takes ``g(l)`` of them, the power of two that holds it at ``seq / cp``
    tokens a rank; those that fit one rank are not passed around. Exchange is ``E[g - 1] / (cp - 1)`` of that of one
    group, the mean over tokens. Tokens and memory of a rank stay, and so do pairs of attention; which rank has which
    documents is taken to be balanced as well as without.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from steelyard.errors import Problem
from steelyard.techniques._base import Citation, Technique
from steelyard.techniques._training import OfTraining

__all__ = ["LengthGroups"]


@dataclass(frozen=True)
class LengthGroups(OfTraining, Technique):
    """See the module's text."""

    name: ClassVar[str] = "length-groups"
    effect: ClassVar[str] = (
        "packed documents are shared by as many context-parallel ranks as each needs: short ones by none"
    )
    costs: ClassVar[str] = "groups of ranks made anew for every step"
    paper: ClassVar[Citation] = Citation(
        "Data-centric and heterogeneity-adaptive sequence parallelism for efficient LLM training", "arXiv:2412.01523"
    )

    def training_problems(self, scenario: Any) -> list[Problem]:
        """See :class:`OnTraining`."""
        found = super().training_problems(scenario)
        plan = scenario.plan
        if getattr(plan, "packing", None) is None:
            found = [*found, Problem(self.name, "it is of packed documents: give --docs")]
        if plan.ring and plan.ring < plan.cp:
            found = [*found, Problem("ring", "groups by length pass keys and values around: leave ring out")]
        if plan.cp == 1 and "cp" not in scenario.open:
            found = [*found, Problem("cp", "one rank has whole sequences: give --cp above 1")]
        return found

    def training(self, scenario: Any) -> Any:
        """See :class:`OnTraining`."""
        grouped = replace(scenario.plan.packing, grouped=True)
        return replace(scenario, plan=replace(scenario.plan, packing=grouped))
