"""``steelyard compare RUN.json --model M --on X``: a log beside its simulation, and where they part."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")

from steelyard.cli.main import main
from steelyard.report.records import vllm_bench, write_records
from steelyard.simulation.api import simulate
from steelyard.simulation.replay import METRICS, Log, figures, is_log, parts, read_log, replay
from steelyard.simulation.result import Simulation
from steelyard.traffic.trace import Trace

WHERE = ["--model", "llama-3.1-8b", "--on", "h100_sxm"]


def _run(trace: Trace, **flags: Any) -> Simulation:
    return simulate("llama-3.1-8b", "h100_sxm", trace=trace, flags=flags)


def _json(capsys: pytest.CaptureFixture[str], *tokens: str) -> dict[str, Any]:
    assert main(["compare", *tokens, "--json"]) == 0
    return json.loads(capsys.readouterr().out)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def measured() -> Simulation:
    """An open loop that keeps several requests busy."""
    return simulate(
        "llama-3.1-8b", "h100_sxm", rate="8/s", isl="uniform:200-900", osl="uniform:40-160", requests=150, seed=3
    )


@pytest.fixture(scope="module")
def log(measured: Simulation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as ``vllm bench serve`` would have written it."""
    path = tmp_path_factory.mktemp("replay") / "run.json"
    path.write_text(json.dumps(vllm_bench(measured)), encoding="utf-8")
    return path


def test_a_log_of_the_simulator_has_no_error(capsys: pytest.CaptureFixture[str], log: Path) -> None:
    found = _json(capsys, str(log), *WHERE)
    assert (found["schema"], found["kind"], found["format"]) == ("steelyard.compare/1", "replay", "vllm")
    assert found["requests"] == found["completed"] == 150
    for metric in METRICS:
        assert set(found[metric]) == {"mean", "p50", "p90", "p95", "p99"}
        for entry in found[metric].values():
            assert abs(entry["error_frac"]) < 1e-6
            assert entry["inside"] and entry["interval_80"][0] <= entry["interval_80"][1]
    for entry in found["throughput"].values():
        assert abs(entry["error_frac"]) < 1e-3
    assert found["parting"]["where"] == "agree"
    assert all(abs(x) < 1e-6 for x in found["parting"]["parts_s"].values())


def test_the_report_and_the_rows_say_the_same(capsys: pytest.CaptureFixture[str], log: Path) -> None:
    assert main(["compare", str(log), *WHERE]) == 0
    out = capsys.readouterr().out
    assert "They agree within 5%" in out and "80 % interval" in out and "the arrivals of" in out
    assert max(len(line) for line in out.splitlines()) <= 80
    assert main(["compare", str(log), *WHERE, "--csv"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert rows[0] == "metric,statistic,measured,simulated,error_frac,low,high,inside"
    assert len(rows) == 1 + 3 * 5 + 3


def test_records_in_csv_and_a_closed_loop_found_from_the_arrivals(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run = simulate("llama-3.1-8b", "h100_sxm", concurrency=8, isl=400, osl="uniform:40-80", requests=80, seed=1)
    write_records(run, tmp_path / "run.csv")
    found = _json(capsys, str(tmp_path / "run.csv"), *WHERE)
    assert found["load"] == "closed loop of 8 requests in flight, as the log shows"
    assert found["format"] == "steelyard"
    assert all(abs(found[m]["mean"]["error_frac"]) < 0.01 for m in METRICS)
    assert found["throughput"]["requests_per_s"]["inside"]


def test_a_vllm_log_without_start_times_is_sent_as_its_totals_say(log: Path, tmp_path: Path) -> None:
    data = json.loads(log.read_text(encoding="utf-8"))
    del data["start_times"]
    path = tmp_path / "old.json"

    def load(**changes: Any) -> Log:
        path.write_text(json.dumps(data | changes), encoding="utf-8")
        return read_log(str(path))

    assert load(max_concurrency=4).trace.concurrency == 4
    assert not np.any(load(request_rate="inf").trace.arrived_at)
    assert load(request_rate=5.0).trace.rate_per_s == pytest.approx(5.0, rel=0.3)
    assert load(request_rate=5.0).duration_s == data["duration"]
    assert "requests were in flight on average" in load(request_rate=None).load  # too few for all at once
    assert read_log(str(path), concurrency=3).trace.concurrency == 3
    assert "poisson" in read_log(str(path), rate="4/s").load.lower()


def test_aiperf_is_read(capsys: pytest.CaptureFixture[str], measured: Simulation, tmp_path: Path) -> None:
    path, r = tmp_path / "profile_export.jsonl", measured.records
    lines = []
    for i in range(len(r)):
        values = {
            "input_sequence_length": (int(r.isl[i]), "tokens"),
            "output_sequence_length": (int(r.osl[i]), "tokens"),
            "time_to_first_token": (r.ttft_s[i] * 1e3, "ms"),
            "inter_token_latency": (r.tpot_s[i] * 1e3, "ms"),
            "request_latency": (r.e2e_s[i] * 1e3, "ms"),
        }
        metrics = {name: {"value": value, "unit": unit} for name, (value, unit) in values.items()}
        meta = {"request_start_ns": int(r.arrived_at[i] * 1e9), "benchmark_phase": "profiling"}
        lines.append(json.dumps({"metadata": meta, "metrics": metrics}))
    path.write_text("\n".join(lines), encoding="utf-8")
    found = _json(capsys, str(path), *WHERE)
    assert found["format"] == "aiperf"
    assert all(abs(found[m]["mean"]["error_frac"]) < 0.01 for m in METRICS)


@pytest.mark.parametrize("where", ["step_time", "first_token", "queueing", "preemption"])
def test_where_they_part(where: str) -> None:
    """Runs that differ in one thing from what is simulated are told apart."""
    rng = np.random.default_rng(0)
    n = 120
    trace = Trace(np.cumsum(rng.exponential(0.1, n)), rng.integers(200, 900, n), rng.integers(60, 160, n))
    if where == "step_time":
        slow = _run(trace)
        assert slow.replay is not None
        run = slow.replay(1.3)
    elif where == "queueing":
        run = _run(trace, max_num_seqs=6)
    else:
        run = _run(trace)
    log = _log(run, 0.5 if where == "first_token" else 0.0, 8 if where == "preemption" else 0)
    found = replay(log, _run)
    assert found.where == where, (found.words, found.parts_s)
    e2e = log.recorded.e2e_s
    assert e2e is not None
    total = float(np.mean(e2e - found.simulation.records.e2e_s))
    assert sum(found.parts_s.values()) == pytest.approx(total, rel=1e-6)
    assert found.words.startswith("They part in ")


def test_fewer_seats_are_named() -> None:
    """Longer queues with faster steps: the measured engine ran fewer requests at once."""
    rng = np.random.default_rng(0)
    n = 200
    trace = Trace(np.cumsum(rng.exponential(0.02, n)), rng.integers(200, 900, n), rng.integers(100, 300, n))
    found = replay(_log(_run(trace, max_num_seqs=32)), _run)
    assert found.where == "queueing", found.words
    assert "ran fewer requests at once" in found.words and "max_num_seqs" in found.words


def _log(run: Simulation, more_s: float = 0.0, held_up: int = 0) -> Log:
    """A run as a log, its first tokens so much later, every so many-th answer held up."""
    from steelyard.traffic.readers import Recorded

    r = run.records
    held = np.arange(len(r)) % held_up == 0 if held_up else np.zeros(len(r), dtype=bool)
    tpot = np.where(held, 6.0, 1.0) * r.tpot_s
    e2e = r.e2e_s + more_s + (tpot - r.tpot_s) * (r.osl - 1)
    recorded = Recorded(r.isl, r.osl, r.arrived_at, ttft_s=r.ttft_s + more_s, tpot_s=tpot, e2e_s=e2e, name="run")
    return Log(recorded, recorded.trace(), "the arrivals of the log", run.makespan_s)


def test_figures_that_were_not_measured_are_left_open(measured: Simulation) -> None:
    log = _log(measured)
    bare = Log(replace(log.recorded, tpot_s=None, e2e_s=None), log.trace, log.load, None)
    found = {(f.metric, f.statistic): f for f in figures(bare, measured)}
    assert found["e2e_s", "mean"].error_frac is None and found["e2e_s", "mean"].inside is None
    assert found["throughput", "requests_per_s"].measured is None
    assert set(parts(bare.recorded, measured)) == {"queueing", "first_token"}


def test_one_clear_line_for_what_is_missing(capsys: pytest.CaptureFixture[str], log: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain.csv"
    plain.write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n0.0,100,10\n", encoding="utf-8")
    assert is_log(str(log)) and not is_log("h100_sxm")
    for tokens, words in (
        ([str(log)], "--model and --on"),
        ([str(log), "--model", "llama-3.1-8b"], "--on"),
        ([str(log), "h100_sxm"], "compare it alone"),
        ([str(log), "h100_sxm", *WHERE], "too much"),
        ([str(plain), *WHERE], "no measured times"),
        (["nowhere.json", *WHERE], "no file"),
        ([str(log), *WHERE, "--rate", "4/s", "--concurrency", "2"], "choose one"),
        ([str(log), *WHERE, "--concurrency", "0"], "at least 1"),
    ):
        assert main(["compare", *tokens]) == 2, tokens
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and words in lines[0], lines
