"""The central 80 % interval around a prediction. Which spread goes in: :mod:`steelyard.cost.interval`."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import numpy as np

__all__ = ["Z80", "interval80", "quantile"]

#: z of the ends of a central 80 % interval of a normal distribution.
Z80 = 1.2816
_NORMAL = NormalDist()


def quantile(chance: float) -> float:
    """``z`` of a normal distribution up to which a chance reaches; 0 for chances up to a half."""
    return _NORMAL.inv_cdf(chance) if chance > 0.5 else 0.0


def interval80(value: Any, spread: Any, *, at_least: Any = 0.0) -> tuple[Any, Any]:
    """The central 80 % interval ``value exp(-+ 1.2816 spread)``; holds its value and begins at a limit at the lowest.

    Args:
        value: the prediction, a number or an array.
        spread: standard deviation of log(true / predicted).
        at_least: physical limit of the value, in its unit.

    Returns:
        ``(low, high)``.
    """
    factor = np.exp(Z80 * np.asarray(spread, dtype=np.float64))
    return np.minimum(np.maximum(value / factor, at_least), value), value * factor
