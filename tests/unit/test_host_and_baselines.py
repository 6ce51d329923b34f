"""What dated baselines hold and do, and what lies outside a device: by their formulas."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from steelyard.cost.memory import memory_use
from steelyard.deployment.engine import engines
from steelyard.errors import InputError
from steelyard.estimation.estimate import Estimate, estimate
from steelyard.machine.catalogue import find_machine
from steelyard.techniques._registry import parse
from steelyard.techniques.weight_tiers import piece_rate
from steelyard.workload.step import Step


def priced(*techniques: str, model: str = "llama-3.1-8b", on: str = "a100_sxm", **words: Any) -> Estimate:
    return estimate(model, on, **{"batch": 4, "isl": 2000, "osl": 32, **words}, techniques=techniques)


def test_scores_of_all_tokens_of_a_prompt_take_memory_and_time() -> None:
    whole = priced(engine="transformers")
    engine = engines()["transformers"]
    assert engine.whole_logits and engine.logit_bytes == 6  # 16 bit, and a copy in fp32
    assert whole.memory.activations == pytest.approx(4 * 2032 * 128256 * 6)
    found = whole.scenario
    last = memory_use(
        found.transformer, found.plan, found.cluster.machine, replace(engine, whole_logits=False), 4, 2032
    )
    assert last.activations < 0.2 * whole.memory.activations
    step = Step.prefill(4.0, 2000.0)
    replica = found.replica
    rows = {
        x: float(next(k for k in replace(replica, engine=e).lower(step) if k.name == "lm_head").ops[0].size("t"))
        for x, e in (("all", engine), ("last", replace(engine, whole_logits=False)))
    }
    assert rows == {"all": 8000, "last": 4}
    later = priced(engine="transformers@4.50")
    assert later.memory.activations == pytest.approx(whole.memory.activations / 3)
    # the host's time of a sequence is of sequences, not of the tokens that are scored
    assert whole.ttft_s - later.ttft_s < 1e-3
    assert engines()["torch"].whole_logits is False


def test_one_device_may_hold_both_ends() -> None:
    words = {"model": "llama-2-7b", "on": "raspberry_pi_5:4", "tp": 4, "weights": "fp32", "batch": 1, "isl": 64}
    whole, split = priced(engine="tpi_llm", **words), priced(engine="llamacpp", **words)
    ends = 2 * 32000 * 4096 * 4
    assert whole.memory.weights - split.memory.weights == pytest.approx(0.75 * ends, rel=0.01)
    window = priced("weight-streaming:0,disk,rate=1GB/s,window=1", engine="tpi_llm", **words)
    layers = whole.memory.weights - ends
    assert window.memory.weights == pytest.approx(ends + layers / 32, rel=0.01)


def test_some_cores_compute_and_fill_what_they_can_of_the_memory() -> None:
    pi, server = find_machine("raspberry_pi_5"), find_machine("xeon_8592")
    two, one = parse("cores:2").machine(pi), parse("cores:1,lines=16").machine(pi)
    assert [c.units for c in two.compute] == [2] and two.compute[0].peak["fp32"] == pi.compute[0].peak["fp32"] / 2
    assert two.root.bandwidth_bytes_per_s == pi.root.bandwidth_bytes_per_s
    assert one.root.bandwidth_bytes_per_s == pytest.approx(16 * 64 / pi.root.latency_s)
    assert parse("cores:4").machine(server).root.bandwidth_bytes_per_s < 0.5 * server.root.bandwidth_bytes_per_s
    words = {"model": "llama-2-7b", "on": "raspberry_pi_5", "batch": 1, "isl": 64}
    packed, halved = (priced(*t, weights="q2_k", **words).tpot_s for t in ((), ("cores:2",)))
    assert halved == pytest.approx(2 * packed, rel=0.05)  # bound by unpacking
    table, few = (priced("lookup-table:w=2", *t, **words).tpot_s for t in ((), ("cores:2",)))
    assert few < 1.3 * table  # bound by the memory
    for text, on in (("cores:5", "raspberry_pi_5"), ("cores:2", "a100_sxm")):
        with pytest.raises(InputError, match=r"has 4 cores|expected a processor"):
            priced(text, **{**words, "on": on})


def test_scattered_weights_come_in_pieces() -> None:
    assert piece_rate(3.5e9, 4096, 3e-6) == pytest.approx(0.98e9, rel=0.01)
    assert piece_rate(3.5e9, 512 * 1024, 3e-6) == pytest.approx(3.43e9, rel=0.01)
    assert piece_rate(3.5e9, 0, 3e-6) == 3.5e9
    words = {"batch": 1, "on": "snapdragon_8_gen_3", "weights": "int4", "isl": 64}
    long, short = (priced(f"weight-streaming:0,disk,rate=3.5GB/s,{x}wait_s=3us", **words) for x in ("", "piece=4KB,"))
    assert short.tpot_s / long.tpot_s == pytest.approx(1 + 3e-6 * 3.5e9 / 4000, rel=0.05)
    with pytest.raises(InputError, match="rate=7GB/s beside piece"):
        priced("weight-streaming:0,piece=4KB")


def test_copies_of_the_cache_hide_under_what_computes() -> None:
    text = "kv-budget:1,rest=host,resident=0.7,fetched={}"
    words = {"engine": "flexgen", "model": "opt-6.7b", "on": "v100_sxm_32gb", "batch": 32, "isl": 500}
    full, part, under = (priced(text.format(x), **words).tpot_s for x in ("0.3", "0.003", "0.3,overlap=1"))
    copying = (full - part) / 0.99
    assert under == pytest.approx(max(copying, full - copying), rel=0.1)
    assert priced(text.format("0.003,overlap=1"), **words).tpot_s <= part
    with pytest.raises(InputError, match="leave out overlap"):
        priced(text.format("0.3,overlap=1"), "weight-streaming:0.5", **words)


def test_chosen_entries_are_gathered_and_keys_rebuilt() -> None:
    words = {"batch": 8, "isl": 30000, "engine": "torch", "on": "a100_sxm"}
    plain, gathered, rebuilt = (priced(f"kv-budget:0.2,rest=kept{x}", **words) for x in ("", ",gathered", ",rank=160"))
    cache = 8 * 30016 * 0.2 * 32 * 2 * 8 * 128 * 2  # bytes that are chosen
    assert 1.6 < (gathered.limit["tpot_s"] - plain.limit["tpot_s"]) * 2.039e12 / cache <= 2  # read and written
    program = rebuilt.scenario.replica.lower(Step.decode(8.0, 30016.0))
    found = next(k for k in program if k.name.endswith(".rebuild"))
    assert found.flops * found.count == pytest.approx(2 * 160 * (8 * 30016 * 0.2) * 32 * 8 * 128)
    assert rebuilt.tpot_s > plain.tpot_s
    assert rebuilt.ttft_s == pytest.approx(plain.ttft_s)


def test_a_layer_of_a_dataflow_compiler_is_one_pipeline() -> None:
    words = {"model": "mistral-7b-v0.1", "on": "sambanova_sn40l:8", "tp": 8, "batch": 1, "isl": 512}
    fused, apart = priced(engine="sambaflow", **words), priced(engine="vllm", **words)
    engine, kept = engines()["sambaflow"], 7.24e9 * 2 / 8
    layers = kept * 0.96 / 2e12 / engine.fused_layers + 32 * engine.layer_s  # embedding and head lie outside
    assert fused.tpot_s == pytest.approx(layers + engine.step_s_per_sequence, rel=0.12)
    assert fused.limit["tpot_s"] == pytest.approx(apart.limit["tpot_s"], rel=0.05)
    assert fused.tpot_s < 0.5 * apart.tpot_s and fused.ttft_s < apart.ttft_s + engine.request_s
    many = priced(engine="sambaflow", **{**words, "batch": 16})
    assert many.tpot_s - fused.tpot_s == pytest.approx(15 * engine.step_s_per_sequence, rel=0.25)


def test_a_cache_of_heads_that_share_none_is_cut_where_the_engine_does() -> None:
    words = {"model": "llama-2-7b", "batch": 1, "isl": 65536, "osl": 2, "kv": "bf16"}
    dated, today = priced(engine="vllm@0.6", **words), priced(engine="vllm", **words)
    assert today.tpot_s > 1.5 * dated.tpot_s  # one block for each head, beside one for each piece
    grouped = {**words, "model": "llama-3.1-8b"}
    assert priced(engine="vllm@0.6", **grouped).tpot_s == pytest.approx(
        priced(engine="vllm", **grouped).tpot_s, rel=0.3
    )
