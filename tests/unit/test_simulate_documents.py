"""What ``simulate`` and ``compare RUN.json`` write is what the reference says: fields, columns, events."""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")

from steelyard.report import replay as replay_report
from steelyard.report.perfetto import EVENTS, write_perfetto
from steelyard.report.records import COLUMNS, MEANINGS, columns_of
from steelyard.report.schema import OPTIONAL, fields_of_form
from steelyard.report.simulation import flat, interval, text, to_dict
from steelyard.scenario.slo import parse_targets
from steelyard.simulation.api import simulate
from steelyard.simulation.kernel.state import TOTALS
from steelyard.simulation.limits import CHEAP_STEPS, bottleneck, ends_of, limits
from steelyard.simulation.result import Simulation

SIMULATE, REPLAY = fields_of_form("simulate"), fields_of_form("replay")
STATISTICS = ("mean", "p50", "p90", "p95", "p99")
TARGETS = parse_targets({"ttft": "p99:500ms", "tpot": "mean:1us"})
KINDS = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "array": list,
    "{}": dict,
    "statistics": dict,
}


@pytest.fixture(scope="module")
def run() -> Simulation:
    """A short run near saturation, with rejected requests."""
    lengths = np.full(200, 1000)
    lengths[7] = 1_000_000
    from steelyard.traffic.trace import Trace

    trace = Trace(np.arange(200) * 0.05, lengths, np.full(200, 100), origin={"rate": "20/s"}, notes=("a note",))
    return simulate("llama-3.1-8b", "h100_sxm", trace=trace, ttft="p99:500ms")


def _paths(document: Mapping[str, Any], fields: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every path of a document down to what the reference lists."""
    for key, value in document.items():
        path = f"{prefix}{key}"
        if path in fields:
            yield path, value
        elif isinstance(value, Mapping):
            yield from _paths(value, fields, f"{path}.")
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            for entry in value:
                yield from _paths(entry, fields, f"{path}[].")
        else:
            yield path, value


def _check(document: Mapping[str, Any], fields: Mapping[str, tuple[str, str]]) -> None:
    found: dict[str, Any] = {}
    for path, value in _paths(document, fields):
        found[path] = value
        kind = fields[path][0] if path in fields else "undocumented"
        assert kind != "undocumented", path
        if value is None:
            assert kind.endswith("?"), path
        else:
            wanted = KINDS[kind.rstrip("?")]
            assert isinstance(value, wanted) and (wanted is bool or not isinstance(value, bool)), (path, value)
        if kind == "statistics":
            assert tuple(value) == STATISTICS
    assert set(fields) - set(OPTIONAL) <= set(found) <= set(fields)
    json.dumps(document, allow_nan=False)


@pytest.mark.parametrize("sure", [True, False])
def test_every_field_of_a_run_is_documented_and_the_other_way_round(run: Simulation, sure: bool) -> None:
    document = to_dict(run, TARGETS, ends_of(run, sure))
    _check(document, SIMULATE)
    assert (document["intervals"] is None) == (not sure)


def test_every_field_of_a_replay_is_documented(run: Simulation, tmp_path: Path) -> None:
    from steelyard.report.records import vllm_bench
    from steelyard.simulation.replay import read_log, replay

    path = tmp_path / "log.json"
    path.write_text(json.dumps(vllm_bench(run)))
    found = replay(read_log(str(path)), lambda trace: simulate("llama-3.1-8b", "h100_sxm", trace=trace))
    _check(replay_report.to_dict(found), REPLAY)


def test_records_have_the_documented_columns(run: Simulation) -> None:
    columns = columns_of(run.records)
    assert tuple(MEANINGS) == COLUMNS
    assert set(columns) == set(COLUMNS)
    for name, (kind, _) in MEANINGS.items():
        assert columns[name].dtype.kind in {"number": "f", "integer": "iu", "string": "O"}[kind]


def test_perfetto_writes_the_documented_events(run: Simulation, tmp_path: Path) -> None:
    write_perfetto(run, tmp_path / "p.json")
    events = json.loads((tmp_path / "p.json").read_text())["traceEvents"]
    found = {
        (e["ph"], "request" if e["name"].startswith("request ") else e["name"], tuple(e.get("args", {})))
        for e in events
    }
    found |= {k for k in EVENTS if k[0] == "X" and k[1] in ("prompt", "decode", "mixed")}  # a run need not have all
    assert found == set(EVENTS)


def test_intervals_hold_the_run_itself(run: Simulation) -> None:
    ends = ends_of(run)
    assert ends is not None and run.totals["iterations"] < CHEAP_STEPS
    document = to_dict(run, TARGETS, ends)
    for metric in ("ttft_s", "tpot_s", "itl_s", "e2e_s"):
        for name in ("mean", "p50", "p99"):
            low, high = document["intervals"][metric][name]
            assert low < high
            assert low * 0.999 <= document[metric][name] <= high * 1.001
    ttft, tpot = document["verdicts"]
    assert ttft["interval_s"][0] < ttft["value_s"] < ttft["interval_s"][1]
    assert (tpot["met"], tpot["sure"]) == (False, True)
    row = flat(run, TARGETS, ends)
    assert row["intervals.ttft_s.p99.low"] < row["ttft_s.p99"] < row["intervals.ttft_s.p99.high"]


def test_the_report_shows_intervals_and_doubt(run: Simulation) -> None:
    ends = ends_of(run)
    document = to_dict(run, TARGETS, ends)
    low, high = document["intervals"]["ttft_s"]["p99"]
    doubtful = parse_targets({"ttft": f"p99:{0.5 * (document['ttft_s']['p99'] + high)}s"})
    found = text(run, None, doubtful, ends)
    assert max(map(len, found.splitlines())) <= 80
    assert found.count("80 % interval") == 1
    assert f"({interval(low, high)})" in found
    assert "could be missed" in " ".join(found.split())
    assert "80 % interval" not in text(run, None, doubtful)


def test_an_interval_has_one_unit() -> None:
    assert interval(0.95, 1.21) == "0.95-1.2 s"
    assert interval(0.0102, 0.0249) == "10-25 ms"
    assert interval(0.0, 1e-15) == "0 s"
    assert interval(0.0071, 2.1) == "0.01-2.1 s"


def test_what_limits_a_run() -> None:
    assert bottleneck({}) == "arrivals"
    assert bottleneck({"serving": 0.85, "kv": 0.1, "compute": 0.05, "idle": 0.0}) == "arrivals"
    assert bottleneck({"serving": 0.5, "kv": 0.2, "max_num_seqs": 0.3}) == "max_num_seqs"
    kwargs = {"rate": 60.0, "isl": 500, "osl": 200, "requests": 300}
    few_seats = simulate("llama-3.1-8b", "h100_sxm", flags={"max_num_seqs": 8}, **kwargs)  # type: ignore[arg-type]
    few_blocks = simulate("llama-3.1-8b", "h100_sxm", flags={"num_gpu_blocks_override": 300}, **kwargs)  # type: ignore[arg-type]
    prompts = simulate("llama-3.1-8b", "h100_sxm", rate=60, isl=4000, osl=2, requests=300)
    found = [to_dict(x)["bottleneck"] for x in (few_seats, few_blocks, prompts)]
    assert found == ["max_num_seqs", "kv", "compute"]
    assert re.search("limited by +max_num_seqs", text(few_seats))
    assert re.search("limited by +the KV cache", text(few_blocks))


@pytest.fixture(scope="module")
def apart() -> Simulation:
    """Prompts and answers in pools of their own."""
    return simulate(
        "llama-3.1-8b",
        "h100_sxm:3",
        disaggregate="2P:tp1,1D:tp1",
        rate="8/s",
        isl=600,
        osl=80,
        requests=120,
    )


def test_a_run_without_a_step_is_not_said_to_keep_up() -> None:
    run = simulate("llama-3.1-8b", "h100_sxm", rate="inf", requests=2, isl=500, osl=2, flags={"kv_blocks": 3})
    assert re.search("limited by +no step was made", text(run))


def test_pools_are_told_apart_everywhere(apart: Simulation, tmp_path: Path) -> None:
    _check(to_dict(apart, TARGETS), SIMULATE)
    found = text(apart)
    assert max(map(len, found.splitlines())) <= 80
    assert "prompts: 2 x 1 device on" in found and "answers: 1 x 1 device on" in found
    assert re.search("each cache sent takes", " ".join(found.split()))
    columns = columns_of(apart.records)
    assert set(columns["replica"].tolist()) == {0, 1} and set(columns["answered_by"].tolist()) == {2}
    write_perfetto(apart, tmp_path / "p.json")
    events = json.loads((tmp_path / "p.json").read_text())["traceEvents"]
    names = [e["args"]["name"] for e in events if e["name"] == "process_name"]
    assert any("replica 2, decode" in name for name in names)
    series = apart.series(40)
    tokens = float(np.sum(apart.iterations.prefill_tokens)) + float(np.sum(apart.iterations.decode_tokens))
    summed = (series["prefill_tokens_per_s"] + series["decode_tokens_per_s"]).sum() * apart.makespan_s / 40
    assert summed == pytest.approx(tokens, rel=1e-6)
    assert sum(limits(apart).values()) == pytest.approx(1.0, abs=1e-6)


def test_the_bar_reads_live_counters(monkeypatch: pytest.MonkeyPatch) -> None:
    from steelyard.cli import progress

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(progress.sys, "stderr", screen)
    monkeypatch.setattr(progress, "EVERY_S", 0.01)
    counters = np.zeros((2, len(TOTALS)))
    with progress.status(False, "reading") as say:
        say("simulating", total=10)
        say.watch(counters)
        counters[:, TOTALS.index("completed")] = 2, 3
        time.sleep(0.3)
        assert say._progress is not None
        task = say._progress.tasks[0]
        assert (task.description, task.total, task.completed) == ("simulating", 10, 5)
    with progress.status(True, "silent") as say:
        say("simulating", total=10)
        say.watch(counters)


def test_intervals_can_be_asked_for_and_refused(capsys: pytest.CaptureFixture[str]) -> None:
    from steelyard.cli.main import main

    small = ["simulate", "llama-3.1-8b", "--on", "h100_sxm", "--rate", "20", "--requests", "20", "--json"]
    assert main(small) == 0
    assert json.loads(capsys.readouterr().out)["intervals"]["ttft_s"]["p99"][0] > 0
    assert main([*small, "--no-intervals"]) == 0
    assert json.loads(capsys.readouterr().out)["intervals"] is None
