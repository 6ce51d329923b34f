"""Prompt chunks as large as the SLO of those that decode allows (after SLOs-Serve, arXiv:2504.08784)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from steelyard.cost.step_eval import step_cost
from steelyard.traffic.trace import Floats, Trace

__all__ = ["SloChunk"]

#: Time per output token kept where no SLO is given, s; prompt tokens of a step at least, so that prompts go on.
TPOT_S, LEAST = 0.05, 16
#: Halvings of the search for the largest chunk.
HALVINGS = 14


def step(view: Any, worker: int, replica: int, now: float) -> int:
    """The largest chunk with which the step still ends within the time per output token."""
    decodes, context, before, pool = 0.0, 0.0, 0.0, view.replicas[replica].pool
    for j in range(view.workers[worker].count):
        slot = view.slots[worker, j]
        if slot.computed >= slot.target:
            decodes += 1.0
            context += slot.computed + 1.0
        elif before == 0.0:
            before = float(slot.computed)
    low, high = LEAST, int(view.setups[pool].max_tokens)
    if decodes == 0.0:
        return high
    for _ in range(HALVINGS):
        new = (low + high + 1) // 2
        if new <= low:
            break
        pairs = new * (before + 0.5 * new)
        tokens = decodes + new
        time = step_cost(view.data, view.layout[pool], tokens, decodes + 1.0, decodes, context, 1.0, float(new), pairs)[
            0
        ]
        if time <= view.params[0]:
            low = new
        else:
            high = new - 1
    return int(low)


class SloChunk:
    """First come, first served, with as much of a prompt in a step as the running requests can stand."""

    name = "slo-chunk"
    rules = {"step": step}
    from_arrival = True

    def keys(self, trace: Trace) -> Floats:
        """By arrival."""
        return np.zeros(len(trace))

    def state(self, trace: Trace, slo: Mapping[str, float]) -> dict[str, Any]:
        """The time per output token to keep: the SLO, where one is given."""
        return {"params": (float(slo.get("tpot_s", TPOT_S)),)}
