"""What pricing a program answers: time, energy, traffic and what bounds it, per kernel; frozen and addable."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from steelyard.cost.kernel import Kernel

__all__ = ["BOUNDS", "FIGURES", "Cost", "KernelCost", "spread_of_sum", "with_static_power"]

#: What a kernel can be bound by.
BOUNDS = ("compute", "memory", "network", "overhead")
#: The figures of a kernel's price: those of parts of its copies add.
FIGURES = ("time_s", "limit_s", "compute_s", "memory_s", "network_s", "energy_j")


@dataclass(frozen=True, eq=False)
class KernelCost:
    """The price of one kernel, over all its copies. Every figure is an array over scenarios (or a scalar)."""

    kernel: Kernel
    time_s: Any
    limit_s: Any
    """The physical limit of the same work: never above ``time_s``."""
    compute_s: Any
    """FLOPs over the peak of the format computed in."""
    memory_s: Any
    """Compulsory traffic over the peak bandwidth."""
    network_s: Any
    energy_j: Any
    spread: float
    """Standard deviation of log(measured / predicted) over what this model was checked on."""
    source: str
    """Where the utilisation parameters came from."""
    model: str = ""
    engine: str = ""
    """Engine it was placed on."""

    @property
    def bound(self) -> Any:
        """Index into :data:`BOUNDS` of the largest part; overhead when the limit explains less than a third."""
        compute, memory, network = np.asarray(self.compute_s), np.asarray(self.memory_s), np.asarray(self.network_s)
        largest = np.where((network > compute) & (network > memory), 2, np.where(memory > compute, 1, 0))
        explained = np.maximum(np.maximum(compute, memory), network) >= np.asarray(self.time_s) / 3
        return np.where(explained, largest, 3)


@dataclass(frozen=True, eq=False)
class Cost:
    """The price of a program: kernels plus the step overhead of the engine. Costs of one program add."""

    kernels: tuple[KernelCost, ...]
    overhead_s: Any = 0.0
    static_w: float = 0.0
    cap_w: float = 0.0

    def __iter__(self) -> Iterator[KernelCost]:
        return iter(self.kernels)

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.kernels + other.kernels,
            self.overhead_s + other.overhead_s,
            self.static_w or other.static_w,
            self.cap_w or other.cap_w,
        )

    @property
    def time_s(self) -> Any:
        """Time of all kernels one after another, plus overhead."""
        return self._sum("time_s") + self.overhead_s

    @property
    def limit_s(self) -> Any:
        """The physical limit: every kernel at its peak, no overhead."""
        return self._sum("limit_s")

    @property
    def compute_s(self) -> Any:
        """Arithmetic at peak."""
        return self._sum("compute_s")

    @property
    def memory_s(self) -> Any:
        """Traffic at peak bandwidth."""
        return self._sum("memory_s")

    @property
    def network_s(self) -> Any:
        """Communication as predicted."""
        return sum((k.time_s for k in self.kernels if k.kernel.kind == "collective"), 0.0)

    @property
    def energy_j(self) -> Any:
        """Dynamic energy of the kernels plus static power over the time, capped by the rated power."""
        time = self.time_s
        return with_static_power(self._sum("energy_j"), time, self.static_w, self.cap_w)

    @property
    def flops(self) -> Any:
        """Arithmetic operations of one device."""
        return sum((k.kernel.flops * k.kernel.count for k in self.kernels), 0.0)

    def log_spread(self) -> Any:
        """Standard deviation of log(true / predicted) for the sum, see :func:`spread_of_sum`."""
        by_model: dict[str, Any] = {}
        for k in self.kernels:
            by_model[k.model] = by_model.get(k.model, 0.0) + np.asarray(k.time_s) * k.spread
        return spread_of_sum(by_model.values(), self.overhead_s, self.time_s)

    def shares(self) -> dict[str, Any]:
        """Share of the time by what bounds it: compute, memory, network, overhead."""
        total = np.maximum(np.asarray(self.time_s, dtype=np.float64), 1e-30)
        shares: dict[str, Any] = {name: np.zeros_like(total) for name in BOUNDS}
        for k in self.kernels:
            bound = np.asarray(k.bound)
            for i, name in enumerate(BOUNDS):
                shares[name] = shares[name] + np.where(bound == i, np.asarray(k.time_s) / total, 0.0)
        shares["overhead"] = shares["overhead"] + np.asarray(self.overhead_s) / total
        return shares

    def bound(self) -> Any:
        """Name of the largest share, as text or an array of texts."""
        shares = self.shares()
        stacked = np.stack(np.broadcast_arrays(*(np.asarray(shares[n]) for n in BOUNDS)))
        names = np.asarray(BOUNDS)[np.argmax(stacked, axis=0)]
        return str(names) if names.ndim == 0 else names

    def _sum(self, field: str) -> Any:
        return sum((getattr(k, field) for k in self.kernels), 0.0)


def with_static_power(energy_j: Any, time_s: Any, static_w: float, cap_w: float) -> Any:
    """Dynamic energy plus static power over the time, at most the rated power over the time, J."""
    energy = energy_j + static_w * time_s
    return np.minimum(energy, cap_w * time_s) if cap_w else energy


#: Log-space spread of the engine's own time per step, a guess until calibrated.
OVERHEAD_SPREAD = 0.5


def spread_of_sum(weighted_s: Iterable[Any], overhead_s: Any, time_s: Any) -> Any:
    """Standard deviation of log(true / predicted) of a sum of times.

    Errors of kernels of one model are taken as fully correlated, those of different models as half correlated:
    ``s^2 = 0.5 sum_i (w_i s_i)^2 + 0.5 (sum_i w_i s_i)^2`` with ``w_i`` the share of the time.

    Args:
        weighted_s: of each model the sum of time x spread over its kernels, s.
        overhead_s: the engine's own time, whose spread is :data:`OVERHEAD_SPREAD`.
        time_s: the sum.
    """
    total = np.maximum(np.asarray(time_s, dtype=np.float64), 1e-30)
    parts = [np.asarray(x, dtype=np.float64) / total for x in (*weighted_s, np.asarray(overhead_s) * OVERHEAD_SPREAD)]
    return np.sqrt(0.5 * sum(p**2 for p in parts) + 0.5 * sum(parts) ** 2)
