"""Conversations take turns: the first request of every session goes before the second of any."""

import numpy as np


class FairSessions:
    """By the number of earlier requests of the same session; then by arrival."""

    name = "example-fair"

    def keys(self, trace):
        """Earlier requests of the session."""
        sessions = np.zeros(len(trace)) if trace.session is None else np.asarray(trace.session)
        seen = {}
        keys = np.zeros(len(trace))
        for i, session in enumerate(sessions.tolist()):
            keys[i] = seen.get(session, 0)
            seen[session] = keys[i] + 1
        return keys
