"""Layers on arrays beside what a mapping tool answers for the same layers, arrays and memories.

``zigzag.csv``: zigzag-dse 3.9.1 (loop orders of LOMA, four loop primes at most, uneven mappings), each layer with the
spread over the array that this package likes best, least energy and least cycles of two searches. Two arrays of 1,024
multipliers of 8 bits: ``ws``, the tool's file tpu_like, 32 inputs x 32 outputs with weights in place, and ``os``, its
edge_tpu_like with pixels in one dimension, 8 inputs x 8 outputs x 16 pixels with sums in place, 32 KiB of weights.
Both have 2 MiB of inputs and outputs and one port of 64 bits to the outermost memory.
"""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from steelyard.cost.array_chip import Chip, chip_of, mapped
from steelyard.deployment.runtime import PRECISIONS
from steelyard.machine import Compute, Machine, Memory

GHZ, PJ = 1e9, 1e-12
with (Path(__file__).parent / "zigzag.csv").open() as file:
    ROWS = list(csv.DictReader(file))


@cache
def array(name: str, goal: str) -> Chip:
    root = Memory("dram", 1.25e9, 8 * GHZ, energy_j_per_byte=700 * PJ / 8, write_energy_j_per_byte=750 * PJ / 8)
    buffer = Memory(
        "buffer", 2**21, 256 * GHZ, inside="dram", holds=("inputs", "outputs"), buffers=1, whole=True,
        write_bandwidth_bytes_per_s=256 * GHZ, energy_j_per_byte=416.16 * PJ / 256,
        write_energy_j_per_byte=378.4 * PJ / 256,
    )  # fmt: skip

    def registers(name: str, copies: int, inside: str, pj: float, each: float, holds: str) -> Memory:
        return Memory(
            name, each * copies, 1e15, inside=inside, copies=copies, holds=(holds,), buffers=1,  # type: ignore[arg-type]
            energy_j_per_byte=pj * PJ,
        )  # fmt: skip

    if name == "ws":
        memory = [registers("sums", 1024, "buffer", 0.021 / 2, 2, "outputs")]
        memory += [registers("weights", 1024, "sums", 0.095, 128, "weights")]
        shape = {"rows": 32, "columns": 32, "dataflow": "weight_stationary"}
    else:
        memory = [registers("sums", 128, "buffer", 0.02 / 2, 2, "outputs")]
        memory += [
            Memory(
                "weights", 32768, 64 * GHZ, inside="sums", holds=("weights",), buffers=1,
                write_bandwidth_bytes_per_s=64 * GHZ, energy_j_per_byte=22.9 * PJ / 64,
                write_energy_j_per_byte=52.01 * PJ / 64,
            ),
            registers("pads", 64, "weights", 0.01, 1, "weights"),
        ]  # fmt: skip
        shape = {"rows": 16, "columns": 8, "depth": 8, "dataflow": "output_stationary"}
    engine = Compute(
        "array", "matrix", 1, {"int8": 2048 * GHZ}, clock_hz=GHZ, overlaps=True, sum_bits=16, maps_for=goal,  # type: ignore[arg-type]
        energy_j_per_op={"int8": 0.02 * PJ}, inside=memory[-1].name, **shape,  # type: ignore[arg-type]
    )  # fmt: skip
    chip = Machine("chip", "chip", "asic", "own", "own", (engine,), (root, buffer, *memory), launch="array")
    return chip_of(chip, engine, "int8", PRECISIONS["int8"])


def layer(row: dict[str, str]) -> tuple[float, ...]:
    k, c, p, q, r, s, g, stride = (float(row[n]) for n in list(row)[2:10])
    return (1.0, k, c, p, q, r, s, g, stride, stride, 1.0, 1.0)


@pytest.mark.parametrize("row", ROWS, ids=lambda r: f"{r['array']} {r['layer']}")
def test_a_layer_costs_what_the_tool_says(row: dict[str, str]) -> None:
    """Nine of the tool's times are less than its outermost port takes for every tensor once: there this is the time."""
    one = layer(row)
    k, c, p, q, r, s, g, stride = one[1:9]
    sides = [n if stride > f else (n - 1) * stride + f for n, f in ((p, r), (q, s))]
    least = g * (k * c * r * s + c * np.prod(sides) + k * p * q) / 8
    energy, time = mapped(one, array(row["array"], "energy")), mapped(one, array(row["array"], "time"))
    stem = row["array"] == "os" and row["layer"] == "resnet18 stem"  # seven filter rows in four turns of two
    assert energy.energy_j == pytest.approx(float(row["energy_pj"]) * PJ, rel=0.12 if stem else 0.1)
    assert time.cycles == pytest.approx(max(float(row["cycles"]), least), rel=0.1)


def test_the_tool_is_below_its_port_in_nine_of_the_rows_alone() -> None:
    assert len(ROWS) == 58
    below = [r for r in ROWS if float(r["cycles"]) < 0.9 * mapped(layer(r), array(r["array"], "time")).cycles]
    assert len(below) == 9
