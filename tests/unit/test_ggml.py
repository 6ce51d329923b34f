"""llama.cpp's own products: integers in blocks, tiles of experts, 16 bits where there are no integers."""

from __future__ import annotations

import pytest

from steelyard import estimate
from steelyard.deployment.engine import find_engine
from steelyard.estimation.estimate import Estimate
from steelyard.machine.catalogue import find_machine


def prompt_per_s(model: str, machine: str, tokens: int, *, weights: str, engine: str = "llamacpp") -> float:
    """Tokens/s of one prompt, without the time of a request."""
    found = estimate(model, machine, weights=weights, engine=engine, isl=tokens, osl=1)
    return tokens / (found.ttft_s - 2e-3)


def inside(found: Estimate, name: str, measured_s: float) -> bool:
    low, high = found.interval[name]
    return bool(low <= measured_s <= high)


# pull requests of llama.cpp (7676, 24127) and its page on the DGX Spark, none but the first fitted
@pytest.mark.parametrize(
    ("model", "machine", "weights", "tokens", "measured"),
    [
        ("Llama-3-8B", "rtx_4090", "q4_0", 512, 10359),
        ("Llama-3.1-8B", "v100_pcie", "q5_1", 512, 3304),
        ("gpt-oss-20b", "dgx_spark", "mxfp4_moe", 512, 3754),
        ("Llama-2-7b", "strix_halo", "q4_0", 512, 1530),
    ],
)
def test_prompts_as_measured(model: str, machine: str, weights: str, tokens: int, measured: float) -> None:
    assert prompt_per_s(model, machine, tokens, weights=weights) == pytest.approx(measured, rel=0.25)


def test_published_points_lie_inside_their_intervals() -> None:
    small = estimate(
        "gpt-oss-20b", "rtx_pro_6000_workstation", weights="mxfp4_moe", engine="llamacpp", isl=128, osl=128
    )
    assert inside(small, "ttft_s", 128 / 5128) and inside(small, "tpot_s", 1 / 391)
    tiny = estimate("tinyllama-1.1b", "rtx_4090", weights="q4_k_m", engine="llamacpp", isl=512, osl=128)
    assert inside(tiny, "tpot_s", 1 / 762)
    dense = estimate("Qwen3-8B", "rtx_5090", weights="q4_k_m", engine="llamacpp", isl=512, osl=128)
    assert inside(dense, "tpot_s", 1 / 221.7)


def test_the_rate_is_one_of_units_and_clocks_not_of_the_matrix_engine() -> None:
    ratios = []
    for name in ("rtx_4090", "h100_sxm"):
        chip = find_machine(name).engines("matrix")[0]
        rate = prompt_per_s("Llama-3-8B", name, 2048, weights="q4_0")
        ratios.append(rate / (chip.units * chip.clock_hz))
    assert ratios[1] == pytest.approx(ratios[0], rel=0.15)  # the H100's integer engine is three times the other's


def test_few_rows_of_each_expert_fill_a_part_of_their_tiles() -> None:
    times = {n: n / prompt_per_s("Qwen3-30B-A3B", "rtx_3090", n, weights="q4_k_m") for n in (128, 512)}
    assert times[512] < 2.5 * times[128]  # four times the work, most of which was padding before


def test_sixteen_bit_weights_run_with_sixteen_bit_sums() -> None:
    # the capped peak of both parts is far apart, the units' own rate is not
    geforce = prompt_per_s("Llama-3-8B", "rtx_3090", 512, weights="fp16")
    full = prompt_per_s("Llama-3-8B", "a6000", 512, weights="fp16")
    assert geforce == pytest.approx(full, rel=0.15)


def test_earlier_generations_widened_weights_first() -> None:
    old, new = (
        prompt_per_s("Llama-3-8B", "rtx_4090", 128, weights="q4_0", engine=e) for e in ("llamacpp@b2500", "llamacpp")
    )
    assert old < 0.7 * new
    assert find_engine("llamacpp@b6918").name == "llamacpp@b6900"
    before = prompt_per_s("Llama-3-8B", "rx_7900_xtx", 512, weights="q4_k_m", engine="llamacpp@b6900")
    assert before < 0.7 * prompt_per_s("Llama-3-8B", "rx_7900_xtx", 512, weights="q4_k_m")


def test_the_limit_counts_the_arithmetic_that_runs() -> None:
    found = estimate("Llama-3-8B", "rtx_4090", weights="q4_0", engine="llamacpp", isl=4096, osl=2)
    shapes_flops = 2 * 6.98e9 * 4096
    assert found.limit["ttft_s"] < shapes_flops / 330e12  # 660 TOP/s of integers, not 165 TFLOP/s
    assert found.ttft_s > found.limit["ttft_s"]
