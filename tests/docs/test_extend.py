"""The page of extension points names them all."""

from __future__ import annotations

import pkgutil
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path

import steelyard.testing
from tests.docs.blocks import ROOT

PAGE = (ROOT / "docs/guide/extend.md").read_text(encoding="utf-8")


def _groups() -> Iterable[str]:
    """Entry-point groups: those we announce, and those the source asks for."""
    yield from tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]
    for path in (ROOT / "src").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        yield from re.findall(r'Registry\("[^"]+", "(steelyard\.\w+)"', text)
        yield from re.findall(r'GROUP = "(steelyard\.\w+)"', text)


def test_every_group_is_on_the_page() -> None:
    groups = {*_groups()}
    assert len(groups) >= 8
    assert not {group for group in groups if f"`{group}`" not in PAGE}


def test_every_contract_suite_is_on_the_page() -> None:
    suites = [module.name for module in pkgutil.iter_modules(steelyard.testing.__path__)]
    assert len(suites) >= 7
    assert not [name for name in suites if f"`steelyard.testing.{name}`" not in PAGE]


def test_every_page_has_an_example() -> None:
    """One page for each, with a block of code that the test of blocks runs."""
    links = {link.partition("#")[0] for link in re.findall(r"^\| \[[^]]+\]\(([^)]+)\)", PAGE, re.M)}
    assert len(links) >= 14
    for link in links:
        text = Path(ROOT / "docs/guide" / link).read_text(encoding="utf-8")
        assert re.search(r"^```(python|toml|json)", text, re.M), link
