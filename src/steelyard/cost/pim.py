"""In-memory units: arithmetic attached to an outer memory level, such as the banks of a DRAM stack.

Such a unit reads its bank at the bank's own bandwidth, which no bus limits, but keeps only a row of registers: every
row of the activations streams all weights again. ``T = t0 + max(m n k 2 / peak, m weight_bytes / bandwidth)``. A
matrix-vector product (m = 1) therefore runs at the internal bandwidth, and a large product loses to an engine with
caches by its reuse. Source of the mechanism: Samsung HBM-PIM (ISSCC 2021) and SK hynix GDDR6-AiM (ISSCC 2022).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from steelyard.workload.op import Array, Size

__all__ = ["COMMAND_S", "near_memory_time_s"]

#: Time to switch banks into compute mode and issue the first command, s (guess: mode-change sequence of some 100 ns).
COMMAND_S = 0.5e-6


def near_memory_time_s(
    m: Size,
    n: Size,
    k: Size,
    *,
    weight_bits: float,
    peak_ops_per_s: float,
    bandwidth_bytes_per_s: float,
    groups: Any = 1,
) -> Array:
    """Time of a product on in-memory units, in s.

    Args:
        m, n, k, groups: the product, sizes broadcast.
        weight_bits: stored bits per weight.
        peak_ops_per_s: of all units together.
        bandwidth_bytes_per_s: of all banks together.
    """
    rows, weights = np.asarray(m, dtype=np.float64), np.asarray(n, dtype=np.float64) * np.asarray(k, dtype=np.float64)
    compute = 2.0 * rows * weights * groups / peak_ops_per_s
    stream = rows * weights * groups * weight_bits / 8 / bandwidth_bytes_per_s
    return np.asarray(COMMAND_S + np.maximum(compute, stream))
