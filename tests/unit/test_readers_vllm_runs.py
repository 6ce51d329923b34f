"""Servers of vLLM on desks: each row becomes the question it states."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pandas")

from steelyard.measurements.reader import Ask, Comparison
from steelyard.testing.readers import ReaderContract
from steelyard_validation.readers import vllm_runs
from tests.rows import write_rows

BASE = dict.fromkeys([*vllm_runs.COLUMNS, *vllm_runs.STATED], "") | {
    "model": "Qwen/Qwen3-0.6B",
    "quant": "bf16",
    "machine": "rtx_4090",
    "count": 1,
    "engine": "vLLM",
    "metric": "ttft",
    "stat": "p50",
    "value": 20,
    "tp": 1,
}
OPEN = {"scenario": "open loop", "isl": 60, "osl": 8, "request_rate": 4, "notes": "attention=x;num_prompts=30"}
CLOSED = {"scenario": "closed loop rag", "engine_version": "0.12.0", "isl": 60, "osl": 8, "concurrency": 2}
SAID = "dp=1 max_model_len=512;request_count=6;isl_mean=61.0;osl_mean=7.9;prefix_hit_pct_end=0.5"


def write(path: Path, *rows: Mapping[str, Any]) -> Path:
    return write_rows(path, BASE, *rows)


def only(folder: Path, metric: str) -> Comparison:
    found = vllm_runs.read(folder, Ask(folder.name))
    return next(c for c in found if c.metric == metric)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two open loops, one of an older attention, and an offline run."""
    return write(
        tmp_path_factory.mktemp("t") / "workstation_vllm_lowload" / "online.csv",
        OPEN,
        {**OPEN, "notes": "attention=triton;num_prompts=30"},
        {**OPEN, "scenario": "vllm bench throughput (offline)", "request_rate": ""},
    )


class TestDesk(ReaderContract):
    reader = staticmethod(vllm_runs.read)
    source = "workstation_vllm_lowload"

    @pytest.fixture
    def folder(self, desk: Path) -> Path:
        return desk


def test_open_loops_are_answered_and_offline_runs_are_not(desk: Path) -> None:
    found = only(desk, "ttft_s")
    assert found.why.tolist() == ["", "", vllm_runs.LENGTHS]
    assert np.isfinite(found.predicted[:2]).all()
    assert found.measured[0] == pytest.approx(20e-3)
    assert [x.endswith("older attention") for x in found.family] == [False, True, False]


def test_closed_loops_with_cached_prompts_or_adapters_are_not_asked(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "rtx_consumer_vllm" / "aiperf.csv",
        {**CLOSED, "notes": SAID},
        {**CLOSED, "notes": SAID.replace("0.5", "60")},
        {**CLOSED, "notes": SAID, "scenario": "closed loop with LoRA adapters"},
        {**CLOSED, "notes": ""},
    )
    found = only(folder, "ttft_s")
    assert found.why.tolist()[:3] == ["", vllm_runs.CACHED, vllm_runs.ADAPTERS]
    assert found.why[3]
    assert np.isfinite(found.predicted[0])


def test_the_time_between_tokens_of_aiperf_is_a_mean_of_each_request(tmp_path: Path) -> None:
    folder = write(tmp_path / "rtx_consumer_vllm" / "aiperf.csv", {**CLOSED, "notes": SAID, "metric": "itl"})
    found = list(vllm_runs.read(folder, Ask(folder.name)))
    assert [c.metric for c in found] == ["tpot_s"] and np.isfinite(found[0].predicted).all()
