"""The latency-throughput knee.

**Paper**: Kwon et al., *Efficient Memory Management for LLM Serving with PagedAttention*, SOSP 2023, section 6.2:
latency rises slowly with the request rate and explodes at the rate the system cannot sustain; the same shape is in
Orca (OSDI 2022) and Sarathi-Serve (OSDI 2024).

**Here**: Llama-3.1-8B on one H100, Poisson arrivals over two minutes, prompts of 1,024 and answers of 256 tokens on
average (lognormal), vLLM's own flags. Throughput follows the offered rate until it saturates. Batches fill first, so
the time per token rises well before the knee, while prompts still start at once; at the knee the cache is full and
the time to first token grows without limit, while the time per token is capped by the batch that fits.
"""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("numba")

from steelyard.simulation.api import simulate

RATES = (2, 16, 20, 26, 36, 44)


@pytest.fixture(scope="module")
def at() -> dict[int, dict[str, Any]]:
    """Summaries by offered rate."""
    return {
        rate: simulate(
            "llama-3.1-8b",
            "h100_sxm",
            rate=f"{rate}/s",
            isl="lognormal:1024",
            osl="lognormal:256",
            requests=rate * 120,
            seed=3,
        ).summary()
        for rate in RATES
    }


def _served(at: dict[int, dict[str, Any]], rate: int) -> float:
    return float(at[rate]["throughput"]["requests_per_s"])


def test_throughput_follows_the_load_and_saturates(at: dict[int, dict[str, Any]]) -> None:
    assert _served(at, 16) > 0.9 * 16
    assert _served(at, 44) == pytest.approx(_served(at, 36), rel=0.06)
    assert 16 < _served(at, 44) < 26


def test_time_per_token_rises_before_the_knee(at: dict[int, dict[str, Any]]) -> None:
    idle, before = at[2], at[20]
    assert _served(at, 20) > 0.75 * _served(at, 44)
    assert before["tpot_s"]["p50"] > 3 * idle["tpot_s"]["p50"]
    assert before["ttft_s"]["p99"] < 5 * idle["ttft_s"]["p99"]


def test_time_to_first_token_explodes_at_the_knee(at: dict[int, dict[str, Any]]) -> None:
    assert at[26]["ttft_s"]["p99"] > 30 * at[20]["ttft_s"]["p99"]
    assert at[44]["ttft_s"]["p99"] > 2 * at[26]["ttft_s"]["p99"]  # it keeps growing as long as requests keep coming
    assert at[44]["tpot_s"]["p50"] == pytest.approx(at[36]["tpot_s"]["p50"], rel=0.05)  # a full batch is a full batch
    assert at[26]["kv"]["max_frac"] > 0.97 > 0.8 > at[20]["kv"]["max_frac"]
