"""The exchange of tokens between experts under the experts' work (Tutel, arXiv:2206.03382; FSMoE; FlashMoE).

A step's tokens are cut into ``d`` chunks: the dispatch of one and the combination of another run while a third is
computed. With ``C`` the time of what computes and ``A`` that of dispatch and combine, each of ``d`` chunks priced as a
step of its own size, which reads the weights again:

    t = max(C_d, A_d) + min(C_d, A_d) / d            chunks of one layer: the first dispatch and the last combine show
    t = max(C_d, A_d) + min(C_d, A_d) / (d layers)   whole micro-batches, which follow each other through the layers

The fastest of 1, 2, 4 ... ``degree`` chunks is taken, as adaptive pipelining does. With ``fused`` one persistent kernel
does all of it: weights are read once and a chunk costs no launch. ``C`` is the routed and shared experts; of whole
micro-batches everything in the layers, attention too. Valid where experts are exchanged (attention data parallelism,
``dp > 1`` and ``ep > tp``); energy is not changed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import numpy as np

from steelyard.cost.cost import Cost, KernelCost
from steelyard.cost.effect import Effect, at_time, total_s
from steelyard.cost.kernel import Kernel, Program
from steelyard.cost.step import Replica
from steelyard.errors import Problem
from steelyard.techniques._base import Citation, Technique
from steelyard.units import Quantity
from steelyard.workload.step import Step

__all__ = ["MoeOverlap", "exchanges", "no_exchange"]


def exchanges(kernel: Kernel) -> bool:
    """Whether a kernel is the dispatch or the combination of routed tokens."""
    return kernel.kind == "collective" and kernel.features["operation"] == "all_to_all"


def no_exchange(name: str, scenario: Any) -> list[Problem]:
    """Why a technique of the exchange of tokens has nothing to act on; nothing where it has, or a plan is sought."""
    if not scenario.transformer.experts:
        return [Problem(name, f"{scenario.transformer.name} has no experts")]
    if scenario.verb == "plan" or scenario.plan.shares_experts:
        return []
    return [Problem(name, "no tokens are exchanged: experts are, where dp is above 1 and ep above tp (--dp 8 --ep 8)")]


@dataclass(frozen=True)
class Overlapped(Effect):
    """Exchanges hidden under what computes."""

    degree: int
    fused: bool
    batches: bool

    def priced(self, cost: Cost, program: Program, replica: Replica) -> Cost:
        """Times of the layer's products as chunked, of the exchanges what shows."""
        work = [k for k in cost.kernels if self._beside(k.kernel)]
        if not work or program.step is None:
            return cost
        if not any(exchanges(k.kernel) for k in cost.kernels):
            return self._under_rest(cost, work, program, replica) if self.batches else cost
        computed, moved = total_s(work), total_s(k for k in cost.kernels if exchanges(k.kernel))
        best_s, best_work_s = self._best(cost, program, replica)
        slower, shows = best_work_s / np.maximum(computed, 1e-30), (best_s - best_work_s) / np.maximum(moved, 1e-30)
        kernels = []
        for k in cost.kernels:
            if exchanges(k.kernel):
                time_s = k.time_s * shows
                kernels.append(replace(at_time(k, time_s), network_s=time_s))
            else:
                kernels.append(at_time(k, k.time_s * slower) if self._beside(k.kernel) else k)
        return replace(cost, kernels=tuple(kernels))

    def _best(self, cost: Cost, program: Program, replica: Replica, more_s: Any = 0.0) -> tuple[Any, Any]:
        """Time of work and exchanges with the best number of chunks, and of the work in it.

        ``more_s``: further work beside the exchanges, which no chunk makes slower.
        """
        names = {k.kernel.name for k in cost.kernels if exchanges(k.kernel) or self._beside(k.kernel)}
        computed = total_s(k for k in cost.kernels if self._beside(k.kernel))
        moved = total_s(k for k in cost.kernels if exchanges(k.kernel))
        best_s, best_work_s = computed + moved + more_s, computed + more_s
        step = program.step
        assert step is not None
        for chunks in (2**i for i in range(1, self.degree.bit_length())):
            parts = (computed, moved) if self.fused else self._chunked(chunks, program, replica, names)
            work_s, network_s = parts[0] + more_s, parts[1]
            shown = np.minimum(work_s, network_s) / (chunks * (replica.model.depth if self.batches else 1))
            whole_s = np.maximum(work_s, network_s) + shown
            better = (whole_s < best_s) & (np.asarray(step.tokens) >= chunks)
            best_s, best_work_s = np.where(better, whole_s, best_s), np.where(better, work_s, best_work_s)
        return best_s, best_work_s

    def _under_rest(self, cost: Cost, work: list[KernelCost], program: Program, replica: Replica) -> Cost:
        """Kernels that are priced apart from the exchanges, attention's: what they add to a step's best time."""
        others = replica.without(Overlapped)
        lowered = others.lower(program.step, program.absorb)  # type: ignore[arg-type]
        rest = lowered.without({k.kernel.name for k in work})
        priced = others.cost(rest)
        if not any(exchanges(k) for k in rest.kernels):
            return cost
        more_s = total_s(work)
        alone, whole = (self._best(priced, rest, replica, x)[0] for x in (0.0, more_s))
        left = np.clip((whole - alone) / np.maximum(more_s, 1e-30), 1e-6, 1.0)
        return replace(
            cost,
            kernels=tuple(at_time(k, k.time_s * left) if self._beside(k.kernel) else k for k in cost.kernels),
        )

    def _beside(self, kernel: Kernel) -> bool:
        """Whether a kernel runs while tokens are exchanged."""
        return kernel.in_layers and kernel.kind != "collective" and (kernel.block == "moe" or self.batches)

    def _chunked(self, chunks: int, program: Program, replica: Replica, names: set[str]) -> tuple[Any, Any]:
        """Time of all chunks: what computes, and the exchanges."""
        step = program.step
        assert step is not None
        logits = None if step.logits is None else np.asarray(step.logits) / chunks
        part = Step(np.asarray(step.batch) / chunks, step.new, step.context, logits, None, step.skew, step.first)
        others = replica.without(Overlapped)
        lowered = others.lower(part, program.absorb)
        found: list[KernelCost] = [
            *others.cost(replace(lowered, kernels=tuple(k for k in lowered.kernels if k.name in names))).kernels
        ]
        network = [k for k in found if exchanges(k.kernel)]
        return chunks * total_s(k for k in found if not exchanges(k.kernel)), chunks * total_s(network)


@dataclass(frozen=True)
class MoeOverlap(Technique):
    """Chunks in flight between dispatch, experts and combine."""

    name: ClassVar[str] = "moe-overlap"
    layer: ClassVar[str] = "moe"
    paper: ClassVar[Citation] = Citation("Tutel: adaptive mixture-of-experts at scale", "arXiv:2206.03382")
    effect: ClassVar[str] = "tokens are exchanged between experts while other tokens are computed"
    costs: ClassVar[str] = "kernels or schedules of its own; weights are read once for each chunk unless fused"
    first: ClassVar[str] = "degree"

    degree: Annotated[
        int, Quantity("1", "chunks of a step at most; the fastest of 1, 2, 4 ... counts", ge=2, le=256)
    ] = 4
    fused: Annotated[bool, "one persistent kernel: chunks read weights once and cost no launch"] = False
    batches: Annotated[bool, "whole micro-batches run beside each other, not the chunks of a layer"] = False

    def conflict(self, other: Technique) -> str:
        """Other orders of a step's kernels."""
        return "one order of a step's kernels at a time" if other.slot == "overlap" else ""

    def applies(self, scenario: Any) -> list[Problem]:
        """Nothing is exchanged."""
        return no_exchange(self.name, scenario)

    @property
    def step_effect(self) -> Overlapped:
        """Exchanges under experts."""
        return Overlapped(self.degree, self.fused, self.batches)
