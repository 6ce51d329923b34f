"""Step tables against the price they were built from; blocks as the engines count them; flags and defaults."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")

from steelyard.cost.kv_pool import kv_pool
from steelyard.cost.price import price
from steelyard.cost.program import lower
from steelyard.cost.step import Replica
from steelyard.cost.step_eval import table_cost
from steelyard.cost.step_table import StepTable, build_step_table
from steelyard.deployment import Plan
from steelyard.deployment.engine import find_engine
from steelyard.deployment.engine_config import engine_config
from steelyard.errors import DoesNotFit, InputError, UnknownName
from steelyard.machine.cluster import parse_cluster
from steelyard.workload import Step
from steelyard.workload.catalogue import load_model

CASES = {
    "dense": ("llama-3.1-70b", "h200_sxm:8", "vllm", Plan("fp8", kv="fp8", tp=8)),
    "one device": ("llama-2-7b", "a100_sxm", "vllm", Plan()),
    "windows and experts": ("gpt-oss-120b", "h100_sxm:4", "vllm", Plan(tp=4)),
    "latent attention": ("deepseek-r1", "h200_sxm:8", "sglang", Plan(tp=8)),
    "stages": ("llama-3.1-70b", "h100_sxm:8", "trtllm", Plan("fp8", tp=4, pp=2)),
}


def built(case: str) -> tuple[Any, Any, Any, Any, StepTable]:
    name, on, engine, plan = CASES[case]
    model, cluster, entry = load_model(name).transformer, parse_cluster(on), find_engine(engine)
    plan = plan.resolved(model)
    config = engine_config(entry, cluster.machine)
    return (
        model,
        cluster,
        entry,
        plan,
        build_step_table(Replica(model, plan, cluster, entry), config, max_context=16384),
    )


@pytest.mark.parametrize("case", CASES)
def test_decode_steps_agree_with_their_price(case: str) -> None:
    from steelyard.cost.pipeline import boundary

    model, cluster, engine, plan, table = built(case)
    rng = np.random.default_rng(0)
    batch = np.exp(rng.uniform(0, np.log(256), 120)).astype(int)
    context = np.exp(rng.uniform(np.log(64), np.log(16384), 120)).astype(int)
    graph = model.graph(Step.decode(batch.astype(float), context.astype(float)), absorb=True)
    cost = price(lower(graph, plan, cluster.machine), cluster, engine)
    exact = np.asarray(cost.time_s) + boundary(model, plan, cluster, batch) * (plan.pp - 1)
    found = np.array(
        [table.time_s(n, n, n, float(n) * c) for n, c in zip(batch.tolist(), context.tolist(), strict=True)]
    )
    error = np.abs(found / exact - 1)
    assert np.median(error) < 0.003
    assert np.percentile(error, 90) < 0.01
    steps = zip(batch.tolist(), context.tolist(), strict=True)
    joules = [table_cost(*table.tables, n, n, n, float(n) * c, 0, 0.0, 0.0)[1] for n, c in steps]
    assert np.median(np.abs(joules / np.asarray(cost.energy_j) - 1)) < 0.01


@pytest.mark.parametrize("case", CASES)
def test_prompt_steps_agree_with_their_price(case: str) -> None:
    from steelyard.cost.pipeline import boundary

    model, cluster, engine, plan, table = built(case)
    rng = np.random.default_rng(1)
    top = 2048 if case == "one device" else 8192
    new = np.exp(rng.uniform(np.log(520), np.log(top), 120)).astype(int)
    before = np.where(rng.random(120) < 0.4, 0, np.exp(rng.uniform(0, np.log(8000), 120)).astype(int))
    graph = model.graph(Step(1.0, new.astype(float), (before + new).astype(float)), absorb=False)
    cost = price(lower(graph, plan, cluster.machine), cluster, engine, decode=False)
    exact = np.asarray(cost.time_s) + boundary(model, plan, cluster, new) * (plan.pp - 1)
    found = [
        table.time_s(n, 1, 0, 0.0, 1, float(n), n * (b + n / 2))
        for n, b in zip(new.tolist(), before.tolist(), strict=True)
    ]
    error = np.abs(found / exact - 1)
    assert np.median(error) < 0.005
    assert np.percentile(error, 90) < 0.02


def test_a_mixed_step_is_its_parts_without_double_weights() -> None:
    *_, table = built("dense")
    both = table.time_s(512, 33, 32, 32 * 2000.0, 1, 480.0, 480 * 240.0)
    decode, prompt = table.time_s(32, 32, 32, 32 * 2000.0), table.time_s(480, 1, 0, 0.0, 1, 480.0, 480 * 240.0)
    assert max(decode, prompt) < both < decode + prompt


def test_step_times_grow_with_everything() -> None:
    *_, table = built("dense")
    assert table.time_s(64, 64, 64, 64 * 1000.0) < table.time_s(64, 64, 64, 64 * 8000.0)
    assert table.time_s(1024, 1, 0, 0.0, 1, 1024.0, 1024 * 512.0) < table.time_s(
        2048, 1, 0, 0.0, 1, 2048.0, 2048 * 1024.0
    )
    near, far = (table.time_s(512, 1, 0, 0.0, 1, 512.0, 512 * (b + 256.0)) for b in (0, 8000))
    assert near < far


def test_blocks_are_what_is_left_of_the_memory() -> None:
    model, plan = load_model("llama-2-7b").transformer, Plan().resolved("bf16")
    machine, engine = parse_cluster("a100_sxm").machine, find_engine("vllm")
    pool = kv_pool(model, plan, machine, engine, engine_config(engine, machine))
    assert pool.block_bytes == 2 * 32 * 4096 * 2 * 16  # K and V, layers, width, bytes, tokens
    assert 7000 < pool.blocks < 8000  # a server on this device reports about 7,400 at 0.9
    less = engine_config(engine, machine, {"gpu_memory_utilization": 0.6})
    assert kv_pool(model, plan, machine, engine, less).blocks < pool.blocks
    given = engine_config(engine, machine, {"num_gpu_blocks_override": 123})
    assert kv_pool(model, plan, machine, engine, given).blocks == 123
    with pytest.raises(DoesNotFit):
        kv_pool(model, plan, machine, engine, engine_config(engine, machine, {"gpu_memory_utilization": 0.1}))


def test_windows_and_states_hold_blocks_that_do_not_grow() -> None:
    machine, engine = parse_cluster("h100_sxm").machine, find_engine("vllm")
    config = engine_config(engine, machine)
    mixed = load_model("gpt-oss-20b").transformer
    pool = kv_pool(mixed, Plan().resolved(mixed), machine, engine, config)
    assert pool.fixed_blocks > 0
    full = sum(x.count for x in mixed.layers if x.attention and not x.attention.window)
    assert pool.block_bytes == pytest.approx(16 * full * 2 * 8 * 64 * 2)


def test_flags_have_the_engines_names_and_defaults() -> None:
    h100, a100 = parse_cluster("h100_sxm").machine, parse_cluster("a100_sxm").machine
    assert engine_config(find_engine("vllm"), h100).max_num_batched_tokens == 8192
    assert engine_config(find_engine("vllm"), a100).max_num_batched_tokens == 2048
    assert engine_config(find_engine("vllm"), a100).max_num_seqs == 256
    sglang = engine_config(find_engine("sglang"), h100, {"chunked_prefill_size": 4096, "max-running-requests": 48})
    assert (sglang.max_num_batched_tokens, sglang.max_num_seqs, sglang.block_size) == (4096, 48, 1)
    trtllm = find_engine("trtllm")
    assert engine_config(trtllm, h100).admission == "whole"
    evicts = engine_config(trtllm, h100, {"capacity_scheduler_policy": "MAX_UTILIZATION", "max_batch_size": 64})
    assert (evicts.admission, evicts.max_num_seqs) == ("step", 64)


def test_bad_flags_are_refused_all_at_once() -> None:
    engine, machine = find_engine("vllm"), parse_cluster("h100_sxm").machine
    with pytest.raises(InputError) as refused:
        engine_config(engine, machine, {"max_num_sequences": 3, "gpu_memory_utilization": 1.5, "block_size": 0})
    assert len(refused.value.problems) == 3
    assert "max_num_seqs" in str(refused.value)
    with pytest.raises(UnknownName):
        engine_config(engine, machine, {"scheduler": "nothing"})
    with pytest.raises(InputError):
        engine_config(engine, machine, {"chunked_prefill_size": 512})  # another engine's name
