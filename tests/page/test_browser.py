"""The page in Chromium: clicks, keys, what it shows against the library, silence, reach, both widths and themes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import steelyard as sy
from steelyard.page.screen import screens
from steelyard.report.figures import has_library
from steelyard.units import format_quantity as q
from tests.page.server import Server
from tests.web.play import VIEWS, View, chromium, opened


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not has_library():
        pytest.skip("the chart library was not fetched: python hatch_build.py")
    with chromium() as found:
        yield found


ESTIMATE = "/estimate?model=llama-3.1-8b&on=h100_sxm&batch=8"


class Page:
    """An open screen."""

    def __init__(self, view: View) -> None:
        self.view, self.page = view, view.page

    def figure(self, name: str, column: int = 1) -> float:
        """The value of the strip."""
        place = self.page.locator(f".answer:nth-of-type({column}) [data-fact={name}] .value")
        return float(place.get_attribute("data-value"))

    def becomes(self, name: str, value: float, column: int = 1) -> None:
        """Wait until the strip shows a value."""
        place = self.page.locator(f".answer:nth-of-type({column}) [data-fact={name}] .value[data-value='{value!r}']")
        place.wait_for(timeout=15_000)

    def silent(self) -> None:
        """Nothing was said on the console, nothing was asked elsewhere."""
        assert self.view.said == [] and self.view.asked == []


@pytest.fixture
def at(browser: Any, server: Server) -> Iterator[Any]:
    """Opens an address; everything must have stayed silent in the end."""
    stack: list[Any] = []

    def go(path: str, **options: Any) -> Page:
        manager = opened(browser, server.address + path, home=server.address, **options)
        view = manager.__enter__()
        stack.append((manager, view))
        view.page.locator("html[data-ready]").wait_for(state="attached")
        return Page(view)

    yield go
    for manager, view in stack:
        assert view.said == [] and view.asked == []
        manager.__exit__(None, None, None)


def test_the_page_shows_what_the_library_says(at: Any) -> None:
    found, one = sy.estimate("llama-3.1-8b", "h100_sxm", batch=8), at(ESTIMATE)
    for name in ("ttft_s", "tpot_s", "e2e_s", "tokens_per_s", "energy_j_per_token", "usd_per_million_tokens"):
        assert one.figure(name) == getattr(found, name)
    low, high = found.interval["tpot_s"]
    strip = one.page.locator("[data-fact=tpot_s]").inner_text()
    assert q(found.tpot_s, "s", 3) in strip and f"{q(low, 's', 3)} – {q(high, 's', 3)}" in strip
    assert one.page.locator("figure .plot svg").count() == 5
    assert "Llama-3.1-8B on NVIDIA H100" in one.page.locator("h2").first.inner_text()


def test_typing_and_sliding_ask_again(at: Any) -> None:
    one = at(ESTIMATE)
    one.page.fill("[name=batch]", "64")
    one.page.keyboard.press("Tab")
    one.becomes("tpot_s", sy.estimate("llama-3.1-8b", "h100_sxm", batch=64).tpot_s)
    assert "batch=64" in one.page.url
    one.page.locator("[data-for=osl]").focus()
    one.page.keyboard.press("End")
    one.becomes("e2e_s", sy.estimate("llama-3.1-8b", "h100_sxm", batch=64, osl=16_000).e2e_s)
    assert "osl=16000" in one.page.url
    assert one.page.locator("figure .plot svg").count() == 5
    one.page.go_back()  # sliding is one step
    one.becomes("tpot_s", sy.estimate("llama-3.1-8b", "h100_sxm", batch=8).tpot_s)
    assert one.page.input_value("[name=batch]") == "8"


def test_columns_stand_side_by_side_and_differences_are_marked(at: Any) -> None:
    one = at(ESTIMATE)
    one.page.click("[data-add]")
    one.page.locator(".answer").nth(1).wait_for()
    one.page.fill("[name=on]", "b200_sxm")
    one.page.keyboard.press("Enter")
    other = sy.estimate("llama-3.1-8b", "b200_sxm", batch=8)
    one.becomes("tpot_s", other.tpot_s, column=2)
    assert one.figure("tpot_s") == sy.estimate("llama-3.1-8b", "h100_sxm", batch=8).tpot_s
    assert "B200" in one.page.locator(".differs").inner_text()
    assert "2.on=b200_sxm" in one.page.url
    change = other.tpot_s / one.figure("tpot_s") - 1
    assert f"{100 * change:+.0f} %" in one.page.locator(".answer").nth(1).locator("[data-fact=tpot_s]").inner_text()
    for _ in range(2):
        one.page.click("[data-add]")
        one.page.wait_for_timeout(300)
    one.page.locator(".answer").nth(3).wait_for()
    assert one.page.locator("[data-add]").count() == 0
    one.page.click("[data-remove]")
    one.page.locator(".answers.n3").wait_for()


def test_techniques_are_sought_for_what_is_in_view(at: Any) -> None:
    page = at("/estimate?model=llama-3.1-70b&on=h100_sxm:8&tp=8&weights=fp8&batch=32")
    page.page.click("text=which published techniques would help")
    page.page.wait_for_url("**/advise?**")
    shown = {n: page.page.input_value(f"[name={n}]") for n in ("model", "on", "tp", "weights", "concurrency")}
    assert shown == {"model": "llama-3.1-70b", "on": "h100_sxm:8", "tp": "8", "weights": "fp8", "concurrency": "32"}
    assert page.page.locator(".problems").count() == 0
    page.silent()


def test_a_network_through_the_same_screen(at: Any) -> None:
    one = at(ESTIMATE)
    one.page.fill("[name=model]", "resnet50")
    one.page.keyboard.press("Enter")
    one.becomes("latency_s", sy.estimate("resnet50", "h100_sxm", batch=8).latency_s)
    assert one.page.locator("[name=runtime]").count() == 1 and one.page.locator("[name=isl]").count() == 0


def test_a_wrong_name_is_told_at_its_field_and_put_right_by_a_click(at: Any) -> None:
    one = at("/estimate?model=llama-3.1-8b&on=h100_sxmm")
    assert one.page.locator("[name=on][aria-invalid]").count() == 1
    one.page.locator("[data-set=on]").first.click()
    one.becomes("tpot_s", sy.estimate("llama-3.1-8b", "h100_sxm").tpot_s)
    assert one.page.locator("[aria-invalid]").count() == 0


def test_what_does_not_fit_is_made_to_fit(at: Any) -> None:
    one = at("/estimate?model=llama-3.1-70b&on=h100_sxm")
    one.page.click("[data-change]")
    one.becomes("tpot_s", sy.estimate("llama-3.1-70b", "h100_sxm", weights="fp8").tpot_s)


def test_names_are_offered(at: Any) -> None:
    one = at(ESTIMATE)
    one.page.fill("[name=on]", "mi300")
    one.page.locator("#l-on option[value=mi300x]").wait_for(state="attached")
    assert "MI300X" in one.page.locator("#l-on option[value=mi300x]").get_attribute("label")


def test_a_dropped_file_is_the_model(at: Any, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(
        '{"model_type": "llama", "hidden_size": 2048, "num_hidden_layers": 4, "num_attention_heads": 16,'
        ' "num_key_value_heads": 4, "intermediate_size": 4096, "vocab_size": 32000}'
    )
    one = at(ESTIMATE)
    one.page.set_input_files("#file", path)
    one.becomes("tpot_s", sy.estimate(str(path), "h100_sxm", batch=8).tpot_s)
    assert one.page.input_value("[name=model]").startswith("mine-")
    path.write_text("not json")
    one.page.set_input_files("#file", path)
    one.page.locator("#form-status.bad").wait_for()
    one.view.said[:] = [s for s in one.view.said if "422" not in s]  # the browser's own line about the refusal


def test_lists_are_sorted_by_a_click(at: Any) -> None:
    one = at("/catalogue?kind=machines")
    one.page.locator("th button", has_text="memory").click()
    column = one.page.locator("th[aria-sort=descending]")
    assert column.inner_text().startswith("memory")
    nth = one.page.evaluate("[...document.querySelectorAll('th')].findIndex(t => t.hasAttribute('aria-sort')) + 1")
    cells = one.page.locator(f"tbody td:nth-child({nth})")
    values = [float(x) for x in cells.evaluate_all("c => c.map(x => x.dataset.value)") if x not in ("", "None")]
    assert values == sorted(values, reverse=True) and len(values) > 100
    one.page.locator("tbody a").first.click()
    one.page.locator("table.facts-of").wait_for()


def test_two_rooflines_over_each_other(at: Any) -> None:
    one = at("/catalogue?kind=machines&name=h100_sxm")
    one.page.fill("#beside", "mi300x")
    one.page.keyboard.press("Enter")
    one.page.locator(".key button", has_text="mi300x fp8").wait_for()
    assert one.page.locator(".key button", has_text="h100_sxm fp8").count() == 1


def test_ones_own_machine_is_estimated_on(at: Any) -> None:
    one = at("/machine")
    one.page.fill("[name='memory.0.bandwidth_bytes_per_s']", "800GB/s")
    one.page.keyboard.press("Enter")
    one.page.locator("pre", has_text="800000000000").wait_for()
    one.page.click("[data-use]")
    one.page.locator("[data-fact=tpot_s]").wait_for()
    assert "My chip" in one.page.locator("h2").first.inner_text()


PLACES = (ESTIMATE, ESTIMATE + "&2.on=mi300x", "/estimate?model=x&on=y", "/catalogue?kind=machines&q=h100", "/machine")


@pytest.mark.parametrize(("width", "theme"), VIEWS)
@pytest.mark.parametrize("path", [*PLACES, "/catalogue?kind=machines&name=h100_sxm&beside=mi300x"])
def test_it_can_be_read_by_everybody(at: Any, path: str, width: int, theme: str) -> None:
    one = at(path, width=width, theme=theme)
    assert one.view.overflow() <= 0
    for button in one.page.locator("details.more > summary").all()[:2]:
        button.click()
    assert one.view.violations() == []


def test_a_printed_page_is_the_answer_alone(at: Any) -> None:
    page = at(ESTIMATE)
    page.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.page.emulate_media(media="print")
    page.page.set_viewport_size({"width": 718, "height": 1000})  # of A4 with margins, in pixels
    assert page.page.locator("#question:visible, nav a:visible, .tools:visible").count() == 0
    for figure in page.page.locator("figure").all():
        drawn = figure.locator(".plot svg").first.bounding_box()
        assert drawn["x"] + drawn["width"] <= 718 and figure.bounding_box()["height"] < 1000
    assert page.view.overflow() <= 0
    assert page.page.pdf(format="A4").startswith(b"%PDF")


def test_a_long_screen_begins_with_a_question_to_press(at: Any) -> None:
    page = at("/simulate?model=qwen3-8b")
    page.page.click(".examples button >> nth=0")
    page.page.locator("#answer .answer .facts").wait_for(timeout=60_000)
    asked = screens()["simulate"].examples[0][1]
    assert page.page.input_value("[name=model]") == asked["model"] != "qwen3-8b"
    assert page.page.locator(".begin").count() == 0
    page.silent()


def test_the_page_is_built_as_it_was(at: Any) -> None:
    """Regions, headings and figures in their order: what a screen is, without its pixels."""
    one = at(ESTIMATE)
    groups = one.page.locator("legend").all_inner_texts()
    assert groups == ["What runs", "Where it runs", "Traffic", "Engine", "Techniques"]
    labels = one.page.locator("fieldset > .row label").all_inner_texts()
    assert labels == ["model", "weights", "machine", "TP", "batch", "prompt tokens", "generated tokens", "engine"]
    facts = [x.split("\n")[0] for x in one.page.locator(".fact dt").all_inner_texts()]
    assert facts == [
        "first token",
        "per token",
        "end to end",
        "tokens per second",
        "energy per token",
        "per million tokens",
    ]
    names = one.page.locator("figure").evaluate_all("f => f.map(x => x.dataset.figure)")
    assert names == ["memory", "latency", "roofline", "time", "energy"]
    links = one.page.locator(".elsewhere").inner_text().split()
    assert links == ["as", "command", "as", "Python", "JSON", "CSV"]


def test_the_figures_are_told_to_a_screen_reader(at: Any) -> None:
    one = at(ESTIMATE)
    one.page.fill("[name=batch]", "16")
    one.page.keyboard.press("Tab")
    one.becomes("tpot_s", sy.estimate("llama-3.1-8b", "h100_sxm", batch=16).tpot_s)
    one.page.locator("#told", has_text="per token").wait_for(state="attached")
    assert one.page.locator("#told").inner_text().startswith("first token ")


def test_the_keyboard_reaches_everything_in_order(at: Any) -> None:
    one = at(ESTIMATE)
    seen = []
    for _ in range(20):
        one.page.keyboard.press("Tab")
        seen.append(one.page.evaluate("document.activeElement.name || document.activeElement.textContent.trim()"))
    assert seen[:2] == ["Skip to the answer", "Steelyard"]
    listed = [s.title for s in screens().values() if s.listed]
    assert seen[2 : 2 + len(listed)] == listed
    rest = seen[2 + len(listed) :]
    assert rest.index("model") < rest.index("weights") < rest.index("on")


def test_without_scripts_the_form_is_a_plain_question(browser: Any, server: Server) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(server.address + ESTIMATE)
    page.fill("[name=batch]", "16")
    with page.expect_navigation():
        page.click("button[type=submit]")
    expected = sy.estimate("llama-3.1-8b", "h100_sxm", batch=16).tpot_s
    assert float(page.locator("[data-fact=tpot_s] .value").get_attribute("data-value")) == expected
    assert page.locator("figure details.twin").count() == 5
    context.close()


def test_an_export_is_drawn_from_disk(browser: Any, tmp_path: Path) -> None:
    from steelyard.page.export import export_pages

    export_pages(tmp_path)
    with opened(browser, (tmp_path / "estimate.html").as_uri()) as view:
        assert view.page.locator("figure .plot svg").count() == 5
        assert view.said == [] and view.asked == []
