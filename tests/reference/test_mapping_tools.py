"""Layers on arrays beside what two mapping tools answer for the same layers, arrays and memories.

``zigzag.csv``: zigzag-dse 3.9.1 (loop orders of LOMA, four loop primes at most, uneven mappings), each layer with the
spread over the array that this package likes best, least energy and least cycles of two searches. Two arrays of 1,024
multipliers of 8 bits: ``ws``, the tool's file tpu_like, 32 inputs x 32 outputs with weights in place, and ``os``, its
edge_tpu_like with pixels in one dimension, 8 inputs x 8 outputs x 16 pixels with sums in place, 32 KiB of weights.
Both have 2 MiB of inputs and outputs and one port of 64 bits to the outermost memory. ``in_turn``: its least cycles
where weights and inputs pass that port one after the other; by itself the tool takes the longer of both.

``accelforge.csv``: accelforge 1.0.467, least energy and least time, of ``plain``: as ``ws`` with one weight in a
multiplier, sums of 8 bits in the buffer and nothing loaded before the array starts.
"""

from __future__ import annotations

import csv
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from steelyard.cost.array_chip import Chip, chip_of, mapped
from steelyard.deployment.runtime import PRECISIONS
from steelyard.machine import Compute, Machine, Memory

GHZ, PJ = 1e9, 1e-12
ROWS, PLAIN = (
    list(csv.DictReader((Path(__file__).parent / f"{tool}.csv").read_text().splitlines()))
    for tool in ("zigzag", "accelforge")
)


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

    if name == "plain":
        buffer = replace(buffer, whole=False)
        memory = [registers("weights", 1024, "buffer", 0.095, 1, "weights")]
        shape = {"rows": 32, "columns": 32, "dataflow": "weight_stationary"}
    elif name == "ws":
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
        "array", "matrix", 1, {"int8": 2048 * GHZ}, clock_hz=GHZ, overlaps=True, inside=memory[-1].name,
        sum_bits=8 if name == "plain" else 16, maps_for=goal, energy_j_per_op={"int8": 0.02 * PJ},  # type: ignore[arg-type]
        **shape,  # type: ignore[arg-type]
    )  # fmt: skip
    chip = Machine("chip", "chip", "asic", "own", "own", (engine,), (root, buffer, *memory), launch="array")
    return chip_of(chip, engine, "int8", PRECISIONS["int8"])


def layer(row: dict[str, str]) -> tuple[float, ...]:
    k, c, p, q, r, s, g, stride = (float(row[n]) for n in list(row)[2:10])
    return (1.0, k, c, p, q, r, s, g, stride, stride, 1.0, 1.0)


@pytest.mark.parametrize("row", ROWS, ids=lambda r: f"{r['array']} {r['layer']}")
def test_a_layer_costs_what_the_tool_says(row: dict[str, str]) -> None:
    """The tool moves four of the seven rows of what it lays out in turns of two rows, ``os`` and 7 x 7 pixels."""
    one = layer(row)
    energy, time = mapped(one, array(row["array"], "energy")), mapped(one, array(row["array"], "time"))
    stem = row["array"] == "os" and row["layer"] == "resnet18 stem"  # seven filter rows in four turns of two
    assert energy.energy_j == pytest.approx(float(row["energy_pj"]) * PJ, rel=0.12 if stem else 0.1)
    k, c, p, q, r = one[1:6]
    missed = 3 / 7 * (k + c) * p * q / 8 if row["array"] == "os" and p == 7 and r == 1 else 0.0
    assert time.cycles == pytest.approx(float(row["in_turn"]) + missed, rel=0.1)


def test_the_tool_is_below_its_port_by_what_it_loads_at_once() -> None:
    """Of 58 rows nine are a tenth below; with loads in turn three are, and none with all seven rows."""
    assert len(ROWS) == 58
    for column, below in (("cycles", 9), ("in_turn", 3)):
        ours = (mapped(layer(r), array(r["array"], "time")).cycles for r in ROWS)
        assert sum(float(r[column]) < cycles / 1.1 for r, cycles in zip(ROWS, ours, strict=True)) == below


#: Layers whose loops fill the array in unlike ways here and there, by which energies differ by up to 8 %.
UNLIKE = ("resnet18 stem", "resnet18 fc", "mobilenet_v2 3.expand", "mobilenet_v2 4.project")


@pytest.mark.parametrize("row", PLAIN, ids=lambda r: r["layer"])
def test_a_layer_costs_what_the_second_tool_says(row: dict[str, str]) -> None:
    """The tool reads the register of a weight for every product, here once while the weight stays; and it brings the
    pixels too that a stride leaves out. With both added energies are equal."""
    one = layer(row)
    k, c, p, q, filters, _, _, stride = one[1:9]
    energy, time = mapped(one, array("plain", "energy")), mapped(one, array("plain", "time"))
    again = (k * c * p * q * filters**2 - energy.read[0]) * 0.095
    left_out = (((p - 1) * stride + filters) * ((q - 1) * stride + filters) - p * q) * c if stride > filters else 0.0
    moved = left_out * (700 + 378.4 / 32) / 8
    wanted = float(row["energy_pj"])
    assert energy.energy_j / PJ + again + moved == pytest.approx(wanted, rel=0.08 if row["layer"] in UNLIKE else 1e-3)
    assert energy.energy_j / PJ == pytest.approx(wanted - moved, rel=0.17)
    steady = max(time.busy, (time.read[-1] + time.written[-1]) / 8)  # it counts no first and last tiles
    if stride <= filters:
        assert steady == pytest.approx(float(row["cycles"]), rel=0.15 if filters == 7 else 0.1)
