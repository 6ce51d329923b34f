"""Other collective libraries and other ways of flows through a network (MSCCL++, arXiv:2504.09014; flow splitting).

``collective-library``: a collective takes a time that does not depend on its bytes and one that does, told apart by
pricing the same one with hardly any bytes; either is scaled, never below the links' limit:

    t = t_0 latency + (t - t_0) transfer

One-sided channels without rendezvous or staging copies have ``latency`` below 1, fewer passes over memory ``transfer``
below 1. Both are stated, not predicted.

``flow-placement``: between nodes ``flows`` transfers share ``paths`` of a leaf-spine network, each cut into ``split``
pieces. The fullest path decides, compared with an even spread:

    ecmp     E[max of flows split balls in paths bins] paths / (flows split)     each piece on a random path
    pinned   ceil(flows split / paths) paths / (flows split)                     pieces placed evenly
    spray    1

and the part of a collective between nodes that depends on its bytes takes so many times as long.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated, Any, ClassVar

import numpy as np

from steelyard.cost.cost import Cost
from steelyard.cost.effect import Effect
from steelyard.cost.kernel import Kernel, Program
from steelyard.cost.step import Replica
from steelyard.errors import Problem
from steelyard.techniques._base import Citation, Technique, unknown
from steelyard.units import Quantity

__all__ = ["CollectiveLibrary", "FlowPlacement", "fullest_path"]

#: Ways through a network.
POLICIES = ("ecmp", "pinned", "spray")
#: Pieces and paths up to which the fullest path is counted exactly.
MOST_PATHS, MOST_PIECES = 512, 20_000


@dataclass(frozen=True)
class Scaled(Effect):
    """Collectives with the two parts of their time scaled."""

    latency: float
    transfer: float
    across: bool = False
    """Only those between nodes."""

    def priced(self, cost: Cost, program: Program, replica: Replica) -> Cost:
        """Times of collectives."""
        chosen = {k.kernel.name for k in cost.kernels if self._is_meant(k.kernel, replica)}
        if not chosen:
            return cost
        empty = tuple(_empty(k) for k in program.kernels if k.name in chosen)
        least = {k.kernel.name: k.time_s for k in replica.plain.cost(replace(program, kernels=empty)).kernels}
        kernels = []
        for k in cost.kernels:
            if k.kernel.name in chosen:
                fixed_s = np.minimum(least[k.kernel.name], k.time_s)
                time_s = np.maximum(fixed_s * self.latency + (k.time_s - fixed_s) * self.transfer, k.limit_s)
                k = replace(k, time_s=time_s, network_s=time_s)
            kernels.append(k)
        return replace(cost, kernels=tuple(kernels))

    def _is_meant(self, kernel: Kernel, replica: Replica) -> bool:
        if kernel.kind != "collective":
            return False
        return not self.across or bool(np.any(np.asarray(kernel.features["devices"]) > replica.cluster.per_node))


def _empty(kernel: Kernel) -> Kernel:
    """The same collective with hardly any bytes."""
    features = dict(kernel.features)
    for name in ("message_bytes", "hidden"):
        if name in features:
            features[name] = np.asarray(features[name], dtype=np.float64) * 1e-6
    return replace(kernel, features=features)


def _alone(name: str, scenario: Any, across: bool) -> list[Problem]:
    """That no device talks to another."""
    cluster = scenario.cluster
    if scenario.verb == "plan" or (cluster.node_count > 1 if across else cluster.count > 1):
        return []
    words = "nothing crosses between nodes: all devices stand in one" if across else "one device talks to no other"
    return [Problem(name, words)]


@dataclass(frozen=True)
class CollectiveLibrary(Technique):
    """A library with other latencies and transfers."""

    name: ClassVar[str] = "collective-library"
    layer: ClassVar[str] = "network"
    paper: ClassVar[Citation] = Citation(
        "MSCCL++: rethinking GPU communication abstractions for cutting-edge AI applications", "arXiv:2504.09014"
    )
    effect: ClassVar[str] = "collectives wait less before they send, or send fewer bytes"
    costs: ClassVar[str] = "software that is not everywhere"

    latency: Annotated[float, Quantity("1", "of the time that no byte takes, what is left", ge=0, le=100)] = 0.5
    transfer: Annotated[float, Quantity("1", "of the time of the bytes, what is left", gt=0, le=100)] = 1.0

    def applies(self, scenario: Any) -> list[Problem]:
        """One device."""
        return _alone(self.name, scenario, across=False)

    @property
    def step_effect(self) -> Scaled:
        """Times of collectives."""
        return Scaled(self.latency, self.transfer)


@lru_cache(maxsize=256)
def fullest_path(paths: int, pieces: int, policy: str) -> float:
    """Load of the fullest path over that of an even spread.

    Args:
        paths: equal ones.
        pieces: equal ones, each on one path.
        policy: one of :data:`POLICIES`. ``ecmp``: ``sum_k 1 - P(fullest <= k)``, loads being Poisson numbers held to
            their sum: ``P(all <= k | sum)`` by the power of their transform.
    """
    if policy == "spray" or paths == 1:
        return 1.0
    if policy == "pinned":
        return math.ceil(pieces / paths) * paths / pieces
    mean, fullest = pieces / paths, math.ceil(pieces / paths)
    most = min(pieces, math.ceil(mean + 12.0 * math.sqrt(mean) + 12.0))
    size = 1 << (paths * most + 1).bit_length()  # no load of all paths together wraps around
    counts = np.arange(most + 1)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, most + 1)))])
    alone = np.exp(counts * math.log(mean) - mean - log_factorial)
    together = math.exp(pieces * math.log(pieces) - pieces - math.lgamma(pieces + 1))
    expected = float(fullest)
    for k in range(fullest, most):
        spread = np.fft.irfft(np.fft.rfft(alone[: k + 1], size) ** paths, size)
        missing = 1.0 - min(max(float(spread[pieces]) / together, 0.0), 1.0)
        expected += missing
        if missing < 1e-9:
            break
    return expected / mean


@dataclass(frozen=True)
class FlowPlacement(Technique):
    """How transfers are spread over the paths between nodes."""

    name: ClassVar[str] = "flow-placement"
    layer: ClassVar[str] = "network"
    paper: ClassVar[Citation] = Citation(
        "Challenging the need for packet spraying in large-scale distributed training", "arXiv:2407.00550"
    )
    effect: ClassVar[str] = "the fullest path of the network between nodes decides, not an even spread"
    costs: ClassVar[str] = "control over paths in the network"
    first: ClassVar[str] = "policy"

    policy: Annotated[str, "ecmp (random paths), pinned (placed evenly) or spray (every packet its own)"] = "ecmp"
    paths: Annotated[int, Quantity("1", "equal paths between two leaves", ge=1, le=MOST_PATHS)] = 8
    flows: Annotated[int, Quantity("1", "transfers that share them", ge=1, le=MOST_PIECES)] = 8
    split: Annotated[int, Quantity("1", "pieces of each transfer", ge=1, le=1024)] = 1

    def problems(self) -> list[Problem]:
        """A way that is none, or more pieces than are counted."""
        if self.policy not in POLICIES:
            return [Problem(self.name, unknown("policy", self.policy, POLICIES))]
        if self.flows * self.split > MOST_PIECES:
            return [
                Problem(self.name, f"expected at most {MOST_PIECES:,} pieces in all, got {self.flows * self.split:,}")
            ]
        return []

    def applies(self, scenario: Any) -> list[Problem]:
        """One node."""
        return _alone(self.name, scenario, across=True)

    @property
    def congestion(self) -> float:
        """Load of the fullest path over that of an even spread."""
        return fullest_path(self.paths, self.flows * self.split, self.policy)

    @property
    def step_effect(self) -> Scaled:
        """Times of collectives between nodes."""
        return Scaled(1.0, self.congestion, across=True)
