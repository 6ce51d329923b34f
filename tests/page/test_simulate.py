"""The screen of simulations in Chromium: a run, a moment of it, its trace, and two runs overlaid."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

import steelyard as sy
from steelyard.page.screens.simulate import SCREEN, together
from steelyard.report.figures import has_library
from tests.page.server import Server
from tests.web.play import VIEWS, chromium, opened

QUERY = "model=llama-3.1-8b&on=h100_sxm&rate=8%2Fs&isl=300&osl=50&requests=80&ttft=p99%3A500ms"
WORDS = {"rate": "8/s", "isl": 300, "osl": 50, "requests": 80, "ttft": "p99:500ms"}


def asked(server: Server, path: str) -> Any:
    with urlopen(server.address + path, timeout=120) as answer:
        return answer.read().decode()


def test_the_twin_is_what_the_library_says(server: Server) -> None:
    found = json.loads(asked(server, f"/api/simulate?{QUERY}"))
    run = sy.simulate("llama-3.1-8b", "h100_sxm", **WORDS)
    assert found["schema"] == "steelyard.simulate/1"
    assert found["ttft_s"] == run.summary()["ttft_s"]
    assert found["verdicts"][0]["limit_s"] == 0.5
    trace = json.loads(asked(server, f"/files/simulate/perfetto.json?{QUERY}"))
    assert len(trace["traceEvents"]) > 80


def test_flags_of_an_engine_are_numbers(server: Server) -> None:
    found = json.loads(asked(server, f"/api/simulate?{QUERY}&max_num_seqs=4"))
    run = sy.simulate("llama-3.1-8b", "h100_sxm", **WORDS, flags={"max_num_seqs": 4})
    assert found["batch"]["max"] == run.summary()["batch"]["max"] == 4
    with pytest.raises(HTTPError) as refused:
        asked(server, f"/api/simulate?{QUERY}&max_num_seqs=four")
    assert "max_num_seqs" in refused.value.read().decode()


def test_goodput_is_shown_against_rates_that_are_played() -> None:
    told: list[str] = []
    shown = SCREEN.ask(
        {"model": "llama-3.1-8b", "on": "h100_sxm", **WORDS}, lambda words, share=None: told.append(words)
    )
    rate = next(f for f in shown.figures if f["name"].startswith("goodput") or "rate" in f["name"])
    assert len(rate["rows"]) == 8
    sent = [row[0] for row in rate["rows"]]
    assert sent == sorted(sent) and 8.0 in [pytest.approx(x) for x in sent]
    assert any("requests/s" in words for words in told)


def test_lines_of_two_runs_lie_in_one_picture() -> None:
    one = {"name": "a", "title": "A", "says": "x", "heads": ["t"], "rows": [[1]]}
    line = {**one, "option": {"series": [{"type": "line", "name": "p50", "data": [[0, 1]]}]}}
    bar = {**one, "name": "b", "option": {"series": [{"type": "bar", "data": [1]}]}}
    shown = [type("S", (), {"figures": [line, bar]})() for _ in range(2)]
    (found,) = together(shown)  # type: ignore[arg-type]
    assert found["name"] == "both-a"
    assert [s["name"] for s in found["option"]["series"]] == ["1 p50", "2 p50"]
    assert found["option"]["series"][1]["lineStyle"]["type"] == "dashed"
    assert found["rows"] == [["1", 1], ["2", 1]]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not has_library():
        pytest.skip("the chart library was not fetched: python hatch_build.py")
    with chromium() as found:
        yield found


def test_a_run_a_moment_and_a_second_run(browser: Any, server: Server) -> None:
    run = sy.simulate("llama-3.1-8b", "h100_sxm", **WORDS)
    with opened(browser, f"{server.address}/simulate?{QUERY}", home=server.address) as view:
        page = view.page
        page.locator("html[data-ready]").wait_for(state="attached")
        page.click("button.main")
        value = page.locator("[data-fact=ttft_s] .value")
        value.wait_for(timeout=120_000)
        assert float(value.get_attribute("data-value")) == run.summary()["ttft_s"]["p50"]
        assert "meets" in page.locator(".why").inner_text()
        before = page.locator("[data-scrub] output").inner_text()
        page.locator("[data-scrub] input").focus()
        page.keyboard.press("Home")
        after = page.locator("[data-scrub] output").inner_text()
        assert before != after and "running" in after and "KV cache" in after
        page.click("[data-add]")
        page.locator(".answer").nth(1).wait_for()
        page.fill("[name=on]", "b200_sxm")
        page.click("button.main")
        page.get_by_text("B200").first.wait_for(timeout=120_000)
        assert page.locator("figure[data-figure^=both-]").count() >= 3
        assert "2.on=b200_sxm" in page.url
        assert view.said == [] and view.asked == []


@pytest.mark.parametrize(("width", "theme"), VIEWS)
def test_it_is_reachable_at_both_widths_and_themes(browser: Any, server: Server, width: int, theme: str) -> None:
    asked(server, f"/api/simulate?{QUERY}")
    address = f"{server.address}/simulate?{QUERY}"
    with opened(browser, address, home=server.address, width=width, theme=theme) as view:
        view.page.locator("[data-fact=ttft_s]").wait_for()
        assert view.violations() == []
        assert view.overflow() <= 0


def test_hostile_words_are_refused_in_a_line(server: Server) -> None:
    for query, words in (
        ("model=llama-3.1-8b&on=h100_sxm&trace=../../etc/passwd", "trace"),
        ("model=llama-3.1-8b&on=h100_sxm&policy=x.py:X&rate=1", "policy"),
        ("model=llama-3.1-8b&on=h100_sxm&rate=-1", "rate"),
    ):
        with pytest.raises(HTTPError) as refused:
            asked(server, f"/api/simulate?{query}")
        said = json.loads(refused.value.read().decode())
        assert refused.value.code < 500
        assert words in json.dumps(said)
