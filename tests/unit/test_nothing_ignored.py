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
        (["plan", "--replay", ""], "--replay: expected the path of a plan.toml"),
    ],
)
def test_an_option_without_use_is_refused(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = lines(capsys, *words)
    assert line.startswith(f"error: {said}")


def test_a_replay_takes_nothing_beside_it(capsys: pytest.CaptureFixture[str]) -> None:
    """What the old plan does not answer is not taken for its answer."""
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
