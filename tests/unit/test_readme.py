"""What README.md shows is what one gets: its Python runs, its commands are answered."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from steelyard.cli.main import main

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
#: They ask for files that a reader has and we do not, or measure this computer, or take minutes.
NOT_HERE = ("azure_conv.csv", "./my-model", "calibrate --here", "steelyard validate")


def commands() -> list[str]:
    """The ``steelyard`` commands of its console blocks."""
    blocks = "\n".join(re.findall(r"```console\n(.*?)```", README, re.S)).replace("\\\n", " ")
    found = [m for line in blocks.splitlines() for m in re.findall(r"(?:^\$|;)\s*(steelyard [^;#]*)", line)]
    return [" ".join(command.split()) for command in found if not any(word in command for word in NOT_HERE)]


def test_its_python_runs(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("numba")
    (block,) = re.findall(r"```python\n(.*?)```", README, re.S)
    exec(compile(block, "README.md", "exec"), {})
    said = capsys.readouterr().out
    assert "Llama-3.1-8B on h100_sxm" in said and "fitted: h100_sxm" in said


def test_it_has_commands() -> None:
    assert len(commands()) >= 6, commands()


@pytest.mark.parametrize("command", commands())
def test_its_commands_are_answered(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("numba")
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(command)[1:]) == 0, capsys.readouterr().err
    assert len(capsys.readouterr().out.splitlines()) > 3
