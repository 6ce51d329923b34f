"""Part of the cache: a budget of answers, sparse prompts; formulas, directions and exponents."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from steelyard.errors import InputError
from steelyard.estimation.estimate import Estimate, estimate
from steelyard.simulation.api import simulate
from steelyard.techniques import parse
from steelyard.workload.blocks.core import query_key_pairs
from steelyard.workload.blocks.sparse import held, kept, prompt_window
from steelyard.workload.shapes import Sparse
from steelyard.workload.step import Step


def ask(*techniques: str, model: str = "llama-3.1-8b", on: str = "a100_80g", **sizes: Any) -> Estimate:
    words = {"batch": 8, "isl": 32_768, "osl": 200, **sizes}
    return estimate(model, on, techniques=techniques, **words)


def test_a_share_of_the_cache_is_kept_or_only_read() -> None:
    plain, dropped = ask(), ask("kv-budget:0.2")
    chosen = ask("kv-budget:0.2,rest=kept,index=0.0625")
    assert dropped.memory.kv_cache == pytest.approx(0.2 * plain.memory.kv_cache, rel=1e-3)
    assert chosen.memory.kv_cache == pytest.approx(1.0625 * plain.memory.kv_cache, rel=1e-3)
    assert dropped.tpot_s < chosen.tpot_s < plain.tpot_s
    assert dropped.ttft_s == plain.ttft_s
    assert dropped.largest_batch == pytest.approx(5 * plain.largest_batch, rel=0.1)
    # what is not read saves what reading it takes: four fifths of the cache at no more than the memory's rate
    saved = 0.8 * plain.memory.kv_cache / 2.039e12
    assert plain.tpot_s - dropped.tpot_s > 0.9 * saved
    less_often = ask("kv-budget:0.2,rest=kept,index=0.0625,every=8")
    assert dropped.tpot_s < less_often.tpot_s < chosen.tpot_s


def test_a_budget_in_tokens_ends_growth() -> None:
    at = [ask("kv-budget:1,tokens=2048", isl=isl) for isl in (8_192, 65_536)]
    assert at[0].memory.kv_cache == at[1].memory.kv_cache
    assert at[0].tpot_s == pytest.approx(at[1].tpot_s, rel=1e-6)
    few = ask("kv-budget:1,tokens=32", on="raspberry_pi_5", model="tinyllama-1.1b", batch=64)
    (one,) = (k.kernel for k in few.decode.cost.kernels if k.kernel.kind == "attention")
    assert float(one.features["context"]) == 32
    replica = few.scenario.replica
    assert replica.decodes(np.array([64]), np.array([2148])).time_s[0] == pytest.approx(float(few.decode.time_s))
    both = Sparse(share=0.25, tokens=1024, streaming=0.5, near=100, drops=True)
    assert float(kept(both, 2000)) == 0.5 * 500 + 0.5 * 100
    assert float(kept(both, 8000)) == float(held(both, 8000)) == 0.5 * 1024 + 0.5 * 100
    assert float(kept(Sparse(share=0.2), 1)) == 1.0


def test_streaming_heads_keep_what_is_near() -> None:
    plain, half = ask(), ask("kv-budget:1,streaming=0.5,near=256,rest=kept")
    assert half.memory.kv_cache == pytest.approx(0.5 * plain.memory.kv_cache, rel=0.02)
    assert half.tpot_s < plain.tpot_s
    third = ask("kv-budget:1,streaming=1,near=256,full=0.34")
    assert third.memory.kv_cache == pytest.approx(11 / 32 * plain.memory.kv_cache, rel=0.03)


def test_the_host_sends_what_was_chosen() -> None:
    near, far = (ask(f"kv-budget:0.02,rest=host,index=0.03,resident=0.1,fetched={f}") for f in (0, 1))
    assert near.memory.kv_cache == pytest.approx(0.1 * ask().memory.kv_cache, rel=1e-3)
    each = 2 * 32 * 8 * 128 * 2  # bytes of a token's keys and values
    bytes_sent = 8 * 0.02 * (32_768 + 100) * each
    assert far.tpot_s - near.tpot_s == pytest.approx(bytes_sent / (0.8 * 32e9), rel=0.05)


def test_sparse_prompts_take_time_with_the_length_not_its_square() -> None:
    def attention_s(length: int, *techniques: str) -> float:
        found = ask(*techniques, batch=1, isl=length, osl=2).prefill
        kernels = found.cost.kernels
        return float(sum(k.time_s for k in kernels if k.kernel.kind == "attention" or "probe" in k.kernel.name))

    def exponent(*techniques: str) -> float:
        short, long = (attention_s(n, *techniques) for n in (65_536, 524_288))
        return math.log(long / short) / math.log(8)

    assert exponent() == pytest.approx(2, abs=0.1)
    assert exponent("sparse-prefill:1,tokens=2048,probes=0,search=64") == pytest.approx(1, abs=0.15)
    assert exponent("sparse-prefill:0.05") == pytest.approx(2, abs=0.1)
    share = attention_s(262_144, "sparse-prefill:0.05,probes=0") / attention_s(262_144)
    assert share == pytest.approx(0.05, rel=0.25)
    assert ask("sparse-prefill:0.05").tpot_s == ask().tpot_s


@pytest.mark.parametrize(("new", "context"), [(1000, 1000), (500, 4000), (3000, 3500)])
def test_the_window_of_a_prompt_has_so_many_pairs(new: int, context: int) -> None:
    for share in (0.05, 0.5, 0.9):
        window = float(prompt_window(Sparse(prompt_share=share), new, context))
        pairs = float(query_key_pairs(new, context, True, round(window)))
        assert pairs == pytest.approx(share * float(query_key_pairs(new, context)), rel=0.03)


def test_streaming_heads_of_prompts_attend_to_near_tokens() -> None:
    half = Sparse(streaming=0.5, near=1000, prompt_streaming=True)
    window = float(prompt_window(half, 8000, 8000))
    all_pairs, near = (float(query_key_pairs(8000, 8000, True, w)) for w in (0, 1000))
    assert float(query_key_pairs(8000, 8000, True, round(window))) == pytest.approx(0.5 * (all_pairs + near), rel=0.01)
    assert float(prompt_window(Sparse(prompt_tokens=512), 8000, 8000)) == pytest.approx(512, rel=0.01)
    assert float(prompt_window(Sparse(), 100, 100)) == 0.0 == float(prompt_window(half, 500, 500))
    plain, sparse = (ask(*t).ttft_s for t in ((), ("kv-budget:1,tokens=1024,streaming=0.5,near=256,prompts",)))
    assert sparse < plain


def test_parameters_and_models_that_cannot_be() -> None:
    for text, words in (
        ("kv-budget:0", "budget above 0"),
        ("kv-budget:0.2,rest=disk", "dropped, kept or host"),
        ("sparse-prefill:2", "share of at most 1"),
    ):
        with pytest.raises(InputError, match=words):
            ask(text)
    with pytest.raises(InputError, match="nothing attends to a cache"):
        estimate("bert-base-uncased", "a100_80g", techniques="kv-budget")
    with pytest.raises(InputError, match="expected resident above 0"):
        simulate("llama-3.1-8b", "a100_80g", rate="1/s", techniques="kv-budget:0.5,rest=host,resident=0")
    assert ask("kv-budget:0.5,rest=host,resident=0").memory.kv_cache == 0
    with pytest.raises(InputError, match="leave out prompts"):
        ask("kv-budget:0.2,prompts", "sparse-prefill:0.1")


def test_the_weights_stay_and_verification_reads_the_budget() -> None:
    from steelyard.scenario.scenario import Scenario

    model = Scenario.of("estimate", "llama-3.1-8b", "a100_80g", techniques="kv-budget:0.1").transformer
    plain = Scenario.of("estimate", "llama-3.1-8b", "a100_80g").transformer
    assert model.parameters() == plain.parameters() and model.depth == plain.depth
    seen = {}
    for new, guesses in ((1, False), (65, True), (65, False), (1000, False)):
        graph = model.graph(Step(np.array([1.0]), new, 10_000.0, guesses=guesses))
        (op,) = (op for op in graph if op.name == "layer0.scores")
        seen[new, guesses] = float(np.max(np.asarray(op.size("l"))))
    assert seen == {(1, False): 1000, (65, True): 1000, (65, False): 10_000, (1000, False): 10_000}


def test_a_cache_in_mixed_bits_takes_the_mean_and_its_scales() -> None:
    plain, four = ask(), ask("mixed-kv:4,group=64,scale_bits=16")
    mixed = ask("mixed-kv:2,high=4,salient=0.6,group=1024,scale_bits=0,probes=0.1")
    assert four.memory.kv_cache == pytest.approx(4.25 / 16 * plain.memory.kv_cache, rel=1e-3)
    assert mixed.memory.kv_cache == pytest.approx(3.2 / 16 * plain.memory.kv_cache, rel=1e-3)
    assert mixed.tpot_s < four.tpot_s < plain.tpot_s
    unprobed, every = (ask(f"mixed-kv:2,high=4,salient=0.6,scale_bits=0,probes={p}") for p in (0, 1))
    assert unprobed.ttft_s < mixed.ttft_s < every.ttft_s
    assert ask("fp8-kv").tpot_s > four.tpot_s
    with pytest.raises(InputError, match="both set kv"):
        ask("mixed-kv:4", "fp8-kv")
    with pytest.raises(InputError, match="has no int4 KV cache"):
        ask(kv="int4")
    assert ask(kv="int4@4.25").memory.kv_cache == pytest.approx(four.memory.kv_cache)


def test_a_cache_on_several_instances_is_attended_to_where_it_lies() -> None:
    words: dict[str, Any] = {"batch": 1, "isl": 100_000}
    plain, spread, slow = (ask(*t, **words) for t in ((), ("remote-attention:4",), ("remote-attention:4,rate=1e6",)))
    assert spread.memory.kv_cache == pytest.approx(plain.memory.kv_cache / 4, rel=1e-3)
    assert spread.tpot_s < plain.tpot_s and spread.ttft_s == plain.ttft_s
    sent = 32 * 3 * 4096 * 2  # bytes of a token: layers, other instances, width of queries
    assert slow.tpot_s - spread.tpot_s == pytest.approx(sent / 0.8 * (1 / 1e6 - 1 / 25e9), rel=1e-3)
    waits = [ask(f"remote-attention:4,wait_s={w}", **words).tpot_s for w in ("0s", "1ms")]
    assert waits[1] - waits[0] == pytest.approx(32e-3, rel=1e-3)
    with pytest.raises(InputError, match="one technique of kv-budget"):
        ask("remote-attention:4", "kv-budget:0.2")


def test_devices_that_share_a_cache_read_their_part_of_it() -> None:
    one, four = (estimate("llama-2-7b", f"a100_80g:{n}", batch=1, isl=100_000, osl=10, cp=n) for n in (1, 4))
    attention = [
        next(k for k in found.decode.cost.kernels if k.kernel.kind == "attention" and k.kernel.block == "attention")
        for found in (one, four)
    ]
    assert float(attention[1].kernel.features["context"]) == pytest.approx(100_005 / 4, rel=1e-3)
    assert attention[1].time_s < 0.35 * attention[0].time_s


@pytest.mark.parametrize("name", ["resident", "full"])
def test_a_share_that_is_next_to_nothing_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"expected {name} as 0 or at least 1e-06"):
        parse(f"kv-budget:rest=host,{name}=1e-30")
