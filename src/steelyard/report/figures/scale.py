"""Scales and round numbers of axes, for static pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steelyard.units import format_quantity

__all__ = ["Scale", "nice_ticks", "tick_label"]

Floats = NDArray[np.float64]

#: A scale that may be logarithmic is so when its ends are this many times apart.
LOG_FROM = 20.0


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from ``low`` to ``high``: steps of 1, 2 or 5 times a power of ten."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1.0, 2.0, 5.0, 10.0) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def tick_label(value: float, unit: str = "") -> str:
    """A round number for an axis: ``20k``, ``0.5``; with ``s`` ``20 ms``, with ``%`` ``50 %``."""
    if value == 0:
        return f"0 {unit}".rstrip()
    if unit == "s" and abs(value) < 1:
        factor, prefix = (1e3, "m") if abs(value) >= 0.9995e-3 else (1e6, "µ")
        return f"{float(f'{value * factor:.3g}'):g} {prefix}s"
    if unit in ("J", "W", "FLOP/s", "FLOP", "B/s", "OP/s"):
        return format_quantity(float(f"{value:.4g}"), unit, 4 if abs(value) < 1 else 3).replace(".00 ", " ")
    if abs(value) >= 10_000:
        factor, prefix = (1e-6, "M") if abs(value) >= 1e6 else (1e-3, "k")
        return f"{float(f'{value * factor:.3g}'):g}{prefix} {unit}".rstrip()
    return f"{float(f'{value:.4g}'):,g} {unit}".rstrip()


@dataclass(frozen=True, slots=True)
class Scale:
    """From values to pixels, linear or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    @classmethod
    def over(
        cls,
        values: Sequence[float] | Floats,
        start: float,
        end: float,
        *,
        zero: bool = False,
        log: bool | None = None,
        room: float = 0.05,
    ) -> Scale:
        """A scale over all finite values with a little room.

        Args:
            values: what must be inside.
            start, end: pixels of the two ends.
            zero: begin at 0 when it is linear and nothing is negative.
            log: logarithmic; None = when the values are far apart.
            room: share of the span left free.
        """
        known = np.asarray(values, dtype=np.float64)
        known = known[np.isfinite(known) & (known > 0)] if log else known[np.isfinite(known)]
        low, high = (float(known.min()), float(known.max())) if known.size else (1.0 if log else 0.0, 1.0)
        if log or (log is None and low > 0 and high / low >= LOG_FROM):
            free = max((high / low) ** 0.04, math.sqrt(math.sqrt(10.0) * low / high))  # at least half a decade
            return cls(low / free, high * free, start, end, True)
        if zero and low >= 0:
            return cls(0.0, high * (1 + room) if high > 0 else 1.0, start, end)
        free = (high - low) * room or abs(high) * 0.1 or 1.0
        return cls(low - free, high + free, start, end)

    def at(self, value: Any) -> Any:
        """Pixels of values, hardly outside the ends; NaN stays."""
        with np.errstate(divide="ignore", invalid="ignore"):
            if self.log:
                share = np.log(np.asarray(value) / self.low) / math.log(self.high / self.low)
            else:
                share = (np.asarray(value) - self.low) / (self.high - self.low)
        return self.start + np.clip(share, -0.02, 1.02) * (self.end - self.start)

    def ticks(self, count: int) -> list[float]:
        """Round values inside."""
        if not self.log:
            return nice_ticks(self.low, self.high, count)
        first, last = math.log10(self.low), math.log10(self.high)
        inner = (1.0, 2.0, 5.0) if last - first <= 3 else (1.0,)
        every = [m * 10.0**k for k in range(math.floor(first), math.ceil(last) + 1) for m in inner]
        return [v for v in every if self.low <= v <= self.high]
