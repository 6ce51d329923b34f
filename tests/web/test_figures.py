"""Figures of results in a real browser: drawn from their data, silent, legible to axe-core, saved as files."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from steelyard.estimation.estimate import Estimate, estimate
from steelyard.report.figures import Figure, asset, figures_of, has_library
from tests.web.play import VIEWS, chromium, opened

PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>figures</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>{css}
body{{font:15px/1.5 system-ui;color:var(--ink);background:var(--page)}}</style></head><body><main><h1>figures</h1>{body}
</main><script>{library}</script><script>{script}</script></body></html>"""


def written(figures: list[Figure], path: Path, *, library: bool = True) -> str:
    """A page of figures; its address."""
    css, script = (asset(name).read_text(encoding="utf-8") for name in ("figures.css", "figures.js"))
    drawn = asset("echarts.js").read_text(encoding="utf-8") if library else ""
    body = "".join(f.__html__() for f in figures)
    path.write_text(PAGE.format(css=css, body=body, library=drawn, script=script), encoding="utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def found() -> Estimate:
    answer = estimate("llama-3.1-70b", "h100_sxm:4", batch=16, isl=2048, osl=256, tp=4)
    assert isinstance(answer, Estimate)
    return answer


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not has_library():
        pytest.skip("the chart library was not fetched: python hatch_build.py")
    with chromium() as opened_browser:
        yield opened_browser


@pytest.mark.parametrize(("width", "theme"), VIEWS)
def test_figures_are_drawn_and_silent(browser: Any, found: Estimate, tmp_path: Path, width: int, theme: str) -> None:
    figures = figures_of(found)
    address = written(figures, tmp_path / "f.html")
    with opened(browser, address, width=width, theme=theme) as view:
        page = view.page
        assert page.locator("figure svg").count() == len(figures) == 5
        shapes = page.evaluate(
            "[...document.querySelectorAll('figure svg')].map(s => s.querySelectorAll('path').length)"
        )
        assert min(shapes) > 5
        labels = [x.get_attribute("aria-label") for x in page.locator("figure .plot").all()]
        assert labels == [f"{f.title}. {f.says}" for f in figures]
        assert view.violations() == []
        assert view.overflow() == 0
        assert (view.said, view.asked) == ([], [])


def test_what_is_drawn_is_what_was_predicted(browser: Any, found: Estimate, tmp_path: Path) -> None:
    address = written(figures_of(found), tmp_path / "f.html")
    with opened(browser, address) as view:
        data = json.loads(view.page.locator("#figure-latency").text_content())
        rows = {row[0]: row[1:4] for row in data["rows"]}
        assert rows["TPOT"] == pytest.approx([found.tpot_s, *found.interval["tpot_s"]])
        page = view.page
        chart = "echarts.getInstanceByDom(document.querySelector('[data-figure=%s] .plot')).getOption()"
        marks = page.evaluate(f"{chart % 'latency'}.series.flatMap(s => s.markLine ? s.markLine.data : [])")
        drawn = [m["xAxis"] for m in marks if m["name"] == "predicted"]
        assert drawn == pytest.approx([found.ttft_s, found.tpot_s, found.e2e_s])
        bars = page.evaluate(f"{chart % 'memory'}.series.map(s => [s.name, s.data[0].value])")
        used = sum(size for name, size in bars if name not in ("free", "not the engine's"))
        assert used * 2**30 == pytest.approx(float(found.memory.total), rel=1e-6)
        parts = page.evaluate(f"{chart % 'time'}.series.flatMap(s => s.data.map(d => d.value))")
        assert sum(parts) == pytest.approx(found.e2e_s, rel=1e-6)


def test_pictures_and_numbers_are_saved(browser: Any, found: Estimate, tmp_path: Path) -> None:
    figures = figures_of(found)
    with opened(browser, written(figures, tmp_path / "f.html")) as view:
        tools = view.page.locator("[data-figure=roofline] .tools button")
        saved = {}
        for i, kind in enumerate(("svg", "png", "csv")):
            with view.page.expect_download() as waited:
                tools.nth(i).click()
            assert waited.value.suggested_filename == f"roofline.{kind}"
            saved[kind] = Path(waited.value.path()).read_bytes()
        assert saved["svg"].startswith(b"<svg") and b"FLOP per byte" in saved["svg"]
        assert saved["png"].startswith(b"\x89PNG") and len(saved["png"]) > 5000
        rows = list(csv.reader(io.StringIO(saved["csv"].decode())))
        (roofs,) = (f for f in figures if f.name == "roofline")
        assert rows[0] == list(roofs.heads) and len(rows) == len(roofs.rows) + 1
        assert view.said == []


def test_a_series_is_hidden_by_its_key_and_the_theme_can_change(browser: Any, found: Estimate, tmp_path: Path) -> None:
    with opened(browser, written(figures_of(found), tmp_path / "f.html")) as view:
        page = view.page
        key = page.locator("[data-figure=time] .key button").first
        count = "document.querySelectorAll('[data-figure=time] svg path').length"
        before = page.evaluate(count)
        key.focus()
        page.keyboard.press("Enter")
        assert key.get_attribute("aria-pressed") == "false" and page.evaluate(count) < before
        page.emulate_media(color_scheme="dark")
        page.wait_for_function("getComputedStyle(document.body).backgroundColor === 'rgb(19, 24, 32)'")
        assert page.evaluate(count) < before
        assert view.said == []


def test_without_the_library_sentence_and_numbers_remain(browser: Any, found: Estimate, tmp_path: Path) -> None:
    figures = figures_of(found)
    with opened(browser, written(figures, tmp_path / "f.html", library=False)) as view:
        assert view.page.locator("figure svg").count() == 0
        assert view.page.locator("details.twin[open]").count() == len(figures)
        assert view.page.locator("[data-figure=memory] td").first.is_visible()
        assert (view.said, view.violations()) == ([], [])


def test_nothing_in_the_data_ends_its_script(found: Estimate) -> None:
    figure = Figure("x", "<b>", "</script><script>alert(1)</script>", {"series": []}, ("a",), (("</script>",),))
    html = figure.__html__()
    assert html.count("</script>") == 1 and "<script>" not in html and "<b>" not in html
    data = html[html.index('">{') + 2 : html.rindex("</script>")]
    assert json.loads(data)["says"] == figure.says
