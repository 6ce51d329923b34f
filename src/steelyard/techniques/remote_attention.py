"""A cache that lies on several instances, each of which attends to its part: queries travel, keys and values do not.

Of ``L`` tokens of a sequence ``L / n`` lie on each of ``n`` instances. In every layer of a step the owner sends its
queries to the others and gets partial outputs back, as each attends to its part (DistAttention, arXiv:2401.02669):

    memory     kv(L) / n per device: the longest request is n times as long
    attention  that of L / n tokens, everywhere at once
    exchange   per layer wait + (n - 1) heads d 2 bytes / rate each way

The instances are taken to have room and time to spare for it: between loaded ones caches that are lent and borrowed
cancel out on average. Prompts are computed as without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from steelyard.errors import Problem
from steelyard.techniques._base import Citation, Technique
from steelyard.techniques.sparsity import no_full_attention, with_sparse
from steelyard.units import Quantity

__all__ = ["RemoteAttention"]


@dataclass(frozen=True)
class RemoteAttention(Technique):
    """See the module's text."""

    name: ClassVar[str] = "remote-attention"
    layer: ClassVar[str] = "kvcache"
    paper: ClassVar[Citation] = Citation(
        "Infinite-LLM: efficient LLM service for long context with DistAttention and distributed KVCache",
        "arXiv:2401.02669",
    )
    effect: ClassVar[str] = "a sequence's cache lies on several instances, which attend to their parts of it"
    slot: ClassVar[str] = "kv-budget"
    first: ClassVar[str] = "instances"

    instances: Annotated[int, Quantity("1", "instances that hold a sequence's cache", ge=2, le=10_000)] = 4
    rate: Annotated[float, Quantity("B/s", "between instances, per device", gt=0, le=1e15)] = 25e9
    wait_s: Annotated[float, Quantity("s", "of a round trip", ge=0, le=10)] = 10e-6

    def applies(self, scenario: Any) -> list[Problem]:
        """A model without full attention."""
        return no_full_attention(self.name, scenario.transformer)

    def scenario(self, scenario: Any) -> Any:
        """The model with a part of its cache, and the exchange."""
        changes = {
            "share": 1.0 / self.instances,
            "drops": True,
            "peers": self.instances - 1,
            "peer_rate": self.rate,
            "peer_wait_s": self.wait_s,
        }
        note = f"remote-attention: each of {self.instances} instances holds and attends to its part of a cache"
        return with_sparse(scenario, changes, 0.0, note)
