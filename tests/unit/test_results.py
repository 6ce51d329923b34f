"""Every result of a verb can be read in the same four ways."""

from __future__ import annotations

import ast
import inspect
import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.dom.minidom import parseString

import pytest

import steelyard as sy
from steelyard.errors import InputError
from steelyard.estimation.estimate import estimate
from steelyard.estimation.explanation import Explanation
from steelyard.report.compare import compare
from steelyard.report.figures import figures_of
from tests.planning import answer, infeasible


def _results() -> dict[str, Any]:
    found = estimate("llama-3.1-8b", "h100_sxm", batch=4)
    return {
        "estimate": found,
        "does_not_fit": estimate("llama-3.1-70b", "rtx_4090"),
        "explanation": Explanation(found),
        "comparison": compare("h100_sxm", "h200_sxm"),
        "answer": answer(),
        "infeasible": infeasible(),
        "places": sy.fit("llama-3.1-8b", "h100_sxm,l4,rtx_4090"),
    }


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    found = _results()
    if pytest.importorskip("numba"):
        from steelyard.simulation.api import simulate

        found["simulation"] = simulate("llama-3.1-8b", "h100_sxm", rate="4/s", requests=40, isl="200", osl="20")
    return found


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.open.append(tag)
        self.loads += [v for k, v in attrs if k in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


KINDS = ("estimate", "does_not_fit", "explanation", "comparison", "answer", "infeasible", "places", "simulation")


@pytest.mark.parametrize("kind", KINDS)
def test_dict_html_and_repr(results: dict[str, Any], kind: str) -> None:
    found = results[kind]
    document = found.to_dict()
    assert document["schema"].startswith("steelyard.")
    json.dumps(document, allow_nan=False)
    tags = _Tags()
    tags.feed(found._repr_html_())
    assert not tags.open and not tags.loads
    assert repr(found).startswith(f"<{type(found).__name__}") and len(repr(found).splitlines()) <= 8


def test_html_escapes_what_it_is_given(results: dict[str, Any]) -> None:
    from dataclasses import replace

    odd = replace(answer(), question=replace(answer().question, model="<b>odd</b>"))
    assert "<b>odd" not in odd._repr_html_() and "&lt;b&gt;odd" in odd._repr_html_()


@pytest.mark.parametrize("kind", KINDS)
def test_one_call_gives_a_frame(results: dict[str, Any], kind: str) -> None:
    pytest.importorskip("pandas")
    frame = results[kind].to_pandas()
    rows = {"simulation": 40, "answer": 10, "infeasible": 1, "estimate": 1, "does_not_fit": 1}
    assert len(frame) == rows.get(kind, len(frame)) > 0
    if kind == "estimate":
        assert frame["ttft_s"][0] == results[kind].ttft_s
    if kind == "simulation":
        assert frame["ttft_s"].notna().all() and set(frame["status"]) == {"completed"}


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "infeasible"])
def test_pictures_are_those_of_the_reports(results: dict[str, Any], kind: str, tmp_path: Path) -> None:
    drawn = results[kind].plot()
    assert drawn.names == [f.name for f in figures_of(results[kind])] and drawn.names
    html = drawn._repr_html_()
    assert html.count("<svg") == html.count("</svg>") == len(drawn) and "<script" not in html
    assert results[kind].plot(drawn.names[-1])[0].says == drawn[-1].says
    drawn.save(tmp_path / "all.svg")
    root = parseString((tmp_path / "all.svg").read_text(encoding="utf-8")).documentElement
    assert root.tagName == "svg" and not re.search(r"\bnan\b", root.toxml())
    with pytest.raises(InputError, match="figure"):
        results[kind].plot("nothing-of-this-name")


def test_records_are_a_frame(results: dict[str, Any]) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(results["simulation"].records)
    assert list(frame.columns) == list(results["simulation"].to_pandas().columns)
    assert frame["ttft_s"].tolist() == results["simulation"].records.ttft_s.tolist()


def test_without_pandas_the_message_says_what_to_install(
    results: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InputError, match=r"steelyard\[data\]"):
        results["estimate"].to_pandas()
    with pytest.raises(InputError, match="nothing was found that could be drawn"):
        results["infeasible"].plot()


def test_every_total_that_is_documented_is_there() -> None:
    """The docstrings below ``totals`` name counters; a pool has those of the whole but where it says so."""
    tree = ast.parse(Path(inspect.getfile(sy.Simulation)).read_text(encoding="utf-8"))
    said: dict[str, str] = {}
    for owner in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        for field, doc in pairwise(owner.body):
            if isinstance(field, ast.AnnAssign) and ast.unparse(field.target) == "totals":
                assert isinstance(doc, ast.Expr) and isinstance(doc.value, ast.Constant)
                said[owner.name] = str(doc.value.value)
    named = {owner: set(re.findall("``([a-z_]+)``", text)) for owner, text in said.items()}
    assert len(named["Simulation"]) > 10 and named["PoolOutcome"] >= {"device_s", "energy_j"}
    found = sy.simulate("llama-3.1-8b", "l40s", rate="5/s", requests=20, isl=100, osl=10)
    assert named["Simulation"] <= found.totals.keys()
    without = set(re.findall("but ``([a-z_]+)``", said["PoolOutcome"]))
    (pool,) = found.pools
    assert (named["PoolOutcome"] | named["Simulation"]) - pool.totals.keys() == without


def test_two_networks_are_compared_by_their_own_figures(tmp_path: Path) -> None:
    two = [estimate(name, "h100_sxm", batch=8) for name in ("resnet18", "resnet50")]
    for i, one in enumerate(two):
        (tmp_path / f"{i}.json").write_text(json.dumps(one.to_dict()), encoding="utf-8")
    found = compare(*two)
    rows = {row["field"]: row for row in found.rows()}
    assert rows["latency_s"]["ratio"] == pytest.approx(two[1].latency_s / two[0].latency_s)
    assert rows["throughput_per_s"]["a"] == pytest.approx(two[0].throughput_per_s)
    assert all(row["a"] is not None for row in rows.values())
    saved = compare(*(str(tmp_path / f"{i}.json") for i in range(2)))
    assert saved.rows() == found.rows()
