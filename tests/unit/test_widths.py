"""Reports as wide as the terminal, in which a number keeps its unit."""

from __future__ import annotations

import itertools
import re

import pytest

from steelyard.cli.main import main
from steelyard.report.paper import Line as Labelled
from steelyard.report.paper import bullets, columns, html, lines_table, render, styled
from steelyard.simulation.api import simulate

_BROKEN = re.compile(r"\d\s*$")
_UNIT = re.compile(r"^\s*(?:[KMGT]i?B|[mkµ]?s|USD|W|%)\b")


@pytest.mark.parametrize("width", [60, 61, 62, 63, 64, 65, 79, 120, 200])
def test_no_line_breaks_between_a_number_and_its_unit(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    words = ", ".join(f"part{i} {i}.25 GiB in {i} ms for {i} USD" for i in range(40))
    parts = [words, styled(words, (words, "bold")), *bullets("a", [words]), lines_table([Labelled("b", words)])]
    text = render([*parts, columns(("x", "y"), [[words, "1.00 GiB"]], fold=("x",))], width)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    for line, after in itertools.pairwise(lines):
        assert not (_BROKEN.search(line) and _UNIT.match(after)), (line, after)
    assert " ".join(text.split()).count("39.25 GiB in 39 ms for 39 USD") >= 5
    assert "39.25 GiB" in " ".join(html(parts).split())


@pytest.mark.parametrize("columns", ["60", "120", "200"])
def test_columns_says_how_wide(
    columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert main(["estimate", "llama-3.3-70b", "--on", "h100_sxm:4"]) == 0
    found = capsys.readouterr().out
    longest = max(map(len, found.splitlines()))
    assert 0.8 * min(int(columns), 140) <= longest <= int(columns)
    assert "\x1b" not in found
    monkeypatch.setenv("COLUMNS", "")
    assert main(["estimate", "llama-3.3-70b", "--on", "h100_sxm:4"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def _table(text: str) -> list[str]:
    lines = text.splitlines()
    begin = next(i for i, line in enumerate(lines) if re.match(r"\s+(mean|each) ", line))
    return lines[begin : lines.index("", begin)]


def test_the_table_of_a_simulation_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    from steelyard.report import simulation as report
    from steelyard.simulation.limits import ends_of

    load = {"isl": 500, "osl": 50}
    alike = simulate("llama-3.1-8b", "h100_sxm", concurrency=1, requests=4, **load)
    few = simulate("llama-3.1-8b", "h100_sxm", rate="200/s", requests=4, **load)
    many = simulate("llama-3.1-8b", "h100_sxm", rate="200/s", requests=60, **load)
    tables = {
        n: _table(report.text(s, 80, (), ends_of(s, None))) for n, s in (("alike", alike), ("few", few), ("many", many))
    }
    assert tables["alike"][0].split() == ["each", "80", "%", "interval"]
    assert [line.split()[0] for line in tables["alike"][1:]] == ["TTFT", "TPOT", "end"]
    assert tables["few"][0].split() == ["mean", "80", "%", "interval", "p50", "most"]
    assert [line.split()[0] for line in tables["few"][1:]] == ["TTFT", "TPOT", "end", "queued"]
    assert tables["many"][0].split() == ["mean", "80", "%", "interval", "p50", "p90", "p95", "p99"]
    assert len(tables["many"]) == 6
    most = float(few.records.ttft_s.max())
    assert f"{most * 1e3:.1f} ms" in tables["few"][1]
    assert _table(report.text(many, 60, (), ends_of(many, None)))[0].split()[-2:] == ["p50", "p99"]


def test_without_a_terminal_no_cell_is_cut() -> None:
    from dataclasses import replace

    from steelyard.estimation.places import fit
    from steelyard.report import places

    found = fit("qwen3-0.6b", "rtx_4090")
    name = "a_machine_whose_name_is_longer_than_any_other_in_the_catalogue_with_all_that_it_is_sold_with"
    asked = found.rows[0].estimate
    cluster = asked.scenario.cluster
    cluster = replace(cluster, machine=replace(cluster.machine, name=name))
    renamed = replace(asked, scenario=replace(asked.scenario, cluster=cluster))
    long = replace(found, rows=(replace(found.rows[0], estimate=renamed),))
    line = next(line for line in places.text(long).splitlines() if name in line)
    row = found.rows[0].row()
    assert row["engine"] in line.split()
    assert f"{row['largest_context']:,}" in line.split()


@pytest.mark.parametrize("width", [60, 70, 80, 120])
def test_a_table_leaves_columns_out_before_it_cuts_cells(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from steelyard.estimation.estimate import estimate
    from steelyard.estimation.explanation import Explanation
    from steelyard.estimation.places import fit
    from steelyard.report import explain, listing, paper, places
    from tests.planning import answer

    monkeypatch.setenv("NO_COLOR", "1")
    found = fit("llama-3.1-70b", "rtx_pro_6000_workstation,h100_sxm,l40s")
    text = places.text(found, width)
    for place in found:
        name = place.row()["machine"]
        assert re.search(rf"^(?:\d+ x )?{name} .* {paper.figure(place.tokens_per_s)}\b", text, re.M), name
    assert ("no room for" in text) == (width < 100)
    assert "no room for" not in places.text(found, None)
    for kind in ("machines", "engines", "systems", "techniques"):
        rows = listing.rows(kind)
        lines = listing.text(kind, rows, width).splitlines()
        assert {str(row["name"]) for row in rows} <= {line.split()[0] for line in lines if line.strip()}
        assert max(map(len, lines)) <= width
    explained = Explanation(estimate("llama-3.1-8b", "h100_sxm"))
    lines = explain.text(explained, width).splitlines()
    assert any(re.match(r"layer0\.attention +.*\d+\.\d% +\d+% \w+$", line) for line in lines)
    from steelyard.report import plan

    planned = plan.text(answer(), width)
    assert "…" not in text + planned
    assert max(map(len, planned.splitlines())) <= width


def test_a_study_leaves_columns_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from steelyard.report import study_text
    from steelyard.studies.api import study

    monkeypatch.setenv("NO_COLOR", "1")
    fixed, grid = {"model": "llama-3.1-8b"}, {"on": "h100_sxm,mi300x", "weights": "bf16,fp8", "batch": "1,4"}
    found = study({"name": "narrow", "kind": "estimate", "fixed": fixed, "grid": grid})
    lines = study_text.text(found, 60).splitlines()
    assert max(map(len, lines)) <= 60
    assert any(line.startswith("no room for ") for line in lines)
    assert sum(line.split()[:3] == ["mi300x", "fp8", "4"] for line in lines) >= 1
