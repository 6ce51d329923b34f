"""One pricer: figures of many steps at once are those of each step, whatever the model, plan, engine and skew."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.cost.step import Replica, distinct_values
from steelyard.deployment import Plan
from steelyard.deployment.engine import find_engine
from steelyard.machine.cluster import parse_cluster
from steelyard.workload import Step
from steelyard.workload.catalogue import load_model

#: Dense; pipelines; context parallel; experts with latent and with sparse attention; linear attention; shared experts.
REPLICAS = [
    ("llama-3.1-70b", "h100_sxm:8", Plan("fp8", kv="fp8", tp=8), "vllm"),
    ("gemma-3-27b", "mi300x:2", Plan(pp=2), "vllm"),
    ("llama-3.1-70b", "h100_sxm:8", Plan(tp=4, cp=2), "vllm"),
    ("deepseek-v3", "h200_sxm:8", Plan(tp=8, ep=8), "sglang"),
    ("deepseek-v3.2", "h200_sxm:8", Plan(tp=8, ep=8), "sglang"),
    ("qwen3-next-80b-a3b", "h100_sxm:4", Plan(tp=2, pp=2), "vllm"),
    ("mixtral-8x7b", "h100_sxm:4", Plan(dp=2, tp=2, ep=4), "vllm"),
    ("gpt-oss-20b", "rtx_4090", Plan(), "torch"),
    ("llama-3.1-8b", "m4_max", Plan("q4_k_m"), "llamacpp"),
]


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(REPLICAS), st.integers(0, 2**31), st.sampled_from([0.0, 0.8]))
def test_many_steps_at_once_are_each_step_alone(case: tuple[str, str, Plan, str], seed: int, skew: float) -> None:
    name, on, plan, engine = case
    model, rng = load_model(name).transformer, np.random.default_rng(seed)
    place, entry = parse_cluster(on), find_engine(engine)
    replica = Replica(model, plan.resolved(model), place, entry, skew)
    batch, length = rng.integers(1, 300, 12).astype(float), rng.integers(1, 9000, 12).astype(float)
    length[0] = 1.0
    for found, decode in ((replica.decodes(batch, length), True), (replica.prompts(batch, length), False)):
        for i in range(len(batch)):
            step = Step.decode(batch[i], length[i]) if decode else Step.prefill(batch[i], length[i])
            alone = replica.price(step, decode=decode)
            assert found.time_s[i] == pytest.approx(float(alone.time_s), rel=1e-9)
            assert found.limit_s[i] == pytest.approx(float(alone.limit_s), rel=1e-9)
            assert found.energy_j[i] == pytest.approx(float(alone.energy_j), rel=1e-9)
            assert found.spread[i] == pytest.approx(float(alone.cost.log_spread()), rel=1e-9)
            assert sum(share[i] for share in found.shares.values()) == pytest.approx(1.0)
        assert np.all(found.limit_s <= found.time_s * (1 + 1e-12))


def test_skew_counts_where_experts_are_not_shared() -> None:
    model = load_model("mixtral-8x7b").transformer
    place, engine = parse_cluster("h100_sxm:2"), find_engine("vllm")
    plan = Plan(tp=2).resolved(model)
    even, skewed = (Replica(model, plan, place, engine, s).price(Step.decode(4, 1000)) for s in (0.0, 1.2))
    assert skewed.limit_s < 0.95 * even.limit_s, "fewer experts are hit, so fewer weights are read"
    assert skewed.energy_j < even.energy_j


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=60) | st.lists(st.integers(0, 9), min_size=1, max_size=60))
def test_distinct_values_and_their_places(values: list[int]) -> None:
    found, where = distinct_values(np.array(values))
    assert found.tolist() == sorted(set(values))
    assert found[where].tolist() == values
