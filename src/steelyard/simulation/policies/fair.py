"""Fair shares among clients: a counter of served tokens each (VTC, arXiv:2401.00588)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from steelyard.traffic.trace import Floats, Trace

__all__ = ["FairShare"]

#: Weights of prompt and output tokens in a counter (the paper's).
PROMPT, OUTPUT = 1.0, 2.0
#: Columns of a request's memory; rows of the run's numbers.
CLIENT, JOINED, WRITTEN = 0, 1, 2


def key(view: Any, request: int, replica: int, now: float) -> float:
    """The counter of its client. A client that comes back is lifted to the least served of those that are there."""
    clients = view.shared.shape[0] // 2
    client = int(view.memory[request, CLIENT])
    if view.memory[request, JOINED] == 0.0:
        view.memory[request, JOINED] = 1.0
        if view.shared[clients + client] == 0.0:
            least = np.inf
            for other in range(clients):
                if view.shared[clients + other] > 0.0:
                    least = min(least, view.shared[other])
            if least < np.inf:
                view.shared[client] = max(view.shared[client], least)
        view.shared[clients + client] += 1.0
    return float(view.shared[client])


def admit(view: Any, request: int, replica: int, worker: int, now: float) -> int:
    """Whose client was served since it joined the queue takes its place anew: counters only grow."""
    return 2 if view.shared[int(view.memory[request, CLIENT])] > view.requests[request].key else 1


def account(view: Any, request: int, prompt_tokens: int, output_tokens: int, now: float) -> int:
    """Charge a client for the tokens of its request."""
    clients = view.shared.shape[0] // 2
    client = int(view.memory[request, CLIENT])
    view.shared[client] += PROMPT * prompt_tokens + OUTPUT * output_tokens
    view.memory[request, WRITTEN] += output_tokens
    if view.memory[request, WRITTEN] >= view.requests[request].osl:
        view.shared[clients + client] -= 1.0
    return 0


class FairShare:
    """The client served least so far comes first. Clients are the sessions of a trace; those of none are one more."""

    name = "fair"
    rules = {"key": key, "admit": admit, "account": account}

    def keys(self, trace: Trace) -> Floats:
        """All equal: nobody has been served yet."""
        return np.zeros(len(trace))

    def state(self, trace: Trace, slo: Mapping[str, float]) -> dict[str, Any]:
        """The client of each request; counters and requests present of each client."""
        sessions = np.full(len(trace), -1) if trace.session is None else trace.session
        names, client = np.unique(sessions, return_inverse=True)
        return {"memory": client.reshape(-1, 1), "shared": np.zeros(2 * names.size)}
