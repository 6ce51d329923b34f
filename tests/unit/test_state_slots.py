"""Recurrent states have memory of their own: slots, a limit on the requests that run, and a rule for prefixes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import steelyard as sy
from steelyard.cost.kv_pages import Printed, printed
from steelyard.cost.kv_pool import KvPool, engine_prints, kv_pool, seated
from steelyard.cost.step import Replica
from steelyard.deployment.engine import find_engine
from steelyard.deployment.engine_config import engine_config
from steelyard.deployment.plan import Plan
from steelyard.errors import DoesNotFit, InputError
from steelyard.estimation.start_up import log_lines
from steelyard.machine.catalogue import find_machine
from steelyard.machine.cluster import cluster_of
from steelyard.search.space import with_limits
from steelyard.simulation.arrays import play, setup_of
from steelyard.traffic.trace import Trace
from steelyard.workload.catalogue import load_model
from tests.serving import config, constant_tables

GIB = 2**30


def pool_of(model: str, engine: str, on: str = "h100_sxm", tp: int = 1, **flags: Any) -> KvPool:
    loaded, machine, found = load_model(model).transformer, find_machine(on), find_engine(engine)
    plan = Plan(tp=tp).resolved(loaded, machine)
    return kv_pool(loaded, plan, machine, found, engine_config(found, machine, flags, loaded))


def left(model: str, memory_gib: float, engine: str, tp: int = 1, kv: str = "", **flags: Any) -> Printed:
    """What an engine prints that has found so much memory for its cache."""
    loaded, machine, found = load_model(model).transformer, find_machine("rtx_5090"), find_engine(engine)
    plan = Plan(tp=tp, kv=kv).resolved(loaded, machine)
    config = engine_config(found, machine, flags, loaded)
    return printed(loaded, plan, found, config, (memory_gib * GIB,) * 3, 0.0)


@pytest.mark.parametrize(
    ("model", "kv", "tp", "longest", "cached", "memory_gib", "tokens", "concurrency"),
    [
        # vLLM 0.24 on an RTX 5090 (noonghunna/club-3090, issues 612 and 652): prefixes shared, two states a request
        ("qwen3.6-35b-a3b", "fp8", 1, 131_072, True, 5.98, 567_978, 4.33),
        ("qwen3.6-35b-a3b", "fp8", 1, 131_072, True, 6.01, 569_878, 4.35),
        # vLLM 0.23 on two RX 7900 XT (vllm-project/vllm, issue 49064): one state a request; 3.86 GiB are 161 blocks
        ("qwen3.6-27b", "", 2, 122_633, False, 3.862, 123_399, 1.01),
        # two RTX 3090, prefixes shared (mitchross/talos-argocd-proxmox, pull request 1995)
        ("qwen3.6-27b", "fp8", 2, 131_072, True, 4.99, 302_921, 2.31),
    ],
)
def test_published_starts_of_hybrids(
    model: str, kv: str, tp: int, longest: int, cached: bool, memory_gib: float, tokens: int, concurrency: float
) -> None:
    found = left(model, memory_gib, "vllm", tp, kv, max_model_len=longest, enable_prefix_caching=cached)
    assert found.tokens == pytest.approx(tokens, rel=0.005)
    assert found.concurrency == pytest.approx(concurrency, abs=0.015)


def test_what_was_printed_of_hybrids_before() -> None:
    """vLLM 0.19 divided the blocks by the groups (vllm-project/vllm, issue 40691: 290,864 tokens, 33.04 times)."""
    found = left("qwen3.5-27b", 71.17, "vllm@0.19", max_model_len=32_768, max_num_seqs=16)
    assert found.tokens == 290_864
    assert found.concurrency == pytest.approx(33.04, abs=0.01)
    assert left("qwen3.5-27b", 71.17, "vllm", max_model_len=32_768).tokens == pytest.approx(33.04 * 32_768, rel=0.001)


def test_vllm_starts_with_no_more_requests_than_blocks() -> None:
    """Qwen3.6-27B-FP8 on an H100 at 0.95: "max_num_seqs (1024) exceeds available Mamba cache blocks (856)"."""
    model, machine, engine = load_model("qwen3.6-27b").transformer, find_machine("h100_sxm"), find_engine("vllm")
    plan = Plan(weights="fp8").resolved(model, machine)
    flags = engine_config(engine, machine, {"gpu_memory_utilization": 0.95}, model)
    found = engine_prints(model, plan, machine, engine, flags)
    assert found.sequences == pytest.approx(856, rel=0.1)
    pool = kv_pool(model, plan, machine, engine, flags)
    assert pool.sequences == pool.blocks == found.sequences
    assert seated(flags, pool).max_num_seqs == pool.blocks < flags.max_num_seqs == 1024
    log = sy.estimate("qwen3.6-27b", on="h100_sxm", weights="fp8").to_dict()["engine_log"]
    assert [line["name"] for line in log][-2:] == [
        "available Mamba cache blocks",
        "does not start with max_num_seqs 1,024; at most",
    ]
    assert log[-1]["value"] == log[-2]["value"]


def test_sglang_has_a_pool_for_states_and_three_of_them_a_request() -> None:
    pool = pool_of("qwen3-next-80b", "sglang", tp=4)
    model = load_model("qwen3-next-80b").transformer
    assert pool.apart and pool.fixed_blocks == 0
    assert pool.slot_bytes == model.state_bytes / 4 == pool.fixed_bytes
    states, tokens = pool.slots * pool.slot_bytes, pool.blocks * pool.block_bytes
    assert states / tokens == pytest.approx(0.9, rel=0.001)
    assert pool.sequences == pool.slots // 3
    more = pool_of("qwen3-next-80b", "sglang", tp=4, mamba_full_memory_ratio=2.0)
    assert more.slots > pool.slots and more.blocks < pool.blocks
    given = pool_of("qwen3-next-80b", "sglang", tp=4, max_mamba_cache_size=60)
    assert (given.slots, given.sequences) == (60, 20)
    alone = pool_of("qwen3-next-80b", "sglang", tp=4, enable_prefix_caching=False, max_num_seqs=100)
    assert (alone.slots, alone.sequences) == (100, 100) and alone.blocks > pool.blocks
    whole = (seat.blocks * seat.block_bytes + seat.slots * seat.slot_bytes for seat in (pool, more, given, alone))
    assert max(whole) - states - tokens < 2 * pool.slot_bytes, "of the same memory"
    answer = sy.estimate("qwen3-next-80b", on="h100_sxm:4", engine="sglang")
    assert answer.largest_batch <= pool.sequences


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"max_mamba_cache_size": 0}, "expected at least 1, got 0"),
        ({"max_mamba_cache_size": 2}, "expected at least 3, the states of one request"),
        ({"mamba_full_memory_ratio": 0}, "expected above 0, got 0"),
        ({"mamba_cache_mode": "all"}, "SGLang has no such flag; it is one of vllm"),
    ],
)
def test_states_that_sglang_could_not_keep_are_refused(flags: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        pool_of("qwen3-next-80b", "sglang", tp=4, **flags)


def test_more_states_than_memory_say_how_much_is_short() -> None:
    with pytest.raises(DoesNotFit, match=r"cache: 9,[\d.]+ GiB short .*fits: a smaller max_mamba_cache_size"):
        pool_of("qwen3-next-80b", "sglang", tp=4, max_mamba_cache_size=1_000_000)


def test_llamacpp_keeps_a_state_for_each_slot() -> None:
    few, many = (pool_of("qwen3-next-80b", "llamacpp", tp=4, max_num_seqs=n) for n in (4, 64))
    assert (few.slots, few.sequences, many.slots) == (4, 4, 64)
    assert few.fixed_blocks == many.fixed_blocks == 0
    saved = (few.blocks - many.blocks) * few.block_bytes
    assert saved == pytest.approx(60 * few.slot_bytes, abs=2 * few.block_bytes)


def test_a_model_of_states_alone_has_as_many_seats_as_states() -> None:
    pool = pool_of("mamba-2.8b", "vllm", on="rtx_3060")
    assert pool.slots == pool.blocks == pool.sequences


def test_modes_of_the_prefix_cache_of_states() -> None:
    model, machine, engine = load_model("qwen3-next-80b").transformer, find_machine("h100_sxm"), find_engine("vllm")

    def mode(**flags: Any) -> tuple[str, bool]:
        found = engine_config(engine, machine, flags, model)
        return found.mamba_cache_mode, found.enable_prefix_caching

    assert mode() == ("none", False)
    assert mode(enable_prefix_caching=True) == ("align", True)
    assert mode(mamba_cache_mode="all") == ("all", True)
    assert mode(mamba_cache_mode="all", enable_prefix_caching=False) == ("none", False)
    assert mode(mamba_cache_mode="none", enable_prefix_caching=True) == ("align", True)
    with pytest.raises(InputError, match="expected one of none, align, all"):
        mode(mamba_cache_mode="some")
    for flag in ("max_mamba_cache_size", "mamba_full_memory_ratio"):
        with pytest.raises(InputError, match="vLLM v1 has no such flag; it is one of sglang"):
            mode(**{flag: 5})
    none, align, every = (
        pool_of("qwen3-next-80b", "vllm", tp=4, mamba_cache_mode=name) for name in ("none", "align", "all")
    )
    assert align.fixed_blocks == 2 * none.fixed_blocks == 6
    assert (every.fixed_blocks, every.block_tokens) == (0, none.block_tokens)
    assert every.blocks == pytest.approx(none.blocks / 4, rel=0.01)
    dense = load_model("llama-3.1-8b").transformer
    assert engine_config(engine, machine, {}, dense).mamba_cache_mode == "none"


def test_no_more_requests_run_than_there_are_states() -> None:
    """The kernel's seats: 12 requests at once, 5 states."""
    n = 12
    trace = Trace(arrived_at=np.zeros(n), isl=np.full(n, 32), osl=np.full(n, 20))
    engine = config(max_num_seqs=256)
    pool = KvPool(1 << 16, 16, 1.0, slots=5, slot_bytes=1.0, sequences=5, apart=True)
    played = play(setup_of(engine, pool, trace), constant_tables(0.01, 1e-5), trace, "fcfs", "round-robin", 0, None, 99)
    assert played.totals["batch_max"] == 5


def test_a_simulation_says_slots() -> None:
    run = sy.simulate(
        "qwen3-next-80b", on="h100_sxm:4", engine="sglang", concurrency=64, isl=64, osl=8, requests=64,
        flags={"max_mamba_cache_size": 30},
    )  # fmt: skip
    document = run.summary()
    assert document["pools"][0]["kv"]["states"] == {
        "slots": 30,
        "slot_bytes": run.pool.slot_bytes,
        "max_num_seqs": 10,
    }
    assert run.config.max_num_seqs == 10 and run.totals["batch_max"] <= 10
    assert "recurrent states: 30 of" in " ".join(run.ledger.assumptions if run.ledger else ())
    from steelyard.report.simulation import text

    assert "at most 10 requests at once" in " ".join(text(run).split())


def test_the_planner_keeps_to_the_states() -> None:
    model, machine = load_model("nemotron-nano-9b-v2").transformer, find_machine("rtx_4090")
    for name in ("sglang", "llamacpp", "vllm"):
        engine = find_engine(name)
        plan = replace(Plan().resolved(model, machine), engine=name)
        replica = Replica(model, plan, cluster_of(machine), engine)
        option = with_limits(replica, engine_config(engine, machine, {}, model), 256)
        assert option is not None
        for j, most in enumerate(option.sequences.tolist()):
            pool = pool_of("nemotron-nano-9b-v2", name, "rtx_4090", max_num_seqs=most)
            if pool.sequences < most:
                assert not option.tokens[:, j].any(), (name, most, pool.sequences)
        assert option.tokens[:, 0].any()


@pytest.mark.parametrize("name", ["gemma-3-12b", "qwen3-8b"])
def test_the_planner_counts_a_start_as_the_simulator_does(name: str) -> None:
    model, machine, engine = load_model(name).transformer, find_machine("l40s"), find_engine("vllm")
    plan = replace(Plan().resolved(model, machine), engine="vllm")
    config = engine_config(engine, machine, {}, model)
    option = with_limits(Replica(model, plan, cluster_of(machine), engine), config, 256)
    assert option is not None
    for i, budget in enumerate(option.budgets.tolist()):
        for j, most in ((0, option.sequences[0]), (-1, option.sequences[-1])):
            limits = replace(config, max_num_batched_tokens=budget, max_num_seqs=int(most))
            pool = kv_pool(model, plan, machine, engine, limits, longest=256)
            assert option.tokens[i, j] == pytest.approx(pool.tokens, abs=pool.block_tokens)


def test_fit_shows_states() -> None:
    from steelyard.report.places import text

    found = sy.fit("qwen3.6-27b", "h100_sxm")
    row = found.rows[0].row()
    assert row["state_slots"] == row["state_requests"] > 100
    assert "states" in text(found)
    none = sy.fit("llama-3.1-8b", "h100_sxm")
    assert none.rows[0].row()["state_slots"] is None
    assert "states" not in text(none)


def test_prefixes_are_found_where_blocks_are_as_large_as_states() -> None:
    """Hashes of 512 tokens, blocks of 784: hits at every 1,024 tokens, not at every 25,088; no block is lost."""
    n, length = 6, 8192
    hashes = np.tile(np.arange(16), n)  # the same prompt six times
    trace = Trace(
        arrived_at=np.arange(n) * 10.0,
        isl=np.full(n, length),
        osl=np.full(n, 4),
        prefix_hashes=hashes,
        prefix_offsets=np.arange(n + 1) * 16,
        prefix_block_tokens=512,
    )
    engine = config(block_size=784, enable_prefix_caching=True, admission="prompt")
    pool = KvPool(100, 784, 1.0, fixed_blocks=6)
    setup = setup_of(engine, pool, trace)
    assert setup.unit_tokens == 1024
    assert setup_of(config(), KvPool(100, 16, 1.0), trace).unit_tokens == 512
    played = play(setup, constant_tables(0.01, 1e-5), trace, "fcfs", "round-robin", 0, None, 99)
    assert played.totals["cached_tokens"] == (n - 1) * 7 * 1024, "but the last token of a prompt is computed"
    assert played.totals["kv_max"] <= -(-(length + 4) // 784) + 6
    left = played.pools[0]["free"] + played.pools[0]["evictable"] * setup.pools[0]["unit_blocks"]
    assert left == 100


def test_fit_marks_places_where_the_engine_does_not_start_with_its_defaults() -> None:
    from steelyard.report.places import text

    found = sy.fit("llama-3.1-8b", "rtx_3090,h100_sxm")
    starts = {
        p.estimate.scenario.cluster.machine.name: p.row()["starts_with_defaults"]
        for p in found
        if p.row()["weights"] == "bf16"
    }
    assert starts == {"rtx_3090": False, "h100_sxm": True}
    assert "* the engine does not start with its defaults" in text(found)
    assert "*" not in text(sy.fit("llama-3.1-8b", "h100_sxm"))


def test_a_model_of_states_alone_prints_no_tokens() -> None:
    names = [line.name for line in log_lines(sy.estimate("state-spaces/mamba2-2.7b", on="a100"))]
    assert "available Mamba cache blocks" in names
    assert not any("KV cache size" in name for name in names)
