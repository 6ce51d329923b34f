"""Predictions on small samples of the real tables: physical, covered, not absurd. Needs the measured data."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from steelyard_validation.validate import Validation, validate

pytest.importorskip("pandas")
pytest.importorskip("pyarrow")

TRUTH = Path(os.environ.get("STEELYARD_DATA", "../shared")) / "truth"
pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not TRUTH.is_dir(), reason="STEELYARD_DATA names no folder with truth/"),
]

ROWS = 400
#: Largest mean error in % over all machines, by table and phase: the target with room for a small sample.
BOUNDS = {
    ("gemm", "gemm"): 13.0,
    ("generation_attention", "decode"): 15.0,
    ("context_attention", "prefill"): 16.0,
    ("moe", "moe"): 20.0,
}


@pytest.fixture(scope="module")
def found() -> Validation:
    """A sample of the kernel tables."""
    tables = {table for table, _ in BOUNDS}
    return validate([f"aic_ops/{table}" for table in sorted(tables)], sample=ROWS)


@pytest.mark.parametrize(("table", "phase"), BOUNDS)
def test_errors_below_generous_bounds_and_below_the_roofline(found: Validation, table: str, phase: str) -> None:
    row = next(
        r for r in found.rows if (r.table, r.phase, r.machine, r.family, r.split) == (table, phase, "*", "*", "all")
    )
    assert row.covered == row.n
    assert row.mean_ape < BOUNDS[table, phase]
    assert row.mean_ape < row.roofline_mean_ape


@pytest.mark.parametrize(("table", "phase"), BOUNDS)
def test_the_interval_holds_the_truth_often_enough(found: Validation, table: str, phase: str) -> None:
    row = next(
        r for r in found.rows if (r.table, r.phase, r.machine, r.family, r.split) == (table, phase, "*", "*", "all")
    )
    assert 0.60 <= row.interval80 <= 0.95


def test_no_prefill_is_faster_than_the_datasheet(found: Validation) -> None:
    for c in found.comparisons:
        if c.phase == "prefill" and c.family[0].startswith("bf16"):
            assert np.all(c.predicted >= c.roofline * (1 - 1e-9))


def test_nothing_of_another_folder_counts_as_fitted() -> None:
    given = validate(["aic_ops/gemm"], data=TRUTH, sample=50, machine="h100_sxm")
    assert {r.split for r in given.rows} == {"all"}
    assert not given.warnings
