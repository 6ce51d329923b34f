"""By the priorities of the trace."""

from __future__ import annotations

import numpy as np

from steelyard.errors import InputError
from steelyard.traffic.trace import Floats, Trace

__all__ = ["Priority"]


class Priority:
    """Smaller priorities first, as vLLM's ``--scheduling-policy priority``."""

    name = "priority"

    def keys(self, trace: Trace) -> Floats:
        """The trace's column. Raises :class:`InputError` without one."""
        if trace.priority is None:
            raise InputError(
                "the requests have no priorities: a column of the trace, or --priorities 0.2,0.8", field="policy"
            )
        return np.asarray(trace.priority, dtype=np.float64)
