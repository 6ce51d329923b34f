"""Requests that share a prompt's beginning one after another (BatchLLM, arXiv:2412.03594)."""

from __future__ import annotations

import numpy as np

from steelyard.errors import InputError
from steelyard.traffic.trace import Floats, Trace

__all__ = ["PrefixGroup"]

#: A group that is open so long takes no further members, s: later ones are a group of their own, so nobody starves.
OPEN_S = 60.0


class PrefixGroup:
    """By the arrival of the first request with the same first block of the prompt, then by arrival."""

    name = "prefix-group"

    def keys(self, trace: Trace) -> Floats:
        """Arrival of the group's first request. Raises :class:`InputError` for a trace without prefix hashes."""
        if trace.prefix_hashes is None or trace.prefix_offsets is None:
            raise InputError("the trace has no prefix hashes to group by", field="policy")
        start, arrived = trace.prefix_offsets[:-1], np.asarray(trace.arrived_at, dtype=np.float64)
        some = np.diff(trace.prefix_offsets) > 0
        keys = arrived.copy()
        if not some.any():
            return keys
        first = trace.prefix_hashes[start[some]]
        turn = np.floor(arrived[some] / OPEN_S).astype(np.int64)
        _, group = np.unique(np.stack([first, turn], axis=1), axis=0, return_inverse=True)
        group = group.reshape(-1)
        begin = np.full(int(group.max()) + 1, np.inf)
        np.minimum.at(begin, group, arrived[some])
        keys[some] = begin[group]
        return keys
