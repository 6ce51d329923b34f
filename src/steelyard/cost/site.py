"""Where a kernel runs: one engine of a machine, seen through the figures the op models read."""

from __future__ import annotations

import math
from dataclasses import dataclass

from steelyard.deployment.formats import compute_with, find_format, widened
from steelyard.machine.classes import Stack, family_named, kinds, stack_named
from steelyard.machine.component import Compute, Machine

__all__ = ["DEFAULT_CACHE_RATIO", "Site", "above_rated", "is_capped", "site_for", "site_of"]

#: Bandwidth of a last-level cache over that of main memory where no figure is known (guess: 2 to 4 on GPUs).
DEFAULT_CACHE_RATIO = 2.0


#: 16-bit peak of one unit the op models were fitted on (an H100 SM), OP/s. A machine of few large cores is seen as
#: this many of them, since tiles are shared out inside a core too.
UNIT_PEAK_OPS_PER_S = 7.5e12
#: A peak this many times below what the units would do is one that was capped; less is rounding of a data sheet.
CAPPED = 1.1
#: Memory bandwidth of one such unit, B/s.
UNIT_BYTES_PER_S = 25e9


@dataclass(frozen=True, slots=True)
class Site:
    """One engine and format of a machine: what the op models need, SI units."""

    machine: Machine
    engine: Compute
    compute: str
    units: float
    peak_ops_per_s: float
    peak16_ops_per_s: float
    vector_ops_per_s: float
    dram_bytes_per_s: float
    l2_bytes: float
    l2_bytes_per_s: float
    l2_latency_s: float
    clock_hz: float
    copy_engine: str
    feed16_ops_per_s: float
    """What the units' operand and store paths are built for: the 16-bit peak where no sales decision caps it."""

    @property
    def capped(self) -> bool:
        """Whether a sales decision, not its units, sets the 16-bit peak."""
        return self.feed16_ops_per_s > CAPPED * self.peak16_ops_per_s

    @property
    def near_memory(self) -> bool:
        """Whether the engine is attached to the root memory while other levels lie further in."""
        return self.engine.inside == self.machine.root.name and len(self.machine.memory) > 1

    @property
    def family(self) -> str:
        """Architecture family, under which parameters are borrowed."""
        return self.machine.family

    @property
    def stack(self) -> Stack:
        """The software stack work reaches the machine by."""
        return stack_named(self.machine.launch)


def site_of(machine: Machine, engine_name: str, compute: str) -> Site:
    """The view of one engine computing in one format.

    Args:
        machine: the device.
        engine_name: one of its compute engines.
        compute: a format that engine has a peak for.
    """
    engine = machine.engine(engine_name)
    path = machine.path(engine)
    ways = [m for m in path if m.capacity_bytes >= path[-1].capacity_bytes]  # the root, and a bus that leads to it
    near = [m for m in path if m not in ways]
    outer = min(ways, key=lambda m: m.bandwidth_bytes_per_s)
    cache = max(near, key=lambda m: m.capacity_bytes) if near else None
    vectors = machine.engines("vector") or machine.engines("matrix")
    vector = vectors[0]
    sixteen = [c.peak[f] for c in machine.compute if c.kind == engine.kind for f in ("bf16", "fp16") if f in c.peak]
    peak = engine.peak[compute]
    peak16 = max(sixteen, default=peak)
    if compute in ("fp32", "fp64") or not sixteen:  # some parts run 16 bit far below 32 bit: no measure of a unit there
        peak16 = max(peak16, peak)
    family = family_named(machine.family)
    uncapped, above = _uncapped(machine, family.unit_ops_per_clock), above_rated(machine)
    capped = is_capped(machine)
    peak, peak16 = peak * above, peak16 * above
    feed16 = uncapped * above if capped and engine.kind == "matrix" else peak16
    return Site(
        machine=machine,
        engine=engine,
        compute=compute,
        units=_units(machine, engine, peak16),
        peak_ops_per_s=peak,
        peak16_ops_per_s=peak16,
        vector_ops_per_s=vector.peak.get("fp32", max(vector.peak.values())) * above,
        dram_bytes_per_s=outer.bandwidth_bytes_per_s,
        l2_bytes=cache.capacity_bytes if cache else 0.0,
        l2_bytes_per_s=cache.bandwidth_bytes_per_s if cache else outer.bandwidth_bytes_per_s * DEFAULT_CACHE_RATIO,
        l2_latency_s=(near or [outer])[-1].latency_s,
        clock_hz=engine.clock_hz * above,
        copy_engine=family.copy_engine,
        feed16_ops_per_s=feed16,
    )


def is_capped(machine: Machine) -> bool:
    """Whether the 16-bit peak of a machine's matrix engine is below what its units do in other parts."""
    peaks = [_sixteen(c) for c in machine.engines("matrix")]
    return bool(peaks) and _uncapped(machine, family_named(machine.family).unit_ops_per_clock) > CAPPED * max(peaks)


def above_rated(machine: Machine) -> float:
    """The clock a machine holds over its rated one: above 1 on GeForce boards."""
    return family_named(machine.family).above_rated if is_capped(machine) else 1.0


def _uncapped(machine: Machine, unit_ops_per_clock: float) -> float:
    """16-bit rate the units of the matrix engine are built for, at the rated clock; 0: not known."""
    return max((unit_ops_per_clock * c.units * c.clock_hz for c in machine.engines("matrix")), default=0.0)


def _sixteen(engine: Compute) -> float:
    return max((engine.peak[f] for f in ("bf16", "fp16") if f in engine.peak), default=math.inf)


def _units(machine: Machine, engine: Compute, peak16: float) -> float:
    if kinds()[machine.kind].units_counted:
        return engine.units
    if engine.kind == "vector":  # what keeps memory busy decides, not arithmetic
        return max(engine.units, machine.root.bandwidth_bytes_per_s / UNIT_BYTES_PER_S)
    return max(engine.units, peak16 / UNIT_PEAK_OPS_PER_S)


def site_for(machine: Machine, weights: str = "bf16", activations: str = "", kind: str = "matrix") -> Site:
    """Where products of two formats run on a machine.

    Args:
        machine: the device.
        weights, activations: format names; activations default to what the weights' format implies. Without arithmetic
            for them they are kept in 16 bits.
        kind: preferred kind of engine.

    Raises:
        InputError: the machine computes in no format that wide, or a format is unknown.
    """
    stored = find_format(weights)
    other = widened(machine, find_format(activations or stored.activations or stored.name))
    engine, compute = compute_with(machine, stored, other, kind)
    return site_of(machine, engine.name, compute)
