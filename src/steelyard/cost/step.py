"""The price of an engine step: the one place where a step is lowered, priced and given its hops between stages.

``estimate``, the step tables of the simulator, the planner's screen, sweeps and validation all ask a :class:`Replica`.
Every figure is elementwise over the steps of a call, so a step's price does not depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from steelyard.cost.cost import Cost
from steelyard.cost.pipeline import boundary
from steelyard.cost.price import price
from steelyard.cost.program import Kernel, Program, lower
from steelyard.deployment.engine import Engine
from steelyard.deployment.formats import Format, find_format
from steelyard.deployment.plan import Plan
from steelyard.machine.classes import stack_named
from steelyard.machine.cluster import Cluster
from steelyard.workload.op import Op, Size
from steelyard.workload.protocol import Workload
from steelyard.workload.step import Step

__all__ = ["Replica", "StepPrice"]


@dataclass(frozen=True, eq=False)
class StepPrice:
    """The price of a step (or of many: every figure may be an array over steps)."""

    program: Program
    """Kernels of one device."""
    cost: Cost
    """Their price and the engine's own time, without the hops between stages."""
    hop_s: Any
    """Time of the hops between pipeline stages, inside ``time_s``."""
    time_s: Any
    """The whole step: every stage, every hop, the engine's own time."""

    @property
    def limit_s(self) -> Any:
        """The physical limit of the same step; never above ``time_s``."""
        return self.cost.limit_s

    @property
    def energy_j(self) -> Any:
        """Energy of one device of each stage; multiply by the devices of a stage."""
        return self.cost.energy_j

    @property
    def kernels_s(self) -> Any:
        """Time of the kernels alone."""
        return sum((k.time_s for k in self.cost.kernels), 0.0)


@dataclass(frozen=True, eq=False)
class Replica:
    """What prices a step: a model on the devices of one replica, under a plan and an engine.

    Args:
        model: the workload.
        plan: a resolved plan.
        cluster: the devices and the links between them.
        engine: serving engine.
        skew: exponent of the power law of expert popularity, 0 = balanced; counts wherever there are experts.
        eager_layer_s: host time per layer (s) of an engine that launches every kernel from Python; the slower of host
            and devices counts.
        head_format: format of the output head where the files quantise it too; empty = as the plan has it.
    """

    model: Workload
    plan: Plan
    cluster: Cluster
    engine: Engine
    skew: float = 0.0
    eager_layer_s: float = 0.0
    head_format: str = ""

    def price(
        self, step: Step, *, decode: bool = True, absorb: bool | None = None, keep: Callable[[Op], bool] | None = None
    ) -> StepPrice:
        """Price a step of the replica.

        Args:
            step: what is processed, per replica; sizes may be arrays over steps.
            decode: whether the step is a captured graph where the engine uses them for decoding.
            absorb: for latent attention, whether attention reads the latent cache directly; default: when one new
                token per sequence is processed.
            keep: only the ops for which this holds; without: all.
        """
        program = self.lower(step, absorb, keep)
        cost = self.cost(program, decode=decode)
        hop_s = self.hop_s(step.tokens)
        time_s = cost.time_s + hop_s
        if self.eager_layer_s:
            launching_s = self.eager_layer_s * self.model.depth
            time_s = np.maximum(time_s - cost.overhead_s, launching_s) + cost.overhead_s
        return StepPrice(program, cost, hop_s, time_s)

    def lower(self, step: Step, absorb: bool | None = None, keep: Callable[[Op], bool] | None = None) -> Program:
        """The kernels of a step on one device. Arguments as of :meth:`price`."""
        shared = np.asarray(step.tokens) * self.plan.dp if self.plan.shares_experts else step.expert_tokens
        graph = self.model.graph(replace(step, expert_tokens=shared, skew=self.skew), absorb=absorb)
        program = lower(graph if keep is None else graph.where(keep), self.plan, self.cluster.machine)
        if not self.head_format:
            return program
        head = find_format(self.head_format)
        return replace(program, kernels=tuple(_stored(k, head) for k in program.kernels))

    def cost(self, program: Program, *, decode: bool = True) -> Cost:
        """Price kernels of one device, without hops."""
        return price(program, self.cluster, self.engine, decode=decode)

    def hop_s(self, tokens: Size) -> Any:
        """Time (s) that the hidden states of ``tokens`` tokens spend between the stages of the pipeline."""
        return boundary(self.model, self.plan, self.cluster, tokens) * (self.plan.pp - 1)

    @property
    def launch_s(self) -> float:
        """Host time (s) to launch one kernel that is not part of a captured graph."""
        return stack_named(self.cluster.machine.launch).launch_s


def _stored(kernel: Kernel, fmt: Format) -> Kernel:
    """A product of the head with its weights in another format."""
    if kernel.block != "head" or kernel.kind != "gemm":
        return kernel
    ratio = fmt.stored_bits / float(kernel.features["weight_bits"])
    traffic = {**kernel.traffic, "weight": kernel.traffic["weight"] * ratio}
    features = {**kernel.features, "weight_bits": fmt.stored_bits}
    return replace(kernel, features=features, traffic=traffic, weight_format=fmt.name)
