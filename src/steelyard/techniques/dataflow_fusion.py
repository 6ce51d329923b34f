"""Layers as one pipeline on a chip of dataflow (SambaNova SN40L, arXiv:2405.07518).

Operators are laid out beside each other and stream to the next on chip: what passes between them is neither written nor
read, none is launched, and the weights of the next are read while a sum of the one before travels. Of the operators of
the layers, with ``W`` bytes of weights and caches, ``F`` operations and ``N`` the time of messages over the links,

    T = max(W / (sustained bandwidth), F / (sustained peak), N)

``sustained``: the maker states over 75 % of the peak for the generation of tokens on 8 and 16 chips (DAC 2025). Valid
on machines whose software lays out whole graphs; embedding and head stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

from steelyard.cost.cost import Cost
from steelyard.cost.effect import Effect
from steelyard.cost.fused_layers import fused
from steelyard.cost.kernel import Program
from steelyard.cost.step import Replica
from steelyard.errors import Problem
from steelyard.machine.classes import stack_named
from steelyard.techniques._base import Citation, Technique
from steelyard.units import Quantity

__all__ = ["DataflowFusion"]


@dataclass(frozen=True)
class Pipelined(Effect):
    """Kernels of the layers as one."""

    sustained: float

    def priced(self, cost: Cost, program: Program, replica: Replica) -> Cost:
        """Their share of the pipeline's time."""
        return replace(cost, kernels=fused(cost.kernels, self.sustained))


@dataclass(frozen=True)
class DataflowFusion(Technique):
    """See the module's text."""

    name: ClassVar[str] = "dataflow-fusion"
    layer: ClassVar[str] = "device"
    paper: ClassVar[Citation] = Citation(
        "SambaNova SN40L: scaling the AI memory wall with dataflow and composition of experts", "arXiv:2405.07518"
    )
    effect: ClassVar[str] = "layers are one pipeline: weights are read, work is done and sums travel at the same time"
    costs: ClassVar[str] = "a compiler that places whole graphs; one layout for each shape"
    first: ClassVar[str] = "sustained"

    sustained: Annotated[float, Quantity("1", "share of the peaks that the pipeline sustains", ge=0.01, le=1)] = 0.75

    def conflict(self, other: Technique) -> str:
        """Other orders of a step's kernels."""
        apart = other.slot == "overlap" or other.name == "moe-overlap"
        return "one order of a step's kernels at a time" if apart else ""

    def applies(self, scenario: Any) -> list[Problem]:
        """A machine that launches kernels one by one."""
        machine = scenario.cluster.machine
        if stack_named(machine.launch).streams:
            return []
        return [Problem(self.name, f"{machine.title} launches kernels one by one: expected a machine of dataflow")]

    @property
    def step_effect(self) -> Pipelined:
        """Kernels of the layers as one."""
        return Pipelined(self.sustained)
