"""Prompts and outputs on replicas of their own; the cache is pulled when the prompt is computed (DistServe).

With ``mixed=N`` the pools lend each other their replicas while one of them has too much to do, as Splitwise's mixed
pool does. When ``N`` prompts or more wait at every replica for prompts, a new one goes to the replica for outputs with
the fewest requests that has none waiting, which computes it in chunks beside its outputs and keeps it. When no replica
for outputs has room for a cache, its request is answered where its prompt was computed, until one has; then its cache
is sent. All replicas have the weights and run the same engine, so nothing is loaded or started anew to change sides:
the cost is what prompts and outputs in one step take from each other, and the caches that travel later are longer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

from steelyard.deployment.engine import Engine
from steelyard.machine.component import Machine
from steelyard.simulation.kernel.state import DECODE, ENTRY, OUTPUT, PREFILL
from steelyard.techniques._base import Citation, Technique
from steelyard.units import Quantity

__all__ = ["DistServe"]


def lend(view: Any, request: int, stage: int, now: float) -> int:
    """Where a request goes while a pool has too much to do; -1: as always."""
    replicas, setups = view.replicas, view.setups
    if stage == ENTRY:
        chosen = -1
        for r in range(replicas.shape[0]):
            role = setups[replicas[r].pool].role
            if role == PREFILL and replicas[r].up and replicas[r].queued < view.params[0]:
                return -1
            free = role == DECODE and replicas[r].up and replicas[r].queued == 0
            if free and (chosen < 0 or replicas[r].load < replicas[chosen].load):
                chosen = r
        return int(chosen)
    own = view.requests[request].replica
    if stage != OUTPUT or own < 0 or setups[replicas[own].pool].role != PREFILL:
        return -1
    tokens = view.requests[request].isl + view.requests[request].osl
    for r in range(replicas.shape[0]):
        setup = setups[replicas[r].pool]
        room = (replicas[r].free + replicas[r].evictable * setup.unit_blocks) * setup.block
        if setup.role == DECODE and replicas[r].up and replicas[r].queued == 0 and room > tokens:
            return -1
    return int(own)


@dataclass(frozen=True)
class DistServe(Technique):
    """The pools, and how much of a cache is sent early."""

    name: ClassVar[str] = "distserve"
    layer: ClassVar[str] = "parallel"
    paper: ClassVar[Citation] = Citation(
        "DistServe: disaggregating prefill and decoding for goodput-optimized large language model serving",
        "arXiv:2401.09670",
    )
    effect: ClassVar[str] = "no output waits for a prompt's step; caches travel between the pools"
    serving: ClassVar[bool] = True
    unplanned: ClassVar[str] = "plan chooses pools itself (--mode disaggregated)"
    slot: ClassVar[str] = "deployment"
    first: ClassVar[str] = "pools"

    pools: Annotated[tuple[str, ...], "COUNT P or D:DEGREES[@MACHINE], 2P:tp4 and 1D:tp8"]
    transfer_overlap: Annotated[
        float, Quantity("1", "share of a cache that is sent while its prompt is computed", ge=0, le=1)
    ] = 0.0
    mixed: Annotated[
        int, Quantity("1", "prompts that wait everywhere from which on pools lend each other replicas; 0 = never", ge=0)
    ] = 0

    def engine(self, engine: Engine, machine: Machine) -> Engine:
        """The replica for prompts sends the first token itself."""
        return replace(engine, relays_first=False)

    def words(self, verb: str) -> Mapping[str, Any]:
        """The pools."""
        sent = {"transfer_overlap": self.transfer_overlap} if self.transfer_overlap else {}
        return {"disaggregate": ",".join(self.pools), **sent}

    def rules(self) -> Any:
        """Who gets a request while a pool has too much to do."""
        if not self.mixed:
            return None
        from steelyard.simulation.kernel.rules import RuleSet

        return RuleSet({"route": lend}, params=(float(self.mixed),))
