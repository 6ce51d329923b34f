"""The validation framework: groups and figures, robustness, the readers' contract on small made-up tables."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from steelyard.errors import InputError
from steelyard.measurements.reader import Ask, Comparison, comparison, guarded, interval80, machine_name
from steelyard.testing.readers import ReaderContract
from steelyard_validation import validate as module
from steelyard_validation.readers import aic_ops, comm, deepseek_kernels, infersim_ops, neusight_ops, vidur_profiling
from steelyard_validation.report import MARKERS, accuracy_table, short_table, text, update_readme, write_pages
from steelyard_validation.validate import accuracy, validate

pd = pytest.importorskip("pandas")
pytest.importorskip("pyarrow")

GEMM_SHAPES = [(m, n, k) for m in (1, 64, 4096) for n, k in ((4096, 4096), (1024, 8192), (8192, 1024), (2048, 2048))]


def gemm_table(folder: Path, system: str, scale: float = 1.0) -> None:
    """A made-up GEMM table in the collector's columns: the roofline of an H100 plus five microseconds."""
    folder.mkdir(parents=True, exist_ok=True)
    m, n, k = (np.array(x, dtype=float) for x in zip(*GEMM_SHAPES, strict=True))
    time_ms = np.maximum(2 * m * n * k / 990e12, 2 * (m * k + n * k + m * n) / 3.35e12) * 1e3 * scale + 5e-3
    pd.DataFrame(
        {
            "gemm_dtype": "bfloat16",
            "kernel_source": "torch",
            "m": m.astype(int),
            "n": n.astype(int),
            "k": k.astype(int),
            "latency": time_ms,
        }
    ).to_parquet(folder / f"{system}__gemm__vllm_9.9.9.parquet")


def decode_table(folder: Path, system: str) -> None:
    """A made-up decode table, with one kernel nobody knows."""
    frame = pd.DataFrame(
        {
            "kernel_source": ["vllm_flash_attn_fa3", "mystery"] * 4,
            "batch_size": [1, 1, 8, 8, 64, 64, 128, 128],
            "isl": 1,
            "num_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "kv_cache_dtype": "bfloat16",
            "step": 4095,
            "latency": np.linspace(0.02, 2.0, 8),
        }
    )
    frame.to_parquet(folder / f"{system}__generation_attention__vllm_9.9.9.parquet")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder of two machines, one of them unknown."""
    root = tmp_path / "truth"
    gemm_table(root / "aic_ops", "h100_sxm")
    gemm_table(root / "aic_ops", "no_such_gpu")
    decode_table(root / "aic_ops", "h100_sxm")
    return root


def made(ask: Ask, ratio: float, n: int, split: str = "all", machine: str = "h100_sxm") -> Comparison:
    """Rows all off by one ratio."""
    measured = np.linspace(1.0, 2.0, n)
    low, high = interval80(measured * ratio, 0.1)
    about = {"metric": "time_s", "phase": "gemm", "machine": machine, "family": "bf16", "measured": measured}
    return comparison(
        ask, "t", predicted=measured * ratio, low=low, high=high, roofline=measured / 2, split=split, **about
    )


def test_figures_of_a_known_error() -> None:
    ask = Ask("made")
    rows = list(accuracy([made(ask, 1.1, 10, "fit"), made(ask, 0.8, 30, "left-out"), made(ask, 1.0, 0)]))
    by_split = {
        r.split: r for r in rows if r.table == "t" and r.machine == "*" and r.family == "*" and r.phase == "gemm"
    }
    assert {s: r.n for s, r in by_split.items()} == {"all": 40, "fit": 10, "left-out": 30}
    left = by_split["left-out"]
    assert left.mean_ape == pytest.approx(20.0)
    assert left.median_ape == pytest.approx(20.0)
    assert left.bias == pytest.approx(-20.0)
    assert left.width == pytest.approx(np.exp(2 * 1.2816 * 0.1))
    assert left.interval80 == 0.0  # exp(1.2816 x 0.1) is 1.137, the truth lies at 1.25
    assert left.roofline_mean_ape == pytest.approx(50.0)
    assert by_split["fit"].interval80 == 1.0
    assert by_split["all"].mean_ape == pytest.approx(17.5)


def test_rows_without_an_answer_count_as_not_covered() -> None:
    ask = Ask("made")
    part = comparison(
        ask,
        "t",
        metric="time_s",
        phase="gemm",
        machine="x",
        family="bf16",
        measured=[1.0, 2.0],
        predicted=[1.0, np.nan],
    )
    total = next(r for r in accuracy([part]) if r.table == "*")
    assert (total.n, total.covered, total.mean_ape) == (2, 1, 0.0)
    assert part.why.tolist() == ["", "no prediction"]
    assert np.isnan(total.interval80)
    assert total.to_dict()["interval80"] is None


def test_json_has_exactly_the_stated_keys(data: Path) -> None:
    document = json.loads(validate(data=data).to_json())
    assert document["schema"] == "steelyard.validate/1"
    keys = "source table machine family phase metric split n covered bias interval80 "
    keys += "median_ape mean_ape p90_ape roofline_mean_ape width"
    assert {tuple(sorted(row)) for row in document["rows"]} == {tuple(sorted(keys.split()))}
    assert any(row["table"] == "*" and row["machine"] == "*" for row in document["rows"])


def test_given_data_is_never_called_fitted(data: Path) -> None:
    assert {row.split for row in validate(data=data).rows} == {"all"}


def test_labels_of_the_own_data_folder(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEELYARD_DATA", str(data.parent))
    found = validate(["aic_ops/gemm"], machine="h100_sxm")
    labels = {label for c in found.comparisons for label in c.split.tolist()}
    assert labels <= {"fit", "left-out", "all"}
    whole = {(m, p): s for c in found.comparisons for m, p, s in zip(c.measured, c.predicted, c.split, strict=True)}
    for c in validate(["aic_ops/gemm"], machine="h100_sxm", sample=5).comparisons:
        assert len(c) == 5
        for m, p, s in zip(c.measured, c.predicted, c.split, strict=True):
            assert whole[m, p] == s


def test_an_unknown_machine_and_a_broken_file_do_not_stop_the_run(data: Path) -> None:
    (data / "aic_ops" / "l40s__gemm__vllm_1.parquet").write_bytes(b"junk")
    pd.DataFrame({"m": [1, 2, 3]}).to_parquet(data / "aic_ops" / "a100_sxm__moe__vllm_1.parquet")
    (data / "unheard_of").mkdir()
    (data / "unheard_of" / "table.csv").write_text("a,b\n1,2\n3,4\n", encoding="utf-8")
    found = validate(data=data)
    assert {w.partition(":")[0] for w in found.warnings} == {
        "aic_ops/l40s__gemm__vllm_1.parquet",
        "aic_ops/a100_sxm__moe__vllm_1.parquet",
        "unheard_of/table.csv",
    }
    covered = {
        (r.machine, r.covered, r.n) for r in found.rows if r.table == "gemm" and r.family == "*" and r.phase == "gemm"
    }
    assert ("no_such_gpu", 0, len(GEMM_SHAPES)) in covered
    assert ("h100_sxm", len(GEMM_SHAPES), len(GEMM_SHAPES)) in covered
    assert found.reasons("unheard_of") == {"no reader": 2}
    moe = next(r for r in found.rows if r.table.endswith("moe__vllm_1"))
    assert (moe.n, moe.covered) == (3, 0)


def test_a_held_back_machine_is_predicted_through_borrowed_parameters(tmp_path: Path) -> None:
    root = tmp_path / "other"
    for system in ("gb200", "rtx_pro_6000_server", "b60", "mi300x"):
        gemm_table(root / "aic_ops", system)
        decode_table(root / "aic_ops", system)
    found = validate(["aic_ops"], data=root)
    assert not found.warnings
    rows = [r for r in found.rows if r.table == "gemm" and r.family == "*"]  # those of arc_b60 were called eagerly
    assert {"gb200", "rtx_pro_6000", "arc_b60", "mi300x"} <= {r.machine for r in rows}
    assert all(r.covered == r.n for r in rows)
    phases = {r.phase for r in found.rows if r.table == "generation_attention" and r.machine == "arc_b60"} - {"*"}
    assert phases == {"decode eager", "decode eager host-bound"}  # one by one from Python, and shorter than that


def test_unknown_sources_are_refused_with_the_nearest(data: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'aic_ops'"):
        validate(["aic_opps"], data=data)
    with pytest.raises(InputError, match="no folder"):
        validate(data=data / "nowhere")
    assert any("no such table" in w for w in validate(["aic_ops/gemn"], data=data).warnings)


def test_guarded_counts_every_row_once(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("x\n" + "1\n" * 10, encoding="utf-8")

    def half() -> Iterator[Comparison]:
        yield made(ask, 1.0, 4)
        raise ValueError("the rest is broken")

    ask = Ask("made")
    parts = list(guarded(ask, path, half))
    assert sum(len(p) for p in parts) == 10
    assert ask.warnings == ["made/t.csv: ValueError: the rest is broken"]


@pytest.mark.parametrize(
    ("name", "machine"),
    [
        ("rtx_pro_6000_server", "rtx_pro_6000"),
        ("b60", "arc_b60"),
        ("NVIDIA H100 80GB HBM3", "h100_sxm"),
        ("H800", "h800_sxm"),
    ],
)
def test_names_of_tables_resolve(name: str, machine: str) -> None:
    assert machine_name(name) == machine


def test_pages_pictures_and_readme(data: Path, tmp_path: Path) -> None:
    found = validate(data=data)
    written = write_pages(found, tmp_path / "pages", data, "steelyard validate")
    page = (tmp_path / "pages" / "aic_ops.md").read_text(encoding="utf-8")
    assert "steelyard validate" in page
    assert str(tmp_path) not in page
    assert "machine not in the catalogue" in page
    for path in written:
        if path.suffix == ".png":
            assert path.stat().st_size < 120_000
            assert f"img/{path.name}" in page
    readme = tmp_path / "README.md"
    assert not update_readme(readme, found.rows)
    readme.write_text(f"before\n{MARKERS[0]}\nold\n{MARKERS[1]}\nafter\n", encoding="utf-8")
    assert update_readme(readme, found.rows)
    once = readme.read_text(encoding="utf-8")
    assert update_readme(readme, found.rows)
    assert readme.read_text(encoding="utf-8") == once
    assert once.startswith("before")
    assert once.endswith("after\n")
    assert "old" not in once
    assert short_table(found.rows) in once
    assert accuracy_table(found.rows)
    assert "aic_ops/gemm" in text(found)


class TestAicOps(ReaderContract):
    """The kernel-time reader keeps the contract."""

    reader = staticmethod(aic_ops.read)
    source = "aic_ops"

    @pytest.fixture
    def folder(self, data: Path) -> Path:
        return data / "aic_ops"


class TestVidurNetwork(ReaderContract):
    """The collective reader keeps the contract."""

    reader = staticmethod(comm.vidur)
    source = "vidur_profiling"

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folder = tmp_path / "truth" / "vidur_profiling"
        folder.mkdir(parents=True)
        size = 2.0 ** np.arange(11, 27)
        frame = pd.DataFrame({"fabric": "h100_dgx", "op": "all_reduce", "num_workers": 8, "size": size})
        frame = pd.concat([frame, frame.assign(fabric="a100_dgx", num_workers=16), frame.assign(fabric="nobody")])
        frame["devices_per_node"] = 8
        frame["time_stats.all_reduce.median"] = 0.02 + frame["size"] / 2e8
        frame.to_parquet(folder / "network.parquet")
        return folder


class TestDeepGemm(ReaderContract):
    """The published-throughput reader keeps the contract."""

    reader = staticmethod(deepseek_kernels.read)
    source = "deepseek_kernels"

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folder = tmp_path / "truth" / "deepseek_kernels"
        folder.mkdir(parents=True)
        frame = pd.DataFrame(
            {"kind": ["Normal", "Grouped (masked)"] * 4, "groups": [1, 4] * 4, "m": 128, "n": 4096, "k": 7168}
        )
        frame["latency_us_derived"] = np.linspace(10, 40, 8)
        frame.to_csv(folder / "deepgemm_x.csv", index=False)
        return folder


class TestInferSim(ReaderContract):
    """The mixed-kernel reader keeps the contract."""

    reader = staticmethod(infersim_ops.read)
    source = "infersim_ops"

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folder = tmp_path / "truth" / "infersim_ops"
        folder.mkdir(parents=True)
        pd.DataFrame(
            {
                "op": ["gemm", "mha", "mha", "mla", "dsa", "new"],
                "phase": [None, "decode", "prefill", "decode", "decode", "decode"],
                "gpu": ["H800", "H20", "H20", "H800", "H800", "H900"],
                "shape_file": ["data", "32-8-128", "32-8-128", "128-512-64", "x", "y"],
                "kv_dtype": [None, "bf16", None, "bf16", None, None],
                "batch_size": [np.nan, 8, np.nan, 8, 8, 8],
                "kv_len": [np.nan, 4096, np.nan, 4096, 4096, 4096],
                "seq_len": [np.nan, np.nan, 4096, np.nan, np.nan, np.nan],
                "m": [128, *[np.nan] * 5],
                "n": [4096, *[np.nan] * 5],
                "k": [7168, *[np.nan] * 5],
                "latency_us": [20.0, 100.0, 3000.0, 90.0, 50.0, 10.0],
            }
        ).to_csv(folder / "ops_x.csv", index=False)
        return folder


class TestNeuSight(ReaderContract):
    """The single-precision reader keeps the contract."""

    reader = staticmethod(neusight_ops.read)
    source = "neusight_ops"

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folder = tmp_path / "truth" / "neusight_ops"
        folder.mkdir(parents=True)
        frame = pd.DataFrame({"op": ["linear", "bmm", "ln", "softmax", "add", "relu", "mulu", "fft"], "B": 64})
        frame = frame.assign(M=512.0, N=1024.0, K=1024.0, H=1024.0, device="NVIDIA L4", latency_ms=1.5)
        frame.to_parquet(folder / "test_ops_x.parquet")
        return folder


class TestVidurLinear(ReaderContract):
    """The layer-op reader keeps the contract."""

    reader = staticmethod(vidur_profiling.read)
    source = "vidur_profiling"

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folder = tmp_path / "truth" / "vidur_profiling"
        folder.mkdir(parents=True)
        frame = pd.DataFrame({"num_tokens": [1, 16, 256, 2048, 4096, 8192]})
        shape = {"n_head": 32, "n_kv_head": 8, "n_embd": 4096, "n_expanded_embd": 14336, "vocab_size": 128256}
        frame = frame.assign(**shape, gpu="A100", model="m", use_gated_mlp=True, num_tensor_parallel_workers=2)
        for op in vidur_profiling.OPS:
            frame[f"{op}_ms_median"] = 0.01 + frame["num_tokens"] * 1e-4
        frame.to_parquet(folder / "mlp_linear.parquet")
        return folder


def test_every_registered_reader_is_for_a_folder() -> None:
    names = module.READERS.names()
    assert "aic_ops" in names
    assert {"aic_ops.comm", "apex_comm", "vidur_profiling.network"} <= set(names)


def test_the_bare_wheel_says_where_the_readers_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import importlib

    from steelyard.cli import validate as command

    for name in [n for n in sys.modules if n.partition(".")[0] == "steelyard_validation"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "steelyard_validation", None)
    monkeypatch.setitem(sys.modules, "steelyard_validation.command", None)
    try:
        importlib.reload(command)
        from cyclopts import App

        app = App()
        app.command(command.validate, name="validate")
        with pytest.raises(InputError, match=r"pip install \./validation"):
            app(["validate", "aic_ops", "--data", "x"], exit_on_error=False, print_error=False)
        from steelyard.testing.readers import ReaderContract  # the contract suite needs the wheel alone

        assert ReaderContract.test_other_machines_are_left_out
    finally:
        monkeypatch.undo()
        importlib.reload(command)
