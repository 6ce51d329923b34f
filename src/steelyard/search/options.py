"""What the planner chooses from: replicas with the limits they may run with, and pools of equal replicas."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from steelyard.cost.energy import idle_power_w
from steelyard.cost.kv_pool import KvPool
from steelyard.cost.step import Replica
from steelyard.deployment.deployment import Pool
from steelyard.deployment.engine import Engine
from steelyard.deployment.engine_config import EngineConfig
from steelyard.deployment.plan import Plan
from steelyard.machine.cluster import Cluster

__all__ = ["Floats", "Formats", "Integers", "PoolOption", "ReplicaOption", "shape_of"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class Formats(NamedTuple):
    """Number formats of a replica; empty = as published or 16 bit."""

    weights: str = ""
    kv: str = ""


@dataclass(frozen=True, eq=False)
class ReplicaOption:
    """One legal replica, with the cache it has left under each pair of limits."""

    pricer: Replica
    """Model, devices, resolved plan and engine: what prices its steps."""
    config: EngineConfig
    """The engine's flags without the limits."""
    budgets: Integers
    """``[c]`` token budgets of a step."""
    sequences: Integers
    """``[s]`` most running requests."""
    tokens: Floats
    """``[c, s]`` tokens the cache of one rank holds under these limits; 0 where the longest request does not fit."""
    kv: KvPool
    """The cache at the smallest limits."""

    @property
    def plan(self) -> Plan:
        """Resolved."""
        return self.pricer.plan

    @property
    def cluster(self) -> Cluster:
        """The devices of one replica."""
        return self.pricer.cluster

    @property
    def engine(self) -> Engine:
        """The serving engine."""
        return self.pricer.engine

    @property
    def machine(self) -> str:
        """Name of the machine."""
        return self.cluster.machine.name

    @property
    def devices(self) -> int:
        """Devices of the replica, all ranks."""
        return self.plan.devices

    @property
    def ranks(self) -> int:
        """Engines of the replica that requests are routed to (attention data parallelism)."""
        return self.plan.dp

    @property
    def host_w(self) -> float:
        """Share of the node's own power per device, W."""
        return self.cluster.host_share_w

    @property
    def idle_w(self) -> float:
        """Power of the replica with its share of the hosts, without work, W."""
        return (idle_power_w(self.cluster.machine) + self.host_w) * self.devices

    @property
    def shape(self) -> str:
        """``tp4 pp2``; ``tp1 dp8 ep8``."""
        return " ".join(f"{name}{size}" for name, size in self.plan.degrees.items() if name == "tp" or size > 1)


@dataclass(frozen=True, eq=False)
class PoolOption:
    """One pool: equal replicas with one pair of limits."""

    replica: ReplicaOption
    role: str
    """``both``, ``prefill`` or ``decode``."""
    count: int
    """Replicas that must work; spares come on top."""
    budget: int
    """``max_num_batched_tokens``."""
    sequences: int
    """``max_num_seqs``."""
    capacity_per_s: float = math.inf
    """Requests/s that the screen says the pool holds."""
    margin: float = 0.0
    """How much more it may hold in the simulator, as a share."""

    @property
    def label(self) -> str:
        """``h100_sxm tp2``."""
        return f"{self.replica.machine} {self.replica.shape}"

    @property
    def flags(self) -> dict[str, int]:
        """Engine flags of its limits."""
        return {"max_num_seqs": self.sequences, "max_num_batched_tokens": self.budget}

    def devices(self, spares: int = 0) -> int:
        """Devices of all replicas."""
        return (self.count + spares) * self.replica.devices

    def pool(self, spares: int = 0) -> Pool:
        """The pool of a deployment."""
        r = self.replica
        return Pool(r.machine, r.plan, self.count + spares, self.role, self.flags, description=r.cluster.machine)


def shape_of(pools: Sequence[PoolOption], spares: int) -> str:
    """``3 x tp4``; ``2P tp2 + 3D tp4``."""
    if len(pools) == 1:
        return f"{pools[0].count + spares} x {pools[0].replica.shape}"
    letters = {"prefill": "P", "decode": "D", "both": ""}
    return " + ".join(f"{p.count + spares}{letters[p.role]} {p.replica.shape}" for p in pools)
