"""The screen of validation: the figures of the pages of validation, filtered."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import parse_qsl
from urllib.request import urlopen

import pytest

import steelyard
import steelyard as sy
from steelyard.machine.catalogue import find_machine
from steelyard.page import measured
from steelyard.page.question import fields_on
from steelyard.page.screen import screen
from steelyard.page.screens import validation
from steelyard.report.figures import has_library
from steelyard.workload.catalogue import find_model
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


def test_settings_are_of_tables_there_are_and_are_answered() -> None:
    tables = {
        t for r in (*validation._rows(), *validation._each()) for t in (r["source"], f"{r['source']}/{r['table']}")
    }
    assert set(measured.SETTINGS) <= tables
    for i, setting in enumerate(measured.SETTINGS.values()):
        verb, _, query = setting.partition("?")
        words = dict(parse_qsl(query, strict_parsing=True))
        assert set(words) <= set(fields_on(screen(verb)))
        find_machine(words["on"].partition(":")[0])
        if verb != "simulate" and i % 7 == 2:  # all of them take seconds
            {"train": sy.train}.get(verb, sy.estimate)(**words)


def test_a_row_opens_a_scenario_of_its_machine_or_model(server: Server) -> None:
    page = asked(server, "/validation?by=machine&name=m2_ultra")
    found = {html.unescape(a) for a in re.findall(r'href="(/(?:estimate|simulate|train)\?[^"]*isl[^"]*)"', page)}
    assert found and all("on=m2_ultra" in a for a in found)
    assert "tokens" in asked(server, sorted(found)[0])
    bench = measured.opened("llamacpp_gpu_mac_2024", "llama3_llamabench", "*", "attention: Meta-Llama-3-70B fp16")
    words = dict(parse_qsl(bench.partition("?")[2]))
    assert find_model(words["model"]).id == "meta-llama/Meta-Llama-3-70B" and words["weights"] == "fp16"
    served = measured.opened("inferencex_silicon", "x", "h200_sxm", "gpt-oss-120b trtllm (cache full)")
    words = dict(parse_qsl(served.partition("?")[2]))
    assert (words["on"], words["engine"]) == ("h200_sxm:8", "trtllm")
    assert "weights" not in words, "those of its own file, not what the settings' model has"
    assert measured.opened("aic_ops", "gemm", "h100_sxm") == measured.opened("timm_benchmarks", "x", "no_machine") == ""


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
