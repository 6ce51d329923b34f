"""Scenarios priced per second: one vectorised call against the same pricing in a plain Python loop.

A scenario is one whole-model decode step of Llama-3.1-70B (fp8, tensor parallel over eight H100s) at its own batch
and context.
"""

from __future__ import annotations

import numpy as np

from bench.timing import call_s
from steelyard.cost.price import price
from steelyard.cost.program import lower
from steelyard.cost.step import Replica
from steelyard.deployment import Plan
from steelyard.deployment.engine import find_engine
from steelyard.machine.cluster import parse_cluster
from steelyard.workload import Step
from steelyard.workload.catalogue import load_model

SCENARIOS = 1_000_000
LOOPED = 60


def run() -> dict[str, dict[str, object]]:
    """Scenarios per second both ways, and the ratio; the two answers must agree."""
    model = load_model("llama-3.1-70b").transformer
    cluster = parse_cluster("h100_sxm:8")
    engine = find_engine("vllm")
    plan = Plan("fp8", kv="fp8", tp=8).resolved("bf16")
    rng = np.random.default_rng(0)
    batch, context = rng.integers(1, 513, SCENARIOS), rng.integers(128, 32768, SCENARIOS)
    replica = Replica(model, plan, cluster, engine)

    def loop() -> list[float]:
        return [
            float(price(lower(model.graph(Step.decode(int(b), int(c))), plan, cluster.machine), cluster, engine).time_s)
            for b, c in zip(batch[:LOOPED], context[:LOOPED], strict=True)
        ]

    together = replica.price(Step.decode(batch, context)).time_s
    if not np.allclose(together[:LOOPED], loop(), rtol=1e-9):
        raise AssertionError("the vectorised call and the loop disagree")
    fast = SCENARIOS / call_s(lambda: replica.price(Step.decode(batch, context)), runs=3)
    slow = LOOPED / call_s(loop, runs=3)
    return {
        "decode steps priced, one vectorised call": {"value": fast, "unit": "scenarios/s", "target": ">= 500,000"},
        "decode steps priced, Python loop": {"value": slow, "unit": "scenarios/s"},
        "vectorised over loop": {"value": fast / slow, "unit": "x"},
    }
