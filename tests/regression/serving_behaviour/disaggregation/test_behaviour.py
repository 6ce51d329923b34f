"""Prompts and answers in pools of their own: gains and losses.

**Paper**: Zhong et al., *DistServe: Disaggregating Prefill and Decoding for Goodput-optimized LLM Serving*, OSDI
2024, and Patel et al., *Splitwise*, ISCA 2024: prompts stall the answers that share an engine with them, so under a
tight limit on the time per token a shared engine carries little; apart, each side meets its own limit and the goodput
per device grows several times. The split has to fit the load, devices of the idle side are lost, and where the limits
are loose or the load is low a shared engine does as well or better.

**Here**: Llama-3.1-8B on four H100s, either four shared engines or prompts and answers apart, caches sent over
NVLink; prompts of 4,000 and answers of 200 tokens on average, a minute of traffic; carried = the load at which nine
of ten requests are within both limits. With half as much time again per token as alone, apart carries more than 1.5
times what vLLM as it is does, and more than it does with chunks of 512; with seven times as much, shared engines
carry more than any split.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

pytest.importorskip("numba")

from steelyard.deployment.deployment import Deployment, Pool
from steelyard.deployment.plan import Plan
from steelyard.simulation.prepared import Options
from steelyard.simulation.result import simulate_deployment
from steelyard.traffic.build import Traffic, traffic

#: Pools of the role both, by flags; or (devices for prompts, for answers).
SHARED: dict[str, dict[str, Any]] = {
    "vllm": {},
    "chunks of 512": {"max_num_batched_tokens": 512},
    "vllm of 2023": {"scheduler": "vllm-v0"},
}
SPLITS = ((1, 3), (2, 2), (3, 1))
#: Loads in requests/s per device.
TIGHT, LOOSE = (1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0), (3.0, 4.0, 5.0, 6.0, 7.0, 8.0)


@cache
def _run(where: str | tuple[int, int], per_device: float, tpot_s: float) -> dict[str, Any]:
    """Summary at a load in requests/s per device."""
    if isinstance(where, str):
        pools = (Pool("h100_sxm", Plan(), 4, "both", SHARED[where]),)
    else:
        pools = (Pool("h100_sxm", Plan(), where[0], "prefill"), Pool("h100_sxm", Plan(), where[1], "decode"))
    rate = 4 * per_device
    sent = traffic(
        Traffic(
            rate=f"{rate}/s",
            isl="lognormal:4000,max=16000",
            osl="lognormal:200",
            requests=max(100, int(60 * rate)),
            seed=1,
        )
    )
    deployment = Deployment("llama-3.1-8b", pools, "least-loaded")
    return simulate_deployment(deployment, sent, Options(slo={"ttft_s": 1.0, "tpot_s": tpot_s})).summary()


def _good(where: str | tuple[int, int], per_device: float, tpot_s: float) -> float:
    return float(_run(where, per_device, tpot_s)["throughput"]["goodput_frac"])


def _limit(times: float) -> float:
    """A limit of the time per token: so many times that of requests alone, s."""
    return round(times * float(_run("vllm", 0.05, 1.0)["tpot_s"]["mean"]), 4)


def _carried(where: str | tuple[int, int], loads: tuple[float, ...], tpot_s: float) -> float:
    """Load at which nine of ten are served well: linear between the two loads around it, 0 below the first."""
    last, above = 0.0, 1.0
    for load in loads:
        good = _good(where, load, tpot_s)
        if good < 0.9:
            return last + (load - last) * (above - 0.9) / (above - good) if last else 0.0
        last, above = load, good
    return last


def test_apart_carries_more_under_a_tight_limit() -> None:
    apart = _carried((2, 2), TIGHT, _limit(1.5))
    shared = {name: _carried(name, TIGHT, _limit(1.5)) for name in SHARED}
    assert apart > 1.5 * max(shared["vllm"], shared["vllm of 2023"])
    assert apart > 1.1 * shared["chunks of 512"]


def test_apart_carries_less_under_a_loose_limit() -> None:
    shared = _carried("vllm", LOOSE, _limit(7))
    assert shared > 1.1 * max(_carried(split, LOOSE, _limit(7)) for split in SPLITS)


def test_the_split_has_to_fit_the_load() -> None:
    good = {split: _good(split, 2.5, _limit(1.5)) for split in SPLITS}
    assert good[2, 2] > 0.9
    assert good[1, 3] < 0.6 and good[3, 1] < 0.6
    first = {split: _run(split, 2.5, _limit(1.5))["ttft_s"]["p50"] for split in SPLITS}
    each = {split: _run(split, 2.5, _limit(1.5))["tpot_s"]["p50"] for split in SPLITS}
    assert first[1, 3] > 2 * first[2, 2]  # prompts queue
    assert each[3, 1] > 1.2 * each[2, 2]  # answers share too few devices


def test_at_a_low_load_apart_has_nothing_to_gain() -> None:
    shared, apart = _run("vllm", 0.1, _limit(1.5)), _run((2, 2), 0.1, _limit(1.5))
    for name in ("ttft_s", "e2e_s"):
        assert shared[name]["mean"] == pytest.approx(apart[name]["mean"], rel=0.05)
    assert shared["throughput"]["goodput_frac"] > 0.9 and apart["throughput"]["goodput_frac"] > 0.9


def test_prompts_no_longer_stall_answers() -> None:
    shared, apart = _run("vllm", 3.0, _limit(1.5)), _run((2, 2), 3.0, _limit(1.5))
    assert apart["itl_s"]["p99"] < 0.2 * shared["itl_s"]["p99"]
    sent = apart["pools"][0]["sent"]
    assert sent["requests"] == pytest.approx(apart["requests"], rel=0.01)  # but those of one token
    assert sent["mean_s"] < 0.25 * apart["ttft_s"]["p50"]
