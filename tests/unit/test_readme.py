"""What README.md shows is what one gets: its Python runs, its commands are answered."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from steelyard.cli.main import main
from steelyard.workload.families import FAMILIES

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


def test_its_counts_are_those_of_the_catalogue(capsys: pytest.CaptureFixture[str]) -> None:
    """No more than there is, and not a tenth less."""
    words = r"(\d+) models and every config of (\d+) model types, (\d+) machines .* (\d+) number formats"
    found = re.search(words, README)
    assert found is not None
    there = []
    for kind in ("models", "machines", "formats"):
        assert main(["ls", kind, "--json"]) == 0
        there.append(len(json.loads(capsys.readouterr().out)["rows"]))
    there.insert(1, len(list(FAMILIES.names())))
    for said, known in zip(map(int, found.groups()), there, strict=True):
        assert 0.9 * known <= said <= known
