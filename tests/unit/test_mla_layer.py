"""Whole latent-attention layers and eager benchmarks: the terms around a kernel, and monotony of MLA decode."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from steelyard.cost.attention import AttentionDevice
from steelyard.cost.attention_kernels import mla_facts
from steelyard.cost.mla import MlaParameters, mla_decode_time_s
from steelyard.machine.catalogue import find_machine
from steelyard_validation import mla_layer
from steelyard_validation.readers import _ops, aic_ops

H100 = AttentionDevice(132, 989.4e12, 3.352e12, 50 * 2**20, 5.5e12, 1.83e9, "async", 1978.9e12)
CPU = AttentionDevice(32, 8e12, 0.3e12, 64 * 2**20, 1e12, 3e9)
PHONE = AttentionDevice(2, 2e12, 0.05e12, 2**20, 0.1e12, 1e9)
KERNELS = ("fa3_mla", "flash_mla", "trtllm_mla", "triton_mla", "triton_mla_0_14", "generic")


def decode(batch: Any, context: Any, heads: Any, device: AttentionDevice, kernel: str) -> Any:
    return mla_decode_time_s(
        batch, context, heads, kv_bits=16, device=device, parameters=MlaParameters(), facts=mla_facts(kernel)
    )


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("device", [H100, CPU, PHONE])
def test_mla_decode_grows_with_context_and_batch(kernel: str, device: AttentionDevice) -> None:
    contexts = np.unique(np.geomspace(1, 2e5, 400).astype(int))
    for heads in (1, 16, 32, 128):
        for batch in (1, 7, 64):
            assert np.all(np.diff(decode(batch, contexts, heads, device, kernel)) >= 0)
        batches = np.arange(1, 400)
        for context in (1, 100, 700, 5000):
            assert np.all(np.diff(decode(batches, context, heads, device, kernel)) >= -1e-18)


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    contexts = np.array([5, 63, 64, 65, 191, 700, 3000, 60000])
    together = decode(3, contexts, 16, H100, "flash_mla")
    alone = [float(decode(3, c, 16, H100, "flash_mla")) for c in contexts.tolist()]
    assert together == pytest.approx(alone)


@pytest.mark.parametrize("kernel", KERNELS)
def test_more_bandwidth_never_slows_mla_decode(kernel: str) -> None:
    for device in (H100, CPU, PHONE):
        slow = decode(np.array([1, 4, 300]), 2000, 16, device, kernel)
        for factor in (1.5, 4.0, 50.0):
            fast = replace(device, dram_bytes_per_s=device.dram_bytes_per_s * factor)
            assert np.all(decode(np.array([1, 4, 300]), 2000, 16, fast, kernel) <= slow * (1 + 1e-12))


def test_narrow_tiles_read_the_latent_again() -> None:
    b200 = AttentionDevice(148, 2250e12, 8e12, 126 * 2**20, 13e12, 1.85e9, "async", 4500e12)
    one, two = (float(decode(256, 32768, heads, b200, "trtllm_mla")) for heads in (16, 32))
    shared = [float(decode(256, 32768, heads, b200, "flash_mla")) for heads in (16, 32)]
    assert two > 1.5 * one
    assert shared[1] == pytest.approx(shared[0], rel=0.02)


def test_small_kernels_cost_launches_bytes_and_rows() -> None:
    machine = find_machine("h100_sxm")
    chain = mla_layer.chain_of("FLASH_ATTN_MLA", machine, "decode")
    empty = mla_layer.chain_s(chain, machine, 0.0, 1.0)
    assert empty == pytest.approx(chain.kernels * mla_layer.KERNEL_S)
    many = mla_layer.chain_s(chain, machine, np.array([1e5, 2e5]), 1.0) - empty
    assert many[1] == pytest.approx(2 * many[0], rel=1e-3)
    assert many[0] > 1e5 * chain.token_bytes / machine.root.bandwidth_bytes_per_s
    assert mla_layer.chain_of("FLASH_ATTN", find_machine("b200_sxm"), "prefill").token_bytes == 0
    assert mla_layer.chain_of("no kernel", machine, "decode").kernels == 0


def test_weights_of_a_small_layer_stay_in_a_large_cache() -> None:
    large = mla_layer.products(find_machine("b200_sxm"), "bf16", np.array([1.0]), np.array([1.0]), absorbed=True)
    cold = _ops.gemm(find_machine("b200_sxm"), "bf16", 1, 2112, 7168, hot=False)
    assert large.time_s[0] < 5 * cold.time_s  # five products, hot
    many = mla_layer.products(find_machine("b200_sxm"), "bf16", np.array([1.0]), np.array([128.0]), absorbed=True)
    weights = 2 * (7168 * 2112 + 1536 * 128 * 192 + 128 * 128 * 7168)
    assert many.time_s[0] > weights / 8e12  # too large for the cache


def test_eager_calls_overlap_host_and_device() -> None:
    machine = find_machine("b200_sxm")
    host = aic_ops._host_s(np.array(["DeepGemmFp8BlockScaledMMKernel"] * 2), np.array([4, 5]), machine)
    assert host[1] > host[0] > 1e-4  # scales of other m are laid out anew
    gpu = _ops.gemm(machine, "fp8_block", np.array([4.0, 16384.0]), 7168, 7168)
    both = aic_ops._eager(gpu, host[:1])
    assert both.time_s[0] == pytest.approx(host[0] + gpu.time_s[0] / aic_ops.EAGER_CALLS)
    assert both.time_s[1] == pytest.approx(gpu.time_s[1] + host[0] / aic_ops.EAGER_CALLS)
    assert np.all(both.low_s < both.time_s) and np.all(both.time_s < both.high_s)
