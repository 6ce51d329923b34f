"""First come, first served."""

from __future__ import annotations

import numpy as np

from steelyard.traffic.trace import Floats, Trace

__all__ = ["FirstComeFirstServed"]


#: Seconds that further answers to a prompt stand ahead of prompts that wait: longer than any run.
AHEAD_S = 1e9


class FirstComeFirstServed:
    """By arrival: what every engine does unless told otherwise. Answers to one prompt are one request to an engine."""

    name = "fcfs"
    from_arrival = True

    def keys(self, trace: Trace) -> Floats:
        """Zero seconds after arrival; further answers to a prompt before all others, while it is in the cache."""
        keys = np.zeros(len(trace))
        if trace.branches > 1:
            keys[np.arange(len(trace)) % trace.branches > 0] = -AHEAD_S
        return keys
