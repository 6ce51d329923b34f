"""What may stand in a study file: every wrong kind of value is one clear problem with its path, all at once."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

import steelyard as sy
from steelyard.cli.main import main
from steelyard.errors import InputError
from steelyard.machine.catalogue import find_machine
from steelyard.machine.loader import machine_text
from steelyard.studies.points import expand_study
from steelyard.studies.study import parse_study, read_study
from steelyard.workload.catalogue import find_model

ASKED: dict[str, dict[str, Any]] = {
    "estimate": {"model": "llama-3.1-8b", "on": "h100_sxm"},
    "simulate": {"model": "llama-3.1-8b", "on": "h100_sxm", "rate": "1/s", "requests": 5},
    "plan": {"model": "llama-3.1-8b", "on": "h100_sxm", "rate": "1/s", "ttft": "p99:1s"},
}
LONG = "x" * 10_000


def _study(of: str, given: dict[str, Any] | None = None, /, **more: Any) -> dict[str, Any]:
    return {"name": "s", "kind": of, "fixed": {**ASKED[of], **(given or {})}, **more}


def _problems(data: Any) -> dict[str, str]:
    with pytest.raises(InputError) as caught:
        expand_study(parse_study(data))
    assert all(len(str(p)) < 400 for p in caught.value.problems)
    return {p.field: p.message for p in caught.value.problems}


@pytest.mark.parametrize(
    ("data", "field", "words"),
    [
        (_study("estimate", kind={}), "kind", "expected one of estimate"),
        (_study("estimate", kind=[]), "kind", "expected one of estimate"),
        (_study("estimate", kind=math.nan), "kind", "expected one of estimate"),
        (_study("estimate", name={}), "name", "expected 1 to 100 letters"),
        (_study("estimate", name=None), "name", "expected 1 to 100 letters"),
        (_study("estimate", name="a\n"), "name", "expected 1 to 100 letters"),
        (_study("estimate", about={}), "about", "expected text"),
        (_study("estimate", {"isl": math.nan}), "fixed.isl", "whole number"),
        (_study("estimate", {"isl": math.inf}), "fixed.isl", "whole number"),
        (_study("estimate", {"isl": "9" * 5000}), "fixed.isl", "whole number"),
        (_study("estimate", {"isl": {"a": LONG}}), "fixed.isl", "whole number"),
        (_study("estimate", {"skew": math.nan}), "fixed.skew", "a number"),
        (_study("estimate", {"model": LONG}), "fixed.model", "unknown model"),
        (_study("estimate", {"model": "x/" * 5000}), "fixed.model", "no file or folder"),
        (_study("estimate", {"techniques": "fp8-kw"}), "fixed.techniques", "fp8-kv"),
        (_study("estimate", grid={"batch": ",".join(["1-100000"] * 1000)}), "grid.batch", "100,000"),
        (_study("estimate", grid={"batch": ["1-100000"] * 1000}), "grid.batch", "100,000"),
        (_study("estimate", grid={"batch": f"1-{'9' * 4000}*2"}), "grid.batch", "a range"),
        (_study("estimate", grid={"batch": ["1-99999"], "isl": "1-1000"}), "grid", "at most 250,000"),
        (_study("estimate", grid={"model": ",".join(f"nosuch{i}" for i in range(3000))}), "grid.model[19]", "unknown"),
        (_study("estimate", case=[{"name": f"c{i}"} for i in range(10_001)]), "case", "at most 10,000"),
        (_study("estimate", objective={"minimise": "ttft_s", "where": 3}), "objective[0].where", "a condition"),
        (_study("estimate", objective={"minimise": {}}), "objective[0].minimise", "no figure"),
        (_study("estimate", objective={"minimise": "ttft_s", "name": {}}), "objective[0].name", "expected text"),
        (_study("estimate", objective={"minimise": "ttft_s", "where": ["ttft_s<nan"]}),
         "objective[0].where[0]", "finite"),
        (_study("simulate", {"isl": math.nan}), "fixed.isl", "text or a number"),
        (_study("simulate", {"rate": math.nan}), "fixed.rate", "text or a number"),
        (_study("simulate", {"ttft": "p200:1s"}), "fixed.ttft", "percentile"),
        (_study("simulate", {"ttft": -1}), "fixed.ttft", "above 0 s"),
        (_study("simulate", {"seed": 10**30}), "fixed.seed", "at most"),
        (_study("simulate", {"concurrency": 10**30}), "fixed.concurrency", "at most"),
        (_study("simulate", {"policy": "fcsf"}), "fixed.policy", "did you mean 'fcfs'"),
        (_study("simulate", {"policy": LONG}), "fixed.policy", "unknown policy"),
        (_study("simulate", {"router": "round-robbin"}), "fixed.router", "did you mean 'round-robin'"),
        (_study("simulate", {"trace": LONG}), "fixed.trace", "no file"),
        (_study("simulate", {"trace": "azure_cnv"}), "fixed.trace", "did you mean 'azure_conv'"),
        (_study("simulate", {"workflow": LONG}), "fixed.workflow", "no file"),
        (_study("simulate", {"arrivals": "poison"}), "fixed.arrivals", "poisson"),
        (_study("simulate", {"lora": "x=y"}), "fixed.lora", "unknown key"),
        (_study("simulate", {"speculate": "eagel:k=4"}), "fixed.speculate", "eagle"),
        (_study("simulate", {"flags": {"max_num_seqs": math.nan}}), "fixed.flags.max_num_seqs", "a number"),
        (_study("simulate", {"flags": {"a": {"b": 1}}}), "fixed.flags.a", "a number"),
        (_study("simulate", seeds=math.nan), "seeds", "whole number"),
        (_study("simulate", seeds={}), "seeds", "whole number"),
        (_study("simulate", grid={"isl": list(range(1, 1001)), "osl": list(range(1, 201))}), "grid", "at most 100,000"),
        (_study("plan", {"on": "h100_sxn"}), "fixed.on", "did you mean"),
        (_study("plan", {"on": "l40s,h100_sxn"}), "fixed.on", "did you mean"),
        (_study("plan", {"objective": "cots"}), "fixed.objective", "did you mean 'cost'"),
        (_study("plan", {"mode": "agregated"}), "fixed.mode", "aggregated"),
        (_study("plan", {"engine": "vlmm"}), "fixed.engine", "vllm"),
        (_study("plan", {"kv": "fp9"}), "fixed.kv", "fp8"),
        (_study("plan", {"budget": "40 apples"}), "fixed.budget", "expected a number"),
    ],
)  # fmt: skip
def test_every_wrong_value_is_one_problem_with_its_path(data: Any, field: str, words: str) -> None:
    found = _problems(data)
    assert words in found[field]


def test_what_is_no_study_is_said() -> None:
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    for data in (None, 3, [], "x", {"name": deep}):
        with pytest.raises(InputError):
            parse_study(data)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("jobs", ["x", -1, math.nan, 10**9, None, {}, 2.5, True]),
        ("best", ["x", 0, -1, math.nan, 10**30, None, {}, 2.5]),
        ("executor", [3, None, {}, "", "serail", []]),
        ("store", [5, {}, b"x", LONG, "\0", Path(), True, None]),
        ("allow_code", ["no", 3, None]),
        ("grid", [5, {}, [], "x"]),
    ],
)
def test_how_a_study_is_answered_is_checked(field: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(InputError) as caught:
            sy.study(_study("estimate"), **{field: value})
        assert [p.field for p in caught.value.problems] == [field]


def test_all_problems_are_told_at_once() -> None:
    """A wrong kind, unknown names, wrong types and a wrong objective are in one message."""
    data = _study("simulate", {"policy": "fcsf", "ttft": "p200:1s", "isl": math.nan, "rats": 1}, kind="simulat")
    found = _problems({**data, "name": 3, "objective": {"minimise": "ttft"}})
    expected = ("name", "kind", "fixed.policy", "fixed.ttft", "fixed.isl", "fixed.rats", "objective[0].minimise")
    assert set(expected) <= set(found)
    assert "did you mean 'simulate'" in found["kind"]


def test_a_number_is_read_as_the_text_of_a_limit() -> None:
    asked = [expand_study(parse_study(_study("simulate", {"ttft": limit})))[0] for limit in (1, 1.0, "1")]
    assert [str(p.values["ttft"]) for p in asked] == ["1", "1.0", "1"]


def test_tables_of_exclusions_are_bounded() -> None:
    many = [{"batch": i + 1} for i in range(1000)]
    assert "at most" in _problems(_study("estimate", grid={"batch": "1-50000"}, exclude=many))["exclude"]


def test_a_long_exclusion_is_quick() -> None:
    """A list is looked up, not walked for every point."""
    some = {"batch": "1-30000"}
    assert len(expand_study(parse_study(_study("estimate", grid={"batch": "1-30001"}, exclude=some)))) == 1


# ------------------------------------------------------------------ machines and models of one's own


def _machine(folder: Path, name: str, gigabytes_per_s: int) -> Path:
    """The machine l40s under another name, with another memory."""
    text = machine_text(find_machine("l40s"))
    lines = [
        f'name = "{name}"'
        if line.startswith('name = "l40s"')
        else line.replace("864000000000.0", f"{gigabytes_per_s}e9")
        for line in text.splitlines()
    ]
    path = folder / f"{name}.toml"
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    _machine(tmp_path / "data", "box", 864)
    return tmp_path


@pytest.mark.parametrize("kind", ["estimate", "simulate", "plan"])
def test_an_edited_machine_is_another_scenario_in_the_same_process(folder: Path, kind: str) -> None:
    """Paths begin at the study's folder, alone and in a list; an edited file is read again."""
    on = "box.toml" if kind != "plan" else "l40s,box.toml"
    data = _study(kind, {"on": on})
    first = expand_study(parse_study(data, str(folder / "data")))[0]
    assert expand_study(parse_study(data, str(folder / "data")))[0].hash == first.hash
    _machine(folder / "data", "box", 8640)
    assert expand_study(parse_study(data, str(folder / "data")))[0].hash != first.hash


def test_an_edited_machine_is_answered_anew(folder: Path) -> None:
    data = _study("estimate", {"on": str(folder / "data" / "box.toml")})
    slow = sy.study(data, store=folder / "s.duckdb").rows[0].values["tpot_s"]
    _machine(folder / "data", "box", 8640)
    for place in ({}, {"store": folder / "s.duckdb"}):
        assert sy.study(data, **place).rows[0].values["tpot_s"] < 0.5 * slow


def test_a_machine_object_or_its_text_stands_in_a_study(folder: Path) -> None:
    box = sy.load_machine(_machine(folder, "fast, box", 8640))
    text = (folder / "fast, box.toml").read_text()
    named = sy.study(_study("estimate", {}, grid={"on": [text, "l40s"]}, fixed={"model": "llama-3.1-8b"}))
    assert [r.values["machine"] for r in named.rows] == ["fast, box", "l40s"]
    assert named.rows[0].values["tpot_s"] < 0.5 * named.rows[1].values["tpot_s"]
    for changed in (False, True):  # the object counts, not what its file says by then
        if changed:
            (folder / "fast, box.toml").write_text(text.replace("8640e9", "864e9"))
        found = sy.study(_study("estimate", grid={"on": [box, "l40s"]}, fixed={"model": "llama-3.1-8b"}))
        assert [r.values["tpot_s"] for r in found.rows] == [r.values["tpot_s"] for r in named.rows]


def test_a_model_folder_lies_where_the_study_does(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = dict(find_model("llama-3.1-8b").config)
    (folder / "data" / "mine").mkdir()
    (folder / "data" / "mine" / "config.json").write_text(json.dumps(config))
    (folder / "data" / "s.json").write_text(json.dumps(_study("estimate", {"model": "./mine"})))
    monkeypatch.chdir(folder)
    first = expand_study(read_study("data/s.json"))[0].hash
    config["num_hidden_layers"] = 16
    (folder / "data" / "mine" / "config.json").write_text(json.dumps(config))
    assert expand_study(read_study("data/s.json"))[0].hash != first


def test_an_edited_study_is_read_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("duckdb")
    path = folder / "s.toml"
    for last in (2, 3):
        path.write_text(
            f'name="s"\nkind="estimate"\n[fixed]\nmodel="llama-3.1-8b"\non="l40s"\n[grid]\nbatch="1-{last}"'
        )
        assert main(["study", str(path), "--quiet", "--resume", "--store", str(folder / "s.duckdb")]) == 0
        assert f"s: {last} points" in capsys.readouterr().out


def test_a_report_needs_none_of_the_files_a_study_names(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("duckdb")
    path = folder / "data" / "s.toml"
    path.write_text('name="s"\nkind="estimate"\n[fixed]\nmodel="llama-3.1-8b"\non="box.toml"\n[grid]\nbatch="1-2"')
    store = ["--store", str(folder / "s.duckdb")]
    assert main(["study", str(path), "--quiet", *store]) == 0
    shutil.copy(path, folder / "s.toml")
    assert main(["report", str(folder / "s.toml"), *store]) == 0
