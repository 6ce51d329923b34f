"""Devices held below their rated power (POLCA, arXiv:2308.12908), so that more stand in the same budget.

The clock falls until what multiplies draws the cap; kernels that read keep their time (:mod:`steelyard.cost.energy`).
A budget of ``B`` W holds ``B / cap`` devices where rated power would allow ``B / rated``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from steelyard.errors import InputError, Problem
from steelyard.machine.component import Machine
from steelyard.machine.power import limited
from steelyard.techniques._base import Citation, Technique
from steelyard.units import Quantity

__all__ = ["PowerCap"]


@dataclass(frozen=True)
class PowerCap(Technique):
    """A share of the rated power, or watts."""

    name: ClassVar[str] = "power-cap"
    layer: ClassVar[str] = "energy"
    paper: ClassVar[Citation] = Citation("POLCA: power oversubscription in LLM cloud providers", "arXiv:2308.12908")
    effect: ClassVar[str] = "devices draw less than rated: what multiplies slows down, what reads does not"
    costs: ClassVar[str] = "nothing in accuracy"
    first: ClassVar[str] = "frac"
    keys: ClassVar[dict[str, str]] = {"watts": "cap_w"}
    refuses: ClassVar[tuple[str, ...]] = ("power_limit_w",)

    frac: Annotated[float, Quantity("1", "share of the rated power", gt=0, le=1)] = 1.0
    cap_w: Annotated[
        float, Quantity("W", "of each device, in place of a share; 0 = as the share says", ge=0, le=1e6)
    ] = 0.0

    def problems(self) -> list[Problem]:
        """No cap."""
        return [] if self.frac < 1 or self.cap_w else [Problem(self.name, "expected a share below 1, or watts=300")]

    def machine(self, machine: Machine) -> Machine:
        """The device held to it."""
        try:
            return limited(machine, self.cap_w or self.frac * machine.tdp_w)
        except InputError as error:
            raise InputError(error.problems[0].message, field=self.name) from None
