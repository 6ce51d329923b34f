"""The cost models shown in the guide work as printed, and pass the contract with the test printed beside them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from steelyard.cost.models import COST_MODELS
from tests.guides import python_blocks

_space: dict[str, Any] = {"__name__": __name__}
for _block in python_blocks("add-a-cost-model"):
    exec(_block, _space)  # our own page

TestFlatGemm = _space["TestFlatGemm"]


def test_the_network_of_the_guide_has_a_price() -> None:
    assert _space["seconds"].shape == (3,)
    assert np.all(np.diff(_space["seconds"]) > 0)


def test_the_kind_of_the_guide_prices_a_recurrence() -> None:
    replica, op = _space["replica"], _space["Op"]
    scan = op("scan", "b n h, h g -> b n g", {"b": 1, "n": 100, "h": 64, "g": 64}, iterative=("n",))
    network = _space["FixedGraph"]("net", (scan,))
    with COST_MODELS.during("scan_of_the_guide", _space["scan"]):
        (kernel,) = replace(replica, model=network).price(_space["Step"](2, 1, 1)).cost.kernels
    assert kernel.model == "my_scan"
    assert kernel.time_s >= 100 * 1e-6
