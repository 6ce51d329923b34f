"""Every phase of an estimate keeps the limits of physics, whatever the deployment: 2,000 random ones, a fixed seed.

Limit, lower end, prediction and upper end are in order for each time; energy and money are finite and add up; one token
or request more never costs clearly less, also where prompts begin to exceed a step of a pipeline; what does not fit has
figures or nulls, never NaN.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import steelyard as sy
from steelyard.errors import InputError
from steelyard.estimation.estimate import Estimates, estimate_batch
from steelyard.scenario.scenario import Scenario, read_scenario
from steelyard.scenario.words import Problems

MODELS = [
    *("llama-3.1-8b", "meta-llama/Llama-3.1-70B", "Qwen/Qwen2.5-7B-Instruct", "tiiuae/Falcon3-3B-Instruct"),
    *("Qwen/Qwen3-30B-A3B", "mistralai/Mixtral-8x7B-Instruct-v0.1", "deepseek-ai/DeepSeek-V3", "google/gemma-3-27b-it"),
    *("ibm-granite/granite-3.1-3b-a800m-instruct", "LGAI-EXAONE/EXAONE-3.5-7.8B-Instruct", "openai/gpt-oss-20b"),
    "answerdotai/ModernBERT-large",
]
MACHINES = [
    *("h100_sxm", "a100_sxm", "l40s", "rtx_4090", "b200_sxm", "mi300x", "tpu_v5e", "gaudi3", "m2", "m2_max"),
    *("ryzen_9_7950x", "epyc_9654", "epyc_7763", "rk3588", "sa7255p", "cerebras_wse3", "groq_lpu", "jetson_agx_orin"),
]
ROUNDING = 1 + 1e-9


def deployments(seed: int, count: int) -> Iterator[Scenario]:
    """Random models on random machines, degrees and formats; those that cannot be are left out."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        words: dict[str, Any] = {
            "model": str(rng.choice(MODELS)),
            "on": f"{rng.choice(MACHINES)}:{rng.choice([1, 1, 2, 4, 8])}",
        }
        words |= {name: int(rng.choice([1, 2, 4, 8])) for name in ("tp", "pp", "dp") if rng.random() < 0.25}
        if rng.random() < 0.15:
            words["ep"] = int(rng.choice([2, 4, 8]))
        if rng.random() < 0.3:
            words["weights"] = str(rng.choice(["fp8", "int8", "int4"]))
        if rng.random() < 0.2:
            words["kv"] = "fp8"
        if rng.random() < 0.3:
            words["engine"] = str(rng.choice(["sglang", "trtllm", "llamacpp", "torch"]))
        if rng.random() < 0.2:
            words["skew"] = float(rng.choice([0.5, 1.2]))
        problems = Problems()
        try:
            made = read_scenario("estimate", words, problems)
        except InputError:
            continue
        yield made


def sizes(rng: np.random.Generator, n: int) -> tuple[Any, Any, Any]:
    """``n`` sizes, and each with a token or request more: ``[4, n]``."""
    batch = rng.choice([1, 2, 3, 7, 64, 256, 1000], n)
    isl = rng.choice([1, 16, 1000, 1023, 1024, 2048, 4095, 8192], n)
    osl = rng.choice([1, 2, 128, 1000], n)
    more = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    return tuple((x[None, :] + more[:, k, None]).reshape(-1) for k, x in enumerate((batch, isl, osl)))  # type: ignore[return-value]


@pytest.fixture(scope="module")
def weighed() -> list[Estimates]:
    rng = np.random.default_rng(7)
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for scenario in deployments(3, 260):
            try:
                answers, problems = estimate_batch(scenario.sized(*sizes(rng, 6)))
            except InputError:  # a format the machine cannot compute in
                continue
            if answers is not None and not any(problems):
                found.append(answers)
    assert sum(len(x) for x in found) > 2000
    assert sum(int(np.sum(~x.memory.fits)) for x in found) > 200
    assert sum(x.scenario.plan.pp > 1 for x in found) > 20
    return found


def said(x: Estimates, wrong: Any) -> str:
    """The first deployment of which something is wrong."""
    i = int(np.flatnonzero(wrong)[0])
    s = x.scenario
    return f"{s.transformer.name} on {s.cluster} {s.plan.degrees}: batch, isl, osl {[int(v[i]) for v in s.sizes]}"


def test_limit_low_value_and_high_are_in_order(weighed: list[Estimates]) -> None:
    for x in weighed:
        answers = np.asarray(x.scenario.osl)
        limits = {**x.limit, "e2e_s": x.limit["ttft_s"] + (answers - 1) * x.limit["tpot_s"]}
        for name, limit in limits.items():
            (low, high), value = x.interval[name], getattr(x, name)
            for a, b in ((0.0, limit), (limit, low), (low, value), (value, high)):
                wrong = ~(np.asarray(a) <= b * ROUNDING)
                assert not wrong.any(), f"{name}: {said(x, wrong)}"
            assert np.isfinite(high).all(), name


def test_energy_money_and_shares_are_whole(weighed: list[Estimates]) -> None:
    for x in weighed:
        for name in ("energy_j", "host_energy_j", "tokens_per_s", "ttft_single_s", "e2e_s"):
            value = np.asarray(getattr(x, name))
            wrong = ~(np.isfinite(value) & (value >= 0))
            assert not wrong.any(), f"{name}: {said(x, wrong)}"
        if x.usd_per_million_tokens is not None:
            assert np.isfinite(x.usd_per_million_tokens).all()
        wrong = ~(x.ttft_single_s <= x.ttft_s * (1 + 1e-6))
        assert not wrong.any(), f"ttft_single_s: {said(x, wrong)}"
        decoding = (np.asarray(x.scenario.osl) - 1) * x.tpot_s
        idle = x.scenario.cluster.machine.idle_w * x.devices * decoding
        wrong = ~(idle <= x.energy_j * (1 + 1e-6))
        assert not wrong.any(), f"idle: {said(x, wrong)} {idle[wrong]} {x.energy_j[wrong]}"
        for phase, shares in x.shares.items():
            assert sum(shares.values()) == pytest.approx(1.0), phase


def test_more_never_takes_less(weighed: list[Estimates]) -> None:
    """A token of a prompt, a request or a token of the answer more: no figure of the whole falls by over 2 %.

    Kernels are chosen by size, so that a figure may fall a little where a better one begins; prompts of one token, for
    which other kernels are used than for two, are left out. Limits may fall more: two small steps stay in the cache
    where a large one did not.
    """
    for x in weighed:
        n = len(x) // 4
        for name in ("ttft_s", "e2e_s", "energy_j"):
            value = np.asarray(getattr(x, name)).reshape(4, n)
            for k, field in enumerate(("batch", "isl", "osl"), 1):
                wrong = (value[k] < 0.98 * value[0]) & (np.asarray(x.scenario.isl)[:n] > 1)
                assert not wrong.any(), f"{name} with {field} + 1: {said(x, wrong)} {value[0][wrong]} {value[k][wrong]}"
        limits = x.limit if x.scenario.transformer.causal else {"ttft_s": x.limit["ttft_s"]}
        for name, limit in limits.items():
            value = np.asarray(limit).reshape(4, n)
            wrong = (value[1:] < 0.9 * value[0]).any(axis=0)
            assert not wrong.any(), f"limit of {name}: {said(x, wrong)}"


def test_a_prompt_one_token_longer_is_no_cliff_under_pipeline_stages() -> None:
    """Two prompts of 1,024 tokens fill a step of 2,048; two of 1,025 take two steps, the first of them full as well."""
    for words in (
        {"model": "tiiuae/Falcon3-3B-Instruct", "on": "m2:4", "batch": 3},
        {"model": "Qwen/Qwen2.5-7B-Instruct", "on": "sa7255p:8", "batch": 3},
        {"model": "llama-3.1-8b", "on": "h100_sxm:8", "pp": 8, "batch": 64},
    ):
        for isl in (511, 1024, 2048, 4096):
            one, other = (sy.estimate(isl=n, **words) for n in (isl, isl + 1))
            assert one.ttft_s * 0.99 <= other.ttft_s <= one.ttft_s * 1.05, words
            assert one.e2e_s * 0.99 <= other.e2e_s
            assert one.limit["ttft_s"] <= one.ttft_s


def test_what_does_not_fit_has_figures_or_nulls() -> None:
    for model, on in (
        ("moonshotai/Kimi-K2.5", "groq_lpu"),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", "cerebras_wse3:4"),
        ("deepseek-ai/DeepSeek-V3", "rk3588"),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = sy.estimate(model, on)
            text = str(found)
        json.dumps(found.to_dict(), allow_nan=False)
        assert "nan" not in text.lower().replace("nanoflow", "")
        assert np.isfinite([found.ttft_s, found.tpot_s, found.tokens_per_s, found.energy_j]).all()
