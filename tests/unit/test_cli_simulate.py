"""``steelyard simulate``: the JSON's keys, the files it writes, and one clear line per problem."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")

from steelyard.cli.main import main
from steelyard.errors import InputError
from steelyard.report.records import COLUMNS, vllm_bench, write_records
from steelyard.report.simulation import text as report
from steelyard.report.simulation import to_dict
from steelyard.report.timeline import page
from steelyard.scenario.parse import engine_and_scheduler
from steelyard.scenario.slo import parse_target, parse_targets
from steelyard.simulation.api import simulate
from steelyard.simulation.limits import limits
from steelyard.simulation.result import Simulation
from steelyard.traffic import read_recorded
from tests.web.markup import figures_in, plain_markup

MODEL = ["simulate", "llama-3.1-8b", "--on", "h100_sxm"]
SMALL = [*MODEL, "--rate", "20/s", "--requests", "60", "--isl", "uniform:100-400", "--osl", "lognormal:20"]
STATISTICS = {"mean", "p50", "p90", "p95", "p99"}


def _run(capsys: pytest.CaptureFixture[str], *tokens: str) -> tuple[int, str, list[str]]:
    code = main(list(tokens))
    captured = capsys.readouterr()
    return code, captured.out, captured.err.splitlines()


def _json(capsys: pytest.CaptureFixture[str], *tokens: str) -> dict[str, Any]:
    code, out, err = _run(capsys, *tokens, "--json")
    assert (code, err) == (0, [])
    return json.loads(out)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def small() -> Simulation:
    """A short run with a full cache, so that requests wait and are preempted."""
    return simulate(
        "llama-3.1-8b",
        "h100_sxm",
        rate="200/s",
        isl="uniform:100-400",
        osl="uniform:50-200",
        requests=120,
        flags={"num_gpu_blocks_override": 200},
        ttft="p99:1s",
        seed=1,
    )


def test_the_json_has_the_keys_of_the_contract(capsys: pytest.CaptureFixture[str]) -> None:
    found = _json(capsys, *SMALL, "--ttft", "p99:1s", "--tpot", "p95:50ms")
    assert found["schema"] == "steelyard.simulate/1"
    assert (found["requests"], found["completed"], found["rejected"]) == (60, 60, 0)
    for name in ("ttft_s", "tpot_s", "itl_s", "e2e_s", "queue_s"):
        assert set(found[name]) == STATISTICS
        assert found[name]["mean"] > 0 and found[name]["p99"] >= found[name]["p50"]
    for name in ("requests_per_s", "input_tokens_per_s", "output_tokens_per_s", "goodput_requests_per_s"):
        assert found["throughput"][name] > 0
    assert {"iterations", "wall_s", "requests_per_s"} <= set(found["simulation"])
    for name in ("batch", "kv", "preemptions", "energy_j", "usd", "provenance", "limited_by"):
        assert name in found
    assert [v["met"] for v in found["verdicts"]] == [True, True]
    assert sum(found["limited_by"].values()) == pytest.approx(1.0, abs=1e-6)
    assert found["provenance"]["inputs"]["traffic"] == {
        "rate": "20/s",
        "isl": "uniform:100-400",
        "osl": "lognormal:20",
        "requests": 60,
        "seed": 0,
    }


def test_the_same_seed_gives_the_same_records(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        assert _run(capsys, *SMALL, "--records", str(tmp_path / name), "--burst", "2")[0] == 0
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    assert _run(capsys, *SMALL, "--records", str(tmp_path / "c.csv"), "--burst", "2", "--seed", "9")[0] == 0
    assert (tmp_path / "a.csv").read_bytes() != (tmp_path / "c.csv").read_bytes()


def test_records_round_trip_in_every_form(small: Simulation, tmp_path: Path) -> None:
    write_records(small, tmp_path / "r.csv")
    with (tmp_path / "r.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == len(small.records)
    assert [float(r["ttft_s"]) for r in rows] == small.records.ttft_s.tolist()  # to the last bit
    write_records(small, tmp_path / "r.jsonl")
    lines = [json.loads(x) for x in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert [x["e2e_s"] for x in lines] == small.records.e2e_s.tolist()
    assert {x["status"] for x in lines} == {"completed"}
    again = read_recorded(tmp_path / "r.csv")
    assert again.reader == "steelyard"
    assert np.array_equal(again.trace().isl, small.trace.isl)
    assert again.ttft_s == pytest.approx(small.records.ttft_s)
    pytest.importorskip("pyarrow")
    write_records(small, tmp_path / "r.parquet")
    table = read_recorded(tmp_path / "r.parquet")
    assert table.e2e_s is not None and np.array_equal(table.e2e_s, small.records.e2e_s)


def test_what_never_came_is_empty(tmp_path: Path) -> None:
    run = simulate("llama-3.1-8b", "h100_sxm", rate="5/s", isl="file:" + _lengths(tmp_path), osl=1, requests=20)
    assert 0 < np.sum(run.records.status == 1) < 20
    write_records(run, tmp_path / "r.jsonl")
    for line in (tmp_path / "r.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert (row["ttft_s"] is None) == (row["status"] == "rejected")
        assert row["tpot_s"] is None  # answers of one token
    assert to_dict(run)["rejected"] == np.sum(run.records.status == 1)
    assert "rejected (longer than the model" in report(run)
    assert "nan" not in report(run).lower()


def _lengths(folder: Path) -> str:
    (folder / "l.csv").write_text("n\n100\n500000\n")
    return f"{folder / 'l.csv'}#n"


def test_the_vllm_form_reads_back_as_a_log(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    assert _run(capsys, *SMALL, "--format", "vllm", "--out", str(path))[0] == 0
    data = json.loads(path.read_text())
    assert data["completed"] == 60
    assert data["mean_ttft_ms"] == pytest.approx(1e3 * np.mean(data["ttfts"]))
    assert data["total_output_tokens"] == sum(data["output_lens"])
    assert len(data["itls"][0]) == data["output_lens"][0] - 1
    log = read_recorded(path)
    assert log.reader == "vllm"
    assert log.ttft_s == pytest.approx(data["ttfts"])
    assert log.e2e_s == pytest.approx([t + sum(g) for t, g in zip(data["ttfts"], data["itls"], strict=True)], rel=1e-6)


def test_the_vllm_form_counts_failures(tmp_path: Path) -> None:
    run = simulate("llama-3.1-8b", "h100_sxm", rate="5/s", isl="file:" + _lengths(tmp_path), osl=5, requests=20)
    data = vllm_bench(run)
    assert data["completed"] + data["failed"] == 20
    assert [n == 0 for n in data["output_lens"]] == [bool(e) for e in data["errors"]]


def test_perfetto_is_balanced_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    assert _run(capsys, *SMALL, "--perfetto", str(path))[0] == 0
    events = json.loads(path.read_text())["traceEvents"]
    kinds = [e["ph"] for e in events]
    assert kinds.count("b") == kinds.count("e") > 120
    steps = [e for e in events if e["ph"] == "X"]
    assert {e["name"] for e in steps} <= {"prompt", "decode", "mixed"}
    assert all(e["dur"] > 0 for e in steps)


def test_the_page_is_complete_in_itself(small: Simulation) -> None:
    made = page(small, parse_targets({"ttft": "p99:1s"}))
    plain, figures = plain_markup(made), figures_in(made)
    assert len(figures) == plain.count("<figure ") == 12
    assert re.findall(r"(?:src|href)=\S*", plain) == ['href="data:,">']
    assert not re.search(r"https?://|\bnan\b|\binf\b", plain)
    assert "met" in plain or "missed" in plain
    times = np.sort(np.asarray(small.records.ttft_s)[np.asarray(small.records.completed)])
    p99 = next(row[2] for row in figures["ttft"]["rows"] if row[1] == "p99")
    assert p99 == pytest.approx(float(np.percentile(times, 99)), rel=1e-9)


def test_time_averages_add_up(small: Simulation) -> None:
    series = small.series(50)
    width = small.makespan_s / 50
    tokens = float(np.sum(small.iterations.decode_tokens)) + float(np.sum(small.iterations.prefill_tokens))
    summed = (series["prefill_tokens_per_s"] + series["decode_tokens_per_s"]).sum() * width
    assert summed == pytest.approx(tokens, rel=1e-6)
    assert series["kv_frac"].max() <= 1.0 + 1e-9
    shares = limits(small)
    assert shares["kv"] > 0.2  # 200 blocks are too few for this load
    assert small.totals["preemptions"] >= 0


def test_the_report_fits_80_columns_and_names_what_was_missed(small: Simulation) -> None:
    found = report(small, targets=parse_targets({"ttft": "p99:1us", "e2e": "mean:1h"}))
    assert max(map(len, found.splitlines())) <= 80
    assert re.search(r"SLO +missed +TTFT p99", found)
    assert re.search(r"met +E2E mean", found)
    assert "KV cache full" in found


def test_a_missed_promise_is_an_answer(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = _run(capsys, *SMALL, "--ttft", "p99:1us")
    assert (code, err) == (0, [])
    assert "missed" in out and "goodput     0 requests/s" in out


def test_closed_loops_conversations_and_traces(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    loop = _json(capsys, *MODEL, "--concurrency", "4", "--isl", "200", "--osl", "10")
    assert loop["completed"] == 40
    assert loop["batch"]["max"] <= 4
    talk = _json(
        capsys,
        *MODEL,
        "--rate",
        "5/s",
        "--turns",
        "3",
        "--think",
        "1s",
        "--isl",
        "100",
        "--osl",
        "20",
        "--requests",
        "30",
    )
    assert talk["prefix_cache"]["hit_tokens"] > 0
    file = tmp_path / "t.csv"
    file.write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n0,100,5\n1,200,5\n0.5,300,5\n")
    found = _json(capsys, *MODEL, "--trace", str(file))
    assert found["completed"] == 3
    assert "sorted" in found["notes"][0]


@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm", "static", "orca"])
def test_engines_and_schedulers(capsys: pytest.CaptureFixture[str], engine: str) -> None:
    assert _json(capsys, *SMALL, "--engine", engine)["completed"] == 60


def test_flags_have_the_engines_own_names(capsys: pytest.CaptureFixture[str]) -> None:
    names = [("vllm", "--max-num-seqs"), ("sglang", "--max-running-requests"), ("trtllm", "--max-batch-size")]
    for engine, option in names:
        assert _json(capsys, *SMALL, "--engine", engine, option, "2")["batch"]["max"] <= 2
    blocks = _json(capsys, *SMALL, "--num-gpu-blocks", "2k", "--flag", "watermark=0.05")["kv"]["blocks"]
    assert blocks == 2000
    assert engine_and_scheduler("static") == ("", "static")


def test_replicas_multiply_the_deployment(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    found = _json(capsys, *SMALL, "--replicas", "2", "--router", "least-loaded", "--records", str(path))
    assert found["provenance"]["inputs"]["on"] == "h100_sxm:2"
    with path.open() as stream:
        assert {row["replica"] for row in csv.DictReader(stream)} == {"0", "1"}


def test_deadlines_and_priorities_come_from_the_trace(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text(
        "arrived_at,num_prefill_tokens,num_decode_tokens,priority,deadline_s\n"
        + "".join(f"0,500,20,{9 - i},{10 - i}\n" for i in range(10))
    )
    waits = {}
    for policy in ("fcfs", "priority", "deadline"):
        path = tmp_path / f"{policy}.csv"
        options = ["--policy", policy, "--max-num-seqs", "1", "--records", str(path)]
        assert _run(capsys, *MODEL, "--trace", str(file), *options)[0] == 0
        with path.open() as stream:
            waits[policy] = [float(row["ttft_s"]) for row in csv.DictReader(stream)]
    assert waits["fcfs"] == sorted(waits["fcfs"])
    for policy in ("priority", "deadline"):
        assert waits[policy][1:] == sorted(waits[policy][1:], reverse=True)


def test_one_row_of_csv(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = _run(capsys, *SMALL, "--csv", "--ttft", "1s")
    rows = list(csv.DictReader(out.splitlines()))
    assert (code, len(rows)) == (0, 1)
    assert float(rows[0]["ttft_s.p99"]) > 0
    assert rows[0]["verdict.ttft_s.p99.met"] == "True"


def test_a_trace_in_python_is_sent_as_it_is(small: Simulation) -> None:
    again = simulate("llama-3.1-8b", "h100_sxm", trace=small.trace, flags={"num_gpu_blocks_override": 200})
    assert np.array_equal(again.records.ttft_s, small.records.ttft_s)
    with pytest.raises(InputError) as caught:
        simulate("llama-3.1-8b", "h100_sxm", trace=small.trace, rate="4/s", isl=5)
    assert [p.field for p in caught.value.problems] == ["rate", "isl"]


# Bad input: exit 2, one line per problem, nothing on stdout


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        ([], "say what is sent: --rate 4/s, --trace FILE"),
        (["--rate", "0"], "rate: expected a rate from 1e-9"),
        (["--rate", "fast"], "rate: expected a rate such as 4/s"),
        (["--rate", "4", "--isl", "-1"], "isl: expected a whole number from 1"),
        (["--rate", "4", "--osl", "unifrom:1-2"], "did you mean 'uniform'"),
        (["--rate", "4", "--requests", "0"], "requests: expected at least 1"),
        (["--rate", "4", "--concurrency", "2"], "choose one of --rate and --concurrency"),
        (["--trace", "nowhere.csv"], "no file at 'nowhere.csv'"),
        (["--rate", "4", "--ttft", "p101:1s"], "ttft: expected a percentile"),
        (["--rate", "4", "--ttft", "p99:soon"], "ttft: expected a number in s"),
        (["--rate", "4", "--tpot", "best:1s"], "expected p99:1s, mean:50ms or 1s"),
        (["--rate", "4", "--engine", "vlm"], "unknown engine 'vlm'; did you mean 'vllm'"),
        (["--rate", "4", "--policy", "lifo"], "unknown policy 'lifo'"),
        (["--rate", "4", "--policy", "priority"], "the requests have no priorities"),
        (["--rate", "4", "--router", "magic"], "unknown router"),
        (["--rate", "4", "--max-num-seqs", "0"], "--max-num-seqs"),
        (["--rate", "4", "--max-num-seqs", "1.5"], "--max-num-seqs: expected a whole number"),
        (["--rate", "4", "--gpu-memory-utilization", "1.5"], "--gpu-memory-utilization"),
        (["--rate", "4", "--flag", "nonsense=1"], "unknown flag"),
        (["--rate", "4", "--flag", "nonsense"], "expected NAME=VALUE"),
        (["--rate", "4", "--replicas", "0"], "replicas: expected at least 1"),
        (["--rate", "4", "--records", "r.txt"], "records: expected a file ending in .csv"),
        (["--rate", "4", "--html", "page.pdf"], "html: expected a file ending in .html"),
        (["--rate", "4", "--perfetto", "no/such/folder/p.json"], "perfetto: no folder"),
        (["--rate", "4", "--price", "-1"], "price"),
        (["--rate", "4", "--weights", "fp9"], "unknown format 'fp9'"),
        (["--rate", "4", "--num-gpu-blocks", "0"], "--num-gpu-blocks: expected at least 1"),
        (["--rate", "4", "--speculate", "eagel:k=4"], "unknown method 'eagel'; did you mean 'eagle'"),
        (["--rate", "4", "--speculate", "eagle:k=2.5"], "speculate: expected a whole number for k"),
        (["--rate", "4", "--speculate", "eagle:k=nan"], "speculate: expected a whole number for k"),
        (["--rate", "4", "--speculate", "draft:llama-3.2-1x"], "did you mean 'llama-3.2-1b'"),
        (["--rate", "4", "--lora", "ten"], "lora: expected a whole number for adapters, got 'ten'"),
        (["--rate", "4", "--lora", "5,targts=all"], "did you mean 'targets'"),
        (["--rate", "4", "--kv-tiers", "gpu:3GB"], "--kv-tiers: expected one of cpu, ssd, pool"),
        (["--rate", "4", "--kv-tiers", "swap"], "swap needs a level"),
        (["--rate", "4", "--early-exit", "rebach:ramps=3"], "unknown word 'rebach'; did you mean 'rebatch'"),
        (["--rate", "4", "--finetune", "soon"], "finetune: expected a number in s"),
        (["--rate", "4", "--finetune", "fintune:30ms"], "finetune: expected a number in s, got 'fintune:30ms'"),
        (["--rate", "4", "--overlap", "nanoflwo"], "unknown overlap 'nanoflwo'; did you mean 'nanoflow'"),
        (["--rate", "4", "--best-of", "0"], "--best-of: expected at least 1"),
        (["--rate", "4", "--best-of", "999999999"], "--best-of: expected at most 1000"),
        (["--rate", "4", "--best-of", "2", "--beam", "2"], "choose one of --best-of and --beam"),
        (["--concurrency", "4", "--beam", "2"], "beam: only requests that arrive by themselves"),
        (["--rate", "4", "--disaggregate", "smei:0.6"], "unknown word 'smei'; did you mean 'semi:0.6'"),
        (["--rate", "4", "--disaggregate", "semi:1.5"], "disaggregate: expected a share above 0 and below 1"),
        (["--rate", "4", "--disaggregate", "semi:half"], "disaggregate: expected a share such as semi:0.6"),
        (["--rate", "4", "--disaggregate", "semi:0.5", "--replicas", "2"], "replicas: not together"),
        (["--rate", "4", "--disaggregate", "1Q:tp1"], "unknown pool 'Q'"),
        (["--rate", "4", "--disaggregate", "1A:8@h20"], "expected attention and feed-forward devices"),
        (["--rate", "4", "--disaggregate", "1A:1,1F:1"], "the sides use 2 devices, but h100_sxm has 1"),
        (["--rate", "4", "--disaggregate", "1A:1@h100_sxm,1F:1@h20", "--tp", "2"], "tp: not together"),
        (
            ["--rate", "4", "--disaggregate", "1A:1@h100_sxm,1F:1@h20", "--overlap", "nanoflow"],
            "not together with nanoflow",
        ),
    ],
)
def test_bad_input_is_one_line(capsys: pytest.CaptureFixture[str], tokens: list[str], words: str) -> None:
    code, out, err = _run(capsys, *MODEL, *tokens)
    assert (code, out) == (2, ""), (out, err)
    assert len(err) == 1 and err[0].startswith("error: "), err
    assert words in err[0]


def test_several_problems_are_several_lines(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = _run(capsys, *MODEL, "--rate", "0", "--isl", "x", "--osl", "0")
    assert code == 2
    assert len(err) == 3


def test_every_word_is_read_before_anything_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    wrong = {
        "--speculate": "x",
        "--lora": "x",
        "--kv-tiers": "x",
        "--early-exit": "x=1",
        "--finetune": "x",
        "--overlap": "x",
        "--best-of": "0",
        "--ttft": "x",
        "--mtbf": "x",
        "--autoscale": "x",
        "--outages": "x",
        "--price": "x",
        "--encode": "x",
        "--engine": "x",
        "--disaggregate": "1Q:x,x",
        "--max-num-seqs": "x",
    }
    code, out, err = _run(capsys, *MODEL, "--rate", "4", *(word for pair in wrong.items() for word in pair))
    assert (code, out, len(err)) == (2, "", len(wrong) + 1)  # two pools are wrong


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("1,abc,5", "line 3: num_prefill_tokens: expected a whole number of at least 1, got 'abc'"),
        ("1,-5,5", "line 3: num_prefill_tokens: expected a whole number of at least 1, got '-5'"),
        ("1,nan,5", "line 3: num_prefill_tokens: expected a whole number"),
        ("1,5,nan", "line 3: num_decode_tokens: expected a whole number"),
        ("1,2000000000,5", "line 3: num_prefill_tokens: expected a whole number of at most"),
        ("1,5", "line 3: expected 3 fields, got 2"),
        ("nan,5,5", "line 3: arrived_at: expected a time of at least 0"),
        ("1e300,5,5", "arrived_at: expected times of at most 1e+10 s"),
    ],
)
def test_bad_rows_are_named(capsys: pytest.CaptureFixture[str], tmp_path: Path, row: str, words: str) -> None:
    file = tmp_path / "t.csv"
    file.write_text(f"arrived_at,num_prefill_tokens,num_decode_tokens\n0,5,5\n{row}\n")
    code, out, err = _run(capsys, *MODEL, "--trace", str(file))
    assert (code, out, len(err)) == (2, "", 1)
    assert words in err[0]


def test_what_cannot_be_served_is_counted_and_run_aways_stop_with_a_reason(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "t.csv"
    file.write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n0,500000,5\n")
    found = _json(capsys, *MODEL, "--trace", str(file))
    assert (found["requests"], found["rejected"], found["completed"]) == (1, 1, 0)
    found = _json(capsys, *SMALL, "--num-gpu-blocks", "1")
    assert found["rejected"] == 60
    long = [*MODEL, "--rate", "20/s", "--requests", "5", "--isl", "120000", "--osl", "5"]
    found = _json(capsys, *long, "--mtbf", "1s", "--restart", "1h")
    assert found["unfinished"] > 0
    assert "fail" in found["stopped"]


# methods beyond scheduling


def test_the_report_says_what_methods_did(capsys: pytest.CaptureFixture[str]) -> None:
    cases = {
        ("--speculate", "eagle:k=4"): r"speculation +\d+% of [\d,]+ guesses used; \d\.\d+ tokens per step",
        ("--kv-tiers", "cpu:200GB,swap"): r"cache levels +0.0% of the prompt tokens loaded",
        ("--lora", "20,max_loras=2"): r"adapters +loaded \d+ times; 2 of 20 resident",
        ("--early-exit", "rebatch:ramps=3"): r"early exit +a token of its own runs through 63% of the layers",
        ("--finetune", "30ms"): r"finetuning +[\d,]+ tokens/s trained on beside",
        ("--overlap", "nanoflow"): r"overlap +kernels beside each other as nanoflow",
        ("--best-of", "3"): r"each prompt +3 answers; first token of any after",
        ("--disaggregate", "semi:0.6"): r"prompts: 60% of the device",
    }
    for words, pattern in cases.items():
        code, out, err = _run(capsys, *SMALL, "--no-intervals", *words)
        assert (code, err) == (0, []), words
        assert re.search(pattern, out), out
        assert max(map(len, out.splitlines())) <= 80


def test_methods_in_the_json(capsys: pytest.CaptureFixture[str]) -> None:
    found = _json(capsys, *SMALL, "--speculate", "eagle:k=4,accept=1", "--no-intervals")["extras"]
    assert found["accepted_frac"] > 0.7  # the ends of answers are shorter than a guess
    assert 3 < found["tokens_per_step"] <= 5
    plain = _json(capsys, *SMALL, "--no-intervals")
    assert "extras" not in plain and "groups" not in plain
    found = _json(capsys, *SMALL, "--beam", "2", "--no-intervals")
    assert (found["requests"], found["groups"]["branches"]) == (120, 2)
    assert found["groups"]["e2e_s"]["mean"] >= found["e2e_s"]["mean"]
    found = _json(capsys, *SMALL, "--finetune", "30ms", "--no-intervals")["extras"]
    assert found["trained_tokens_per_s"] > 100


def test_attention_and_feed_forward_apart(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["simulate", "llama-3.1-8b", "--on", "h100_sxm:2", "--rate", "4", "--requests", "30"]
    found = _json(capsys, *words, "--disaggregate", "1A:1,1F:1")
    assert [(p["role"], p["devices"]) for p in found["pools"]] == [("both", 1), ("feed_forward", 1)]
    per_device = found["throughput"]["output_tokens_per_s_per_device"]
    low, high = found["intervals"]["throughput"]["output_tokens_per_s_per_device"]
    assert low * 0.999 <= per_device <= high * 1.001  # the runs at the ends count both sides, too
    code, out, _ = _run(capsys, *words, "--disaggregate", "1A:1,1F:1")
    assert code == 0
    assert "attention, prompts and answers: 1 x 1 device" in out and "feed-forward: 1 x 1 device" in out
    assert "rented" not in out


def test_a_model_that_does_not_fit_is_exit_3(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = _run(capsys, "simulate", "llama-3.1-70b", "--on", "l40s", "--rate", "1/s", "--requests", "5")
    assert (code, out, len(err)) == (3, "", 1)


def test_targets() -> None:
    assert parse_target("p99:1s", "ttft_s").label == "p99"
    assert parse_target("50ms", "tpot_s").percentile == 99
    assert parse_target("mean:2s", "e2e_s").label == "mean"
    with pytest.raises(InputError) as caught:
        parse_targets({"ttft": "p99:0s", "tpot": "x"})
    assert [p.field for p in caught.value.problems] == ["ttft", "tpot"]


def test_help_starts_without_the_simulator() -> None:
    code = (
        "import sys; from steelyard.cli.main import main; main(['simulate', '--help']); print('numba' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("False")
