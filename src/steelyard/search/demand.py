"""The traffic as the screen sees it: rate, classes of lengths, burstiness."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from steelyard.traffic.trace import Trace

__all__ = ["CLASSES", "Demand", "demand_of"]

Floats = NDArray[np.float64]

#: Classes into which lengths are cut: quantile bins, each represented by its mean.
CLASSES = 8
#: The index of dispersion of a closed loop: a user sends when an answer ends, so that arrivals are nearly as regular.
CLOSED = 0.1
#: Windows of the index of dispersion, as a share of the trace, and the fewest windows it is taken from.
WINDOWS = 32


@dataclass(frozen=True, eq=False)
class Demand:
    """Rate, lengths and burstiness of a trace."""

    rate_per_s: float
    prompt_tokens: Floats
    """``[k]`` prompt tokens that must be computed, by class (without what a prefix cache would serve)."""
    prompt_share: Floats
    """``[k]`` share of the requests."""
    output_tokens: Floats
    """``[l]`` output tokens, by class."""
    output_share: Floats
    """``[l]`` share of the requests."""
    context_tokens: float
    """Mean tokens in the cache of a request while it decodes."""
    held_tokens: float
    """Mean tokens a request ends with: prompt and output."""
    longest_tokens: int
    """Most tokens of a prompt with its output."""
    dispersion: float
    """Variance of the number of arrivals in a window over its mean: 1 = Poisson, 0 = regular."""
    per_user: float = 0.0
    """Requests of each user of a closed loop; 0 = an open loop."""

    @property
    def mean_prompt_tokens(self) -> float:
        """Mean prompt tokens that must be computed."""
        return float(self.prompt_tokens @ self.prompt_share)

    @property
    def mean_output_tokens(self) -> float:
        """Mean output tokens."""
        return float(self.output_tokens @ self.output_share)

    @property
    def decodes(self) -> float:
        """Decode steps of a mean request: the first token comes with the prompt."""
        return max(self.mean_output_tokens - 1.0, 0.0)


def demand_of(trace: Trace, rate_per_s: float, dispersion: float | None = None) -> Demand:
    """The demand of a trace at a request rate.

    Args:
        trace: lengths and arrivals.
        rate_per_s: the rate to plan for.
        dispersion: of the arrivals; None = as the trace has it.
    """
    prompt = np.asarray(trace.isl, dtype=np.float64)
    output = np.asarray(trace.osl, dtype=np.float64)
    prompt_tokens, prompt_share = _classes(prompt * (1.0 - _cached(trace)))
    output_tokens, output_share = _classes(output)
    # a decode step is more likely to see a request with a long output
    context = float((prompt + 0.5 * output) @ output / output.sum())
    return Demand(
        rate_per_s=rate_per_s,
        prompt_tokens=np.maximum(prompt_tokens, 1.0),
        prompt_share=prompt_share,
        output_tokens=output_tokens,
        output_share=output_share,
        context_tokens=context,
        held_tokens=float((trace.isl + trace.osl).mean()),
        longest_tokens=int((trace.isl + trace.osl).max()),
        dispersion=CLOSED if trace.concurrency else _dispersion(trace) if dispersion is None else dispersion,
        per_user=len(trace) / trace.concurrency if trace.concurrency else 0.0,
    )


def _cached(trace: Trace) -> float:
    """Share of the prompt blocks that an earlier prompt had: what an unlimited prefix cache would serve."""
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
