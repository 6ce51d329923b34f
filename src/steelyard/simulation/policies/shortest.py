"""Shortest job first."""

from __future__ import annotations

import numpy as np

from steelyard.traffic.trace import Floats, Trace

__all__ = ["ShortestJob"]


class ShortestJob:
    """Fewest tokens first, prompt and answer: an oracle, since it knows how long the answer will be."""

    name = "shortest"

    def keys(self, trace: Trace) -> Floats:
        """Prompt and answer, tokens."""
        return np.asarray(trace.isl + trace.osl, dtype=np.float64)
