"""Prompts and answers in pools of their own: gains and losses.

**Paper**: Zhong et al., *DistServe: Disaggregating Prefill and Decoding for Goodput-optimized LLM Serving*, OSDI
2024, and Patel et al., *Splitwise*, ISCA 2024: prompts stall the answers that share an engine with them, so under a
tight limit on the time per token a shared engine carries little; apart, each side meets its own limit and the goodput
per device grows several times. The split has to fit the load, devices of the idle side are lost, and where the limits
are loose or the load is low a shared engine does as well or better.

**Here**: Llama-3.1-8B on four H100s, either four shared engines or prompts and answers apart, caches sent over
NVLink; served well = nine of ten requests within both limits. Prompts of 4,000 tokens with 10 ms per token: apart
carries more than 1.3 times what any shared engine does (vLLM as it is, with chunks of 512, and of 2023). Prompts of
1,000 tokens with 50 ms per token: shared engines carry what no split does.
"""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("numba")

from steelyard.plan.deployment import Deployment, Pool
from steelyard.plan.plan import Plan
from steelyard.serve.simulation import simulate_deployment
from steelyard.serve.traffic.build import Traffic, traffic

#: Pools of the role both, by flags; or (devices for prompts, for answers).
SHARED: dict[str, dict[str, Any]] = {
    "vllm": {},
    "chunks of 512": {"max_num_batched_tokens": 512},
    "vllm of 2023": {"scheduler": "vllm-v0"},
}
SPLITS = ((1, 3), (2, 2), (3, 1))
LONG, SHORT = ("lognormal:4000,max=16000", "lognormal:200"), ("lognormal:1000", "lognormal:250")


def _run(where: str | tuple[int, int], lengths: tuple[str, str], per_device: float, tpot_s: float) -> dict[str, Any]:
    """Summary at a load in requests/s per device."""
    if isinstance(where, str):
        pools = (Pool("h100_sxm", Plan(), 4, "both", SHARED[where]),)
    else:
        pools = (Pool("h100_sxm", Plan(), where[0], "prefill"), Pool("h100_sxm", Plan(), where[1], "decode"))
    sent = traffic(Traffic(rate=f"{4 * per_device}/s", isl=lengths[0], osl=lengths[1], requests=600, seed=1))
    deployment = Deployment("llama-3.1-8b", pools, "least-loaded")
    return simulate_deployment(deployment, sent, slo={"ttft_s": 1.0, "tpot_s": tpot_s}).summary()


def _well(found: dict[str, Any]) -> bool:
    return bool(found["throughput"]["goodput_frac"] >= 0.9)


def test_apart_carries_more_under_a_tight_limit_with_long_prompts() -> None:
    assert _well(_run((2, 2), LONG, 3.4, 0.010))
    for name in SHARED:
        assert not _well(_run(name, LONG, 3.4 / 1.3, 0.010)), name


def test_apart_carries_less_under_a_loose_limit_with_short_prompts() -> None:
    assert _well(_run("vllm", SHORT, 42.0, 0.050))
    for split in SPLITS:
        assert not _well(_run(split, SHORT, 42.0, 0.050)), split


def test_the_split_has_to_fit_the_load() -> None:
    good = {split: _run(split, LONG, 3.0, 0.010)["throughput"]["goodput_frac"] for split in SPLITS}
    assert good[2, 2] > 0.9
    assert good[1, 3] < 0.3  # prompts queue
    assert good[3, 1] < 0.6  # answers are batched too high
    queued = {split: _run(split, LONG, 3.0, 0.010)["ttft_s"]["p50"] for split in SPLITS}
    assert queued[1, 3] > 10 * queued[2, 2]


def test_at_a_low_load_apart_has_nothing_to_gain() -> None:
    shared, apart = _run("vllm", LONG, 0.1, 0.010), _run((2, 2), LONG, 0.1, 0.010)
    assert shared["ttft_s"]["mean"] <= apart["ttft_s"]["mean"]
    assert shared["e2e_s"]["mean"] == pytest.approx(apart["e2e_s"]["mean"], rel=0.05)
    assert shared["throughput"]["goodput_frac"] > 0.9 and apart["throughput"]["goodput_frac"] > 0.9


def test_prompts_no_longer_stall_answers() -> None:
    shared, apart = _run("vllm", LONG, 3.4, 0.010), _run((2, 2), LONG, 3.4, 0.010)
    assert apart["itl_s"]["p99"] < 0.2 * shared["itl_s"]["p99"]
    sent = apart["pools"][0]["sent"]
    assert sent["requests"] == pytest.approx(600, abs=5)  # answers of one token end where their prompt does
    assert sent["mean_s"] < 0.25 * apart["ttft_s"]["p50"]
