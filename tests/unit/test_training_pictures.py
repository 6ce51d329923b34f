"""Pictures of training: every pass of the pipeline is in the SVG and in the trace, in order."""

from __future__ import annotations

import json
from pathlib import Path
from xml.dom.minidom import parseString

import numpy as np
import pytest

import steelyard as sy
from steelyard.cli.main import main
from steelyard.report.train_picture import pictures, pipeline_svg, played_step, write_trace
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
    page = parseString(pictures(found))
    titles = [t.firstChild.data for t in page.getElementsByTagName("title")]  # type: ignore[union-attr]
    for letter, words in (("F", "forward"), ("B", "backward")):
        drawn = [t for t in titles if t.endswith(f", {words}, chunk 0")]
        assert sorted(drawn) == sorted(f"{letter}{i}, {words}, chunk 0" for i in range(count) for _ in range(4))
    assert "60" in pictures(found)


def test_a_trace_has_a_track_a_stage_with_its_passes_in_order(found: TrainEstimate, tmp_path: Path) -> None:
    path = tmp_path / "step.json"
    assert write_trace(found, path) == ""
    events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    played, count = played_step(found)
    for stage in range(4):
        mine = [e for e in events if e["ph"] == "X" and e["tid"] == stage + 1]
        assert len(mine) == 2 * count
        starts = np.array([e["ts"] for e in mine])
        ends = starts + np.array([e["dur"] for e in mine])
        assert np.all(starts[1:] >= ends[:-1] - 0.01)
        held = [e["args"]["passes"] for e in events if e["name"] == f"held by stage {stage}"]
        assert max(held) == played.in_flight[stage]
        assert held[-1] == 0


def test_passes_side_by_side_share_a_row() -> None:
    table = schedule_table("dualpipe", 4, 8)
    page = parseString(pipeline_svg(play(table, 1.0, 1.0, 1.0), "two ways"))
    low = [r for r in page.getElementsByTagName("rect") if r.getAttribute("height") == "10"]
    assert len(low) == 2 * int(table.joined.sum())


def test_a_long_step_shows_its_pattern_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = "train llama-3.1-8b --on h100_sxm:64 --gbs 40000 --seq 2048 --pp 8 --tp 1 --mbs 1 --zero 0"
    files = f"--svg {tmp_path / 'a.svg'} --perfetto {tmp_path / 'a.json'}"
    assert main(f"{line} {files}".split()) in (0, 3)
    assert "of 5000 micro-batches" in (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert main(f"{line} --svg {tmp_path / 'a.png'}".split()) == 2
    assert "expected a file ending in .svg" in capsys.readouterr().err
