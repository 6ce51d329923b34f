"""Mechanisms of papers as techniques: each moves the right figure in the right direction, by its formula."""

from __future__ import annotations

from typing import Any

import pytest

from steelyard.errors import InputError
from steelyard.estimation.estimate import Estimate, estimate


def priced(*techniques: str, model: str = "llama-3.1-8b", on: str = "h100_sxm", **words: Any) -> Estimate:
    return estimate(model, on, **{"batch": 8, "isl": 1000, "osl": 100, **words}, techniques=techniques)


def test_an_overhead_adds_what_is_stated() -> None:
    plain = priced()
    slower, longer, fuller = (priced(f"overhead:{x}") for x in ("time=0.1", "step=2ms", "memory=20GiB"))
    drawn = priced("overhead:power=0.1")
    own_s = plain.shares["decode"]["overhead"] * plain.tpot_s
    assert slower.tpot_s - own_s == pytest.approx(1.1 * (plain.tpot_s - own_s), rel=0.01)
    assert longer.tpot_s == pytest.approx(plain.tpot_s + 2e-3) and longer.ttft_s == pytest.approx(plain.ttft_s + 2e-3)
    assert fuller.largest_batch < 0.75 * plain.largest_batch and fuller.tpot_s == plain.tpot_s
    assert 1.02 < drawn.energy_j / plain.energy_j <= 1.1 and drawn.tpot_s == plain.tpot_s
    saved = priced("overhead:time=-0.9")
    assert saved.limit["tpot_s"] <= saved.tpot_s < plain.tpot_s
    with pytest.raises(InputError, match="expected a share or time"):
        priced("overhead")
    with pytest.raises(InputError, match="memory of less than the"):
        priced("overhead:memory=200GiB")
