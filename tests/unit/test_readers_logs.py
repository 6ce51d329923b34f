"""Logs of engines, packed tables and runs that state too little: each is the question it states or says why not."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pandas")

from steelyard.errors import InputError
from steelyard.measurements import reader as base
from steelyard.measurements.reader import Ask, Comparison, read_frame
from steelyard.testing.readers import ReaderContract
from steelyard_validation.readers import apex_runs, comm, engine_log, once_for_all
from steelyard_validation.readers._whole import deploy, static_batch
from tests.rows import write_rows

RUN = "rtx5090_1x/rag/qwen3-8b-bf16-rag-1k-c4"
CAPACITY, HELD = 40_000, 12.0
LINE = {"run": RUN, "t": "", "prompt_tok_s": 0, "gen_tok_s": 0, "running": 4, "waiting": 0, "kv_pct": HELD}
LINE["prefix_hit_pct"] = 0
PLACE = {
    "model": "Qwen/Qwen3-8B",
    "quant": "bf16",
    "machine": "rtx_5090",
    "count": 1,
    "tp": 1,
    "source_path": f"x/{RUN}/y",
}
FLAGS = "max_model_len=4096;gpu_memory_utilization=0.9;dp=1"


def tpot_s() -> float:
    """Of four sequences that share what the cache holds."""
    at = deploy("Qwen/Qwen3-8B", "rtx_5090", weights="bf16", engine="vllm@0.12")
    assert not isinstance(at, str)
    return float(np.ravel(static_batch(at, 4, HELD / 100 * CAPACITY / 4, 2).tpot.value)[0])


def log(folder: Path, *lines: dict[str, Any]) -> Path:
    place = {**PLACE, "notes": FLAGS, "metric": "kv_cache_capacity", "value": CAPACITY}
    write_rows(folder / "kv_capacity.csv", place, {})
    write_rows(folder / "aiperf_closed_loop.csv", {**place, "metric": "ttft", "notes": "isl_mean=1000.0"}, {})
    return write_rows(folder / "engine_log_10s.csv", LINE, *lines)


def only(folder: Path) -> Comparison:
    return next(iter(engine_log.read(folder, Ask(folder.name))))


@pytest.fixture
def steady(tmp_path: Path) -> Path:
    """Ten lines of four requests that decode, then two while they end."""
    rate = 4 / tpot_s()
    return log(tmp_path / "rtx_consumer_vllm", *[{"gen_tok_s": rate}] * 10, {"running": 1}, {"running": 0})


def test_lines_whose_steps_take_as_long_as_an_estimate_says_are_ten_seconds(steady: Path) -> None:
    found = only(steady)
    asked = np.isfinite(found.predicted)
    assert asked.tolist() == [False] + [True] * 9 + [False] * 2
    np.testing.assert_allclose(found.predicted[asked], 10.0, rtol=1e-6)
    assert (found.low[asked] < 10).all() and (found.high[asked] > 10).all()
    assert set(found.why[~asked].tolist()) == {engine_log.UNSTEADY}
    assert set(found.machine.tolist()) == {"rtx_5090"}


def test_prompts_between_the_answers_take_time_of_their_own(tmp_path: Path) -> None:
    rate = 4 / tpot_s()
    plain = only(log(tmp_path / "a", *[{"gen_tok_s": rate}] * 10)).predicted[5]
    mixed = only(log(tmp_path / "b", *[{"gen_tok_s": rate, "prompt_tok_s": 1000}] * 10)).predicted[5]
    assert mixed > plain + 0.01


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"prefix_hit_pct": 50}, engine_log.CACHED),
        ({"waiting": 3}, engine_log.UNSTEADY),
        ({"run": RUN.replace("rag", "agentic") + "-lora"}, engine_log.ADAPTERS),
        ({"run": "rtx5090_1x/rag/another"}, engine_log.UNSTATED),
    ],
)
def test_lines_that_state_too_little_say_so(tmp_path: Path, change: dict[str, Any], why: str) -> None:
    found = only(log(tmp_path / "t", *[{"gen_tok_s": 100, **change}] * 10))
    assert np.isnan(found.predicted).all() and found.why[5] == why


class TestLog(ReaderContract):
    reader = staticmethod(engine_log.read)
    source = "rtx_consumer_vllm"

    @pytest.fixture
    def folder(self, steady: Path) -> Path:
        return steady


def test_networks_of_a_packed_table_are_asked_one_in_so_many(tmp_path: Path) -> None:
    small = {"ks": [3] * 20, "e": [3] * 20, "d": [2] * 5, "r": 128}
    large = {"ks": [7] * 20, "e": [6] * 20, "d": [4] * 5, "r": 224}
    columns = [f"{card}_{batch}" for card in once_for_all.CARDS for batch in once_for_all.BATCHES]
    rows = [{"arch_json": json.dumps(x), **dict.fromkeys(columns, 10.0)} for x in (small, large)]
    every = once_for_all.EVERY
    plain = tmp_path / "hw" / "plain.csv"
    write_rows(plain, {"arch_json": "", **dict.fromkeys(columns, 1.0)}, *[rows[0]] * every, *[rows[1]] * every)
    plain.with_name("ofa_latency_ms.csv.gz").write_bytes(gzip.compress(plain.read_bytes()))
    found = {(c.machine[0], c.family[0]): c.predicted for c in once_for_all.read(plain.parent, Ask("hw"))}
    assert len(found) == len(columns) and all(x.shape == (2,) and x[0] < x[1] for x in found.values())
    assert all(found[card, "batch 1"][1] < found[card, "batch 64"][1] for card in once_for_all.CARDS.values())


def test_a_packed_table_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(b"a,b\n" + b"1,2\n" * 1000))
    assert len(read_frame(path, ["a"])) == 1000
    monkeypatch.setattr(base, "MAX_UNPACKED_BYTES", 2000)
    with pytest.raises(InputError, match="unpacked"):
        read_frame(path)


def test_all_reduces_of_four_devices_grow_with_the_message(tmp_path: Path) -> None:
    rows = [{"bytes": 2.0**k, "latency_us": 10.0 * 2**k} for k in (10, 20, 30)]
    folder = write_rows(tmp_path / "hw" / "allreduce_4xA100_NVLink_us.csv", {"bytes": 0, "latency_us": 0}, *rows)
    found = next(iter(comm.llmcompass(folder, Ask("hw"))))
    assert found.predicted.tolist() == sorted(found.predicted) and found.machine[0] == "a100_sxm"


def test_runs_without_a_model_or_a_rate_are_counted_and_not_asked(tmp_path: Path) -> None:
    row = {"file": "vllm/llama_05_8TP.txt", "ttft_s": 0.05, "tpot_s": 0.02, "nreq": 10}
    others = [{"file": "sglang/mistral_tp_8.txt", "tpot_s": 1e-4}, {"nreq": 0}]
    folder = write_rows(tmp_path / "hw" / "apex_vllm_sglang_8xh100.csv", row, {}, *others)
    found = list(apex_runs.read(folder, Ask("hw")))
    assert [c.metric for c in found] == ["ttft_s", "tpot_s"] and all(np.isnan(c.predicted).all() for c in found)
    assert found[0].why.tolist() == [apex_runs.UNSTATED, apex_runs.NO_UNIT]
