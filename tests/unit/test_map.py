"""The map of the code names every package, and the walk through the files names files that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src" / "steelyard"
PACKAGES = sorted(p.parent.name for p in SRC.glob("*/__init__.py"))


@pytest.mark.parametrize("package", PACKAGES)
def test_contributing_names_every_package(package: str) -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert f"`{package}/`" in text


def test_contributing_names_no_package_that_is_not_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = text[text.index("## Where things are") : text.index("## To add")]
    assert set(re.findall(r"`(\w+)/`", table)) == set(PACKAGES)


def test_the_walk_names_files_that_exist() -> None:
    text = (ROOT / "docs" / "methods" / "walk.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([\w/]+\.py)`", text))
    assert len(named) > 10
    assert not {name for name in named if not (SRC / name).is_file()}


def test_every_technique_file_is_reached_by_entry_point_only() -> None:
    text = (ROOT / ".importlinter").read_text(encoding="utf-8")
    listed = set(re.findall(r"^    steelyard\.techniques\.(\w+)$", text[text.index("forbidden_modules") :], re.M))
    assert listed == {p.stem for p in (SRC / "techniques").glob("*.py") if not p.stem.startswith("_")}
