"""Cache levels, adapters, branches, early exit, finetuning, overlap, split feed-forward, past-future admission."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")

import steelyard as sy
from steelyard.cost.step import Replica
from steelyard.cost.step_table import build_step_table
from steelyard.deployment import Plan
from steelyard.deployment.engine import find_engine
from steelyard.deployment.engine_config import engine_config
from steelyard.errors import DoesNotFit, InputError
from steelyard.machine.cluster import parse_cluster
from steelyard.simulation.policies import ordered
from steelyard.simulation.result import Simulation
from steelyard.techniques._base import Technique
from steelyard.techniques._registry import read_techniques
from steelyard.techniques.attention_ffn import AttentionFfn, simulate_split, split_pool, split_table
from steelyard.techniques.kv_tiers import KvTiers
from steelyard.techniques.lora import Lora, adapter_cost, draw_adapters
from steelyard.traffic.branches import best_of
from steelyard.traffic.lengths import parse_lengths
from steelyard.traffic.sessions import conversations
from steelyard.traffic.trace import Trace
from steelyard.workload.catalogue import load_model
from tests.serving import simulate


def arrivals(n: int, rate: float, isl: int, osl: int) -> Trace:
    rng = np.random.default_rng(0)
    return Trace(np.cumsum(rng.exponential(1 / rate, n)), np.full(n, isl), np.full(n, osl))


def chats() -> Trace:
    rng = np.random.default_rng(0)
    starts = np.cumsum(rng.exponential(1.0, 120))
    lengths = {name: parse_lengths(n, name) for name, n in (("turns", "6"), ("prompt", "800"), ("output", "100"))}
    return conversations(starts, think_s=30.0, rng=rng, **lengths)


def small(trace: Trace, blocks: int = 6000, techniques: tuple[Technique, ...] = (), **flags: Any) -> Simulation:
    given = {"num_gpu_blocks_override": blocks, **flags} if blocks else flags
    return simulate("llama-3.1-8b", "h100_sxm", trace, flags=given, techniques=techniques)


def ttft(simulation: Simulation) -> float:
    return float(np.nanmean(simulation.records.ttft_s))


def rate(simulation: Simulation) -> float:
    return float(simulation.summary()["throughput"]["output_tokens_per_s"])


# levels of the cache


def test_lower_levels_keep_what_the_device_lets_go() -> None:
    trace = chats()
    runs = {
        words: small(trace, techniques=read_techniques({"kv_tiers": words}))
        for words in ("", "cpu:4GB", "cpu:200GB", "cpu:4GB,ssd:2TB", "pool:2TB@0.02GB/s")
    }
    hits = {words: run.totals["cached_tokens"] for words, run in runs.items()}
    assert hits[""] < hits["cpu:4GB"] < hits["cpu:4GB,ssd:2TB"] < 1.02 * hits["cpu:200GB"]
    assert ttft(runs["cpu:200GB"]) < ttft(runs["cpu:4GB"]) < 1.01 * ttft(runs[""])
    slow = runs["pool:2TB@0.02GB/s"]  # computing is faster than loading: nothing is loaded, nothing changes
    assert slow.totals["loaded_tokens"] == 0
    assert np.array_equal(slow.records.e2e_s, runs[""].records.e2e_s)
    for run in runs.values():
        assert run.records.completed.all()
        prompts = float(np.sum(trace.isl))
        # of requests that gave way, with what they had written
        again = run.totals["dropped_tokens"] + run.totals["preemptions"]
        assert prompts <= run.totals["prefill_tokens"] + run.totals["cached_tokens"] <= (prompts + again) * (1 + 1e-6)


def test_loading_is_never_faster_than_the_link() -> None:
    prompt, block = 8192, 64
    hashes = np.arange(prompt // block)
    other = 10_000 + np.arange(prompt // block)
    trace = Trace(
        np.array([0.0, 50.0, 100.0]),
        np.full(3, prompt),
        np.full(3, 2),
        prefix_hashes=np.concatenate([hashes, other, hashes]),
        prefix_offsets=np.arange(4) * (prompt // block),
        prefix_block_tokens=block,
    )
    base = small(trace, 600)  # one prompt at a time: the second drives the first out
    loaded = small(trace, 600, read_techniques({"kv_tiers": "cpu:100GB"}))
    kv_bytes = loaded.totals["loaded_tokens"] * loaded.pool.block_bytes / loaded.pool.block_tokens
    assert loaded.totals["loaded_tokens"] > 0.7 * prompt  # the rest was still on the device
    link = parse_cluster("h100_sxm").machine.links("host")[0].bandwidth_bytes_per_s
    assert kv_bytes / link < loaded.records.ttft_s[2] < base.records.ttft_s[2]


def test_swapping_instead_of_computing_again() -> None:
    trace = Trace(np.zeros(200), np.full(200, 1500), np.full(200, 400)).closed_loop(100)
    base, swapped = small(trace), small(trace, techniques=read_techniques({"kv_tiers": "cpu:200GB,swap"}))
    assert base.totals["preemptions"] > 10
    assert swapped.totals["swapped_tokens"] > 0
    assert swapped.totals["dropped_tokens"] < 0.1 * base.totals["dropped_tokens"]
    assert rate(swapped) > rate(base)
    assert swapped.records.completed.all()


def test_words_of_levels() -> None:
    cpu, pool = KvTiers.read("cpu:200GB, pool:2TB@25GB/s/4").levels
    assert (cpu.capacity_bytes, cpu.bandwidth_bytes_per_s) == (200e9, 0.0)
    assert (pool.capacity_bytes, pool.bandwidth_bytes_per_s, pool.ratio) == (2e12, 25e9, 4.0)
    for words in ("gpu:1GB", "cpu", "cpu:1GB,cpu:2GB", "cpu:-1GB"):
        with pytest.raises(InputError):
            KvTiers.read(words)
    with pytest.raises(InputError, match="swap"):
        read_techniques({"kv_tiers": "swap"})


# adapters


def test_bytes_of_an_adapter_are_those_of_its_matrices() -> None:
    model, cluster = load_model("llama-3.1-8b").transformer, parse_cluster("h100_sxm")
    plan = Plan().resolved("bf16")
    cost = adapter_cost(Lora.read("4,rank=16"), model, plan, cluster)
    hidden, kv, wide = 4096, 1024, 14336
    one = (hidden + hidden + 2 * kv) + (hidden + hidden) + (hidden + 2 * wide) + (wide + hidden)  # qkv, out, up, down
    assert cost.bytes == pytest.approx(32 * one * 16 * 2)
    assert cost.each_s >= cost.bytes / cluster.machine.root.bandwidth_bytes_per_s
    halves = adapter_cost(Lora.read("4,rank=16"), model, Plan(tp=2).resolved("bf16"), cluster)
    assert 0.5 * cost.bytes < halves.bytes < cost.bytes


def test_adapters_cost_time_memory_and_places() -> None:
    trace = arrivals(400, 15, 400, 100)
    none = small(trace, 0)
    one, eight = (small(trace, 0, read_techniques({"lora": f"{k},rank=16,max_loras=8"})) for k in (1, 8))
    many, crowded = (small(trace, 0, read_techniques({"lora": f"100,zipf=0,rank=16,max_loras={k}"})) for k in (64, 4))
    tpot = [float(np.nanmean(x.records.tpot_s)) for x in (none, one, eight, many)]
    assert tpot == sorted(tpot)
    assert tpot[1] < 1.4 * tpot[0]
    assert one.totals["adapter_loads"] == 1
    assert eight.totals["adapter_loads"] == 8
    assert ttft(crowded) > 3 * ttft(many)  # four at a time
    told = [dict(x.techniques[0].report(x.summary()["extras"])) for x in (many, crowded)]
    assert "adapter slots" not in told[0]
    assert told[1]["adapter slots"].endswith("max_loras=8")
    assert one.pool.blocks < none.pool.blocks
    assert all(x.records.completed.all() for x in (one, eight, many, crowded))


def test_kernels_of_adapters_are_launched_beside_the_models_own() -> None:
    """A clearing, a product into the rank and one out of it, for each of four products of 32 layers."""
    model, cluster = load_model("llama-3.1-8b").transformer, parse_cluster("h100_sxm")
    cost = adapter_cost(Lora.read("1,rank=8"), model, Plan().resolved("bf16"), cluster)
    assert cost.kernels == 3 * 4 * 32
    assert cost.step_s == pytest.approx(4.5e-6 * cost.kernels)

    def simulated(engine: str, isl: int, **lora: str) -> Simulation:
        return sy.simulate("llama-3.1-8b", "h100_sxm", engine=engine, concurrency=1, isl=isl, osl=8, requests=4, **lora)

    def more(engine: str, isl: int, figure: str) -> float:
        a, b = (simulated(engine, isl, **words) for words in ({}, {"lora": "1,rank=8"}))
        return float(np.nanmean(getattr(b.records, figure)) - np.nanmean(getattr(a.records, figure)))

    # a prompt beyond the captured graphs waits for the launches of all of them
    assert more("vllm", 600, "ttft_s") > cost.kernels * 45e-6 / 2
    assert more("vllm", 64, "tpot_s") < 2 * cost.step_s
    # the host of the first generation prepares adapters while the device waits
    assert more("vllm@0.6", 64, "tpot_s") > more("vllm", 64, "tpot_s") + 1.5e-3


def test_popularity_follows_the_exponent() -> None:
    drawn = draw_adapters(Lora.read("50,zipf=1,base=0.2"), 50_000)
    assert np.mean(drawn < 0) == pytest.approx(0.2, abs=0.01)
    counts = np.bincount(drawn[drawn >= 0], minlength=50)
    assert counts[0] / counts[9] == pytest.approx(10, rel=0.15)
    assert np.array_equal(drawn, draw_adapters(Lora.read("50,zipf=1,base=0.2"), 50_000))


def test_a_trace_names_its_own_adapters() -> None:
    trace = Trace(np.zeros(4), np.full(4, 100), np.full(4, 10), adapter=np.array([0, 1, -1, 1]))
    assert small(trace, 0, read_techniques({"lora": "2"})).totals["adapter_loads"] == 2
    with pytest.raises(InputError, match="adapter 1"):
        small(trace, 0, read_techniques({"lora": "1"}))


# branches


def test_branches_share_the_prompt() -> None:
    trace = arrivals(60, 3, 2048, 50)
    one, four = small(trace, 0), small(best_of(trace, 4, beam=True).trace, 0)
    assert four.totals["prefill_tokens"] < 1.1 * one.totals["prefill_tokens"] + 16 * 4 * 60
    assert four.totals["decode_tokens"] == 4 * one.totals["decode_tokens"]
    groups = four.summary()["groups"]
    assert groups["branches"] == 4
    lone = float(np.mean(one.records.e2e_s))
    assert lone < groups["e2e_s"]["mean"] < 2 * lone
    assert np.all(four.records.arrived_at.reshape(-1, 4)[:, 1:] > four.records.arrived_at.reshape(-1, 4)[:, :1])


def test_one_branch_is_the_request_itself() -> None:
    trace = arrivals(40, 3, 500, 30)
    assert np.array_equal(small(best_of(trace, 1).trace, 0).records.e2e_s, small(trace, 0).records.e2e_s)
    with pytest.raises(InputError):
        best_of(trace.closed_loop(4), 2)


# early exit and finetuning


def test_early_exit_gains_alone_and_hardly_in_a_batch() -> None:
    def speed(clients: int, words: str = "") -> float:
        trace = Trace(np.zeros(96), np.full(96, 200), np.full(96, 60)).closed_loop(clients)
        return rate(small(trace, 0, read_techniques({"early_exit": words})))

    assert speed(1, "ramps=3,p=0") == pytest.approx(speed(1), rel=1e-6)
    assert 1.2 < speed(1, "ramps=3,p=0.3") / speed(1) < 1 / 0.63
    plain, rebatched = (speed(32, f"{word}ramps=3,p=0.3") / speed(32) for word in ("", "rebatch:"))
    assert 1.0 <= plain < 1.01
    assert plain < rebatched < 1.25
    assert speed(32, "rebatch:ramps=3,p=0.3,head=1") < speed(32, "rebatch:ramps=3,p=0.3")
    with pytest.raises(InputError, match="verification needs all layers"):
        read_techniques({"early_exit": "ramps=1", "speculate": "ngram"})


def test_finetuning_fills_steps_up_to_the_promise() -> None:
    trace = Trace(np.zeros(64), np.full(64, 200), np.full(64, 60)).closed_loop(32)
    base, trained = small(trace, 0), small(trace, 0, read_techniques({"finetune": "30ms"}))
    steps = trained.iterations.duration_s
    assert np.all(steps[trained.iterations.prefill_tokens == 0] <= 0.030 + 1e-9)
    assert trained.totals["trained_tokens"] > 0
    flops = 2.0 * 2 * 8e9 * trained.totals["trained_tokens"]  # forward and backward of the activations
    assert flops < 990e12 * trained.totals["busy_s"]
    assert rate(trained) < rate(base)
    assert small(trace, 0, read_techniques({"finetune": "1ms"})).totals["trained_tokens"] == 0


# overlap


def test_overlap_helps_large_steps_only_and_stays_physical() -> None:
    model, cluster, engine = load_model("llama-3.1-70b").transformer, parse_cluster("h100_sxm:8"), find_engine("vllm")
    plan, config = Plan(tp=8).resolved("bf16"), engine_config(find_engine("vllm"), parse_cluster("h100_sxm").machine)
    tables = [
        build_step_table(Replica(model, plan, cluster, engine), config, max_context=8192, overlap=name)
        for name in ("", "nanoflow", "tokenweave")
    ]
    for step in ((16, 16, 16, 32e3), (1, 1, 1, 2e3)):
        plain, *others = (t.time_s(*step) for t in tables)
        assert others == pytest.approx([plain, plain])
    plain, nano, weave = (t.time_s(2048, 257, 256, 384e3, 1, 1792.0, 1792.0**2 / 2) for t in tables)
    assert 1.05 < plain / nano < 1.6
    assert 1.05 < plain / weave < 1.45
    flops = 2 * 70e9 * 2048 / 8
    assert min(nano, weave) > flops / 990e12


def test_attention_and_feed_forward_apart() -> None:
    model, engine = load_model("llama-3.1-70b").transformer, find_engine("vllm")
    plan, config = Plan(tp=8).resolved("bf16"), engine_config(engine, parse_cluster("h100_sxm").machine)
    split = AttentionFfn.from_flag("1A:8@h100_sxm,1F:8@h100_sxm", "disaggregate")
    assert split is not None and split.devices == 16
    replica = Replica(model, plan, parse_cluster("h100_sxm:8"), engine)
    together = build_step_table(replica, config, max_context=8192)
    apart = split_table(split, model, replica, config, max_context=8192)
    for n in (16, 256, 1024):
        step = (n, n, n, n * 4000.0)
        assert apart.time_s(*step) > 0.5 * (together.time_s(*step) - 2e-3)  # twice the devices, at best twice as fast
    assert apart.time_s(1, 1, 1, 4e3) > together.time_s(1, 1, 1, 4e3)  # the ways cost more than they save
    assert apart.time_s(1024, 1024, 1024, 4096e3) < together.time_s(1024, 1024, 1024, 4096e3)
    assert split_pool(split, model, plan, engine, config).tokens > 1_000_000
    tight = AttentionFfn.from_flag("1A:8@h100_sxm,1F:1@h100_sxm", "disaggregate")
    assert tight is not None
    with pytest.raises(DoesNotFit):
        split_pool(tight, model, plan, engine, config)
    assert AttentionFfn.from_flag("1P:tp8,1D:tp8", "disaggregate") is None
    with pytest.raises(InputError):
        AttentionFfn.from_flag("1A:8@h20", "disaggregate")


# admission and order


def test_past_future_admission_avoids_preemption() -> None:
    trace = Trace(np.zeros(300), np.full(300, 1500), np.full(300, 400)).closed_loop(100)
    eager, careful = small(trace), small(trace, scheduler="lightllm")
    assert careful.totals["preemptions"] < 0.3 * eager.totals["preemptions"]
    assert rate(careful) > 0.97 * rate(eager)
    assert careful.records.completed.all()


def test_splitfuse_fills_steps() -> None:
    run = small(arrivals(100, 40, 1000, 50), scheduler="splitfuse", max_num_batched_tokens=512)
    total = run.iterations.prefill_tokens + run.iterations.decode_tokens
    assert total.max() == 512
    assert run.records.completed.all()


def test_groups_of_a_prefix_go_together() -> None:
    from steelyard.simulation.policies.prefix_group import PrefixGroup

    hashes = np.array([7, 8, 7, 8])
    trace = Trace(
        np.arange(4.0),
        np.full(4, 64),
        np.full(4, 5),
        prefix_hashes=hashes,
        prefix_offsets=np.arange(5),
        prefix_block_tokens=64,
    )
    assert ordered(PrefixGroup, trace).keys.tolist() == [0.0, 1.0, 0.0, 1.0]


def test_split_devices_serve_a_trace_and_are_paid_for() -> None:
    trace = Trace(np.zeros(128), np.full(128, 2000), np.full(128, 50)).closed_loop(64)
    split = AttentionFfn.from_flag("2A:4@h100_sxm,1F:8@h100_sxm", "disaggregate")
    assert split is not None
    run = simulate_split("llama-3.1-70b", split, trace)
    assert run.records.completed.all()
    assert run.devices == 16
    assert [p.role for p in run.pools] == ["both", "feed_forward"]
    assert run.energy_j == pytest.approx(sum(p.totals["energy_j"] for p in run.pools))
    assert run.energy_j < 16 * 700 * run.makespan_s
    assert run.summary()["completed"] == 128


WORDS = (
    {"speculate": "ngram:k=3,accept=0.5"},
    {"speculate": "eagle:k=5,accept=0.8,adaptive"},
    {"speculate": "tree:width=2,depth=3,accept=0.6,by=medusa", "kv_tiers": "cpu:1GB,swap"},
    {"lora": "12,zipf=0.5,rank=8,max_loras=3,base=0.2"},
    {"lora": "5,max_loras=2,rank=8", "kv_tiers": "cpu:0.5GB,ssd:3GB,swap", "speculate": "ngram:k=2"},
    {"kv_tiers": "cpu:1GB,pool:4GB@20GB/s,swap"},
    {"early_exit": "rebatch:ramps=2,p=0.4", "kv_tiers": "ssd:2GB"},
    {"finetune": "40ms", "overlap": "nanoflow"},
)
SCHEDULERS = ("vllm", "sglang", "trtllm", "trtllm-max-utilization", "vllm-v0", "lightllm", "splitfuse", "orca")


@pytest.mark.parametrize("seed", range(24))
def test_nothing_is_lost_whatever_is_combined(seed: int) -> None:
    from steelyard.deployment.deployment import Deployment, Pool
    from steelyard.simulation.arrays import play, setup_of_fleet
    from steelyard.simulation.prepared import Options, prepare
    from steelyard.simulation.run import _methods

    rng = np.random.default_rng(seed)
    n = 80
    isl, osl = rng.integers(1, 900, n), rng.integers(1, 200, n)
    trace = Trace(np.cumsum(rng.exponential(rng.choice([0.002, 0.05]), n)), isl, osl)
    if seed % 3:
        full = isl // 16
        offsets = np.concatenate([[0], np.cumsum(full)])
        owner = np.repeat(rng.integers(0, 6, n), full)
        place = np.arange(offsets[-1]) - np.repeat(offsets[:-1], full)
        trace = Trace(
            trace.arrived_at,
            isl,
            osl,
            prefix_hashes=owner * 1000 + place,
            prefix_offsets=offsets,
            prefix_block_tokens=16,
        )
    if seed % 4 == 1:
        trace = best_of(trace, 3).trace
    flags = {
        "scheduler": SCHEDULERS[seed % len(SCHEDULERS)],
        "num_gpu_blocks_override": int(rng.integers(90, 400)),
        "max_num_seqs": int(rng.integers(2, 40)),
        "max_num_batched_tokens": int(rng.integers(64, 2000)),
    }
    techniques = read_techniques(WORDS[int(rng.integers(len(WORDS)))])
    pool = Pool("h100_sxm", Plan(), 1 + seed % 2, "both", flags)
    options = Options(techniques=techniques, seed=seed)
    prepared = prepare(Deployment("llama-3.1-8b", (pool,)), trace, options)
    members = [s.member(options) for s in prepared.served]
    setup = setup_of_fleet(members, prepared.trace)
    make, kept = _methods(prepared), []

    def methods(*arguments: Any) -> Any:
        assert make is not None
        kept.append(make(*arguments))
        return kept[0]

    found = play(
        setup,
        [prepared.table.tables],
        prepared.trace,
        prepared.policy,
        "round-robin",
        0,
        prepared.rejected,
        0,
        methods=methods,
    )
    served = ~prepared.rejected
    assert found.totals["stop"] == 0
    assert np.all(found.requests["status"][served] == 0)
    assert np.all(found.requests["remaining"][served] == 0)
    unit_blocks = int(setup.pools["unit_blocks"][0])
    assert np.all(found.pools["free"] + found.pools["evictable"] * unit_blocks == prepared.first.kv.blocks)
    tokens = int(np.sum(prepared.trace.osl[served] - 1))
    assert int(found.itl.sum()) == tokens
    again = tokens - int(found.totals["decode_tokens"])  # a request taken up again gives its next token as a prompt
    assert 0 <= again <= found.totals["preemptions"]
    m = kept[0]
    assert np.all(m.seats["users"] == 0)
    assert np.all(m.swapped == 0)
    if any(t.name == "kv-tiers" for t in techniques):
        held = (m.below["refs"] >= 0).sum(axis=1) * unit_blocks
        assert np.array_equal(m.tiers["used"], held)
        assert np.all(m.tiers["used"] <= m.tiers["capacity"])
