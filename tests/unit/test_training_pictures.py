"""Pictures of training: every pass of the pipeline is in the SVG and in the trace, in order."""

from __future__ import annotations

import json
from pathlib import Path
from xml.dom.minidom import parseString

import numpy as np
import pytest

import steelyard as sy
from steelyard.cli.main import main
from steelyard.report.figures import figures_of
from steelyard.report.figures.train import pipeline_figure
from steelyard.report.train_picture import pictures, played_step, write_trace
from steelyard.training.estimate import TrainEstimate
from steelyard.training.schedule import play, schedule_table


@pytest.fixture(scope="module")
def found() -> TrainEstimate:
    words = {"gbs": 128, "seq": 8192, "tp": 8, "pp": 4, "mbs": 1, "recompute": "full", "tokens": "1T", "by": "60d"}
    answer: TrainEstimate = sy.train("llama-3.1-70b", "h100_sxm:256", **words, failures="llama3")
    return answer


def test_every_pass_is_drawn_once(found: TrainEstimate) -> None:
    _, count = played_step(found)
    assert count == found.scenario.plan.micro_batches
    (pipeline,) = (f for f in figures_of(found) if f.name == "pipeline")
    strokes = sum(len(s["data"]) // 3 for s in pipeline.option["series"] if s["type"] == "line")
    assert strokes == len(pipeline.rows) == 2 * 4 * count
    for letter in "FB":
        drawn = sorted((row[0], row[2]) for row in pipeline.rows if row[1] == letter)
        assert drawn == sorted((f"stage {s}", i) for s in range(4) for i in range(count))
    page = pictures(found)
    assert parseString(page).documentElement.tagName == "svg" and "60 d" in page


def test_what_is_lost_ends_at_the_mfu(found: TrainEstimate) -> None:
    figures = {f.name: f for f in figures_of(found)}
    names, shares = zip(*figures["mfu"].rows, strict=True)
    assert names[0] == "peak" and names[-1] == "MFU"
    assert shares[-1] == pytest.approx(found.mfu_frac * 100)
    under = figures["mfu"].option["series"][0]["data"]
    assert under[-2] == pytest.approx(shares[-1], abs=1e-6), "the last fall ends where the MFU is"
    fullest = figures["memory"].rows[found.peak_stage]
    assert fullest[-1] == pytest.approx(found.stages[found.peak_stage].reserved_bytes)
    assert figures["live"].rows[0][1] < fullest[-2]


def test_a_trace_has_a_track_a_stage_with_its_passes_in_order(found: TrainEstimate, tmp_path: Path) -> None:
    path = tmp_path / "step.json"
    assert write_trace(found, path) == ""
    events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    played, count = played_step(found)
    for stage in range(4):
        mine = [e for e in events if e["ph"] == "X" and e["cat"] == "pass" and e["tid"] == stage + 1]
        assert len(mine) == 2 * count
        starts = np.array([e["ts"] for e in mine])
        ends = starts + np.array([e["dur"] for e in mine])
        assert np.all(starts[1:] >= ends[:-1] - 0.01)
        held = [e["args"]["passes"] for e in events if e["name"] == f"held by stage {stage}"]
        assert max(held) == played.in_flight[stage]
        assert held[-1] == 0
        sent = [e for e in events if e["ph"] == "X" and e["cat"] == "send" and e["tid"] == 4 + stage + 1]
        assert len(sent) == count * ((stage < 3) + (stage > 0))
        onward = [e for e in sent if e["name"].endswith(f" {stage + 1}")]
        arrived = {(e["name"].partition(" ")[0], e["ts"] + e["dur"]) for e in onward}
        assert len(arrived) == count * (stage < 3)
        begun = {e["name"]: e["ts"] for e in events if e.get("cat") == "pass" and e["tid"] == stage + 2}
        assert all(begun[name] >= end - 0.01 for name, end in arrived)
        (update,) = (e for e in events if e.get("cat") == "update" and e["tid"] == stage + 1)
        assert update["dur"] == pytest.approx(found.breakdown_s["optimizer"] * 1e6, abs=0.01)


def test_passes_side_by_side_share_a_row() -> None:
    table = schedule_table("dualpipe", 4, 8)
    drawn = pipeline_figure(play(table, 1.0, 1.0, 1.0), 8, 8)
    rows = [p[1] for s in drawn.option["series"] if s["type"] == "line" for p in s["data"][::3]]
    assert sum(r != round(r) for r in rows) == 2 * int(table.joined.sum())


def test_a_long_step_shows_its_pattern_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = "train llama-3.1-8b --on h100_sxm:64 --gbs 40000 --seq 2048 --pp 8 --tp 1 --mbs 1 --zero 0"
    files = f"--svg {tmp_path / 'a.svg'} --perfetto {tmp_path / 'a.json'}"
    assert main(f"{line} {files}".split()) in (0, 3)
    assert "of 5000 micro-batches" in (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert main(f"{line} --svg {tmp_path / 'a.png'}".split()) == 2
    assert "expected a file ending in .svg" in capsys.readouterr().err
