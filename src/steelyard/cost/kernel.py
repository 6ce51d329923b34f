"""What a model is lowered to: kernels, each the work of one launch, and the program they make."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from steelyard.deployment.plan import Plan
from steelyard.machine.component import Machine
from steelyard.workload.op import Op
from steelyard.workload.step import Step

__all__ = ["Kernel", "Program"]


@dataclass(frozen=True, eq=False)
class Hosted:
    """The copies of a kernel whose weights lie in host memory."""

    share: float
    """Of the copies."""
    kernel: Kernel
    """The same work as the host does it."""
    message_bytes: Any = 0.0
    """Hidden states that cross to the host and back, each way and per copy."""
    use: str = "computed"
    """What is done with the weights, see :data:`~steelyard.deployment.offload.USES`."""
    fetched_frac: Any = 1.0
    """Of the weights that a step needs, those copied when it does."""
    rate_bytes_per_s: float = 0.0
    """What copies sustain; 0 = a share of the device's link to the host."""


@dataclass(frozen=True, eq=False)
class Elsewhere:
    """The copies of a kernel that run on a device of another kind."""

    share: float
    """Of the copies."""
    machine: Machine
    kernel: Kernel
    """The same work as that device does it."""


@dataclass(frozen=True, eq=False)
class Kernel:
    """Work that runs as one launch, per copy.

    ``kind`` names a :class:`~steelyard.cost.kinds.Kind`, which chooses the cost model; ``features`` are what that model
    reads (``m n k`` ...), scalars or arrays over scenarios.
    """

    name: str
    kind: str
    count: Any
    ops: tuple[Op, ...] = ()
    features: Mapping[str, Any] = field(default_factory=dict)
    flops: Any = 0.0
    traffic: Mapping[str, Any] = field(default_factory=dict)
    """Compulsory bytes by ``weight``, ``kv``, ``read`` and ``write``."""
    compute: str = ""
    engine: str = ""
    block: str = ""
    biased: bool = False
    """A bias is added to what it makes, in its epilogue."""
    stage: str = ""
    """Pipeline stage it is pinned to: ``first`` (embedding), ``last`` (head), empty for the layers."""
    weight_format: str = ""
    """What the weights are stored in, when there are any."""
    weights_cold: bool = True
    """Weights come from the root memory at every call; False: they are few and reused, as a norm's."""
    hosted: Hosted | None = None
    """What of it has its weights in host memory."""
    elsewhere: tuple[Elsewhere, ...] = ()
    """What of it runs on devices of other kinds; the rest runs on the first."""

    @property
    def bytes(self) -> Any:
        """All compulsory traffic per copy."""
        return sum(self.traffic.values()) if self.traffic else 0.0

    @property
    def in_layers(self) -> bool:
        """Whether it is of a layer, not of the embedding or the head."""
        return "." in self.name and not self.stage


@dataclass(frozen=True, eq=False)
class Program:
    """Kernels in order, for one device of a stage."""

    name: str
    kernels: tuple[Kernel, ...]
    plan: Plan
    tokens: Any = 0.0
    step: Step | None = None
    """What it was lowered from, where a replica did."""
    absorb: bool | None = None
    """The form of latent attention it was lowered in."""

    def __iter__(self) -> Iterator[Kernel]:
        return iter(self.kernels)

    def without(self, names: Collection[str]) -> Program:
        """The other kernels of it."""
        return replace(self, kernels=tuple(k for k in self.kernels if k.name not in names))

    @property
    def flops(self) -> Any:
        """Arithmetic operations of one device over all layers."""
        return sum(k.flops * k.count for k in self.kernels)

    @property
    def bytes(self) -> Any:
        """Compulsory memory traffic of one device over all layers."""
        return sum(k.bytes * k.count for k in self.kernels)
