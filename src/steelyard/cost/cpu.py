"""Kernels on a CPU whose libraries were measured: few cores, caches that work, weights that get packed.

    product    T = launch + (C^q + M^q)^(1/q)
               C = flops / (compute_frac peak)
               M = weights / (stream_frac DRAM) + [m > 1] weights / (pack_frac DRAM) + activations / (act_frac DRAM)
    attention  T = launch + (C^q + M^q)^(1/q)
               C = pairs (2 (d_k + d_v) / (compute_frac peak) + exp_ops / vector peak)
                   + rows row_ops / vector peak
               M = cache / (stream_frac DRAM)
    chain      T = launch + bytes / (cache_frac LLC) + miss bytes / (stream_frac DRAM)
               miss = x^4 / (1 + x^4),  x = bytes / (hot_frac LLC size)

    unpacking  T >= weights ops / vector peak                weights in blocks of few bits, on any CPU

A BLAS copies ("packs") the weights into its own order before it multiplies, unless there is one row only (GEMV); a
convolution library reorders its activations too. Both are passes over memory that a roofline does not see, and on a
core they hardly overlap with arithmetic (q near 1). These replace the usual cost models where
``calibration/<machine>/cpu.toml`` exists.
Theory and measured accuracy: ``docs/methods/calibration.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from steelyard.cost.gemm import GemmParameters
from steelyard.cost.kernel import Kernel
from steelyard.cost.kinds import ATTENTION, GEMM, MOE, VECTOR
from steelyard.cost.models import KernelTime, PricingContext, cost_model
from steelyard.cost.parameters import Calibrated, calibrated, calibration_table
from steelyard.cost.site import Site
from steelyard.deployment.formats import find_format
from steelyard.machine.component import Machine
from steelyard.workload.op import ELEMENTWISE_COST

__all__ = [
    "CpuAttention",
    "CpuChain",
    "CpuProduct",
    "attention",
    "attention_time_s",
    "chain_time_s",
    "experts",
    "gemm",
    "kernel_work",
    "measured_cpu",
    "product_time_s",
    "time_s",
    "unpacking_s",
    "variant_of",
    "vector",
]

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class CpuProduct:
    """Fitted figures of dense products or convolutions; fractions are of the machine's measured peaks."""

    launch_s: float = 5e-6
    """s: framework dispatch and thread wake-up."""
    compute_frac: float = 0.8
    stream_frac: float = 0.6
    """Of memory bandwidth: weights read once."""
    pack_frac: float = 0.6
    """Of memory bandwidth: weights copied into the library's order, when there is more than one row."""
    act_frac: float = 1.0
    """Of memory bandwidth: activations read, reordered and written; above 1 when they stay in cache."""
    overlap_power: float = 1.3
    """Exponent joining arithmetic and memory; 1: one after the other."""


@dataclass(frozen=True, slots=True)
class CpuAttention:
    """Fitted figures of fused attention."""

    launch_s: float = 1e-5
    compute_frac: float = 0.6
    exp_ops: float = 50.0
    """Vector operations one (query, key) pair costs beside its products."""
    row_ops: float = 5e3
    """Vector operations one query of one head costs whatever it attends to: masked parts of tiles, set-up."""
    stream_frac: float = 0.5
    """Of memory bandwidth: keys and values read once per sequence and KV head."""
    overlap_power: float = 1.3


@dataclass(frozen=True, slots=True)
class CpuChain:
    """Fitted figures of one kind of elementwise or row-reducing chain, as the framework runs it (several calls)."""

    launch_s: float = 3e-6
    cache_frac: float = 0.3
    """Of last-level cache bandwidth: rate over data in cache, arithmetic included."""
    stream_frac: float = 0.7
    """Of memory bandwidth."""
    hot_frac: float = 0.3
    """Of the last-level cache that still holds what the kernel before wrote."""


#: Of the fp32 vector peak, products of weights that a core unpacks as it multiplies (prompts of DeepSeek-V3 in Q4_K_M
#: on one and two sockets of 32 cores, KTransformers 0.2: 0.42 and 0.32).
UNPACKING_FRAC = 0.4
#: Operations of the fp32 vector peak that unpacking and multiplying a weight of a GGUF block takes, by its bits.
#: llama.cpp on two cores of a Raspberry Pi 5, twelve of a Jetson AGX Orin, one, four and eight of an M2 Ultra and four
#: of an i5-1035G7 (T-MAC's repository, docs/profiling_data.md, its baselines): 5 to 10 with q2_k, 4 to 8 with q4_0;
#: geometric means. Others lie between them by their bits, 8 bits below (guess).
UNPACKED_BITS, UNPACK_OPS = (2.625, 4.5, 8.5), (7.4, 6.2, 3.0)
#: Of what whole products stream, experts that lie anywhere in a server's many channels (decode of DeepSeek-V3 in Q4_K_M
#: on one and two sockets, KTransformers 0.2), and the rate of memory from which a host is such a server.
SCATTERED_FRAC, SERVER_BYTES_PER_S = 0.56, 150e9
#: s per local expert: sorting the tokens by expert (guess).
EXPERT_S = 20e-9
MISS_SHARPNESS = 4.0
"""Steepness of the cache edge in log size (guess)."""


def _join(compute: Array, memory: Array, q: float) -> Array:
    longer = np.maximum(np.maximum(compute, memory), np.finfo(np.float64).tiny)
    ratio = np.minimum(compute, memory) / longer
    return np.asarray(longer * (1.0 + ratio**q) ** (1.0 / q))


def product_time_s(
    flops: ArrayLike,
    rows: ArrayLike,
    weight_bytes: ArrayLike,
    moving_bytes: ArrayLike,
    *,
    peak_ops_per_s: float,
    dram_bytes_per_s: float,
    parameters: CpuProduct,
) -> Array:
    """Time of a dense product or convolution.

    Args:
        flops: operations, 2 per MAC; all arguments broadcast.
        rows: rows of the activations (m); one row is not packed.
        weight_bytes: weights read from memory.
        moving_bytes: activations read and written.
        peak_ops_per_s, dram_bytes_per_s: measured peaks of the machine.
        parameters: of this kind of kernel and number format.

    Returns:
        Seconds, of the broadcast shape; never below max(flops / peak, weights / bandwidth).
    """
    p = parameters
    f, m, w, a = (np.asarray(x, dtype=np.float64) for x in (flops, rows, weight_bytes, moving_bytes))
    packed = np.where(m > 1.0, 1.0 / p.pack_frac, 0.0)
    memory = (w * (1.0 / p.stream_frac + packed) + a / p.act_frac) / dram_bytes_per_s
    time = p.launch_s + _join(f / (p.compute_frac * peak_ops_per_s), memory, p.overlap_power)
    return np.asarray(np.maximum(time, np.maximum(f / peak_ops_per_s, w / dram_bytes_per_s)))


def attention_time_s(
    pairs: ArrayLike,
    rows: ArrayLike,
    width: ArrayLike,
    cache_bytes: ArrayLike,
    *,
    peak_ops_per_s: float,
    vector_ops_per_s: float,
    dram_bytes_per_s: float,
    parameters: CpuAttention,
) -> Array:
    """Time of fused attention.

    Args:
        pairs: (query, key) pairs over all sequences and query heads; all arguments broadcast.
        rows: queries over all sequences and query heads.
        width: d_k + d_v, elements.
        cache_bytes: keys and values read.
        peak_ops_per_s, vector_ops_per_s, dram_bytes_per_s: measured peaks of the machine.
        parameters: of this number format.

    Returns:
        Seconds, of the broadcast shape; never below max(flops / peak, cache / bandwidth).
    """
    p = parameters
    n, r, d, b = (np.asarray(x, dtype=np.float64) for x in (pairs, rows, width, cache_bytes))
    compute = (
        n * (2.0 * d / (p.compute_frac * peak_ops_per_s) + p.exp_ops / vector_ops_per_s)
        + r * p.row_ops / vector_ops_per_s
    )
    time = p.launch_s + _join(compute, b / (p.stream_frac * dram_bytes_per_s), p.overlap_power)
    return np.asarray(np.maximum(time, np.maximum(2.0 * n * d / peak_ops_per_s, b / dram_bytes_per_s)))


def chain_time_s(
    moved_bytes: ArrayLike,
    *,
    dram_bytes_per_s: float,
    cache_bytes: float,
    cache_bytes_per_s: float,
    parameters: CpuChain,
) -> Array:
    """Time of an elementwise or row-reducing chain.

    Args:
        moved_bytes: read and written.
        dram_bytes_per_s, cache_bytes, cache_bytes_per_s: of the machine, the last-level cache.
        parameters: of this kind of chain.

    Returns:
        Seconds, of the shape of ``moved_bytes``; never below (bytes - cache) / bandwidth.
    """
    p, moved = parameters, np.asarray(moved_bytes, dtype=np.float64)
    x = np.minimum(moved / max(p.hot_frac * cache_bytes, 1.0), 1e6) ** MISS_SHARPNESS
    miss = x / (1.0 + x)
    time = p.launch_s + moved / (p.cache_frac * cache_bytes_per_s) + miss * moved / (p.stream_frac * dram_bytes_per_s)
    return np.asarray(np.maximum(time, np.maximum(moved - cache_bytes, 0.0) / dram_bytes_per_s))


def unpacking_s(kernel: Kernel, machine: Machine) -> Any:
    """The least time of a product whose weights lie in GGUF blocks, s: each is unpacked once by the vector units."""
    bits = float(kernel.features.get("weight_bits", 16.0))
    vector = machine.engines("vector")
    if bits >= UNPACKED_BITS[-1] + 1 or not vector or not find_format(kernel.weight_format).gguf:
        return 0.0
    weights = np.asarray(kernel.traffic["weight"], dtype=np.float64) * 8.0 / bits
    peak = max(float(c.peak.get("fp32", 0.0)) for c in vector)
    return weights * float(np.interp(bits, UNPACKED_BITS, UNPACK_OPS)) / peak if peak else 0.0


def measured_cpu(machine: str) -> bool:
    """Whether a machine has its own measured CPU parameters."""
    return bool(calibration_table(machine, "cpu"))


def variant_of(kernel: Kernel) -> str:
    """``conv``, ``conv_1x1``, ``batched``, ``gemm``, ``prefill``, ``decode``, or ``chain_`` and its operator."""
    if kernel.kind == "vector":
        return "chain_" + max((op.map for op in kernel.ops), key=lambda name: ELEMENTWISE_COST[name])
    if kernel.kind == "attention":
        return "decode" if bool(np.all(np.asarray(kernel.features["new"]) <= 1)) else "prefill"
    extents = [np.asarray(op.size(rank)) for op in kernel.ops for rank in op.windows]
    if extents:
        return "conv" if any(bool(np.any(x > 1)) for x in extents) else "conv_1x1"
    return "batched" if bool(np.all(np.asarray(kernel.features["groups"]) > 1)) else "gemm"


def kernel_work(kernel: Kernel) -> Mapping[str, Any]:
    """What a kernel gives to :func:`product_time_s`, :func:`attention_time_s` or :func:`chain_time_s`."""
    t, f = kernel.traffic, kernel.features
    if kernel.kind == "attention":
        width = np.asarray(f["head_dim"], dtype=np.float64) + f["value_dim"]
        queries = np.asarray(f["batch"], dtype=np.float64) * f["heads"]
        return {
            "pairs": queries * f["pairs"],
            "rows": queries * f["new"],
            "width": width,
            "cache_bytes": np.asarray(f["batch"], dtype=np.float64)
            * f["kv_heads"]
            * f["reach"]
            * width
            * (float(f["kv_bits"]) / 8.0),
        }
    if kernel.kind == "vector":
        return {"moved_bytes": t.get("read", 0.0) + t.get("write", 0.0)}
    return {
        "flops": kernel.flops,
        "rows": f["m"],
        "weight_bytes": t.get("weight", 0.0),
        "moving_bytes": t.get("read", 0.0) + t.get("write", 0.0),
    }


def _price(kernel: Kernel, context: PricingContext) -> KernelTime:
    site = context.site
    found = _parameters(site.machine.name, variant_of(kernel), site.compute)
    time = time_s(kernel.kind, kernel_work(kernel), site, found.parameters)
    return KernelTime(time, found.spread, found.source)


#: Products and convolutions, attention, and chains on a measured CPU.
gemm, attention, vector = (cost_model(kind, table="cpu")(_price) for kind in (GEMM, ATTENTION, VECTOR))


@cost_model(MOE, families=("x86", "arm_cpu"))
def experts(kernel: Kernel, context: PricingContext) -> KernelTime:
    """Routed experts of one layer on a CPU: two products that read the weights of the experts hit, as its GEMM does.

    A core streams rows of any length, so that few tokens fill the bus, unlike tiles that are shared out over a GPU.
    """
    site, f = context.site, kernel.features
    found = calibrated("gemm", GemmParameters, site.machine.name, (site.family,))
    p = found.parameters
    passing = kernel.traffic.get("read", 0.0) + kernel.traffic.get("write", 0.0)
    moved = kernel.traffic["weight"] + np.maximum(0.0, np.asarray(passing) - site.l2_bytes)
    scattered = SCATTERED_FRAC if site.dram_bytes_per_s > SERVER_BYTES_PER_S else 1.0
    memory = np.asarray(moved, dtype=np.float64) / (scattered * p.dram_frac * site.dram_bytes_per_s)
    rate = p.compute_frac * site.peak_ops_per_s
    if f["weight_bits"] < 16 <= f["act_bits"]:
        rate = min(rate, UNPACKING_FRAC * site.vector_ops_per_s)
    compute = np.asarray(kernel.flops, dtype=np.float64) / rate
    launch = 2.0 * p.launch_cycles / max(site.clock_hz, 1e8) + EXPERT_S * np.asarray(f["experts"])
    return KernelTime(launch + _join(compute, memory, p.overlap_power), found.spread, found.source)


def time_s(kind: str, work: Mapping[str, Any], site: Site, parameters: Any) -> Array:
    """Seconds of kernels of one kind from what :func:`kernel_work` gave."""
    dram = site.dram_bytes_per_s
    if kind == "attention":
        return attention_time_s(
            **work,
            peak_ops_per_s=site.peak_ops_per_s,
            vector_ops_per_s=site.vector_ops_per_s,
            dram_bytes_per_s=dram,
            parameters=parameters,
        )
    if kind == "vector":
        return chain_time_s(
            **work,
            dram_bytes_per_s=dram,
            cache_bytes=site.l2_bytes,
            cache_bytes_per_s=site.l2_bytes_per_s,
            parameters=parameters,
        )
    return product_time_s(**work, peak_ops_per_s=site.peak_ops_per_s, dram_bytes_per_s=dram, parameters=parameters)


def _parameters(machine: str, variant: str, compute: str) -> Calibrated:
    if variant.startswith("chain"):
        return calibrated("cpu", CpuChain, machine, (), (variant, "chain"))
    if variant in ("prefill", "decode"):
        return calibrated("cpu", CpuAttention, machine, (), (f"{variant}.{compute}", f"{variant}.fp32"))
    names = dict.fromkeys((variant, "conv", "gemm") if variant.startswith("conv") else (variant, "gemm"))
    return calibrated("cpu", CpuProduct, machine, (), tuple(f"{v}.{c}" for v in names for c in (compute, "fp32")))
