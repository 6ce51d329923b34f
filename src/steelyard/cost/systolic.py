"""Systolic arrays: closed-form compute cycles of a matrix product.

With R rows, C columns, M x K times K x N:

* weight stationary: ``ceil(K/R) ceil(N/C) (2R + C + M - 2) - 1`` cycles: each fold loads R rows of weights, then M
  rows of inputs flow through a wavefront of R + C - 2;
* output stationary: ``ceil(M/R) ceil(N/C) (R + C + K - 2) - 1`` cycles.

These equal the compute cycles of a cycle-level simulation (SCALE-Sim, arXiv:1811.02883), so no trace is needed.
"""

from __future__ import annotations

import numpy as np

from steelyard.errors import UnknownName
from steelyard.workload.op import Array, Size

__all__ = ["SYSTOLIC", "systolic_cycles"]

#: Dataflows with a closed form.
SYSTOLIC = ("weight_stationary", "output_stationary")


def systolic_cycles(m: Size, n: Size, k: Size, rows: float, columns: float, dataflow: str, arrays: float = 1) -> Array:
    """Compute cycles of one product; sizes broadcast.

    Args:
        m, n, k: the product is (m x k) times (k x n).
        rows, columns: one array.
        dataflow: ``weight_stationary`` or ``output_stationary``.
        arrays: equal arrays that share the folds.

    Raises:
        UnknownName: another dataflow.
    """
    m_, n_, k_ = (np.asarray(x, dtype=np.float64) for x in (m, n, k))
    if dataflow == "weight_stationary":
        folds = np.ceil(np.ceil(k_ / rows) * np.ceil(n_ / columns) / arrays)
        return np.asarray(folds * (2 * rows + columns + m_ - 2) - 1)
    if dataflow == "output_stationary":
        folds = np.ceil(np.ceil(m_ / rows) * np.ceil(n_ / columns) / arrays)
        return np.asarray(folds * (rows + columns + k_ - 2) - 1)
    raise UnknownName("dataflow", dataflow, SYSTOLIC)
