"""Products that skip zeros, run in other arithmetic, or look results up: one change of rate and of bytes.

Every product with weights, experts among them, keeps what its kernel loses beside the two bounds; where multiplying
binds (share ``x`` of the blend of its bounds) its time follows the rate, where reading does its bytes:

    T -> T (x / rate + (1 - x))        bits of a weight -> bits' (memory, traffic)

``weight-sparsity``: a share ``density`` of the weights is kept, ``index`` bits beside each, and the rate is ``eff /
density`` (2:4 in hardware: density 0.5, 2 bits, eff 1; blocks on processors: eff below 1, arXiv:2306.16601).

``bit-planes``: weights of ``w`` and activations of ``a`` bits as ``w a`` products of single bits, on a matrix engine
that has them: ``operations/s = peak_1bit / (w a)`` (arXiv:2409.17870).

``lookup-table``: ``group`` activations at a time have a table of their sums, which the bits of the weights index
(T-MAC, arXiv:2407.00088): ``operations/s = 2 group lookups units clock / w``.

``mixed-bits``: a share ``high_frac`` of every product keeps the wider format ``high``, the rest has ``low``; a share of
layers counts the same as a share of each.

What any of it costs in quality is not predicted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import numpy as np

from steelyard.cost.cost import Cost, KernelCost
from steelyard.cost.effect import Effect
from steelyard.cost.kernel import Kernel, Program
from steelyard.cost.step import Replica
from steelyard.deployment.formats import Format, find_format
from steelyard.errors import Problem
from steelyard.machine.component import Compute, Machine
from steelyard.techniques._base import Citation, Technique
from steelyard.techniques.refusals import refused_by
from steelyard.units import Quantity

__all__ = ["BitPlanes", "LookupTable", "MixedBits", "WeightSparsity"]

#: Kinds of kernels that multiply with weights.
KINDS = ("gemm", "moe")
#: Sharpness of the change from reading-bound to arithmetic-bound.
BLEND = 4.0
#: Indices that a core looks up in a table in one clock: two instructions of 128 bits.
LOOKUPS_PER_CLOCK = 32.0


def multiplies(kernel: Kernel) -> bool:
    """Whether a kernel is a product with weights inside the layers."""
    return kernel.kind in KINDS and bool(kernel.weight_format) and kernel.in_layers


@dataclass(frozen=True)
class Faster(Effect):
    """Products whose arithmetic runs so many times as fast."""

    rate: float
    by_peak_of: float = 0.0
    """Operations per second that the rate is of, over the peak each kernel computes at; 0: the rate is a ratio."""

    def priced(self, cost: Cost, program: Program, replica: Replica) -> Cost:
        """Times where multiplying binds, and the bounds."""
        kernels = tuple(self._faster(k) if multiplies(k.kernel) else k for k in cost.kernels)
        return replace(cost, kernels=kernels)

    def _faster(self, k: KernelCost) -> KernelCost:
        rate: Any = self.rate
        if self.by_peak_of:
            flops = np.asarray(k.kernel.flops * k.kernel.count, dtype=np.float64)
            rate = self.by_peak_of * np.asarray(k.compute_s) / np.maximum(flops, 1e-30)
        compute, memory = np.asarray(k.compute_s) ** BLEND, np.asarray(k.memory_s) ** BLEND
        share = compute / np.maximum(compute + memory, 1e-300)
        compute_s = np.asarray(k.compute_s) / rate
        limit_s = np.maximum(compute_s, k.memory_s)
        slower = np.maximum(share / rate + (1.0 - share), compute_s / np.maximum(k.time_s, 1e-30))
        return replace(k, time_s=np.maximum(k.time_s * slower, limit_s), limit_s=limit_s, compute_s=compute_s)


@dataclass(frozen=True)
class Mixed(Effect):
    """A share of every product in another format."""

    high: str
    high_frac: float

    def lowered(self, program: Program, replica: Replica) -> Program:
        """Every product as two: its copies in the plan's format, and those in the wider one."""
        if program.step is None or not self.high_frac:
            return program
        fmt = find_format(self.high)
        plan = replace(replica.plan, weights=fmt.name, activations="")
        wide = replace(replica.plain, plan=plan.resolved(replica.model, replica.cluster.machine))
        other = {k.name: k for k in wide.lower(program.step, program.absorb).kernels}
        kernels: list[Kernel] = []
        for k in program.kernels:
            if not multiplies(k) or k.name not in other:
                kernels.append(k)
                continue
            count = np.asarray(k.count, dtype=np.float64)
            kernels.append(replace(k, count=count * (1.0 - self.high_frac)))
            kernels.append(replace(other[k.name], name=f"{k.name} in {fmt.base}", count=count * self.high_frac))
        return replace(program, kernels=tuple(kernels))


def _stored(scenario: Any, bits: float, base: str = "") -> Any:
    """The scenario with weights of so many bits each."""
    name = base or scenario.plan.weights.partition("@")[0]
    plan = replace(scenario.plan, weights=find_format(f"{name}@{bits:.4g}").name)
    return replace(scenario, plan=plan)


@dataclass(frozen=True)
class _Products(Technique):
    layer: ClassVar[str] = "format"
    slot: ClassVar[str] = "products"


@dataclass(frozen=True)
class _Rated(_Products):
    """Products at a rate of their own."""

    def rate_on(self, machine: Machine) -> float:
        """Operations per second of the products."""
        raise NotImplementedError

    @property
    def step_effect(self) -> PlanesOf:
        """Their rate."""
        return PlanesOf(1.0, of=self)


@dataclass(frozen=True)
class WeightSparsity(_Products):
    """Weights of which most are zero."""

    name: ClassVar[str] = "weight-sparsity"
    paper: ClassVar[Citation] = Citation(
        "An efficient sparse inference software accelerator for transformer-based language models on CPUs",
        "arXiv:2306.16601",
    )
    effect: ClassVar[str] = "only a share of the weights is stored, read and multiplied with"
    costs: ClassVar[str] = "accuracy, by how it is pruned; blocks and 2:4 usually need retraining"
    first: ClassVar[str] = "density"

    density: Annotated[float, Quantity("1", "share of the weights that is kept", gt=0, le=1)] = 0.5
    index: Annotated[float, Quantity("1", "bits beside each kept weight that say where it stands", ge=0, le=64)] = 2.0
    eff: Annotated[float, Quantity("1", "rate of the kept products over that of dense ones", gt=0, le=1)] = 1.0

    def scenario(self, scenario: Any) -> Any:
        """Fewer bytes."""
        bits = find_format(scenario.plan.weights.partition("@")[0]).stored_bits
        return _stored(scenario, min(max(0.5, self.density * (bits + self.index)), bits))

    @property
    def step_effect(self) -> Faster:
        """Fewer products."""
        return Faster(self.eff / self.density)


@dataclass(frozen=True)
class BitPlanes(_Rated):
    """Products of single bits."""

    name: ClassVar[str] = "bit-planes"
    paper: ClassVar[Citation] = Citation(
        "Efficient arbitrary precision acceleration for large language models on GPU tensor cores", "arXiv:2409.17870"
    )
    effect: ClassVar[str] = "weights of w and activations of a bits are multiplied as w a products of single bits"
    costs: ClassVar[str] = "accuracy, by the bits of weights and activations"
    keys: ClassVar[Mapping[str, str]] = {"w": "weight_bits", "a": "act_bits"}

    weight_bits: Annotated[int, Quantity("1", "bits of a weight", ge=1, le=16)] = 4
    act_bits: Annotated[int, Quantity("1", "bits of an activation", ge=1, le=16)] = 4
    group: Annotated[int, Quantity("1", "weights that share a 16-bit scale", ge=1, le=1_000_000)] = 128

    def applies(self, scenario: Any) -> list[Problem]:
        """A machine without products of single bits."""
        machine = scenario.cluster.machine
        if _binary(machine) is None:
            return [Problem(self.name, f"{machine.name} has no products of single bits (binary); a100_sxm has")]
        return []

    def scenario(self, scenario: Any) -> Any:
        """Weights of so many bits, products of the narrowest kernel that the machine has beside them."""
        machine = scenario.cluster.machine
        activations = "int8" if any("int8" in c.peak for c in machine.compute) else scenario.plan.activations
        found = _stored(scenario, max(0.5, self.weight_bits + 16.0 / self.group), "int8")
        return replace(found, plan=replace(found.plan, activations=activations))

    def rate_on(self, machine: Machine) -> float:
        """Operations per second of the products."""
        engine = _binary(machine)
        assert engine is not None
        return engine.peak["binary"] / (self.weight_bits * self.act_bits)


@dataclass(frozen=True)
class PlanesOf(Faster):
    """Products at the rate that planes have on the machine that prices."""

    of: Any = None

    def priced(self, cost: Cost, program: Program, replica: Replica) -> Cost:
        """As the base class."""
        return Faster(1.0, self.of.rate_on(replica.cluster.machine)).priced(cost, program, replica)


def _binary(machine: Machine) -> Compute | None:
    return next((c for c in machine.compute if "binary" in c.peak), None)


@dataclass(frozen=True)
class LookupTable(_Rated):
    """Tables of sums in place of products."""

    name: ClassVar[str] = "lookup-table"
    layer: ClassVar[str] = "kernel"
    paper: ClassVar[Citation] = Citation(
        "T-MAC: CPU renaissance via table lookup for low-bit LLM deployment on edge", "arXiv:2407.00088"
    )
    effect: ClassVar[str] = "sums of activations are looked up by the bits of the weights, not multiplied"
    unplanned: ClassVar[str] = "no engine that can be launched looks sums up"
    costs: ClassVar[str] = "accuracy, by the bits of the weights"
    keys: ClassVar[Mapping[str, str]] = {"w": "weight_bits", "lookups": "lookups_per_clock"}

    weight_bits: Annotated[float, Quantity("1", "bits of a weight, one lookup each", ge=1, le=8)] = 2.0
    group: Annotated[int, Quantity("1", "activations that share a table", ge=1, le=8)] = 4
    lookups_per_clock: Annotated[
        float, Quantity("1", "lookups of a core (of a multiprocessor, a unit) in a clock", gt=0, le=1e6)
    ] = LOOKUPS_PER_CLOCK
    scale_bits: Annotated[float, Quantity("1", "bits of scales per weight", ge=0, le=16)] = 0.25

    def applies(self, scenario: Any) -> list[Problem]:
        """A machine whose clock is not known."""
        machine = scenario.cluster.machine
        if not _fastest(machine).clock_hz:
            return [Problem(self.name, f"the clock of {machine.name} is not known")]
        return []

    def scenario(self, scenario: Any) -> Any:
        """Weights of so many bits."""
        base = "int8" if any("int8" in c.peak for c in scenario.cluster.machine.compute) else "bf16"
        found = _stored(scenario, max(0.5, self.weight_bits + self.scale_bits), base)
        return replace(found, plan=found.plan.resolved(scenario.transformer, scenario.cluster.machine))

    def rate_on(self, machine: Machine) -> float:
        """Operations per second: each lookup stands for ``group`` multiply-accumulates with one bit of the weights."""
        engine = _fastest(machine)
        return 2.0 * self.group * self.lookups_per_clock * engine.units * engine.clock_hz / self.weight_bits


def _fastest(machine: Machine) -> Compute:
    """The engine whose units and clock do the lookups: the vector units where there are some."""
    return next(iter((*machine.engines("vector"), *machine.compute)))


@dataclass(frozen=True)
class MixedBits(_Products):
    """Two formats of weights."""

    name: ClassVar[str] = "mixed-bits"
    paper: ClassVar[Citation] = Citation("COMET: towards practical W4A4KV4 LLMs serving", "arXiv:2410.12168")
    effect: ClassVar[str] = "a share of every product is kept in a wider format"
    costs: ClassVar[str] = "accuracy, by the share in few bits"

    low: Annotated[str, "format of most weights (`steelyard ls formats`)"] = "int4"
    high: Annotated[str, "format of the others"] = "int8"
    high_frac: Annotated[float, Quantity("1", "share of the weights in the wider format", ge=0, le=1)] = 0.2
    keys: ClassVar[Mapping[str, str]] = {"share": "high_frac"}

    def _formats(self) -> tuple[Format, Format]:
        return find_format(self.low), find_format(self.high)

    def problems(self) -> list[Problem]:
        """Formats that are none, or the wrong way round."""
        if found := refused_by(self.name, self._formats):
            return found
        low, high = self._formats()
        if low.gguf or high.gguf or low.stored_bits > high.stored_bits:
            return [Problem(self.name, f"expected two formats, low narrower than high, got {self.low} and {self.high}")]
        return []

    def words(self, verb: str) -> Mapping[str, Any]:
        """The format of the weights: the narrow one's kernels, as many bits as both have on average."""
        low, high = self._formats()
        bits = low.stored_bits * (1.0 - self.high_frac) + high.stored_bits * self.high_frac
        return {"weights": low.stored_in(bits).name}

    @property
    def step_effect(self) -> MixedAs:
        """The wider share."""
        return MixedAs(self.high, self.high_frac, self.low)


@dataclass(frozen=True)
class MixedAs(Mixed):
    """The narrow share at its own width: the plan's format has the width of both together."""

    low: str = ""

    def lowered(self, program: Program, replica: Replica) -> Program:
        """As the base class."""
        found = super().lowered(program, replica)
        fmt = find_format(self.low)
        own = {k.name for k in program.kernels if multiplies(k)}

        def narrow(k: Kernel) -> Kernel:
            bits = float(k.features["weight_bits"])
            ratio = fmt.stored_bits / bits
            traffic = {**k.traffic, "weight": k.traffic["weight"] * ratio}
            return replace(k, traffic=traffic, features={**k.features, "weight_bits": fmt.stored_bits})

        return replace(found, kernels=tuple(narrow(k) if k.name in own else k for k in found.kernels))
