"""Words of questions as people and engines say them: users, rates without end, engine settings, shared prompts."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

import steelyard
from steelyard.cli.asked import _respelled
from steelyard.cli.main import main
from steelyard.errors import InputError
from steelyard.scenario.fields import STATIC_FLAGS, fields_of
from steelyard.scenario.spellings import spellings
from steelyard.studies.points import expand_study
from steelyard.studies.study import parse_study
from steelyard.traffic.build import Traffic, traffic

MODEL, ON = "llama-3.1-8b", "h100_sxm"


def answered(capsys: pytest.CaptureFixture[str], line: str) -> dict[str, Any]:
    """The JSON answer to a command, which holds nothing that JSON has not."""
    assert main([*line.split(), "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out, parse_constant=lambda word: pytest.fail(word))  # type: ignore[no-any-return]


def refused(capsys: pytest.CaptureFixture[str], line: str) -> str:
    assert main(line.split()) == 2
    return capsys.readouterr().err


# All at once


@pytest.mark.parametrize("rate", ["inf", "INF", "Infinity", "inf/s", math.inf])
def test_all_requests_arrive_at_once(rate: Any) -> None:
    made = traffic(Traffic(rate=rate, requests=20))
    assert not made.arrived_at.any() and "all at once" in made.name
    assert np.array_equal(made.isl, traffic(Traffic(rate="5/s", requests=20)).isl)


@pytest.mark.parametrize(
    ("more", "field"),
    [({"duration": "10s"}, "duration"), ({"burst": 2.0}, "burst"), ({"arrivals": "constant"}, "arrivals")],
)
def test_all_at_once_has_no_gaps_and_no_end(more: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        traffic(Traffic(rate="inf", **more))
    assert [p.field for p in caught.value.problems] == [field]


def test_a_rate_without_end_is_text_in_answers_and_studies(capsys: pytest.CaptureFixture[str]) -> None:
    found = answered(capsys, f"simulate {MODEL} --on {ON} --request-rate inf --requests 20 --osl 16 --no-intervals")
    assert found["completed"] == 20 and found["provenance"]["inputs"]["traffic"]["rate"] == "inf"
    run = steelyard.simulate(MODEL, ON, rate=math.inf, requests=20, osl=16)
    assert run.to_dict()["ttft_s"] == found["ttft_s"]
    words = {"model": MODEL, "on": ON, "requests": 9}
    points = expand_study(
        parse_study({"name": "s", "kind": "simulate", "fixed": words, "grid": {"rate": [math.inf, "4/s"]}})
    )
    assert [p.values["rate"] for p in points] == ["inf", "4/s"]
    assert "finite rate" in refused(capsys, f"plan {MODEL} --on {ON} --rate inf --ttft 1s")


# A prompt that all requests begin with


def test_a_system_prompt_needs_no_conversations() -> None:
    plain, shared = (
        traffic(Traffic(rate="8/s", isl=550, requests=50)),
        traffic(Traffic(rate="8/s", isl=550, system=330, requests=50)),
    )
    assert np.array_equal(shared.arrived_at, plain.arrived_at) and set(shared.isl.tolist()) == {880}
    assert shared.prefix_hashes is not None and len(np.unique(shared.prefix_hashes)) == 330 // 16
    run = steelyard.simulate("llama-3-8b", "l40s", weights="fp8", rate="8/s", isl=550, osl=20, system=330, requests=50)
    own = steelyard.simulate("llama-3-8b", "l40s", weights="fp8", rate="8/s", isl=880, osl=20, requests=50)
    hit = run.to_dict()["prefix_cache"]["hit_tokens"]
    assert 45 * 320 <= hit <= 49 * 320  # all but the first, and who came before its end
    assert run.to_dict()["ttft_s"]["mean"] < own.to_dict()["ttft_s"]["mean"]
    with pytest.raises(InputError, match="system"):
        traffic(Traffic(trace="azure_conv", system=9))


# Lengths beyond the context


def test_a_length_beyond_the_context_is_answered_and_said_first(capsys: pytest.CaptureFixture[str]) -> None:
    for engine in ("vllm", "llamacpp", "sglang"):
        found = answered(capsys, f"estimate {MODEL} --on {ON} --isl 200000 --engine {engine}")
        first = found["assumptions"][0]
        assert "200,256 tokens are beyond the 131,072" in first and "VLLM_ALLOW_LONG_MAX_MODEL_LEN" in first
    assert "beyond" not in " ".join(answered(capsys, f"estimate {MODEL} --on {ON} --isl 130000")["assumptions"])
    assert "table of positions" in refused(capsys, f"estimate gpt2 --on {ON} --isl 2000")
    played = answered(
        capsys, f"simulate llama-3-8b --on {ON} --rate 1/s --isl 9000 --osl 9 --requests 5 --no-intervals"
    )
    assert played["completed"] == 5 and "9,009 tokens are beyond the 8,192" in played["notes"][0]
    mixed = "--rate 1/s --isl uniform:4000-12000 --osl 9 --requests 30 --no-intervals"
    some = answered(capsys, f"simulate llama-3-8b --on {ON} {mixed}")
    assert 0 < some["rejected"] < 30  # an engine takes the others


def test_tables_mark_what_is_beyond_and_name_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(f"estimate llama-3-8b --on {ON} --isl 1000,9000 --max-num-batched-tokens 2048,4096".split()) == 0
    told = capsys.readouterr().out
    assert told.count("[1]") == 3 and "[1] beyond the 8,192 tokens the model was made for" in told
    assert "max_num_batched_tokens" in told


# What is assumed


def test_defaults_are_said_before_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    first = answered(capsys, f"estimate {MODEL} --on {ON}")["assumptions"][0]
    assert first == "defaults: batch 1, isl 1024, osl 256, 92% of device memory (--gpu-memory-utilization)"
    given = f"estimate {MODEL} --on {ON} --users 8 --isl 100 --osl 20 --gpu-memory-utilization 0.9"
    assert answered(capsys, given)["assumptions"][0].startswith(
        "static batch: 8 requests, one of each user, of 100 + 20"
    )
    run = answered(capsys, f"simulate {MODEL} --on {ON} --rate 2/s --requests 10 --isl 100 --no-intervals")
    assert run["assumptions"][0].startswith("defaults: osl 256, 92% of device memory")
    assert "max_num_seqs 1,024" in run["assumptions"][0]


# Settings of engines on an estimate


def test_engine_settings_change_an_estimate(capsys: pytest.CaptureFixture[str]) -> None:
    base, less = steelyard.estimate(MODEL, ON), steelyard.estimate(MODEL, ON, gpu_memory_utilization=0.5)
    assert less.memory.capacity == pytest.approx(base.memory.capacity * 0.5 / 0.92, rel=1e-6)
    assert steelyard.estimate(MODEL, ON, flags={"gpu_memory_utilization": 0.5}).to_dict() == less.to_dict()
    assert less.to_dict()["provenance"]["inputs"]["gpu_memory_utilization"] == 0.5
    told = answered(capsys, f"estimate {MODEL} --on {ON} --max-model-len 8192 --mem-fraction-static 0.9")
    assert "Maximum concurrency for 8,192 tokens per request" in [line["name"] for line in told["engine_log"]]
    many = {"batch": 64, "isl": 4096}
    small = steelyard.estimate(MODEL, ON, max_num_batched_tokens=4096, **many)
    assert small.memory.activations < steelyard.estimate(MODEL, ON, **many).memory.activations
    assert steelyard.estimate(MODEL, ON, max_num_seqs=16).largest_batch == 16
    with pytest.raises(InputError, match="batch: 64 requests of a replica, but max_num_seqs is 32"):
        steelyard.estimate(MODEL, ON, batch=64, max_num_seqs=32)
    asked = steelyard.Scenario.of("estimate", MODEL, ON, max_num_seqs=7)
    played = steelyard.simulate(asked, rate="inf", requests=50, osl=20)
    assert played.to_dict()["batch"]["max"] == 7
    with pytest.raises(InputError, match="gpu_memory_utilization: expected a number of at most 1"):
        steelyard.estimate(MODEL, ON, gpu_memory_utilization=2)


def test_llamacpp_allots_the_whole_context(capsys: pytest.CaptureFixture[str]) -> None:
    line = "estimate qwen3-8b --on rtx_4090 --engine llamacpp --weights q4_k_m"
    own, whole = answered(capsys, line), answered(capsys, f"{line} -c 12800")
    assert whole["memory_bytes"]["kv_cache"] == pytest.approx(10 * own["memory_bytes"]["kv_cache"])
    assert whole["ttft_s"] == own["ttft_s"]


# Spellings


@pytest.mark.parametrize(
    ("engine", "ours"),
    [
        ("estimate m --tp-size 2", "estimate m --tp=2"),
        ("estimate -m m -tp 2 --dtype auto", "estimate m --tp=2"),
        ("estimate --model m --batch-size 3", "estimate m --batch=3"),
        ("explain --model m -np 4", "explain m --max-num-seqs=4"),
        ("estimate m -c 4096 -ub 512 -b 2048", "estimate m --max-model-len=4096 --max-num-batched-tokens=512"),
        ("estimate m -ctk q8_0 -ctv q8_0", "estimate m --kv=q8_0"),
        ("estimate m -p 512 -n 128", "estimate m --isl=512 --osl=128"),
        ("estimate m -ngl 20", "estimate m --offload layers:20"),
        ("simulate m --random-input-len 9 --random-output-len=8", "simulate m --isl=9 --osl=8"),
        ("simulate m --random-prefix-len 330 --ctx-size 4096", "simulate m --system=330 --max-model-len=4096"),
        ("simulate m --num-requests 5 --ep-size 8", "simulate m --requests=5 --ep=8"),
        ("plan m --random-input-len 9", "plan m --isl=9"),
        ("fit --model m -p 512 -tp 2", "fit m --isl=512 -tp 2"),
        ("here --num-predict 9 -n 9", "here --num-predict 9 --osl=9"),
        ("compare log.json --tp-size 2 --model m", "compare log.json --tp=2 --model m"),
        ("estimate m --n 4 -b 8", "estimate m --n 4 -b 8"),  # of several meanings: not read
    ],
)
def test_options_of_engines_are_ours(engine: str, ours: str) -> None:
    assert _respelled(engine.split()) == ours.split()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (f"simulate {MODEL} --on {ON} --rate 2/s --burstiness 0.1", "--burst is cv"),
        (f"simulate {MODEL} --on {ON} --rate 2/s --goodput ttft:500", "name the SLOs"),
        (f"estimate {MODEL} --on {ON} --flash-attn on", "priced as they are"),
        (f"estimate {MODEL} --on {ON} -t 8", "the whole device works"),
        (f"estimate {MODEL} --on {ON} -c", "expected a value after it"),
    ],
)
def test_what_has_no_field_here_is_told(capsys: pytest.CaptureFixture[str], line: str, words: str) -> None:
    assert words in refused(capsys, line)


def test_auto_is_what_is_published(capsys: pytest.CaptureFixture[str]) -> None:
    plain = answered(capsys, f"estimate {MODEL} --on {ON}")
    same = answered(capsys, f"estimate {MODEL} --on {ON} --kv-cache-dtype auto --quantization auto --engine auto")
    assert same["plan"] == plain["plan"] and same["tpot_s"] == plain["tpot_s"]
    assert steelyard.estimate(MODEL, ON, kv="auto").tpot_s == steelyard.estimate(MODEL, ON).tpot_s


def test_places_take_the_share_of_memory(capsys: pytest.CaptureFixture[str]) -> None:
    line = f"fit {MODEL} --on rtx_4090 --isl 512 --osl 64 --weights bf16 --kv-cache-dtype auto"
    most, little = (answered(capsys, f"{line} --gpu-memory-utilization {x}")["rows"][0] for x in (0.9, 0.5))
    assert (most["count"], little["count"]) == (1, 2)


def test_names_of_options_are_names_in_python() -> None:
    ours = steelyard.estimate(MODEL, f"{ON}:2", tp=2, batch=4, kv="fp8")
    theirs = steelyard.estimate(MODEL, f"{ON}:2", tensor_parallel_size=2, users=4, kv_cache_dtype="fp8")
    assert theirs.to_dict() == ours.to_dict()
    fixed = {"model": MODEL, "on": ON, "users": [2, 4], "context_length": 4096}
    points = expand_study(parse_study({"name": "s", "kind": "estimate", "grid": fixed}))
    assert [(p.values["batch"], p.values["max_model_len"]) for p in points] == [(2, 4096), (4, 4096)]
    with pytest.raises(InputError, match="given twice"):
        parse_study({"name": "s", "kind": "estimate", "fixed": {"model": MODEL, "on": ON, "users": 2, "batch": 3}})
    load = {"model": MODEL, "on": ON, "request_rate": "inf", "max_running_requests": 7, "num_prompts": 20, "osl": 9}
    played = expand_study(parse_study({"name": "s", "kind": "simulate", "fixed": load}))[0].values
    assert played["flags.max_num_seqs"] == 7 and played["requests"] == 20 and played["rate"] == "inf"
    assert steelyard.simulate(**load).to_dict()["batch"]["max"] == 7
    with pytest.raises(InputError, match="users: the same as batch, which is given as well"):
        steelyard.estimate(MODEL, ON, batch=2, users=4)


def test_every_engine_setting_is_spelled_as_elsewhere() -> None:
    here, there = spellings("estimate"), spellings("simulate")
    assert {w: n for w, n in here.items() if n in STATIC_FLAGS} == {w: n for w, n in there.items() if n in STATIC_FLAGS}
    assert here["users"] == "batch" and there["users"] == "concurrency" == spellings("plan")["max_concurrency"]
    assert "system" in fields_of("plan")


# Plans for a rate alone, and for users


def test_a_rate_alone_is_enough_for_a_plan(capsys: pytest.CaptureFixture[str]) -> None:
    found = answered(capsys, f"plan {MODEL} --on l40s --rate 12/s")
    winner, asked = found["winner"], found["asked"]
    assert asked["promises"] == [] and asked["rate_per_s"] == pytest.approx(12)
    assert winner["max_rate_per_s"] >= 12 and winner["devices"] == 2
    assert any(
        "no SLO: it keeps up with the rate" in why and "% of what it holds is used" in why for why in found["why"]
    )
    alone = steelyard.plan(MODEL, "l40s", rate="12/s", max_gpus=1, remedies=False)
    assert alone.winner is None  # one does not keep up
    with pytest.raises(InputError, match="mix: needs an SLO"):
        steelyard.plan(MODEL, "l40s", rate="12/s", mix=True)


def test_users_who_wait_for_their_answers_are_planned_for() -> None:
    asked = {"concurrency": 56, "isl": 512, "osl": 64, "ttft": "p95:1s", "tpot": "p95:40ms", "requests": 560}
    found = steelyard.plan(MODEL, "l40s", sure=0.5, **asked)
    assert found.winner is not None and found.winner.max_concurrency is not None
    assert found.winner.max_concurrency >= 56 and found.winner.mode == "aggregated"
    pool = found.winner.deployment.pools[0]
    words = {**asked, "router": found.winner.deployment.router, "flags": dict(pool.flags)}
    ours, fewer = (steelyard.simulate(MODEL, "l40s", replicas=n, **words).to_dict() for n in (pool.replicas, 1))
    assert pool.replicas == 2 and ours["ttft_s"]["p95"] <= 1.0 < fewer["ttft_s"]["p95"]  # the smallest that holds it
    assert ours["ttft_s"]["p95"] == pytest.approx(found.winner.ttft_s) and ours["tpot_s"]["p95"] <= 0.04
    document = found.to_dict()
    assert document["asked"]["concurrency"] == 56 and document["asked"]["rate_per_s"] is None
    json.dumps(document, allow_nan=False)


def test_users_without_an_slo_are_served_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    found = answered(capsys, f"plan {MODEL} --on l40s --users 300 --isl 1024 --osl 64")
    winner = found["winner"]
    seats = sum(p.get("replicas", 1) * p["flags"]["max_num_seqs"] for p in winner["deployment"]["pools"])
    assert seats >= 300 and winner["max_concurrency"] >= 300
    wrong = "--mode disaggregated --objective throughput --max-gpus 2 --speculate ngram:k=3"
    told = refused(capsys, f"plan {MODEL} --on l40s --users 3 {wrong}")
    assert all(name in told for name in ("--mode", "--objective", "--speculate"))
    assert refused(capsys, f"plan {MODEL} --on l40s --users 0").splitlines() == [
        "error: --users: expected at least 1, got 0"
    ]
    assert "choose one of --rate and --concurrency" in refused(capsys, f"plan {MODEL} --on l40s --users 3 --rate 2/s")
