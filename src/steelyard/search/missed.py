"""Limits that nothing keeps: which of them nothing keeps at all, and what the nearest point has in their place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from steelyard.errors import DoesNotFit
from steelyard.units import format_quantity

__all__ = ["Limited", "missed", "nearer", "nearest_of"]

#: A point that is so little above its limit keeps it.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Limited:
    """A figure: what it may be at most, the least that any point has, what the nearest point has, and the unit."""

    most: float
    least: float
    nearest: float
    unit: str

    def said(self, value: float) -> str:
        """A value as people write it."""
        return f"{value:,.0f}" if self.unit == "1" else format_quantity(value, self.unit)


def nearest_of(figures: Mapping[str, tuple[NDArray[np.float64], float, str]]) -> dict[str, Limited]:
    """Limits of points whose figures are known.

    Args:
        figures: of all points, the limit and the unit, by words for what is limited: ``latency on rk3588``. The nearest
            point is the one that breaks the limit it breaks most by the smallest factor.
    """
    if not figures:
        return {}
    over = [np.nan_to_num(values / most, nan=np.inf, posinf=np.inf) for values, most, _ in figures.values()]
    i = int(np.max(over, axis=0).argmin())
    return {
        name: Limited(most, float(np.nanmin(values)), float(values[i]), unit)
        for name, (values, most, unit) in figures.items()
    }


def nearer(one: Mapping[str, Limited], other: Mapping[str, Limited]) -> dict[str, Limited]:
    """The limits of two lots of points together; either may be empty."""
    if not one or not other:
        return dict(one or other)
    near, far = sorted((one, other), key=lambda lot: max(x.nearest / x.most for x in lot.values()))
    return {n: replace(x, least=min(x.least, far[n].least)) for n, x in near.items()}


def missed(what: str, limits: Mapping[str, Limited]) -> DoesNotFit:
    """The error that no point keeps its limits: those that none does, each with the least, and the nearest point.

    Args:
        what: was looked for: ``chip of 60``.
        limits: by words for what is limited.
    """
    alone = [
        f"{name} is at least {one.said(one.least)} (limit {one.said(one.most)})"
        for name, one in limits.items()
        if one.least > one.most * (1 + _ROUNDING)
    ]
    change = [f"{n} {one.said(one.nearest)}" for n, one in limits.items() if one.nearest > one.most * (1 + _ROUNDING)]
    why = ", ".join(alone) or "each is kept by some, all by none"
    return DoesNotFit(f"no {what} keeps the limits: {why}", change=", ".join(change))
