"""No file of data names code that is run, unless the user says so."""

from __future__ import annotations

from pathlib import Path

import pytest

import steelyard as sy
from steelyard.cli.main import main
from steelyard.errors import InputError

POLICY = """from pathlib import Path
Path({marker!r}).write_text("x")
class Z:
    name = "z"
    def keys(self, trace):
        return trace.arrived_at
"""
STUDY = """name = "s"
kind = "simulate"
[fixed]
model = "llama-3.1-8b"
on = "h100_sxm"
rate = "1/s"
requests = 20
"""
NAMED = {
    "fixed": 'policy = "p.py:Z"',
    "grid": '[grid]\npolicy = ["fcfs", "p.py:Z"]',
    "zip": '[[zip]]\npolicy = ["p.py:Z"]\nseed = [1]',
    "case": '[[case]]\nname = "c"\npolicy = "p.py:Z"',
    "exclude": 'policy = "fcfs"\n[[exclude]]\npolicy = "P.PY:Z"',
}


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    marker = tmp_path / "EXECUTED"
    (tmp_path / "p.py").write_text(POLICY.format(marker=str(marker)))
    return marker


@pytest.mark.parametrize("table", NAMED)
def test_a_study_runs_no_code_unasked(marker: Path, table: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("s.toml").write_text(STUDY + NAMED[table])
    for more in (["--dry-run"], ["--no-store"], []):
        assert main(["study", "s.toml", *more]) == 2
        assert "--allow-code" in capsys.readouterr().err
    with pytest.raises(InputError, match="allow_code"):
        sy.study("s.toml")
    assert not marker.exists()


def test_allowed_code_is_not_run_by_a_preview(marker: Path) -> None:
    Path("s.toml").write_text(STUDY + NAMED["fixed"])
    assert main(["study", "s.toml", "--allow-code", "--dry-run"]) == 0
    assert main(["study", "s.toml", "--allow-code", "--dry-run", "--no-store"]) == 0
    assert not marker.exists()
    assert main(["study", "s.toml", "--allow-code", "--no-store", "--executor", "serial"]) == 0
    assert marker.exists()


def test_a_policy_that_leaves_the_program_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "p.py").write_text("import sys\nsys.exit(0)\n")
    with pytest.raises(InputError, match="failed"):
        sy.simulate("llama-3.1-8b", on="h100_sxm", rate="1/s", requests=5, policy=f"{tmp_path / 'p.py'}:Z")
