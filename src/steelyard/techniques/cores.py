"""An engine on part of a processor's cores, as ``--threads`` of llama.cpp or ``numactl`` sets it.

Of ``N`` cores ``n`` compute: arithmetic and what caches deliver fall in proportion, the memory's rate only when so few
cores cannot ask for all of it. A core has ``lines`` cache lines of 64 bytes on their way, prefetches among them, so

    rate = min(DRAM, n lines 64 B / latency)

by Little's law: two cores fill the 17 GB/s of a Raspberry Pi, one of a server's draws a tenth of its channels. Idle
cores draw what an idle package does.

``clock``
    Cores of another technology, cold or superconducting, at so many ``times`` the clock: arithmetic follows, caches by
    ``caches`` of their own, memory stays. A kernel takes the longest of its three, so speed ends where bytes do. Energy
    of an operation is left as it is: what cooling takes is not known here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

from steelyard.errors import InputError, Problem
from steelyard.machine.component import Compute, Machine
from steelyard.techniques._base import Citation, Technique
from steelyard.techniques.refusals import refused_by
from steelyard.units import Quantity

__all__ = ["Clock", "Cores"]

#: Families of machines whose units are cores of a processor.
FAMILIES = ("x86", "arm_cpu")
#: Bytes of a cache line.
LINE_BYTES = 64.0


def _check_processor(machine: Machine, field: str) -> None:
    """Raises :class:`InputError`: it is none."""
    if machine.family not in FAMILIES or not machine.compute:
        raise InputError(f"expected a processor, {machine.name} is none", field=field)


@dataclass(frozen=True)
class Cores(Technique):
    """So many cores compute."""

    name: ClassVar[str] = "cores"
    layer: ClassVar[str] = "device"
    paper: ClassVar[Citation] = Citation(
        "T-MAC: CPU renaissance via table lookup for low-bit LLM deployment on edge", "arXiv:2407.00088"
    )
    effect: ClassVar[str] = "part of a processor's cores compute; the memory is theirs as far as they can fill it"
    costs: ClassVar[str] = "nothing in accuracy"
    first: ClassVar[str] = "n"

    n: Annotated[int, Quantity("1", "cores that compute", ge=1, le=100_000)]
    lines: Annotated[
        float, Quantity("1", "cache lines that one core has on their way from memory (guess: 24 to 48)", ge=1, le=1e4)
    ] = 32.0

    def applies(self, scenario: Any) -> list[Problem]:
        """No processor, or one with fewer cores."""
        return refused_by(self.name, lambda: self.machine(scenario.cluster.machine))

    def machine(self, machine: Machine) -> Machine:
        """The processor with so many."""
        _check_processor(machine, self.name)
        have = max(c.units for c in machine.compute)
        if self.n > have:
            raise InputError(f"{machine.name} has {have:g} cores, got {self.n}", field=self.name)
        share, root = self.n / have, machine.root
        rate = self.n * self.lines * LINE_BYTES / root.latency_s if root.latency_s else root.bandwidth_bytes_per_s
        memory = []
        for level in machine.memory:
            if level.name == root.name:
                level = replace(level, bandwidth_bytes_per_s=min(level.bandwidth_bytes_per_s, rate))
            else:
                level = replace(level, bandwidth_bytes_per_s=level.bandwidth_bytes_per_s * share)
            memory.append(level)
        compute = tuple(self._fewer(c, share) for c in machine.compute)
        return replace(machine, compute=compute, memory=tuple(memory), file="")

    def _fewer(self, engine: Compute, share: float) -> Compute:
        peak = {name: rate * share for name, rate in engine.peak.items()}
        return replace(engine, units=max(1.0, engine.units * share), peak=peak)


@dataclass(frozen=True)
class Clock(Technique):
    """Cores at another clock."""

    name: ClassVar[str] = "clock"
    layer: ClassVar[str] = "device"
    paper: ClassVar[Citation] = Citation(
        "Potential and limitation of high-frequency cores and caches", "arXiv:2408.03308"
    )
    effect: ClassVar[str] = "a processor's cores have another clock, its caches perhaps, its memory not"
    costs: ClassVar[str] = "cooling"
    first: ClassVar[str] = "times"

    times: Annotated[float, Quantity("1", "clock of the cores over their own", gt=0, le=1e4)]
    caches: Annotated[float, Quantity("1", "bytes a second of the caches over their own", gt=0, le=1e4)] = 1.0

    def applies(self, scenario: Any) -> list[Problem]:
        """No processor."""
        return refused_by(self.name, lambda: self.machine(scenario.cluster.machine))

    def machine(self, machine: Machine) -> Machine:
        """The processor at that clock."""
        _check_processor(machine, self.name)
        compute = tuple(
            replace(
                c,
                clock_hz=c.clock_hz * self.times,
                peak={name: rate * self.times for name, rate in c.peak.items()},
            )
            for c in machine.compute
        )
        memory = tuple(
            level
            if level.name == machine.root.name
            else replace(level, bandwidth_bytes_per_s=level.bandwidth_bytes_per_s * self.caches)
            for level in machine.memory
        )
        return replace(machine, compute=compute, memory=memory, file="")
