"""Sparse attention that an indexer steers: what its kernels cost, against published figures of them."""

from __future__ import annotations

import numpy as np
import pytest

from steelyard.cost.step import Replica
from steelyard.deployment.engine import find_engine
from steelyard.deployment.plan import Plan
from steelyard.machine.catalogue import find_machine
from steelyard.machine.cluster import cluster_of
from steelyard.workload.catalogue import load_model
from steelyard.workload.step import Step


def priced(step: Step, machine: str = "h800_sxm", engine: str = "sglang", kv: str = "fp8") -> dict[str, float]:
    """Seconds of one layer's kernels by name."""
    model, device = load_model("deepseek-v3.2").transformer, find_machine(machine)
    plan = Plan("fp8_block", "", kv, "", 1, 1, 1, 1).resolved(model, device)
    replica = Replica(model, plan, cluster_of(device, 1), find_engine(engine))
    found = replica.price(step, decode=bool(np.all(np.asarray(step.new) == 1)))
    return {
        k.kernel.name.removeprefix("layer1."): float(np.ravel(k.time_s)[0]) / 58
        for k in found.cost.kernels
        if k.kernel.name.startswith("layer1.")
    }


def test_prompts_read_picked_latents_at_the_published_rate() -> None:
    """FlashMLA's README: 640 TFLOP/s of prompts on an H800, over 2048 tokens for each query."""
    flops = 2.0 * 4096 * 2048 * 128 * (576 + 512)
    assert priced(Step.prefill(1, 4096))["attention"] == pytest.approx(flops / 640e12, rel=0.1)


def test_a_decode_reads_every_place_filled_or_not() -> None:
    short, long = (priced(Step.decode(64, context)) for context in (256, 100_000))
    assert short["attention"] == pytest.approx(long["attention"])
    assert long["index_scores"] > 10 * short["index_scores"]


def test_scores_read_eight_bit_keys_whatever_the_cache() -> None:
    """64 x 131,072 keys of 132 bytes at 3.35 TB/s."""
    wide, narrow = (priced(Step.decode(64, 131_072), kv=kv)["index_scores"] for kv in ("bf16", "fp8"))
    assert wide == pytest.approx(narrow)
    assert wide == pytest.approx(64 * 131_072 * 132 / 3.35e12, rel=0.25)


@pytest.mark.parametrize(("keys", "published_s"), [(4096, 13e-6), (16384, 15e-6), (65536, 37e-6)])
def test_a_pick_takes_what_its_benchmark_says(keys: int, published_s: float) -> None:
    """SGLang's benchmark on one H200."""
    assert priced(Step.decode(1, keys), "h200_sxm")["index_top_k"] == pytest.approx(published_s, rel=0.2)


def test_small_kernels_are_counted_by_engine() -> None:
    """24 in SGLang, 10 where a compiler joins them; plain work where there are no such kernels."""
    step = Step.decode(1, 1024)
    sglang, vllm, plain = (priced(step, engine=name)["index_queries"] for name in ("sglang", "vllm", "torch"))
    assert 30e-6 < sglang < 60e-6
    assert vllm == pytest.approx(sglang * 10 / 24, rel=0.05)
    assert plain < 3e-6
