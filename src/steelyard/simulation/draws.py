"""What a run of so many requests leaves open: other arrivals and lengths might have been drawn.

A mean of ``n`` independent requests is known to ``cv / sqrt(n)`` (``cv``: standard deviation over mean), a percentile
to what the requests ``sqrt(n p (1 - p))`` ranks beside it have. The replay of a recorded trace draws nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard.interval import Z80

if TYPE_CHECKING:
    from steelyard.simulation.result import Simulation
    from steelyard.traffic.trace import Trace

__all__ = ["draw_of", "draw_of_rate", "is_drawn"]

#: Options that have requests drawn.
_DRAWN = ("rate", "concurrency", "turns", "workflow")


def is_drawn(trace: Trace) -> bool:
    """Whether another seed would have sent other requests."""
    return any(name in trace.origin for name in _DRAWN)


def draw_of(simulation: Simulation, metric: str, stat: str) -> tuple[float, float]:
    """How far below and above a figure of the records another draw may lie, in log space, four times out of five.

    Args:
        simulation: of what.
        metric: ``ttft_s``, ``tpot_s``, ``e2e_s`` or ``queue_s``.
        stat: ``mean`` or a percentile: ``p50``.
    """
    if not is_drawn(simulation.trace):
        return 0.0, 0.0
    records = simulation.records
    values = getattr(records, "queued_s" if metric == "queue_s" else metric)[records.completed]
    return _draw(values[np.isfinite(values)], stat)


def _draw(values: Any, stat: str) -> tuple[float, float]:
    if values.size < 2 or values.mean() <= 0:
        return 0.0, 0.0
    if stat == "mean":
        half = float(Z80 * values.std() / values.mean() / np.sqrt(values.size))
        return half, half
    p = float(stat[1:]) / 100
    beside = Z80 * np.sqrt(p * (1 - p) / values.size)
    low, middle, high = np.quantile(values, np.clip([p - beside, p, p + beside], 0.0, 1.0))
    return (float(np.log(middle / low)), float(np.log(high / middle))) if low > 0 else (0.0, 0.0)


def draw_of_rate(simulation: Simulation, name: str) -> float:
    """The same of a rate, alike on both sides: of the gaps between arrivals, and of what a request holds.

    Clients that wait for their answers send as many tokens per second whatever their requests hold, and fewer requests
    where they hold more.

    Args:
        simulation: of what.
        name: ``requests_per_s``, ``output_tokens_per_s``, ``input_tokens_per_s``.
    """
    trace = simulation.trace
    if not is_drawn(trace) or len(trace) < 2:
        return 0.0
    at = np.unique(trace.arrived_at[np.isfinite(trace.arrived_at)])  # calls of one workflow begin together
    opened = not trace.concurrency and at.size > 1
    held = trace.isl if name.startswith("input") else trace.osl
    variance = _cv(np.diff(at)) ** 2 / at.size if opened else 0.0
    if opened == name.endswith("tokens_per_s"):
        variance += _cv(held) ** 2 / len(trace)
    return float(Z80 * np.sqrt(variance))


def _cv(values: Any) -> float:
    return float(np.std(values) / np.mean(values))
