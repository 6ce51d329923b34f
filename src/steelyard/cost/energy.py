"""Energy: operations x energy per operation, bytes x energy per byte on every level crossed, plus idle power.

``E = sum_ops n_op e_op(format) + sum_levels bytes e_byte(level) + idle power x time``, capped by the rated power.
Energies per action are catalogue figures, mostly marked as guesses; the rated power bounds what they can do.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from steelyard.cost.kernel import Kernel
from steelyard.cost.site import Site, above_rated
from steelyard.machine.classes import kinds
from steelyard.machine.cluster import Cluster
from steelyard.machine.component import Machine

__all__ = [
    "ACTIVE_FRAC",
    "DEFAULT_ENERGY_J_PER_OP",
    "DEFAULT_LINK_ENERGY_J_PER_BYTE",
    "TRANSPORT_J_PER_BYTE",
    "arithmetic_per_op_j",
    "clock_at",
    "clock_beside",
    "energy_per_op_j",
    "held_back_s",
    "idle_power_w",
    "kernel_energy_j",
    "static_power_w",
    "voltage_at",
]

#: Energy of one 16-bit operation where a machine file has none, J (guess: 7 nm-class matrix engines, 0.5-1 pJ).
DEFAULT_ENERGY_J_PER_OP = 0.8e-12
#: Energy of a byte over a link without a figure, J (guess: 10 pJ/bit).
DEFAULT_LINK_ENERGY_J_PER_BYTE = 80e-12


#: Share of the power between idle and rated that a device draws as soon as kernels run. Fitted with the transport of a
#: byte and the `operand_energy` of GPUs to the mean power of dense models served on H100 (ML.ENERGY, 52 rows whose rate
#: is right).
ACTIVE_FRAC = 0.12
#: The same of boards that raise their clocks above the rated one while power is left: read off four RTX 3090 that draw
#: 213 to 219 W of 220 whatever they run.
RAISED_ACTIVE_FRAC = 0.5
#: Energy to carry a byte from the memory stack through caches and network on chip to the registers, J, beyond what the
#: memory levels themselves state. Fitted as above.
TRANSPORT_J_PER_BYTE = 80e-12


#: Of the rated voltage, what is left at a clock near 0: it falls in proportion from there (read off the voltage curves
#: of NVIDIA's boards: 0.72 V at 0.7 of the clock that needs 0.85 V).
LEAST_VOLTAGE = 0.5
#: Sharpness of the change from reading-bound, which a lower clock leaves as it is, to arithmetic-bound.
BLEND = 4.0
_CLOCKS = np.linspace(0.02, 1.0, 491)


def voltage_at(clock: Any) -> Any:
    """Voltage at a clock, both of the rated: ``0.5 + 0.5 f``."""
    return LEAST_VOLTAGE + (1.0 - LEAST_VOLTAGE) * clock


_POWERS = _CLOCKS * voltage_at(_CLOCKS) ** 2


def clock_at(power_frac: Any) -> Any:
    """Clock at a share of the dynamic power, both of the rated: ``power = f V^2``, ``V = 0.5 + 0.5 f``."""
    return np.interp(np.asarray(power_frac, dtype=np.float64), _POWERS, _CLOCKS)


def clock_beside(machine: Machine, other: Machine) -> float:
    """Clock that a board holds in arithmetic, over its rated one, known how another board of its family does.

    One architecture draws the same power per unit at a clock, so that a board with less power for each of its units
    runs them slower: ``f = f_other clock_at(p / p_other)`` of the dynamic power per unit ``p``, at most the rated
    clock. An L4 (72 W) holds 0.82 of the clock at which its peak is stated, beside an L40S.

    Args:
        machine: the board, at its rated power.
        other: one whose kernels were measured, or the same.
    """
    mine, theirs = machine.engines("matrix"), other.engines("matrix")
    if not (mine and theirs and machine.tdp_w and other.tdp_w) or machine.name == other.name:
        return 1.0
    powers = [
        (m.tdp_w - idle_power_w(m)) / engines[0].units if engines[0].units else 0.0
        for m, engines in ((machine, mine), (other, theirs))
    ]
    if powers[0] >= powers[1]:
        return 1.0
    held = theirs[0].clock_hz * above_rated(other) * float(clock_at(powers[0] / powers[1]))
    return min(1.0, held / max(mine[0].clock_hz * above_rated(machine), 1.0))


def held_back_s(time_s: Any, compute_s: Any, memory_s: Any, machine: Machine) -> Any:
    """Time of a kernel on a device whose power is limited below the rated one.

    What multiplies draws the rated power, of which all but the idle power is dynamic; the clock falls until the limit
    holds. Reading-bound kernels draw less and keep their time, for the memory has a clock of its own; but a board that
    raises its clock while power is left draws all of it for them too, and slows its caches with its cores.

    Args:
        time_s: at the rated clock.
        compute_s, memory_s: its limits, which say what binds.
        machine: the device.
    """
    if not 0.0 < machine.power_limit_w < machine.tdp_w:
        return time_s
    idle = idle_power_w(machine)
    clock = clock_at((machine.power_limit_w - idle) / (machine.tdp_w - idle))
    if above_rated(machine) > 1.0:
        return time_s / clock
    compute, memory = np.asarray(compute_s) ** BLEND, np.asarray(memory_s) ** BLEND
    multiplying = compute / np.maximum(compute + memory, 1e-300)
    return time_s * (1.0 + multiplying * (1.0 / clock - 1.0))


def energy_per_op_j(site: Site) -> float:
    """Energy of one operation in the format computed in, with its operands' way to the matrix engine, J."""
    return arithmetic_per_op_j(site) * kinds()[site.machine.kind].operand_energy


def arithmetic_per_op_j(site: Site) -> float:
    """Energy of the operation alone, J; scaled by width from a known format where the machine's file states none."""
    table = site.engine.energy_j_per_op
    if site.compute in table:
        return table[site.compute]
    widths = {
        "binary": 1,
        "int4": 4,
        "fp4": 4,
        "fp6": 6,
        "int8": 8,
        "fp8": 8,
        "fp16": 16,
        "bf16": 16,
        "tf32": 19,
        "fp32": 32,
        "fp64": 64,
    }
    width = widths.get(site.compute, 16)
    for known, value in table.items():
        return value * width / widths.get(known, 16)
    return DEFAULT_ENERGY_J_PER_OP * width / 16


def kernel_energy_j(kernel: Kernel, cluster: Cluster, site: Site | None = None) -> Any:
    """Dynamic energy of one copy of a kernel on one device, in J."""
    if site is None:
        per_byte = cluster.peer.energy_j_per_byte if cluster.peer else 0.0
        message = np.asarray(kernel.features["message_bytes"], dtype=np.float64)
        return message * 2.0 * (per_byte or DEFAULT_LINK_ENERGY_J_PER_BYTE)
    energy = np.asarray(kernel.flops, dtype=np.float64) * energy_per_op_j(site)
    t = kernel.traffic
    passing = np.asarray(t.get("read", 0.0) + t.get("write", 0.0), dtype=np.float64)
    streamed = np.asarray(t.get("weight", 0.0) + t.get("kv", 0.0), dtype=np.float64)
    for level in cluster.machine.path(site.engine):
        outer = level.name == cluster.machine.root.name
        crossing = streamed + (np.maximum(0.0, passing - site.l2_bytes) if outer else passing)
        carried = outer and level.kind != "sram" and not site.near_memory
        transport = TRANSPORT_J_PER_BYTE if carried else 0.0
        energy = energy + crossing * (level.energy_j_per_byte + transport)
    return energy


def idle_power_w(machine: Machine) -> float:
    """Power when nothing runs: the stated idle power, or 15 % of the rated power (guess)."""
    return machine.idle_w or 0.15 * machine.tdp_w


def static_power_w(machine: Machine) -> float:
    """Power drawn while kernels run whatever they do: clocks, schedulers, leakage at temperature.

    ``idle + ACTIVE_FRAC (rated - idle)``; of a kind that stands still between commands, as memory does, its idle power.
    """
    idle = idle_power_w(machine)
    if not kinds()[machine.kind].clocked:
        return idle
    active = RAISED_ACTIVE_FRAC if above_rated(machine) > 1.0 else ACTIVE_FRAC
    return idle + active * max(0.0, machine.tdp_w - idle)
