"""Host memory behind CXL, for what training keeps off its devices (arXiv:2507.03305).

``cards`` add capacity beside the host's own memory, each with a ``rate`` of its own. A ``share`` of what an update
reads and writes lies there, evenly over the cards: the update takes the sum of both parts,

    bytes ((1 - share) / memory + share / (cards rate))

as a processor waits for each cache line wherever it lies. Copies between devices and the cards share the cards' rate:
of ``n`` devices of a node each has ``cards rate / n``, where that is less than its own link. With ``share`` 0 only
activations and parameters lie on the cards.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

from steelyard.errors import Problem
from steelyard.machine.host import find_host, usual_host
from steelyard.techniques._base import Citation, Technique
from steelyard.techniques._training import OfTraining
from steelyard.units import Quantity

__all__ = ["CxlMemory"]


@dataclass(frozen=True)
class CxlMemory(OfTraining, Technique):
    """See the module's text."""

    name: ClassVar[str] = "cxl-memory"
    layer: ClassVar[str] = "memory"
    effect: ClassVar[str] = "memory of the host grows by cards behind CXL, where part of what is offloaded lies"
    costs: ClassVar[str] = "the cards"
    paper: ClassVar[Citation] = Citation(
        "Analysis and optimized CXL-attached memory allocation for long-context LLM fine-tuning", "arXiv:2507.03305"
    )
    first: ClassVar[str] = "cards"

    cards: Annotated[int, Quantity("1", "memory cards of a node", ge=1, le=64)] = 1
    share: Annotated[float, Quantity("1", "of what an update reads and writes that lies there", ge=0, le=1)] = 1.0
    rate_bytes_per_s: Annotated[
        float, Quantity("B/s", "of a card (eight lanes of PCIe 5 deliver some 25 GB/s)", gt=0, le=1e13)
    ] = 25e9
    capacity_bytes: Annotated[float, Quantity("B", "of a card", gt=0, le=1e16)] = 256e9
    keys: ClassVar[dict[str, str]] = {"rate": "rate_bytes_per_s", "capacity": "capacity_bytes"}

    def training_problems(self, scenario: Any) -> list[Problem]:
        """See :class:`OnTraining`."""
        if not scenario.words.get("offload"):
            return [
                *super().training_problems(scenario),
                Problem(self.name, "nothing lies in the host: give --offload"),
            ]
        return super().training_problems(scenario)

    def training(self, scenario: Any) -> Any:
        """See :class:`OnTraining`."""
        cluster = scenario.cluster
        host = cluster.host or find_host(usual_host(cluster.machine))
        together = self.cards * self.rate_bytes_per_s
        rate = 1.0 / ((1.0 - self.share) / host.root.bandwidth_bytes_per_s + self.share / together)
        dram = replace(
            host.root,
            bandwidth_bytes_per_s=rate,
            capacity_bytes=host.root.capacity_bytes + self.cards * self.capacity_bytes,
        )
        host = host.but(memory=tuple(dram if m.name == dram.name else m for m in host.memory))
        each = together / min(cluster.per_node, cluster.count)
        links = tuple(
            replace(link, bandwidth_bytes_per_s=min(link.bandwidth_bytes_per_s, each)) if link.role == "host" else link
            for link in cluster.machine.link
        )
        return replace(scenario, cluster=replace(cluster, host=host, machine=cluster.machine.but(link=links)))
