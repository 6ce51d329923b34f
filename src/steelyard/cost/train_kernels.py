"""Time of the kernels of a training step: products forward and backward, grouped ones, attention, passes over memory.

A product ``y[m,n] = x[m,k] w[k,n]`` has two more backward, by exchange of its ranks:

    dgrad  dx[m,k] = dy[m,n] w[n,k]          wgrad  dw[n,k] += dy[n,m] x[m,k]

each of the same ``2 m n k`` operations. Attention backward is five contractions over the same pairs of query and key
where forward is two: scores again, then the gradients of values, probabilities, queries and keys. Prices are those of
``cost.gemm`` and ``cost.attention``, at the rate that the board's power holds (``cost.sustained``).
Theory and measured accuracy: ``docs/methods/training_kernels.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Annotated, Any, Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from steelyard.cost.attention import prefill_attention_time_s
from steelyard.cost.attention_kernels import attention_facts, attention_kernel
from steelyard.cost.attention_models import attention_parameters
from steelyard.cost.devices import attention_device, attention_units, gemm_device, vector_device
from steelyard.cost.gemm import gemm_time_s
from steelyard.cost.models import KernelTime
from steelyard.cost.op_models import product_parameters
from steelyard.cost.parameters import UNMEASURED_SPREAD, calibrated
from steelyard.cost.site import Site, site_for
from steelyard.cost.sustained import held, powered_s, sustained_frac, sustained_parameters, trained_in
from steelyard.cost.vector import VectorParameters, vector_time_s
from steelyard.deployment.formats import find_format
from steelyard.documents import build, named, read_document
from steelyard.errors import InputError, UnknownName
from steelyard.folders import catalogue_folders
from steelyard.units import Quantity

__all__ = [
    "GROUP_LAUNCH_S",
    "Pass",
    "TrainingAttention",
    "attention_names",
    "attention_time",
    "cast_time",
    "elementwise_time",
    "grouped_time",
    "optimizer_time",
    "product_time",
    "training_attention",
]

Array = NDArray[np.float64]
Pass = Literal["forward", "dgrad", "wgrad"]

GRADIENT_BITS: Final = 32.0
"""Bits of an element of the main gradient that a weight gradient is added to."""
GROUP_LAUNCH_S: Final = 8.7e-6
"""s that a host takes to launch the product of one expert where a grouped product is a loop over experts (Transformer
Engine's multi-stream cuBLAS; SimuMax's rows of short products). Captured graphs take none of it."""
BACKWARD_ROWS: Final = 128.0
"""Keys of one tile of attention backward, which walks over the queries that see them."""
BACKWARD_LAUNCH_S: Final = 15e-6
"""s: preparation (rows of output times its gradient), main kernel and conversion of the query gradient."""
BACKWARD_TAIL: Final = 0.3
"""Of the longest tile that the last wave of attention backward adds."""
DIM: Final = 128.0
"""Head dimension above which tiles of attention backward shrink: shared memory holds 128 keys of so many elements."""
APART: Final = 0.5
"""How far a loop over experts is from one kernel (0) towards kernels one after another (1). From B200 rows."""
GROUPED_SPREAD: Final = 0.15
"""Log-space spread of grouped products on SimuMax's rows."""
ATTENTION_SPREAD: Final = 0.1
"""Least log-space spread of fused attention in training, of SimuMax's rows."""
UNKNOWN_SHARE: Final = 0.3
"""Share of the peak backward on families of which nothing is known (guess)."""
UNFUSED_SPREAD: Final = 0.15
"""Log-space spread of unfused attention (guess: what the fusion of the passes leaves open)."""


#: A share of the peak, by name.
Shares = Mapping[str, Annotated[float, Quantity("1", "of the dense 16-bit peak", gt=0, le=1)]]


@dataclass(frozen=True, slots=True)
class TrainingAttention:
    """What an attention kernel of a training framework does. Table: ``catalogue/kernels/training.toml``."""

    __pydantic_config__ = {"extra": "forbid"}

    name: str
    forward: Annotated[str, "kernel of attention.toml that runs forward; empty: that of the family's library"] = ""
    forward_share: Annotated[
        Shares, "most of the peak that its products reach forward, by family or copy engine; not named: no other limit"
    ] = field(default_factory=dict)
    backward_share: Annotated[Shares, "of the peak that its products reach backward, by family or copy engine"] = field(
        default_factory=dict
    )
    score_bytes: Annotated[
        float, Quantity("B", "moved per query, key and head forward; 0 = the scores stay on the unit", ge=0)
    ] = 0.0
    score_backward_bytes: Annotated[float, Quantity("B", "the same backward", ge=0)] = 0.0


@cache
def _attention_table() -> Mapping[str, TrainingAttention]:
    found: dict[str, TrainingAttention] = {}
    for folder in catalogue_folders():
        path = folder / "kernels" / "training.toml"
        if path.is_file():
            entries = read_document(path).get("attention", {})
            if not isinstance(entries, Mapping) or not all(isinstance(e, Mapping) for e in entries.values()):
                raise InputError("expected a table of tables", field=f"{named(path)}: attention")
            for name, entry in entries.items():
                where = f"{named(path)}: attention.{name}"
                found.setdefault(name, build(TrainingAttention, {"name": name, **entry}, where))
    return found


def attention_names() -> tuple[str, ...]:
    """Attention kernels of training frameworks that something is known about."""
    return tuple(sorted(_attention_table()))


def training_attention(name: str) -> TrainingAttention:
    """The facts of an attention kernel of training frameworks.

    Raises:
        UnknownName: no such kernel in ``catalogue/kernels/training.toml``.
    """
    table = _attention_table()
    if name not in table:
        raise UnknownName("attention kernel of training", name, table)
    return table[name]


def _share(shares: Mapping[str, float], site: Site) -> float | None:
    """The share of a site's family, else of parts fed as it is; None: nothing is known."""
    return shares.get(site.family, shares.get(site.copy_engine))


def product_time(
    m: ArrayLike,
    n: ArrayLike,
    k: ArrayLike,
    *,
    groups: ArrayLike = 1,
    which: Pass = "forward",
    precision: str = "bf16",
    site: Site,
    gradient_bits: float = GRADIENT_BITS,
) -> KernelTime:
    """Time of one dense product of a training step, or of one of its gradients.

    ``gemm_time_s`` with the ranks of the pass, at most ``sustained_frac`` of the peak; a weight gradient is added to a
    main gradient of 32 bits. In formats below 16 bits the operand that is new to the pass is converted first:
    activations forward, output gradients in dgrad, each written along rows and along columns, so that wgrad converts
    nothing. Weights are converted once a step (:func:`cast_time`), not here.

    Args:
        m, n, k: of the FORWARD product ``y[m,n] = x[m,k] w[k,n]``, whatever the pass: tokens, outputs, inputs.
        groups: products of that size in one kernel.
        which: "forward", "dgrad" or "wgrad".
        precision: bf16, fp16, fp32, fp8, fp8_block, mxfp8, nvfp4; what the machine lacks is computed as wide as needed.
        site: where; only its machine is read.
        gradient_bits: of an element of the main gradient that wgrad reads, adds to and writes.

    Returns:
        Seconds, never below operations over peak and bytes over bandwidth.

    Raises:
        InputError: no such format.
    """
    m_, n_, k_ = _ranks(m, n, k, which)
    at, stored = trained_in(site.machine, precision)
    bits = stored.stored_bits
    found, facts = product_parameters(at, stored.name, bits, bits)
    out_bits = gradient_bits if which == "wgrad" else 16.0
    time = gemm_time_s(
        m_,
        n_,
        k_,
        weight_bits=bits,
        act_bits=bits,
        out_bits=out_bits,
        device=gemm_device(at),
        parameters=held(found.parameters, at),
        facts=replace(facts, quantises_activations=False),
        groups=groups,
        accumulates=which == "wgrad",
    )
    rows, columns, depth, count = (np.asarray(x, dtype=np.float64) for x in (m_, n_, k_, groups))
    out_bits = out_bits * (2.0 if which == "wgrad" else 1.0)
    moved = count * ((rows + columns) * depth * bits + rows * columns * out_bits) / 8.0
    time = np.maximum(time, powered_s(2.0 * rows * columns * depth * count, moved, found.parameters, at))
    spread = float(np.hypot(found.spread, sustained_parameters(site.machine).spread))
    if bits < 16.0 and which != "wgrad":
        new = np.asarray(m) * np.asarray(k if which == "forward" else n) * np.asarray(groups)
        time = time + cast_time(new, precision=precision, site=site).time_s
    return KernelTime(time, spread, found.source)


def _ranks(m: Any, n: Any, k: Any, which: Pass) -> tuple[Any, Any, Any]:
    """Rows, columns and reduction of a pass of the forward product m, n, k."""
    if which not in ("forward", "dgrad", "wgrad"):
        raise UnknownName("pass", which, ("forward", "dgrad", "wgrad"))
    return {"forward": (m, n, k), "dgrad": (m, k, n), "wgrad": (n, k, m)}[which]


def cast_time(elements: ArrayLike, *, precision: str, site: Site, both_ways: bool = True) -> KernelTime:
    """Time to convert 16-bit elements to a narrow format: read once, written along rows and, ``both_ways``, columns."""
    bits = find_format(precision).stored_bits
    moved = np.asarray(elements, dtype=np.float64) * (2.0 + bits / 8.0 * (2.0 if both_ways else 1.0))
    return elementwise_time(moved, site=site)


def grouped_time(
    tokens: ArrayLike,
    n: ArrayLike,
    k: ArrayLike,
    *,
    experts: ArrayLike,
    which: Pass = "forward",
    precision: str = "bf16",
    site: Site,
    launch_s: float = 0.0,
    gradient_bits: float = GRADIENT_BITS,
) -> KernelTime:
    """Time of one grouped product of the experts of a device, or of one of its gradients.

    Every expert's product is a product of its own (Transformer Engine runs them as a loop over streams), which overlap:
    the time lies between that of one kernel with all groups and that of one after the other.

    Args:
        tokens: routed rows on this device in all, shared out evenly.
        n, k: outputs and inputs of an expert's forward product.
        experts: local experts.
        which, precision, site, gradient_bits: as :func:`product_time`.
        launch_s: s that the host takes for each expert's product; :data:`GROUP_LAUNCH_S` without captured graphs.

    Returns:
        Seconds: ``max(experts launch_s, products)``.
    """
    count = np.maximum(np.asarray(experts, dtype=np.float64), 1.0)
    rows = np.asarray(tokens, dtype=np.float64) / count
    about: dict[str, Any] = {"which": which, "precision": precision, "site": site, "gradient_bits": gradient_bits}
    together = product_time(rows, n, k, groups=count, **about)
    alone = product_time(rows, n, k, **about)
    time = (1.0 - APART) * together.time_s + APART * count * alone.time_s
    return KernelTime(np.maximum(time, count * launch_s), max(together.spread, GROUPED_SPREAD), together.source)


def attention_time(
    batch: ArrayLike,
    seq: ArrayLike,
    context: ArrayLike,
    heads: ArrayLike,
    kv_heads: ArrayLike,
    head_dim: ArrayLike,
    value_dim: ArrayLike,
    *,
    causal: bool = True,
    window: ArrayLike = 0,
    backward: bool = False,
    kernel: str = "cudnn",
    precision: str = "bf16",
    site: Site,
) -> KernelTime:
    """Time of attention of one layer on one device, forward or backward.

    Backward, with P pairs of query and key, ``ops = 2 (3 head_dim + 2 value_dim)`` of each and f a share of the peak:
        tile = seq 128 ops / (f unit peak)      128 keys walk over all queries
        T    = launch + max(heads P ops / (f peak) + tail tile min(tiles/units, 1), tile), joined with the bytes moved
    and forward or backward never faster than the rate that power holds.

    Args:
        batch: sequences; all sizes broadcast.
        seq: queries of a sequence on this device; context: keys they look at, the queries' own among them.
        heads, kv_heads: on this device.
        head_dim, value_dim: elements of a key and of a value.
        causal: a query sees the keys before it; False: all.
        window: keys a query sees; 0: all.
        backward: gradients of queries, keys and values instead of the output.
        kernel: a row of ``catalogue/kernels/training.toml``.
        precision: format of the step; below 16 bits attention stays at 16; kernels apart take 32 bits as they are.
        site: where; only its machine is read.

    Returns:
        Seconds.

    Raises:
        UnknownName: no such kernel.
    """
    facts = training_attention(kernel)
    at = site_for(site.machine, "fp16" if precision == "fp16" else "bf16")
    B, S, C, H, K, D, V, W = (
        np.asarray(x, dtype=np.float64) for x in (batch, seq, context, heads, kv_heads, head_dim, value_dim, window)
    )
    if facts.score_bytes:
        wide = site_for(site.machine, "fp32") if precision == "fp32" else at
        return _unfused(facts, B, S, C, H, K, D, V, backward, wide)
    pairs = _pairs(S, C, W, causal)
    most = sustained_frac(site.machine, at.compute) * at.peak_ops_per_s
    found = attention_parameters(at, "prefill")
    if backward:
        known = _share(facts.backward_share, at)
        spread = ATTENTION_SPREAD if known else UNMEASURED_SPREAD
        share = min(known or UNKNOWN_SHARE, most / at.peak_ops_per_s)
        time = _backward(B, S, C, H, K, D, V, pairs, share, at)
        limit = B * H * pairs * _backward_ops(D, V) / most
    else:
        own = facts.forward or attention_kernel(at.family, 16.0, float(np.max(D)), expanded=bool(np.any(D != V)))
        time = prefill_attention_time_s(
            B,
            S,
            C - S,
            H,
            K,
            D,
            kv_bits=16.0,
            causal=causal,
            window=W,
            device=attention_device(at),
            parameters=found.parameters,
            facts=attention_facts(own),
            value_dim=V,
            cache_write=False,
        )
        spread = ATTENTION_SPREAD
        most = min(most, (_share(facts.forward_share, at) or 1.0) * at.peak_ops_per_s)
        limit = B * H * pairs * 2.0 * (D + V) / most
    return KernelTime(np.asarray(np.maximum(time, limit)), max(found.spread, spread), found.source)


def _backward_ops(D: Array, V: Array) -> Array:
    return np.asarray(2.0 * (3.0 * D + 2.0 * V))


def _pairs(S: Array, C: Array, W: Array, causal: bool) -> Array:
    """Pairs of query and key of one head of one sequence."""
    if not causal:
        return np.asarray(S * np.where(W > 0, np.minimum(W, C), C))
    before = C - S
    full = S * before + S * (S + 1.0) / 2.0
    reach = np.minimum(np.where(W > 0, W, C), C)
    growing = np.clip(reach - before, 0.0, S)
    seen = growing * before + growing * (growing + 1.0) / 2.0 + (S - growing) * reach
    return np.asarray(np.where(W > 0, np.minimum(seen, full), full))


def _backward(
    B: Array, S: Array, C: Array, H: Array, K: Array, D: Array, V: Array, pairs: Array, share: float, at: Site
) -> Array:
    rate = at.peak_ops_per_s * share * np.minimum(1.0, DIM / ((D + V) / 2.0))
    ops, units = _backward_ops(D, V), attention_units(at)
    tiles = B * H * np.ceil(C / BACKWARD_ROWS)
    tile = S * np.minimum(BACKWARD_ROWS, C) * ops / (rate / units)
    work = B * H * (pairs + S * BACKWARD_ROWS / 2.0) * ops / rate
    unit = np.maximum(work + BACKWARD_TAIL * tile * np.minimum(tiles / units, 1.0), tile)
    moved = B * (S * H * (2.0 * (2.0 * D + 3.0 * V) + 8.0 * D) + C * K * 2.0 * (2.0 * D + 2.0 * V))
    memory = moved / (attention_parameters(at, "prefill").parameters.dram_frac * at.dram_bytes_per_s)
    return np.asarray(BACKWARD_LAUNCH_S + (unit**4.0 + memory**4.0) ** 0.25)


def _unfused(
    facts: TrainingAttention,
    B: Array,
    S: Array,
    C: Array,
    H: Array,
    K: Array,
    D: Array,
    V: Array,
    backward: bool,
    at: Site,
) -> KernelTime:
    """Products and passes over the scores as kernels of their own; of all pairs, hidden ones too."""
    del K
    precision = at.compute
    moved = B * H * S * C * (facts.score_backward_bytes if backward else facts.score_bytes)
    if precision == "fp32":
        moved = 2.0 * moved
    passes = elementwise_time(moved, site=at)
    shapes = ((S, C, D), (S, V, C))
    kinds: tuple[Pass, ...] = ("dgrad", "wgrad") if backward else ("forward",)
    products = [_batched(rows, n, k, B * H, which, precision, at) for rows, n, k in shapes for which in kinds]
    time = passes.time_s + sum(p.time_s for p in products)
    return KernelTime(np.asarray(time), max(UNFUSED_SPREAD, products[0].spread), products[0].source)


def _batched(m: Array, n: Array, k: Array, groups: Array, which: Pass, precision: str, at: Site) -> KernelTime:
    """A batched product of 16 bits, whose gradients are 16 bits too and added to nothing."""
    rows = _ranks(m, n, k, which)
    return product_time(*rows, groups=groups, precision=precision, site=at)


def elementwise_time(bytes: ArrayLike, *, site: Site) -> KernelTime:  # noqa: A002
    """Time of passes over memory that compute next to nothing: norms, activations, residuals, casts.

    Args:
        bytes: read and written in all, cold.
        site: where; only its machine is read.

    Returns:
        Seconds: launch and bytes over the share of the memory's bandwidth that streams of the family reach.
    """
    at = site_for(site.machine, "fp32", "fp32", "vector")
    found = calibrated("vector", VectorParameters, at.machine.name, (at.family,))
    found = found.at_memory(at.machine.root.kind, "efficiency")
    moved = np.asarray(bytes, dtype=np.float64)
    time = vector_time_s(moved / 2.0, moved / 2.0, 0.0, device=vector_device(at), parameters=found.parameters)
    return KernelTime(np.where(moved > 0.0, time, 0.0), found.spread, found.source)


def optimizer_time(bytes: ArrayLike, site: Site) -> KernelTime:  # noqa: A002
    """Time of an optimizer's pass over its states, gradients and weights, in a few kernels over many tensors.

    Args:
        bytes: read and written in all.
        site: where.
    """
    return elementwise_time(bytes, site=site)
