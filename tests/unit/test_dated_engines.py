"""Engines as papers found them: what they have that later ones do not."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

import steelyard as sy
from steelyard.cost.price import launched
from steelyard.cost.program import lower
from steelyard.deployment.engine import engines, find_engine
from steelyard.deployment.plan import Plan
from steelyard.machine.catalogue import find_machine
from steelyard.workload.step import Step

NAMES = ("vllm@0.1", "vllm@0.2", "orca", "fastertransformer", "transformers", "tgi@1.0", "deepspeed_mii", "flexgen")
NAMES += ("trtllm@0.5", "trtllm@0.8", "sglang@0.3", "swifttransformer")


@pytest.mark.parametrize("name", NAMES)
def test_a_baseline_is_dated_and_slower_than_today(name: str) -> None:
    engine = find_engine(name)
    assert engine.released < "2024-12" and not engine.compared
    now = engine.generation_of or "vllm"
    then, today = (sy.estimate("llama-2-7b", "a100_sxm", engine=x, isl=1024, osl=64) for x in (name, now))
    assert then.tpot_s > today.tpot_s


def tpot(engine: str, model: str, isl: int, batch: int = 8) -> float:
    return float(sy.estimate(model, "a100_sxm", engine=engine, isl=isl, osl=2, batch=batch).tpot_s)


def test_a_cache_that_grows_by_copies_is_moved_again_and_again() -> None:
    # 20 x 1000 tokens more of 512 KiB each: read once from a pool; with two copies three times
    both = ("transformers", "fastertransformer")
    grown = {e: tpot(e, "llama-2-7b", 3500, 20) - tpot(e, "llama-2-7b", 2500, 20) for e in both}
    assert grown["transformers"] == pytest.approx(3.4 * grown["fastertransformer"], rel=0.25)
    # 32 query heads on 8: expanded first, read once, written and read again four times each
    grown = {e: tpot(e, "mistral-7b", 12000, 64) - tpot(e, "mistral-7b", 8000, 64) for e in grown}
    assert grown["transformers"] > 7 * grown["fastertransformer"]


def test_workers_are_awaited_by_the_server_of_2023_only_where_there_are_several() -> None:
    words: dict[str, Any] = {"engine": "vllm@0.2", "concurrency": 1, "requests": 3, "isl": 500, "osl": 50}

    def step(on: str, **more: Any) -> float:
        return float(sy.simulate("llama-2-13b", on, **words, **more).summary()["tpot_s"]["mean"])

    served = find_engine("vllm@0.2").served_step_s
    offline = step("a100_sxm:2", flags={"api_server_count": 0})
    assert step("a100_sxm:2") - offline == pytest.approx(served, rel=0.02)
    assert step("a100_sxm") == pytest.approx(step("a100_sxm", flags={"api_server_count": 0}), rel=1e-6)


def test_a_prompt_beyond_a_budget_enters_orca_beside_those_that_run() -> None:
    """It waited for an empty batch, at a third of the throughput."""
    words: dict[str, Any] = {"rate": "2/s", "isl": "uniform:1000-7000", "osl": 200, "requests": 60, "engine": "orca"}
    found = sy.simulate("mistral-7b", "a100_sxm", **words).summary()
    assert found["batch"]["max"] >= 4 and found["queue_s"]["p50"] < 0.5


def test_splitfuse_of_mii_fills_steps_of_768_tokens() -> None:
    found = sy.simulate("llama-2-7b", "a100_sxm", engine="mii", rate="inf", isl=1500, osl=20, requests=20)
    steps = found.iterations.prefill_tokens + found.iterations.decode_tokens
    assert steps.max() == 768 and found.config.block_size == 64


def test_every_engine_says_where_its_figures_are_from() -> None:
    assert [e.name for e in engines().values() if not re.search(r"(19|20)\d\d|\d{4}\.\d{5}", e.source)] == []


def test_generations_are_found_by_the_version_they_belong_to() -> None:
    assert find_engine("vllm@0.3").title == engines()["vllm_2023"].title and find_engine("trtllm@0.9").version == "0.8"
    assert find_engine("hf").name == "transformers"


def test_copies_of_the_cache_stay_where_attention_is_not_fused() -> None:
    unfused = {"techniques": "attention-kernel:unfused", "isl": 4096, "osl": 2, "batch": 24}
    copied, read = (
        float(sy.estimate("llama-3-8b", "a100_sxm", engine=e, **unfused).tpot_s) for e in ("transformers", "flexgen")
    )
    assert copied > 2 * read


def test_flexgen_runs_a_model_four_times_the_card_and_its_cache_crosses_the_link() -> None:
    words = {"engine": "flexgen", "isl": 512, "osl": 32, "batch": 144, "offload": "layers:9"}
    found = sy.estimate("opt-30b", "t4", **words, techniques="kv-budget:1,rest=host,resident=0,fetched=1")
    cache = 144 * 528 * 2 * 48 * 7168 * 2.0
    assert found.fits and found.tpot_s > cache / 15.75e9
    assert found.tpot_s < 2 * cache / 15.75e9 + 48e9 / 12e9  # with the weights that are streamed once


def test_distserves_engine_is_faster_between_kernels_than_its_contemporary() -> None:
    """Measured on OPT-13B, four devices: 10.9 ms a step of eight with SwiftTransformer, 22.1 with vLLM 0.2."""
    words: dict[str, Any] = {"tp": 4, "isl": 256, "osl": 2, "batch": 8}
    then = {e: sy.estimate("opt-13b", "a100_sxm:4", engine=e, **words).tpot_s for e in ("distserve", "vllm@0.2")}
    assert then["distserve"] == pytest.approx(10.9e-3, rel=0.2) and then["vllm@0.2"] > 1.5 * then["distserve"]


def test_a_layer_norm_of_2023_is_launched_in_pieces() -> None:
    """Two residuals and two biases of a layer of OPT have kernels of their own; an RMS norm takes a residual along."""
    vllm = find_engine("vllm@0.2")
    fused = replace(vllm, adds_apart=False)
    for name, each in (("opt-13b", 4), ("llama-2-13b", 0), ("falcon-40b", 2)):
        model = sy.load_model(name).transformer
        plan = Plan("fp16").resolved(model, find_machine("a100_sxm"))
        kernels = lower(model.graph(Step(1, 1, 256)), plan, find_machine("a100_sxm")).kernels
        assert launched(kernels, vllm) - launched(kernels, fused) == each * model.depth, name
