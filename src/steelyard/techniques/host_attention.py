"""The cache in host memory and decode attention on the host's processor, beside the device's products (MoE-Lens).

Queries go over the link and results come back; the cache never does, and the device's memory is free for weights.
Prompts are attended to on the device. With ``overlap`` two parts of a batch take turns, the host attending for one
while the device computes for the other, weights staying where they are from one part to the next:

    T = max(A, C)    A: attention at the host, C: everything else in the layers, copies of weights included

Together with ``weight-streaming`` or ``expert-cache`` the device's memory is left to activations. The host's speed is
that of ``--host``, whose memory also bounds how many requests the cache holds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

from steelyard.deployment.offload import parse_offload
from steelyard.errors import Problem
from steelyard.machine.host import find_host, usual_host
from steelyard.techniques._base import Citation, Technique
from steelyard.techniques.near_memory import AttentionBeside
from steelyard.techniques.refusals import refused_by

__all__ = ["HostAttention"]


@dataclass(frozen=True)
class HostAttention(Technique):
    """Attention where the cache lies."""

    name: ClassVar[str] = "host-attention"
    layer: ClassVar[str] = "memory"
    paper: ClassVar[Citation] = Citation(
        "MoE-Lens: towards the hardware limit of high-throughput MoE LLM serving under resource constraints",
        "arXiv:2504.09345",
    )
    effect: ClassVar[str] = "the cache lies in host memory, whose processor attends to it while the device computes"
    unplanned: ClassVar[str] = "deployments with a cache in host memory are not sought"
    costs: ClassVar[str] = "host memory and its processor; nothing in accuracy"
    refuses: ClassVar[tuple[str, ...]] = ("offload",)

    keys: ClassVar[dict[str, str]] = {"overlap": "overlap_parts"}

    overlap_parts: Annotated[bool, "the host attends for part of a batch while the device computes for the rest"] = True

    def conflict(self, other: Technique) -> str:
        """Pools of their own; another place for attention."""
        if other.slot == "deployment":
            return "a cache in host memory is priced for one pool"
        return "attention has one place" if other.name in ("near-memory", "layer-split", "cascade") else ""

    def applies(self, scenario: Any) -> list[Problem]:
        """Memory that is the host's."""
        if scenario.cluster.unlike or not scenario.transformer.causal:
            return [Problem(self.name, "priced for one kind of device and models that generate")]
        return refused_by(self.name, lambda: usual_host(scenario.cluster.machine))

    def scenario(self, scenario: Any) -> Any:
        """The cache in host memory, beside what weights lie there."""
        cluster, plan = scenario.cluster, scenario.plan
        host = cluster.host or find_host(scenario.words.get("host") or usual_host(cluster.machine))
        asked = replace(parse_offload(plan.offload), cache=True)
        return replace(scenario, plan=replace(plan, offload=str(asked)), cluster=replace(cluster, host=host))

    @property
    def step_effect(self) -> AttentionBeside | None:
        """Parts of a batch in turn."""
        return AttentionBeside("host", reread=False) if self.overlap_parts else None
