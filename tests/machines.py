"""Machines built by tests: a systolic array, a multiply-accumulate grid, a GPU with in-memory units."""

from __future__ import annotations

from dataclasses import replace

from steelyard.machine import Compute, Machine, Memory
from steelyard.machine.catalogue import find_machine

GIB = 2.0**30


def array_machine(rows: int, columns: int, dataflow: str = "", clock_hz: float = 1e9, depth: int = 1) -> Machine:
    """``rows x columns x depth`` multipliers beside memories that never hold them back."""
    peak = 2.0 * rows * columns * depth * clock_hz
    return Machine(
        name="array",
        title="test array",
        kind="asic",
        vendor="test",
        family="test",
        compute=(
            Compute(
                "array",
                "matrix",
                1 if dataflow else rows * columns * depth,
                {"int8": peak, "fp16": peak, "fp32": peak},
                clock_hz=clock_hz,
                rows=rows if dataflow else 0,
                columns=columns if dataflow else 0,
                dataflow=dataflow,  # type: ignore[arg-type]
            ),
        ),
        memory=(Memory("dram", 16 * GIB, 1e18), Memory("sram", 8 * 2**20, 1e18, inside="dram")),
        launch="dataflow",
    )


def gpu_with_in_memory_units(internal: float = 12.0) -> Machine:
    """An H100 whose banks hold arithmetic that reads them ``internal`` times faster than the bus."""
    gpu = find_machine("h100_sxm")
    hbm = gpu.root
    banks = replace(hbm, name="banks", bandwidth_bytes_per_s=hbm.bandwidth_bytes_per_s * internal)
    bus = replace(hbm, inside="banks")
    rest = tuple(m for m in gpu.memory if m.name != hbm.name)
    unit = Compute("in_memory", "vector", 512, {"bf16": 40e12, "fp16": 40e12}, inside="banks", clock_hz=0.6e9)
    return gpu.but(name="h100_with_pim", memory=(banks, bus, *rest), compute=(*gpu.compute, unit))
