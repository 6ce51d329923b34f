"""Energy of products whose multiplications are something else: shifts, additions, lookups, nothing at all.

A multiply-accumulate of the format a kernel computes in takes ``e_mul + e_add`` on a process, another pair less; the
energy per operation of the machine falls in the same proportion, but for a share that is not arithmetic:

    e' = e (overhead + (1 - overhead) (e_multiply' + e_accumulate') / (e_multiply + e_accumulate))

``multiply`` and ``accumulate`` name operations of ``catalogue/energy/operations.toml`` (45 nm: Horowitz, ISSCC 2014;
7 nm: Jouppi et al., ISCA 2021), ``none`` an operation that is not needed, as with weights of -1, 0 and 1. L-Mul is
``multiply=int16_add`` (arXiv:2410.00907), shifts are ``multiply=int32_shift,accumulate=int32_add`` (arXiv:2010.12785),
a MatMul-free model is ``multiply=none,accumulate=int32_add`` (arXiv:2406.02528). Bytes and times stay as they are: say
them by the format of the weights, or by ``lookup-table``. Memory traffic keeps its energy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np

from steelyard.cost.cost import Cost, KernelCost
from steelyard.cost.effect import Effect
from steelyard.cost.energy import arithmetic_per_op_j
from steelyard.cost.kernel import Program
from steelyard.cost.site import site_of
from steelyard.cost.step import Replica
from steelyard.documents import build_file
from steelyard.errors import Problem
from steelyard.machine.component import Machine
from steelyard.techniques._base import Citation, Technique, unknown
from steelyard.units import Quantity

__all__ = ["Arithmetic", "energy_of_operations", "multiply_accumulate_j"]

#: What multiplies and what adds in a multiply-accumulate of a format; the first of each that a process has.
PAIRS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "fp32": (("fp32_mul",), "fp32_add"),
    "tf32": (("fp32_mul",), "fp32_add"),
    "bf16": (("bf16_mul", "fp16_mul"), "fp32_add"),
    "fp16": (("fp16_mul",), "fp32_add"),
    "fp8": (("int8_mul",), "fp32_add"),
    "int8": (("int8_mul",), "int32_add"),
}
#: Kinds of kernels by what ``products`` says.
PRODUCTS = {"linear": ("gemm", "moe"), "attention": ("attention",), "all": ("gemm", "moe", "attention")}


@dataclass(frozen=True, slots=True)
class _Process:
    __pydantic_config__ = {"extra": "forbid"}

    name: str
    source: str
    operations: Mapping[str, Annotated[float, Quantity("J", "energy of one", ge=0)]]


@dataclass(frozen=True, slots=True)
class _File:
    __pydantic_config__ = {"extra": "forbid"}

    process: tuple[_Process, ...] = field(default=())


@cache
def energy_of_operations() -> Mapping[str, Mapping[str, float]]:
    """Energy of one operation, J, by process and name."""
    path = Path(__file__).parent.parent / "catalogue" / "energy" / "operations.toml"
    return {p.name: p.operations for p in build_file(_File, path).process}


def multiply_accumulate_j(process: str, compute: str) -> float:
    """Energy of a multiply-accumulate of a format on a process, J; 0: not known."""
    found = energy_of_operations()[process]
    multiply, add = PAIRS.get(compute, ((), ""))
    return next((found[name] + found[add] for name in multiply if name in found), 0.0)


@dataclass(frozen=True)
class Cheaper(Effect):
    """Products whose operations take less energy."""

    process: str
    pair_j: float
    kinds: tuple[str, ...]
    overhead: float

    def priced(self, cost: Cost, program: Program, replica: Replica) -> Cost:
        """Energies of the products."""
        machine = replica.cluster.machine
        return replace(cost, kernels=tuple(self._cheaper(k, machine) for k in cost.kernels))

    def _cheaper(self, k: KernelCost, machine: Machine) -> KernelCost:
        usual_j = multiply_accumulate_j(self.process, k.kernel.compute)
        if not usual_j or not k.kernel.kind.startswith(self.kinds) or k.engine not in {c.name for c in machine.compute}:
            return k
        each_j = arithmetic_per_op_j(site_of(machine, k.engine, k.kernel.compute))
        arithmetic_j: Any = np.asarray(k.kernel.flops * k.kernel.count, dtype=np.float64) * each_j
        saved = (1.0 - self.overhead) * (1.0 - self.pair_j / usual_j)
        return replace(k, energy_j=k.energy_j - arithmetic_j * saved)


@dataclass(frozen=True)
class Arithmetic(Technique):
    """Other operations in place of multiplications."""

    name: ClassVar[str] = "arithmetic"
    layer: ClassVar[str] = "format"
    paper: ClassVar[Citation] = Citation(
        "Addition is all you need for energy-efficient language models", "arXiv:2410.00907"
    )
    effect: ClassVar[str] = "products take the energy of shifts, additions or lookups in place of multiplications"
    costs: ClassVar[str] = "accuracy, and hardware that does such operations"
    first: ClassVar[str] = "multiply"

    multiply: Annotated[str, "operation that stands for a multiplication; none = not needed"] = "int16_add"
    accumulate: Annotated[str, "operation that adds; none = not needed; empty = that of the format"] = ""
    products: Annotated[str, "linear, attention or all"] = "all"
    process: Annotated[str, "process whose energies are compared: 45nm or 7nm"] = "45nm"
    overhead: Annotated[float, Quantity("1", "share of an operation's energy that is not arithmetic", ge=0, le=1)] = 0.0

    def problems(self) -> list[Problem]:
        """Names that are none."""
        table = energy_of_operations()
        if self.process not in table:
            return [Problem(self.name, unknown("process", self.process, list(table)))]
        if self.products not in PRODUCTS:
            return [Problem(self.name, unknown("products", self.products, list(PRODUCTS)))]
        known = [*table[self.process], "none"]
        wrong = [n for n in (self.multiply, self.accumulate or "none") if n not in known]
        return [Problem(self.name, unknown(f"operation at {self.process}", name, known)) for name in wrong]

    @property
    def step_effect(self) -> CheaperAs:
        """Their energy."""
        return CheaperAs(self.process, 0.0, PRODUCTS[self.products], self.overhead, self.multiply, self.accumulate)


@dataclass(frozen=True)
class CheaperAs(Cheaper):
    """The accumulation of the format where none is named."""

    multiply: str = ""
    accumulate: str = ""

    def _cheaper(self, k: KernelCost, machine: Machine) -> KernelCost:
        found = {**energy_of_operations()[self.process], "none": 0.0}
        accumulate = self.accumulate or PAIRS.get(k.kernel.compute, ((), "none"))[1]
        pair = Cheaper(self.process, found[self.multiply] + found[accumulate], self.kinds, self.overhead)
        return pair._cheaper(k, machine)
