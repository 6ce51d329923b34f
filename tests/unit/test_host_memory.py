"""Weights in host memory: the words for them, where bytes lie, what a step costs, and what is refused."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

import steelyard
from steelyard.cli.main import main
from steelyard.cost.price import price
from steelyard.deployment.offload import EVERY, parse_offload
from steelyard.errors import DoesNotFit, InputError
from steelyard.estimation.estimate import Estimate
from steelyard.estimation.infeasibility import in_host_memory
from steelyard.machine.catalogue import find_machine
from steelyard.machine.cluster import Cluster
from steelyard.machine.host import find_host, usual_host

MOE = "qwen3-30b-a3b"


def asked(model: str = MOE, on: str = "rtx_2080_ti", **words: object) -> Estimate:
    given = {"weights": "q4_k_m", "engine": "llamacpp", "isl": 512, "osl": 128, **words}
    return steelyard.estimate(model, on, **given)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("experts", "experts"),
        ("experts:36", "experts:36"),
        ("experts:all", "experts"),
        ("layers:20,experts:3", "layers:20,experts:3"),
        ("layers:99", "layers:99"),
        ("layers:auto", ""),
        ("cpu:8GiB", "cpu:8GiB"),
        ("cpu:8", "cpu:8GiB"),
        ("none", ""),
        ("experts,streamed", "experts,streamed"),
        ("tensors:.ffn_.*_exps.=CPU", "experts"),
        ("layers:9,tensors:exps=CPU", "layers:9,experts"),
        (r"tensors:blk\.([0-9]|1[0-9])\.ffn_.*_exps\.=CPU", "experts:20"),
        (r"tensors:blk\.(2[0-9]|[3-9][0-9])\.ffn_.*_exps\.=CPU", "experts:28"),
        (r"tensors:blk\.[0-9]\.ffn_(up|gate)_exps=CPU,blk\.[0-9]\.ffn_down_exps=CPU", "experts:10"),
    ],
)
def test_words_are_read(text: str, found: str) -> None:
    asked_for = parse_offload(text)
    assert str(asked_for.of(48)) == found.replace("layers:99", "")
    assert parse_offload(str(asked_for)) == asked_for


@pytest.mark.parametrize(
    "text",
    [
        "foo",
        "experts:-1",
        "layers:",
        "layers:x",
        "cpu:lots",
        "cpu:8W",
        "tensors:attn_q=CPU",
        "tensors:.*=CPU",
        "tensors:(a|a)*x=CPU",
        "tensors:[=CPU",
        "tensors:.ffn_.*_exps.=CUDA0",
        "tensors:.*.*.*.*.*x=CPU",
        f"tensors:{'.?' * 40}x=CPU",
    ],
)
def test_words_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(InputError) as error:
        asked(offload=text)
    assert [p.field for p in error.value.problems] == ["offload"]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ({"n_cpu_moe": 36}, "experts:36"),
        ({"cpu_moe": True}, "experts"),
        ({"n_gpu_layers": 20}, "layers:20"),
        ({"ngl": 9, "override_tensor": ".ffn_.*_exps.=CPU"}, "layers:9,experts"),
        ({"cpu_offload_gb": 2.5}, "cpu:2.5GiB"),
    ],
)
def test_engines_words_mean_ours(words: dict[str, object], found: str) -> None:
    assert asked(**words).scenario.plan.offload == f"{found},either"


def test_the_command_line_takes_the_words_of_engines(capsys: pytest.CaptureFixture[str]) -> None:
    question = ["estimate", MOE, "--on", "rtx_2080_ti", "--weights", "q4_k_m", "--engine", "llamacpp"]
    outputs = []
    for words in (["-ngl", "99", "--n-cpu-moe", "36"], ["--n-cpu-moe=36"], ["--offload", "experts:36"]):
        assert main([*question, *words]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] == outputs[2]
    flat = " ".join(outputs[0].split())
    assert "in host memory: the experts of 36 layers; computed there, copied to the device" in flat
    assert "host: DDR4-3200, 2 channels, 8 cores, the usual one" in flat
    assert main([*question, "--n-cpu-moe"]) == 2
    assert main([*question, "--offload", "experts", "--host", "abacus"]) == 2
    assert "host: expected memory such as ddr5-5600x2" in capsys.readouterr().err


def test_bytes_lie_where_it_is_said() -> None:
    whole, part, every = asked(), asked(offload="experts:36"), asked(offload="experts")
    weights = float(whole.memory.weights)
    assert whole.memory.host == 0
    assert not whole.fits
    assert part.fits
    for e in (part, every):
        assert float(e.memory.weights) + float(e.memory.host) == pytest.approx(weights, rel=1e-9)
    assert float(part.memory.host) == pytest.approx(0.75 * float(every.memory.host))
    assert float(every.memory.host) == pytest.approx(0.94 * weights, rel=0.03)
    half = asked("llama-3.1-8b", offload="layers:17")
    alone = asked("llama-3.1-8b")
    assert float(half.memory.kv_cache) == pytest.approx(0.5 * float(alone.memory.kv_cache))
    moved = sum(float(getattr(alone.memory, n)) - float(getattr(half.memory, n)) for n in ("weights", "kv_cache"))
    assert float(half.memory.host) == pytest.approx(moved)


def test_first_dense_layers_have_no_experts_to_move() -> None:
    none, first = (asked("deepseek-v3", "h200_sxm", offload=f"experts:{n}") for n in (3, 4))
    every = asked("deepseek-v3", "h200_sxm", offload="experts")
    assert none.memory.host == 0
    assert float(first.memory.host) == pytest.approx(float(every.memory.host) / 58)


def test_a_step_reads_host_weights_from_host_memory() -> None:
    slow, fast = (asked(offload="experts", host=h, osl=16) for h in ("ddr4-3200x2", "ddr5-6400x2"))
    rows = {k.kernel.name: k for k in slow.decode.cost}
    experts = rows["layer0.experts in host memory"]
    read = float(experts.kernel.traffic["weight"]) * 48
    assert float(experts.limit_s) == pytest.approx(read / 51.2e9, rel=0.05)
    assert float(experts.time_s) > float(experts.limit_s)
    assert "layer0.experts" not in rows
    assert fast.tpot_s < slow.tpot_s
    assert slow.tpot_s > asked(on="rtx_3090", osl=16).tpot_s


def test_parts_add_up_and_more_layers_take_longer() -> None:
    times = [asked(offload=f"experts:{n}").tpot_s for n in (1, 12, 24, 48)]
    assert times == sorted(times)
    steps = np.diff(times) / np.diff([1, 12, 24, 48])
    assert steps == pytest.approx([steps[0]] * 3, rel=1e-6)


def test_large_steps_are_streamed_and_small_ones_computed() -> None:
    e = asked(offload="experts,either")
    link = 15.75e9
    weights = float(e.memory.host)
    assert e.ttft_s > weights / link  # one micro-batch of 512 tokens
    assert asked(offload="experts", isl=1024).ttft_s > 1.9 * weights / link
    small = asked(offload="experts", isl=16)
    assert small.ttft_s < weights / link
    streamed = asked("llama-3.1-8b", "rtx_3070", weights="bf16", engine="vllm", offload="cpu:12GB")
    assert streamed.scenario.plan.offload.endswith("streamed")
    assert streamed.tpot_s > 12e9 / 31.5e9
    assert streamed.shares["decode"]["network"] > 0.8


def test_ktransformers_writes_experts_anew_for_all_cards_together() -> None:
    """Kimi-K2, 540 GB of experts: about 40 s on one card and 16 s on eight, of which the host takes 12 either way."""
    words = {"engine": "ktransformers", "host": "ddr5-4800x16:1024GB", "offload": "experts,streamed", "weights": ""}
    one, eight = (
        asked("kimi-k2-thinking", f"RTX 4090 48GB:{n}", tp=n, isl=2048, osl=8, **words).ttft_s for n in (1, 8)
    )
    assert 30 < one < 45 and 14 < eight < 20


def test_one_price_of_a_step_however_it_is_asked() -> None:
    e = asked(offload="experts:36", osl=1)
    replica = e.scenario.replica
    one = replica.decodes(np.array([1.0]), np.array([float(e.scenario.mean_context)])).time_s[0]
    assert one == pytest.approx(float(e.decode.time_s), rel=1e-6)


def test_hosts() -> None:
    assert usual_host(find_machine("rtx_2080_ti")) == "ddr4-3200x2"
    assert usual_host(find_machine("rtx_5090")) == "ddr5-5600x2"
    assert usual_host(find_machine("gh200")) == "grace_cpu"
    host = find_host("ddr4-3200x8:256GB")
    assert host.root.bandwidth_bytes_per_s == pytest.approx(204.8e9)
    assert host.root.capacity_bytes == pytest.approx(256e9)
    assert find_host("ryzen_9_7950x").name == "ryzen_9_7950x"
    for text in ("rtx_4090", "ddr4-1x1", "ddr5-5600x999", "ddr5-5600x2:5W", "ddr5-5600x2:1kB", ""):
        with pytest.raises(InputError):
            find_host(text)


def test_what_cannot_be() -> None:
    with pytest.raises(InputError, match="host's"):
        asked(on="m4_max", offload="experts")
    small = asked("deepseek-v3", "rtx_4090", offload="experts")
    assert float(small.memory.headroom) > 0
    assert not small.fits
    assert asked("deepseek-v3", "rtx_4090", offload="experts", host="ddr5-4800x8:512GB").fits
    with pytest.raises(InputError, match="one pool"):
        steelyard.simulate(MOE, "rtx_4090:2", rate=1, offload="experts", disaggregate="1P:tp1,1D:tp1")


def test_the_remedy_is_the_least_that_fits_with_its_speed(capsys: pytest.CaptureFixture[str]) -> None:
    change = in_host_memory(asked().scenario)
    assert change is not None
    layers = parse_offload(str(change.arguments["offload"])).experts
    assert asked(offload=f"experts:{layers}").fits
    assert not asked(offload=f"experts:{layers - 1}").fits
    question = ["estimate", MOE, "--on", "rtx_2080_ti", "--weights", "q4_k_m", "--engine", "llamacpp"]
    assert main([*question, "--isl", "512", "--osl", "128"]) == 3
    assert f"or the experts of {layers} layers in host memory (--offload experts:{layers}): " in capsys.readouterr().err
    dense = in_host_memory(asked("llama-3.1-70b", "rtx_4090").scenario)
    assert dense is not None
    kept = parse_offload(str(dense.arguments["offload"])).resident
    assert kept < EVERY
    assert asked("llama-3.1-70b", "rtx_4090", offload=f"layers:{kept}").fits
    assert not asked("llama-3.1-70b", "rtx_4090", offload=f"layers:{kept + 1}").fits


def test_simulated_users_wait_for_host_memory() -> None:
    words = {"weights": "q4_k_m", "engine": "llamacpp", "isl": 256, "osl": 64, "rate": 0.05, "requests": 10}
    plain = steelyard.simulate(MOE, "rtx_3090", **words)
    slow = steelyard.simulate(MOE, "rtx_3090", offload="experts", **words)
    assert slow.ledger is not None
    assert any(text.startswith("in host memory: the experts; computed there") for text in slow.ledger.assumptions)
    with pytest.raises(DoesNotFit, match="of host memory"):
        steelyard.simulate("deepseek-v3", "rtx_4090", offload="experts", **words)
    assert slow.records.tpot_s.mean() > 2 * plain.records.tpot_s.mean()


def test_llamacpp_is_meant_where_no_engine_is_named() -> None:
    placed = [asked(engine="", **w) for w in ({"n_cpu_moe": 36}, {"ngl": 20}, {"weights": "", "cpu_moe": True})]
    assert {e.scenario.engine.commands for e in placed} == {"llamacpp"}
    assert asked(engine="", weights="bf16", on="rtx_3090", offload="cpu:40GB").scenario.engine.name == "vllm"
    assert asked(engine="vllm", weights="fp8", on="rtx_4090", offload="experts").scenario.engine.name == "vllm"


def test_a_study_tells_places_apart(tmp_path: Path) -> None:
    file = tmp_path / "places.toml"
    fixed = f'model = "{MOE}"\non = "rtx_2080_ti"\nweights = "q4_k_m"\nengine = "llamacpp"\nosl = 8'
    grid = 'offload = ["experts", "experts:24"]\nhost = ["ddr4-3200x2", "ddr5-5600x2"]'
    file.write_text(f'name = "places"\nkind = "estimate"\n[fixed]\n{fixed}\n[grid]\n{grid}\n')
    rows = tmp_path / "rows.csv"
    store = ["--store", str(tmp_path / "places.duckdb"), "--executor", "serial", "--quiet"]
    assert main(["study", str(file), *store, "--csv", str(rows)]) == 0
    with rows.open() as text:
        found = {(r["offload"], r["host"]): float(r["tpot_s"]) for r in csv.DictReader(text)}
    assert len(set(found.values())) == 4
    for (offload, host), tpot_s in found.items():
        assert tpot_s == pytest.approx(asked(offload=offload, host=host, isl=1024, osl=8).tpot_s)


def test_experts_on_a_cpu_are_read_as_its_products_are() -> None:
    e = asked(on="ryzen_9_7950x")
    cost = price(e.decode.program, Cluster(e.scenario.cluster.machine), e.scenario.engine)
    experts = next(k for k in cost if k.kernel.kind == "moe")
    assert 0.6 < float(experts.limit_s) / float(experts.time_s) <= 0.8


def test_experts_scattered_over_the_channels_of_a_server_are_read_slower() -> None:
    """A decode of DeepSeek-V3 beside one card: 115 ms were published for eight channels; it was 74 ms."""

    def tpot_s(host: str) -> float:
        words = {"weights": "q4_k_m", "engine": "ktransformers", "isl": 500, "osl": 300, "offload": "experts"}
        return float(steelyard.estimate("deepseek-v3", "rtx_4090", host=host, **words).tpot_s)

    assert tpot_s("ddr5-4800x8:512GB") == pytest.approx(0.115, rel=0.1)
    # two channels stream what they can: eight times the memory of one socket is not four times as fast
    assert tpot_s("ddr5-4800x2:512GB") < 3 * tpot_s("ddr5-4800x8:512GB")


def test_ktransformers_puts_the_experts_into_host_memory_unless_told_otherwise() -> None:
    words = {"weights": "q4_k_m", "engine": "ktransformers", "isl": 500, "osl": 300}
    said = steelyard.estimate("qwen3-30b-a3b", "rtx_4090", offload="experts", **words)
    usual = steelyard.estimate("qwen3-30b-a3b", "rtx_4090", **words)
    assert usual.scenario.plan.offload == said.scenario.plan.offload == "experts,computed"
    assert float(usual.tpot_s) == float(said.tpot_s)
    device = steelyard.estimate("qwen3-30b-a3b", "rtx_4090", offload="layers:99", **words)
    assert not device.scenario.plan.offload and device.memory.weights > 2 * usual.memory.weights
    assert not steelyard.estimate("qwen3-8b", "rtx_4090", **words).scenario.plan.offload  # no experts
