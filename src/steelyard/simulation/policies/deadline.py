"""Earliest deadline first."""

from __future__ import annotations

import numpy as np

from steelyard.errors import InputError
from steelyard.traffic.trace import Floats, Trace

__all__ = ["EarliestDeadline"]


class EarliestDeadline:
    """By arrival plus the deadline of the trace (Liu and Layland 1973); those without one come last."""

    name = "deadline"
    from_arrival = True

    def keys(self, trace: Trace) -> Floats:
        """Seconds after arrival. Raises :class:`InputError` for a trace without deadlines."""
        if trace.deadline_s is None:
            raise InputError("the trace has no deadlines", field="policy")
        return np.asarray(trace.deadline_s, dtype=np.float64)
