"""Energy and area of what an accelerator is made of, by process: for figures that its file does not state.

::

    E(mac)   by format at 45 and 7 nm, a power of the feature size between and beyond
    E(byte)  = table(capacity), a power of the capacity between and beyond, the same of the process; memories below
               the smallest of the table, and all beyond the newest process, gain by it as that smallest does
    area     = multipliers x area(format) x cell(nm) / cell(45 nm) x 5,   bits x cell(nm) / share of cells
    in memory  rows x columns x bits of a cell x cell(nm) / 0.15

Multipliers with their registers and wires take five times what they alone do, and cells are 0.3 of a memory, a tenth
of that in memories below 1 KiB: read off the floor plans of two chips (TPU v1 in 28 nm: 65,536 multipliers are 24 %
and 24 MiB are 29 % of at most 331 mm2; Eyeriss in 65 nm: multipliers 9 % of the core). Cells are 0.15 of an array that
computes in memory by charge, converters included (A. Kneip et al., IMAGINE, arXiv:2412.19750: 187 kB/mm2 in 22 nm); one
that adds in logic between its cells is larger, and its file states its area. Sources of the rest:
``catalogue/energy/processes.toml``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from steelyard.documents import build_file
from steelyard.machine.component import Compute, Machine, Memory
from steelyard.units import Quantity

__all__ = [
    "chip_area_m2",
    "memory_area_m2",
    "multiplier_area_m2",
    "multipliers_area_m2",
    "multiply_j",
    "sram_j_per_byte",
]

#: A multiplier with its registers, control and wires over the multiplier and adder alone.
AROUND = 5.0
#: Share of a memory's area that its cells are, and the same of memories made of registers.
CELLS, REGISTERS = 0.3, 0.03
#: The same of an array that computes in memory.
COMPUTING = 0.15
#: Memories below this are registers, bytes.
SMALL = 1024.0
#: Formats that are priced as another one.
_AS: Mapping[str, str] = {"tf32": "fp32", "fp8": "int8", "int4": "int8", "fp4": "int8", "binary": "int8"}


@dataclass(frozen=True, slots=True)
class _Process:
    __pydantic_config__ = {"extra": "forbid"}

    nm: Annotated[float, Quantity("1", "feature size, nm", gt=0)]
    cell_m2: Annotated[float, Quantity("1", "of a bit of SRAM, m2", gt=0)]
    source: str
    multiply_j: Mapping[str, float] = field(default_factory=dict)
    multiply_area_m2: Mapping[str, float] = field(default_factory=dict)
    sram_bytes: tuple[float, ...] = ()
    sram_j_per_byte: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class _File:
    __pydantic_config__ = {"extra": "forbid"}

    process: tuple[_Process, ...] = field(default=())


@cache
def _processes() -> tuple[_Process, ...]:
    path = Path(__file__).parent.parent / "catalogue" / "energy" / "processes.toml"
    return tuple(sorted(build_file(_File, path).process, key=lambda p: p.nm))


def _power(x: Any, at: Any, values: Any) -> Any:
    """A power law through points, the outer pieces going on beyond them."""
    x, at, values = (np.log(np.asarray(v, dtype=np.float64)) for v in (x, at, values))
    i = np.clip(np.searchsorted(at, x) - 1, 0, len(at) - 2)
    slope = (values[i + 1] - values[i]) / (at[i + 1] - at[i])
    return np.exp(values[i] + slope * (x - at[i]))


def multiply_j(fmt: str, nm: float) -> float:
    """Energy of a multiply-accumulate, J; 0: the format is not in the tables."""
    fmt = _AS.get(fmt, fmt)
    known = [p for p in _processes() if fmt in p.multiply_j]
    return float(_power(nm, [p.nm for p in known], [p.multiply_j[fmt] for p in known])) if known and nm else 0.0


def sram_j_per_byte(capacity_bytes: Any, nm: float) -> Any:
    """Energy of a byte read out of a memory of this capacity, J; capacities may be an array."""
    new, old = (p for p in _processes() if p.sram_bytes)

    def share(capacity: Any) -> Any:
        """What is left of the older process's energy in the newer one; as of the smallest known below it."""
        at = np.maximum(capacity, old.sram_bytes[0])
        return _power(at, new.sram_bytes, new.sram_j_per_byte) / _power(at, old.sram_bytes, old.sram_j_per_byte)

    steps = np.log(nm / old.nm) / np.log(new.nm / old.nm)  # 0: the older process, 1: the newer
    here = _power(np.maximum(capacity_bytes, 64.0), old.sram_bytes, old.sram_j_per_byte)
    return here * share(capacity_bytes) ** np.minimum(steps, 1.0) * share(1.0) ** np.maximum(steps - 1.0, 0.0)


def _cell_m2(nm: float) -> float:
    return float(_power(nm, [p.nm for p in _processes()], [p.cell_m2 for p in _processes()]))


def memory_area_m2(capacity_bytes: Any, nm: float, copies: Any = 1.0) -> Any:
    """Area of a memory of this capacity in so many copies, m2; arrays broadcast."""
    small = np.asarray(capacity_bytes, dtype=np.float64) / copies < SMALL
    return np.asarray(capacity_bytes) * 8.0 * _cell_m2(nm) / np.where(small, REGISTERS, CELLS)


def multipliers_area_m2(fmt: str, nm: float, count: Any) -> Any:
    """Area of so many multipliers of a format with what is around them, m2; 0: the format is not in the tables."""
    base = next(p for p in _processes() if p.multiply_area_m2)
    each = base.multiply_area_m2.get(_AS.get(fmt, fmt), 0.0)
    return np.asarray(count, dtype=np.float64) * each * _cell_m2(nm) / base.cell_m2 * AROUND


def _engine_m2(engine: Compute, nm: float) -> float:
    if engine.area_m2 or not nm or not engine.rows:
        return engine.area_m2
    return multiplier_area_m2(engine, nm) * engine.multipliers


def multiplier_area_m2(engine: Compute, nm: float) -> float:
    """Area of a multiplier of an engine, of its widest format, or of a cell that computes, m2; 0: process not known."""
    if nm and engine.cell_bits:
        return engine.cell_bits * _cell_m2(nm) / COMPUTING
    return max(float(multipliers_area_m2(f, nm, 1.0)) for f in engine.peak) if nm else 0.0


def _memory_m2(memory: Memory, nm: float) -> float:
    if memory.area_m2 or not nm:
        return memory.area_m2
    return float(memory_area_m2(memory.capacity_bytes, nm, memory.copies))


def chip_area_m2(machine: Machine) -> float:
    """Area of a machine's arrays and of its memories but the outermost, m2; 0: no area and no process is stated."""
    engines = sum(_engine_m2(c, machine.process_nm) for c in machine.compute)
    return engines + sum(_memory_m2(m, machine.process_nm) for m in machine.memory if m.inside)
