"""Loops mapped onto arrays: exact counts, a mapping tool's answers, and what chips were published to take."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from math import prod
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from steelyard.cost.array_chip import GOALS, Chip, chip_of, mapped, ways_of
from steelyard.cost.array_mapping import DIMS, LEVELS, MOVED, best_nests
from steelyard.cost.array_nests import loop_orders, tiles_of
from steelyard.cost.array_unroll import unrollings
from steelyard.deployment.runtime import PRECISIONS
from steelyard.errors import InputError
from steelyard.machine import Compute, Machine, Memory
from steelyard.machine.catalogue import find_machine

GHZ = 1e9


def layer(
    b: float, k: float, c: float, p: float, q: float, r: float = 1, s: float = 0, stride: float = 1, g: float = 1
) -> tuple[float, ...]:
    return tuple(float(x) for x in (b, k, c, p, q, r, s or r, g, stride, stride, 1, 1))


def machine(compute: Compute, *memory: Memory) -> Machine:
    return Machine("chip", "test chip", "asic", "test", "test", (compute,), memory, launch="array")


def array(rows: float, columns: float, dataflow: str, depth: float = 1, fmt: str = "int8", **words: object) -> Compute:
    peak = {fmt: 2.0 * rows * columns * depth * GHZ}
    shape = {"rows": rows, "columns": columns, "depth": depth, "dataflow": dataflow}
    return Compute("array", "matrix", 1, peak, clock_hz=GHZ, **shape, **words)  # type: ignore[arg-type]


def simple(capacity: float, dataflow: str = "flexible", **words: object) -> Chip:
    dram = Memory("dram", 1e12, 4 * GHZ, energy_j_per_byte=100e-12)
    sram = Memory("sram", capacity, 1e15, inside="dram", buffers=1, energy_j_per_byte=1e-12)
    one = machine(array(8, 8, dataflow, maps_for="energy", sum_bits=8, **words), dram, sram)
    return chip_of(one, one.compute[0], "int8", PRECISIONS["int8"])


def test_a_layer_that_fits_is_read_and_written_once() -> None:
    found = mapped(layer(1, 16, 16, 12, 12, 3), simple(1e9))
    assert found.read[-1] == 16 * 16 * 9 + 16 * 14 * 14
    assert found.written[-1] == 16 * 12 * 12


def test_a_larger_buffer_never_moves_more_and_none_less_than_once() -> None:
    moved = []
    for kib in (1, 2, 4, 8, 16, 64, 1024):
        found = mapped(layer(1, 64, 64, 28, 28, 3), simple(kib * 1024.0))
        moved.append(found.read[-1] + found.written[-1])
    assert moved == sorted(moved, reverse=True)
    assert moved[-1] == 64 * 64 * 9 + 64 * 30 * 30 + 64 * 28 * 28


def test_a_product_in_blocks_moves_what_blocks_move() -> None:
    found = mapped(layer(1, 512, 512, 512, 1), simple(128 * 1024.0))
    whole = 3 * 512 * 512
    # blocks of 256 x 256 outputs fill half of it and read both operands twice; one of them is read three times at most
    assert whole < found.read[-1] + found.written[-1] <= 6 * 512 * 512


@pytest.mark.parametrize("dataflow", ["weight_stationary", "output_stationary"])
def test_arrays_that_load_and_compute_in_turns_take_the_cycles_of_the_closed_form(data: Path, dataflow: str) -> None:
    with (data / "peers/scalesim/scalesim_resnet50.csv").open() as file:
        rows = [r for r in csv.DictReader(file) if r["dataflow"] == dataflow[0] + "s"]
    assert len(rows) == 53
    root = Memory("dram", 1e12, 1e18)
    one = machine(array(128, 128, dataflow), root, Memory("sram", 8e6, 1e18, inside="dram"))
    chip = chip_of(one, one.compute[0], "int8", PRECISIONS["int8"])
    for row in rows:
        height, width, r, s, stride = (int(row[n]) for n in ("ifmap_h", "ifmap_w", "filt_h", "filt_w", "stride"))
        p, q = -(-(height - r + stride) // stride), -(-(width - s + stride) // stride)
        found = mapped(layer(1, int(row["num_filters"]), int(row["channels"]), p, q, r, s, stride), chip, most=100)
        assert round(found.busy) == int(row["scalesim_compute_cycles"]), row["layer"]


def case(data: Path, hw: str) -> dict[str, float]:
    lines = [json.loads(x) for x in (data / "peers/zigzag_cases.jsonl").read_text().splitlines()]
    return next(x for x in lines if x["hw"] == hw)  # type: ignore[no-any-return]


def test_a_convolution_costs_what_a_mapping_tool_says(data: Path) -> None:
    """64 -> 64 channels, 3 x 3, 56 x 56 on 32 x 32: its memories are those of the tool's file tpu_like."""
    pj = 1e-12
    dram = Memory("dram", 1.25e9, 8 * GHZ, energy_j_per_byte=700 * pj / 8, write_energy_j_per_byte=750 * pj / 8)
    sram = Memory(
        "sram", 2**21, 256 * GHZ, inside="dram", holds=("inputs", "outputs"), buffers=1, whole=True,
        write_bandwidth_bytes_per_s=256 * GHZ, energy_j_per_byte=416.16 * pj / 256,
        write_energy_j_per_byte=378.4 * pj / 256,
    )  # fmt: skip
    sums = Memory("sums", 64, 1e15, inside="sram", copies=32, holds=("outputs",), buffers=1)
    sums = replace(sums, energy_j_per_byte=0.0105 * pj)
    weights = Memory("weights", 131072, 1e15, inside="sums", copies=1024, holds=("weights",))
    weights = replace(weights, energy_j_per_byte=0.095 * pj)
    compute = array(32, 32, "weight_stationary", overlaps=True, sum_bits=16, maps_for="energy")
    one = machine(replace(compute, energy_j_per_op={"int8": 0.02 * pj}, inside="weights"), dram, sram, sums, weights)
    found = mapped(layer(1, 64, 64, 56, 56, 3), chip_of(one, one.compute[0], "int8", PRECISIONS["int8"]))
    wanted = case(data, "tpu_like")
    assert found.busy == 112_896
    # the tool has the whole input on chip before the first product
    assert found.busy + 58 * 58 * 64 / 8 == pytest.approx(wanted["latency_cycles"], abs=2)
    assert found.cycles == pytest.approx(wanted["latency_cycles"], rel=0.02)
    assert found.energy_j == pytest.approx(wanted["energy_pJ"] * pj, rel=0.1)


def test_operands_that_share_a_port_take_turns(data: Path) -> None:
    """A product of 128 on 8 x 8 x 8 with one port of 64 bytes a cycle beside the array, outputs in place."""
    l1 = Memory("l1", 1e9, 64 * GHZ)
    one = machine(array(8, 8, "output_stationary", depth=8, overlaps=True, maps_for="energy"), l1)
    chip = chip_of(one, one.compute[0], "int8", PRECISIONS["int8"])
    found = mapped(layer(1, 128, 128, 128, 1), chip)
    wanted = case(data, "gemm_l1")
    assert found.busy == 4096
    assert found.cycles == pytest.approx(wanted["latency_cycles"], rel=0.1)


#: Eyeriss on AlexNet, batch 4: Y.-H. Chen et al., IEEE JSSC 52(1), 2017: processing time in ms, accesses of the buffer
#: in MB of table V; rows of outputs, inputs in a pad, inputs and outputs side by side (e, q, r, t) of table III.
ALEXNET = [
    (layer(4, 96, 3, 55, 55, 11, stride=4), 16.5, (7, 1, 1, 2)),
    (layer(4, 128, 48, 27, 27, 5, g=2), 39.2, (27, 2, 1, 1)),
    (layer(4, 384, 256, 13, 13, 3), 21.8, (13, 4, 1, 4)),
    (layer(4, 192, 192, 13, 13, 3, g=2), 16.0, (13, 3, 2, 2)),
    (layer(4, 128, 192, 13, 13, 3, g=2), 10.0, (13, 3, 2, 2)),
]
#: Of VGG-16, batch 3, table VI: inputs, outputs, width; processing time; accesses of the buffer, from which the inputs
#: follow whose products are added before a sum goes back: 2 x sums x 2 bytes x inputs / accesses.
VGG = [
    (3, 64, 224, 38.0, 112.6, 1),
    (64, 64, 224, 810.6, 2402.8, 1),
    (64, 128, 112, 405.3, 1201.4, 1),
    (128, 128, 112, 810.8, 2402.8, 1),
    (128, 256, 56, 204.0, 607.4, 2),
    (256, 256, 56, 408.1, 1214.8, 2),
    (256, 256, 56, 408.1, 1214.8, 2),
    (256, 512, 28, 105.1, 321.8, 4),
    (512, 512, 28, 210.0, 643.7, 4),
    (512, 512, 28, 210.0, 643.7, 4),
    (512, 512, 14, 48.3, 90.0, 8),
    (512, 512, 14, 48.5, 90.0, 8),
    (512, 512, 14, 48.5, 90.0, 8),
]


def eyeriss() -> Chip:
    chip = find_machine("eyeriss")
    return chip_of(chip, chip.compute[0], "int16", PRECISIONS["int16"])


def in_passes(one: tuple[float, ...], inputs: float, side: float, **spread: float) -> NDArray[np.float64]:
    """The best nest on Eyeriss whose passes add so many ``inputs`` in a pad and ``side`` ones beside each other."""
    chip, sizes = eyeriss(), np.array(one)
    ways = [u for u in ways_of(sizes, chip.engine) if u[2] == side]
    ways = [u for u in ways if all(u[DIMS.index(d)] == x for d, x in spread.items())]
    joules = np.vstack([chip.joules, [[prod(one[:8]) * chip.multiply_j, chip.cycle_j, 0.0]]])[None]
    goal, none = np.array([[*GOALS["energy"], 0.0]]), np.zeros(len(ways))
    found: NDArray[np.float64]
    found, _, _ = best_nests(
        sizes, np.array(ways), none, chip.levels, chip.bits, chip.rates[None], joules, goal, 20_000, inputs
    )
    return np.asarray(found[0])


@pytest.mark.parametrize(("one", "ms", "blocks"), ALEXNET)
def test_layers_of_alexnet_on_eyeriss_in_its_passes(
    one: tuple[float, ...], ms: float, blocks: tuple[int, int, int, int]
) -> None:
    """Filling the array after each pass is counted for weights alone: the second layer is 11 % fast."""
    e, q, r, t = blocks
    found = in_passes(one, q, r, p=e, k=t)
    assert found[MOVED] / 200e3 == pytest.approx(ms, rel=0.12 if ms == 39.2 else 0.07)
    assert mapped(one, eyeriss()).cycles / 200e3 == pytest.approx(ms, rel=0.14)


@pytest.mark.parametrize(("inputs", "outputs", "width", "ms", "accessed", "added"), VGG)
def test_layers_of_vgg_on_eyeriss_in_its_passes(
    inputs: int, outputs: int, width: int, ms: float, accessed: float, added: int
) -> None:
    """Sums of few inputs go through the buffer, four words a cycle: most of the time of the first layers."""
    one = layer(3, outputs, inputs, width, width, 3)
    assert added == 2 ** round(np.log2(4 * 3 * outputs * width**2 * inputs / (accessed * 2**20)))
    found = in_passes(one, min(added, 4), max(1, added // 4))
    assert found[MOVED] / 200e3 == pytest.approx(ms, rel=0.1)
    assert (found[3 + 3] + found[3 + LEVELS + 3]) / 2**20 == pytest.approx(accessed, rel=0.1)


@pytest.mark.parametrize(("rows", "attained"), [(200, 13.6e12), (168, 11.4e12), (64, 4.35e12), (2888, 91.75e12)])
def test_products_of_tpu_v1_lie_on_its_roofline(rows: int, attained: float) -> None:
    """Operations per weight byte of MLP0, MLP1, LSTM0, CNN0: N. Jouppi et al., ISCA 2017, table 1, 34 GB/s."""
    chip = find_machine("tpu_v1")
    found = mapped(layer(1, 2048, 2048, rows, 1), chip_of(chip, chip.compute[0], "int8", PRECISIONS["int8"]))
    assert 2.0 * rows * 2048**2 / (found.cycles / 700e6) == pytest.approx(attained, rel=0.04)


def test_no_unrolling_is_wider_than_the_array() -> None:
    sizes = layer(2, 24, 10, 7, 7, 3, g=4)
    for dataflow in ("weight_stationary", "output_stationary", "row_stationary", "flexible"):
        found = unrollings(np.array(sizes), 12, 14, 1, dataflow)
        assert len(found)
        assert np.all(found <= np.array(sizes[:8]))
        # groups on the diagonal leave the multipliers beside them without work
        assert np.all(found.prod(axis=1) <= 12 * 14)


@pytest.mark.parametrize(("outputs", "inputs"), [(64, 16), (16, 64), (32, 32), (16, 16)])
def test_four_arrays_share_any_layer(outputs: int, inputs: int) -> None:
    """Side by side, one above the other, two by two, or a quarter of the pixels each."""
    sizes = np.array(layer(1, outputs, inputs, 28, 28, 3))
    one, four = (unrollings(sizes, 16, 16, 1, "weight_stationary", units) for units in (1, 4))
    turns = [float(np.prod(np.ceil(sizes[:8] / u[0]))) for u in (one, four)]
    assert turns[0] == 4 * turns[1]
    assert np.all(four.prod(axis=1) <= 4 * 256)


def test_tiles_and_orders() -> None:
    assert tiles_of(7, 9) == (7, 4, 2, 1)
    assert len(loop_orders((False, True, True, True, False, True, True, True))) == 90


def test_a_machine_without_a_dataflow_is_refused_by_field() -> None:
    gpu = find_machine("h100_sxm")
    with pytest.raises(InputError, match=r"compute\.tensor\.dataflow: expected an array with rows"):
        chip_of(gpu, gpu.compute[0], "fp16", PRECISIONS["fp16"])


#: Colonnade, a digital in-memory array of 128 x 128 cells: H. Kim et al., IEEE JSSC 56(7), 2021, figure 15a: bits of
#: inputs and of weights, registers of a column, GOP/s.
COLONNADE = [
    (1, 1, 75.07), (1, 4, 243.93), (1, 16, 563.5), (4, 1, 12.52), (4, 4, 39.45), (4, 16, 83.03),
    (8, 1, 4.43), (8, 4, 13.32), (8, 16, 25.75), (16, 1, 1.34), (16, 4, 3.51), (16, 16, 5.99),
]  # fmt: skip


@pytest.mark.parametrize(("bits", "registers", "gops"), COLONNADE)
def test_an_in_memory_array_takes_bits_in_turn_and_columns_for_carries(bits: int, registers: int, gops: float) -> None:
    """The clock is that of a ripple through the rows between registers and a weight's columns: 0.42 ns each, fitted."""
    engine = array(128, 128, "weight_stationary", overlaps=True, serial_bits=1, cell_bits=1, carry_columns=7)
    engine = replace(engine, clock_hz=1 / (0.42e-9 * (128 / registers + bits + 7)))
    one = machine(engine, Memory("buffer", 1e9, 1e15))
    precision = SimpleNamespace(bits=bits, stored_bits=bits)
    chip = chip_of(one, engine, "int8", precision)  # type: ignore[arg-type]
    wide = 128 // (bits + 7)
    found = mapped(layer(1, wide, 128, 4096, 1), chip)
    reached = 2 * wide * 128 * 4096 / (found.cycles / chip.engine.clock_hz)
    assert reached == pytest.approx(gops * 1e9, rel=0.1)


def test_crossbars_of_isaac_reach_its_peak() -> None:
    """A. Shafiee et al., ISCA 2016: 16,128 arrays of 128 x 128 cells of 2 bits, 100 ns a bit: 479 GOP/s x 85.4 mm2."""
    engine = array(128, 128, "weight_stationary", fmt="int16", serial_bits=1, cell_bits=2)
    engine = replace(engine, units=168 * 12 * 8, clock_hz=1e7)
    chip = chip_of(machine(engine, Memory("edram", 1e9, 1e15)), engine, "int16", PRECISIONS["int16"])
    assert chip.engine.columns == 16
    assert 2 * chip.engine.multipliers * chip.engine.clock_hz == pytest.approx(479e9 * 85.4, rel=0.02)
    with pytest.raises(InputError, match=r"compute\.array\.columns: expected columns for a weight of 16 bits, got 4"):
        chip_of(
            machine(replace(engine, columns=4), Memory("edram", 1e9, 1e15)),
            *(replace(engine, columns=4), "int16", PRECISIONS["int16"]),
        )
