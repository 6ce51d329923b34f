"""Equal calls answered once (Halo, arXiv:2509.02121): requests that repeat another's prompt wait for its answer.

Of the requests a share ``equal`` is equal to one that is sent anyway; they are not sent. What is merged is drawn from
the seed. Times and rates are of the requests that are left; a whole run gets shorter in proportion where the server is
busy.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import numpy as np

from steelyard.techniques._base import Citation, Technique
from steelyard.traffic.trace import Trace
from steelyard.units import Quantity

__all__ = ["MergeCalls"]


@dataclass(frozen=True)
class MergeCalls(Technique):
    """Fewer requests."""

    name: ClassVar[str] = "merge-calls"
    layer: ClassVar[str] = "workflow"
    paper: ClassVar[Citation] = Citation(
        "Batch query processing and optimization for agentic workflows", "arXiv:2509.02121"
    )
    effect: ClassVar[str] = "requests equal to another are answered by it"
    costs: ClassVar[str] = "nothing where answers need not differ"
    serving: ClassVar[bool] = True
    first: ClassVar[str] = "equal"

    equal: Annotated[float, Quantity("1", "share of the requests that are equal to another", ge=0, le=0.999)]

    def trace(self, trace: Trace, seed: int) -> Trace:
        """The requests that are sent."""
        count = len(trace)
        kept = max(1, count - round(self.equal * count))
        if kept == count:
            return trace
        chosen = np.sort(np.random.default_rng([seed, 22]).permutation(count)[:kept])
        note = f"{count - kept:,} of {count:,} requests are equal to another and are not sent"
        return replace(trace.rows(chosen), notes=(*trace.notes, note))
