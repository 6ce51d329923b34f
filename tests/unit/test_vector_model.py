"""Vector kernels: limits, floors, rereads, and accuracy where the measurements are at hand."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import numpy as np
import pytest

import steelyard
from steelyard.cost.vector import KERNELS, VectorDevice, VectorParameters, vector_limit_s, vector_time_s

CATALOGUE = Path(steelyard.__file__).parent / "catalogue"
H100 = VectorDevice(3.352e12, 50e6, 5.5e12, 66.9e12, 132)
DEFAULT = VectorParameters()
SIZES = 2.0 ** np.arange(10, 34)


@pytest.mark.parametrize("kind", list(KERNELS))
@pytest.mark.parametrize("cold", [True, False])
def test_never_below_the_limit_and_grows_with_size(kind: str, cold: bool) -> None:
    rows = np.maximum(SIZES / 8192, 1.0) if "norm" in kind or kind == "softmax" else None
    time = vector_time_s(SIZES, SIZES, SIZES, device=H100, parameters=DEFAULT, rows=rows, kind=kind, cold=cold)
    assert np.all(time >= vector_limit_s(SIZES, SIZES, SIZES, device=H100))
    assert np.all(np.diff(time) >= 0)
    if cold:
        assert np.all(time >= 2 * SIZES / 3.352e12)


def test_small_kernels_cost_the_launch_and_large_ones_the_bandwidth() -> None:
    small, large = vector_time_s(np.array([64.0, 2e10]), 64.0, 0.0, device=H100, parameters=DEFAULT)
    assert small == pytest.approx(DEFAULT.launch_s, rel=0.01)
    assert large == pytest.approx(2e10 / (DEFAULT.efficiency * 3.352e12), rel=0.03)


def test_throughput_rises_with_size() -> None:
    rate = SIZES / vector_time_s(SIZES, 0.0, 0.0, device=H100, parameters=DEFAULT)
    assert np.all(np.diff(rate) > 0)


def test_operands_left_in_cache_are_faster() -> None:
    cold, warm = (vector_time_s(8e6, 8e6, 0.0, device=H100, parameters=DEFAULT, cold=cold) for cold in (True, False))
    assert warm < cold


def test_rows_that_do_not_stay_on_chip_are_read_again() -> None:
    def per_byte(width: float) -> float:
        moved = 2.0**33
        time = vector_time_s(moved, moved, 0.0, device=H100, parameters=DEFAULT, rows=moved / width, kind="softmax")
        return float(time) / moved

    assert per_byte(2.0**20) > 1.5 * per_byte(4096.0)


def test_many_operations_bound_by_arithmetic() -> None:
    time = vector_time_s(1e9, 1e9, 1e13, device=H100, parameters=DEFAULT)
    assert time == pytest.approx(DEFAULT.launch_s + 1e13 / (DEFAULT.arithmetic_efficiency * 66.9e12))


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="kind"):
        vector_time_s(1.0, 1.0, 0.0, device=H100, parameters=DEFAULT, kind="dance")


@pytest.mark.parametrize("path", sorted(CATALOGUE.glob("calibration/*/vector.toml")), ids=lambda p: p.parent.name)
def test_catalogue_files_hold_valid_parameters(path: Path) -> None:
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    sections = [table] if "parameters" in table else list(table.values())
    for section in sections:
        parameters = VectorParameters(**section["parameters"])
        assert 0.0 < parameters.efficiency <= 1.0
        assert 0.0 < parameters.launch_s < 1e-5
        assert section["residual"]["log_std"] > 0


def test_elementwise_kernels_meet_the_target_on_measured_rows() -> None:
    data = Path(os.environ.get("STEELYARD_DATA", "../shared"))
    if not (data / "truth" / "neusight_ops" / "test_ops_nvidia.parquet").is_file():
        pytest.skip("no measured vector kernels at STEELYARD_DATA")
    pytest.importorskip("pandas")
    from steelyard_validation.fits.vector import Fitted, task_of
    from steelyard_validation.fits.vector_tables import read_neusight

    table = read_neusight(data / "truth")
    for machine in ("a100_pcie", "l4", "t4", "v100_pcie", "mi100"):
        saved = tomllib.loads((CATALOGUE / "calibration" / machine / "vector.toml").read_text(encoding="utf-8"))
        rows = table[(table["machine"] == machine) & (table["kind"] == "elementwise")].reset_index(drop=True)
        overhead = {"neusight": float(saved["provenance"]["overhead_s_neusight"])}
        answer = Fitted(VectorParameters(**saved["parameters"]), overhead).predict_s(task_of(machine, rows))
        assert np.mean(np.abs(answer / rows["time_s"].to_numpy() - 1.0)) < 0.06, machine
