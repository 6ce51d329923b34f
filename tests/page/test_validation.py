"""The screen of validation: the figures of the pages of validation, filtered."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

import steelyard
from steelyard.report.figures import has_library
from tests.page.server import Server
from tests.web.play import VIEWS, chromium, opened

INDEX = Path(__file__).parents[2] / "docs" / "validation" / "index.md"


def asked(server: Server, path: str) -> Any:
    with urlopen(server.address + path, timeout=60) as answer:
        return answer.read().decode()


def test_rows_are_those_of_the_page(server: Server) -> None:
    rows = json.loads((Path(steelyard.__file__).parent / "page" / "accuracy.json").read_text(encoding="utf-8"))["rows"]
    text = INDEX.read_text(encoding="utf-8")
    known = [line for line in text.splitlines() if line.startswith("| ") and line.count("|") == 14]
    assert len(rows) == len(known) - 2  # the head of the table and the line below it
    timm = json.loads(asked(server, "/api/validation?name=timm_benchmarks"))["rows"]
    assert timm and {r["source"] for r in timm} == {"timm_benchmarks"}
    for r in timm[:3]:
        assert re.search(rf"timm_benchmarks \| {re.escape(r['table'])} \|.*\| {r['median']:g}(\.0)? \|", text)


@pytest.mark.parametrize(("by", "name"), [("machine", "h100_sxm"), ("model", "resnet50"), ("engine", "vLLM")])
def test_a_line_sums_up_the_rows_of_its_name(server: Server, by: str, name: str) -> None:
    line = next(r for r in json.loads(asked(server, f"/api/validation?by={by}"))["rows"] if r["name"] == name)
    rows = json.loads(asked(server, f"/api/validation?by={by}&name={name}"))["rows"]
    assert line["figures"] == len(rows) > 1 and line["rows"] == sum(r["rows"] for r in rows)
    known = [r for r in rows if r["median"] is not None]
    mean = sum(r["median"] * r["rows"] for r in known) / sum(r["rows"] for r in known)
    assert line["median"] == pytest.approx(mean, abs=0.06)
    assert all(r[by] == name for r in rows if by != "engine")


def test_unknown_sources_are_refused(server: Server) -> None:
    for query in ("name=tim_benchmarks", "by=sorce", "nme=x"):
        with pytest.raises(HTTPError) as refused:
            asked(server, f"/api/validation?{query}")
        assert refused.value.code < 500 and "did you mean" in refused.value.read().decode()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not has_library():
        pytest.skip("the chart library was not fetched: python hatch_build.py")
    with chromium() as found:
        yield found


@pytest.mark.parametrize(("width", "theme"), VIEWS)
def test_a_source_is_chosen_and_drawn(browser: Any, server: Server, width: int, theme: str) -> None:
    with opened(browser, f"{server.address}/validation", home=server.address, width=width, theme=theme) as view:
        view.page.select_option("select[name=name]", "help_nas_latency")
        view.page.click("form.beside button")
        view.page.wait_for_url("**name=help_nas_latency**")
        view.page.locator("figure .plot svg").wait_for()
        assert view.violations() == []
        assert view.overflow() <= 0
        assert view.said == [] and view.asked == []
