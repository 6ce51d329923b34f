"""Machines that are not GPUs: systolic arrays, multiplier grids, in-memory units."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from steelyard.cost.price import price
from steelyard.cost.program import lower
from steelyard.deployment import Plan
from steelyard.machine import Machine
from steelyard.machine.catalogue import find_machine
from steelyard.machine.cluster import Cluster
from steelyard.workload import Graph, Op
from tests.machines import array_machine, gpu_with_in_memory_units

INT8 = Plan("int8", "int8").resolved("int8")
BF16 = Plan("bf16").resolved("bf16")


def conv_op(row: dict[str, str]) -> Op:
    height, width = int(row["ifmap_h"]), int(row["ifmap_w"])
    r, s, stride = int(row["filt_h"]), int(row["filt_w"]), int(row["stride"])
    p, q = -(-(height - r + stride) // stride), -(-(width - s + stride) // stride)
    sizes = {"c": int(row["channels"]), "k": int(row["num_filters"]), "p": p, "q": q, "r": r, "s": s}
    index = f"c {stride}*p+r {stride}*q+s, k c r s -> k p q"
    return Op(row["layer"], index, sizes, roles=("activation", "weight", "activation"))


def seconds(op: Op, machine: Machine, plan: Plan) -> float:
    program = lower(Graph("one", (op,)), plan, machine)
    return float(price(program, Cluster(machine)).kernels[0].time_s)


def test_systolic_array_gives_every_compute_cycle_of_the_reference(data: Path) -> None:
    with (data / "peers/scalesim/scalesim_resnet50.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 106
    flows = {"ws": "weight_stationary", "os": "output_stationary"}
    for row in rows:
        machine = array_machine(128, 128, flows[row["dataflow"]])
        cycles = seconds(conv_op(row), machine, INT8) * 1e9
        assert round(cycles) == int(row["scalesim_compute_cycles"]), row["layer"]
        assert float(conv_op(row).macs()) == float(row["macs"])


def test_ideal_cycles_of_the_mapping_tool_cases(data: Path) -> None:
    """Ideal cycles = MACs / multipliers: a 128^3 product on 8x8x8, a 3x3 convolution 64 -> 64 at 56x56 on 32x32."""
    cases = [json.loads(line) for line in (data / "peers/zigzag_cases.jsonl").read_text().splitlines()]
    gemm = Op("gemm", "m k, k n -> m n", dict.fromkeys("mnk", 128), roles=("activation", "weight", "activation"))
    sizes = {"c": 64, "k": 64, "p": 56, "q": 56, "r": 3, "s": 3}
    conv = Op("conv", "c p+r q+s, k c r s -> k p q", sizes, roles=("activation", "weight", "activation"))
    ours = {"gemm_l1": (gemm, array_machine(8, 8, depth=8)), "tpu_like": (conv, array_machine(32, 32))}
    assert {c["hw"] for c in cases} == set(ours)
    for case in cases:
        op, machine = ours[case["hw"]]
        kernel = lower(Graph("one", (op,)), INT8, machine)
        cost = price(kernel, Cluster(machine)).kernels[0]
        assert float(cost.compute_s) * 1e9 == pytest.approx(case["layers"][0]["ideal"], rel=1e-9)


def product(m: int) -> Op:
    return Op("fc", "m k, k n -> m n", {"m": m, "n": 8192, "k": 8192}, roles=("activation", "weight", "activation"))


def test_in_memory_unit_runs_a_matrix_vector_product_faster_than_the_bus_allows() -> None:
    machine = gpu_with_in_memory_units()
    kernel = lower(Graph("gemv", (product(1),)), BF16, machine)
    cost = price(kernel, Cluster(machine)).kernels[0]
    over_the_bus = 8192 * 8192 * 2 / machine.level("hbm").bandwidth_bytes_per_s
    assert cost.engine == "in_memory"
    assert float(cost.time_s) < over_the_bus


def test_in_memory_unit_is_not_given_a_large_product() -> None:
    machine = gpu_with_in_memory_units()
    kernel = lower(Graph("gemm", (product(4096),)), BF16, machine)
    assert price(kernel, Cluster(machine)).kernels[0].engine == "tensor"


def test_the_place_follows_intensity() -> None:
    machine = gpu_with_in_memory_units()
    places = []
    for m in (1, 2, 4, 64, 512):
        kernel = lower(Graph("fc", (product(m),)), BF16, machine)
        places.append(price(kernel, Cluster(machine)).kernels[0].engine)
    moved = [i for i in range(1, len(places)) if places[i] != places[i - 1]]
    assert places[0] == "in_memory"
    assert places[-1] == "tensor"
    assert len(moved) == 1, "once a product has enough reuse for the tensor engine, a larger one has too"
    assert np.all([p in ("in_memory", "tensor") for p in places])


@pytest.mark.parametrize(("name", "times"), [("hbm_pim", 4.0), ("gddr6_aim", 16.0)])
def test_banks_read_so_many_times_what_the_pins_do(name: str, times: float) -> None:
    """Four times: S. Lee et al. and Y.-C. Kwon et al. of HBM-PIM, 2021; sixteen banks of a channel of GDDR6-AiM."""
    machine = find_machine(name)
    fp16 = Plan("fp16").resolved("fp16")
    kernel = price(lower(Graph("gemv", (product(1),)), fp16, machine), Cluster(machine)).kernels[0]
    over_the_pins = 8192 * 8192 * 2 / machine.level("channel").bandwidth_bytes_per_s
    assert over_the_pins / float(kernel.time_s) == pytest.approx(times, rel=0.05)
