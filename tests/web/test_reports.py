"""Every report in a real browser: one file that asks for nothing, says nothing, fits its window and can be read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")

import steelyard as sy
from steelyard.report.figures import figures_of, has_library
from steelyard.report.figures.simulation import overlaid, percentiles_over_time, rate_figure
from steelyard.report.html import write_html
from steelyard.report.plan_page import page as plan_page
from steelyard.report.result_page import page as result_page
from steelyard.report.study_page import page as study_page
from steelyard.report.timeline import page as simulation_page
from steelyard.scenario.slo import parse_targets
from tests.web.markup import figures_in
from tests.web.play import VIEWS, chromium, opened

#: Bytes of a report at most.
LARGEST = 1_500_000


def _simulation() -> Any:
    words = {"isl": "lognormal:1500", "osl": "lognormal:300", "ttft": "p99:1s", "tpot": "p95:50ms", "seed": 1}
    return sy.simulate("llama-3.1-8b", "h100_sxm", rate="25/s", requests=600, **words)


def _simulated(found: Any) -> str:
    return simulation_page(found, parse_targets({"ttft": "p99:1s", "tpot": "p95:50ms"}))


TRAINED = {"gbs": 128, "seq": 4096, "tp": 4, "pp": 4, "tokens": "300G", "failures": "llama3", "by": "90d"}
PLANNED = {"rate": "4/s", "isl": 2000, "osl": 300, "ttft": "p99:2s", "tpot": "p95:60ms", "max_gpus": 16}

#: What answers, and what makes its page.
REPORTS: Mapping[str, tuple[Callable[[], Any], Callable[[Any], str]]] = {
    "estimate": (lambda: sy.estimate("llama-3.1-70b", "h100_sxm:4", batch=16, isl=2048, tp=4), result_page),
    "no-fit": (lambda: sy.estimate("llama-3.1-70b", "rtx_4090"), result_page),
    "network": (lambda: sy.estimate("resnet50", "h100_sxm", batch=64), result_page),
    "compare": (lambda: sy.compare("h100_sxm", "mi300x"), result_page),
    "train": (lambda: sy.train("llama-3.1-70b", "h100_sxm:64", **TRAINED), result_page),
    "train-network": (lambda: sy.train("resnet50", "a100_sxm:8", gbs=1024), result_page),
    "plan-train": (
        lambda: sy.plan_training("llama-3.1-8b", "h100_sxm,a100_sxm", gbs="4Mtok", seq=4096, tokens="300G", by="60d"),
        result_page,
    ),
    "simulate": (_simulation, _simulated),
    "plan": (lambda: sy.plan("llama-3.1-8b", "h100_sxm,l40s", **PLANNED), plan_page),
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not has_library():
        pytest.skip("the chart library was not fetched: python hatch_build.py")
    with chromium() as found:
        yield found


@pytest.fixture(scope="module", params=list(REPORTS))
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A result and the file of its page."""
    ask, made = REPORTS[request.param]
    result = ask()
    path = tmp_path_factory.mktemp("report") / f"{request.param} & <1>.html"
    write_html(made(result), path)
    return result, path


def test_a_report_is_one_small_file_that_says_and_asks_nothing(browser: Any, report: tuple[Any, Path]) -> None:
    result, path = report
    assert path.stat().st_size < LARGEST
    expected = {f.name for f in figures_of(result)}
    for width, theme in VIEWS:
        with opened(browser, path.as_uri(), width=width, theme=theme) as view:
            page = view.page
            assert {x.get_attribute("data-figure") for x in page.locator("figure").all()} == expected
            assert page.locator("figure .plot > div svg").count() == len(expected)
            assert view.overflow() == 0
            assert view.violations() == []
            assert (view.said, view.asked) == ([], [])
            dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(19, 24, 32)"
            assert dark == (theme == "dark")


def test_words_of_pictures_lie_inside_and_beside_each_other(browser: Any, report: tuple[Any, Path]) -> None:
    _, path = report
    measure = """[...document.querySelectorAll('figure')].map(f => {
      const svg = f.querySelector('.plot svg').getBoundingClientRect();
      return [f.dataset.figure, [...f.querySelectorAll('.plot svg text')].filter(t => t.textContent.trim()).map(t => {
        const r = t.getBoundingClientRect();
        return [t.textContent, r.left - svg.left, svg.right - r.right, r.top - svg.top, svg.bottom - r.bottom];
      })];
    })"""
    for width in (1280, 390):
        with opened(browser, path.as_uri(), width=width) as view:
            for name, texts in view.page.evaluate(measure):
                cut = [t for t in texts if min(t[1:]) < -3]
                assert cut == [], (width, name)


def test_numbers_of_the_page_are_those_of_the_result(report: tuple[Any, Path]) -> None:
    result, path = report
    found = figures_in(path.read_text(encoding="utf-8"))
    for figure in figures_of(result):
        if figure.name.endswith("-by-arrival") or figure.name in ("ttft", "tpot", "e2e"):
            continue  # with the SLOs of the page
        assert found[figure.name] == json.loads(json.dumps(figure.to_dict()))
    assert all(f["says"].endswith(".") and len(f["says"]) > 10 for f in found.values())


def test_without_javascript_the_numbers_are_there(browser: Any, report: tuple[Any, Path]) -> None:
    _, path = report
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(path.as_uri())
    assert page.locator("details.twin table").count() == page.locator("figure").count()
    context.close()


def test_two_runs_and_rates_are_drawn_together() -> None:
    first = sy.simulate("llama-3.1-8b", "h100_sxm", rate="4/s", requests=60, isl=500, osl=50, seed=1)
    second = sy.simulate("llama-3.1-8b", "l40s", rate="4/s", requests=60, isl=500, osl=50, seed=1)
    figures = {f.name: f for f in overlaid({"H100": first, "L40S": second})}
    assert [s["name"] for s in figures["ttft"].option["series"]] == ["H100", "L40S"]
    p50 = {row[0]: row[2] for row in figures["e2e"].rows if row[1] == "p50"}
    done = np.asarray(second.records.completed)
    assert p50["L40S"] == pytest.approx(float(np.median(np.asarray(second.records.e2e_s)[done])))
    drawn = rate_figure([1.0, 2.0, 4.0], [1.0, 2.0, 1.5], 2.5)
    assert "2 requests/s of 2 sent" in drawn.says and drawn.rows[2] == (4.0, 1.5)


def test_percentiles_over_time() -> None:
    rng = np.random.default_rng(0)
    at, values = np.sort(rng.uniform(0, 100, 5000)), rng.exponential(1.0, 5000)
    middle, (p50, p99) = percentiles_over_time(at, values, (50, 99))
    assert len(middle) == len(p50) == 60
    assert np.all(p50 <= p99) and np.mean(p50) == pytest.approx(np.log(2), rel=0.1)
    first = values[at < at.min() + (at.max() - at.min()) / 60]
    assert p50[0] == pytest.approx(np.median(first))
    assert percentiles_over_time(np.array([np.nan]), np.array([1.0]))[0].size == 0
    middle, lines = percentiles_over_time(np.array([1.0, 1.0]), np.array([2.0, np.nan]))
    assert [float(x[0]) for x in lines] == [2.0, 2.0, 2.0]


def test_a_study_is_sorted_and_sieved_by_the_keyboard(browser: Any, tmp_path: Path) -> None:
    grid = {"on": "h100_sxm,l40s", "batch": "1,4,16"}
    found = sy.study({"name": "shapes", "kind": "estimate", "fixed": {"model": "llama-3.1-8b"}, "grid": grid})
    write_html(study_page(found), path := tmp_path / "study.html")
    assert path.stat().st_size < LARGEST
    with opened(browser, path.as_uri(), width=390) as view:
        page = view.page
        head = page.locator(".all th", has=page.locator("button", has_text="TPOT")).first
        column = [h.inner_text() for h in page.locator(".all th").all()].index(head.inner_text())
        for way in ("ascending", "descending"):
            head.locator("button").press("Enter")
            assert head.get_attribute("aria-sort") == way
            cells = page.locator(f".all tbody tr td:nth-child({column + 1})").all()
            shown = [float(c.get_attribute("data-v")) for c in cells]
            assert len(shown) == 6 and shown == sorted(shown, reverse=way == "descending")
        page.fill("#filter", "l40s")
        assert page.locator(".all tbody tr:visible").count() == 3
        assert view.overflow() == 0
        assert view.violations() == []
        assert (view.said, view.asked) == ([], [])


def test_a_printed_report_cuts_no_figure(browser: Any, report: tuple[Any, Path]) -> None:
    with opened(browser, report[1].as_uri()) as view:
        view.page.evaluate("dispatchEvent(new Event('beforeprint'))")
        view.page.emulate_media(media="print")
        view.page.set_viewport_size({"width": 718, "height": 1000})  # of A4 with margins, in pixels
        for figure in view.page.locator("figure").all():
            box, drawn = figure.bounding_box(), figure.locator(".plot svg").first.bounding_box()
            assert drawn["x"] + drawn["width"] <= 718 and box["height"] < 1000
            assert figure.evaluate("e => getComputedStyle(e).breakInside") == "avoid"
        assert view.page.pdf(format="A4").startswith(b"%PDF")
