"""Plan and Train: what is shown is what the library says, candidates open elsewhere, runs are told and cancelled."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl, urlencode

import pytest

import steelyard as sy
from steelyard.cli.main import main
from steelyard.page.answers import asked, shown_dict, shown_from
from steelyard.page.question import read_question
from steelyard.page.screen import Shown, screen
from steelyard.page.trained import layout_of, view_of
from steelyard.report import plan as plan_report
from steelyard.report import train as train_report
from steelyard.report.figures import has_library
from tests.page.server import Server
from tests.web.play import VIEWS, chromium, opened

PLAN = {"model": "llama-3.1-8b", "on": "h100_sxm", "rate": "4/s", "ttft": "p99:1s", "tpot": "p95:30ms"}
PLAN |= {"mode": "aggregated", "max_gpus": "4", "requests": "300"}
NOTHING = {**PLAN, "tpot": "p95:2ms", "max_gpus": "1"}
TRAIN = {"model": "llama-3.1-8b", "on": "h100_sxm:16", "gbs": "64", "tp": "2", "pp": "2", "mbs": "1", "tokens": "100B"}
BEST = {"model": "llama-3.1-8b", "on": "h100_sxm", "max_gpus": "32", "gbs": "64", "tokens": "100B", "by": "60d"}
#: What differs from run to run.
TIMES = ("cpu_s", "stages_s", "screened_per_s")


def shown_of(name: str, words: dict[str, str]) -> Shown:
    found = asked(read_question(screen(name), urlencode(words)))
    assert shown_from(json.loads(json.dumps(shown_dict(found), allow_nan=False))).document == found.document
    return found


def cell(row: dict[str, Any], heads: Any, name: str) -> Any:
    return row["cells"][[h for h, _ in heads].index(name)]


@pytest.fixture(scope="module")
def planned() -> Shown:
    return shown_of("plan", PLAN)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not has_library():
        pytest.skip("the chart library was not fetched: python hatch_build.py")
    with chromium() as found:
        yield found


def command(name: str, words: dict[str, str]) -> list[str]:
    line = read_question(screen(name), urlencode(words)).command()
    return [*line.split()[1:], "--json"]


def untimed(document: dict[str, Any]) -> dict[str, Any]:
    return {n: v for n, v in document.items() if n not in TIMES}


def test_a_plan_is_that_of_the_command(planned: Shown, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command("plan", PLAN)) == 0
    assert untimed(dict(planned.document)) == untimed(json.loads(capsys.readouterr().out))


def test_every_candidate_is_a_row_with_its_reason(planned: Shown) -> None:
    view, document = planned.view, planned.document
    rows, heads = view["rows"], view["heads"]
    assert [r["winner"] for r in rows] == [True] + [False] * (len(rows) - 1)
    assert cell(rows[0], heads, "USD/h")[1] == document["winner"]["usd_per_hour"]
    shown = {
        json.dumps(c["deployment"], sort_keys=True) for k in ("runners_up", "front", "cost_front") for c in document[k]
    }
    shown.add(json.dumps(document["winner"]["deployment"], sort_keys=True))
    assert len(rows) == len(shown)
    for row in rows[1:]:
        rent, why = cell(row, heads, "USD/h")[1], cell(row, heads, "why not")[0]
        assert why and ("rent" in why) == (rent > 1.005 * document["winner"]["usd_per_hour"])


def test_a_candidate_opens_as_a_question_of_other_verbs(planned: Shown) -> None:
    for row in planned.view["rows"]:
        words = dict(parse_qsl(row["open"]["estimate"]))
        found = sy.estimate(**read_question(screen("estimate"), urlencode(words)).words())
        assert found.fits and f"tp {found.scenario.plan.tp}" in f"tp {words.get('tp', 1)}"
    words = dict(parse_qsl(planned.view["rows"][0]["open"]["simulate"]))
    flags = {n: int(words.pop(n)) for n in ("max_num_seqs", "max_num_batched_tokens")}
    played = sy.simulate(**words, flags=flags)
    expected = planned.document["winner"]["percentiles"]["tpot_s"]["mean"]
    assert played.summary()["tpot_s"]["mean"] == pytest.approx(expected, rel=0.05)


def test_pools_apart_open_as_pools() -> None:
    found = shown_of("plan", {**PLAN, "mode": "disaggregated", "max_gpus": "3"})
    words = dict(parse_qsl(found.view["rows"][0]["open"]["simulate"]))
    assert words["disaggregate"].count(":tp") == 2 and words["on"].startswith("h100_sxm:")


def test_dots_of_the_fronts_open_what_they_are(planned: Shown) -> None:
    front = next(f for f in planned.figures if f["name"] == "front")
    opens = [p["open"] for s in front["option"]["series"] for p in s["data"] if isinstance(p, dict)]
    assert len(opens) == len(front["rows"])
    assert set(opens) <= {f"/estimate?{r['open']['estimate']}" for r in planned.view["rows"]}


def test_what_does_not_fit_names_changes() -> None:
    found = shown_of("plan", NOTHING)
    assert found.document["winner"] is None and not found.files
    assert found.view["why_nothing"] == found.document["infeasible"]["reason"]
    assert [c["text"] for c in found.view["changes"]] == [c["change"] for c in found.document["infeasible"]["nearest"]]
    for change in found.view["changes"]:
        assert sy.plan(**{**NOTHING, "requests": 300, **change["arguments"]}).winner is not None


def test_training_is_that_of_the_command(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command("train", TRAIN)) == 0
    document = json.loads(capsys.readouterr().out)
    assert server.ask(f"/api/train?{urlencode(TRAIN)}").data == document
    found = sy.train(**TRAIN)
    page = server.ask(f"/train?{urlencode(TRAIN)}").text
    assert f'data-value="{found.step_s}"' in page and f'data-value="{found.run.days["p50"]}"' in page
    assert server.ask(f"/files/train/train.sh?{urlencode(TRAIN)}").text == train_report.files(found)["train.sh"]
    assert server.ask(f"/train?{urlencode({**TRAIN, 'tp': '3'})}").text.count("aria-invalid") >= 1
    short = server.ask("/train?model=llama-3.1-70b&on=h100_sxm:8&tp=1&pp=1&gbs=64").text
    assert "Does not fit." in short and "Files that launch it" not in short


def test_a_layout_that_computes_some_layers_again_opens_as_it_is() -> None:
    found = sy.train(**TRAIN, recompute="full:2")
    placed = {n: TRAIN[n] for n in ("model", "on", "gbs", "tokens")}
    assert sy.train(**placed, **layout_of(found.scenario.plan, "train")).step_s == found.step_s
    assert found.step_s != sy.train(**TRAIN, recompute="full").step_s
    assert "computed again: full:2" in view_of(found)["how"]


def test_the_best_layout_is_that_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    shown = shown_of("train_plan", BEST)
    assert main(command("train_plan", BEST)) == 0
    assert untimed(dict(shown.document)) == untimed(json.loads(capsys.readouterr().out))
    rows, heads = shown.view["rows"], shown.view["heads"]
    assert rows[0]["winner"] and cell(rows[0], heads, "why not")[0] == "the winner"
    assert len(rows) == len(shown.document["candidates"])
    for row in rows:
        words = read_question(screen("train"), row["open"]).words()
        assert sy.train(**words).step_s == pytest.approx(cell(row, heads, "step")[1], rel=0.05)


def test_a_step_of_scored_answers_is_whole() -> None:
    shown = shown_of("train", {"model": "llama-3.1-8b", "on": "h100_sxm:16", "task": "grpo"})
    first = shown.view["facts"][0]
    assert first["name"] == "rl_step_s" and first["value"] == shown.document["rl"]["step_s"]["value"]
    assert first["interval"] == [shown.document["rl"]["step_s"][end] for end in ("low", "high")]


def test_both_sides_keep_what_they_take() -> None:
    given = {n: [v] for n, v in {**TRAIN, "rollout_tp": "2"}.items()}
    train, plan = screen("train").sides, screen("train_plan").sides
    assert train is not None and plan is not None
    (_, mine), (_, best) = train(given)
    assert dict(parse_qsl(mine.partition("?")[2])) == {**TRAIN, "rollout_tp": "2"}
    kept = {n: v for n, v in TRAIN.items() if n not in ("tp", "pp", "mbs")} | {"rollout_tp": "2"}
    assert best.startswith("/train_plan?") and dict(parse_qsl(best.partition("?")[2])) == kept
    (_, back), _ = plan({"on": ["h100_sxm,b200_sxm"], "by": ["30d"], "max_gpus": ["64"]})
    assert dict(parse_qsl(back.partition("?")[2])) == {"on": "h100_sxm", "by": "30d"}


def test_a_plan_is_run_sorted_opened_and_taken(browser: Any, server: Server) -> None:
    with opened(browser, f"{server.address}/plan?{urlencode(PLAN)}", home=server.address) as view:
        page = view.page
        page.locator("html[data-ready]").wait_for(state="attached")
        page.click("button[type=submit]")
        page.locator("#run progress").wait_for()
        page.locator("#answer .answer").wait_for(timeout=120_000)
        document = server.ask(f"/api/plan?{urlencode(PLAN)}").data
        for name in ("usd_per_hour", "ttft_s", "tpot_s", "max_rate_per_s", "watts"):
            value = page.locator(f"[data-fact={name}] .value").get_attribute("data-value")
            assert float(value) == document["winner"][name]
        assert page.locator("figure .plot svg").count() == page.locator("figure").count() >= 3
        page.locator("th button", has_text="TPOT").click()
        cells = page.locator("table.candidates tbody td:nth-child(5)").evaluate_all("c => c.map(x => +x.dataset.value)")
        assert cells == sorted(cells, reverse=True) and len(cells) > 3
        page.locator(".files summary", has_text="serve.sh").click()
        with page.expect_download() as taken:
            page.locator(".files a[download='serve.sh']").click()
        text = taken.value.path().read_text(encoding="utf-8")
        assert text == page.locator(".files pre[aria-label='serve.sh']").inner_text() + "\n" or "vllm serve" in text
        place = page.locator("tr.best a").first.get_attribute("href")
        page.locator("tr.best a").first.click()
        page.locator("[data-fact=tpot_s]").wait_for()
        words = read_question(screen("estimate"), place.partition("?")[2]).words()
        shown = float(page.locator("[data-fact=tpot_s] .value").get_attribute("data-value"))
        assert shown == sy.estimate(**words).tpot_s
        assert view.said == [] and view.asked == []


def test_a_dot_opens_its_candidate(browser: Any, server: Server) -> None:
    server.ask(f"/api/plan?{urlencode(PLAN)}")
    with opened(browser, f"{server.address}/plan?{urlencode(PLAN)}", home=server.address) as view:
        page = view.page
        plot = page.locator(".fig-front .plot svg").first
        plot.wait_for()
        plot.locator("text", has_text="winner").first.wait_for()
        plot.scroll_into_view_if_needed()
        box = plot.locator("text", has_text="winner").first.bounding_box()
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] + 12)
        page.wait_for_url("**/estimate?**")
        assert "model=llama-3.1-8b" in page.url and "batch=" in page.url


def test_a_wrong_question_is_told_at_its_field_and_mended(browser: Any, server: Server) -> None:
    wrong = {**BEST, "on": "h100_sxmm"}
    with opened(browser, f"{server.address}/train_plan?{urlencode(wrong)}", home=server.address) as view:
        page = view.page
        page.locator("html[data-ready]").wait_for(state="attached")
        page.click("button[type=submit]")
        page.locator("[name=on][aria-invalid]").wait_for(timeout=60_000)
        page.locator(".problems [data-value='h100_sxm']").click()
        page.locator("table.candidates tr.best").wait_for(timeout=120_000)
        assert page.input_value("[name=on]") == "h100_sxm"
        assert "on=h100_sxm&" in page.url
        page.locator("tr.best a").click()
        page.locator("[data-fact=mfu_frac]").wait_for()
        assert "/train?" in page.url
        page.locator("nav.tabs a", has_text="The best layout").click()
        page.locator("#frame[data-screen=train_plan]").wait_for()
        assert view.said == [] and view.asked == []


def test_training_asks_again_when_a_field_changes(browser: Any, server: Server) -> None:
    with opened(browser, f"{server.address}/train?{urlencode(TRAIN)}", home=server.address) as view:
        page = view.page
        page.locator("html[data-ready]").wait_for(state="attached")
        page.fill("[name=tp]", "4")
        page.keyboard.press("Tab")
        expected = sy.train(**{**TRAIN, "tp": 4}).step_s
        page.locator(f"[data-fact=step_s] .value[data-value='{expected!r}']").wait_for(timeout=30_000)
        assert page.locator("figure .plot svg").count() == page.locator("figure").count() >= 6
        assert view.said == [] and view.asked == []


def test_a_plan_is_of_a_dropped_log(server: Server) -> None:
    lines = ["arrived_at,num_prefill_tokens,num_decode_tokens"]
    lines += [f"{i * 0.25},{400 + 10 * (i % 20)},{60 + i % 7}" for i in range(300)]
    kept = server.ask("/drop?name=log.csv", "POST", body="\n".join(lines).encode()).data
    assert kept["field"] == "trace"
    words = {n: v for n, v in PLAN.items() if n != "rate"} | {"trace": kept["name"]}
    asked_for = server.ask(f"/api/plan?{urlencode(words)}").data["asked"]
    assert asked_for["rate_per_s"] == pytest.approx(4.0, rel=0.01) and asked_for["promises"][0]["limit_s"] == 1.0


def test_a_plan_is_cancelled(browser: Any, server: Server) -> None:
    query = urlencode({**PLAN, "on": "h100_sxm,h200_sxm,mi300x", "rate": "40/s", "max_gpus": "64"})
    with opened(browser, f"{server.address}/plan?{query}", home=server.address) as view:
        page = view.page
        page.locator("html[data-ready]").wait_for(state="attached")
        page.click("button[type=submit]")
        page.locator("[data-cancel]").click()
        page.locator("#run .words", has_text="ended before it was done").wait_for()
        assert page.locator("#answer .answer").count() == 0 and page.locator("[data-cancel]").is_hidden()
        assert view.said == [] and view.asked == []


@pytest.mark.parametrize(("width", "theme"), VIEWS)
@pytest.mark.parametrize(("name", "words"), [("plan", PLAN), ("plan", NOTHING), ("train", TRAIN), ("train_plan", BEST)])
def test_they_can_be_read_by_everybody(
    browser: Any, server: Server, name: str, words: dict[str, str], width: int, theme: str
) -> None:
    server.ask(f"/api/{name}?{urlencode(words)}")
    with opened(
        browser, f"{server.address}/{name}?{urlencode(words)}", home=server.address, width=width, theme=theme
    ) as view:
        view.page.locator("#answer .answer").wait_for()
        for one in view.page.locator(".files summary").all()[:1]:
            one.click()
        assert view.overflow() <= 0
        assert view.violations() == [] and view.said == [] and view.asked == []


@pytest.mark.parametrize("value", ["../../etc/passwd", "/etc/passwd", "x.py:Policy"])
def test_hostile_values_are_refused_in_one_line(server: Server, value: str) -> None:
    for name, words in (("plan", PLAN), ("train", TRAIN), ("train_plan", BEST)):
        query = urlencode({**words, "model": value})
        found = server.ask(f"/api/{name}?{query}")
        assert found.status == 422 and set(found.problems) == {"model"}
        assert "\n" not in found.problems["model"]
        assert server.ask(f"/jobs/{name}?{query}", "POST").status in (404, 422)


def test_times_are_those_of_the_report(planned: Shown) -> None:
    found = sy.plan(**PLAN)  # type: ignore[call-overload]
    assert [row["label"] for row in planned.view["times"]] == ["TTFT", "TPOT", "E2E"]
    assert found.winner is not None
    assert (
        planned.view["times"][0]["cells"]
        == next(plan_report.expected(found, found.winner, ("mean", "p50", "p90", "p95", "p99")))[1]
    )
