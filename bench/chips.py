"""Layers mapped onto arrays per CPU-second: one by one, and in a search that prices many chips at once.

Beside it stands zigzag-dse 3.9.1 for the same 58 layers on the same arrays (``tests/reference/zigzag.csv``), each for
two goals, with four loop primes at most: 83 CPU-seconds in the same hour on the computer of these figures, 0.71 each.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from tests.reference.test_mapping_tools import ROWS, array, layer

import steelyard as sy
from bench.timing import cpu_s
from steelyard.cost import array_chip
from steelyard.cost.array_chip import mapped
from steelyard.deployment.runtime import PRECISIONS
from steelyard.search.chip_work import read_work

#: CPU time of the other tool for a layer, s.
OTHER_S = 0.71
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
    work = read_work(["resnet18", "mobilenet_v2"], PRECISIONS["int8"])
    asked = [(layer(row), array(row["array"], goal)) for row in ROWS for goal in ("energy", "time")]

    def alone() -> None:
        array_chip._KNOWN.clear()  # each layer anew
        for one, chip in asked:
            mapped(one, chip)

    clocks, rates = (np.geomspace(low, high, n).tolist() for low, high, n in ((2e8, 1e9, 10), (8e9, 128e9, 25)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "space.toml"
        path.write_text(SPACE.format(clocks=clocks, rates=rates))
        search_s = cpu_s(lambda: sy.search_chip(path, ["resnet18", "mobilenet_v2"]), runs=1)
    one_s, many_s = cpu_s(alone) / len(asked), search_s / (48_000 * len(work.layers))
    return {
        "layers mapped one by one": {"value": 1 / one_s, "unit": "layers/CPU-s"},
        "the same, times zigzag-dse": {"value": OTHER_S / one_s, "unit": "x", "target": ">= 1,000"},
        "layers of chips priced in a search": {"value": 1 / many_s, "unit": "layers/CPU-s"},
        "the same, times zigzag-dse ": {"value": OTHER_S / many_s, "unit": "x", "target": ">= 1,000"},
    }
