"""The routed experts of one MoE layer on one device: routing, grouped GEMM up, activation, grouped GEMM down, sum.

    time = launch + sort + vector traffic
           + sum over the two GEMMs of min over tile heights of (T_units^q + T_memory^q)^(1/q)

T_units: output tiles of all experts (each expert's tokens padded to the tile), in waves over the units.
T_memory: weights of the experts that are HIT (each read once), activations in and out.
Load: expert shares follow p(x) ~ x^-skew, as in published synthetic routers; the device holding the busiest experts
decides. Everything is an array over scenarios; expert loads add one axis of quadrature nodes.

Sources: vLLM fused_moe (Triton, sorted and padded by expert); FlashInfer and CUTLASS grouped GEMM; Marlin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from steelyard.cost.kernel import Kernel

FloatArray = npt.NDArray[np.float64]
Sizes = float | int | npt.NDArray[np.generic]

NODES: Final = 24
"""Quadrature nodes over the experts' loads, midpoints of equal probability."""
LOAD_CEILING_FRAC: Final = 0.8
"""Upper end of the power law's support, in tokens (the convention of the synthetic routers)."""
TILE_OPERAND_INTENSITY: Final = 50.0
"""16-bit FLOP per operand byte a tile needs to reach the peak (fit over five GPUs: 46 to 65)."""
REDISTRIBUTIONS: Final = 4
"""Passes that hand rows of full experts to the others; four conserve rows to better than 5 %."""
BUSIEST_SIGMAS: Final = 0.8
"""How far above the mean the other experts of the busiest device lie, in standard deviations of their sum (fit to a
simulation of the power-law router: 0.7 to 1.1)."""
LARGEST: Final = (1.48, 0.667)
"""Mean of the largest of n normal deviates, ``a sqrt(ln n) - b``: within 4 % from 4 to 128."""
ALIGNMENT_BYTES: Final = 16.0
"""Vector loads and bulk copies need rows in multiples of this."""
HOT_SHARPNESS: Final = 4.0
"""Steepness of the L2 survival curve (guess)."""
L2_EFFICIENCY: Final = 0.6
"""Fraction of the L2 bandwidth weights stream at when they are still there (guess)."""
BLEND: Final = 3.0
"""Exponent of the soft maximum of unit time and memory time."""


@dataclass(frozen=True, slots=True)
class MoeDevice:
    """Spec-sheet figures. peak_ops_per_s: at the arithmetic format used; peak16: dense 16-bit; units: SMs or CUs."""

    units: int
    peak_ops_per_s: float
    peak16_ops_per_s: float
    dram_bytes_per_s: float
    l2_bytes: float
    l2_bytes_per_s: float
    copy_engine: str = "async"
    feed16_ops_per_s: float = 0.0
    """16-bit rate the operand paths are built for, above a peak that is capped; 0: that peak."""


@dataclass(frozen=True, slots=True)
class MoeParameters:
    """The fitted figures of one machine and kernel family."""

    launch_s: float = 18.0e-6
    """Fixed part of all kernels of the layer."""
    compute_efficiency: float = 0.7
    memory_efficiency: float = 0.8
    vector_efficiency: float = 0.7
    """Of the DRAM peak, for the permute, activation, quantise and sum kernels."""
    k_step_s: float = 80.0e-9
    """One 128-byte slice of the reduction dimension in a tile that is latency bound."""
    tile_s: float = 1.0e-6
    """Prologue and epilogue of one tile."""
    sort_s_per_row: float = 0.2e-9
    """Routing, sorting and index work per (token, expert) row."""
    expert_s: float = 2.0e-9
    """Scheduling work per local expert."""
    unit_stream_ratio: float = 1.4
    """The most one unit can stream from DRAM, over its even share of the bandwidth: few tiles cannot fill the bus."""
    reread_group: float = 8.0
    """Tile rows that share one read of the weights, where an expert's matrix exceeds L2."""
    unaligned_efficiency: float = 0.4
    """Memory efficiency left when a weight row is no multiple of 16 bytes."""
    hot_frac: float = 0.7
    """Share of L2 in which weights survive from one call to the next, if nothing else runs in between."""


@dataclass(frozen=True, slots=True)
class MoeFacts:
    """Software facts of a grouped-GEMM kernel family (catalogue/kernels/moe.toml).

    tile_rows: heights it may use; tile_columns; activation_fused: SwiGLU and its quantisation in the first GEMM's
    epilogue (the layer's input is quantised by a kernel of its own whenever activations have under 16 bits);
    all_rows: under expert parallelism without an exchange the side kernels run over every routed row;
    dequantised: weights are widened to 16 bit in registers; padded_to: the expert width is stored padded to a
    multiple of this; every_expert: local experts that no row meets are read and multiplied, a tile of padding each.
    """

    name: str = "triton"
    tile_rows: tuple[int, ...] = (16, 32, 64, 128)
    tile_columns: int = 128
    activation_fused: bool = False
    all_rows: bool = False
    dequantised: bool = False
    padded_to: int = 1
    every_expert: bool = False


FACTS: Final[dict[str, MoeFacts]] = {
    "triton": MoeFacts("triton", (16, 32, 64, 128), 128, all_rows=True),
    "cutlass": MoeFacts("cutlass", (64, 128), 128),
    "trtllm": MoeFacts("trtllm", (8, 16, 32, 64, 128), 128, True, True, padded_to=128),
    "marlin": MoeFacts("marlin", (16, 32, 64), 128, all_rows=True, dequantised=True, padded_to=64),
    "mxfp4_triton": MoeFacts("mxfp4_triton", (16, 32, 64, 128), 128, True, True, True, 128),
    "deepgemm": MoeFacts("deepgemm", (128,), 128, every_expert=True),
}


class Router(NamedTuple):
    """How tokens choose experts."""

    skew: Sizes = 0.0
    """Exponent of the power law of expert popularity; 0: uniform."""
    even: bool = False
    """As evenly as possible, as some benchmarks route, instead of at random."""

    @classmethod
    def of(cls, kernel: Kernel) -> Router:
        """What the ops of a kernel say of it."""
        return cls(kernel.ops[0].facts.get("skew", 0.0) if kernel.ops else 0.0)


#: Every expert as likely as any other.
UNIFORM: Final = Router()


def expert_shares(
    experts: Sizes, tokens: Sizes, skew: Sizes, local_experts: Sizes, topk: Sizes = 0.0
) -> tuple[FloatArray, FloatArray]:
    """Share of all routed rows per local expert, and how many local experts each node stands for.

    Quantiles of p(x) ~ x^-skew on [1, 0.8 tokens] (skew 0: all equal). On a device that holds only some experts the
    last node is the busiest expert of all, for the busiest device decides the step. Tokens that choose ``topk`` experts
    at random (0: evenly) leave that device more rows than its share (:func:`_drawn`).
    Returns: shares and counts, arrays with a last axis of NODES + 1.
    """
    tokens_ = np.asarray(tokens, dtype=np.float64)[..., None]
    experts_ = np.asarray(experts, dtype=np.float64)[..., None]
    local_ = np.asarray(local_experts, dtype=np.float64)[..., None]
    alpha = np.asarray(skew, dtype=np.float64)[..., None]
    middle = (np.arange(NODES) + 0.5) / NODES
    ceiling = np.maximum(LOAD_CEILING_FRAC * tokens_, 2.0)
    load = _power_law_quantile(middle, alpha, ceiling)
    top = _power_law_quantile(1.0 - 0.5 / experts_, alpha, ceiling)
    body = np.mean(load, axis=-1, keepdims=True)
    total = np.maximum(body * np.maximum(experts_ - 1.0, 0.0), 0.0) + top
    shape = np.broadcast_shapes(load.shape[:-1], total.shape[:-1], local_.shape[:-1])
    spread = np.std(load, axis=-1, keepdims=True) / body
    group = np.maximum(experts_ / local_, 1.0)
    lift = BUSIEST_SIGMAS * (1.0 - 1.0 / group) * spread / np.sqrt(np.maximum(local_ - 1.0, 1.0))
    drawn = _drawn(experts_, tokens_, np.asarray(topk, dtype=np.float64)[..., None], group)
    lift = np.hypot(lift, drawn)
    fair = np.minimum(load * (1.0 + lift) / total, 1.0 / np.maximum(local_, 1.0))
    nodes = np.broadcast_to(np.where(group > 1.0, np.maximum(fair, load / total), load / total), (*shape, NODES))
    last = np.broadcast_to(np.minimum(top * np.where(spread > 0.0, 1.0, 1.0 + drawn) / total, 1.0), (*shape, 1))
    rest = np.broadcast_to(np.maximum(local_ - 1.0, 0.0) / NODES, (*shape, NODES))
    return np.concatenate([nodes, last], axis=-1), np.concatenate([rest, np.ones((*shape, 1))], axis=-1)


def _drawn(experts: FloatArray, tokens: FloatArray, topk: FloatArray, group: FloatArray) -> FloatArray:
    """Rows of the busiest of ``group`` devices above the mean, as a share of it, where experts are drawn at random.

    Of the ``topk`` different experts of a token a device holds k/G on average, with a variance of
    ``k/G (1 - 1/G) (E - k)/(E - 1)``; tokens draw independently, and the busiest device lies above the mean by the
    largest of G deviates. One token with 8 experts on 8 devices: 2.3 experts, not 1 (drawn: 2.4).
    """
    mean = tokens * topk / group
    unchosen = np.maximum(experts - topk, 0.0) / np.maximum(experts - 1.0, 1.0)
    deviates = np.maximum(LARGEST[0] * np.sqrt(np.log(group)) - LARGEST[1], 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        lift = deviates * np.sqrt((1.0 - 1.0 / group) * unchosen / mean)
    return np.where(mean > 0.0, lift, 0.0)


def _power_law_quantile(u: FloatArray, alpha: FloatArray, ceiling: FloatArray) -> FloatArray:
    """Inverse distribution of p(x) ~ x^-alpha on [1, ceiling]; alpha 0 means equal loads, x = 1."""
    power = 1.0 - alpha
    power = np.where(np.abs(power) < 1e-6, 1e-6, power)
    value = (u * (ceiling**power - 1.0) + 1.0) ** (1.0 / power)
    return np.where(alpha <= 0.0, 1.0, value)


def expert_loads(
    tokens: Sizes,
    topk: Sizes,
    experts: Sizes,
    router: Router = UNIFORM,
    local_experts: Sizes | None = None,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Expected rows, chance of being hit, and multiplicity per node of local experts.

    rows_i = min(tokens, tokens*topk*share_i); hit_i = 1 - (1 - topk*share_i)^tokens (random) or min(1, rows_i) (even).
    """
    tokens_ = np.asarray(tokens, dtype=np.float64)
    topk_ = np.asarray(topk, dtype=np.float64)
    local = experts if local_experts is None else local_experts
    share, count = expert_shares(experts, tokens_, router.skew, local, 0.0 if router.even else topk_)
    experts_ = np.asarray(experts, dtype=np.float64)[..., None]
    chance = np.minimum(share * topk_[..., None], 1.0)
    # an expert takes a token once: what the busy experts cannot take goes to the others
    weight = np.broadcast_to((experts_ - 1.0) / NODES, chance.shape).copy()
    weight[..., -1] = 1.0
    for _ in range(REDISTRIBUTIONS):
        missing = np.maximum(topk_[..., None] - np.sum(chance * weight, axis=-1, keepdims=True), 0.0)
        open_experts = np.sum((chance < 1.0) * weight, axis=-1, keepdims=True)
        chance = np.minimum(chance + missing / np.maximum(open_experts, 1e-9), 1.0)
    # the busiest device has at least one row
    others = np.sum(chance[..., :-1] * count[..., :-1], axis=-1)
    floor = np.clip(1.0 / np.maximum(tokens_, 1.0) - others, 0.0, 1.0)
    chance[..., -1] = np.maximum(chance[..., -1], floor)
    rows = chance * tokens_[..., None]
    if router.even:
        hit = np.minimum(rows, 1.0)
    else:
        hit = 1.0 - np.exp(np.maximum(tokens_[..., None], 1.0) * np.log1p(-np.minimum(chance, 1.0 - 1e-12)))
    return rows, hit, count


def moe_limit_s(
    tokens: Sizes,
    hidden: Sizes,
    intermediate: Sizes,
    topk: Sizes,
    experts: Sizes,
    *,
    weight_bits: float,
    gated: bool = True,
    router: Router = UNIFORM,
    device: MoeDevice,
    local_experts: Sizes | None = None,
) -> FloatArray:
    """Least time: max(FLOP / peak, (weights hit - L2) / DRAM bandwidth), s."""
    rows, hit, count = expert_loads(tokens, topk, experts, router, local_experts)
    per_expert = (
        np.asarray(hidden, dtype=np.float64) * np.asarray(intermediate, dtype=np.float64) * (3.0 if gated else 2.0)
    )
    flops = 2.0 * per_expert * np.sum(rows * count, axis=-1)
    weights = per_expert * np.sum(hit * count, axis=-1) * weight_bits / 8.0
    spilled = np.maximum(weights - device.l2_bytes, 0.0)
    return np.asarray(np.maximum(flops / device.peak_ops_per_s, spilled / device.dram_bytes_per_s))


def moe_time_s(
    tokens: Sizes,
    hidden: Sizes,
    intermediate: Sizes,
    topk: Sizes,
    experts: Sizes,
    *,
    weight_bits: float,
    act_bits: float,
    out_bits: float = 16.0,
    gated: bool = True,
    router: Router = UNIFORM,
    device: MoeDevice,
    parameters: MoeParameters,
    facts: MoeFacts,
    local_experts: Sizes | None = None,
    repeated_batches: Sizes = 0.0,
    exchanged: bool = False,
) -> FloatArray:
    """Time of the routed experts of one layer on one (the busiest) device, s.

    Args: tokens, in the whole expert-parallel group; hidden; intermediate, of one expert on this device (after tensor
    sharding); topk; experts, in the whole group; local_experts, on this device (None: all); weight_bits, act_bits,
    out_bits; gated, two matrices up; router; device; parameters; facts;
    repeated_batches, how many different batches a benchmark loops over with nothing in between, so that weights may
    still be in L2 (0: cold, as in a model of many layers);
    exchanged, an all-to-all brings each device the rows of its experts and no others.
    Returns: s, never below `moe_limit_s`. Valid 1 to 65536 tokens, 8 to 1024 experts.
    """
    p = parameters
    rows, hit, count = expert_loads(tokens, topk, experts, router, local_experts)
    h = np.asarray(hidden, dtype=np.float64)
    i = np.asarray(intermediate, dtype=np.float64)
    width = np.ceil(i / facts.padded_to) * facts.padded_to
    ups = 2.0 if gated else 1.0
    tokens_ = np.asarray(tokens, dtype=np.float64)
    local = np.asarray(experts if local_experts is None else local_experts, dtype=np.float64)
    met = np.sum(rows * count, axis=-1)
    if facts.every_expert:  # rows of each expert are padded to whole tiles, and none is without one
        hit, rows = np.ones_like(hit), np.maximum(1.0, np.ceil(rows / facts.tile_rows[0])) * facts.tile_rows[0]
    total_rows = np.sum(rows * count, axis=-1)
    hit_experts = np.sum(hit * count, axis=-1)
    repeated = np.asarray(repeated_batches, dtype=np.float64)
    weights = h * i * (ups + 1.0) * weight_bits / 8.0
    kept = np.minimum(hit_experts * repeated, local) * weights
    warm = (repeated > 0.0) / (1.0 + (kept / np.maximum(p.hot_frac * device.l2_bytes, 1.0)) ** HOT_SHARPNESS)
    up = _grouped_gemm_s(rows, hit, count, ups * width, h, weight_bits, act_bits, out_bits, warm, device, p, facts)
    down = _grouped_gemm_s(rows, hit, count, h, width, weight_bits, act_bits, out_bits, warm, device, p, facts)
    routed = tokens_ * np.asarray(topk, dtype=np.float64)
    if exchanged:
        tokens_, routed = np.minimum(tokens_, met), met
    side_rows = routed if facts.all_rows else total_rows
    stream = p.vector_efficiency * device.dram_bytes_per_s
    summed = routed if facts.all_rows else met
    moved = summed * h * out_bits / 8.0 + tokens_ * h * out_bits / 8.0
    if not facts.activation_fused:
        moved = moved + side_rows * i * (ups * out_bits + act_bits) / 8.0
    if act_bits < out_bits:
        quantised = tokens_ * h + (0.0 if facts.activation_fused else side_rows * i)
        moved = moved + quantised * (out_bits + act_bits) / 8.0
    rest = moved / stream + p.sort_s_per_row * routed + p.expert_s * local
    time = p.launch_s + up + down + rest
    limit = moe_limit_s(
        tokens,
        h,
        i,
        topk,
        experts,
        weight_bits=weight_bits,
        gated=gated,
        router=router,
        device=device,
        local_experts=local_experts,
    )
    return np.maximum(time, limit)


def _grouped_gemm_s(
    rows: FloatArray,
    hit: FloatArray,
    count: FloatArray,
    n: FloatArray,
    k: FloatArray,
    weight_bits: float,
    act_bits: float,
    out_bits: float,
    warm: FloatArray,
    device: MoeDevice,
    p: MoeParameters,
    facts: MoeFacts,
) -> FloatArray:
    """One grouped GEMM, [rows_i, k] x [k, n] for every expert hit: the best tile height."""
    math_bits = 16.0 if facts.dequantised else act_bits
    peak = device.peak16_ops_per_s if facts.dequantised else device.peak_ops_per_s
    unit_peak = p.compute_efficiency * peak / device.units
    unit_operand = max(device.peak16_ops_per_s, device.feed16_ops_per_s) / TILE_OPERAND_INTENSITY / device.units
    bn = float(facts.tile_columns)
    column_tiles = np.ceil(n / bn)
    slices = np.ceil(k * math_bits / 8.0 / 128.0)
    total_rows = np.sum(rows * count, axis=-1)
    hit_experts = np.sum(hit * count, axis=-1)
    aligned = np.mod(np.round(k * np.floor(weight_bits) / 8.0), ALIGNMENT_BYTES) < 0.5
    dram = p.memory_efficiency * np.where(aligned, 1.0, p.unaligned_efficiency) * device.dram_bytes_per_s
    l2 = L2_EFFICIENCY * max(device.l2_bytes_per_s, device.dram_bytes_per_s)
    one_matrix = n * k * weight_bits / 8.0
    spilled = 1.0 - 1.0 / (1.0 + (one_matrix / np.maximum(0.5 * device.l2_bytes, 1.0)) ** HOT_SHARPNESS)
    stream = np.minimum(p.unit_stream_ratio * dram / device.units, unit_operand)
    activations = total_rows * (k * act_bits + n * out_bits) / 8.0
    per_hit = rows / np.maximum(hit, 1e-12)
    best = np.full(np.broadcast(total_rows, n).shape, np.inf)
    for bm in facts.tile_rows:
        operand = np.maximum((bm * math_bits + bn * weight_bits) / unit_operand, bn * weight_bits / stream) / 8.0 * k
        multiply = 2.0 * bm * bn * k / unit_peak
        one = (multiply**BLEND + operand**BLEND + (slices * p.k_step_s) ** BLEND) ** (1.0 / BLEND) + p.tile_s
        tile_rows = np.sum(np.ceil(per_hit / bm - 1e-9) * hit * count, axis=-1)
        passes = hit_experts + spilled * np.maximum(tile_rows / p.reread_group - hit_experts, 0.0)
        weights = passes * one_matrix
        memory = (weights * (1.0 - warm) + activations) / dram + weights * warm / l2
        waves = np.maximum(tile_rows * column_tiles / device.units, 1.0)
        units = waves * one
        best = np.minimum(best, (units**BLEND + memory**BLEND) ** (1.0 / BLEND))
    return np.asarray(best)
