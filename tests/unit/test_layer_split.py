"""llama.cpp and its like give every device layers, one after the other, unless tensor parallelism is asked for."""

from __future__ import annotations

import pytest

from steelyard import InputError, estimate, simulate
from steelyard.estimation.infeasibility import remedy


@pytest.mark.parametrize("engine", ["llamacpp", "ollama", "llamacpp@b2500", "exllamav3"])
def test_cards_take_layers_one_after_the_other(engine: str) -> None:
    weights = "int4" if engine == "exllamav3" else "q4_k_m"
    two, asked = (
        estimate("llama-3.3-70b", on="rtx_3090:2", weights=weights, engine=engine, tp=tp).scenario.plan
        for tp in (None, 2)
    )
    assert (two.tp, two.pp) == (1, 2)
    assert (asked.tp, asked.pp) == (2, 1)


def test_a_token_passes_through_all_layers_of_all_cards() -> None:
    """About 16 tokens/s on two RTX 3090 are what owners of them report, with half the weights on each."""
    one, two = (estimate("llama-3.3-70b", on=f"rtx_3090:{n}", weights="q4_k_m", engine="llamacpp") for n in (1, 2))
    assert not one.fits and two.fits
    assert two.tpot_s == pytest.approx(one.tpot_s, rel=0.02)
    assert "2 devices with pp 2 (--on rtx_3090:2 --pp 2)" in remedy(one.scenario)


def test_pieces_of_a_prompt_follow_each_other_through_the_cards() -> None:
    """Measured with llama-bench on four A100: 512 tokens as fast as on one, 8,192 tokens 2.9 times as fast."""
    words = {"weights": "q4_k_m", "engine": "llamacpp", "osl": 8}
    short, long = (
        [estimate("llama-3.1-8b", f"a100_pcie:{n}", isl=isl, **words) for n in (1, 4)] for isl in (512, 8192)
    )
    assert short[1].ttft_s == pytest.approx(short[0].ttft_s, rel=0.03)
    assert 2.4 < long[0].ttft_s / long[1].ttft_s < 3.2
    assert long[1].limit["ttft_s"] < long[1].ttft_s
    assert float(long[1].prefill.time_s) == pytest.approx(long[1].ttft_s - long[1].scenario.engine.request_s)
    eight = estimate("llama-3.1-8b", "a100_pcie:8", isl=8192, **words)  # no more than four are on their way
    assert eight.ttft_s > 0.85 * long[1].ttft_s
    played = [
        simulate("llama-3.1-8b", on=f"a100_pcie:{n}", isl=2048, requests=1, concurrency=1, **words) for n in (1, 4)
    ]
    assert played[1].summary()["ttft_s"]["p50"] < 0.6 * played[0].summary()["ttft_s"]["p50"]


def test_sockets_and_other_engines_are_as_before() -> None:
    assert estimate("llama-3.1-8b", on="rtx_3090:2", engine="vllm").scenario.plan.tp == 2
    assert estimate("llama-3.1-8b", on="xeon_8480:2", weights="q8_0").scenario.plan.tp == 2


def test_a_server_that_waits_for_its_tokens_has_one_step_in_flight() -> None:
    """Two cards hold more and write no faster: no batch runs on the first while another is on the second."""
    words = {"isl": 256, "osl": 64, "requests": 8, "concurrency": 4, "weights": "q4_k_m"}
    one, two = (simulate("llama-3.1-8b", on=f"rtx_3090:{n}", engine="llamacpp", **words) for n in (1, 2))
    assert 0.9 < two.makespan_s / one.makespan_s < 1.01  # pieces of prompts follow each other
    assert two.pools[0].totals["energy_j"] < 1.6 * one.pools[0].totals["energy_j"]  # the card that waits is idle
    static = [estimate("llama-3.1-8b", f"rtx_3090:{n}", weights="q4_k_m", batch=64, engine="llamacpp") for n in (1, 2)]
    assert static[1].tpot_s == pytest.approx(static[0].tpot_s, rel=0.02)
    alone = simulate("llama-3.1-8b", on="rtx_3090:2", engine="ollama", **words)
    assert alone.pools[0].totals["batch_max"] == 1
    assert alone.makespan_s > 1.5 * two.makespan_s


def test_a_degree_without_a_count_is_told_how_to_name_as_many() -> None:
    with pytest.raises(InputError, match="h100_sxm has 1; so many are h100_sxm:2"):
        estimate("llama-3.1-8b", on="h100", tp=2)
