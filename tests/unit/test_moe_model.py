"""MoE layers: distinct experts, load, limits, monotonicity, and accuracy where the measurements are at hand."""

from __future__ import annotations

import os
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import steelyard
from steelyard.cost.moe import (
    FACTS,
    MoeDevice,
    MoeParameters,
    Router,
    expert_loads,
    moe_limit_s,
    moe_time_s,
)
from steelyard.cost.program import lower
from steelyard.deployment.plan import Plan
from steelyard.machine.catalogue import find_machine
from steelyard.workload.catalogue import load_model
from steelyard.workload.step import Step

CATALOGUE = Path(steelyard.__file__).parent / "catalogue"
H100 = MoeDevice(132, 989.4e12, 989.4e12, 3.352e12, 50e6, 5.5e12)
DEFAULT = MoeParameters()
TOKENS = 2.0 ** np.arange(0, 15)


def deepseek(tokens: object, **more: object) -> np.ndarray:
    arguments: dict[str, object] = {
        "weight_bits": 16.0,
        "act_bits": 16.0,
        "device": H100,
        "parameters": DEFAULT,
        "facts": FACTS["triton"],
    }
    arguments.update(more)
    return moe_time_s(tokens, 7168, 2048, 8, 256, **arguments)  # type: ignore[arg-type]


def hits(tokens: object, topk: int, experts: int, *more: object, **names: object) -> np.ndarray:
    """Expected number of distinct experts a batch touches."""
    _, hit, count = expert_loads(tokens, topk, experts, *more, **names)  # type: ignore[arg-type]
    return np.asarray(np.sum(hit * count, axis=-1))


def test_distinct_experts_of_uniform_routing_are_exact() -> None:
    """E * (1 - (1 - k/E)^T)."""
    expected = 256 * (1.0 - (1.0 - 8 / 256) ** TOKENS)
    assert hits(TOKENS, 8, 256) == pytest.approx(expected, rel=1e-9)


def test_even_routing_hits_as_many_as_it_can() -> None:
    assert hits(TOKENS, 8, 256, Router(even=True)) == pytest.approx(np.minimum(256, 8 * TOKENS))


@settings(max_examples=50, deadline=None)
@given(
    tokens=st.integers(1, 8192),
    experts=st.sampled_from([8, 64, 256]),
    topk=st.integers(1, 8),
    skew=st.sampled_from([0.0, 1.01, 1.2]),
)
def test_hits_are_bounded_and_rows_are_conserved(tokens: int, experts: int, topk: int, skew: float) -> None:
    hit = float(hits(tokens, topk, experts, Router(skew)))
    assert 0.0 < hit <= min(experts, tokens * topk) + 1e-6
    rows, _, count = expert_loads(tokens, topk, experts, Router(skew))
    # an expert takes a token once; what that cuts off is redistributed to within 5 %
    assert float(np.sum(rows * count)) == pytest.approx(tokens * topk, rel=0.05)


def test_skew_hits_fewer_experts_and_loads_the_busiest_device() -> None:
    assert hits(64, 8, 256, Router(1.2)) < hits(64, 8, 256)
    busiest, fair = (np.sum(np.prod(expert_loads(1024, 8, 256, Router(skew), 32)[::2], axis=0)) for skew in (1.2, 0.0))
    assert busiest > 1.2 * fair
    even = np.sum(np.prod(expert_loads(1024, 8, 256, Router(even=True), 32)[::2], axis=0))
    assert even == pytest.approx(1024 * 8 / 8, rel=1e-6)


@pytest.mark.parametrize(
    ("experts", "topk", "devices"), [(256, 8, 8), (256, 8, 2), (128, 8, 4), (8, 2, 8), (16, 1, 8), (128, 4, 8)]
)
def test_the_busiest_device_is_that_of_tokens_drawn_at_random(experts: int, topk: int, devices: int) -> None:
    """Rows and distinct experts of the busiest device, against tokens that draw their experts without favourites."""
    rng = np.random.default_rng(0)
    for tokens in (1, 4, 16, 64):
        chosen = np.argsort(rng.random((300, tokens, experts)), axis=-1)[..., :topk].reshape(300, -1)
        taken = np.stack([np.bincount(draw, minlength=experts) for draw in chosen]).reshape(300, devices, -1)
        rows, hit, count = expert_loads(tokens, topk, experts, local_experts=experts // devices)
        assert float(np.sum(rows * count)) == pytest.approx(np.sum(taken, axis=2).max(axis=1).mean(), rel=0.13)
        assert float(np.sum(hit * count)) == pytest.approx(np.sum(taken > 0, axis=2).max(axis=1).mean(), rel=0.18)


@pytest.mark.parametrize("kernel", list(FACTS))
@pytest.mark.parametrize("skew", [0.0, 1.2])
def test_never_below_the_limit_and_grows_with_tokens(kernel: str, skew: float) -> None:
    time = deepseek(TOKENS, facts=FACTS[kernel], router=Router(skew))
    limit = moe_limit_s(TOKENS, 7168, 2048, 8, 256, weight_bits=16.0, router=Router(skew), device=H100)
    assert np.all(time >= limit)
    assert np.all(np.diff(time) > 0)


def test_a_small_batch_costs_the_weights_it_touches() -> None:
    one, eight = deepseek(np.array([1.0, 8.0]))
    weights = 3 * 7168 * 2048 * 2.0
    assert one > 8 * weights / 3.352e12
    assert 4.0 < eight / one < 8.0


def test_fewer_bits_are_faster_when_weights_bound() -> None:
    assert np.all(deepseek(TOKENS[:8], weight_bits=8.0, act_bits=8.0) < deepseek(TOKENS[:8]))


def test_sharding_experts_cuts_time_and_a_warm_benchmark_is_faster() -> None:
    assert np.all(deepseek(TOKENS, local_experts=32) < deepseek(TOKENS))
    small = {"weight_bits": 16.0, "act_bits": 16.0, "device": H100, "parameters": DEFAULT, "facts": FACTS["triton"]}
    cold = moe_time_s(4, 1024, 256, 2, 8, **small)  # type: ignore[arg-type]
    warm = moe_time_s(4, 1024, 256, 2, 8, repeated_batches=1.0, **small)  # type: ignore[arg-type]
    assert warm < cold


@pytest.mark.parametrize("kernel", ["triton", "trtllm", "cutlass"])
def test_rows_that_an_exchange_brings_are_all_that_a_device_handles(kernel: str) -> None:
    """Where an all-to-all brings each of 32 devices its rows, none permutes or sums the rows of the others."""
    wide = {"facts": FACTS[kernel], "weight_bits": 8.0, "act_bits": 8.0, "local_experts": 8}
    brought, all_rows = (float(deepseek(524288.0, exchanged=x, **wide)) for x in (True, False))
    few = {"facts": FACTS[kernel], "weight_bits": 8.0, "act_bits": 8.0}
    alone = float(deepseek(16384.0, **few)) - float(deepseek(1.0, **few))  # as many rows, of all experts
    assert brought < all_rows / (2 if FACTS[kernel].all_rows else 1)
    assert brought == pytest.approx(alone, rel=0.5)


def test_a_published_decode_over_128_devices_is_met() -> None:
    """DeepSeek's profile: 128 sequences of 4096 tokens a device in 55 ms, exchanges half hidden; it was 388 ms."""
    found = steelyard.estimate(
        "deepseek-v3",
        "h800_sxm:128",
        dp=128,
        ep=128,
        weights="fp8_block",
        engine="sglang",
        batch=16384,
        isl=4096,
        osl=2,
    )
    assert 0.05 < found.tpot_s < 0.09


def test_a_device_with_more_bandwidth_is_never_slower() -> None:
    faster = replace(H100, dram_bytes_per_s=4.8e12)
    assert np.all(deepseek(TOKENS, device=faster) <= deepseek(TOKENS))


@pytest.mark.parametrize("path", sorted(CATALOGUE.glob("calibration/*/moe.toml")), ids=lambda p: p.parent.name)
def test_catalogue_files_hold_valid_parameters(path: Path) -> None:
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    kernels = table.values() if path.parent.name != "_families" else [k for f in table.values() for k in f.values()]
    for section in kernels:
        parameters = MoeParameters(**section["parameters"])
        assert 0.0 < parameters.compute_efficiency <= 1.0
        assert 0.0 < parameters.memory_efficiency <= 1.0
        assert section["residual"]["log_std"] > 0


def test_hopper_meets_the_target_on_measured_rows() -> None:
    data = Path(os.environ.get("STEELYARD_DATA", "../shared"))
    if not (data / "truth" / "aic_ops" / "h100_sxm__moe__vllm_0.24.0.parquet").is_file():
        pytest.skip("no measured MoE layers at STEELYARD_DATA")
    pytest.importorskip("pandas")
    from steelyard.calibrate.tasks import moe_task
    from steelyard.machine.catalogue import find_machine
    from steelyard.measurements.kernel_tables import moe_rows

    rows = moe_rows(data / "truth" / "aic_ops" / "h100_sxm__moe__vllm_0.24.0.parquet")
    table = tomllib.loads((CATALOGUE / "calibration" / "h100_sxm" / "moe.toml").read_text(encoding="utf-8"))
    for kernel in ("triton_bfloat16", "triton_fp8_block", "cutlass_fp8_block"):
        part = rows[rows["kernel"] == kernel].sample(1500, random_state=9).reset_index(drop=True)
        task = moe_task(find_machine("h100_sxm"), kernel, part)
        errors = task.errors(MoeParameters(**table[kernel]["parameters"]), task.everywhere)
        assert errors.mean_ape < 14.0, kernel


def test_the_catalogue_states_the_facts_the_code_uses() -> None:
    table = tomllib.loads((CATALOGUE / "kernels" / "moe.toml").read_text(encoding="utf-8"))
    for name, facts in FACTS.items():
        stated = table[name]
        assert tuple(stated["tile_rows"]) == facts.tile_rows
        for key in ("activation_fused", "all_rows", "dequantised"):
            assert stated.get(key, False) == getattr(facts, key), (name, key)
        assert stated.get("padded_to", 1) == facts.padded_to


def test_experts_nobody_measured_reach_no_larger_share_than_the_familys_products() -> None:
    from steelyard.cost.op_models import moe_kernel
    from steelyard.cost.site import site_for
    from steelyard.machine.catalogue import find_machine

    def shares(machine: str) -> tuple[float, str]:
        _, found = moe_kernel(site_for(find_machine(machine), "int4"), "q4_k", 4.5, 16.0)
        return found.parameters.compute_efficiency, found.source

    share, source = shares("strix_halo")
    assert source == "borrowed: generic" and 0.10 < share < 0.20  # of 0.32 elsewhere
    assert shares("m3_ultra")[0] > 0.3  # whose products reach more
    assert shares("h100_sxm")[1] == "fitted: h100_sxm"


def test_prompts_on_strix_halo_take_what_llama_cpp_takes() -> None:
    from steelyard import estimate

    found = estimate("llama-2-7b", "strix_halo", weights="q4_0", engine="llamacpp", isl=512, osl=8)
    assert 5e12 < 2 * 6.6e9 * 512 / found.ttft_s < 20e12  # OP/s: as measured, of 59 TFLOP/s


@pytest.mark.parametrize(("model", "machine"), [("qwen3-30b-a3b", "h100_sxm"), ("qwen3-235b-a22b", "h200_sxm:8")])
def test_formats_of_equal_bytes_take_the_same_time(model: str, machine: str) -> None:
    from steelyard import estimate

    for batch in (1, 32):
        one, blocks = (
            estimate(model, machine, weights=w, engine="vllm", batch=batch, isl=1024, osl=64)
            for w in ("fp8", "fp8_block")
        )
        assert one.tpot_s == pytest.approx(blocks.tpot_s, rel=0.1)
        assert one.ttft_s == pytest.approx(blocks.ttft_s, rel=0.1)


@pytest.mark.parametrize(("machine", "weights"), [("rtx_5090", "fp8"), ("rtx_5090", "nvfp4"), ("dgx_spark", "bf16")])
def test_experts_take_their_own_familys_nearest_kernel_before_another_familys(machine: str, weights: str) -> None:
    from steelyard.cost.op_models import moe_kernel
    from steelyard.cost.site import site_for
    from steelyard.deployment.formats import find_format
    from steelyard.machine.catalogue import find_machine

    bits = find_format(weights).stored_bits
    _, found = moe_kernel(site_for(find_machine(machine), weights), weights, bits, bits)
    assert found.source == "borrowed: blackwell_graphics"


def test_sglang_runs_its_own_kernel_for_experts_of_16_bits_on_blackwell() -> None:
    """Published for one user on eight B200: 10 to 10.5 ms per token; with TensorRT-LLM's kernel it was 7.5."""
    found = steelyard.estimate("qwen3-235b-a22b", "b200_sxm:8", engine="sglang", tp=8, isl=1000, osl=1000)
    assert found.tpot_s == pytest.approx(10.3e-3, rel=0.1)
    eight = steelyard.estimate("qwen3-235b-a22b", "b200_sxm:8", engine="sglang", tp=8, weights="fp8_block", osl=1000)
    assert eight.tpot_s < 0.9 * found.tpot_s  # 8-bit experts run TensorRT-LLM's there


@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm"])
def test_experts_of_one_scale_per_tensor_run_no_kernel_that_no_engine_chooses(engine: str) -> None:
    """Mixtral in FP8 on an H100 was five times slower under TensorRT-LLM than in 16 bits on twice the devices."""
    words = {"engine": engine, "batch": 64, "isl": 512, "osl": 128}
    eight = steelyard.estimate("mixtral-8x7b", "h100_sxm", weights="fp8", **words)
    sixteen = steelyard.estimate("mixtral-8x7b", "h100_sxm:2", tp=2, **words)
    assert eight.tpot_s < 1.4 * sixteen.tpot_s


def test_an_engines_own_kernel_runs_the_formats_it_is_for() -> None:
    from steelyard.cost.op_models import moe_kernel
    from steelyard.cost.site import site_for
    from steelyard.machine.catalogue import find_machine

    def kernel(weights: str, bits: float) -> tuple[str, str]:
        name, found = moe_kernel(site_for(find_machine("h100_sxm"), weights, "bf16"), weights, bits, 16.0, "triton")
        return name, found.variant

    assert kernel("mxfp4", 4.25) == ("mxfp4_triton", "mxfp4_triton_w4a16_mxfp4")
    assert kernel("int4", 4.25) == ("marlin", "marlin_int4_wo")
    assert kernel("bf16", 16.0) == ("triton", "triton_bfloat16")


@pytest.mark.parametrize(
    ("model", "machine", "engine", "weights", "tokens_per_s"),
    [  # published: M2 Max (38 cores) with MLX 0.32, prompts of 512 and answers of 128 tokens, July 2026
        ("qwen3.6-35b-a3b", "m2_max", "mlx", "mlx_4bit", 79.8),
        ("gpt-oss-20b", "m2_max", "mlx", "", 86.0),
    ],
)
def test_experts_on_apple_run_as_products_with_an_index(
    model: str, machine: str, engine: str, weights: str, tokens_per_s: float
) -> None:
    found = steelyard.estimate(model, on=machine, engine=engine, weights=weights, isl=512, osl=128)
    assert 1.0 / found.tpot_s == pytest.approx(tokens_per_s, rel=0.2)
    low, high = found.interval["tpot_s"]
    assert low < 1.0 / tokens_per_s < high


def test_what_the_experts_of_a_token_made_is_added_before_it_is_exchanged() -> None:
    """One hidden state a token crosses the links, however many experts it met."""
    model, device = load_model("qwen3-30b-a3b").transformer, find_machine("h100_sxm")
    plan = Plan("", "", "", "", 2, 1, 1, 1).resolved(model, device)
    program = lower(model.graph(Step.prefill(1, 4096)), plan, device)
    messages = {k.name: float(np.max(k.features["message_bytes"])) for k in program if k.kind == "collective"}
    assert messages["layer0.expert_down.all_reduce"] == messages["layer0.out.all_reduce"] == 4096 * 2048 * 2
