"""One measured run moves what is asked with it: other loads of the deployment most, other engines not at all."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import steelyard
from steelyard.calibrate.anchor_runs import Said, anchor_of, write_anchor
from steelyard.cli.main import main
from steelyard.deployment.anchor import PHASES, Anchor, Run, find_anchor
from steelyard.deployment.engine import UNMOVED, Engine, find_engine
from steelyard.errors import InputError, UnknownName

ASKED: dict[str, Any] = {"model": "qwen3-8b", "on": "h100_sxm", "isl": 600, "osl": 60, "requests": 60}


def run(step: float, first: float = 0.0) -> Run:
    return Run("vllm", "h100_sxm", "m", "", math.exp(first), math.exp(step), 1.0, 1.0)


def moved(anchor: Anchor, engine: str = "vllm", machine: str = "h100_sxm", model: str = "m") -> Any:
    return anchor.moved(find_engine(engine), machine, model)


@pytest.fixture(scope="module")
def slow() -> Any:
    """What a server measures whose steps take 1.5 times as long as predicted: the truth, by clients."""

    def measured(clients: int) -> Any:
        found = steelyard.simulate(**ASKED, concurrency=clients)
        assert found.replay is not None
        return found.replay(1.5)

    return measured


def test_other_loads_of_a_slow_server_are_predicted_from_one_run(slow: Any, tmp_path: Path) -> None:
    near = slow(4).records
    told = Said(float(near.ttft_s.mean()), float(near.tpot_s.mean()))
    found = anchor_of({**ASKED}, said=told, concurrency=4)
    path = str(write_anchor(found, str(tmp_path)))
    truth = float(slow(32).records.tpot_s.mean())
    blind, seen = (steelyard.simulate(**ASKED, concurrency=32, anchor=x) for x in ("", path))
    errors = [abs(x.records.tpot_s.mean() / truth - 1) for x in (blind, seen)]
    assert errors[0] > 0.3 and errors[1] < 0.06
    widths = [math.log(high / low) for low, high in (x.intervals()["tpot_s"]["mean"] for x in (blind, seen))]
    assert widths[1] < 0.97 * widths[0]
    assert any(words.startswith("anchor qwen3_8b-h100_sxm-vllm: steps x1.4") for words in seen.ledger.assumptions)
    still = [steelyard.estimate("qwen3-8b", "h100_sxm", batch=8, anchor=x) for x in ("", path)]
    assert still[1].tpot_s == pytest.approx(1.5 * still[0].tpot_s, rel=0.06) and still[1].ttft_s > still[0].ttft_s
    assert still[1].to_dict()["provenance"]["inputs"]["anchor"] == path
    from steelyard.search.api import read_question
    from steelyard.search.group import groups_of

    asked = {"model": "qwen3-8b", "on": "h100_sxm,h200_sxm", "rate": "20/s", "anchor": path, "max_gpus": 1}
    planned = {g.machine.name: g.replicas[0].engine.moved for g in groups_of(read_question(asked).task, [])}
    assert planned["h100_sxm"].step > 1.4 > planned["h200_sxm"].step > 1.0


def test_a_rate_of_clients_is_a_time_per_token(slow: Any) -> None:
    near = slow(4)
    ttft, tpot = float(near.records.ttft_s.mean()), float(near.records.tpot_s.mean())
    rate = 4 * 60 / (ttft + 59 * tpot)
    (found,) = anchor_of({**ASKED}, said=Said(ttft, None, rate), concurrency=4).anchor.run
    assert found.measured_tpot_s == pytest.approx(tpot, rel=0.005) and found.error("step") == pytest.approx(
        math.log(1.5), rel=0.03
    )
    with pytest.raises(InputError, match="get at most"):
        anchor_of({**ASKED}, said=Said(ttft, None, 1e6), concurrency=4)
    with pytest.raises(InputError, match="follows from the arrivals"):
        anchor_of({**ASKED}, said=Said(ttft, None, 100.0), rate="2/s")


def test_what_is_shared_less_moves_less_and_is_known_less() -> None:
    anchor = Anchor("x", (run(0.4, 0.5),))
    here, model, machine, both, engine = (
        moved(anchor),
        moved(anchor, model="other"),
        moved(anchor, machine="h200_sxm"),
        moved(anchor, machine="h200_sxm", model="other"),
        moved(anchor, "sglang"),
    )
    assert here.step > model.step > machine.step > both.step > engine.step == 1.0
    assert here.step_spread < model.step_spread < machine.step_spread < 1.0 == engine.step_spread
    assert 1.0 < here.first < math.exp(0.5) and engine == UNMOVED
    assert moved(anchor, "vllm@0.6").step == here.step, "a generation of the engine is that engine"


def test_a_small_error_is_scatter_a_large_one_is_believed_and_several_runs_more() -> None:
    scatter = PHASES["step"].scatter
    share = [math.log(moved(Anchor("x", (run(e),))).step) / e for e in (scatter / 4, scatter, 5 * scatter)]
    assert share == pytest.approx([1 / 17, 0.5, 25 / 26])
    several = moved(Anchor("x", (run(scatter), run(1.2 * scatter), run(0.8 * scatter))))
    assert math.log(several.step) / scatter == pytest.approx(0.75)
    assert several.step_spread < moved(Anchor("x", (run(scatter),))).step_spread
    assert moved(Anchor("x", (run(9.0, 9.0),))).step == pytest.approx(4.0)
    only_first = moved(Anchor("x", (replace(run(0.3, 0.3), measured_tpot_s=0.0),)))
    assert only_first.step == 1.0 == only_first.step_spread and only_first.first > 1.0


def test_a_log_makes_an_anchor_on_the_command_line(
    slow: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEELYARD_CATALOGUE", str(tmp_path))
    from steelyard.folders import catalogue_folders

    catalogue_folders.cache_clear()
    r = slow(4).records
    lines = ["arrived_at,isl,osl,ttft_s,tpot_s,e2e_s"]
    arrived = np.nan_to_num(r.arrived_at)
    lines += [
        f"{a},{i},{o},{t},{p},{e}"
        for a, i, o, t, p, e in zip(arrived, r.isl, r.osl, r.ttft_s, r.tpot_s, r.e2e_s, strict=True)
    ]
    log = tmp_path / "run.csv"
    log.write_text("\n".join(lines), encoding="utf-8")
    asked = ["--model", "qwen3-8b", "--on", "h100_sxm", "--concurrency", "4"]
    assert main(["calibrate", "--anchor", str(log), *asked]) == 0
    out = capsys.readouterr().out
    assert "this deployment" in out and "use it: steelyard estimate MODEL --on h100_sxm --anchor qwen3_8b" in out
    from steelyard.deployment.anchor import anchors

    anchors.cache_clear()
    found = find_anchor("qwen3_8b-h100_sxm-vllm")
    assert found is not None and found.run[0].error("step") == pytest.approx(math.log(1.5), rel=0.05)
    assert main(["calibrate", "--anchor", str(log), *asked, "--name", "mine"]) == 0
    assert "--anchor mine" in capsys.readouterr().out  # the name was taken for one of --here, and forgotten
    anchors.cache_clear()
    assert find_anchor("mine") is not None
    assert main(["calibrate", "--anchor", str(log), *asked, "--name", "../mine"]) == 2
    anchors.cache_clear()
    catalogue_folders.cache_clear()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('name = "x"\nrun = []\n', "at least one run"),
        ('name = "x"\n[[run]]\nengine = "vllm"\nmachine = "h100_sxm"\nmodel = "m"\nmeasured_ttft_s = -1\n', "ttft_s"),
        ('name = "x"\n[[run]]\nengine = "vllm"\nmachin = "h100_sxm"\nmodel = "m"\n', "did you mean 'machine'"),
    ],
)
def test_a_damaged_anchor_says_what_is_wrong(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        steelyard.estimate("qwen3-8b", "h100_sxm", anchor=str(path))


@pytest.mark.parametrize(
    ("name", "text"), [("bench.txt", "Mean TTFT (ms): 120\n"), ("bench.json", '{"mean_ttft_ms": 120}')]
)
def test_a_log_where_an_anchor_belongs_is_told_how_to_become_one(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=f"{name}: expected an anchor's file .*calibrate --anchor") as told:
        find_anchor(str(tmp_path / name))
    assert len(told.value.problems) == 1


def test_wrong_words_are_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("estimate", "plan"):
        load = ["--rate", "1/s"] if verb == "plan" else []
        assert main([verb, "qwen3-8b", "--on", "h100_sxm", "--anchor", "none_such", *load]) == 2
        assert "unknown anchor 'none_such'" in capsys.readouterr().err
    with pytest.raises(UnknownName):
        find_anchor("none_such")
    assert main(["calibrate", "--ttft", "x", "--tpot", "0s", "--on", "h100_sxm"]) == 2
    told = capsys.readouterr().err
    assert all(words in told for words in ("ttft", "tpot", "model"))
    assert isinstance(find_engine("vllm"), Engine)
