"""The screen of the literature: the claims of a layer, their verdicts, and the scenarios they open."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from steelyard.claims.paper import find_paper
from steelyard.claims.run import run_paper
from steelyard.report.figures import has_library
from tests.page.server import Server
from tests.web.play import VIEWS, chromium, opened

QUERY = "papers=S014"


def asked(server: Server, path: str) -> Any:
    with urlopen(server.address + path, timeout=300) as answer:
        return answer.read().decode()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not has_library():
        pytest.skip("the chart library was not fetched: python hatch_build.py")
    with chromium() as found:
        yield found


def test_verdicts_are_those_of_the_command(server: Server) -> None:
    found = json.loads(asked(server, f"/api/literature?{QUERY}"))
    assert found["schema"] == "steelyard.claims/1"
    mine = {(f.claim.n, f.verdict) for f in run_paper(find_paper("S014")) if f.claim.n}
    assert {(c["n"], c["verdict"]) for c in found["claims"]} == mine


@pytest.mark.parametrize(
    ("query", "words"),
    [("layer=servin", "serving"), ("papers=S9999", "S9999"), ("verdict=true", "verdict"), ("foo=1", "foo")],
)
def test_wrong_words_are_refused(server: Server, query: str, words: str) -> None:
    with pytest.raises(HTTPError) as refused:
        asked(server, f"/api/literature?{query}")
    assert refused.value.code < 500
    assert words in refused.value.read().decode()


def test_files_of_claims_are_not_read_from_the_page(server: Server) -> None:
    with pytest.raises(HTTPError) as refused:
        asked(server, "/api/literature?papers=../mine.toml")
    assert refused.value.code < 500


@pytest.mark.parametrize(("width", "theme"), VIEWS)
def test_a_claim_opens_its_scenario(browser: Any, server: Server, width: int, theme: str) -> None:
    asked(server, f"/api/literature?{QUERY}")
    address = f"{server.address}/literature?{QUERY}"
    with opened(browser, address, home=server.address, width=width, theme=theme) as view:
        view.page.locator("table.rows tbody tr").first.wait_for()
        assert view.violations() == []
        assert view.overflow() <= 0
        link = view.page.locator("td a").first
        target = link.get_attribute("href")
        link.click()
        view.page.wait_for_url("**" + target.split("?")[0] + "**")
        view.page.locator("html[data-ready]").wait_for(state="attached")
        assert view.said == [] and view.asked == []
