"""Arithmetic in or under the memory, beside the processor (NeuPIMs, Duplex, PIM-GPT).

Units in the banks, or on the logic die, read the memory ``internal`` times as fast as the bus and do ``intensity``
operations for each byte they read; a product or an attention runs where it is faster. A matrix-vector product of 16-bit
weights needs one operation a byte, attention with ``g`` queries per key-value head ``g``.

``interleave``: two halves of a batch in turn, attention of one in the memory while the products of the other run on the
processor. With ``A`` attention and ``C`` the rest of the layers, the halves reading the weights twice:

    T = min(A + C, max(A, 2 C(B / 2)))

Figures of real parts: HBM-PIM (ISSCC 2021) has 4 times the bus and 1 operation per internal byte, GDDR6-AiM (ISSCC
2022) 16 times, logic dies about 4 times with 8 operations a byte. Reading the memory both ways at once, as with two row
buffers, is assumed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import numpy as np

from steelyard.cost.cost import Cost, KernelCost
from steelyard.cost.effect import Effect, at_time, total_s
from steelyard.cost.host_memory import THERE
from steelyard.cost.kernel import Program
from steelyard.cost.step import Replica
from steelyard.errors import InputError
from steelyard.machine.component import Compute, Machine
from steelyard.techniques._base import Citation, Technique
from steelyard.units import Quantity
from steelyard.workload.step import Step

__all__ = ["AttentionBeside", "NearMemory"]

#: Names of what is added to a machine.
UNITS, BANKS = "near memory", "banks"
#: Formats that the units multiply in.
FORMATS = ("bf16", "fp16", "fp8", "int8", "int4", "fp4")


@dataclass(frozen=True)
class AttentionBeside(Effect):
    """Attention on one engine while products of the other half of the batch run on another."""

    engine: str
    reread: bool = True
    """Whether each half reads the weights again."""

    def priced(self, cost: Cost, program: Program, replica: Replica) -> Cost:
        """Times of attention: what it adds to a step."""
        apart = [k for k in cost.kernels if self._apart(k)]
        step = program.step
        if not apart or step is None:
            return cost
        own = {k.kernel.name for k in apart}
        together = total_s(apart)
        rest_s = self._rest_s(step, program, replica, own)
        half = Step(np.asarray(step.batch) / 2.0, step.new, step.context, None, None, step.skew, step.first)
        halves_s = 2.0 * self._rest_s(half, program, replica, own) if self.reread else rest_s
        whole_s = np.minimum(together + rest_s, np.maximum(together, halves_s))
        whole_s = np.where(np.asarray(step.batch) >= 2, whole_s, together + rest_s)
        left = np.clip((whole_s - rest_s) / np.maximum(together, 1e-30), 1e-6, 1.0)
        kernels = (at_time(k, k.time_s * left) if self._apart(k) else k for k in cost.kernels)
        return replace(cost, kernels=tuple(kernels))

    def _apart(self, k: KernelCost) -> bool:
        return k.kernel.kind.startswith("attention") and k.engine == self.engine

    def _rest_s(self, step: Step, program: Program, replica: Replica, own: set[str]) -> Any:
        """Time of everything in the layers but the attention."""
        others = replica.without(AttentionBeside)
        rest = others.lower(step, program.absorb).without(own | {name.removesuffix(THERE) for name in own})
        return total_s(k for k in others.cost(rest).kernels if k.kernel.in_layers)


@dataclass(frozen=True)
class NearMemory(Technique):
    """Units in or under the memory."""

    name: ClassVar[str] = "near-memory"
    layer: ClassVar[str] = "device"
    paper: ClassVar[Citation] = Citation(
        "NeuPIMs: NPU-PIM heterogeneous acceleration for batched LLM inferencing", "arXiv:2403.00579"
    )
    effect: ClassVar[str] = "products with little reuse and attention run in the memory, at its internal bandwidth"
    costs: ClassVar[str] = "memory with units in it"
    first: ClassVar[str] = "internal"

    internal: Annotated[float, Quantity("1", "internal bandwidth over that of the bus", gt=1, le=1000)] = 4.0
    intensity: Annotated[float, Quantity("1", "operations per byte that is read", gt=0, le=10_000)] = 1.0
    units: Annotated[int, Quantity("1", "units that share the work", ge=1, le=1_000_000)] = 512
    interleave: Annotated[bool, "attention of half of a batch while the products of the other half run"] = False

    def machine(self, machine: Machine) -> Machine:
        """The device with such units."""
        names = {m.name for m in machine.memory} | {c.name for c in machine.compute}
        if names & {UNITS, BANKS}:
            raise InputError(f"{machine.name} has units in its memory already", field=self.name)
        root = machine.root
        rate = root.bandwidth_bytes_per_s * self.internal
        banks = replace(root, name=BANKS, bandwidth_bytes_per_s=rate)
        levels = tuple(replace(m, inside=BANKS) if m.name == root.name else m for m in machine.memory)
        formats = {f for c in machine.compute for f in c.peak} & set(FORMATS)
        peak = dict.fromkeys(sorted(formats), rate * self.intensity)
        unit = Compute(UNITS, "vector", self.units, peak, inside=BANKS, clock_hz=1e9)
        return replace(machine, memory=(banks, *levels), compute=(*machine.compute, unit))

    @property
    def step_effect(self) -> AttentionBeside | None:
        """Two halves of a batch in turn."""
        return AttentionBeside(UNITS) if self.interleave else None
