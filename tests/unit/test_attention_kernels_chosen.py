"""The kernel of attention as a choice: generations, splits along the cache, none that is fused."""

from __future__ import annotations

import math
from typing import Any

import pytest

from steelyard.cost.attention_kernels import attention_facts
from steelyard.errors import InputError
from steelyard.estimation.estimate import Estimate, estimate


def ask(*techniques: str, on: str = "a100_80g", **sizes: Any) -> Estimate:
    words = {"batch": 1, "isl": 8192, "osl": 100, **sizes}
    return estimate("llama-2-7b", on, techniques=techniques, **words)


def attention_s(found: Any) -> float:
    names = ("attention", "scores", "softmax", "values")
    kernels = [k for k in found.cost.kernels if k.kernel.name.partition(".")[2].startswith(names)]
    return float(sum(k.time_s for k in kernels))


def test_generations_of_prompts() -> None:
    full = {t: attention_s(ask(f"attention-kernel:{t}", isl=2048, batch=4).prefill) for t in ("fa1", "fa2", "unfused")}
    assert full["fa2"] < full["fa1"] < full["unfused"]
    # 0.25 clocks per query and key beside 512 operations at the rate of a unit, 2048 a clock at three quarters
    alone = [attention_s(ask(f"attention-kernel:{t}").prefill) for t in ("fa1", "fa2")]
    assert 1.4 < alone[0] / alone[1] < 1.25 / 0.5
    hopper = [attention_s(ask(f"attention-kernel:{t}", on="h100_sxm").prefill) for t in ("fa2", "fa3")]
    assert hopper[1] < 0.9 * hopper[0]


def test_scores_take_memory_by_the_square_of_the_prompt() -> None:
    held = {n: [ask(*t, isl=n).memory.total for t in ((), ("attention-kernel:unfused",))] for n in (16_384, 65_536)}
    scores = {n: unfused - fused for n, (fused, unfused) in held.items()}
    assert scores[16_384] == pytest.approx(6 * 32 * 16_384**2)
    assert math.log(scores[65_536] / scores[16_384]) / math.log(4) == pytest.approx(2)
    passes = [ask(f"attention-kernel:unfused,passes={n}").ttft_s for n in (0, 4)]
    assert passes[0] < passes[1]


def test_a_long_cache_is_cut_or_shared_evenly() -> None:
    words = {"model": "llama-3.1-8b", "on": "a100_80g", "batch": 1, "isl": 65_536, "osl": 10}
    cut, whole, even = (
        attention_s(estimate(**words, techniques=f"attention-kernel:fa2{x}").decode)
        for x in ("", ",splits=1", ",balanced")
    )
    assert even <= cut < whole / 3
    assert attention_s(estimate(**words, techniques="attention-kernel:fa2").decode) == cut
    assert attention_facts("fa2/splits=1").splits_kv is False and attention_facts("fa2/balanced").balanced


def test_what_cannot_be() -> None:
    for text, words in (
        ("attention-kernel:fa4x", "unknown kernel"),
        ("attention-kernel:unfused,splits=2", "what is not fused is not split"),
        ("attention-kernel:fa2,splits=2,balanced", "not both"),
    ):
        with pytest.raises(InputError, match=words):
            ask(text)
    with pytest.raises(InputError, match="expected unfused"):
        estimate("llama-2-7b", "apple_m3_max", techniques="attention-kernel:fa1")
