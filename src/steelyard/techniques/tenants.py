"""Several models on the same devices: tuned from one base and sharing blocks, or switched in and out.

``tenants``: ``models`` of equal shape have a share of their layers' weights in common; requests are of one each, at
random. A step of ``B`` sequences meets ``D = n (1 - (1 - 1/n)^B)`` of them: shared blocks run once for all, private
ones ``D`` times for ``B / D`` sequences each (BlockLLM, arXiv:2404.18322). Memory holds the private blocks of all.
``share=0`` is what systems without sharing do: merged copies of every tuned model.

``model-switch``: of ``models`` on the host's side ``resident`` fit on the device; a request whose model is not there
waits until its weights are copied (SN40L, arXiv:2405.07518):

    wait = (1 - hit) weights / rate,   hit = resident / models unless stated
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import numpy as np

from steelyard.cost.effect import Effect
from steelyard.cost.host_memory import LINK_FRAC
from steelyard.cost.kernel import Kernel, Program
from steelyard.cost.memory import weight_bytes
from steelyard.cost.step import Replica
from steelyard.deployment.engine import Engine
from steelyard.errors import Problem
from steelyard.machine.component import Machine
from steelyard.techniques._base import Citation, Technique
from steelyard.units import Quantity
from steelyard.workload.step import Step

__all__ = ["ModelSwitch", "Tenants"]

SEVERAL = "deployments of several models on the same devices are not sought"
#: Ending of the name of a kernel that runs once for each model.
PRIVATE = " of each model"


@dataclass(frozen=True)
class PrivateBlocks(Effect):
    """Blocks that run once for each model of a step."""

    models: int
    share: float

    def lowered(self, program: Program, replica: Replica) -> Program:
        """Products with weights as two: shared for all sequences, private for those of one model."""
        step = program.step
        if step is None or self.share >= 1.0 or self.models == 1:
            return program
        sequences = np.maximum(np.asarray(step.batch, dtype=np.float64), 1e-9)
        met = self.models * -np.expm1(sequences * np.log1p(-1.0 / self.models))
        met = np.clip(met, 1e-9, np.maximum(sequences, 1.0))
        part = Step(sequences / met, step.new, step.context, None, None, step.skew, step.first)
        alone = {k.name: k for k in replica.plain.lower(part, program.absorb).kernels}
        kernels: list[Kernel] = []
        for k in program.kernels:
            if not k.weight_format or "." not in k.name or k.name not in alone:
                kernels.append(k)
                continue
            count = np.asarray(k.count, dtype=np.float64)
            kernels.append(replace(k, count=count * self.share))
            each = alone[k.name]
            kernels.append(replace(each, name=k.name + PRIVATE, count=count * (1.0 - self.share) * met))
        return replace(program, kernels=tuple(kernels))


@dataclass(frozen=True)
class Tenants(Technique):
    """Tuned models that share blocks."""

    name: ClassVar[str] = "tenants"
    layer: ClassVar[str] = "serving"
    paper: ClassVar[Citation] = Citation(
        "BlockLLM: multi-tenant finer-grained serving for large language models", "arXiv:2404.18322"
    )
    effect: ClassVar[str] = "several tuned models share part of their blocks; the rest is there for each"
    costs: ClassVar[str] = "models tuned so that blocks stay common"
    first: ClassVar[str] = "models"

    unplanned: ClassVar[str] = SEVERAL

    models: Annotated[int, Quantity("1", "models of equal shape", ge=1, le=100_000)]
    share: Annotated[float, Quantity("1", "share of the layers' weights they have in common", ge=0, le=1)] = 0.7

    def scenario(self, scenario: Any) -> Any:
        """Memory of the private blocks of the other models."""
        whole = weight_bytes(scenario.transformer, scenario.plan, scenario.exact_weight_bytes)
        taken = (self.models - 1) * (1.0 - self.share) * whole
        machine = scenario.cluster.machine
        free = machine.root.capacity_bytes - machine.reserved_bytes
        reserved = machine.reserved_bytes + min(taken, 0.999 * free)
        cluster = replace(scenario.cluster, machine=replace(machine, reserved_bytes=reserved))
        return replace(scenario, cluster=cluster)

    @property
    def step_effect(self) -> PrivateBlocks:
        """Private blocks."""
        return PrivateBlocks(self.models, self.share)


@dataclass(frozen=True)
class ModelSwitch(Technique):
    """Models that wait for their turn on the device."""

    name: ClassVar[str] = "model-switch"
    layer: ClassVar[str] = "memory"
    paper: ClassVar[Citation] = Citation(
        "SambaNova SN40L: scaling the AI memory wall with dataflow and composition of experts", "arXiv:2405.07518"
    )
    effect: ClassVar[str] = "a request may have to wait until its model's weights are copied to the device"
    costs: ClassVar[str] = "host memory; nothing in accuracy"
    unplanned: ClassVar[str] = SEVERAL
    first: ClassVar[str] = "models"
    keys: ClassVar[Mapping[str, str]] = {"rate": "rate_bytes_per_s", "weights": "weights_bytes"}

    models: Annotated[int, Quantity("1", "models that requests are for", ge=1, le=1_000_000)]
    resident: Annotated[int, Quantity("1", "of them on the device at a time", ge=1, le=1_000_000)] = 1
    hit: Annotated[float | None, Quantity("1", "share of the requests whose model is there", ge=0, le=1)] = None
    rate_bytes_per_s: Annotated[
        float, Quantity("B/s", "rate of the copy to each device; 0 = 80 % of its link to the host", ge=0, le=1e16)
    ] = 0.0
    weights_bytes: Annotated[
        float, Quantity("B", "of one model on each device; 0 = of the one asked for", ge=0, le=1e15)
    ] = 0.0

    def applies(self, scenario: Any) -> list[Problem]:
        """A machine whose link to the host is not known."""
        if not self.rate_bytes_per_s and not scenario.cluster.machine.links("host"):
            return [Problem(self.name, f"expected rate=50GB/s: {scenario.cluster.machine.name} has no link to a host")]
        return []

    own_bytes = 0.0
    """Of the model that was asked for, once it is known."""

    def wait_s(self, machine: Machine) -> float:
        """Mean wait of a request, s."""
        hit = min(1.0, self.resident / self.models) if self.hit is None else self.hit
        links = machine.links("host")
        rate = self.rate_bytes_per_s or (LINK_FRAC * links[0].bandwidth_bytes_per_s if links else np.inf)
        return float((1.0 - hit) * (self.weights_bytes or self.own_bytes) / rate)

    def scenario(self, scenario: Any) -> Any:
        """With the bytes of the model that was asked for."""
        if self.weights_bytes:
            return scenario
        size = weight_bytes(scenario.transformer, scenario.plan, scenario.exact_weight_bytes)
        mine = replace(self)
        object.__setattr__(mine, "own_bytes", float(size))  # found, not asked for: no parameter
        others = tuple(mine if t is self else t for t in scenario.techniques)
        engine = mine.engine(scenario.engine, scenario.cluster.machine)
        return replace(scenario, engine=engine, techniques=others)

    def engine(self, engine: Engine, machine: Machine) -> Engine:
        """The wait, beside the time that a request takes before its first step."""
        return replace(engine, request_s=engine.request_s + self.wait_s(machine))
