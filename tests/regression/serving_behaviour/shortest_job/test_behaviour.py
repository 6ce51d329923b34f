"""Shortest job first against first come, first served, on the Azure traces.

**Paper**: Schrage, *A Proof of the Optimality of the Shortest Remaining Processing Time Discipline*, Operations
Research 1968, and its use for LLMs: Qiu et al., *Efficient Interactive LLM Serving with Proxy Model-based Sequence
Length Prediction*, 2024; Fu et al., *Efficient LLM Scheduling by Learning to Rank*, NeurIPS 2024: the mean wait falls
by a factor, long requests starve, throughput stays. The traces are those of Patel et al., *Splitwise*, ISCA 2024.

**Here**: Llama-3.1-8B on one A100; the order knows the answers' lengths, the bound of what such schedulers can gain.
It helps where there is a queue to order: little on the conversations as they came, a lot at twice their rate and on
the coding trace, whose bursts queue by themselves. Needs the traces under `STEELYARD_DATA`.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")

from steelyard.errors import InputError
from steelyard.simulation.api import simulate
from steelyard.traffic.build import Traffic, traffic


@cache
def _run(name: str, peak: float, policy: str) -> tuple[dict[str, Any], float]:
    """``(summary, mean end-to-end time of the longest hundredth of the jobs)``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEELYARD_DATA", os.environ.get("STEELYARD_DATA", "../shared"))
        try:
            trace = traffic(Traffic(name))
        except InputError:
            pytest.skip("the Azure traces are not under STEELYARD_DATA")
    run = simulate("llama-3.1-8b", "a100_sxm", trace=trace.scaled(peak), policy=policy)
    work = run.records.isl + run.records.osl
    longest = work >= np.percentile(work, 99)
    return run.summary(), float(np.mean(run.records.e2e_s[longest]))


@pytest.mark.parametrize(("name", "peak"), [("azure_conv", 2.0), ("azure_code", 1.0), ("azure_code", 2.0)])
def test_where_requests_queue_the_mean_falls_and_long_ones_starve(name: str, peak: float) -> None:
    (fcfs, long_fcfs), (sjf, long_sjf) = _run(name, peak, "fcfs"), _run(name, peak, "shortest")
    assert fcfs["completed"] == sjf["completed"] == fcfs["requests"]
    assert sjf["ttft_s"]["mean"] < 0.45 * fcfs["ttft_s"]["mean"]
    assert sjf["ttft_s"]["p50"] < 0.1 * fcfs["ttft_s"]["p50"]
    assert sjf["e2e_s"]["mean"] < 0.55 * fcfs["e2e_s"]["mean"]
    assert sjf["ttft_s"]["p99"] > 1.3 * fcfs["ttft_s"]["p99"]
    assert long_sjf > 1.2 * long_fcfs
    assert sjf["throughput"]["requests_per_s"] == pytest.approx(fcfs["throughput"]["requests_per_s"], rel=0.02)


def test_without_a_queue_there_is_nothing_to_order() -> None:
    (fcfs, _), (sjf, _) = _run("azure_conv", 1.0, "fcfs"), _run("azure_conv", 1.0, "shortest")
    assert sjf["e2e_s"]["mean"] == pytest.approx(fcfs["e2e_s"]["mean"], rel=0.08)
    assert sjf["ttft_s"]["p50"] == pytest.approx(fcfs["ttft_s"]["p50"], rel=0.08)
