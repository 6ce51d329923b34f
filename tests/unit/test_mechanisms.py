"""Mechanisms of papers as techniques: each moves the right figure in the right direction, by its formula."""

from __future__ import annotations

from typing import Any

import pytest

from steelyard.errors import InputError
from steelyard.estimation.estimate import Estimate, estimate
from steelyard.techniques.experts import skew_with_copies


def priced(*techniques: str, model: str = "llama-3.1-8b", on: str = "h100_sxm", **words: Any) -> Estimate:
    return estimate(model, on, **{"batch": 8, "isl": 1000, "osl": 100, **words}, techniques=techniques)


def test_an_overhead_adds_what_is_stated() -> None:
    plain = priced()
    slower, longer, fuller = (priced(f"overhead:{x}") for x in ("time=0.1", "step=2ms", "memory=20GiB"))
    drawn = priced("overhead:power=0.1")
    own_s = plain.shares["decode"]["overhead"] * plain.tpot_s
    assert slower.tpot_s - own_s == pytest.approx(1.1 * (plain.tpot_s - own_s), rel=0.01)
    assert longer.tpot_s == pytest.approx(plain.tpot_s + 2e-3) and longer.ttft_s == pytest.approx(plain.ttft_s + 2e-3)
    assert fuller.largest_batch < 0.75 * plain.largest_batch and fuller.tpot_s == plain.tpot_s
    assert 1.02 < drawn.energy_j / plain.energy_j <= 1.1 and drawn.tpot_s == plain.tpot_s
    saved = priced("overhead:time=-0.9")
    assert saved.limit["tpot_s"] <= saved.tpot_s < plain.tpot_s
    with pytest.raises(InputError, match="expected a share or time"):
        priced("overhead")
    with pytest.raises(InputError, match="memory of less than the"):
        priced("overhead:memory=200GiB")


#: A model whose experts sixty-four devices share.
SHARED: dict[str, Any] = {"model": "deepseek-v3", "on": "h800:64", "dp": 64, "ep": 64, "tp": 1, "batch": 4096}


def test_exchanges_of_tokens_hide_under_the_experts() -> None:
    plain = priced(**SHARED)
    chunked, fused, halves = (priced(f"moe-overlap:{x}", **SHARED) for x in ("4", "4,fused", "2,batches"))
    for found in (chunked, fused, halves):
        assert found.tpot_s <= plain.tpot_s and found.ttft_s < plain.ttft_s
        assert found.memory.total == plain.memory.total
    assert fused.tpot_s < chunked.tpot_s  # weights are read once
    assert halves.ttft_s < chunked.ttft_s  # attention hides some as well
    finer = priced("moe-overlap:64,fused", **SHARED)
    network_s = (plain.tpot_s - finer.tpot_s) / (1 - 1 / 64)  # min(C, A), of which 1 / d shows
    assert fused.tpot_s == pytest.approx(plain.tpot_s - network_s * (1 - 1 / 4), rel=1e-3)
    with pytest.raises(InputError, match="no tokens are exchanged"):
        priced("moe-overlap", model="deepseek-v3", on="h200:8")
    with pytest.raises(InputError, match="has no experts"):
        priced("moe-overlap")


def test_copies_of_experts_level_the_load_and_let_more_devices_share_them() -> None:
    uneven = {**SHARED, "skew": 0.8}
    plain, copied = priced(**uneven), priced("redundant-experts:64", **uneven)
    assert copied.tpot_s < plain.tpot_s and copied.memory.weights > plain.memory.weights
    more = copied.memory.weights - plain.memory.weights
    each = 3 * 7168 * 2048 + 64 * 7168 * 2  # of 58 layers one more expert in fp8, and 64 more rows of the router
    assert more == pytest.approx(58 * each, rel=1e-3)
    assert skew_with_copies(0.0, 256, 64) == 0.0 and skew_with_copies(0.8, 256, 0) == 0.8
    assert 0 < skew_with_copies(0.8, 256, 64) < skew_with_copies(0.8, 256, 8) < 0.8
    wide = {**SHARED, "on": "h800:320", "dp": 320, "ep": 320, "batch": 3200}
    with pytest.raises(InputError, match="320 does not divide the 256 experts"):
        priced(**wide)
    assert priced("redundant-experts:64", **wide).memory.fits


def test_tokens_that_stay_are_not_exchanged() -> None:
    plain, half, once = (
        priced(*x, **SHARED) for x in ((), ("expert-affinity:0.5",), ("expert-affinity:0,exchanges=1",))
    )
    exchanged = plain.shares["prefill"]["network"] * plain.ttft_s
    assert half.ttft_s == pytest.approx(plain.ttft_s - 0.5 * exchanged, rel=0.02)
    assert plain.ttft_s - exchanged < once.ttft_s < plain.ttft_s - 0.4 * exchanged


def test_blocks_of_experts_with_other_shapes() -> None:
    plain, idle, narrow, chain = (
        priced(*x, **SHARED)
        for x in ((), ("moe-block:zero=0.5",), ("moe-block:width=1792",), ("moe-block:chain=2,top_k=4",))
    )
    ratio = (idle.shares["prefill"]["network"] * idle.ttft_s) / (plain.shares["prefill"]["network"] * plain.ttft_s)
    assert ratio == pytest.approx(0.5, abs=0.06)  # tokens that meet no expert cross no link
    ratio = (narrow.shares["prefill"]["network"] * narrow.ttft_s) / (plain.shares["prefill"]["network"] * plain.ttft_s)
    assert ratio == pytest.approx(1792 / 7168, abs=0.02)
    assert narrow.memory.weights < 0.85 * plain.memory.weights  # experts a quarter as large, beside attention and head
    assert chain.memory.weights == pytest.approx(plain.memory.weights, rel=1e-3) and chain.tpot_s > plain.tpot_s
    with pytest.raises(InputError, match="8 of 4 experts cannot be chosen"):
        priced("moe-block:experts=4", **SHARED)
