"""The first layers on a device at the edge, the others in the cloud (CE-CoLLM, arXiv:2411.02829; split computing).

A share ``cut`` of the layers runs on ``edge``, then the hidden state of every token crosses the link, ``ratio`` of its
16 bits (a bottleneck, a quantised upload), and the rest runs on the machine asked for. With probability ``leave`` a
token is sure enough to leave at the edge, which then has a head of its own, so that on average

    T = T_edge(cut) + (1 - leave) (tokens bytes / link + latency + T_cloud(1 - cut))

The cloud keeps the cache of the tokens it did not see up to date for free, and weights are counted as if whole models
lay on the machine asked for. Energy is that of both.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated, Any, ClassVar

import numpy as np

from steelyard.cost.cost import Cost, KernelCost
from steelyard.cost.effect import Effect
from steelyard.cost.kernel import Elsewhere, Kernel, Program
from steelyard.cost.program import lower
from steelyard.cost.step import Replica
from steelyard.errors import Problem
from steelyard.machine.catalogue import find_machine
from steelyard.machine.component import Machine
from steelyard.techniques._base import Citation, Technique
from steelyard.techniques.refusals import refused_by
from steelyard.units import Quantity

__all__ = ["LayerSplit"]

#: Spread of the time on a link that others use too (guess).
LINK_SPREAD = 0.3


@dataclass(frozen=True)
class Split(Effect):
    """Layers on two machines and a link between them."""

    edge: str
    cut: float
    rate_bytes_per_s: float
    latency_s: float
    ratio: float
    leave: float

    def lowered(self, program: Program, replica: Replica) -> Program:
        """Every kernel of the layers with its part at the edge; copies in the cloud as often as tokens get there."""
        if program.step is None:
            return program
        machine = find_machine(self.edge)
        graph = replica.model.graph(program.step.routed(replica.skew), absorb=program.absorb)
        alone = replace(replica.plan.over(1), offload="", activations="")
        there = {k.name: k for k in lower(graph, alone.resolved(replica.model, machine), machine).kernels}
        return replace(program, kernels=tuple(self._parted(k, there, machine) for k in program.kernels))

    def _parted(self, kernel: Kernel, there: dict[str, Kernel], machine: Machine) -> Kernel:
        stay = 1.0 - self.leave
        if kernel.kind == "collective" or kernel.name not in there:
            return replace(kernel, count=np.asarray(kernel.count) * (1.0 - self.cut) * stay)
        if kernel.stage == "first":
            edge, cloud = 1.0, 0.0
        elif kernel.stage == "last" or "." not in kernel.name:
            edge, cloud = float(self.leave > 0), stay
        else:
            edge, cloud = self.cut, (1.0 - self.cut) * stay
        both = edge + cloud
        if not edge or not both:
            return replace(kernel, count=np.asarray(kernel.count) * both)
        part = replace(there[kernel.name], count=np.asarray(there[kernel.name].count) * both)
        elsewhere = (Elsewhere(edge / both, machine, part),)
        return replace(kernel, count=np.asarray(kernel.count) * both, elsewhere=elsewhere)

    def priced(self, cost: Cost, program: Program, replica: Replica) -> Cost:
        """The way over the link, once a step, beside the table that begins it."""
        if program.step is None or not any(k.kernel.stage == "first" for k in cost.kernels):
            return cost
        bits = replica.plan.format("communication").bits * self.ratio
        sent = np.asarray(program.step.tokens) * replica.model.hidden * bits / 8
        time_s = (sent / self.rate_bytes_per_s + self.latency_s) * (1.0 - self.leave)
        link = Kernel("uplink", "uplink", 1, features={"message_bytes": sent})
        crossing = KernelCost(link, time_s, time_s, 0.0, 0.0, time_s, 0.0, LINK_SPREAD, "stated", "uplink")
        return replace(cost, kernels=(*cost.kernels, crossing))


@dataclass(frozen=True)
class LayerSplit(Technique):
    """A cut inside the model."""

    name: ClassVar[str] = "layer-split"
    layer: ClassVar[str] = "workflow"
    paper: ClassVar[Citation] = Citation(
        "CE-CoLLM: efficient and adaptive large language models through cloud-edge collaboration", "arXiv:2411.02829"
    )
    effect: ClassVar[str] = "the first layers run at the edge, hidden states cross a link, the rest runs in the cloud"
    unplanned: ClassVar[str] = "deployments with devices at the edge are not sought"
    costs: ClassVar[str] = "a device at the edge; accuracy where hidden states are compressed or tokens leave early"
    first: ClassVar[str] = "edge"
    keys: ClassVar[dict[str, str]] = {"link": "rate_bytes_per_s", "latency": "latency_s"}

    edge: Annotated[str, "machine of the catalogue that runs the first layers"] = "jetson_agx_orin"
    cut: Annotated[float, Quantity("1", "share of the layers there", ge=0, le=1)] = 0.25
    rate_bytes_per_s: Annotated[float, Quantity("B/s", "rate of the link", gt=0, le=1e15)] = 12.5e6
    latency_s: Annotated[float, Quantity("s", "of one way over the link", ge=0, le=1e3)] = 10e-3
    ratio: Annotated[float, Quantity("1", "of the hidden states' bytes, what crosses", gt=0, le=1)] = 1.0
    leave: Annotated[float, Quantity("1", "share of the tokens that need no layer of the cloud", ge=0, le=1)] = 0.0

    def problems(self) -> list[Problem]:
        """A machine that is none."""
        return refused_by(self.name, lambda: _known(self.edge))

    def applies(self, scenario: Any) -> list[Problem]:
        """Several kinds of devices."""
        if scenario.cluster.unlike or scenario.plan.pp > 1 or scenario.plan.offload:
            return [Problem(self.name, "priced beside one stage of one kind of device, with all weights on it")]
        return []

    @property
    def step_effect(self) -> Split:
        """Both parts and the link."""
        return Split(self.edge, self.cut, self.rate_bytes_per_s, self.latency_s, self.ratio, self.leave)


@lru_cache(maxsize=64)
def _known(name: str) -> Machine:
    return find_machine(name)
