"""Chunked prefill against whole prompts first.

**Paper**: Agrawal et al., *Taming Throughput-Latency Tradeoff in LLM Inference with Sarathi-Serve*, OSDI 2024: whole
prompts ahead of decodes stall every running answer ("generation stalls"); prompts cut to fit a token budget beside
the decodes bound the time between tokens, at the price of a somewhat later first token.

**Here**: Yi-34B on two A100s, the paper's pair, Poisson arrivals, prompts of 2,200 and answers of 415 tokens on
average; vLLM of 2023 (prompts first, whole), Orca (shared steps, whole) and Sarathi with a budget of 512 tokens.
"""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("numba")

from steelyard.simulation.api import simulate


def _run(scheduler: str, budget: int, rate: float = 0.8) -> dict[str, Any]:
    return simulate(
        "yi-34b",
        "a100_sxm:2",
        rate=rate,
        isl="lognormal:2200,max=8000",
        osl="lognormal:415",
        requests=800,
        seed=2,
        engine=scheduler,
        flags={"max_num_batched_tokens": budget, "max_num_seqs": 128},
    ).summary()


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, Any]]:
    """Summaries by scheduler."""
    return {
        "prompts first": _run("vllm-v0", 16_384),
        "orca": _run("orca", 16_384),
        "chunks": _run("sarathi", 512),
        "long chunks": _run("sarathi", 2_048),
    }


@pytest.mark.parametrize("whole", ["prompts first", "orca"])
def test_the_tail_between_tokens_falls_and_the_first_token_comes_later(
    found: dict[str, dict[str, Any]], whole: str
) -> None:
    stalled, even = found[whole], found["chunks"]
    assert even["itl_s"]["p99"] < 0.4 * stalled["itl_s"]["p99"]
    assert even["tpot_s"]["p99"] < 0.92 * stalled["tpot_s"]["p99"]
    for name in ("p50", "p90", "p99"):
        assert 1.0 < even["ttft_s"][name] / stalled["ttft_s"][name] < 1.25
    assert even["throughput"]["requests_per_s"] == pytest.approx(stalled["throughput"]["requests_per_s"], rel=0.02)


def test_the_budget_trades_one_for_the_other(found: dict[str, dict[str, Any]]) -> None:
    short, long = found["chunks"], found["long chunks"]
    assert short["itl_s"]["p99"] < 0.5 * long["itl_s"]["p99"]
    assert short["ttft_s"]["p50"] > long["ttft_s"]["p50"]


def test_chunks_carry_more_within_a_limit_of_the_tail() -> None:
    """A limit on the p99 between tokens that whole prompts miss at each of these rates and chunks keep."""
    limit_s = 0.11
    for rate in (0.4, 0.6, 0.8):
        assert _run("sarathi", 512, rate)["itl_s"]["p99"] < limit_s
        assert _run("vllm-v0", 16_384, rate)["itl_s"]["p99"] > limit_s
