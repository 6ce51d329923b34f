"""Calibration: files that load, parameters found again, samples that help or change nothing, input that is refused."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from steelyard.calibrate.task import errors_of, fit_parameters
from steelyard.calibrate.toml_files import document, write_files
from steelyard.cli.main import main
from steelyard.cost.cpu import CpuProduct, product_time_s
from steelyard.errors import InputError
from steelyard.machine.catalogue import find_machine

Array = NDArray[np.float64]

pd = pytest.importorskip("pandas")
pytest.importorskip("scipy")

PRODUCT = {
    "launch_s": (1e-7, 1e-3),
    "compute_frac": (0.05, 1.0),
    "stream_frac": (0.05, 1.0),
    "pack_frac": (0.05, 5.0),
}


def products(parameters: CpuProduct, m: Array, weights: Array) -> Array:
    return product_time_s(
        2.0 * m * weights,
        m,
        4.0 * weights,
        8.0 * m * np.sqrt(weights),
        peak_ops_per_s=2e11,
        dram_bytes_per_s=3e10,
        parameters=parameters,
    )


SHAPES = tuple(x.ravel() for x in np.meshgrid([1.0, 2, 8, 32, 128, 512], 2.0 ** np.arange(16, 25)))
TRUE = CpuProduct(launch_s=8e-6, compute_frac=0.47, stream_frac=0.55, pack_frac=1.3)


def test_fit_finds_the_parameters_that_made_the_rows() -> None:
    found = fit_parameters(
        lambda p: products(p, *SHAPES), CpuProduct(), products(TRUE, *SHAPES), list(PRODUCT), sigma=1.0, bounds=PRODUCT
    )
    for name in PRODUCT:
        assert getattr(found, name) == pytest.approx(getattr(TRUE, name), rel=0.05), name


def test_a_narrow_prior_holds_and_an_outlier_does_not_pull() -> None:
    rows = products(TRUE, *SHAPES)
    disturbed = rows.copy()
    disturbed[::17] *= 40.0
    found = fit_parameters(
        lambda p: products(p, *SHAPES), CpuProduct(), disturbed, list(PRODUCT), sigma=1.0, bounds=PRODUCT
    )
    assert found.compute_frac == pytest.approx(TRUE.compute_frac, rel=0.1)
    held = fit_parameters(
        lambda p: products(p, *SHAPES)[:2], CpuProduct(), rows[:2], list(PRODUCT), sigma=1e-3, bounds=PRODUCT
    )
    assert held.compute_frac == pytest.approx(CpuProduct().compute_frac, rel=0.01)


def test_errors_count_both_ways() -> None:
    e = errors_of(np.array([1.0, 2.0]), np.array([2.0, 1.0]))
    assert e.mean_ape == pytest.approx((50.0 + 100.0) / 2)
    assert e.log_bias == pytest.approx(0.0, abs=1e-12)


def test_cpu_product_is_bounded_and_grows() -> None:
    time = products(TRUE, *SHAPES)
    m, weights = SHAPES
    assert (time >= np.maximum(2 * m * weights / 2e11, 4 * weights / 3e10)).all()
    assert products(TRUE, np.array([2.0]), np.array([1e6]))[0] > products(TRUE, np.array([1.0]), np.array([1e6]))[0]


def test_toml_is_read_back() -> None:
    data = {
        "guess": {"compute.cores.peak": 'a "quoted" reason\n'},
        "machine": {"name": "x", "compute": [{"name": "c", "peak": {"fp32": 1.25e12}}], "aliases": [], "tdp_w": 3.0},
        "gemm": {"fp32": {"parameters": {"launch_s": 1.2e-6, "n": 3, "flag": True}}},
    }
    assert tomllib.loads(document(data, ["comment"])) == data
    with pytest.raises(InputError):
        document({"x": float("nan")})


def test_files_are_whole_or_absent(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(InputError):
        write_files(tmp_path, {"a/one.toml": "x = 1\n", "taken/two.toml": "y = 2\n"})
    assert not list((tmp_path / "a").iterdir())


def gemm_table(folder: Path, machine: str, rows: int = 400) -> Path:
    """A made-up table: our own model with other parameters and 3 % noise."""
    from dataclasses import replace

    from steelyard.calibrate.tasks import gemm_task

    target = find_machine(machine)
    rng = np.random.default_rng(1)
    m, n, k = (np.exp2(rng.integers(low, high, rows)) for low, high in ((0, 13), (8, 14), (8, 14)))
    blank = pd.DataFrame({"m": m, "n": n, "k": k, "time_s": 1.0, "fitted": True})
    task = gemm_task(target, "bf16", blank)
    other = replace(task.prior.parameters, dram_frac=0.6, launch_cycles=9000.0)
    time = task.predict(other, task.everywhere) * np.exp(rng.normal(0, 0.03, rows))
    frame = pd.DataFrame(
        {"gemm_dtype": "bfloat16", "kernel_source": "x", "m": m, "n": n, "k": k, "latency": time * 1e3}
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{machine}__gemm__vllm_1.parquet"
    frame.to_parquet(path)
    return path


def test_from_tables_writes_parameters_normalised_to_the_spec_sheet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gemm_table(tmp_path / "truth" / "aic_ops", "h100_sxm")
    out = tmp_path / "out"
    assert main(["calibrate", "h100_sxm", "--from", str(tmp_path / "truth"), "--out", str(out), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["schema"] == "steelyard.calibrate/1"
    section = answer["sections"][0]
    assert section["held_out"]["mean_ape"] < 5.0 < section["borrowed"]["mean_ape"]
    table = tomllib.loads((out / "h100_sxm" / "gemm.toml").read_text())
    assert table["parameters"]["dram_frac"] == pytest.approx(0.6, rel=0.1)
    assert table["residual"]["log_low10"] < table["residual"]["log_high90"]
    assert table["provenance"]["kind"] == "fitted"
    assert [p.name for p in (out / "h100_sxm").iterdir()] == ["gemm.toml"]


SAMPLES = "op,dtype,m,n,k,latency_s\n"


def sample_file(folder: Path, machine: str, factor: float = 1.0, rows: int = 12) -> Path:
    gemm_table(folder / "tables", machine, rows)
    frame = pd.read_parquet(folder / "tables" / f"{machine}__gemm__vllm_1.parquet")
    lines = [f"gemm,bf16,{r.m:.0f},{r.n:.0f},{r.k:.0f},{r.latency * 1e-3 * factor:.6g}" for r in frame.itertuples()]
    path = folder / "samples.csv"
    path.write_text(SAMPLES + "\n".join(lines) + "\n")
    return path


def test_samples_adapt_a_known_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = sample_file(tmp_path, "h100_sxm")
    out = tmp_path / "out"
    assert main(["calibrate", "h100_sxm", "--samples", str(path), "--out", str(out), "--json"]) == 0
    section = json.loads(capsys.readouterr().out)["sections"][0]
    assert section["after"]["mean_ape"] <= section["before"]["mean_ape"]
    table = tomllib.loads((out / "calibration" / "h100_sxm" / "gemm.toml").read_text())
    from steelyard.cost.gemm import GemmParameters
    from steelyard.cost.parameters import calibration_table

    assert set(table["parameters"]) == {f.name for f in fields(GemmParameters)}
    assert table["provenance"]["source"] == "samples.csv"
    shipped = calibration_table("h100_sxm", "gemm")
    assert table["fp8"]["parameters"] == pytest.approx(shipped["fp8"]["parameters"], rel=1e-4)


def test_samples_scale_a_black_box(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = sample_file(tmp_path, "h100_sxm", factor=3.0)
    out = tmp_path / "out"
    command = ["calibrate", "a_black_box", "--samples", str(path), "--like", "h100_sxm", "--out", str(out), "--json"]
    assert main(command) == 0
    section = json.loads(capsys.readouterr().out)["sections"][0]
    assert section["after"]["mean_ape"] < 0.5 * section["before"]["mean_ape"]
    machine = find_machine(str(out / "machines" / "a_black_box.toml"))
    assert machine.name == "a_black_box"
    assert machine.root.bandwidth_bytes_per_s < 0.6 * find_machine("h100_sxm").root.bandwidth_bytes_per_s


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        (SAMPLES, "no rows"),
        ("op,dtype,m,n,latency_s\ngemm,bf16,1,2,1e-5\n", "column 'k' is missing"),
        ("op,dtype,m,n,k,latency\ngemm,bf16,1,2,3,1e-5\n", "'latency_s' is missing (found 'latency')"),
        (SAMPLES + "gemm,bf16,1,2,3,-1e-5\n", "latency_s: expected a positive number, got -1e-5"),
        (SAMPLES + "gemm,bf16,1,2,3,nan\n", "got nan"),
        (SAMPLES + "gemm,bf16,1,2,x,1e-5\n", "expected a number, got 'x'"),
        (SAMPLES + "gem,bf16,1,2,3,1e-5\n", "did you mean 'gemm'"),
        (SAMPLES + "gemm,bf17,1,2,3,1e-5\n", "unknown format 'bf17'"),
    ],
)
def test_bad_samples_are_refused(tmp_path: Path, text: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "samples.csv"
    path.write_text(text)
    out = tmp_path / "out"
    assert main(["calibrate", "h100_sxm", "--samples", str(path), "--out", str(out)]) == 2
    shown = capsys.readouterr()
    assert says in shown.err
    assert shown.err.startswith("error: ")
    assert not out.exists()


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["h100_sxm"], "expected one of --from, --here and --samples"),
        (["h100_sxm", "--here"], "--here measures this computer"),
        (["--from", "x"], "MACHINE is required"),
        (["h100_sxm", "--from", "{tmp}/none"], "expected a folder of tables"),
        (["h100_sxm", "--from", "{tmp}"], "no tables in"),
        (["h1o0", "--from", "{tmp}"], "did you mean"),
        (["h100_sxm", "--from", "{tmp}", "--op", "gem"], "did you mean 'gemm'"),
        (["h100_sxm", "--from", "{tmp}", "--quick"], "--quick goes with --here"),
        (["--here", "--name", "H 100"], "lower-case"),
        (["--here", "--name", "h100_sxm"], "machine of the catalogue"),
        (["--here", "--out", "/dev/null/x"], "cannot write to"),
        (["nobody_x", "--samples", "{tmp}/s.csv"], "no file"),
    ],
)
def test_bad_commands_are_refused(
    tmp_path: Path, command: Sequence[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [w.replace("{tmp}", str(tmp_path)) for w in command]
    assert main(["calibrate", *words]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert len(error.strip().splitlines()) == 1


def test_an_unreadable_table_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "h100_sxm__gemm__x.parquet").write_text("not a table")
    assert main(["calibrate", "h100_sxm", "--from", str(tmp_path)]) == 2
    assert "cannot read 'h100_sxm__gemm__x.parquet'" in capsys.readouterr().err
    pd.DataFrame({"m": [1]}).to_parquet(tmp_path / "h100_sxm__gemm__x.parquet")
    assert main(["calibrate", "h100_sxm", "--from", str(tmp_path)]) == 2
    assert "cannot read" in capsys.readouterr().err


def test_measured_kernels_answer_near_shapes_only(tmp_path: Path) -> None:
    from steelyard.calibrate.measured_kernels import beside, measured_kernels
    from steelyard.estimation.estimate import estimate

    target = find_machine("h100_sxm")
    with pytest.raises(InputError, match="no measured kernels"):
        measured_kernels(target, folder=tmp_path)
    source = gemm_table(tmp_path / "made", "h100_sxm", 3000)
    for version in ("0.9.0", "0.24.0"):
        place = tmp_path / "h100_sxm" / "gemm" / "vllm" / version
        place.mkdir(parents=True)
        (place / "gemm_perf.parquet").write_bytes(source.read_bytes())
    tables = measured_kernels(target, folder=tmp_path)
    assert "0.24.0" in str(tables.paths["gemm"])
    frame = pd.read_parquet(source).groupby(["m", "n", "k"], as_index=False)["latency"].median()
    row = frame.iloc[7]
    assert tables.gemm_s(row.m, row.n, row.k) == pytest.approx(row.latency * 1e-3)
    assert np.isnan(tables.gemm_s(1e7, 4096, 4096))
    rows = beside(estimate("llama-3.1-8b", "h100_sxm", batch=4, isl=500, osl=20).decode.cost, tables)
    products_ = [r for r in rows if r.kind == "gemm" and r.measured_s]
    assert products_
    assert all(0.3 < r.measured_s / r.analytic_s < 5.0 for r in products_ if r.measured_s)
    assert all(r.measured_s is None for r in rows if r.kind == "vector")
