"""What is given and has no use is refused with what it needs, and messages name what was typed."""

from __future__ import annotations

from pathlib import Path

import pytest

import steelyard as sy
from steelyard.cli.main import main
from steelyard.errors import InputError
from steelyard.machine.catalogue import find_machine
from steelyard.machine.loader import machine_text

SIMULATE = ["simulate", "llama-3.1-8b", "--on", "h100_sxm", "--rate", "1/s", "--requests", "10"]
NETWORKS = "--network: unknown network 'bogus' (`steelyard ls networks` lists all)"
PLAN = ["plan", "llama-3.1-8b", "--rate", "1/s", "--ttft", "p99:1s"]


@pytest.fixture
def chip(tmp_path: Path) -> Path:
    """A machine of one's own without a price."""
    path = tmp_path / "my_chip.toml"
    text = machine_text(find_machine("h100_sxm")).replace("h100_sxm", "my_chip")
    path.write_text("\n".join(line for line in text.splitlines() if not line.startswith("capex_usd")), encoding="utf-8")
    return path


def lines(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    """What a command line says is wrong."""
    capsys.readouterr()
    assert main(list(words)) == 2
    return capsys.readouterr().err.splitlines()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([*SIMULATE, "--encode", "500s"], "--encode: encoders need a pool E"),
        ([*SIMULATE, "--transfer-overlap", "0.5"], "--transfer-overlap: caches are sent between pools P and D"),
        ([*SIMULATE, "--arrivals", "gamma:cv=3", "--burst", "2"], "--burst: is short for arrivals gamma:cv="),
        ([*PLAN, "--on", "h100_sxm", "--price", "l40s=2"], "--price: l40s is none of the machines asked for: h100_sxm"),
        ([*SIMULATE[:3], "h100_sxm,l40s", *SIMULATE[4:]], "--on: expected one machine: NAME or NAME:COUNT"),
        ([*SIMULATE[:3], "h100_sxm:²", *SIMULATE[4:]], "--on: expected NAME or NAME:COUNT, got 'h100_sxm:²'"),
        ([*SIMULATE[:3], "./nofile.toml", *SIMULATE[4:]], "--on: no file at './nofile.toml'"),
        ([*PLAN, "--on", "./nofile.toml"], "--on: no file at './nofile.toml'"),
        ([*PLAN, "--on", "h100_sxm:²"], "--on: expected NAME or NAME:COUNT"),
        ([*PLAN, "--on", "h100_sxm", "--engines", "vlm"], "--engines: unknown engine 'vlm'"),
        ([*PLAN, "--on", "h100_sxm", "--headroom", "20"], "--headroom: expected a share such as 0.2 or 20%, got 20"),
        (["plan", "--replay", "nope.toml"], "--replay: no file at 'nope.toml'"),
        (["estimate", *SIMULATE[1:4], "--json", "--csv"], "--csv: choose one of --json and --csv"),
        (["estimate", *SIMULATE[1:4], "--batch", "1-99999", "--isl", "1-9"], "--batch: 899,991 scenarios"),
        (["explain", *SIMULATE[1:4], "--batch", "1-4"], "--batch: expected one value, got 4"),
        (["estimate", *SIMULATE[1:4], "--with="], "--with: needs a value"),
        (["estimate", *SIMULATE[1:4], "--out", ""], "--out: needs a value"),
        (["study", "any.toml", "--jobs", "0"], "--jobs: expected 1 to 1,024, got 0"),
        ([*SIMULATE[:5], "inf", *SIMULATE[6:], "--peak", "3x"], "--peak: at the rate inf all arrive at once"),
        (
            [*SIMULATE[:3], "rtx_5090+", *SIMULATE[4:]],
            "--on: expected a machine on both sides of each +, got 'rtx_5090+'",
        ),
        (["estimate", *SIMULATE[1:3], "h100_sxm:16", "--network", "bogus"], NETWORKS),
        (["estimate", *SIMULATE[1:4], "--tensor-parallel-size", "0"], "--tensor-parallel-size: expected at least 1"),
        (["estimate", *SIMULATE[1:4], "--users=0"], "--users: expected at least 1, got 0"),
    ],
)
def test_an_option_without_use_is_refused(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = lines(capsys, *words)
    assert line.startswith(f"error: {said}")


def test_a_replay_takes_nothing_beside_it(capsys: pytest.CaptureFixture[str]) -> None:
    """What the old plan does not answer is not taken for its answer."""
    assert lines(capsys, "plan", "--replay", "")[0].startswith("error: --replay: needs a value")
    more = ["--on", "l40s", "--ttft", "p99:1s", "--max-gpus", "1", "--rate", "3/s", "--force", "--out", "new"]
    said = lines(capsys, "plan", "llama-3.1-8b", "--replay", "plan.toml", *more)
    names = ("MODEL", "--on", "--ttft", "--max-gpus", "--rate", "--force", "--out")
    assert {line.split(": ")[1] for line in said} == set(names)
    assert all("leave this out" in line for line in said)


def test_a_missing_price_is_said_and_nothing_about_fit(chip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = lines(capsys, *PLAN, "--on", str(chip))
    assert line.startswith("error: --price: no price is known of my_chip: give NAME=USD")
    assert "fit" not in line
    with pytest.raises(InputError, match="usd_per_hour: no price is known of my_chip"):
        sy.plan("llama-3.1-8b", str(chip), rate="1/s", ttft="p99:1s")


def test_points_of_a_study_say_that_a_price_is_missing(chip: Path) -> None:
    fixed = {"model": "llama-3.1-8b", "on": str(chip), "ttft": "p99:1s"}
    found = sy.study({"name": "rates", "kind": "plan", "fixed": fixed, "grid": {"rate": ["1/s", "2/s"]}})
    assert [row.status for row in found.table.rows()] == ["refused"] * 2
    assert all("no price is known of my_chip" in row.problem for row in found.table.rows())


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            'kind = "matrix"',
            'kind = "matrx"',
            "compute[0].kind: expected one of matrix, vector, scalar, got 'matrx'; did",
        ),
        ('vendor = "NVIDIA"', "vendor = 3", "vendor: expected text, got 3"),
        ("[[machine.memory]]", "[[machine.memori]]", "memory: required field is missing"),
    ],
)
def test_a_machine_file_is_refused_in_our_words(chip: Path, old: str, new: str, said: str) -> None:
    text = chip.read_text(encoding="utf-8")
    assert old in text
    chip.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        sy.load_machine(chip)
    assert any(str(problem).startswith(f"my_chip.toml: {said}") for problem in caught.value.problems)
    assert ": :" not in str(caught.value)


@pytest.mark.parametrize("pools", ["1P:tp1,1D:tp1@my_chip", "1A:1@my_chip,1F:1"])
def test_a_machine_of_ones_own_is_known_by_its_name_in_pools(chip: Path, pools: str) -> None:
    asked = {"rate": "1/s", "requests": 5, "isl": 100, "osl": 5, "disaggregate": pools}
    found = sy.simulate("llama-3.1-8b", str(chip), **asked)
    assert {pool.scenario.cluster.machine.name for pool in found.pools} == {"my_chip"}


def test_a_simulation_says_its_engine_and_how_it_schedules() -> None:
    from steelyard.report.simulation import served_by

    words = {"rate": "1/s", "requests": 3, "isl": 100, "osl": 5}
    assert served_by(sy.simulate("llama-3.1-8b", "h100_sxm", **words)).startswith("vLLM v1: ")
    found = sy.simulate("llama-3.1-8b", "h100_sxm", engine="llamacpp", weights="q4_k_m", **words)
    assert served_by(found).startswith("llama.cpp, CUDA, scheduled as vLLM v1: ")


def test_a_broken_model_file_stops_no_other_model_and_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from steelyard import folders
    from steelyard.workload import catalogue as models

    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "torn.toml").write_bytes(b"\xff\xfe\x00bad")
    (tmp_path / "models" / "two.toml").write_text('[[model]]\nparameters = 3\n[[model]]\nid = "me/bad"\n', "utf-8")
    ours = folders.catalogue_folders()
    monkeypatch.setattr(folders, "catalogue_folders", lambda: (tmp_path, *ours))
    for cached in (models._scan, models._index, models._spoken):
        cached.cache_clear()
    try:
        assert sy.estimate("llama-3.1-8b", "h100_sxm").tpot_s > 0
        with pytest.raises(sy.InputError, match=r"two.toml: me/bad.parameters"):
            sy.estimate("me/bad", "h100_sxm")
        with pytest.raises(InputError, match=r"not read: .*torn.toml"):
            sy.estimate("my-own-net", "h100_sxm")
        assert main(["ls", "models", "llama-3.1-8b"]) == 0
        said = capsys.readouterr().err
        assert all(words in said for words in ("torn.toml", "the [[model]] of line 1 has no id", "me/bad.config"))
    finally:
        for cached in (models._scan, models._index, models._spoken):
            cached.cache_clear()


def test_python_m_and_the_errors_are_public() -> None:
    from importlib.util import find_spec

    assert find_spec("steelyard.__main__") is not None
    assert issubclass(sy.InputError, sy.SteelyardError) and issubclass(sy.DoesNotFit, sy.SteelyardError)
