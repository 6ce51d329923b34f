"""Fair shares by counted service: the session that was served least so far goes first, whatever it asks for next.

Every session has a counter: the prompt tokens of what it queued and, twice, the tokens written for it. A request waits
by the counter it found when it joined the queue (fair queueing; tokens counted as in arXiv:2401.00588).
"""

import numpy as np

#: What an output token counts beside a prompt token.
OUTPUT_WEIGHT = 2.0


def key(view, request, replica, now):
    """The session's counter at the first time the request joins a queue."""
    own = view.memory[request]
    if own[1] == 0.0:
        own[1] = 1.0 + view.shared[int(own[0])]
        view.shared[int(own[0])] += view.requests[request].isl
    return own[1]


def account(view, request, prompt_tokens, output_tokens, now):
    """Count what a step wrote for the request."""
    view.shared[int(view.memory[request, 0])] += OUTPUT_WEIGHT * output_tokens
    return 0


class FairSessions:
    """Queue order by counted service of sessions; requests outside a session share one counter."""

    name = "example-fair"
    rules = {"key": key, "account": account}

    def keys(self, trace):
        """Nobody was served yet."""
        return np.zeros(len(trace))

    def state(self, trace, slo):
        """The session of every request, and a counter for each."""
        sessions = np.zeros(len(trace)) if trace.session is None else np.asarray(trace.session)
        names, index = np.unique(sessions, return_inverse=True)
        own = np.stack([index.ravel(), np.zeros(len(trace))], axis=1)
        return {"memory": own.astype(np.float64), "shared": np.zeros(len(names))}
