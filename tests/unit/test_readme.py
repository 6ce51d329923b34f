"""The counts that README.md names are those of the catalogue; its commands and its Python are run by ``tests/docs``."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from steelyard.cli.main import main
from steelyard.workload.families import FAMILIES

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


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
