"""Stated overheads: what protection, virtualisation, monitoring or other code around a model takes.

    T_kernel  -> T_kernel (1 + time)                 every kernel of a device, collectives among them
    T_step    -> T_step + step                       the host's part, once a step
    launch    -> launch time of a kernel outside a captured graph
    link      -> link (1 - pcie)                     between host and device: bounce buffers of confidential computing
    memory    -> memory + device bytes               the driver's and monitor's own
    power     -> power (1 + power)                   idle, static and dynamic alike

Every figure is the user's or a paper's and counts as assumed: nothing here is predicted but what the whole then costs.
Papers state such shares of masked MACs, edited and emulated code (CRT, arXiv:2411.16341). A share below 0 is a saving:
native code in place of emulated code runs in less time, though never in less than the physical limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from steelyard.cost.cost import Cost
from steelyard.cost.effect import Effect, scaled_cost
from steelyard.cost.energy import idle_power_w
from steelyard.cost.kernel import Program
from steelyard.cost.step import Replica
from steelyard.deployment.engine import Engine
from steelyard.errors import InputError, Problem
from steelyard.machine.component import Machine
from steelyard.techniques._base import Citation, Technique
from steelyard.units import Quantity, format_quantity

__all__ = ["Overhead"]


@dataclass(frozen=True)
class Slower(Effect):
    """Every kernel takes so much longer and draws so much more."""

    time_frac: float
    power_frac: float

    def priced(self, cost: Cost, program: Program, replica: Replica) -> Cost:
        """Times and energies; time never below the physical limit."""
        kernels = (scaled_cost(k, 1.0 + self.time_frac) for k in cost.kernels)
        drawn = 1.0 + self.power_frac
        return replace(cost, kernels=tuple(replace(k, energy_j=k.energy_j * drawn) for k in kernels))


@dataclass(frozen=True)
class Overhead(Technique):
    """Stated shares and times."""

    name: ClassVar[str] = "overhead"
    layer: ClassVar[str] = "other"
    paper: ClassVar[Citation] = Citation(
        "Confidential computing on NVIDIA Hopper GPUs: a performance benchmark study", "arXiv:2409.03992"
    )
    effect: ClassVar[str] = "stated shares of time, memory, power and link rate are added"
    costs: ClassVar[str] = "as stated"
    keys: ClassVar[Mapping[str, str]] = {
        "time": "time_frac",
        "step": "step_s",
        "launch": "launch_s",
        "memory": "memory_bytes",
        "power": "power_frac",
        "pcie": "pcie_frac",
    }

    time_frac: Annotated[float, Quantity("1", "of every kernel's time, added; below 0: saved", gt=-1, le=1e3)] = 0.0
    step_s: Annotated[float, Quantity("s", "host time of every step, added", ge=0, le=1e3)] = 0.0
    launch_s: Annotated[float, Quantity("s", "host time of a launch outside a graph; 0 = as it is", ge=0, le=1)] = 0.0
    memory_bytes: Annotated[float, Quantity("B", "memory of each device, taken", ge=0, le=1e15)] = 0.0
    power_frac: Annotated[float, Quantity("1", "of idle and dynamic power, added; below 0: saved", gt=-1, le=1e3)] = 0.0
    pcie_frac: Annotated[float, Quantity("1", "of the link to the host, lost", ge=0, le=0.999)] = 0.0

    def problems(self) -> list[Problem]:
        """Nothing stated."""
        if any(getattr(self, p.field) for p in self.parameters()):
            return []
        return [Problem(self.name, "expected a share or time, such as time=5%, step=1ms or memory=2GiB")]

    @property
    def step_effect(self) -> Slower | None:
        """Kernels."""
        return Slower(self.time_frac, self.power_frac) if self.time_frac or self.power_frac else None

    def machine(self, machine: Machine) -> Machine:
        """Memory, power and the link to the host."""
        drawn = 1.0 + self.power_frac
        links = tuple(
            replace(x, bandwidth_bytes_per_s=x.bandwidth_bytes_per_s * (1.0 - self.pcie_frac))
            if x.role == "host"
            else x
            for x in machine.link
        )
        taken = machine.reserved_bytes + self.memory_bytes
        if not taken < machine.root.capacity_bytes:
            held = format_quantity(machine.root.capacity_bytes - machine.reserved_bytes, "B")
            raise InputError(f"expected memory of less than the {held} of {machine.name}", field=self.name)
        return replace(
            machine, link=links, reserved_bytes=taken, idle_w=idle_power_w(machine) * drawn, tdp_w=machine.tdp_w * drawn
        )

    def engine(self, engine: Engine, machine: Machine) -> Engine:
        """Host time of steps and launches."""
        launch_s = self.launch_s or engine.launch_s
        return replace(engine, step_s=engine.step_s + self.step_s, launch_s=launch_s)
