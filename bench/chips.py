"""Layers mapped onto arrays per CPU-second: one by one, and in a search that prices many chips at once.

Beside it stands zigzag-dse 3.9.1: 96 CPU-seconds on the computer of these figures for the 58 layers of
``tests/reference/zigzag.csv`` and two goals, 0.83 a layer, with four loop primes at most.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

import steelyard as sy
from bench.timing import cpu_s
from steelyard.cost import array_chip
from steelyard.cost.array_chip import chip_of, mapped
from steelyard.deployment.runtime import PRECISIONS
from steelyard.machine.catalogue import find_machine
from steelyard.search.chip_work import read_work

#: CPU time of the other tool for a layer, s.
OTHER_S = 0.83
#: 48,000 chips of 48 arrays.
SPACE = """
base = "tpu_v1"
[choose]
compute.array.rows = [32, 64, 128, 256]
compute.array.columns = [32, 64, 128, 256]
memory.buffer.capacity_bytes = ["1MiB", "4MiB", "24MiB"]
compute.array.clock_hz = {clocks}
memory.ddr3.bandwidth_bytes_per_s = {rates}
process_nm = [65, 28, 16, 7]
"""


def run() -> dict[str, dict[str, object]]:
    """Layers per CPU-second and how many times the other tool's."""
    chip = find_machine("tpu_v1")
    engine = replace(chip.compute[0], rows=32, columns=32)
    one = chip_of(chip.but(compute=(engine,)), engine, "int8", PRECISIONS["int8"])
    work = read_work(["resnet18", "mobilenet_v2"], PRECISIONS["int8"])
    layers = [tuple(float(x) for x in layer) for layer in work.layers]

    def alone() -> None:
        array_chip._KNOWN.clear()  # each layer anew
        for layer in layers:
            mapped(layer, one)

    clocks, rates = (np.geomspace(low, high, n).tolist() for low, high, n in ((2e8, 1e9, 10), (8e9, 128e9, 25)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "space.toml"
        path.write_text(SPACE.format(clocks=clocks, rates=rates))
        search_s = cpu_s(lambda: sy.search_chip(path, ["resnet18", "mobilenet_v2"]), runs=1)
    one_s, many_s = cpu_s(alone, runs=3) / len(layers), search_s / (48_000 * len(layers))
    return {
        "layers mapped one by one": {"value": 1 / one_s, "unit": "layers/CPU-s"},
        "the same, times zigzag-dse": {"value": OTHER_S / one_s, "unit": "x"},
        "layers of chips priced in a search": {"value": 1 / many_s, "unit": "layers/CPU-s"},
        "the same, times zigzag-dse ": {"value": OTHER_S / many_s, "unit": "x", "target": ">= 1,000"},
    }
