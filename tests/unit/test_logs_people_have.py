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
    raw = {"service_kind": "openai", "experiments": []}
    with pytest.raises(InputError, match="profile_export_genai_perf"):
        read_recorded(_file(tmp_path, "raw.json", raw))


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
