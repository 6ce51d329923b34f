"""What a search costs itself: sums of trainings, published device-days, refusals, forms."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import steelyard as sy
from steelyard.cli.main import main
from steelyard.documents import parse_document
from steelyard.exploration.search_cost import SearchCost, search_cost
from steelyard.training.run import Run

WORDS = {"on": "v100_sxm_16gb:2", "gbs": 128, "samples": 51200, "precision": "fp32", "carbon": 400}
LARGEST = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|"
PUBLISHED = Path(__file__).parents[1] / "reference/search_costs.toml"


def trained(model: str, epochs: float) -> tuple[sy.TrainEstimate, Run]:
    one = sy.train(model, epochs=epochs, failures="none", **WORDS)
    assert one.run is not None
    return one, one.run


@pytest.fixture(scope="module")
def found() -> SearchCost:
    shared = "10:1,10:3,5:largest,2:nasbench201"
    return search_cost("nb201", candidates=9, epochs=9, shared=shared, rungs="3", rated=1, last=0, **WORDS)


def test_every_way_is_a_sum_of_trainings(found: SearchCost) -> None:
    every, rungs, shared = found.ways
    one, run = trained(found.candidate, 1)
    assert every.days["p50"] == pytest.approx(81 * run.days["p50"], rel=1e-3)
    assert every.device_days["p90"] == pytest.approx(162 * run.days["p90"], rel=1e-3)
    for figure in ("kwh", "usd", "kgco2"):
        assert getattr(every, figure)["p50"] == pytest.approx(81 * getattr(run, figure)["p50"], rel=1e-3)
    assert rungs.about == "9 until 1, 3 until 3, 1 until 9 epochs"
    assert rungs.days["p50"] == pytest.approx((9 + 3 * 2 + 6) * run.days["p50"], rel=1e-3)
    # Three networks of a step share its update and the exchange of gradients.
    beside = (one.breakdown_s["optimizer"] + one.breakdown_s["dp"]) / one.step_s
    largest, whole = trained(f"nb201:{LARGEST}", 5)[1], trained("nasbench201", 2)[1]
    drawn = (10 + 10 * (3 - 2 * beside)) * run.days["p50"]
    assert 0 < beside < 0.5
    assert shared.days["p50"] == pytest.approx(drawn + largest.days["p50"] + whole.days["p50"], rel=1e-3)


def test_the_candidate_has_the_mean_step_of_its_space(found: SearchCost) -> None:
    space = found.space
    some = [f"nb201:{space.spell(c)}" for c in space.draw(6, seed=3).tolist()]
    steps = [sy.train(name, **WORDS).step_s for name in some]
    assert found.step_s == pytest.approx(sum(steps) / len(steps), rel=0.2)


def test_a_teacher_is_asked_and_candidates_are_rated(found: SearchCost) -> None:
    words = {**WORDS, "teacher": "largest", "rated": 51200, "last": 2}
    every, rungs, shared = search_cost("nb201", candidates=9, epochs=9, shared="10:1", **words).ways
    epoch = every.parts["training"] / 81
    assert 1.2 < shared.parts["shared weights"] / (10 * epoch) < 2.5  # a forward pass of the largest beside
    assert shared.parts["last trainings"] == pytest.approx(2 * 9 * epoch)
    assert 0.1 < every.parts["rating"] / (9 * epoch) < 0.5  # forward alone
    assert rungs.parts["rating"] == pytest.approx(13 / 9 * every.parts["rating"])


@pytest.mark.parametrize("row", parse_document(PUBLISHED.read_text(), PUBLISHED.name)["row"], ids=lambda r: r["name"])
def test_published_device_days(row: dict[str, object], tmp_path: Path) -> None:
    """What a paper says lies in the 80 % interval, or as far from it as the row says and why."""
    words = dict(row["words"])  # type: ignore[call-overload]
    if "file" in row:
        (tmp_path / "space.toml").write_text(str(row["file"]))
        words["space"] = str(tmp_path / "space.toml")
    if row["verb"] == "train":
        run = sy.train(failures="none", **words).run
        assert run is not None
        days = {end: value * float(row["times"]) for end, value in run.days.items()}  # type: ignore[arg-type]
    else:
        days = dict(search_cost(**words).ways[2].device_days)
    ratio = days["p50"] / float(row["device_days"])  # type: ignore[arg-type]
    assert ratio == pytest.approx(row["predicted_over_published"], rel=0.1)
    assert bool(row.get("why")) == (not days["p10"] <= float(row["device_days"]) <= days["p90"])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--shared 10:fbnet_supernt", "--shared: unknown network 'fbnet_supernt'; did you mean 'fbnet_supernet'"),
        ("--shared 10", "--shared: expected EPOCHS:NETWORKS"),
        ("--rungs 9:3,12:9 --candidates 0", "--rungs: expected fewer candidates and more epochs"),
        ("--rungs 9:3,12:9 --candidates 0", "--candidates: expected 1 to 1,000,000,000 networks"),
        ("--rungs 1", "--rungs: expected a factor above 1"),
        ("--teacher llama-3.1-8b", "--teacher: unknown network 'llama-3.1-8b'"),
        ("--precision int8", "--precision: networks are trained in"),
    ],
)
def test_wrong_words_are_refused(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "cost", "--space", "fbnet", "--on", "v100_sxm_16gb", *words.split()]) == 2
    assert message in capsys.readouterr().err


def test_the_command_line_writes_every_form(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    words = "search cost --space nb201 --on gtx_1080_ti --samples 25000 --gbs 256 --candidates 100 --precision fp32"
    assert main([*words.split(), "--json", "--html", str(page)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["schema"], told["kind"], told["samples"]) == ("steelyard.search/1", "cost", 25000)
    assert [w["name"] for w in told["ways"]] == ["every candidate", "rungs", "shared weights"]
    assert all(w["device_days"]["p10"] < w["device_days"]["p50"] < w["device_days"]["p90"] for w in told["ways"])
    assert told["provenance"]["inputs"]["candidates"] == 100
    assert "What the search costs" in page.read_text()
    assert main([*words.split(), "--quiet"]) == 0
    assert "device-days of it" in capsys.readouterr().out
