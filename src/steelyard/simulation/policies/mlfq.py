"""A multi-level feedback queue that preempts (FastServe, arXiv:2305.05920)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from steelyard.traffic.trace import Floats, Trace

__all__ = ["MultiLevelFeedback"]

#: Levels, service of the first one (a decode is 1, so many prompt tokens as well), growth from level to level.
LEVELS, QUANTUM, PROMPT_TOKENS, GROWTH = 6, 8.0, 256.0, 2.0
#: Columns of a request's memory.
LEVEL, SERVICE = 0, 1


def key(view: Any, request: int, replica: int, now: float) -> float:
    """The level; inside a level, in the order of joining."""
    return float(view.memory[request, LEVEL])


def account(view: Any, request: int, prompt_tokens: int, output_tokens: int, now: float) -> int:
    """A request that has used up the service of its level falls to the next."""
    own = view.memory[request]
    own[SERVICE] += prompt_tokens / PROMPT_TOKENS + output_tokens
    if own[SERVICE] >= QUANTUM * GROWTH ** own[LEVEL] and own[LEVEL] < LEVELS - 1:
        own[LEVEL] += 1.0
        own[SERVICE] = 0.0
    return 0


def preempt(view: Any, worker: int, replica: int, now: float) -> int:
    """The running request of the lowest level, when the first waiting one is of a higher level and has no room."""
    head, count = view.replicas[replica].waiting, view.workers[worker].count
    if head < 0 or count == 0:
        return -1
    setup = view.setups[view.replicas[replica].pool]
    room = (view.replicas[replica].free + view.replicas[replica].evictable * setup.unit_blocks) * setup.block
    if count < setup.max_seqs and room > view.requests[head].isl + view.requests[head].osl:
        return -1
    lowest = count - 1
    for slot in range(count):
        if (
            view.memory[view.slots[worker, slot].request, LEVEL]
            > view.memory[view.slots[worker, lowest].request, LEVEL]
        ):
            lowest = slot
    chosen = view.slots[worker, lowest]
    if chosen.computed < chosen.target or view.memory[chosen.request, LEVEL] <= view.memory[head, LEVEL]:
        return -1
    return int(lowest)


class MultiLevelFeedback:
    """Short requests first without knowing who is short: whoever has been served much gives way to whoever has not.

    A long prompt skips the levels whose service it would use up at once.
    """

    name = "mlfq"
    rules = {"key": key, "account": account, "preempt": preempt}

    def keys(self, trace: Trace) -> Floats:
        """The level a request begins in."""
        service = np.maximum(np.asarray(trace.isl) / PROMPT_TOKENS, QUANTUM)
        return np.asarray(
            np.minimum(np.ceil(np.log(service / QUANTUM) / np.log(GROWTH)), LEVELS - 1.0), dtype=np.float64
        )

    def state(self, trace: Trace, slo: Mapping[str, float]) -> dict[str, Any]:
        """The same, in the memory of the rules."""
        return {"memory": self.keys(trace)[:, None]}
