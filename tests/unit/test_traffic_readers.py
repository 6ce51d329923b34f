"""Readers of trace files and benchmark logs, on small files written here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steelyard.errors import InputError
from steelyard.traffic import READERS, read_recorded, read_trace

PLAIN = "arrived_at,num_prefill_tokens,num_decode_tokens\n"


def _file(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def _problems(path: Path) -> list[str]:
    with pytest.raises(InputError) as caught:
        read_trace(path)
    return [str(p) for p in caught.value.problems]


def test_every_format_is_registered_with_a_title() -> None:
    assert {"vidur", "azure", "burstgpt", "mooncake", "sharegpt", "vllm", "aiperf", "guidellm"} <= set(READERS)
    for name in READERS:
        assert READERS.get(name).title


def test_plain(tmp_path: Path) -> None:
    found = read_trace(_file(tmp_path, "t.csv", PLAIN + "10.5,100,5\n10.0,50,7\n"))
    assert found.arrived_at.tolist() == [0.0, 0.5]
    assert found.isl.tolist() == [50, 100]
    assert found.name == "t"
    assert "sorted" in found.notes[0]


def test_plain_with_more_columns_priorities_and_a_mark(tmp_path: Path) -> None:
    text = "\ufeffid,arrived_at,num_prefill_tokens,num_decode_tokens,priority,deadline_s\na,0,5,6,2,1.5\nb,1,7,8,0,2\n"
    found = read_trace(_file(tmp_path, "t.csv", text))
    assert found.priority is not None and found.priority.tolist() == [2, 0]
    assert found.deadline_s is not None and found.deadline_s.tolist() == [1.5, 2.0]


def test_malformed_rows_name_their_line_all_at_once(tmp_path: Path) -> None:
    rows = "0,100,5\n1,-1,5\n2,nan,5\n3,100,0\n\nx,100,5\n-1,7,7\n4,1.5,2\n"
    found = _problems(_file(tmp_path, "bad.csv", PLAIN + rows))
    assert found[0] == "bad.csv: line 3: num_prefill_tokens: expected a whole number of at least 1, got '-1'"
    assert [p.split(": ")[1] for p in found] == ["line 3", "line 4", "line 5", "line 7", "line 8", "line 9"]


def test_a_row_with_too_few_fields(tmp_path: Path) -> None:
    assert _problems(_file(tmp_path, "bad.csv", PLAIN + "0,100,5\n1,100\n")) == [
        "bad.csv: line 3: expected 3 fields, got 2"
    ]


def test_many_bad_rows_are_counted(tmp_path: Path) -> None:
    found = _problems(_file(tmp_path, "bad.csv", PLAIN + "0,0,0\n" * 50))
    assert len(found) == 11
    assert found[-1] == "bad.csv: and 90 more problems"


@pytest.mark.parametrize("text", ["", PLAIN, PLAIN + "\n\n", "hello\nworld\n", '{"a": 1}', "[]", "\x00\x01"])
def test_files_that_are_no_trace(tmp_path: Path, text: str) -> None:
    assert len(_problems(_file(tmp_path, "t.csv", text))) == 1


def test_binary_and_missing_files(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(PLAIN.encode() + b"\xff\xfe,1,2\n")
    assert len(_problems(path)) == 1
    assert "no file" in _problems(tmp_path / "no.csv")[0]
    assert "folder" in _problems(tmp_path)[0]


def test_azure(tmp_path: Path) -> None:
    head = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    rows = "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n"
    found = read_trace(_file(tmp_path, "a.csv", head + rows))
    assert found.arrived_at == pytest.approx([0.0, 4.314579], abs=1e-9)
    zoned = "2024-05-10 00:00:00.009930+00:00,10,5\n2024-05-10 00:00:01+00:00,20,6\n"
    assert read_trace(_file(tmp_path, "z.csv", head + zoned)).arrived_at == pytest.approx([0, 0.99007])
    found_problems = _problems(_file(tmp_path, "bad.csv", head + rows + "yesterday,1,2\n"))
    assert found_problems == ["bad.csv: line 4: TIMESTAMP: expected a date and time, got 'yesterday'"]


def test_several_traces_in_one_table(tmp_path: Path) -> None:
    text = "trace,arrival_s,input_length,output_length\na,0,10,1\nb,5,20,2\na,1,30,3\n"
    path = _file(tmp_path, "m.csv", text)
    assert "choose one: m.csv#a, m.csv#b" in _problems(path)[0]
    assert read_trace(f"{path}#a").isl.tolist() == [10, 30]
    assert read_trace(f"{path}#b").arrived_at.tolist() == [0.0]
    with pytest.raises(InputError, match="holds no trace 'c'"):
        read_trace(f"{path}#c")


def test_burstgpt_drops_failed_requests_and_counts_them(tmp_path: Path) -> None:
    head = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    rows = "5,ChatGPT,472,18,490,Conversation log\n45,ChatGPT,1087,0,1087,API log\n118,GPT-4,417,276,693,API log\n"
    found = read_trace(_file(tmp_path, "b.csv", head + rows))
    assert found.arrived_at.tolist() == [0.0, 113.0]
    assert found.rejected == ("1 failed requests (no prompt or no answer) dropped",)
    assert "line 2" in _problems(_file(tmp_path, "bad.csv", head + "5,ChatGPT,-1,18,17,x\n"))[0]
    assert "no requests" in _problems(_file(tmp_path, "none.csv", head + "5,ChatGPT,10,0,10,x\n"))[0]


def test_sharegpt_in_nanoseconds_and_bare_lengths(tmp_path: Path) -> None:
    text = "workload,input_toks,output_toks,arrival_time_ns\nw,10,20,1000000000\nw,30,40,2500000000\n"
    assert read_trace(_file(tmp_path, "s.csv", text)).arrived_at == pytest.approx([0, 1.5])
    bare = _file(tmp_path, "l.csv", "input_length,output_length\n10,1\n20,2\n")
    assert read_recorded(bare).osl.tolist() == [1, 2]
    assert "no arrival times; give --rate or --concurrency" in _problems(bare)[0]


def _mooncake(**changes: Any) -> str:
    row = {"timestamp": 0, "input_length": 1000, "output_length": 10, "hash_ids": [0, 1]}
    return json.dumps({**row, **changes}) + "\n"


def test_mooncake_keeps_its_hashes(tmp_path: Path) -> None:
    text = _mooncake() + _mooncake(timestamp=27482, hash_ids=[0, 7])
    found = read_trace(_file(tmp_path, "m.jsonl", text))
    assert found.arrived_at.tolist() == [0.0, 27.482]
    assert found.prefix_hashes is not None and found.prefix_offsets is not None
    assert (found.prefix_hashes.tolist(), found.prefix_offsets.tolist()) == ([0, 1, 0, 7], [0, 2, 4])
    assert found.prefix_block_tokens == 512


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (_mooncake(input_length=0), "input_length"),
        (_mooncake(output_length="5"), "output_length"),
        (_mooncake(timestamp=-1), "timestamp"),
        (_mooncake(hash_ids=[1.5]), "hash_ids"),
        ("{broken\n", "not a JSON object"),
        ("[1]\n", "not a JSON object"),
    ],
)
def test_bad_mooncake_lines(tmp_path: Path, line: str, words: str) -> None:
    found = _problems(_file(tmp_path, "m.jsonl", _mooncake() + line))
    assert len(found) == 1
    assert found[0].startswith("m.jsonl: line 2: ") and words in found[0]


def test_mooncake_and_tables_in_parquet(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    rows = [json.loads(_mooncake()), json.loads(_mooncake(timestamp=1000))]
    pandas.DataFrame(rows).to_parquet(tmp_path / "m.parquet")
    assert read_trace(tmp_path / "m.parquet").prefix_block_tokens == 512
    plain = pandas.DataFrame({"arrived_at": [0.0, 1.0], "num_prefill_tokens": [5, 0], "num_decode_tokens": [1, 1]})
    plain.to_parquet(tmp_path / "p.parquet")
    assert "row 2" in _problems(tmp_path / "p.parquet")[0]
    (tmp_path / "bad.parquet").write_bytes(b"PAR1nothing")
    assert len(_problems(tmp_path / "bad.parquet")) == 1


def test_vllm_bench(tmp_path: Path) -> None:
    data = {
        "duration": 3.0,
        "request_throughput": 1.0,
        "total_input_tokens": 300,
        "max_concurrency": 2,
        "input_lens": [100, 200, 300],
        "output_lens": [3, 0, 1],
        "ttfts": [0.1, 0.0, 0.2],
        "itls": [[0.01, 0.03], [], []],
        "start_times": [50.0, 51.0, 52.5],
    }
    path = _file(tmp_path, "v.json", json.dumps(data))
    found = read_recorded(path)
    assert found.reader == "vllm"
    assert found.isl.tolist() == [100, 300]
    assert found.e2e_s == pytest.approx([0.14, 0.2])
    assert found.tpot_s is not None and found.tpot_s[0] == pytest.approx(0.02) and np.isnan(found.tpot_s[1])
    assert found.rejected == ("1 failed or cancelled requests dropped",)
    assert found.concurrency == 2
    assert found.trace().arrived_at.tolist() == [0.0, 2.5]
    del data["start_times"]
    assert "no arrival times" in _problems(_file(tmp_path, "w.json", json.dumps(data)))[0]
    del data["input_lens"]
    assert "--save-detailed" in _problems(_file(tmp_path, "x.json", json.dumps(data)))[0]
    data["input_lens"] = [1]
    assert "output_lens: expected a list of 1" in _problems(_file(tmp_path, "y.json", json.dumps(data)))[0]


def _aiperf(start: int, isl: Any = 550, error: Any = None, **meta: Any) -> str:
    metrics = {
        "input_sequence_length": {"value": isl, "unit": "tokens"},
        "output_sequence_length": {"value": 9, "unit": "tokens"},
        "time_to_first_token": {"value": 250.0, "unit": "ms"},
        "request_latency": {"value": 300.0, "unit": "ms"},
        "inter_token_latency": {"value": 6.25, "unit": "ms"},
    }
    meta = {"request_start_ns": start, "benchmark_phase": "profiling", **meta}
    return json.dumps({"metadata": meta, "metrics": metrics, "error": error}) + "\n"


def test_aiperf(tmp_path: Path) -> None:
    text = _aiperf(10**18) + _aiperf(10**18 + 2 * 10**9) + _aiperf(10**18, error={"code": 499})
    text += _aiperf(10**18, benchmark_phase="warmup")
    found = read_recorded(_file(tmp_path, "profile_export.jsonl", text))
    assert found.reader == "aiperf"
    assert found.trace().arrived_at == pytest.approx([0.0, 2.0], abs=1e-6)
    assert found.ttft_s == pytest.approx([0.25, 0.25])
    assert found.tpot_s == pytest.approx([0.00625] * 2)
    assert len(found.rejected) == 1
    bad = _problems(_file(tmp_path, "bad.jsonl", _aiperf(1) + _aiperf(1, isl=None) + "{}\n"))
    assert [p.split(": ")[1] for p in bad] == ["line 2", "line 3"]


def test_guidellm(tmp_path: Path) -> None:
    new = {"request_start_time": 7.0, "prompt_tokens": 10, "output_tokens": 4, "request_latency": 1.0}
    old = {"start_time": 8.5, "end_time": 9.0, "prompt_tokens": 20, "output_tokens": 5, "time_to_first_token_ms": 30.0}
    run = {"requests": {"successful": [new, old], "errored": [{}], "incomplete": []}}
    found = read_recorded(_file(tmp_path, "g.json", json.dumps({"benchmarks": [run]})))
    assert found.reader == "guidellm"
    assert found.trace().arrived_at.tolist() == [0.0, 1.5]
    assert found.e2e_s == pytest.approx([1.0, 0.5])
    assert found.ttft_s is not None and found.ttft_s[1] == pytest.approx(0.03)
    assert found.rejected == ("1 failed or cancelled requests dropped",)
    two = _file(tmp_path, "h.json", json.dumps({"benchmarks": [run, run]}))
    assert "#1 to #2" in _problems(two)[0]
    assert len(read_recorded(f"{two}#2")) == 2
    with pytest.raises(InputError, match="none of them"):
        read_recorded(f"{two}#3")
    new["prompt_tokens"] = 0
    assert "request 1: prompt_tokens" in _problems(_file(tmp_path, "i.json", json.dumps({"benchmarks": [run]})))[0]


def test_named_traces_say_where_they_are_looked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("STEELYARD_DATA", raising=False)
    with pytest.raises(InputError, match=r"looked for under \$STEELYARD_DATA"):
        read_trace("azure_conv")
    monkeypatch.setenv("STEELYARD_DATA", str(tmp_path))
    with pytest.raises(InputError, match="is not under"):
        read_trace("azure_conv")
    with pytest.raises(InputError, match="did you mean 'azure_conv'"):
        read_trace("azure_cnv")
    _file(
        tmp_path,
        "AzureLLMInferenceTrace_conv.csv",
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,3,4\n",
    )
    assert read_trace("azure_conv").name == "azure_conv"


@pytest.mark.data
def test_public_traces(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEELYARD_DATA", str(data))
    for name, requests in {"azure_conv": 19366, "azure_code": 8819, "mooncake_conversation": 12031}.items():
        found = read_trace(name)
        assert len(found) == requests
        assert not found.rejected
    blocks = np.diff(found.prefix_offsets if found.prefix_offsets is not None else [])
    assert np.array_equal(blocks, -(-found.isl // 512))


DATES = "TIMESTAMP,ContextTokens,GeneratedTokens\n{},10,5\n{},20,5\n"


def test_dates_of_several_zones_are_compared_in_utc(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text(DATES.format("2023-11-16 12:00:00+02:00", "2023-11-16 11:00:00+00:00"))
    assert list(read_trace(str(file)).arrived_at) == [0.0, 3600.0]


@pytest.mark.parametrize("date", ["9999-12-31 00:00:00", "0001-01-01 00:00:00", "2023-02-31 00:00:00"])
def test_dates_that_cannot_be_are_refused(tmp_path: Path, date: str) -> None:
    file = tmp_path / "t.csv"
    file.write_text(DATES.format("2023-11-16 12:00:00", date))
    with pytest.raises(InputError, match="date and time"):
        read_trace(str(file))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"arrived_at,num_prefill_tokens,num_decode_tokens,num_prefill_tokens\n0,10,5,7\n", "2 times"),
        (b"\x1f\x8b\x08\x00abc", "gzip"),
        ("arrived_at,num_prefill_tokens,num_decode_tokens\n0,1,1\n".encode("utf-16"), "UTF-16"),
        (b"arrived_at,num_prefill_tokens,num_decode_tokens\r0,1,1\r", "carriage return"),
        (b'{"benchmarks": [{"requests": {"successful": [], "errored": 5}}], "args": {}, "metadata": {}}', "errored"),
    ],
)
def test_files_that_are_no_traces_say_why(tmp_path: Path, content: bytes, words: str) -> None:
    file = tmp_path / ("t.json" if content[:1] == b"{" else "t.csv")
    file.write_bytes(content)
    with pytest.raises(InputError, match=words):
        read_trace(str(file))
