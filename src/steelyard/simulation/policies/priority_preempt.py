"""By the priorities of the trace, and who waits with a higher one takes the place of who runs with a lower."""

from __future__ import annotations

from typing import Any

from steelyard.simulation.policies.priority import Priority

__all__ = ["PriorityPreempt"]


def preempt(view: Any, worker: int, replica: int, now: float) -> int:
    """The running request of the lowest priority, the newest of several, when the first waiting one has no room."""
    head, count = view.replicas[replica].waiting, view.workers[worker].count
    if head < 0 or count == 0:
        return -1
    setup = view.setups[view.replicas[replica].pool]
    first = view.requests[head]
    room = (view.replicas[replica].free + view.replicas[replica].evictable * setup.unit_blocks) * setup.block
    if count < setup.max_seqs and room > first.isl + first.osl - first.remaining:
        return -1
    lowest = 0
    for slot in range(1, count):
        own, other = view.requests[view.slots[worker, slot].request], view.requests[view.slots[worker, lowest].request]
        if own.key > other.key or (own.key == other.key and own.seq > other.seq):
            lowest = slot
    return lowest if view.requests[view.slots[worker, lowest].request].key > first.key else -1


class PriorityPreempt(Priority):
    """Smaller priorities first, also before what runs: as vLLM 0.6 with ``--scheduling-policy priority``.

    With ``priority`` only a lack of blocks for what runs preempts, as in vLLM 1.
    """

    name = "priority-preempt"
    rules = {"preempt": preempt}
