"""Layers as one pipeline on a chip of dataflow (SambaNova SN40L, arXiv:2405.07518).

Operators are laid out beside each other and stream to the next on chip: what passes between them is neither written nor
read, none is launched, and the weights of the next are read while a sum of the one before travels. Of the operators of
the layers, with ``W`` bytes of weights and caches, ``F`` operations and ``N`` the time of collectives,

    T = max(W / (sustained bandwidth), F / (sustained peak), N)

``sustained``: the maker states over 75 % of the peak for the generation of tokens on 8 and 16 chips (DAC 2025). Valid
on machines whose software lays out whole graphs; embedding and head stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import numpy as np

from steelyard.cost.cost import Cost, KernelCost
from steelyard.cost.effect import Effect, total_s
from steelyard.cost.kernel import Kernel, Program
from steelyard.cost.step import Replica
from steelyard.errors import Problem
from steelyard.machine.classes import stack_named
from steelyard.techniques._base import Citation, Technique
from steelyard.units import Quantity

__all__ = ["DataflowFusion"]


def _in_layers(kernel: Kernel) -> bool:
    return not kernel.stage and "." in kernel.name


@dataclass(frozen=True)
class Pipelined(Effect):
    """Kernels of the layers as one."""

    sustained: float

    def priced(self, cost: Cost, program: Program, replica: Replica) -> Cost:
        """Their share of the pipeline's time, in proportion to what they would take one after another."""
        if program.step is None:
            return cost
        others = replace(replica, effects=tuple(x for x in replica.effects if not isinstance(x, Pipelined)))
        whole = [k for k in others.cost(others.lower(program.step, program.absorb)).kernels if _in_layers(k.kernel)]
        left = self._pipeline_s(whole) / np.maximum(total_s(whole), 1e-30)
        return replace(cost, kernels=tuple(self._scaled(k, left) if _in_layers(k.kernel) else k for k in cost.kernels))

    def _pipeline_s(self, kernels: Iterable[KernelCost]) -> Any:
        streamed: Any = np.zeros(())
        computed: Any = np.zeros(())
        sent: Any = np.zeros(())
        for k in kernels:
            if k.kernel.kind == "collective":
                sent = sent + k.time_s
                continue
            traffic = k.kernel.traffic
            kept = np.asarray(traffic.get("weight", 0.0) + traffic.get("kv", 0.0), dtype=np.float64)
            streamed = streamed + np.asarray(k.memory_s) * kept / np.maximum(k.kernel.bytes, 1e-30)
            computed = computed + k.compute_s
        return np.maximum(np.maximum(streamed, computed) / self.sustained, sent)

    def _scaled(self, k: KernelCost, left: Any) -> KernelCost:
        time_s = k.time_s * np.minimum(left, 1.0)
        return replace(k, time_s=time_s, limit_s=np.minimum(k.limit_s, time_s))


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
