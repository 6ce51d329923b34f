"""How many items a second a network answers where they come one by one, and each must be answered in time.

``offline``: a queue that is never empty, and the batch that serves most. ``server``: items arrive at random (Poisson)
and nearly all must be answered within a limit ``L``. What comes during a pass waits for it and goes with the next one,
so that a batch is of use where two passes fit, ``2 T(b) <= L``. Of the rate at which passes of that batch serve, a
share is left free for what arrives beyond the mean: of the ``n`` items that can be served within ``L``, ``m`` come at
the mean, with ``m + z sqrt(m) = n`` and ``z = 2.33`` for 99 in 100.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, sqrt

import numpy as np

from steelyard.errors import InputError
from steelyard.estimation.network import NetEstimate, estimates_of
from steelyard.scenario.network import NetScenario

__all__ = ["Z99", "NetLoad", "busiest", "load_of"]

#: Standard deviations that 99 of 100 normal values lie below.
Z99 = 2.33


@dataclass(frozen=True, slots=True)
class NetLoad:
    """The most a network serves."""

    estimate: NetEstimate
    """Of the batch that serves most."""
    load: float
    """Share of its throughput that may arrive, 0..1."""

    @property
    def items_per_s(self) -> float:
        """On all devices."""
        return self.estimate.throughput_per_s * self.load

    @property
    def interval(self) -> tuple[float, float]:
        """The same at both ends of the interval of the throughput."""
        low, high = self.estimate.interval["throughput_per_s"]
        return low * self.load, high * self.load


def load_of(capacity: float) -> float:
    """Share of a capacity (items within the limit) that may arrive at random: ``m + z sqrt(m) = capacity``."""
    if capacity == inf:
        return 1.0
    return ((sqrt(Z99 * Z99 + 4.0 * capacity) - Z99) / 2.0) ** 2 / max(capacity, 1e-30)


def busiest(scenario: NetScenario, batches: Sequence[float], within_s: float = inf) -> NetLoad:
    """The most that a network serves, and in batches of how many.

    Args:
        scenario: the question; its batch does not matter.
        batches: those to choose from.
        within_s: limit on the time from an item's arrival to its answer; infinite: a queue that is never empty.

    Raises:
        InputError: not even the smallest batch is answered in time.
    """
    found = list(estimates_of(scenario.with_batches(np.asarray(batches, dtype=np.float64))))
    found = [e for e in found if e.fits] or found
    able = [e for e in found if 2.0 * e.latency_s <= within_s]
    if not able:
        least = min(e.latency_s for e in found)
        raise InputError(f"two passes of {least:.3g} s do not fit into {within_s:.3g} s", field="within_s")
    best = max(able, key=lambda e: e.throughput_per_s)
    return NetLoad(best, load_of(best.throughput_per_s * within_s))
