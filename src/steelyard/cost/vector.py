"""Vector kernels: norms, softmax, elementwise chains, embeddings, copies. Bandwidth first, then everything else.

    time     = launch + max(arithmetic, (memory^q + flight^q + rows^q)^(1/q))
    memory   = miss * bytes / (efficiency * dram) + hit * bytes / (l2_efficiency * l2),  q = 4
    flight   = bytes touched / (units * threads * load width / latency)
    rows     = waves * row_s           a row is load, reduce, barrier, store: a chain that cannot be shortened
    hit      = 1 / (1 + (working set / (hot_frac * L2))^4)

A kernel that reads its rows more than once takes the repeats from L2 while the rows in work fit there, else
from DRAM again; that is what makes a wide LayerNorm slower than its compulsory bytes. See docs/methods/vector.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Sizes = float | int | npt.NDArray[np.generic]

BLEND: Final = 4.0
"""Exponent of the soft maximum of memory time and row time (guess; 3 to 8 score the same)."""
HIT_SHARPNESS: Final = 4.0
"""Steepness of the L2 hit curve in log size (guess)."""
SHORT_ROWS_PER_UNIT: Final = 64.0
"""Rows a unit works on at a time where one warp holds a row: resident threads over 32."""
WORD_ALIGNMENT_BYTES: Final = 16.0
"""A row whose length is no multiple of this cannot use 16-byte loads."""


@dataclass(frozen=True, slots=True)
class VectorKernel:
    """Software facts of a kind of vector kernel.

    passes: how often it reads its rows; on_chip_row_bytes: rows up to this length stay in registers and are read once;
    rows_per_unit: row blocks one unit works on at a time; load_bytes: width of one load of a thread.
    """

    passes: float = 1.0
    on_chip_row_bytes: float = 0.0
    rows_per_unit: float = 16.0
    load_bytes: float = 16.0


KERNELS: Final[dict[str, VectorKernel]] = {
    "elementwise": VectorKernel(),
    "gather": VectorKernel(),
    "norm": VectorKernel(2.0, 0.0, 16.0),
    "softmax": VectorKernel(3.0, 4096.0, 2.0),
    "elementwise_scalar": VectorKernel(load_bytes=2.0),
    "norm_scalar": VectorKernel(2.0, 0.0, 2.0, 2.0),
}
"""PyTorch 2: LayerNorm in blocks of 128 threads reads twice; softmax keeps rows up to 1024 fp32 in a warp's registers
and reads longer ones three times in blocks of 1024 threads. The scalar kinds are vLLM's of 2023 (2-byte loads)."""


@dataclass(frozen=True, slots=True)
class VectorDevice:
    """The spec-sheet figures a vector kernel meets. units: SMs or CUs; rates per second for the whole device."""

    dram_bytes_per_s: float
    l2_bytes: float
    l2_bytes_per_s: float
    vector_ops_per_s: float
    units: int


@dataclass(frozen=True, slots=True)
class VectorParameters:
    """The fitted figures of one machine's vector kernels."""

    launch_s: float = 2.0e-6
    """Fixed part of one kernel in a captured graph: launch, ramp up, drain."""
    efficiency: float = 0.86
    """Fraction of the DRAM peak a streaming kernel reaches."""
    l2_efficiency: float = 0.8
    hot_frac: float = 0.5
    """Share of L2 that still holds the operands when the kernel starts."""
    row_s: float = 1.5e-6
    """Chain of one row-reducing block: load, reduce, barrier, second read, store."""
    unit_stream_bytes_per_s: float = 80.0e9
    """What one unit streams with 16-byte loads: resident threads * 16 bytes / memory latency."""
    unaligned_efficiency: float = 0.95
    """Efficiency left when rows are not 16-byte aligned."""
    arithmetic_efficiency: float = 0.5


def vector_limit_s(read_bytes: Sizes, write_bytes: Sizes, flops: Sizes, *, device: VectorDevice) -> FloatArray:
    """Least time: max(bytes / L2 bandwidth, (bytes - L2) / DRAM bandwidth, flops / vector peak), s.

    An operand that is already in L2 never reaches DRAM, so only what exceeds L2 is compulsory there.
    """
    moved = np.asarray(read_bytes, dtype=np.float64) + np.asarray(write_bytes, dtype=np.float64)
    spilled = np.maximum(moved - device.l2_bytes, 0.0)
    arithmetic = np.asarray(flops, dtype=np.float64) / device.vector_ops_per_s
    fastest = max(device.l2_bytes_per_s, device.dram_bytes_per_s)
    return np.asarray(np.maximum(np.maximum(moved / fastest, spilled / device.dram_bytes_per_s), arithmetic))


def vector_time_s(
    read_bytes: Sizes,
    write_bytes: Sizes,
    flops: Sizes,
    *,
    device: VectorDevice,
    parameters: VectorParameters,
    rows: Sizes | None = None,
    kind: str = "elementwise",
    reused_bytes: Sizes = 0.0,
    cold: bool = True,
) -> FloatArray:
    """Time of one bandwidth-bound kernel, s; all sizes broadcast.

    Args: read_bytes, write_bytes, B, compulsory; flops; rows, independent rows of a row-reducing kernel (None: an
    elementwise kernel); kind, one of KERNELS; reused_bytes, bytes that are read many
    times and stay in L2 (a norm's weight vector); cold, False if the producer left the operands in L2.
    Returns: s, never below `vector_limit_s`. Raises ValueError for an unknown kind. Valid 1 KiB to 64 GiB.
    """
    if kind not in KERNELS:
        raise ValueError(f"kind {kind!r} is not one of {', '.join(KERNELS)}")
    p, kernel = parameters, KERNELS[kind]
    read = np.asarray(read_bytes, dtype=np.float64)
    write = np.asarray(write_bytes, dtype=np.float64)
    moved = read + write
    dram = p.efficiency * device.dram_bytes_per_s
    l2 = p.l2_efficiency * max(device.l2_bytes_per_s, device.dram_bytes_per_s)
    l2 = max(l2, dram)
    hot = np.zeros_like(moved) if cold else _hit(moved, p.hot_frac * device.l2_bytes)
    touched = moved
    streamed = moved * (hot / l2 + (1.0 - hot) / dram) + np.asarray(reused_bytes, dtype=np.float64) / l2
    chain = np.zeros_like(moved)
    if rows is not None:
        count = np.maximum(np.asarray(rows, dtype=np.float64), 1.0)
        row_bytes = read / count
        short = row_bytes <= kernel.on_chip_row_bytes
        slots = np.where(short, SHORT_ROWS_PER_UNIT, kernel.rows_per_unit) * device.units
        in_work = np.minimum(count, slots) * row_bytes
        again = np.where(short, 0.0, kernel.passes - 1.0) * read
        near = _hit(in_work, p.hot_frac * device.l2_bytes)
        streamed = streamed + again * (near / l2 + (1.0 - near) / dram)
        touched = touched + again
        misaligned = np.mod(np.round(row_bytes), WORD_ALIGNMENT_BYTES) > 0.5
        streamed = np.where(misaligned, streamed / p.unaligned_efficiency, streamed)
        chain = np.ceil(count / slots) * p.row_s
    in_flight = touched / (device.units * p.unit_stream_bytes_per_s * kernel.load_bytes / WORD_ALIGNMENT_BYTES)
    memory = (streamed**BLEND + in_flight**BLEND + chain**BLEND) ** (1.0 / BLEND)
    arithmetic = np.asarray(flops, dtype=np.float64) / (p.arithmetic_efficiency * device.vector_ops_per_s)
    time = p.launch_s + np.maximum(memory, arithmetic)
    return np.maximum(time, vector_limit_s(read, write, flops, device=device))


def _hit(working_set: FloatArray, capacity_bytes: float) -> FloatArray:
    """Fraction served from a cache of this capacity, 1 / (1 + (set/capacity)^4)."""
    return np.asarray(1.0 / (1.0 + (working_set / max(capacity_bytes, 1.0)) ** HIT_SHARPNESS))
