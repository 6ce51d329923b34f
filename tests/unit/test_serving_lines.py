"""The lines of accuracy over serving rows: no row is fitted and scored, and targets stand beside what is reached."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

pd = pytest.importorskip("pandas")

from steelyard.calibrate.fit_engine import PARAMETERS  # noqa: E402
from steelyard.deployment.engine import find_engine  # noqa: E402
from steelyard_validation.readers import inferencex  # noqa: E402
from steelyard_validation.readers import inferencex_lines as lines  # noqa: E402
from steelyard_validation.targets import TARGETS, reached  # noqa: E402
from steelyard_validation.validate import Accuracy  # noqa: E402


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    """Loads of two models on three machines under two engines, in the table's columns."""
    rows = [
        {
            "model_path": model,
            "system": machine,
            "backend": engine,
            "backend_version": "1",
            "isl": 1024.0,
            "osl": 1024.0,
            "concurrency": float(clients),
            "tp": float(tp),
            "pp": 1.0,
            "dp": 1.0,
            "ep": 1.0,
            "gemm_quant_mode": mode,
            "moe_quant_mode": mode,
            "stated": True,
            "uniform": True,
            "source_set": "",
            "ttft_ms": 100.0,
            "tpot_ms": 10.0,
        }
        for model, mode in (("meta-llama/Llama-3.1-70B", "fp8"), ("openai/gpt-oss-120b", "w4a16_mxfp4"))
        for machine, engine, clients, tp in product(
            ("h100_sxm", "h200_sxm", "b200_sxm"), ("vllm", "trtllm"), (4, 8, 16, 32, 64), (2, 4, 8)
        )
    ]
    return pd.DataFrame(rows)


def test_no_row_is_fitted_and_scored(frame: pd.DataFrame) -> None:
    found = list(lines.parts(frame, np.ones(len(frame), dtype=bool)))
    assert {p.line for p in found} == set(lines.LINES) - {lines.NOTHING_FITTED}
    for part in found:
        assert not (part.fit & part.score).any(), part.name
        for figure in part.figures:
            assert figure.partition(":")[0] in PARAMETERS


def test_same_machine_scores_other_loads_and_shapes(frame: pd.DataFrame) -> None:
    clean = np.ones(len(frame), dtype=bool)
    part = next(p for p in lines.parts(frame, clean) if p.line == lines.SAME)
    fitted = frame[part.fit]
    assert set(fitted["concurrency"]) == {4.0, 16.0, 64.0}
    assert set(fitted["tp"]) == {2.0, 8.0}
    assert 4.0 in set(frame[part.score]["tp"])
    assert fitted["system"].nunique() == fitted["backend"].nunique() == fitted["model_path"].nunique() == 1


def test_machine_left_out_is_left_out(frame: pd.DataFrame) -> None:
    found = [p for p in lines.parts(frame, np.ones(len(frame), dtype=bool)) if p.line == lines.MACHINE]
    assert found
    for part in found:
        assert not set(frame[part.fit]["system"]) & set(frame[part.score]["system"])


def test_nothing_fitted_has_no_fitted_figure() -> None:
    for name in ("vllm", "sglang", "trtllm"):
        bare = lines.unfitted(find_engine(name))
        assert bare.kernels == ()
        assert bare.launch_s == 0.0
        assert bare.request_s == lines.GUESSED[name]["request_s"]


def test_stored_fits_stay_in_bounds() -> None:
    for (line, part), figures in lines.stored_fits().items():
        assert line in lines.LINES
        for name, value in figures.items():
            parameter = PARAMETERS[name.partition(":")[0]]
            assert parameter.low * 0.9999 <= value <= parameter.high * 1.0001, (line, part, name)


def _row(family: str, median: float, p90: float, split: str = "left-out") -> Accuracy:
    return Accuracy(
        "inferencex_silicon",
        inferencex.LINES_TABLE,
        "*",
        family,
        "serve",
        "tpot_s",
        10,
        10,
        median,
        median,
        p90,
        0.0,
        0.8,
        1.5,
        50.0,
        split,
    )


def test_targets_stand_beside_what_is_reached() -> None:
    rows = [_row(lines.SAME, 3.0, 9.0), _row(lines.MACHINE, 3.0, 19.0), _row(lines.SAME, 1.0, 1.0, "all")]
    found = {(r.target.words, r.target.metric): r for r in reached(rows, "inferencex_silicon")}
    assert found[lines.SAME, "tpot_s"].met is True
    assert found[lines.SAME, "tpot_s"].row is rows[0]
    assert found[lines.MACHINE, "tpot_s"].met is False
    assert found[lines.DENSE, "tpot_s"].met is None
    apart = [t for t in TARGETS if t.words.startswith("apart")]
    assert apart
    assert all(math.isnan(t.median) for t in apart)
