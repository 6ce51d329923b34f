"""Kernels of a training step: physical limits, exchange of ranks, monotonicity, what power holds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.cost.site import site_for
from steelyard.cost.sustained import sustained_frac
from steelyard.cost.train_kernels import (
    GROUP_LAUNCH_S,
    TrainingAttention,
    attention_names,
    attention_time,
    cast_time,
    elementwise_time,
    grouped_time,
    optimizer_time,
    product_time,
)
from steelyard.documents import build
from steelyard.errors import InputError, UnknownName
from steelyard.machine.catalogue import find_machine

SITE = {name: site_for(find_machine(name)) for name in ("a100_sxm", "h100_sxm", "b200_sxm", "mi300x", "tpu_v5p")}
SITES = pytest.mark.parametrize("name", SITE)
SIZE = st.integers(1, 20000)


@settings(max_examples=60, deadline=None)
@given(m=SIZE, n=SIZE, k=SIZE, which=st.sampled_from(["forward", "dgrad", "wgrad"]), name=st.sampled_from(list(SITE)))
def test_a_product_and_its_gradients_never_beat_the_data_sheet(m: int, n: int, k: int, which: str, name: str) -> None:
    site = SITE[name]
    gradient = 8.0 * n * k if which == "wgrad" else 0.0
    operands = {"forward": m * k + n * k + m * n, "dgrad": m * n + n * k + m * k, "wgrad": m * k + m * n}[which]
    limit = max(2.0 * m * n * k / site.peak16_ops_per_s, (2.0 * operands + gradient) / site.dram_bytes_per_s)
    time = product_time(m, n, k, which=which, site=site)  # type: ignore[arg-type]
    assert time.time_s >= limit * (1 - 1e-12)
    assert 0 < time.spread < 1


@SITES
def test_long_products_hold_what_power_allows_whatever_the_pass(name: str) -> None:
    site = SITE[name]
    sizes = (65536, 16384, 16384)
    times = [float(product_time(*sizes, which=w, site=site).time_s) for w in ("forward", "dgrad", "wgrad")]  # type: ignore[arg-type]
    shares = [2.0 * np.prod(np.asarray(sizes, float)) / t / site.peak16_ops_per_s for t in times]
    held = sustained_frac(site.machine)
    assert all(0.85 * held < share <= held for share in shares)


@SITES
@pytest.mark.parametrize("which", ["forward", "dgrad", "wgrad"])
def test_more_tokens_take_longer(name: str, which: str) -> None:
    tokens = 2.0 ** np.arange(6, 17)
    times = product_time(tokens, 8192, 4096, which=which, site=SITE[name]).time_s  # type: ignore[arg-type]
    assert np.all(np.diff(times) > -1e-3 * times[1:])
    grouped = grouped_time(tokens, 2048, 4096, experts=8, which=which, site=SITE[name]).time_s  # type: ignore[arg-type]
    assert np.all(np.diff(grouped) > -1e-3 * grouped[1:])


def test_the_gradient_of_few_rows_is_bound_by_the_main_gradient_it_is_added_to() -> None:
    site = SITE["b200_sxm"]
    moved = 8.0 * 4096 * 7168
    wide = product_time(64, 4096, 7168, which="wgrad", site=site).time_s
    narrow = product_time(64, 4096, 7168, which="wgrad", site=site, gradient_bits=16.0).time_s
    assert wide > moved / site.dram_bytes_per_s > narrow / 2


def test_grouped_products_lie_between_one_kernel_and_a_loop_and_wait_for_the_host() -> None:
    site = SITE["h100_sxm"]
    one = product_time(256, 2048, 4096, groups=64, site=site).time_s
    loop = 64 * product_time(256, 2048, 4096, site=site).time_s
    time = grouped_time(64 * 256, 2048, 4096, experts=64, site=site).time_s
    assert one < time < loop
    launched = grouped_time(64, 2048, 4096, experts=64, site=site, launch_s=GROUP_LAUNCH_S * 10).time_s
    assert launched == pytest.approx(64 * 10 * GROUP_LAUNCH_S)


def test_narrow_formats_are_faster_for_long_products_and_convert_their_operands() -> None:
    site = SITE["h100_sxm"]
    sixteen, eight = (product_time(16384, 8192, 8192, precision=p, site=site).time_s for p in ("bf16", "fp8"))
    assert eight < sixteen
    converting = cast_time(16384 * 8192.0, precision="fp8", site=site).time_s
    unconverted = product_time(16384, 8192, 8192, precision="fp8", which="wgrad", site=site, gradient_bits=16.0).time_s
    assert eight - unconverted == pytest.approx(converting, rel=0.5)
    a100 = SITE["a100_sxm"]
    assert product_time(8192, 8192, 8192, precision="fp8", site=a100).time_s == pytest.approx(
        float(product_time(8192, 8192, 8192, site=a100).time_s), rel=0.2
    )


@SITES
@pytest.mark.parametrize("kernel", attention_names())
def test_attention_takes_longer_backward_with_more_context_and_never_beats_its_operations(
    name: str, kernel: str
) -> None:
    site = SITE[name]
    seq = np.array([1024.0, 2048.0, 4096.0, 16384.0])
    sizes = (1, seq, seq, 32, 8, 128, 128)
    forward = attention_time(*sizes, kernel=kernel, site=site).time_s
    backward = attention_time(*sizes, kernel=kernel, backward=True, site=site).time_s
    pairs = seq * (seq + 1) / 2
    assert np.all(forward >= 32 * pairs * 4 * 128 / site.peak16_ops_per_s)
    assert np.all(backward >= 32 * pairs * 10 * 128 / site.peak16_ops_per_s * (0.8 if kernel == "unfused" else 1.0))
    assert np.all(backward > forward)
    assert np.all(np.diff(forward) > 0) and np.all(np.diff(backward) > 0)


def test_attention_knows_masks_windows_and_kernels() -> None:
    site = SITE["h100_sxm"]
    sizes = (1, 16384, 16384, 32, 8, 128, 128)

    def time(**words: object) -> float:
        return float(attention_time(*sizes, site=site, **words).time_s)  # type: ignore[arg-type]

    for backward in (False, True):
        assert time(backward=backward, causal=False) > 1.7 * time(backward=backward)
        assert time(backward=backward, window=1024) < 0.3 * time(backward=backward)
        rates = [time(backward=backward, kernel=k) for k in ("cudnn", "flash", "triton", "unfused")]
        assert rates == sorted(rates)
    with pytest.raises(UnknownName, match="flash"):
        time(kernel="flahs")


@SITES
def test_passes_take_bytes_over_bandwidth_or_longer(name: str) -> None:
    site = SITE[name]
    moved = np.array([0.0, 1e6, 1e9, 1e11])
    times = elementwise_time(moved, site=site).time_s
    assert times[0] == 0 and np.all(np.diff(times) > 0)
    assert np.all(times[2:] >= moved[2:] / site.dram_bytes_per_s)
    assert np.all(optimizer_time(moved, site).time_s >= times)


def test_a_board_of_less_power_holds_less_and_a_capped_engine_all() -> None:
    h100 = find_machine("h100_sxm")
    shares = [sustained_frac(replace(h100, tdp_w=w)) for w in (350.0, 500.0, 700.0, 2000.0)]
    assert shares == sorted(shares) and shares[0] < 0.7 * shares[2]
    assert sustained_frac(replace(h100, power_limit_w=500.0)) == pytest.approx(shares[1])
    assert sustained_frac(replace(h100, power_limit_w=900.0)) == sustained_frac(h100)
    for machine in map(
        find_machine, ("a100_sxm", "mi300x", "rtx_4090")
    ):  # of which no energy is known: the rated power is just enough
        assert sustained_frac(replace(machine, power_limit_w=0.7 * machine.tdp_w)) < 0.95 * sustained_frac(machine)
    assert sustained_frac(find_machine("h20")) > sustained_frac(h100)
    for precision in ("bf16", "fp16", "fp8", "mxfp8", "nvfp4"):
        assert 0.2 < sustained_frac(find_machine("gb200"), precision) < 0.85


def test_wrong_words_are_named() -> None:
    with pytest.raises(UnknownName, match="forward"):
        product_time(1, 1, 1, which="backward", site=SITE["h100_sxm"])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="fp9"):
        product_time(1, 1, 1, precision="fp9", site=SITE["h100_sxm"])


def test_a_kernel_of_ones_own_is_checked_where_it_is_read() -> None:
    with pytest.raises(InputError, match="forward"):
        build(TrainingAttention, {"name": "mine", "foward": "fa2"}, "training.toml: attention.mine")
    with pytest.raises(InputError, match="backward_share"):
        build(TrainingAttention, {"name": "mine", "backward_share": {"async": 2.0}}, "training.toml: attention.mine")


@pytest.mark.parametrize("backward", [False, True])
def test_small_cores_of_a_wafer_share_a_tile_of_attention(backward: bool) -> None:
    site = site_for(find_machine("cerebras_wse3"))
    took = attention_time(8, 1024, 1024, 16, 8, 128, 128, backward=backward, site=site).time_s
    gpu = attention_time(8, 1024, 1024, 16, 8, 128, 128, backward=backward, site=SITE["h100_sxm"]).time_s
    core = 128 * 1024 * 4 * 128 / (site.peak16_ops_per_s / site.units)  # one core walks over all keys, alone
    assert float(took) < min(core / 3, 10 * float(gpu))
