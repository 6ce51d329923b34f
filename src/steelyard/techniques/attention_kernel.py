"""The kernel that attention runs: another generation, another split of the cache, or none that is fused.

    fa1       warps exchange outputs over shared memory, a decode is not split             arXiv:2205.14135
    fa2       warps share out the queries                                                  arXiv:2307.08691
    fa3       asynchronous copies and products of Hopper                                   arXiv:2407.08608
    unfused   scores, ``passes`` elementwise passes, softmax and values one after another, each through memory

and the others of ``kernels/attention.toml``, whose facts say what each does. A decode cuts the cache of a sequence into
``splits`` pieces at most (1: FlashAttention-2 without, 0: as many as the kernel does); ``balanced`` gives every unit
the same share of the cache whatever the heads, batch and lengths (LeanAttention, arXiv:2405.10480). Unfused, all pairs
of a prompt are computed, those a mask hides too, and the scores of a layer take memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import numpy as np

from steelyard.cost.attention_kernels import attention_kernel_names
from steelyard.cost.effect import Effect
from steelyard.cost.kernel import Kernel, Program
from steelyard.cost.program import apart
from steelyard.cost.step import Replica
from steelyard.deployment.engine import Engine
from steelyard.errors import Problem
from steelyard.machine.classes import stack_named
from steelyard.machine.component import Machine
from steelyard.techniques._base import Citation, Technique, unknown
from steelyard.units import Quantity
from steelyard.workload.op import Op
from steelyard.workload.shapes import Shapes

__all__ = ["AttentionKernel"]

UNFUSED = "unfused"
#: Bytes of a score while softmax works on it: as products leave it, and in fp32.
SCORE_BYTES = 6.0


@dataclass(frozen=True)
class Unfused(Effect):
    """Attention as kernels of its own for scores, elementwise passes, softmax and values."""

    passes: int

    def lowered(self, program: Program, replica: Replica) -> Program:
        """Every kernel of attention in its parts."""
        kernels: list[Kernel] = []
        for kernel in program.kernels:
            if kernel.kind != "attention":
                kernels.append(kernel)
                continue
            kernels += apart(kernel, self._ops(kernel), replica.plan, replica.cluster.machine)
        return replace(program, kernels=tuple(kernels))

    def _ops(self, kernel: Kernel) -> Iterator[Op]:
        for op in kernel.ops:
            whole = replace(op, domain={}, fuse="")
            yield whole
            if op.name.endswith(".scores"):
                for i in range(self.passes):
                    yield self._pass(whole, i)

    def _pass(self, scores: Op, i: int) -> Op:
        """The scores read and written once more: scaled, masked, converted."""
        ranks = "b g q s l"
        return replace(
            scores,
            name=f"{scores.name}_pass{i + 1}",
            einsum=f"{ranks} -> {ranks}",
            operands=("scores", "scores"),
            roles=(),
            map="mul",
            reduce="none",
        )


@dataclass(frozen=True)
class AttentionKernel(Technique):
    """See the module's text."""

    name: ClassVar[str] = "attention-kernel"
    layer: ClassVar[str] = "kernel"
    paper: ClassVar[Citation] = Citation(
        "FlashAttention: fast and memory-efficient exact attention with IO-awareness", "arXiv:2205.14135"
    )
    effect: ClassVar[str] = "attention runs another kernel, is cut along the cache otherwise, or is not fused"
    slot: ClassVar[str] = "attention-kernel"
    first: ClassVar[str] = "kernel"

    kernel: Annotated[str, "fa1, fa2, fa3, unfused or another of the catalogue's"] = "fa2"
    splits: Annotated[int, Quantity("1", "pieces of a sequence's cache at most; 0 = as the kernel", ge=0, le=4096)] = 0
    balanced: Annotated[bool, "units share the cache evenly, whatever it is of"] = False
    passes: Annotated[int, Quantity("1", "elementwise passes over scores that are not fused", ge=0, le=100)] = 3

    def problems(self) -> list[Problem]:
        """A kernel no one knows; a way to split what is none."""
        known = [UNFUSED, *attention_kernel_names()]
        if self.kernel not in known:
            return [Problem(self.name, unknown("kernel", self.kernel, known))]
        if self.kernel == UNFUSED and (self.splits or self.balanced):
            return [Problem(self.name, "what is not fused is not split: leave out splits and balanced")]
        if self.balanced and self.splits:
            return [Problem(self.name, "expected splits or balanced, not both")]
        return []

    def applies(self, scenario: Any) -> list[Problem]:
        """A model without attention; a machine whose engines have no kernels of their own."""
        model, machine = scenario.transformer, scenario.cluster.machine
        if not isinstance(model, Shapes) or not any(layer.attention for layer in model.layers):
            return [Problem(self.name, f"{model.name} has no attention")]
        if self.kernel != UNFUSED and not stack_named(machine.launch).engine_kernels:
            return [Problem(self.name, f"attention of {machine.title} is of one kernel: expected unfused")]
        return []

    def engine(self, engine: Engine, machine: Machine) -> Engine:
        """With its kernel."""
        if self.kernel == UNFUSED:
            return engine
        ways = ["balanced"] if self.balanced else [f"splits={self.splits}"] if self.splits else []
        return replace(engine, attention="/".join([self.kernel, *ways]))

    @property
    def step_effect(self) -> Unfused | None:
        """Kernels that are not fused."""
        return Unfused(self.passes) if self.kernel == UNFUSED else None

    def batch_bytes(self, scenario: Any, batch: Any, context: Any) -> Any:
        """Scores of a layer of a step of prompts."""
        if self.kernel != UNFUSED:
            return 0.0
        prompt = np.maximum(np.asarray(context, dtype=np.float64) - scenario.osl * scenario.transformer.causal, 1.0)
        together = np.clip(np.floor(scenario.engine.max_batched_tokens / prompt), 1.0, np.asarray(batch))
        return SCORE_BYTES * together * scenario.transformer.heads / scenario.plan.tp * prompt**2
