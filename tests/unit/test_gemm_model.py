"""The GEMM cost model: physical limits, monotonicity, the compiled twin, accuracy on measured rows."""

from __future__ import annotations

import os
import tomllib
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.cost.gemm import (
    DEFAULT_FACTS,
    GemmDevice,
    GemmParameters,
    candidates,
    gemm_facts,
    gemm_roofline_s,
    gemm_time_s,
    library_facts,
    sustained_compute_frac,
)
from steelyard.cost.op_models import product_parameters
from steelyard.cost.site import site_for
from steelyard.errors import UnknownName
from steelyard.machine.catalogue import find_machine

HOPPER = GemmDevice(132, 989.4e12, 989.4e12, 3.352e12, 50e6, 7e12, "async", 1.83e9, 700.0)
ONE_CORE_NPU = GemmDevice(1, 4e12, 4e12, 30e9, 2e6, 100e9, "other", 1e9)
BITS = {"weight_bits": 16, "act_bits": 16, "out_bits": 16}
KERNELS = [
    "cublas",
    "cublas_2sm",
    "cublas_mma",
    "cublas_ada",
    "blas",
    "cutlass_fp8",
    "cutlass_fp8_ada",
    "cutlass_fp8_2sm",
    "cutlass_fp8_graphics",
    "nvfp4",
    "deepgemm_fp8_block",
    "triton_fp8_block",
    "cutlass_int8",
    "marlin",
]
SIZE = st.integers(1, 70000)


@settings(max_examples=150, deadline=None)
@given(m=SIZE, n=SIZE, k=SIZE, kernel=st.sampled_from(KERNELS), hot=st.booleans(), npu=st.booleans())
def test_never_faster_than_the_spec_sheet(m: int, n: int, k: int, kernel: str, hot: bool, npu: bool) -> None:
    device = ONE_CORE_NPU if npu else HOPPER
    time = gemm_time_s(m, n, k, **BITS, device=device, facts=gemm_facts(kernel), weights_hot=hot)
    roof = gemm_roofline_s(m, n, k, **BITS, device=device, weights_hot=hot)
    assert np.isfinite(time)
    assert time >= roof
    assert time >= 2.0 * m * n * k / device.peak_ops_per_s


@settings(max_examples=100, deadline=None)
@given(m=SIZE, n=SIZE, k=SIZE)
def test_time_grows_with_every_size(m: int, n: int, k: int) -> None:
    def price(m: int, n: int, k: int) -> float:
        return float(gemm_time_s(m, n, k, **BITS, device=HOPPER))

    base = price(m, n, k) * (1.0 - 1e-9)
    assert price(m + 1, n, k) >= base
    assert price(2 * m, n, k) >= base
    assert price(m, n + 64, k) >= base
    assert price(m, n, 2 * k) >= base


@settings(max_examples=60, deadline=None)
@given(m=SIZE, n=SIZE, k=SIZE, factor=st.floats(1.0, 4.0))
def test_better_hardware_is_never_slower(m: int, n: int, k: int, factor: float) -> None:
    base = gemm_time_s(m, n, k, **BITS, device=HOPPER) * (1.0 + 1e-9)
    for field in ("dram_bytes_per_s", "l2_bytes_per_s", "clock_hz"):
        better = replace(HOPPER, **{field: getattr(HOPPER, field) * factor})
        assert gemm_time_s(m, n, k, **BITS, device=better) <= base
    faster = replace(HOPPER, peak_ops_per_s=HOPPER.peak_ops_per_s * factor, peak16_ops_per_s=989.4e12 * factor)
    assert gemm_time_s(m, n, k, **BITS, device=faster) <= base


def test_sizes_broadcast_and_match_scalars() -> None:
    m = np.array([1, 16, 300, 4096])
    n = np.array([[1024], [28672]])
    times = gemm_time_s(m, n, 4096, **BITS, device=HOPPER)
    assert times.shape == (2, 4)
    for i in range(2):
        for j in range(4):
            assert times[i, j] == gemm_time_s(m[j], n[i, 0], 4096, **BITS, device=HOPPER)


def test_chunks_do_not_change_the_answer() -> None:
    rng = np.random.default_rng(1)
    m, n, k = (np.floor(2.0 ** rng.uniform(0, 14, 9001)) for _ in range(3))
    whole = gemm_time_s(m, n, k, **BITS, device=HOPPER)
    assert np.array_equal(
        whole[4000:4100], gemm_time_s(m[4000:4100], n[4000:4100], k[4000:4100], **BITS, device=HOPPER)
    )


def test_an_empty_product_costs_nothing() -> None:
    assert gemm_time_s(0, 4096, 4096, **BITS, device=HOPPER) == 0.0
    assert gemm_time_s(np.array([], dtype=float), 4096, 4096, **BITS, device=HOPPER).size == 0


def test_long_streams_and_big_products_reach_the_fitted_shares() -> None:
    p = GemmParameters(compute_frac=0.8, dram_frac=0.7, overlap_power=8.0, wave_hardness=0.01, store_intensity=1.0)
    stream = gemm_time_s(1, 65536, 65536, **BITS, device=HOPPER, parameters=p)
    assert 65536.0**2 * 2.0 / 3.352e12 / stream == pytest.approx(0.7, rel=0.02)
    product = gemm_time_s(32768, 32768, 32768, **BITS, device=HOPPER, parameters=p)
    assert 2.0 * 32768.0**3 / 989.4e12 / product == pytest.approx(0.8, rel=0.02)


def test_splitting_k_is_what_fills_the_machine_for_small_outputs() -> None:
    unsplit = replace(DEFAULT_FACTS, split=(1,))
    args = (16, 128, 65536)
    assert gemm_time_s(*args, **BITS, device=HOPPER, facts=unsplit) > 4.0 * gemm_time_s(*args, **BITS, device=HOPPER)


def test_groups_fill_waves_together() -> None:
    one = gemm_time_s(64, 512, 4096, **BITS, device=HOPPER)
    many = gemm_time_s(64, 512, 4096, **BITS, device=HOPPER, groups=16)
    assert one < many < 16.0 * one


def test_hot_weights_help_small_weights_only() -> None:
    small, large = (8, 1024, 1024), (8, 16384, 16384)
    cold, hot = ({"device": HOPPER, "weights_hot": h} for h in (False, True))
    assert gemm_time_s(*small, **BITS, **hot) < gemm_time_s(*small, **BITS, **cold)
    assert gemm_time_s(*large, **BITS, **hot) == pytest.approx(gemm_time_s(*large, **BITS, **cold), rel=1e-3)


def test_narrow_weights_speed_up_streams_and_not_products() -> None:
    marlin = {"device": HOPPER, "facts": gemm_facts("marlin"), "act_bits": 16, "out_bits": 16}
    args = (8, 28672, 8192)
    wide = gemm_time_s(*args, **BITS, device=HOPPER)
    assert 2.0 < wide / gemm_time_s(*args, weight_bits=4.25, **marlin) < 4.0
    args = (8192, 28672, 8192)
    assert gemm_time_s(*args, weight_bits=4.25, **marlin) > gemm_time_s(*args, **BITS, device=HOPPER)


def test_a_separate_quantisation_kernel_costs_time_per_row() -> None:
    facts = gemm_facts("cutlass_fp8")
    fused = replace(facts, quantises_activations=False)
    eight = {"weight_bits": 8, "act_bits": 8, "out_bits": 16, "device": replace(HOPPER, peak_ops_per_s=1978.9e12)}

    def extra(m: int) -> float:
        pair = [gemm_time_s(m, 4096, 4096, facts=f, **eight) for f in (facts, fused)]
        return float(pair[0] - pair[1])

    assert extra(1) == pytest.approx(facts.quant_launch_s, rel=0.02)
    assert extra(32768) > 32768 / 132 * facts.quant_row_s


def test_power_caps_compute() -> None:
    p = GemmParameters(compute_frac=0.9, ops_per_joule=0.7e12)
    assert sustained_compute_frac(replace(HOPPER, tdp_w=350.0), p) == pytest.approx(0.7e12 * 350.0 / 989.4e12)
    assert sustained_compute_frac(replace(HOPPER, tdp_w=0.0), p) == 0.9


def test_kernel_table() -> None:
    for name in KERNELS:
        table = candidates(gemm_facts(name))
        m, n = np.meshgrid([1.0, 16, 17, 64, 65, 128, 129, 257, 9000], [32.0, 1280, 1281, 4097, 8193, 16385, 60000])
        served = (m[..., None] > table[:, 3]) & (m[..., None] <= table[:, 4])
        served &= (n[..., None] > table[:, 5]) & (n[..., None] <= table[:, 6])
        assert served.any(axis=-1).all(), name
    with pytest.raises(UnknownName, match="cutlass_fp8"):
        gemm_facts("cutlas_fp8")


def test_library_picks_the_kernel_of_the_format() -> None:
    assert library_facts("hopper", 16, 16).name == "cublas"
    assert library_facts("hopper", 8, 8).name == "cutlass_fp8"
    assert library_facts("hopper", 4.25, 16).name == "marlin"
    assert library_facts("blackwell", 4.5, 4.5).name == "nvfp4"
    assert library_facts("hexagon", 8, 8).name == "blas"


def test_borrowed_sixteen_bit_parameters_do_not_change_the_kernel_of_a_format() -> None:
    card = find_machine("rtx_3090")
    found, facts = product_parameters(site_for(card, "int8"), "int8", 8.0, 8.0)
    assert (found.variant, facts.name) == ("", "cutlass_int8")
    assert product_parameters(site_for(card), "bf16", 16.0, 16.0)[1].name == "cublas_mma"
    for weights, bits, kernel in (("fp8", 8.0, "cutlass_fp8_graphics"), ("nvfp4", 4.5, "nvfp4")):
        assert product_parameters(site_for(find_machine("rtx_5090"), weights), weights, bits, bits)[1].name == kernel


def test_borrowed_shares_of_a_bandwidth_follow_the_kind_of_memory() -> None:
    def share(machine: str) -> float:
        found, _ = product_parameters(site_for(find_machine(machine)), "bf16", 16.0, 16.0)
        return float(found.parameters.dram_frac)

    assert share("rtx_4090") == pytest.approx(share("l40s") * 0.93 / 0.81, rel=0.02)  # GDDR6X against GDDR6 with ECC
    assert share("dgx_spark") == pytest.approx(share("rtx_5090") * 0.80 / 0.93, rel=0.02)  # LPDDR5X against GDDR7


def test_without_arithmetic_of_a_format_products_run_in_sixteen_bits() -> None:
    assert site_for(find_machine("arc_b60"), "fp8").compute == "bf16"
    assert site_for(find_machine("a100_sxm"), "int8").compute == "int8"


def test_calibration_files_hold_valid_parameters() -> None:
    root = resources.files("steelyard.catalogue").joinpath("calibration")
    names = set(GemmParameters.__dataclass_fields__)
    for machine in ("a100_sxm", "l40s", "h100_sxm", "h200_sxm", "b200_sxm", "_families"):
        data = tomllib.loads(root.joinpath(machine).joinpath("gemm.toml").read_text(encoding="utf-8"))
        sections = [data, *data.values(), *(v for s in data.values() if isinstance(s, dict) for v in s.values())]
        found = [s for s in sections if isinstance(s, dict) and "parameters" in s]
        assert found
        for section in found:
            assert set(section["parameters"]) == names
            p = GemmParameters(**section["parameters"])
            assert 0.0 < p.compute_frac <= 1.0
            assert 0.0 < p.dram_frac <= 1.0
            assert gemm_facts(section.get("facts", "blas")).tiles
            assert 0.0 < section["residual"]["log_std"] < 0.5


LIMITS_PERCENT = {
    ("a100_sxm", "bf16"): 8.5,
    ("l40s", "bf16"): 11.5,
    ("h100_sxm", "bf16"): 6.5,
    ("h200_sxm", "bf16"): 6.5,
    ("b200_sxm", "bf16"): 7.5,
    ("h100_sxm", "fp8"): 9.0,
    ("h200_sxm", "fp8"): 9.0,
    ("l40s", "fp8"): 15.5,
    ("b200_sxm", "nvfp4"): 9.0,
}


@pytest.mark.parametrize(("machine", "number_format"), sorted(LIMITS_PERCENT))
def test_catalogue_parameters_predict_pairs_left_out(machine: str, number_format: str) -> None:
    folder = Path(os.environ.get("STEELYARD_DATA", "../shared")) / "truth" / "aic_ops"
    if not list(folder.glob(f"{machine}__gemm__*.parquet")):
        pytest.skip(f"no measured GEMM table of {machine} under {folder}")
    for module in ("numba", "pandas", "pyarrow"):
        pytest.importorskip(module)
    from steelyard.calibrate.tasks import gemm_task
    from steelyard.machine.catalogue import find_machine
    from steelyard.measurements.kernel_tables import gemm_rows

    rows = gemm_rows(next(folder.glob(f"{machine}__gemm__*.parquet")))
    rows = rows[(rows["format"] == number_format) & ~rows["fitted"]].reset_index(drop=True)
    task = gemm_task(find_machine(machine), number_format, rows, like=machine)
    text = resources.files("steelyard.catalogue").joinpath(f"calibration/{machine}/gemm.toml").read_text("utf-8")
    data = tomllib.loads(text)
    section = data if number_format == "bf16" else data[number_format]
    assert task.facts == section["facts"]
    errors = task.errors(GemmParameters(**section["parameters"]), task.everywhere)
    assert errors.mean_ape <= LIMITS_PERCENT[machine, number_format]


def test_marlin_reads_weights_again_for_every_64_rows_that_outgrow_the_cache() -> None:
    from steelyard.cost.devices import gemm_device
    from steelyard.cost.site import site_for
    from steelyard.machine.catalogue import find_machine

    def seconds(machine: str, m: float, n: float, name: str) -> float:
        site = site_for(find_machine(machine), "fp8_weight_only")
        bits = {"weight_bits": 8.0, "act_bits": 16.0, "out_bits": 16.0}
        return float(gemm_time_s(m, n, 5120.0, **bits, device=gemm_device(site), facts=gemm_facts(name)))

    # a DGX Spark: 24 MiB of cache, 273 GB/s: 89 MB of weights are read 32 times for 2,048 rows
    least = 32 * (17408 * 5120 - 24 * 2**20) / 273e9
    assert seconds("dgx_spark", 2048, 17408, "marlin") > least > 1.5 * seconds("dgx_spark", 2048, 17408, "cublas_ada")
    one, two, three = (seconds("dgx_spark", m, 17408, "marlin") for m in (64, 65, 129))
    assert two > 1.5 * one and three > two + 0.5 * one
    # what the cache holds is read once, and a card with more bandwidth per operation is bound by its products
    assert seconds("dgx_spark", 128, 1024, "marlin") < 1.5 * seconds("dgx_spark", 64, 1024, "marlin")
    assert seconds("a100_sxm", 2048, 17408, "marlin") < 1.3 * seconds("a100_sxm", 2048, 17408, "cublas_mma")


@pytest.mark.parametrize(
    ("name", "times"), [("h20", 4.3), ("rtx_4090", 2.0), ("l40s", 1.0), ("h100_sxm", 1.0), ("a100_sxm", 1.0)]
)
def test_a_capped_peak_leaves_the_feed_of_the_units(name: str, times: float) -> None:
    """What sales capped is the matrix engine: operands and outputs move as in the family's fastest part."""
    site = site_for(find_machine(name))
    assert site.feed16_ops_per_s == pytest.approx(times * site.peak16_ops_per_s, rel=0.02)


def test_only_products_that_wait_for_operands_gain_from_it() -> None:
    capped = replace(HOPPER, peak_ops_per_s=200e12, peak16_ops_per_s=200e12)
    fed = replace(capped, feed16_ops_per_s=989.4e12)

    def gain(m: int, n: int, k: int) -> float:
        before, after = (gemm_time_s(m, n, k, **BITS, device=d, facts=gemm_facts("cublas")) for d in (capped, fed))
        assert after >= gemm_roofline_s(m, n, k, **BITS, device=fed)
        return float(before / after)

    assert gain(64, 4096, 4096) > 1.2
    assert gain(8192, 8192, 8192) == pytest.approx(1.0, abs=0.1)
