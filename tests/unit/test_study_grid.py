"""A study answered in columns says what the same study says answered point by point."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import steelyard as sy
from steelyard.cli.main import main
from steelyard.errors import InputError
from steelyard.studies.api import _point_by_point
from steelyard.studies.findings import findings
from steelyard.studies.grid import estimate_grid
from steelyard.studies.store_results import StudyRecord
from steelyard.studies.study import parse_study
from steelyard.studies.sweep import document_of
from steelyard.studies.table import table_of

MIXED: dict[str, Any] = {
    "name": "mixed",
    "kind": "estimate",
    "fixed": {"model": "llama-3.1-8b", "osl": 60},
    "zip": [{"weights": ["fp8", "bf16", "int8"], "isl": [1, 300, 4000]}, {"kv": ["bf16", "fp8"], "skew": [0.0, 0.5]}],
    "grid": {"on": "h100_sxm:2, tpu_v5e:2, a100_sxm_80gb:2", "tp": "1,2,3", "batch": [4, 1, 2, 4096]},
    "exclude": [{"on": "tpu_v5e:2", "tp": 1}, {"batch": [1, 2], "weights": "bf16"}, {"osl": 61}],
}


LENGTHS = {"isl": [100, 200000, 131000], "osl": [60, 100]}


def mixed(**changes: Any) -> Any:
    return parse_study({**MIXED, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "fixed": {"model": "llama-3.1-8b", "max_model_len": 131072, "max_num_seqs": 32},
            "zip": [],
            "grid": {"on": "h100_sxm:2", **LENGTHS, "batch": "1-64*2", "gpu_memory_utilization": [0.8, 0.92]},
        },
        {"grid": {"on": "h100_sxm"}, "zip": [], "exclude": []},
        {"grid": {"on": "h100_sxm:2", "tp": "3", "batch": "1,2"}, "zip": []},
        {
            "case": [
                {"name": "a"},
                {"name": "b", "tp": 1},
                {"name": "c", "weights": "fp8", "isl": 7, "batch": 3, "ep": 2},
            ]
        },
        {"case": [{"name": "only", "osl": 9, "kv": "fp8", "skew": 0.1}], "exclude": [{"osl": 60}]},
        {"objective": [{"minimise": "e2e_s", "where": ["batch >= 2", "fits"]}, {"maximise": "largest_batch"}]},
    ],
)
def test_columns_and_points_agree(changes: dict[str, Any]) -> None:
    study = mixed(**changes)
    many, one_by_one = estimate_grid(study), table_of("estimate", _point_by_point(study, "serial", 1))
    rows = many.rows()
    assert [repr(r) for r in rows] == [repr(r) for r in one_by_one.rows()]  # types too
    record = StudyRecord(study.name, study.kind, document_of(study), len(rows), len(rows))
    left, right = (findings(record, t, study.objectives) for t in (many, one_by_one))
    assert repr(left.best) == repr(right.best)
    assert repr(left.front) == repr(right.front)
    assert left.sensitivity == right.sensitivity
    assert left.axes == right.axes and left.problems == right.problems
    assert left.to_dict() == right.to_dict()


def test_values_may_be_arrays_and_estimate_says_where_several_go() -> None:
    fixed = {"model": "llama-3.1-8b", "on": "h100_sxm"}
    lists = {"batch": [1, 2, 3], "isl": [100, 200], "osl": [5]}
    arrays = {"batch": range(1, 4), "isl": np.array([100, 200]), "osl": (5,)}
    left, right = (sy.study({"name": "a", "kind": "estimate", "fixed": fixed, "grid": g}) for g in (lists, arrays))
    assert left.to_dict() == right.to_dict()
    with pytest.raises(InputError) as refused:
        sy.estimate(**fixed, **arrays)
    assert [p.field for p in refused.value.problems] == ["batch", "isl", "osl"]
    assert refused.value.problems[0].message == "expected a whole number, got 3 values; steelyard.study takes several"


def test_the_command_line_answers_without_a_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, rows = tmp_path / "study.json", tmp_path / "rows.csv"
    file.write_text(json.dumps(MIXED))
    assert main(["study", str(file), "--no-store", "--json", "--csv", str(rows)]) == 0
    found = sy.study(MIXED)
    assert json.loads(capsys.readouterr().out) == found.to_dict()
    with rows.open(newline="") as lines:
        written = list(csv.DictReader(lines))
    times = [r.values["e2e_s"] for r in found.rows]
    assert [row["e2e_s"] for row in written] == ["" if t is None else str(t) for t in times]
    assert set(tmp_path.iterdir()) == {file, rows}
    assert main(["study", str(file), "--no-store", "--limit", "5", "--resume"]) == 2
    said = capsys.readouterr().err
    assert "resume: needs a store" in said and "limit: needs a store" in said


def test_what_is_wrong_with_a_study_is_said_before_anything_is_priced() -> None:
    with pytest.raises(InputError, match="no point is left"):
        sy.study({**MIXED, "exclude": [{"osl": 60}]})
    with pytest.raises(InputError, match="unknown"):
        sy.study({**MIXED, "grid": {"on": "h100_sxn"}})
    with pytest.raises(InputError, match="at most 250,000"):
        estimate_grid(replace(mixed(), grid={"on": ["h100_sxm:2"], "batch": list(range(1, 1_000_001))}))


def test_techniques_are_an_axis_and_a_column_of_the_store() -> None:
    fixed = {"model": "llama-3.1-8b", "on": "h100_sxm", "isl": 2000, "osl": 200}
    grid = {"batch": [8, 64], "techniques": ["", "fp8-kv", "int4-weights + fp8-kv", "llumnix"]}
    study = parse_study({"name": "t", "kind": "estimate", "fixed": fixed, "grid": grid})
    many, stored = estimate_grid(study), table_of("estimate", _point_by_point(study, "serial", 1))
    assert [repr(r) for r in many.rows()] == [repr(r) for r in stored.rows()]
    *answered, guessed = many.rows()[4:]
    plain, kv, both = (row.values for row in answered)
    assert [r["techniques"] for r in (plain, kv, both)] == ["", "fp8-kv", "fp8-kv + int4-weights"]
    assert (plain["kv"], kv["kv"], both["weights"]) == ("bf16", "fp8", "int4")
    assert plain["tpot_s"] > kv["tpot_s"] > both["tpot_s"]
    assert guessed.status == "refused"
    assert guessed.problem == "llumnix: it acts while requests run: estimate cannot use it, simulate does"
