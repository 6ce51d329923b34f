"""What the traffic asks of a deployment, reduced to the few facts the screen needs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from steelyard.traffic.trace import Trace

__all__ = ["CLASSES", "Demand", "demand_of"]

Floats = NDArray[np.float64]

#: Classes into which lengths are cut: quantile bins, each represented by its mean.
CLASSES = 8
#: Windows of the index of dispersion, as a share of the trace, and the fewest windows it is taken from.
WINDOWS = 32


@dataclass(frozen=True, eq=False)
class Demand:
    """Rate, lengths and burstiness of a trace."""

    rate_per_s: float
    isl: Floats
    """``[k]`` prompt tokens that must be computed, by class (what prefixes share is taken off)."""
    isl_share: Floats
    """``[k]`` share of the requests."""
    osl: Floats
    osl_share: Floats
    context: float
    """Mean tokens in the cache of a request over its answer."""
    held: float
    """Mean tokens a request ends with: prompt and answer."""
    longest: int
    """Most tokens of a prompt with its answer."""
    dispersion: float
    """Variance of the number of arrivals in a window over its mean: 1 = Poisson, 0 = regular."""

    @property
    def mean_isl(self) -> float:
        """Tokens."""
        return float(self.isl @ self.isl_share)

    @property
    def mean_osl(self) -> float:
        """Tokens."""
        return float(self.osl @ self.osl_share)

    @property
    def decodes(self) -> float:
        """Decode steps of a mean request: the first token comes with the prompt."""
        return max(self.mean_osl - 1.0, 0.0)


def demand_of(trace: Trace, rate_per_s: float, dispersion: float | None = None) -> Demand:
    """The demand of a trace at a request rate.

    Args:
        trace: lengths and arrivals.
        rate_per_s: the rate to plan for.
        dispersion: of the arrivals; None = as the trace has it.
    """
    cached_frac = _cached(trace)
    isl, isl_share = _classes(np.asarray(trace.isl, dtype=np.float64) * (1.0 - cached_frac))
    osl, osl_share = _classes(np.asarray(trace.osl, dtype=np.float64))
    weight = np.asarray(trace.osl, dtype=np.float64)
    middle = np.asarray(trace.isl, dtype=np.float64) + 0.5 * weight
    return Demand(
        rate_per_s=rate_per_s,
        isl=np.maximum(isl, 1.0),
        isl_share=isl_share,
        osl=osl,
        osl_share=osl_share,
        context=float(middle @ weight / weight.sum()),  # a decode step meets long answers more often
        held=float((np.asarray(trace.isl) + np.asarray(trace.osl)).mean()),
        longest=int((np.asarray(trace.isl) + np.asarray(trace.osl)).max()),
        dispersion=_dispersion(trace) if dispersion is None else dispersion,
    )


def _cached(trace: Trace) -> float:
    """Share of the prompt blocks that an earlier prompt had: what a prefix cache that forgets nothing would serve."""
    if trace.prefix_hashes is None or not len(trace.prefix_hashes):
        return 0.0
    share = 1.0 - len(np.unique(trace.prefix_hashes)) / len(trace.prefix_hashes)
    hashed = len(trace.prefix_hashes) * trace.prefix_block_tokens
    return float(share * min(1.0, hashed / max(float(trace.isl.sum()), 1.0)))


def _classes(lengths: Floats) -> tuple[Floats, Floats]:
    """Quantile bins of lengths: ``(means, shares)``; one class when all are equal."""
    if lengths.min() == lengths.max():
        return lengths[:1].copy(), np.ones(1)
    ordered = np.sort(lengths)
    parts = [p for p in np.array_split(ordered, CLASSES) if p.size]
    return np.array([p.mean() for p in parts]), np.array([p.size for p in parts]) / ordered.size


def _dispersion(trace: Trace) -> float:
    if trace.closed or len(trace) < 2 * WINDOWS or trace.duration_s <= 0:
        return 1.0
    counts = np.histogram(trace.arrived_at, WINDOWS)[0]
    return float(min(max(counts.var(ddof=1) / counts.mean(), 0.02), 100.0))
