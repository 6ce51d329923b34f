"""A study's report: best points, the front, what each axis does; text, JSON, and a page that needs nothing else."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("duckdb", reason="needs the store extra")

from steelyard.cli.main import main
from steelyard.pareto import front_of
from steelyard.report.figures.scale import Scale
from steelyard.report.study import to_dict
from steelyard.report.study_page import page
from steelyard.report.study_text import text
from steelyard.studies.findings import Findings, findings
from steelyard.studies.store_results import Store, StudyRecord
from steelyard.studies.study import Objective, parse_study
from steelyard.studies.sweep import sweep
from steelyard.studies.table import Row, table_of
from tests.web.markup import figures_in, plain_markup

ASKED = {
    "name": "shapes",
    "kind": "estimate",
    "about": "Which <shape> is best",
    "fixed": {"model": "llama-3.1-8b", "max_model_len": 131072},
    "grid": {"on": "h100_sxm:2, l40s:2", "tp": "1,2", "batch": "1-64*4", "isl": "500,200000"},
    "objective": [
        {"minimise": "usd_per_million_tokens", "where": ["fits", "tpot_s <= 20ms"]},
        {"maximise": "tokens_per_s_per_user", "where": "fits", "name": "speed"},
    ],
}


@pytest.fixture(scope="module")
def priced(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("study") / "results.duckdb")
    sweep(parse_study(ASKED), store, executor="serial")
    return store


@pytest.fixture(scope="module")
def found(priced: Store) -> Findings:
    record = priced.study("shapes")
    return findings(record, table_of("estimate", priced.rows(record)))


def test_best_points_meet_the_constraints_and_none_is_better(found: Findings) -> None:
    for objective, best in zip(found.objectives, found.best, strict=True):
        able = [
            r.values[objective.metric]
            for r in found.answered
            if all(c.holds(r.values[c.metric]) for c in objective.where)
        ]
        assert [r.values[objective.metric] for r in best] == sorted(able, reverse=objective.maximise)[: len(best)]
    assert all(r.values["tpot_s"] <= 0.020 for r in found.best[0])


def test_the_front_is_what_nothing_beats(found: Findings) -> None:
    constraints = [c for o in found.objectives for c in o.where]
    able = [r for r in found.answered if all(c.holds(r.values[c.metric]) for c in constraints)]

    def beats(a: Row, b: Row) -> bool:
        x = [a.values[o.metric] * (-1 if o.maximise else 1) for o in found.objectives]
        y = [b.values[o.metric] * (-1 if o.maximise else 1) for o in found.objectives]
        return all(p <= q for p, q in zip(x, y, strict=True)) and x != y

    expected = [r.axes for r in able if not any(beats(o, r) for o in able)]
    assert sorted(map(str, (r.axes for r in found.front))) == sorted(map(str, expected))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=40))
def test_fronts_of_any_points(values: list[tuple[int, int, int]]) -> None:
    numbers = np.array(values, dtype=np.float64)
    front = front_of(numbers)
    kept = {values[i] for i in front.tolist()}
    for v in values:
        others = (numbers <= v).all(axis=1) & (numbers < v).any(axis=1)
        assert (v in kept) == (not others.any())
    assert len(kept) == len(front), "equal points stand once"
    assert [values[i] for i in front.tolist()] == sorted(kept)
    assert all(values.index(values[i]) == i for i in front.tolist()), "of equal points the first"


def test_sensitivity_compares_like_with_like() -> None:
    """cost = 10 a + noise-free b: changing a from 1 to 2 doubles it, whatever the rest; b changes nothing."""
    axes = [{"tp": a, "batch": b} for a in (1, 2) for b in (1, 2, 3)]
    columns: dict[str, list[Any]] = {
        "case": [""] * 6,
        "axes": axes,
        "status": ["ok"] * 6,
        "problem": [""] * 6,
        "fits": [True] * 5 + [False],
        "ttft_s": [10.0 * x["tp"] for x in axes],
    }
    study = StudyRecord("s", "estimate", {"axes": ["tp", "batch"]}, 6, 6)
    found = findings(study, table_of("estimate", columns), [Objective("ttft_s", False)])
    told = {a.name: (a.ratio, a.best, a.best_frac, a.settings) for a in found.sensitivity}
    assert told["tp"] == (2.0, 1, 1.0, 2)  # the point that does not fit is compared with nothing
    assert told["batch"][0] == 1.0


def test_repeats_are_averaged_and_a_promise_must_always_hold() -> None:
    columns: dict[str, list[Any]] = {
        "case": [""] * 4,
        "axes": [{"rate": r, "repeat": k} for r in ("1/s", "2/s") for k in (0, 1)],
        "status": ["ok", "ok", "ok", "failed"],
        "problem": ["", "", "", "died"],
        "ttft_p99_s": [1.0, 3.0, 5.0, None],
        "promises_met": [True, False, True, None],
    }
    study = StudyRecord("s", "simulate", {"axes": ["rate", "repeat"]}, 4, 4)
    rows = findings(study, table_of("simulate", columns)).rows
    assert [(r.runs, r.values["ttft_p99_s"], r.values["promises_met"]) for r in rows] == [
        (2, 2.0, False),
        (1, 5.0, True),
    ]


def test_json_is_stable_and_complete(found: Findings, priced: Store) -> None:
    document = to_dict(found, priced.sources(found.study))
    assert document["schema"] == "steelyard.study/1"
    assert document["axes"]["tp"] == [1, 2] and "isl" in document["axes"]
    assert len(document["rows"]) == 32 and len(document["objectives"][0]["best"]) == 5
    assert sum(p["points"] for p in document["problems"]) == 16
    assert document["sources"] and document["definition"] == ASKED
    json.dumps(document, allow_nan=False)


def test_text_names_the_best_point(found: Findings) -> None:
    told = text(found)
    assert "minimise usd_per_million_tokens where fits, tpot_s <= 0.02" in told
    assert "speed: maximise tokens_per_s_per_user" in told
    assert "Pareto front of USD/M, tok/s/user" in told and "worst/best" in told
    assert "exceeds max_model_len" in told
    assert max(map(len, told.splitlines())) <= 140


class _Page(HTMLParser):
    """Open tags, and every address in an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: dict[str, int] = {}
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.seen[tag] = self.seen.get(tag, 0) + 1
        self.links += [v for k, v in attrs if k in ("src", "href", "xlink:href")]
        if tag not in ("meta", "link", "input", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.seen[tag] = self.seen.get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_loads_nothing(found: Findings, priced: Store) -> None:
    made = page(found, priced.sources(found.study))
    plain, figures = plain_markup(made), figures_in(made)
    parsed = _Page()
    parsed.feed(plain)
    assert not parsed.open and parsed.links == ["data:,"]
    assert "url(" not in plain and "@import" not in plain
    assert "Which &lt;shape&gt; is best" in plain and "<shape>" not in plain
    assert len(figures) == 1 + 2 + 2 * 3  # the front; per objective its axes together and one by one
    assert plain.count("<tr>") >= 32
    (front,) = (f for name, f in figures.items() if name.startswith("front"))
    assert len(front["rows"]) == len(found.front)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(1e-6, 1e9), min_size=1, max_size=20))
def test_scales_keep_values_inside_and_in_order(values: list[float]) -> None:
    scale = Scale.over(values, 10.0, 110.0)
    at = [scale.at(v) for v in sorted(values)]
    assert at == sorted(at) and at[0] >= 10.0 and at[-1] <= 110.0
    assert all(scale.low * (1 - 1e-9) <= t <= scale.high * (1 + 1e-9) for t in scale.ticks(5))


def test_command_line(priced: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--store", str(priced.path)]
    assert main(["report", *where]) == 0
    assert "shapes" in capsys.readouterr().out
    files = [str(tmp_path / f"r.{e}") for e in ("html", "csv", "parquet")]
    assert main(["report", "shapes", *where, "--html", files[0], "--csv", files[1], "--parquet", files[2]]) == 0
    assert all(Path(f).stat().st_size > 500 for f in files)
    capsys.readouterr()
    file = tmp_path / "other.json"
    file.write_text(json.dumps({**ASKED, "objective": [{"minimise": "ttft_s", "where": "fits"}]}))
    assert main(["report", str(file), *where, "--json", "--best", "2"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [o["metric"] for o in document["objectives"]] == ["ttft_s"]
    assert len(document["objectives"][0]["best"]) == 2
    assert main(["report", "shape", *where]) == 2
    assert "did you mean 'shapes'" in capsys.readouterr().err
    assert main(["report", "shapes", *where, "--html", "x.pdf", "--best", "0"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2
