"""Logs and traces as people have them: printed summaries, appended results, tables of their own, other block sizes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steelyard.cli import main as cli
from steelyard.errors import InputError
from steelyard.simulation.replay import is_log, read_log, said_by
from steelyard.traffic import readers
from steelyard.traffic.lengths import parse_lengths
from steelyard.traffic.readers import read_recorded

_PRINTED = """some lines of a client
============ Serving Benchmark Result ============
Backend:                                 sglang
Traffic request rate:                    4.0
Max request concurrency:                 not set
Successful requests:                     1,200
Benchmark duration (s):                  300.00
Total input tokens:                      1,228,800
Total generated tokens:                  153,600
---------------Time to First Token----------------
Mean TTFT (ms):                          60.00
Median TTFT (ms):                        55.00
P99 TTFT (ms):                           100.00
-----Time per Output Token (excl. 1st token)------
Mean TPOT (ms):                          9.00
==================================================
"""
_RESULT: dict[str, Any] = {
    "backend": "vllm",
    "model_id": "meta-llama/Llama-3.1-8B-Instruct",
    "request_rate": "inf",
    "max_concurrency": 8,
    "duration": 30.5,
    "completed": 40,
    "total_input_tokens": 20480,
    "total_output_tokens": 5120,
    "request_throughput": 1.3,
    "mean_ttft_ms": 60.0,
    "p99_ttft_ms": 100.0,
    "median_tpot_ms": 9.0,
}


def _file(folder: Path, name: str, content: object) -> str:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def test_a_printed_summary(tmp_path: Path) -> None:
    source = _file(tmp_path, "out.txt", _PRINTED)
    assert is_log(source)
    log = read_log(source)
    found = log.recorded
    assert (len(found), int(found.isl[0]), int(found.osl[0])) == (1200, 1024, 128)
    assert found.summary["ttft_s"] == pytest.approx({"mean": 0.06, "p50": 0.055, "p99": 0.1})
    assert found.summary["tpot_s"] == pytest.approx({"mean": 0.009})
    assert log.duration_s == 300.0
    assert "poisson at 4" in log.load
    completed, words = said_by(log, {"model": "llama-3.1-8b", "engine": ""})
    assert words == {"model": "llama-3.1-8b", "engine": "sglang"}
    assert "engine sglang" in completed.load


def test_a_printed_summary_without_a_rate_was_sent_at_once(tmp_path: Path) -> None:
    bare = "\n".join(x for x in _PRINTED.splitlines() if "rate:" not in x and "concurrency:" not in x)
    drawn = read_log(_file(tmp_path, "spread.txt", bare))  # 1.2 s each in 300 s: not all at once
    assert "4.8 requests were in flight" in drawn.load and "poisson at 4/s" in drawn.load
    bare = bare.replace("300.00", "2.00")
    log = read_log(_file(tmp_path, "out.txt", bare))
    assert log.load.startswith("all at once") and set(log.trace.arrived_at.tolist()) == {0.0}
    held = bare.replace("Successful", "Maximum request concurrency:             16\nSuccessful")
    assert "closed loop of 16" in read_log(_file(tmp_path, "held.txt", held)).load
    inf = bare.replace("Successful", "Request rate configured (RPS):           inf\nSuccessful")
    assert read_log(_file(tmp_path, "inf.txt", inf)).load.startswith("all at once")


def test_a_log_that_names_no_model_asks_for_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compare", _file(tmp_path, "out.txt", _PRINTED), "--on", "h100_sxm"]) == 2
    assert "--model" in capsys.readouterr().err


def test_a_result_without_entries_says_how_it_was_sent(tmp_path: Path) -> None:
    log = read_log(_file(tmp_path, "result.json", _RESULT))
    assert len(log.trace) == 40
    assert "closed loop of 8" in log.load
    _, words = said_by(log, {"model": "", "engine": ""})
    assert words == {"model": "meta-llama/Llama-3.1-8B-Instruct", "engine": "vllm"}
    assert said_by(log, {"model": "mine", "engine": "trtllm"})[1] == {"model": "mine", "engine": "trtllm"}


def test_of_appended_results_the_last_is_read_unless_another_is_named(tmp_path: Path) -> None:
    second = {**_RESULT, "completed": 50}
    source = _file(tmp_path, "all.json", json.dumps(_RESULT) + "\n" + json.dumps(second) + "\n")
    assert [len(read_recorded(source + which)) for which in ("#1", "#2", "")] == [40, 50, 50]
    assert "all.json holds 2 results; this is the last, all.json#1 the first" in read_recorded(source).notes
    with pytest.raises(InputError, match="results 1 to 2"):
        read_recorded(source + "#3")


def test_measured_statistics_stand_beside_the_simulation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = _file(tmp_path, "result.json", _RESULT)
    assert cli.main(["compare", source, "--on", "h100_sxm", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["model"] == "meta-llama/Llama-3.1-8B"
    assert data["ttft_s"]["mean"]["measured"] == 0.06
    assert data["ttft_s"]["p99"]["measured"] == 0.1
    assert data["ttft_s"]["p50"]["measured"] is None
    assert data["tpot_s"]["p50"]["measured"] == pytest.approx(0.009)


def test_genai_perf(tmp_path: Path) -> None:
    summary = {
        "request_throughput": {"unit": "requests/sec", "avg": 2.0},
        "request_count": {"unit": "count", "avg": 100.0},
        "time_to_first_token": {"unit": "ms", "avg": 50.0, "p50": 45.0, "p99": 90.0, "std": 4.0},
        "inter_token_latency": {"unit": "ms", "avg": 10.0},
        "input_sequence_length": {"unit": "tokens", "avg": 500.0},
        "output_sequence_length": {"unit": "tokens", "avg": 100.0},
        "input_config": {"perf_analyzer": {"stimulus": {"concurrency": 4}}},
    }
    log = read_log(_file(tmp_path, "profile_export_genai_perf.json", summary))
    assert (len(log.trace), int(log.recorded.isl[0]), int(log.recorded.osl[0])) == (100, 500, 100)
    assert log.recorded.summary["ttft_s"] == {"mean": 0.05, "p50": 0.045, "p99": 0.09}
    assert "closed loop of 4" in log.load
    assert log.duration_s == 50.0


def _chunk(**choice: Any) -> dict[str, str]:
    return {"response": "data: " + json.dumps({"choices": [choice]}) + "\n\n"}


def _raw_request(sent_ms: int, usage: Any = None) -> dict[str, Any]:
    """A role, three pieces of text 10 ms apart from 50 ms on, and the end mark."""
    said = {"response": "data: " + json.dumps({"choices": [], "usage": usage})}
    pieces = [_chunk(delta={"role": "assistant", "content": ""}), *[_chunk(delta={"content": "a"})] * 3, said]
    at = [sent_ms + ms for ms in (30, 50, 60, 70, 71, 72)]
    return {
        "timestamp": sent_ms * 10**6,
        "request_inputs": {"payload": json.dumps({"model": "llama-3.1-8b", "messages": []})},
        "response_timestamps": [x * 10**6 for x in at],
        "response_outputs": [*pieces, {"response": "data: [DONE]"}],
    }


def test_the_raw_profile_of_genai_perf(tmp_path: Path) -> None:
    how = {"mode": "concurrency", "value": 1}
    requests = [_raw_request(80 * i) for i in range(6)]
    source = _file(tmp_path, "raw.json", {"experiments": [{"experiment": how, "requests": requests}]})
    assert is_log(source)
    with pytest.raises(InputError, match=r"isl: raw\.json has no prompt lengths; add --isl"):
        read_log(source)
    log = read_log(source, lengths={"isl": parse_lengths("512")})
    found = log.recorded
    assert (set(found.isl.tolist()), set(found.osl.tolist())) == ({512}, {3})
    assert found.ttft_s is not None and found.ttft_s[0] == pytest.approx(0.05)  # not the role's piece
    assert found.tpot_s is not None and found.tpot_s[0] == pytest.approx(0.01)
    assert "in flight" in log.load and found.said["model"] == "llama-3.1-8b"
    used = [_raw_request(80 * i, {"prompt_tokens": 700, "completion_tokens": 5}) for i in range(6)]
    read = read_recorded(_file(tmp_path, "usage.json", {"experiments": [{"experiment": how, "requests": used}]}))
    assert (int(read.isl[0]), int(read.osl[0])) == (700, 5)
    with pytest.raises(InputError, match="lengths come from the trace"):
        read_recorded(tmp_path / "usage.json", lengths={"isl": parse_lengths("512")})


def _llmperf(**more: Any) -> dict[str, Any]:
    answer = {"ttft_s": 0.1, "end_to_end_latency_s": 1.1, "inter_token_latency_s": 0.0108, "error_code": None}
    return {**answer, "number_input_tokens": 500, "number_output_tokens": 101, **more}


def test_llmperf(tmp_path: Path) -> None:
    summary: dict[str, Any] = {"model": "llama-3.1-8b", "num_concurrent_requests": 4}
    for name, value in (("ttft_s", 0.1), ("end_to_end_latency_s", 1.1), ("inter_token_latency_s", 0.0108)):
        summary |= {f"results_{name}_mean": value, f"results_{name}_quantiles_p95": 2 * value}
    summary |= {"results_number_input_tokens_mean": 500.0, "results_number_output_tokens_mean": 101.0}
    summary["results_num_completed_requests"] = 40
    summary["results_num_completed_requests_per_min"] = 80.0
    log = read_log(_file(tmp_path, "run_summary.json", summary))
    assert (len(log.trace), log.duration_s) == (40, pytest.approx(30.0))
    assert "closed loop of 4" in log.load
    assert log.recorded.summary["ttft_s"] == {"mean": 0.1, "p95": 0.2}
    assert log.recorded.summary["tpot_s"] == {"mean": pytest.approx(0.01)}  # LLMPerf's own counts the first token
    requests = [_llmperf(), _llmperf(error_code=429), _llmperf(number_input_tokens=600)]
    single = read_log(_file(tmp_path, "run_individual_responses.json", requests))
    assert single.recorded.isl.tolist() == [500, 600] and "closed loop of 4" in single.load  # its summary says so
    assert single.recorded.tpot_s is not None and single.recorded.tpot_s[0] == pytest.approx(0.01)
    assert "1 failed" in single.recorded.rejected[0]
    with pytest.raises(InputError, match="no arrival times; give --rate or --concurrency"):
        read_log(_file(tmp_path, "alone.json", requests))


def test_vllm_bench_throughput(tmp_path: Path) -> None:
    result = {"elapsed_time": 20.0, "num_requests": 100, "total_num_tokens": 60000, "requests_per_second": 5.0}
    source = _file(tmp_path, "throughput.json", result)
    assert is_log(source)
    with pytest.raises(InputError, match=r"isl: .* add --isl TOKENS \(or the other alone: each request has 600"):
        read_log(source)
    log = read_log(source, lengths={"osl": parse_lengths("100")})
    assert (len(log.trace), int(log.trace.isl[0]), int(log.trace.osl[0])) == (100, 500, 100)
    assert set(log.trace.arrived_at.tolist()) == {0.0} and log.duration_s == 20.0
    printed = (
        "Throughput: 5.00 requests/s, 3000.00 total tokens/s, 500.00 output tokens/s\n"
        "Total num prompt tokens:  50000\nTotal num output tokens:  10000\n"
    )
    long = "INFO a line of the engine\n" * 6000
    log = read_log(_file(tmp_path, "out.txt", long + printed))  # below what a reader looks at first
    assert (len(log.trace), int(log.trace.isl[0]), int(log.trace.osl[0]), log.duration_s) == (100, 500, 100, 20.0)
    assert said_by(log, {"model": "", "engine": ""})[1]["engine"] == "vllm"
    with pytest.raises(InputError, match="how many requests were sent; keep the line of the command"):
        read_log(_file(tmp_path, "bare.txt", "Throughput: 5.00 requests/s, 3000.00 tokens/s\n"))


def test_one_batch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = {"avg_latency": 0.8, "latencies": [0.8, 0.8], "percentiles": {"10": 0.79, "50": 0.8, "99": 0.82}}
    source = _file(tmp_path, "latency.json", result)
    lengths = {"isl": parse_lengths("32"), "osl": parse_lengths("128")}
    with pytest.raises(InputError, match="how many requests its batch had; give --batch"):
        read_log(source, lengths=lengths)
    log = read_log(source, concurrency=8, lengths=lengths)
    assert (len(log.trace), log.load, log.duration_s) == (8, "all at once", 0.8)
    assert log.recorded.summary["e2e_s"]["p50"] == 0.8
    command = "$ vllm bench latency --model llama-3.1-8b --input-len 32 --output-len 128 --batch-size 8\n"
    printed = command + "Avg latency: 0.8 seconds\n50% percentile latency: 0.79 seconds\n"
    source = _file(tmp_path, "latency.txt", printed)
    assert cli.main(["compare", source, "--on", "h100_sxm", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["requests"], data["engine"], data["e2e_s"]["p50"]["measured"]) == (8, "vllm", 0.79)
    assert 0.5 < data["e2e_s"]["mean"]["simulated"] < 1.2
    batch = {
        "batch_size": 4,
        "input_len": 128,
        "output_len": 8,
        "prefill_latency": 0.02,
        "median_decode_latency": 0.007,
    }
    lines = "".join(json.dumps({**batch, "batch_size": n, "total_latency": 0.07}) + "\n" for n in (1, 4))
    log = read_log(_file(tmp_path, "one_batch.jsonl", lines))
    assert (len(log.trace), log.recorded.said["engine"]) == (4, "sglang")
    assert log.recorded.summary["tpot_s"] == {"mean": 0.007}


def test_a_load_without_a_log_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compare", "llama-3.1-8b", "qwen3-8b", "--users", "8", "--isl", "100"]) == 2
    assert capsys.readouterr().err.count("only for a benchmark's log") == 2


def test_an_offline_table_of_sglang(tmp_path: Path) -> None:
    table = _PRINTED.replace("Serving", "Offline Throughput").split("----")[0]
    log = read_log(_file(tmp_path, "offline.txt", table))
    assert (log.load, log.duration_s, log.recorded.said["engine"]) == ("all at once, as the log says", 300.0, "sglang")


def test_a_rate_stretches_the_arrivals(tmp_path: Path) -> None:
    log = read_log(_file(tmp_path, "out.txt", _PRINTED))
    assert log.trace.arrived_at[-1] == pytest.approx(1200 / 4)  # exactly what the client was asked for
    requests = [_raw_request(ms) for ms in (0, 100, 500)]
    how = {"mode": "request_rate", "value": 3}
    source = _file(tmp_path, "raw.json", {"experiments": [{"experiment": how, "requests": requests}]})
    prompts = {"isl": parse_lengths("512")}
    assert read_log(source, lengths=prompts).trace.arrived_at.tolist() == pytest.approx([0, 0.1, 0.5])
    assert read_log(source, rate="3/s", lengths=prompts).trace.arrived_at.tolist() == pytest.approx([0, 0.2, 1.0])


@pytest.mark.parametrize(
    ("head", "first", "arrival"),
    [
        ("time,input_tokens,output_tokens", "2.5,500,100", 2.5),
        ("arrival_ms,Prompt Tokens,Completion Tokens", "2500,500,100", 2.5),
        ("request_id,start_time,isl,osl", "a,2.5,500,100", 2.5),
        ("timestamp,input_length,output_length,kind", "2.5,500,100,chat", 2.5),
        ("num_prompt_tokens,num_generated_tokens", "500,100", None),
    ],
)
def test_tables_of_ones_own(tmp_path: Path, head: str, first: str, arrival: float | None) -> None:
    found = read_recorded(_file(tmp_path, "mine.csv", f"{head}\n{first}\n{first}\n"))
    assert found.reader == "plain"
    assert (int(found.isl[0]), int(found.osl[0])) == (500, 100)
    assert (None if found.arrived_at is None else float(found.arrived_at[0])) == arrival
    assert "columns read" in found.notes[-1]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tsv", "request_time\tprompt_tokens\tcompletion_tokens\n2.5\t500\t100\n3\t600\t100\n"),
        ("a.csv", "ts;input_tokens;output_tokens\n2.5;500;100\n3;600;100\n"),
        ("b.csv", "created_at_ms,name,isl,osl\n2500,x,500,100\n3000,y,600,100\n"),
        (
            "a.jsonl",
            '{"sent_at": 2.5, "isl": 500, "osl": 100}\n\n{"sent_at": 3, "isl": "600", "osl": 100, "extra": [1]}\n',
        ),
        ("a.json", '[{"time": 2.5, "isl": 500, "osl": 100}, {"time": 3, "isl": 600, "osl": 100}]'),
        ("b.json", '[\n {"time": 2.5,\n "isl": 500, "osl": 100},\n {"time": 3, "isl": 600, "osl": 100}]'),
    ],
)
def test_separators_and_objects_of_ones_own(tmp_path: Path, name: str, content: str) -> None:
    found = read_recorded(_file(tmp_path, name, content))
    assert (found.reader, found.isl.tolist(), found.osl.tolist()) == ("plain", [500, 600], [100, 100])
    assert found.arrived_at is not None and found.arrived_at.tolist() == [2.5, 3.0]


def test_objects_that_are_none_are_named_with_their_line(tmp_path: Path) -> None:
    good = '{"time": 1, "isl": 5, "osl": 5}\n'
    for bad, words in (
        ("[1]", "line 2: expected an object"),
        ("{", "line 2: malformed JSON"),
        ('{"time": 1, "isl": true, "osl": 5}', "line 2: isl: expected a whole number"),
        ('{"time": 1, "osl": 5}', "line 2: isl: expected a whole number"),
        ('{"time": null, "isl": 5, "osl": 5}', "line 2: time"),
    ):
        with pytest.raises(InputError, match=words):
            read_recorded(_file(tmp_path, "a.jsonl", good + bad + "\n"))
    with pytest.raises(InputError, match="entry 2: expected an object"):
        read_recorded(_file(tmp_path, "a.json", f"[{good.strip()}, 5]"))


def test_the_csv_of_genai_perf(tmp_path: Path) -> None:
    table = "Metric,avg,min,p99,p50\n"
    table += 'Time To First Token (ms),"1,060.00",50.00,99.00,58.00\nInter Token Latency (ms),10.00,9.00,11.90,10.00\n'
    table += "Request Latency (ms),2300.00,1.0,1.0,1.0\nOutput Sequence Length (tokens),125.00,1,1,1\n"
    table += "Input Sequence Length (tokens),500.00,1,1,1\n\nMetric,Value\nRequest Throughput (per sec),4.0\n"
    log = read_log(_file(tmp_path, "profile_export_genai_perf.csv", table + "Request Count (count),100.00\n"))
    assert (len(log.trace), int(log.recorded.isl[0]), int(log.recorded.osl[0])) == (100, 500, 125)
    assert log.recorded.summary["ttft_s"] == pytest.approx({"mean": 1.06, "p50": 0.058, "p99": 0.099})
    assert "closed loop of 9" in log.load  # 4/s of 2.3 s


def test_dates_in_a_table_of_ones_own(tmp_path: Path) -> None:
    rows = "timestamp,prompt_tokens,output_tokens\n2025-01-01 00:00:00,10,5\n2025-01-01 00:00:02,10,5\n"
    found = read_recorded(_file(tmp_path, "dated.csv", rows)).trace()
    assert found.arrived_at.tolist() == [0.0, 2.0]


@pytest.mark.parametrize("size", [16, 64, 512, 1024])
def test_block_sizes_are_told_from_the_hashes(tmp_path: Path, size: int) -> None:
    lines = [
        json.dumps({"timestamp": i, "input_length": n, "output_length": 9, "hash_ids": list(range(-(-n // size)))})
        for i, n in enumerate((5000, 300, 7000))
    ]
    found = read_recorded(_file(tmp_path, "blocks.jsonl", "\n".join(lines)))
    assert found.block_tokens == size
    assert found.offsets is not None
    assert found.offsets[1] == -(-5000 // size)


def test_bailian_and_lines_without_hashes(tmp_path: Path) -> None:
    rows = [
        {
            "chat_id": 7,
            "parent_chat_id": -1,
            "timestamp": 1.5,
            "input_length": 40,
            "output_length": 3,
            "hash_ids": [1, 2, 3],
        },
        {
            "chat_id": 8,
            "parent_chat_id": 7,
            "timestamp": 3.0,
            "input_length": 50,
            "output_length": 3,
            "hash_ids": [1, 2, 3, 4],
        },
    ]
    found = read_recorded(_file(tmp_path, "qwen.jsonl", "\n".join(map(json.dumps, rows))))
    assert found.block_tokens == 16
    assert found.arrived_at is not None
    assert found.arrived_at.tolist() == [1.5, 3.0]
    assert found.session is not None
    assert found.session.tolist() == [0, 0]
    bare = [{k: v for k, v in row.items() if k != "hash_ids" and "chat" not in k} for row in rows]
    found = read_recorded(_file(tmp_path, "bare.jsonl", "\n".join(map(json.dumps, bare))))
    assert found.hashes is None
    assert found.arrived_at is not None
    assert np.allclose(found.arrived_at, [0.0015, 0.003])


def test_conversations_in_text_are_lengths(tmp_path: Path) -> None:
    talk = [{"from": "human", "value": "x" * 400}, {"from": "gpt", "value": "y" * 80}]
    data = [{"id": "a", "conversations": talk}, {"id": "b", "conversations": []}, 5]
    found = read_recorded(_file(tmp_path, "sharegpt.json", data))
    assert (found.isl.tolist(), found.osl.tolist()) == ([100], [20])
    assert "2 conversations" in found.rejected[0]
    with pytest.raises(InputError, match="--rate"):
        found.trace()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.json", {**_RESULT, "completed": None}, "--save-detailed"),
        ("f.json", {**_RESULT, "completed": 0}, "how many requests succeeded"),
        ("b.json", {**_RESULT, "total_input_tokens": -5}, "how many prompt tokens"),
        ("c.txt", _PRINTED.replace("1,200", "many"), "how many requests succeeded"),
        ("d.json", {"time_to_first_token": {"unit": "weeks", "avg": 1}}, "unknown unit"),
        (
            "g.jsonl",
            json.dumps({"timestamp": 0, "input_length": 1000, "output_length": 1, "hash_ids": list(range(70))}),
            "hash_ids do not fit the prompts",
        ),
        ("e.jsonl", '{"timestamp": 0, "input_length": 5, "output_length": 1, "hash_ids": "x"}', "hash_ids"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, name: str, content: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_recorded(_file(tmp_path, name, content))


def test_conversations_are_bounded_like_every_log_in_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "MAX_VALUES", 20)
    source = _file(tmp_path, "sharegpt.json", [{"conversations": [{"value": "a"}, {"value": "b"}]}] * 10)
    with pytest.raises(InputError, match="more than 20 values"):
        read_recorded(source)
