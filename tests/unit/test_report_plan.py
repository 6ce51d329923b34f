"""A plan as text, JSON, rows, page and folder."""

from __future__ import annotations

import http.server
import json
import re
import shutil
import subprocess
import threading
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from steelyard.deployment.deployment import Pool
from steelyard.deployment.plan import Plan
from steelyard.deployment.plan_file import read_deployment
from steelyard.errors import InputError
from steelyard.launch import write_folder
from steelyard.report.plan import SCHEMA, flat_rows, text, to_dict
from steelyard.report.plan_files import load_of, plan_files
from steelyard.report.plan_page import page, write_page
from tests.planning import answer, candidate, infeasible, question
from tests.web.markup import figures_in, plain_markup

CHROMIUM = next((p for p in map(shutil.which, ("chromium", "google-chrome", "chromium-browser")) if p), None)
browser = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")


def test_json_has_the_fields_of_the_schema() -> None:
    document = to_dict(answer())
    assert document["schema"] == SCHEMA == "steelyard.plan/1"
    wanted = {
        "machine",
        "devices",
        "engine",
        "mode",
        "shape",
        "limits",
        "formats",
        "usd_per_hour",
        "usd_per_million_tokens",
        "watts",
        "ttft_s",
        "tpot_s",
        "tokens_per_s_per_device",
        "max_rate_per_s",
        "interval",
    }
    assert wanted <= set(document["winner"])
    assert {"candidates", "screened_per_s", "simulated", "cpu_s", "front", "runners_up", "infeasible"} <= set(document)
    assert document["infeasible"] is None
    assert len(document["front"]) == 4
    assert document["winner"]["interval"]["ttft_s"] == pytest.approx([0.496, 0.806])
    json.dumps(document, allow_nan=False)
    none = to_dict(infeasible())
    assert none["winner"] is None
    assert none["replay"] is None
    assert none["infeasible"]["nearest"][0]["arguments"] == {"tpot": "p95:62ms"}


def test_text_says_all_of_it_in_80_columns() -> None:
    said = text(answer(), files="deploy/")
    for words in (
        "12 x NVIDIA H100",
        "3 x tp4",
        "24.00 USD/h",
        "1.33 USD per million",
        "620 ms",
        "p99 1.00 s 93 %",
        "It rents for 9 % less",
        "breaks first",
        "mi300x",
        "214,312 candidates",
        "deploy/",
    ):
        assert words in said, words
    assert max(map(len, said.splitlines())) <= 80
    assert "\x1b" not in said
    assert "\x1b" in text(answer(), 100)
    none = text(infeasible())
    assert "nothing fits" in none
    assert "--tpot p95:62ms" in none.replace("\n    ", " ")
    assert "missed" in none


def test_unpriced_and_unsimulated_candidates_are_written() -> None:
    bare = candidate(usd=None, simulated=False)
    made = answer(winner=bare, front=(bare,), cost_front=(), runners_up=())
    assert "no price known" in text(made)
    assert "no price" in page(made)
    assert to_dict(made)["winner"]["usd_per_hour"] is None


def test_rows_name_their_list() -> None:
    rows = flat_rows(answer())
    assert [r["kind"] for r in rows] == ["winner", "runner_up", "runner_up", *["front"] * 4, *["cost_front"] * 3]
    assert rows[0]["limits.max_num_seqs"] == 128
    assert rows[0]["ttft_s.p99"] == 0.62
    assert rows[0]["interval.ttft_s.low"] == pytest.approx(0.496)
    assert [r["kind"] for r in flat_rows(infeasible())] == ["nearest"]


def test_folder_holds_everything_and_reads_back(tmp_path: Path) -> None:
    made = answer()
    files = plan_files(made)
    write_folder(tmp_path / "deploy", files)
    assert {
        "README.md",
        "serve.sh",
        "router.sh",
        "compose.yaml",
        "kubernetes.yaml",
        "check-vllm.sh",
        "plan.json",
        "plan.toml",
        "report.html",
    } <= set(files)
    for name in files:
        assert name == "README.md" or f"`{name}`" in files["README.md"]
    for name in ("plan.toml", "plan.json"):
        back = read_deployment(tmp_path / "deploy" / name)
        assert made.winner is not None
        assert back.deployment == made.winner.deployment
        assert back.expected["ttft_s"]["p99"] == 0.62
        assert (back.promise.ttft, back.promise.tpot) == ("p99:1.0s", "p95:0.05s")
    assert plan_files(made) == files, "equal answers give equal bytes"
    with pytest.raises(InputError, match="nothing fits"):
        plan_files(infeasible())


def test_the_load_has_the_longest_request_and_littles_law() -> None:
    load = load_of(answer())
    assert load.longest_tokens == 4500
    assert load.in_flight == pytest.approx(10 * 500 / 45)
    wide = answer(question=question(traffic={"rate": "10/s", "isl": "uniform:2000-6000", "osl": 500, "requests": 400}))
    load = load_of(wide)
    assert 5000 < load.longest_tokens <= 6500
    assert load.prompt_std == pytest.approx(4000 / 12**0.5, rel=0.1)
    assert re.search(r'"input": 0\.(4[5-9]|5\d?), "output": 0\.0', plan_files(wide)["check-vllm.sh"])


class Elements(HTMLParser):
    """Counts elements and collects what would be loaded."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.count: dict[str, int] = {}
        self.loads: list[str] = []
        self.stack: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1
        self.loads += [v or "" for k, v in attrs if k in ("src", "href", "srcset", "action", "data")]
        if tag not in ("meta", "link", "br", "img", "line", "rect", "path", "polyline"):
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        if tag in self.stack:
            while self.stack.pop() != tag:
                pass


def test_page_is_self_contained() -> None:
    for made in (answer(), infeasible()):
        source = plain_markup(page(made, {"serve.sh": "#!/usr/bin/env bash\nexec <b>&"}))
        found = Elements(source)
        assert found.loads == ["data:,"]
        assert not re.search(r"url\(|@import|https?://", source)
        assert not found.stack, "every element is closed"
        assert "exec &lt;b&gt;&amp;" in source
    figures = figures_in(page(answer()))
    assert {"front", "rent"} <= set(figures)
    assert all(sum(row[-1] is True for row in figures[name]["rows"]) == 1 for name in ("front", "rent"))


def test_the_picture_stands_alone() -> None:
    source = plan_files(answer())["front.svg"]
    root = ElementTree.fromstring(source)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert source.count(">winner<") == 2
    assert "h200_sxm, disaggregated" in source
    assert not re.search(r"url\(|@import|href", source)


def test_odd_names_are_escaped_on_the_page() -> None:
    odd = "<script>alert(1)</script>"
    source = page(answer(question=question(model=odd)))
    assert odd not in source
    assert "&lt;script&gt;" in source


def test_the_front_is_drawn_through_its_points() -> None:
    made = answer()
    front = figures_in(page(made))["front"]
    line = next(s for s in front["option"]["series"] if s["type"] == "line")
    expected = sorted(
        (c.tokens_per_s_per_user, c.tokens_per_s / c.devices if c.simulated else c.tokens_per_s_per_device)
        for c in made.front
    )
    assert [p[0] for p in line["data"]] == pytest.approx([x for x, _ in expected], rel=1e-4)
    assert sorted(p[1] for p in line["data"]) == pytest.approx(sorted(y for _, y in expected), rel=1e-4)


def _opened(folder: Path, name: str, profile: Path, *options: str) -> tuple[str, list[str], list[str]]:
    """The page in a browser: its elements after loading, what it asked the network for, console messages."""
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url, log = f"http://127.0.0.1:{server.server_port}/{name}", profile / "net.json"
    profile.mkdir()
    assert CHROMIUM is not None
    try:
        done = subprocess.run(
            [
                CHROMIUM,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-background-networking",
                "--disable-component-update",
                "--no-first-run",
                "--disable-sync",
                "--disable-extensions",
                f"--user-data-dir={profile / 'user'}",
                f"--log-net-log={log}",
                "--enable-logging=stderr",
                "--virtual-time-budget=2000",
                *options,
                "--dump-dom",
                url,
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
    finally:
        server.shutdown()
    asked = set(re.findall(r'"url":"(https?://[^"]*)"', log.read_text(errors="replace")))
    own = {x for x in asked if re.match(r"https?://[\w.-]*google(apis)?\.com", x)}  # the browser's, not the page's
    messages = [x for x in done.stderr.splitlines() if "CONSOLE" in x]
    return done.stdout, sorted(x for x in asked - own if x not in (url, url[: -len(name)])), messages


@browser
@pytest.mark.parametrize("which", ["plan", "infeasible"])
def test_page_loads_in_a_browser_without_network_or_errors(which: str, tmp_path: Path) -> None:
    write_page(answer() if which == "plan" else infeasible(), tmp_path / "report.html")
    dom, asked, messages = _opened(tmp_path, "report.html", tmp_path / "profile")
    assert asked == []
    assert messages == []
    if which == "plan":
        assert dom.count("<figure ") == dom.count('class="plot"') >= 2
        assert dom.count("winner</text>") == 2
        assert "12 x NVIDIA H100" in dom
    else:
        assert "Nothing fits" in dom


@browser
def test_the_browser_test_would_notice(tmp_path: Path) -> None:
    """The check itself: a page that loads an image and has an error in a script is caught."""
    (tmp_path / "bad.html").write_text("<img src='other.png'><script>nothing_there()</script>")
    _, asked, messages = _opened(tmp_path, "bad.html", tmp_path / "profile")
    assert any(x.endswith("/other.png") for x in asked)
    assert any("nothing_there" in x for x in messages)


@browser
@pytest.mark.parametrize("width", [500, 1280])
def test_nothing_is_wider_than_the_window(width: int, tmp_path: Path) -> None:
    source = page(answer(), {"serve.sh": "exec " + "x" * 400})
    probe = "<script>document.title=document.documentElement.scrollWidth+' of '+innerWidth</script></body>"
    before, _, after = source.rpartition("</body>")
    (tmp_path / "report.html").write_text(before + probe + after)
    dom, _, _ = _opened(tmp_path, "report.html", tmp_path / "profile", f"--window-size={width},900")
    measured = re.search(r"<title>(\d+) of (\d+)</title>", dom)
    assert measured is not None
    assert int(measured[1]) <= int(measured[2])


def test_mixed_pools_are_named() -> None:
    pools = (Pool("h100_sxm", Plan(tp=4), 2), Pool("mi300x", Plan(tp=2), 3))
    both = candidate(pools=pools)
    said = text(answer(winner=both))
    assert "8 x NVIDIA H100 SXM5 80GB + 6 x AMD Instinct MI300X" in " ".join(said.split())
    assert set(plan_files(answer(winner=replace(both, shape="2 x tp4 + 3 x tp2")))) >= {
        "serve-server-h100-sxm.sh",
        "serve-server-mi300x.sh",
    }
