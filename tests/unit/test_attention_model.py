"""Attention cost models: limits, monotony, software facts, and the errors their catalogue files state."""

from __future__ import annotations

import os
import tomllib
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.cost.attention import (
    AttentionDevice,
    AttentionFacts,
    DecodeParameters,
    PrefillParameters,
    decode_attention_limit_s,
    decode_attention_time_s,
    prefill_attention_limit_s,
    prefill_attention_time_s,
)
from steelyard.cost.attention_kernels import attention_facts, attention_kernel, mla_facts, mla_kernel
from steelyard.cost.mla import MlaParameters, mla_decode_limit_s, mla_decode_time_s, mla_prefill_time_s

H100 = AttentionDevice(132, 989.4e12, 3.352e12, 50 * 2**20, 5.5e12, 1.83e9, "async", 1978.9e12)
CPU = AttentionDevice(32, 8e12, 0.3e12, 64 * 2**20, 1e12, 3e9)
TPU = AttentionDevice(1, 394e12, 0.82e12, 0.0, 0.82e12, 1.5e9)
KERNELS = ("fa2", "fa3", "flashinfer", "trtllm", "triton", "generic")


def decode(batch: Any, context: Any, heads: Any = 32, kv: Any = 8, dim: Any = 128, **changes: Any) -> Any:
    given_ = {
        "kv_bits": 16,
        "device": H100,
        "parameters": DecodeParameters(),
        "facts": attention_facts("fa3"),
        **changes,
    }
    return decode_attention_time_s(batch, context, heads, kv, dim, **given_)


def prefill(batch: Any, new: Any, before: Any = 0, heads: Any = 32, kv: Any = 8, dim: Any = 128, **changes: Any) -> Any:
    given_ = {
        "kv_bits": 16,
        "device": H100,
        "parameters": PrefillParameters(),
        "facts": attention_facts("fa3"),
        **changes,
    }
    return prefill_attention_time_s(batch, new, before, heads, kv, dim, **given_)


shapes = st.tuples(
    st.integers(1, 2048),
    st.integers(1, 131072),
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from([1, 3, 4, 8, 16, 64]),
    st.sampled_from([64, 128, 192, 256, 512]),
    st.sampled_from([8, 16]),
    st.sampled_from([0, 128, 1024, 8192]),
)


@settings(max_examples=150, deadline=None)
@given(shapes, st.sampled_from(KERNELS), st.sampled_from([H100, CPU, TPU]))
def test_decode_is_above_its_limit_and_monotone(shape: Any, kernel: str, device: AttentionDevice) -> None:
    batch, context, kv, group, dim, bits, window = shape
    facts = attention_facts(kernel)
    args: dict[str, Any] = {"kv_bits": bits, "window": window, "device": device, "facts": facts}
    time = decode(batch, context, kv * group, kv, dim, **args)
    limit = decode_attention_limit_s(
        batch,
        context,
        kv * group,
        kv,
        dim,
        kv_bits=bits,
        window=window,
        device=device,
        computes_fp8=facts.computes_fp8,
    )
    assert np.isfinite(time)
    assert time >= limit
    assert decode(batch + 7, context, kv * group, kv, dim, **args) >= time * (1 - 1e-9)
    assert decode(batch, context * 2, kv * group, kv, dim, **args) >= time * (1 - 1e-9)


@settings(max_examples=150, deadline=None)
@given(shapes, st.integers(0, 65536), st.sampled_from(KERNELS), st.sampled_from([H100, CPU, TPU]))
def test_prefill_is_above_its_limit(shape: Any, before: int, kernel: str, device: AttentionDevice) -> None:
    batch, new, kv, group, dim, bits, window = shape
    facts = attention_facts(kernel)
    args: dict[str, Any] = {"kv_bits": bits, "window": window, "device": device}
    time = prefill(batch, new, before, kv * group, kv, dim, facts=facts, **args)
    limit = prefill_attention_limit_s(batch, new, before, kv * group, kv, dim, computes_fp8=facts.computes_fp8, **args)
    assert np.isfinite(time)
    assert time >= limit
    assert prefill(batch + 1, new, before, kv * group, kv, dim, facts=facts, **args) >= time * (1 - 1e-9)


def test_limits_by_hand() -> None:
    # 16 sequences, 8 KV heads, 4096 tokens, 128 dims, 2 bytes, keys and values; queries and outputs of 32 heads.
    traffic = 16 * 8 * 4096 * 2 * 128 * 2 + 16 * 32 * 2 * 128 * 2
    limit = decode_attention_limit_s(16, 4096, 32, 8, 128, kv_bits=16, device=H100)
    assert limit == pytest.approx(traffic / 3.352e12)
    # Causal prefill of 4096 tokens: 4096 * 4097 / 2 pairs, 4 * 128 FLOP each and head.
    flops = 4 * 128 * 32 * 4096 * 4097 / 2
    assert prefill_attention_limit_s(1, 4096, 0, 32, 8, 128, kv_bits=16, device=H100) == pytest.approx(flops / 989.4e12)
    # A window of 1024: the first 1024 queries grow, the others see 1024 keys.
    windowed = 4 * 128 * 32 * (1024 * 1025 / 2 + 3072 * 1024)
    assert prefill_attention_limit_s(1, 4096, 0, 32, 8, 128, kv_bits=16, window=1024, device=H100) == pytest.approx(
        windowed / 989.4e12
    )
    # MLA: one latent of 576 elements per token, 128 heads of 2 (576 + 512) FLOP.
    mla = mla_decode_limit_s(64, 8192, 128, kv_bits=16, device=H100)
    assert mla == pytest.approx(max(64 * 8192 * 1152 / 3.352e12, 64 * 8192 * 128 * 2 * 1088 / 989.4e12))


def test_arguments_broadcast_and_agree_with_scalars() -> None:
    batch = np.array([[1], [64], [512]])
    context = np.array([128, 4096, 32768])
    grid = decode(batch, context)
    assert grid.shape == (3, 3)
    assert grid[1, 2] == pytest.approx(float(decode(64, 32768)))
    grid = prefill(batch, context)
    assert grid[2, 0] == pytest.approx(float(prefill(512, 128)))


def test_packing_reads_the_cache_once() -> None:
    packed, single = AttentionFacts(), AttentionFacts(packs_group=False)
    few, many = decode(2048, 4096, facts=packed), decode(2048, 4096, facts=single)
    assert many > 3 * few  # four query heads per KV head, cache far beyond L2


def test_splitting_helps_one_long_sequence_and_nothing_else() -> None:
    whole = replace(attention_facts("fa3"), splits_kv=False)
    assert decode(1, 131072, facts=whole) > 3 * decode(1, 131072)
    assert decode(1024, 1024, facts=whole) == pytest.approx(float(decode(1024, 1024)))


def test_window_bounds_the_cost() -> None:
    assert decode(64, 131072, window=128) < 0.05 * decode(64, 131072)
    assert prefill(1, 16384, window=128) < 0.3 * prefill(1, 16384)
    assert decode(64, 100, window=8192) == pytest.approx(float(decode(64, 100)))


def test_a_hot_cache_is_faster_only_while_it_fits() -> None:
    assert decode(1, 4096, kv_hot=True) <= decode(1, 4096)
    assert decode(64, 32768, kv_hot=True) == pytest.approx(float(decode(64, 32768)), rel=1e-3)


def test_large_units_are_not_starved() -> None:
    """A machine of one core must not pay the item latency of every head in turn."""
    time = decode(256, 2048, device=TPU, facts=AttentionFacts())
    limit = decode_attention_limit_s(256, 2048, 32, 8, 128, kv_bits=16, device=TPU)
    assert limit < time < 5 * limit


def test_mla_prices() -> None:
    def time(batch: int, context: int, heads: int) -> float:
        facts = mla_facts(mla_kernel("hopper", 16))
        return float(
            mla_decode_time_s(batch, context, heads, kv_bits=16, device=H100, parameters=MlaParameters(), facts=facts)
        )

    assert time(128, 8192, 128) > time(128, 8192, 16)
    assert time(128, 16384, 128) == pytest.approx(2 * time(128, 8192, 128), rel=0.2)
    full = mla_prefill_time_s(
        1, 8192, 0, 128, device=H100, parameters=PrefillParameters(), facts=attention_facts("fa3")
    )
    assert full >= 2 * 128 * 320 * 8192 * 8193 / 2 / 989.4e12


def test_kernels_are_chosen_by_family_and_format() -> None:
    assert attention_kernel("hopper", 16) == "fa3"
    assert attention_kernel("hopper", 16, 512) == "fa4_large_head"
    assert attention_kernel("ada", 8) == "flashinfer"
    assert attention_kernel("blackwell", 8, 192) == "triton"
    assert attention_kernel("cdna3", 16) == "generic"
    assert not attention_facts("fa2").packs_group_windowed


CALIBRATION = Path(str(files("steelyard.catalogue"))) / "calibration"


@pytest.mark.parametrize("machine", ["a100_sxm", "l40s", "h100_sxm", "h200_sxm", "b200_sxm"])
def test_catalogue_states_its_errors(machine: str) -> None:
    table = tomllib.loads((CALIBRATION / machine / "attention.toml").read_text(encoding="utf-8"))
    for phase, cls in (("decode", DecodeParameters), ("prefill", PrefillParameters)):
        cls(**table[phase]["parameters"])
        residual = table[phase]["residual"]
        assert residual["mean_ape"] < 13


@pytest.mark.parametrize(("machine", "phase"), [("h100_sxm", "decode"), ("l40s", "prefill")])
def test_stated_errors_hold_on_the_measurements(machine: str, phase: Any) -> None:
    folder = Path(os.environ.get("STEELYARD_DATA", "../shared")) / "truth" / "aic_ops"
    if not folder.is_dir():
        pytest.skip(f"no measured tables at {folder} (set STEELYARD_DATA)")
    pytest.importorskip("pyarrow")
    from steelyard_validation.fits.attention import COMMON_KERNELS, Fit, parts, read, start_of

    table = tomllib.loads((CALIBRATION / machine / "attention.toml").read_text(encoding="utf-8"))[phase]
    start = start_of(phase)
    shipped = Fit(phase, type(start.parameters)(**table["parameters"]), start.facts)
    for part in parts(machine, read(folder.parent, machine, phase), COMMON_KERNELS[phase]):
        own = shipped.score([part.side(False)])
        assert own["mean_ape"] == pytest.approx(table[part.kernel]["residual"]["mean_ape"], rel=0.05)


def test_rows_of_padding_pass_a_capped_engine_at_the_rate_of_its_units() -> None:
    capped = replace(H100, peak_ops_per_s=150e12)
    fed = replace(capped, feed16_ops_per_s=989.4e12)
    few, many = ({"heads": h, "kv": 1, "device": fed} for h in (4, 64))
    assert decode(64, 8192, heads=4, kv=1, device=capped) > 1.5 * decode(64, 8192, **few)
    assert decode(64, 8192, heads=64, kv=1, device=capped) == pytest.approx(decode(64, 8192, **many), rel=1e-9)


def test_xe2_reads_whole_tiles_splits_late_and_masks_windows() -> None:
    """vLLM on Intel: times of a short cache are those of one tile, and a window saves nothing in a prompt."""
    xe2 = attention_facts(attention_kernel("xe2", 16))
    b60 = AttentionDevice(20, 98.3e12, 456e9, 18 * 2**20, 3.07e12, 2.4e9)
    on: dict[str, Any] = {"facts": xe2, "device": b60}
    one, tile, two = decode(512, [2, 64, 65], **on)
    assert one == tile < two
    long, cut = decode(1, [4096, 8192], kv=1, kv_bits=8, **on)  # only the longer one is spread over units
    assert cut < long
    assert decode(512, 8192, window=128, **on) < 0.1 * decode(512, 8192, **on)
    assert prefill(4, 8192, window=128, **on) > prefill(4, 8192, **on)
    plain, eight = (prefill(4, 8192, kv_bits=bits, **on) for bits in (16, 8))
    assert 3 < eight / plain < 5  # measured: 4


def test_scores_that_leave_the_unit_cost_their_bytes() -> None:
    """llama.cpp without flash attention: 20 bytes per query, key and head, from the cache where they fit it."""
    loose = attention_facts("ggml_unfused")
    fused = replace(loose, prefill_scores_bytes=0.0)
    apart, together = (prefill(1, 512, 7680, facts=facts) for facts in (loose, fused))
    scores = 512 * 8192 * 32 * 20
    assert 0.6 < (apart - together) * H100.dram_bytes_per_s / scores < 1.3
    assert float(prefill(1, 64, facts=loose)) < 1.2 * float(prefill(1, 64, facts=fused))
