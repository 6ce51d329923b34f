"""The kernel played by Python is the compiled kernel's twin: every engine and technique gives the same records."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")

import steelyard as sy

PLACE: dict[str, Any] = {"model": "llama-3.1-8b", "on": "h100_sxm"}
LOAD: dict[str, Any] = {"rate": "20/s", "requests": 16, "isl": "uniform:50-600", "osl": "uniform:1-24", "seed": 3}
#: Words of ``simulate`` beside those, by what they are for.
CASES: dict[str, dict[str, Any]] = {
    **{name: {"engine": name} for name in ("vllm", "sglang", "trtllm", "orca", "tgi", "static", "sarathi")},
    "past-future": {"engine": "lightllm"},
    "feedback": {"policy": "mlfq", "flags": {"num_gpu_blocks_override": 100}},
    "fair": {"policy": "fair", "flags": {"max_num_seqs": 4}},
    "slo-chunk": {"policy": "slo-chunk"},
    "closed": {"rate": None, "concurrency": 4},
    "blocks": {"flags": {"num_gpu_blocks_override": 45}},
    "prompts and outputs apart": {"on": "h100_sxm:2", "disaggregate": "1P:tp1,1D:tp1", "transfer_overlap": 0.5},
    "speculation": {"speculate": "eagle:k=3"},
    "adapters": {"lora": "6,zipf=1,rank=16,max_loras=2"},
    "levels": {"turns": 3, "think": "1s", "flags": {"num_gpu_blocks_override": 60}, "kv_tiers": "cpu:20GB,swap"},
    "early exit": {"early_exit": "rebatch:ramps=3"},
    "finetuning": {"finetune": "30ms"},
    "migration": {"replicas": 2, "flags": {"num_gpu_blocks_override": 45}, "migrate": True},
    "failures": {"replicas": 2, "mtbf": "1s", "restart": "0.2s", "router": "least-loaded"},
    "autoscaling": {"replicas": 3, "autoscale": "1:3,target=2,interval=0.2s,start=0.1s"},
    "ranks": {"model": "deepseek-v3", "on": "h200_sxm:16", "tp": 1, "dp": 16, "ep": 16, "requests": 24},
    "stages": {"on": "h100_sxm:2", "tp": 1, "pp": 2},
}


def played(name: str) -> dict[str, list[float]]:
    """What becomes of every request."""
    words = {key: value for key, value in {**PLACE, **LOAD, **CASES[name]}.items() if value is not None}
    model, on = words.pop("model"), words.pop("on")
    simulation = sy.simulate(model, on, **words)
    records = simulation.records
    return {
        "ttft_s": np.nan_to_num(records.ttft_s).tolist(),
        "e2e_s": np.nan_to_num(records.e2e_s).tolist(),
        "preemptions": records.preemptions.tolist(),
        "cached_tokens": records.cached_tokens.tolist(),
        "replica": records.replica.tolist(),
        "iterations": [float(simulation.totals["iterations"])],
        "energy_j": [float(simulation.energy_j)],
    }


@pytest.fixture(scope="module")
def by_python() -> dict[str, Any]:
    """Every case in a process in which numba compiles nothing."""
    command = [sys.executable, "-m", "tests.unit.test_uncompiled"]
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("name", CASES)
def test_compiled_or_not_the_same(name: str, by_python: dict[str, Any]) -> None:
    compiled = played(name)
    assert "error" not in by_python[name], by_python[name]
    for key, values in compiled.items():
        np.testing.assert_allclose(by_python[name][key], values, rtol=1e-9, atol=1e-12, err_msg=key)


if __name__ == "__main__":
    results: dict[str, Any] = {}
    for case in CASES:
        try:
            results[case] = played(case)
        except Exception as error:
            results[case] = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(results))
