"""``steelyard plan``: forms, files, exit codes, replay."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from steelyard.cli.main import main
from steelyard.scenario.words import Problems
from tests.planning import answer, infeasible

ASK = [
    "plan",
    "llama-3.1-70b",
    "--on",
    "h100_sxm",
    "--rate",
    "10/s",
    "--isl",
    "4000",
    "--osl",
    "500",
    "--ttft",
    "p99:1s",
]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A planner that answers at once and keeps what it was asked."""
    import steelyard.search.api as door

    kept: dict[str, Any] = {"answer": answer()}

    def read(words: dict[str, Any], problems: Problems) -> None:
        problems.done()
        kept.update({"on": "any", **words})

    monkeypatch.setattr(door, "read_question", read)
    monkeypatch.setattr(door, "plan_of", lambda planning: kept["answer"])
    return kept


def test_options_reach_the_planner(asked: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    more = [
        "--tpot",
        "p95:50ms",
        "--budget",
        "40usd/h",
        "--max-gpus",
        "32",
        "--engines",
        "any",
        "--formats",
        "any",
        "--headroom",
        "20%",
        "--spares",
        "1",
        "--objective",
        "energy",
        "--peak",
        "3x",
        "--price",
        "h100_sxm=2.5,l40s=0.9",
        "--carbon",
        "400g/kWh",
        "--mode",
        "aggregated",
        "--seed",
        "3",
    ]
    assert main([*ASK, *more]) == 0
    for name, value in {
        "model": "llama-3.1-70b",
        "on": "h100_sxm",
        "rate": "10/s",
        "isl": "4000",
        "osl": "500",
        "ttft": "p99:1s",
        "tpot": "p95:50ms",
        "budget": "40usd/h",
        "max_gpus": 32,
        "engine": "any",
        "formats": "any",
        "headroom": "20%",
        "spares": 1,
        "objective": "energy",
        "peak": "3x",
        "usd_per_hour": {"h100_sxm": 2.5, "l40s": 0.9},
        "carbon": 400.0,
        "mode": "aggregated",
        "seed": 3,
    }.items():
        assert asked[name] == value, name
    assert "12 x NVIDIA H100" in capsys.readouterr().out


def test_json_and_csv(asked: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ASK, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["schema"] == "steelyard.plan/1"
    assert main([*ASK, "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert rows[0]["kind"] == "winner"
    assert float(rows[0]["usd_per_hour"]) == 24.0


def test_out_is_a_folder_or_a_file(asked: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ASK, "--out", str(tmp_path / "deploy"), "--html", str(tmp_path / "a.html")]) == 0
    assert "README.md says what each is" in capsys.readouterr().out
    names = {p.name for p in (tmp_path / "deploy").iterdir()}
    assert {"README.md", "serve.sh", "plan.json", "plan.toml", "report.html"} <= names
    assert 'data-figure="front"' in (tmp_path / "a.html").read_text()
    assert main([*ASK, "--out", str(tmp_path / "deploy")]) == 2
    assert "not empty" in capsys.readouterr().err
    assert main([*ASK, "--out", str(tmp_path / "deploy"), "--force", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["winner"]["devices"] == 12
    assert main([*ASK, "--out", str(tmp_path / "answer.json")]) == 0
    assert json.loads((tmp_path / "answer.json").read_text())["schema"] == "steelyard.plan/1"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.html", "answer.json", "deploy"]


def test_what_cannot_be_written_is_refused_before_planning(
    asked: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    for bad in (
        ["--out", str(tmp_path / "file")],
        ["--out", str(tmp_path / "a" / "b")],
        ["--html", str(tmp_path / "x.png")],
        ["--json", "--csv"],
    ):
        assert main([*ASK, *bad]) == 2, bad
    assert "model" not in asked
    assert "error:" in capsys.readouterr().err


def test_nothing_fits_exits_3_with_the_nearest_change(
    asked: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked["answer"] = infeasible()
    assert main([*ASK, "--out", str(tmp_path / "deploy")]) == 3
    done = capsys.readouterr()
    assert "nothing fits" in done.out
    assert "--tpot p95:62ms" in done.err
    assert not (tmp_path / "deploy").exists()
    assert main([*ASK, "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["infeasible"]["nearest"]


def test_a_model_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--on", "h100_sxm"]) == 2
    assert "error: MODEL: required field is missing" in capsys.readouterr().err


REAL = [
    "plan",
    "llama-3.1-8b",
    "--on",
    "h100_sxm,l40s",
    "--rate",
    "4/s",
    "--isl",
    "1000",
    "--osl",
    "100",
    "--ttft",
    "p99:2s",
    "--tpot",
    "p95:60ms",
    "--requests",
    "300",
]


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("numba", reason="needs the fast extra")
    folder = tmp_path_factory.mktemp("plan") / "deploy"
    assert main([*REAL, "--out", str(folder), "--quiet"]) == 0
    return folder


@pytest.mark.parametrize("name", ["plan.toml", "plan.json"])
def test_a_plan_replays_to_identical_numbers(planned: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["plan", "--replay", str(planned / name), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "steelyard.replay/1"
    assert document["equal"] is True
    assert document["expected"]["ttft_s"]["p99"] == document["replayed"]["ttft_s"]["p99"]
    assert main(["plan", "--replay", str(planned / name)]) == 0
    assert "identical" in capsys.readouterr().out


def test_a_changed_plan_does_not_replay_equal(
    planned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = (planned / "plan.toml").read_text().replace("seed = 0", "seed = 1")
    (tmp_path / "plan.toml").write_text(changed)
    capsys.readouterr()
    assert main(["plan", "--replay", str(tmp_path / "plan.toml"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["equal"] is False


def test_the_promise_holds_in_the_plan_of_a_real_question(planned: Path) -> None:
    document = json.loads((planned / "plan.json").read_text())
    winner = document["winner"]
    assert winner["percentiles"]["ttft_s"]["p99"] <= 2.0
    assert winner["percentiles"]["tpot_s"]["p95"] <= 0.06
    assert winner["max_rate_per_s"] >= 3.9
    assert winner["usd_per_hour"] == min(c["usd_per_hour"] for c in [winner, *document["runners_up"]])
    script = (planned / "serve.sh").read_text()
    limits = winner["limits"]
    assert f"--max-num-seqs {limits['max_num_seqs']} " in script
    assert f"--max-num-batched-tokens {limits['max_num_batched_tokens']} " in script


def test_replay_refuses_what_it_cannot_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--replay", str(tmp_path / "none.toml")]) == 2
    assert main(["plan", "llama-3.1-8b", "--replay", str(tmp_path / "none.toml")]) == 2
    assert "MODEL: --replay plays the plan as it is in the file" in capsys.readouterr().err
