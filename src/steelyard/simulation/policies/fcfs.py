"""First come, first served."""

from __future__ import annotations

import numpy as np

from steelyard.traffic.trace import Floats, Trace

__all__ = ["FirstComeFirstServed"]


class FirstComeFirstServed:
    """By arrival: what every engine does unless told otherwise."""

    name = "fcfs"
    from_arrival = True

    def keys(self, trace: Trace) -> Floats:
        """Zero seconds after arrival."""
        return np.zeros(len(trace))
