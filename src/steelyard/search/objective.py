"""What a plan is best at, and the limits it must keep."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steelyard.cost.energy import idle_power_w
from steelyard.machine.catalogue import price_of
from steelyard.machine.cluster import Cluster
from steelyard.machine.component import Machine
from steelyard.provenance import Ledger
from steelyard.search.space import Replica

__all__ = ["Limits", "Rent", "hourly", "node_power_w", "rent_of", "values"]

Floats = NDArray[np.float64]

#: Hours over which a bought device is written off: three years of continuous use, a common accounting life.
AMORTISATION_H = 3 * 8760.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of the whole deployment; None = no limit."""

    max_devices: int | None = None
    budget_usd_per_hour: float | None = None
    max_w: float | None = None
    spares: int = 0

    def keeps(self, devices: Any, usd_per_hour: Any, watts: Any) -> NDArray[np.bool_]:
        """Which deployments keep every limit."""
        good = np.ones(np.shape(devices), dtype=bool)
        if self.max_devices is not None:
            good &= np.asarray(devices) <= self.max_devices
        if self.budget_usd_per_hour is not None:
            good &= np.asarray(usd_per_hour) <= self.budget_usd_per_hour * (1 + 1e-9)
        if self.max_w is not None:
            good &= np.asarray(watts) <= self.max_w
        return good


@dataclass(frozen=True, eq=False)
class Rent:
    """Prices and power beside the devices, per replica of a block. Arrays ``[p]``."""

    usd_per_hour: Floats
    """Per device; NaN without a price."""
    host_w: Floats
    """Share of the node's own power per device."""
    idle_w: Floats
    """Per device."""


def hourly(machine: Machine, given: Mapping[str, float], ledger: Ledger) -> float:
    """Price per device and hour: given, the catalogue's newest, or a purchase written off; NaN when none is known."""
    if machine.name in given:
        ledger.cite(f"price of {machine.name}", "given")
        return given[machine.name]
    found = price_of(machine.name)
    if found is not None:
        ledger.cite(f"price of {found.machine}", f"{found.source}, {found.provider_class}, {found.date}")
        return found.usd_per_hour
    if machine.capex_usd:
        years = AMORTISATION_H / 8760
        ledger.assume(f"{machine.name}: no rental price known: {machine.capex_usd:,.0f} USD over {years:.0f} years")
        return machine.capex_usd / AMORTISATION_H
    return math.nan


def rent_of(replicas: Sequence[Replica], prices: Mapping[str, float]) -> Rent:
    """What the devices of some replicas cost and draw beside their work."""
    return Rent(
        np.array([prices[r.cluster.machine.name] for r in replicas], dtype=np.float64),
        np.array([r.cluster.host_w / r.cluster.per_node for r in replicas]),
        np.array([idle_power_w(r.cluster.machine) for r in replicas]),
    )


def node_power_w(cluster: Cluster) -> float:
    """A full node at its rated power, its host included, W."""
    return cluster.per_node * cluster.machine.tdp_w + cluster.host_w


def values(
    objective: str, usd_per_hour: Any, watts: Any, capacity: Any, latency_s: Any, carbon_g_per_kwh: float | None
) -> Floats:
    """The objective, such that less is better: USD/h, W, g/h, minus requests/s, or s."""
    if objective == "cost":
        return np.asarray(usd_per_hour, dtype=np.float64)
    if objective == "energy":
        return np.asarray(watts, dtype=np.float64)
    if objective == "carbon":
        return np.asarray(watts, dtype=np.float64) / 1000 * (carbon_g_per_kwh or 0.0)
    if objective == "throughput":
        return -np.asarray(capacity, dtype=np.float64)
    return np.asarray(latency_s, dtype=np.float64)
