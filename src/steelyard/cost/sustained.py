"""The share of its data-sheet peak that a matrix engine holds, second after second, under the power limit of its board.

    share = held min(0.83, clock(x))       x = (W - idle) / (E held peak)
    held  = share of the peak that a benchmark of one kernel reaches (``cost.gemm``, ``compute_frac``)
    W     = power limit of the board;  E = J per operation on real numbers at the full clock
    clock = of the rated clock, what a share x of the dynamic power allows: power = f V^2 (``cost.energy.clock_at``)

0.83 is the stack's own figure: what real numbers reach of a benchmark on constant ones where power is no limit.
Theory and measured accuracy: ``docs/methods/training_kernels.md``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from steelyard.cost.devices import gemm_device
from steelyard.cost.energy import TRANSPORT_J_PER_BYTE, clock_at, idle_power_w, voltage_at
from steelyard.cost.gemm import DEFAULT_PARAMETERS, GemmParameters, sustained_compute_frac
from steelyard.cost.parameters import Calibrated, calibrated
from steelyard.cost.site import Site, site_for
from steelyard.deployment.formats import Format, computes, find_format, widened
from steelyard.machine.component import Machine

__all__ = ["SustainedParameters", "held", "powered_s", "sustained_frac", "sustained_parameters", "trained_in"]


#: Formats whose products cuBLAS runs as those of another: the engine scales blocks of 32 itself, at the same rate.
SAME_KERNEL = {"mxfp8": "fp8"}


@dataclass(frozen=True, slots=True)
class SustainedParameters:
    """What long products of a family's boards reach and draw. Defaults: no figure known, power limits nothing."""

    held_frac: float = 0.0
    """Share of the 16-bit peak that long products of real numbers reach where power is no limit; 0: the benchmark's
    share times the stack's figure."""
    energy_j_per_op: float = 0.0
    """J of the board per 16-bit operation on real numbers at the full clock, above its idle power; 0: not known."""
    narrow_frac: float = 0.45
    """Energy of an operation on operands of half the width, over the wider one's. Llama steps in FP8 on B200, GB200 and
    GB300 without tensor parallelism are no faster than their kernels at most at this (0.5 and more: they would be)."""


def sustained_parameters(machine: Machine) -> Calibrated:
    """The parameters of a machine's family, or the defaults."""
    return calibrated("sustained", SustainedParameters, machine.name, (machine.family,), last="")


def held(parameters: GemmParameters, site: Site, limit_w: float = 0.0) -> GemmParameters:
    """The parameters of products inside a running model rather than in a benchmark of one kernel.

    A matrix engine that is capped below what its units do elsewhere (H20, GeForce) stays below its power limit, and
    products in 32 bits were measured in running models.

    Args:
        parameters: of a benchmark of one kernel.
        site: where.
        limit_w: power limit of the board; 0: its own, or what it is held to.
    """
    reached = parameters.compute_frac
    p = sustained_parameters(site.machine).parameters
    if p.held_frac and not _as_measured(site):
        reached, parameters = p.held_frac, replace(parameters, ops_per_joule=DEFAULT_PARAMETERS.ops_per_joule)
    return replace(parameters, compute_frac=reached * _clock(reached, site, limit_w))


def _as_measured(site: Site) -> bool:
    """Whether products in a running model are as fast as in the benchmark their parameters come from."""
    return site.capped or site.compute in ("fp32", "fp64")


def _clock(reached: float, site: Site, limit_w: float) -> float:
    """Clock held, of the rated one, by an engine that reaches a share of its peak at that.

    Where the energy of an operation is not known the rated power is just enough.
    """
    free_w, energy_j = _budget(site, limit_w)
    given = _as_measured(site) or sustained_parameters(site.machine).parameters.held_frac
    most = 1.0 if given else site.stack.sustained_frac
    if not energy_j:
        rated_w = site.machine.tdp_w - idle_power_w(site.machine)
        return most * float(clock_at(free_w / rated_w)) if rated_w > 0.0 else most
    return min(most, float(clock_at(free_w / (energy_j * reached * site.peak_ops_per_s))))


def _budget(site: Site, limit_w: float) -> tuple[float, float]:
    """W that a board may spend above its idle power, and J of one of its operations at the full clock; 0: not known."""
    machine = site.machine
    p = sustained_parameters(machine).parameters
    limit_w = min(limit_w or machine.most_w, machine.tdp_w)
    energy_j, wider = 0.0 if _as_measured(site) else p.energy_j_per_op, site.peak16_ops_per_s
    while wider < 0.75 * site.peak_ops_per_s:
        energy_j, wider = energy_j * p.narrow_frac, 2.0 * wider
    return limit_w - idle_power_w(machine), energy_j if limit_w > 0.0 else 0.0


def powered_s(ops: Any, moved_bytes: Any, parameters: GemmParameters, site: Site) -> Any:
    """Least time of a kernel that multiplies and moves at once, by what both draw: (J of ops + J of bytes) / W.

    ``(E V^2 ops + e bytes) / (W - idle)`` with the voltage V, of the rated one, of the clock that long products hold,
    and the energy e of a byte from memory to the registers. 0 where E is not known.

    Args:
        ops, moved_bytes: of the kernel.
        parameters: of a benchmark of one kernel.
        site: where.
    """
    free_w, energy_j = _budget(site, 0.0)
    if not energy_j:
        return 0.0
    volt = voltage_at(_clock(parameters.compute_frac, site, 0.0))
    byte_j = site.machine.root.energy_j_per_byte + TRANSPORT_J_PER_BYTE
    return (energy_j * volt**2 * np.asarray(ops) + byte_j * np.asarray(moved_bytes)) / free_w


def trained_in(machine: Machine, precision: str) -> tuple[Site, Format]:
    """Where products of a training step in a format run, and the format: what the machine lacks is 16 bits wide.

    Raises:
        InputError: no such format, or no peak on the machine that wide.
    """
    stored = find_format(precision)
    stored = stored if computes(machine, stored) else widened(machine, stored)
    site = site_for(machine, stored.name, stored.name)
    return site, find_format(SAME_KERNEL.get(stored.name, stored.name))


def sustained_frac(machine: Machine, precision: str = "bf16") -> float:
    """Share of the dense peak in a format that long products of real numbers hold under the board's power.

    Args:
        machine: the device; its ``tdp_w``, or a lower limit that is set, is the power allowed.
        precision: a number format of the catalogue.

    Returns:
        Share of the data-sheet peak, above 0 and at most 1.

    Raises:
        InputError: no such format, or no peak on the machine that wide.
    """
    from steelyard.cost.op_models import product_parameters

    site, stored = trained_in(machine, precision)
    found, facts = product_parameters(site, stored.name, stored.stored_bits, stored.stored_bits)
    return sustained_compute_frac(gemm_device(site), held(found.parameters, site), facts)
