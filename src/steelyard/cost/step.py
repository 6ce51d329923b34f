"""A program compiled to a step-cost function (design idea 5).

The time of a decode step depends on two totals: how many sequences decode and how much context they hold. Everything
but attention depends on the first alone, so it is priced once per distinct batch and looked up; attention is priced
at every point, in pieces that stay in the processor's cache. That is what lets a planner price a million steps a
second.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from steelyard.cost.cost import Cost
from steelyard.cost.pipeline import boundary
from steelyard.cost.price import price
from steelyard.cost.program import lower
from steelyard.deployment.engine import Engine
from steelyard.deployment.plan import Plan
from steelyard.machine.cluster import Cluster
from steelyard.workload.graph import Graph
from steelyard.workload.op import Array, Op, Size
from steelyard.workload.transformer import Step, Transformer

__all__ = ["StepCost", "StepPrices"]

#: Scenarios priced in one piece: a few dozen temporaries of this many numbers stay in a second-level cache.
PIECE = 8192


@dataclass(frozen=True, eq=False)
class StepPrices:
    """Decode steps, one entry per scenario."""

    time_s: Array
    """Time between two tokens of a sequence: every stage, every hop between stages, engine overhead."""
    limit_s: Array
    energy_j: Array
    """One device of each stage; multiply by the devices of a stage."""


@dataclass(frozen=True, eq=False)
class StepCost:
    """The price of decode steps of one model, plan, cluster and engine as a function of batch and context."""

    model: Transformer
    plan: Plan
    cluster: Cluster
    engine: Engine
    skew: float = 0.0

    def decode(self, batch: Size, context: Size) -> StepPrices:
        """Price decode steps.

        Args:
            batch: sequences per replica, int or array of shape (n,).
            context: tokens each sequence's cache holds with the new one, int or array of shape (n,).
        """
        batches, contexts = np.broadcast_arrays(
            np.atleast_1d(np.asarray(batch, dtype=np.float64)), np.asarray(context, dtype=np.float64)
        )
        distinct, where = np.unique(batches, return_inverse=True)
        where = where.reshape(batches.shape)
        fixed = self._price(Step.decode(distinct, 1.0), attention=False)
        hop = boundary(self.model, self.plan, self.cluster, distinct) * (self.plan.pp - 1)
        time = np.empty(batches.shape)
        limit, energy = np.empty_like(time), np.empty_like(time)
        for start in range(0, batches.size, PIECE):
            piece = slice(start, start + PIECE)
            attention = self._price(Step.decode(batches[piece], contexts[piece]), attention=True).kernels
            time[piece] = sum((k.time_s for k in attention), 0.0)
            limit[piece] = sum((k.limit_s for k in attention), 0.0)
            energy[piece] = sum((k.energy_j for k in attention), 0.0)
        time += _at(fixed.time_s + hop, where)
        limit += _at(fixed.limit_s, where)
        energy += _at(sum((k.energy_j for k in fixed.kernels), 0.0), where) + fixed.static_w * time
        return StepPrices(time, limit, np.minimum(energy, fixed.cap_w * time) if fixed.cap_w else energy)

    def _price(self, step: Step, attention: bool) -> Cost:
        if self.plan.shares_experts:
            step = Step(step.batch, step.new, step.context, None, np.asarray(step.tokens) * self.plan.dp, self.skew)
        graph: Graph = self.model.graph(step, absorb=True).where(lambda op: _is_attention(op) == attention)
        program = lower(graph, self.plan, self.cluster.machine)
        return price(program, self.cluster, self.engine, skew=self.skew)


def _is_attention(op: Op) -> bool:
    return op.fuse.endswith(".attention")


def _at(values: Any, where: Any) -> Array:
    array = np.asarray(values, dtype=np.float64)
    return np.asarray(array[where] if array.ndim else array)
