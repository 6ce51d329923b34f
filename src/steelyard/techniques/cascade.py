"""Two models of one service: a small one answers first, or a router sends to either (FrugalGPT, arXiv:2305.05176).

Of every ``B`` sequences the small model runs all, and a share ``escalate`` runs again on the model asked for; with
``route`` each sequence runs on one of them only, ``escalate`` of them on the model asked for. Both are on the same
devices and take turns:

    T = T_small(B or (1 - escalate) B) + T(escalate B),   of n tokens below one: T(n) = n T(1)

so that times are means over requests; of one prompt alone a share of the tokens counts, which its launches may bound.
The small model's weights take memory; its cache is not counted. Judging an answer is free, and what it costs in quality
is not predicted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated, Any, ClassVar

import numpy as np

from steelyard.cost.effect import Effect
from steelyard.cost.kernel import Kernel, Program
from steelyard.cost.memory import weight_bytes
from steelyard.cost.step import Replica
from steelyard.deployment.plan import Plan
from steelyard.errors import Problem
from steelyard.machine.component import Machine
from steelyard.techniques._base import Citation, Technique
from steelyard.techniques.refusals import refused_by
from steelyard.units import Quantity
from steelyard.workload.catalogue import Model, load_model
from steelyard.workload.step import Step

__all__ = ["Cascade"]

#: Beginning of the names of the small model's kernels.
SMALL = "small "


@lru_cache(maxsize=16)
def _loaded(name: str) -> Model:
    return load_model(name)


def _plan(model: Model, plan: Plan, machine: Machine) -> Plan:
    """The small model over the same devices in its published formats."""
    own = Plan(tp=plan.tp, dp=plan.dp, cp=plan.cp, engine=plan.engine)
    return own.resolved(model.transformer, machine)


def _less(step: Step, share: float) -> tuple[Step, Any]:
    """A step of a share of the sequences, and how often it runs: of no less than one token and one score."""
    tokens = np.maximum(np.asarray(step.tokens), 1e-9)
    times = np.minimum(1.0, tokens * share)
    batch = np.asarray(step.batch, dtype=np.float64) * share / times
    logits = None if step.logits is None else np.maximum(np.asarray(step.logits) * share, 1.0)
    return Step(batch, step.new, step.context, logits, None, step.skew, step.first), times


def _reads_cache(kernel: Kernel) -> bool:
    """Whether its time depends on the context: such kernels may be priced apart from the others."""
    return kernel.kind.startswith("attention")


def _begins(kernel: Kernel) -> bool:
    return kernel.stage == "first"


@dataclass(frozen=True)
class TwoModels(Effect):
    """The kernels of both models."""

    model: str
    large: float
    small: float

    def lowered(self, program: Program, replica: Replica) -> Program:
        """Those of the model asked for with the sequences that reach it, and the small model's."""
        step = program.step
        if step is None:
            return program
        kernels = []
        part, times = _less(step, self.large)
        fewer = {k.name: k for k in replica.plain.lower(part, program.absorb).kernels}
        for k in program.kernels:
            k = fewer.get(k.name, k)
            kernels.append(replace(k, count=np.asarray(k.count) * times))
        reads, rest = (any(found(k) for k in program.kernels) for found in (_reads_cache, _begins))
        part, times = _less(step, self.small)
        other = _loaded(self.model)
        plan = _plan(other, replica.plan, replica.cluster.machine)
        beside = replace(replica.plain, model=other.transformer, plan=plan)
        for k in beside.lower(part, True).kernels:
            if not (reads if _reads_cache(k) else rest):
                continue
            kernels.append(replace(k, name=SMALL + k.name, count=np.asarray(k.count) * times))
        return replace(program, kernels=tuple(kernels))


@dataclass(frozen=True)
class Cascade(Technique):
    """A small model before the one asked for."""

    name: ClassVar[str] = "cascade"
    layer: ClassVar[str] = "workflow"
    paper: ClassVar[Citation] = Citation(
        "FrugalGPT: how to use large language models while reducing cost and improving performance", "arXiv:2305.05176"
    )
    effect: ClassVar[str] = "a small model answers, the one asked for only where that is not enough"
    costs: ClassVar[str] = "accuracy, by how well it is judged which answer is enough"
    unplanned: ClassVar[str] = "deployments of two models on the same devices are not sought"
    first: ClassVar[str] = "model"

    model: Annotated[str, "the small model"]
    escalate: Annotated[float, Quantity("1", "share of the requests that reach the model asked for", gt=0, le=1)] = 0.3
    route: Annotated[bool, "a router decides before: no request runs on both"] = False

    def problems(self) -> list[Problem]:
        """A model that is none."""
        return refused_by(self.name, lambda: _loaded(self.model))

    def conflict(self, other: Technique) -> str:
        """What changes one model's steps alone."""
        alone = other.slot in ("speculation", "deployment", "weights elsewhere", "overlap", "products")
        return "priced for two models as they are" if alone else ""

    def applies(self, scenario: Any) -> list[Problem]:
        """Devices in a line; an encoder."""
        if scenario.plan.pp > 1 or scenario.cluster.unlike or scenario.plan.offload:
            return [Problem(self.name, "priced on one stage of one kind of device, with all weights on it")]
        small = _loaded(self.model).transformer
        tp = scenario.plan.tp
        if not small.causal or any(queries % tp for queries, _ in small.head_groups):
            return [Problem(self.name, f"{small.name} cannot run beside it on {tp} devices")]
        return []

    def scenario(self, scenario: Any) -> Any:
        """Memory of the small model."""
        small, machine = _loaded(self.model), scenario.cluster.machine
        taken = weight_bytes(small.transformer, _plan(small, scenario.plan, machine))
        reserved = min(machine.reserved_bytes + taken, 0.999 * machine.root.capacity_bytes)
        cluster = replace(scenario.cluster, machine=replace(machine, reserved_bytes=reserved))
        return replace(scenario, cluster=cluster)

    @property
    def step_effect(self) -> TwoModels:
        """Kernels of both."""
        return TwoModels(self.model, self.escalate, 1.0 - self.escalate if self.route else 1.0)
