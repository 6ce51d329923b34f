"""The page of ``simulate --html`` in a real browser: complete, offline, silent, readable at every width."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")

from steelyard.report.timeline import percentiles_over_time, write_timeline
from steelyard.scenario.slo import parse_targets
from steelyard.simulation.api import simulate
from steelyard.simulation.limits import ends_of
from tests.web.browser import contrast, executable, look

#: Charts over time and of distributions.
CHARTS = (
    "requests in the engine",
    "requests per second",
    "KV cache in use",
    "requests worked on in steps",
    "tokens per second",
    "time to first token, by arrival",
    "time per output token, by arrival",
    "end to end, by arrival",
    "time to first token",
    "time per output token",
    "end to end",
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that overloads its cache, with promises kept and broken."""
    executable()
    run = simulate(
        "llama-3.1-8b",
        "h100_sxm",
        rate="25/s",
        requests=1200,
        isl="lognormal:1500",
        osl="lognormal:300",
        ttft="p99:1s",
        tpot="p95:50ms",
        e2e="mean:1h",
        seed=1,
    )
    path = tmp_path_factory.mktemp("page") / "run & <1>.html"
    write_timeline(run, path, parse_targets({"ttft": "p99:1s", "tpot": "p95:50ms", "e2e": "mean:1h"}), ends_of(run))
    return path


@pytest.fixture(scope="module")
def views(page: Path) -> dict[str, dict[str, Any]]:
    """What the browser found, by view."""
    folder = page.parent
    return {
        "wide": look(page, folder, width=1500),
        "tablet": look(page, folder, width=760),
        "narrow": look(page, folder, width=360),
        "dark": look(page, folder, width=1200, dark=True),
    }


@pytest.mark.parametrize("view", ["wide", "tablet", "narrow", "dark"])
def test_everything_is_there_and_nothing_is_loaded_or_said(views: dict[str, dict[str, Any]], view: str) -> None:
    found = views[view]
    assert found["console"] == []
    assert found["loaded"] == []
    assert found["scripts"] == 0
    assert tuple(s["label"] for s in found["svgs"]) == CHARTS
    assert all(s["shapes"] >= 1 for s in found["svgs"])
    assert found["headings"][1:] == ["What its users see", "Where the time went", "Over time", "Distributions"]
    assert [row[0] for row in found["rows"][1:]] == ["TTFT", "TPOT", "ITL", "end to end", "queued"]
    assert found["text"].count("missed") == 2 and "met E2E mean" in found["text"]
    for words in ("throughput", "goodput", "KV cache", "energy", "money", "KV cache full"):
        assert words in found["text"]


@pytest.mark.parametrize("view", ["wide", "tablet", "narrow"])
def test_nothing_sticks_out_or_lies_on_something_else(views: dict[str, dict[str, Any]], view: str) -> None:
    found = views[view]
    assert found["scroll"] <= found["width"]
    for chart in found["svgs"]:
        left, top, right, bottom = chart["box"]
        assert right - left > 300
        for text in chart["texts"]:
            x0, y0, x1, y1 = text["box"]
            assert x0 >= left - 1 and x1 <= right + 1 and y0 >= top - 1 and y1 <= bottom + 1, text
            assert y1 - y0 >= 9.5, text  # high enough to be read
        plain = [t for t in chart["texts"] if "halo" not in t["kind"]]
        for a, b in combinations(plain, 2):
            ax0, ay0, ax1, ay1 = a["box"]
            bx0, by0, bx1, by1 = b["box"]
            overlap = min(ax1, bx1) - max(ax0, bx0), min(ay1, by1) - max(ay0, by0)
            assert overlap[0] <= 0 or overlap[1] <= 0.3 * min(ay1 - ay0, by1 - by0), (a["words"], b["words"])


def test_wide_uses_the_room(views: dict[str, dict[str, Any]]) -> None:
    columns = {view: len({round(s["box"][0]) for s in views[view]["svgs"]}) for view in ("wide", "narrow")}
    assert columns == {"wide": 3, "narrow": 1}


@pytest.mark.parametrize("view", ["wide", "dark"])
def test_words_stand_out_from_the_page(views: dict[str, dict[str, Any]], view: str) -> None:
    colours = views[view]["colours"]
    for name in ("ink", "soft", "tick"):
        assert contrast(colours[name], colours["page"]) > 4.5, name
    brightness = contrast(colours["page"], "rgb(0, 0, 0)")
    assert brightness > 15 if view == "wide" else brightness < 2


def test_axes_have_units_and_limits_their_value(views: dict[str, dict[str, Any]]) -> None:
    by_label = {s["label"]: [t["words"] for t in s["texts"]] for s in views["wide"]["svgs"]}
    assert "p99 limit 1.00 s" in by_label["time to first token, by arrival"]
    assert "p95 limit 50.0 ms" in by_label["time per output token, by arrival"]
    assert "100 %" in by_label["KV cache in use"]
    assert any(w.endswith(" ms") for w in by_label["time per output token, by arrival"])
    assert all("time, s" in by_label[name] for name in CHARTS[:5])


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
