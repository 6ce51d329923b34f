"""What must hold for every model, machine and plan (design, section 5)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.cost.collective import Fabric, collective_limit_s
from steelyard.cost.cost import Cost
from steelyard.cost.memory import kv_bytes, memory_use, weight_bytes
from steelyard.cost.price import price
from steelyard.cost.program import lower
from steelyard.cost.step import Replica
from steelyard.deployment import Plan
from steelyard.deployment.engine import find_engine
from steelyard.errors import InputError
from steelyard.machine import Machine
from steelyard.machine.catalogue import find_machine
from steelyard.machine.cluster import cluster_of
from steelyard.workload import Attention, FeedForward, Layer, Step, Transformer

MACHINES = ["h100_sxm", "a100_sxm", "l40s", "rtx_4090", "b200_sxm", "mi300x", "epyc_9654", "m2_max", "tpu_v5e"]
DENSE = Transformer(
    "dense", "llama", 4096, 32000, (Layer(8, Attention(32, 8, 128, rotary_dim=128), FeedForward(11008)),)
)
SPARSE = Transformer(
    "sparse",
    "mixtral",
    2048,
    32000,
    (Layer(6, Attention(16, 4, 128, rotary_dim=128), FeedForward(1024, experts=64, top_k=4)),),
)
LATENT = Transformer(
    "latent",
    "deepseek_v3",
    2048,
    32000,
    (
        Layer(
            4,
            Attention(16, 16, 192, value_dim=128, kv_rank=512, nope_dim=128, rope_dim=64, rotary_dim=64),
            FeedForward(8192),
        ),
    ),
)
WINDOWED = Transformer(
    "windowed", "gemma3", 2048, 32000, (Layer(4, Attention(8, 4, 128, window=512, rotary_dim=128), FeedForward(8192)),)
)
MODELS = {m.name: m for m in (DENSE, SPARSE, LATENT, WINDOWED)}
PLANS = {
    "bf16": Plan().resolved("bf16"),
    "fp8": Plan("fp8", kv="fp8").resolved("bf16"),
    "int4": Plan("int4").resolved("bf16"),
}

models = st.sampled_from(sorted(MODELS))
machines = st.sampled_from(MACHINES)
plans = st.sampled_from(sorted(PLANS))
batches = st.integers(1, 300)
lengths = st.integers(1, 6000)


def cost_of(model: Transformer, machine: Machine, plan: Plan, step: Step) -> Cost:
    cluster = cluster_of(machine, plan.devices)
    return price(lower(model.graph(step), plan, machine), cluster)


@settings(max_examples=60, deadline=None)
@given(model=models, machine=machines, plan=plans, batch=batches, length=lengths, prefill=st.booleans())
def test_no_kernel_beats_physics(model: str, machine: str, plan: str, batch: int, length: int, prefill: bool) -> None:
    step = Step.prefill(min(batch, 8), length) if prefill else Step.decode(batch, length)
    cost = cost_of(MODELS[model], find_machine(machine), PLANS[plan], step)
    for kernel in cost:
        assert np.isfinite(kernel.time_s)
        assert kernel.time_s >= kernel.limit_s * (1 - 1e-12), kernel.kernel.name
        assert kernel.limit_s >= max(kernel.compute_s, kernel.memory_s) * (1 - 1e-12)
    assert cost.time_s >= cost.limit_s > 0


@settings(max_examples=40, deadline=None)
@given(model=models, machine=machines, plan=plans, batch=batches, length=lengths)
def test_energy_covers_traffic_and_idle_and_stays_under_the_rated_power(
    model: str, machine: str, plan: str, batch: int, length: int
) -> None:
    where = find_machine(machine)
    cost = cost_of(MODELS[model], where, PLANS[plan], Step.decode(batch, length))
    least = sum(
        (k.kernel.traffic.get("weight", 0.0) + k.kernel.traffic.get("kv", 0.0))
        * k.kernel.count
        * where.root.energy_j_per_byte
        for k in cost
        if k.kernel.kind != "collective"
    )
    idle = where.idle_w * cost.time_s
    assert cost.energy_j <= where.tdp_w * cost.time_s * (1 + 1e-9) or not where.tdp_w
    assert cost.energy_j >= min(least + idle, where.tdp_w * cost.time_s if where.tdp_w else np.inf) * (1 - 1e-9)


@settings(max_examples=60, deadline=None)
@given(model=models, machine=machines, plan=plans, batch=batches, length=lengths, more=st.integers(1, 64))
def test_decode_is_monotone_in_batch_and_context(
    model: str, machine: str, plan: str, batch: int, length: int, more: int
) -> None:
    where, chosen = find_machine(machine), PLANS[plan]
    base = cost_of(MODELS[model], where, chosen, Step.decode(batch, length))
    longer = cost_of(MODELS[model], where, chosen, Step.decode(batch, length + 256 * more))
    larger = cost_of(MODELS[model], where, chosen, Step.decode(batch + more, length))
    assert longer.flops >= base.flops
    assert larger.flops > base.flops
    assert longer.time_s >= base.time_s * (1 - 1e-9)
    # choosing another tile or split may make a slightly larger product slightly quicker, as on real libraries
    assert larger.time_s >= base.time_s * (1 - 1e-9)


@settings(max_examples=30, deadline=None)
@given(model=models, machine=machines, batch=batches, length=lengths, layers=st.integers(1, 20))
def test_more_layers_cost_more(model: str, machine: str, batch: int, length: int, layers: int) -> None:
    small = MODELS[model]
    large = replace(small, layers=(*small.layers, replace(small.layers[0], count=layers)))
    where = find_machine(machine)
    step = Step.decode(batch, length)
    assert cost_of(large, where, PLANS["bf16"], step).time_s > cost_of(small, where, PLANS["bf16"], step).time_s
    assert large.parameters() > small.parameters()


@settings(max_examples=40, deadline=None)
@given(model=models, machine=machines, batch=batches, length=lengths, factor=st.floats(1.05, 4.0))
def test_more_bandwidth_is_never_slower(model: str, machine: str, batch: int, length: int, factor: float) -> None:
    where = find_machine(machine)
    faster = where.but(
        memory=tuple(replace(m, bandwidth_bytes_per_s=m.bandwidth_bytes_per_s * factor) for m in where.memory)
    )
    step = Step.decode(batch, length)
    assert cost_of(MODELS[model], faster, PLANS["bf16"], step).time_s <= cost_of(
        MODELS[model], where, PLANS["bf16"], step
    ).time_s * (1 + 1e-9)


@settings(max_examples=30, deadline=None)
@given(model=models, batch=batches, length=lengths)
def test_more_memory_never_fits_less(model: str, batch: int, length: int) -> None:
    where = find_machine("a100_sxm")
    larger = where.but(memory=tuple(replace(m, capacity_bytes=m.capacity_bytes * 2) for m in where.memory))
    engine = find_engine("vllm")
    small = memory_use(MODELS[model], PLANS["bf16"], where, engine, batch, length)
    large = memory_use(MODELS[model], PLANS["bf16"], larger, engine, batch, length)
    assert large.headroom >= small.headroom


@pytest.mark.parametrize("tp", [2, 4, 8])
@pytest.mark.parametrize("name", ["dense", "windowed", "latent"])
def test_shards_add_up_to_the_whole(name: str, tp: int) -> None:
    """FLOPs of matrix products and bytes of sharded weights over all ranks equal the unsharded model's."""
    model = MODELS[name]
    machine = find_machine("h100_sxm")
    whole, part = PLANS["bf16"], replace(PLANS["bf16"], tp=tp)
    step = Step.decode(16, 1000)

    def product_flops(plan: Plan) -> float:
        return float(sum(k.flops * k.count for k in lower(model.graph(step), plan, machine) if k.kind == "gemm"))

    replicated_kv = 0.0
    if name == "windowed" and tp > 4:
        replicated_kv = 4 * 2 * 16 * 2048 * 2 * 128 * (tp - 4)
    if name == "latent":  # the down-projection to the latent runs on every rank
        replicated_kv = 4 * 2 * 16 * 2048 * 576 * (tp - 1)
    assert tp * product_flops(part) == pytest.approx(product_flops(whole) + replicated_kv, rel=1e-9)
    assert tp * weight_bytes(model, part) >= weight_bytes(model, whole) * (1 - 1e-9)


def test_kv_cache_shards_add_up_or_are_replicated() -> None:
    whole = kv_bytes(DENSE, PLANS["bf16"], 8, 4096)
    assert kv_bytes(DENSE, replace(PLANS["bf16"], tp=8), 8, 4096) * 8 == whole
    assert kv_bytes(DENSE, replace(PLANS["bf16"], tp=16), 8, 4096) * 8 == whole
    assert kv_bytes(LATENT, replace(PLANS["bf16"], tp=8), 8, 4096) == kv_bytes(LATENT, PLANS["bf16"], 8, 4096)


@pytest.mark.parametrize("devices", [2, 4, 8])
def test_ring_all_reduce_limit_is_exact(devices: int) -> None:
    """2 (n - 1) / n of the message crosses every link, unless the switch reduces."""
    fabric = Fabric("ring", 100e9, 0.0, switched=True, multicast=False)
    expected = 2 * (devices - 1) / devices * 1e9 / 100e9
    assert float(collective_limit_s("all_reduce", 1e9, devices, fabric=fabric)) == pytest.approx(expected)


def test_amdahl_tensor_parallel_leaves_the_replicated_part() -> None:
    """What is not sharded bounds the speed-up of the sharded model's limit."""
    machine = find_machine("h100_sxm")
    step = Step.decode(64, 2000)
    one = cost_of(DENSE, machine, PLANS["bf16"], step).limit_s
    eight = cost_of(DENSE, machine, replace(PLANS["bf16"], tp=8), step).limit_s
    assert one / 8 <= eight < one


KNOBS: dict[str, Any] = {
    "weights": "fp8",
    "activations": "bf16",
    "kv": "fp8",
    "communication": "fp8",
    "tp": 2,
    "pp": 2,
    "cp": 2,
    "fused": False,
}


@pytest.mark.parametrize("knob", sorted(KNOBS))
def test_every_plan_knob_changes_the_answer(knob: str) -> None:
    machine = find_machine("h100_sxm")
    base = Plan("fp8" if knob == "activations" else "bf16", tp=2 if knob == "communication" else 1)
    changed = replace(base, **{knob: KNOBS[knob]}).resolved("bf16")
    base = base.resolved("bf16")
    engine = find_engine("vllm")
    step = Step.prefill(2, 2000)

    def figures(plan: Plan) -> tuple[float, ...]:
        use = memory_use(DENSE, plan, machine, engine, 2, 2000)
        return float(cost_of(DENSE, machine, plan, step).time_s), float(use.total), float(use.kv_cache)

    assert figures(base) != figures(changed)


def test_a_knob_that_could_not_matter_is_refused() -> None:
    with pytest.raises(InputError, match="narrower"):
        Plan("bf16", "fp8").resolved("bf16")


@settings(max_examples=25, deadline=None)
@given(model=models, plan=plans, seed=st.integers(0, 2**31))
def test_one_vectorised_call_equals_many_single_ones(model: str, plan: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    batch, context = rng.integers(1, 257, 12), rng.integers(1, 8000, 12)
    cluster = cluster_of(find_machine("h100_sxm"), 1)
    engine = find_engine("vllm")
    replica = Replica(MODELS[model], PLANS[plan], cluster, engine)
    together = replica.price(Step.decode(batch, context))
    alone = [
        price(lower(MODELS[model].graph(Step.decode(int(b), int(c))), PLANS[plan], cluster.machine), cluster, engine)
        for b, c in zip(batch, context, strict=True)
    ]
    assert together.time_s == pytest.approx([float(c.time_s) for c in alone], rel=1e-9)
    assert together.limit_s == pytest.approx([float(c.limit_s) for c in alone], rel=1e-9)
    assert together.energy_j == pytest.approx([float(c.energy_j) for c in alone], rel=1e-9)
