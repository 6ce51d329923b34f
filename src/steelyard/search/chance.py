"""How likely a deployment holds what is promised, from the intervals of its steps.

One error is shared by all steps of a deployment: each takes ``exp(z spread)`` times as long as predicted, ``z``
standard normal. The traffic is played at several ``z``: as predicted (0), at both ends of the 80 % interval, and at the
``z`` that a chance asks for. Between them times run straight in ``z`` and their logarithm, beyond them they run on: a
lognormal with the halves that the runs have. Time per token, end-to-end time and the rate rest on that one error, so
they hold or fail together. The time to first token has a spread of its own besides, independent of it
(:data:`~steelyard.cost.interval.FIRST_TOKEN_SPREAD`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist

import numpy as np

from steelyard.cost.interval import FIRST_TOKEN_SPREAD
from steelyard.errors import InputError, show
from steelyard.interval import quantile
from steelyard.scenario.slo import Target
from steelyard.units import parse_quantity

__all__ = ["ALL", "CERTAINTIES", "Curve", "chances", "holds", "quantile", "read_chance", "safety"]

#: The chance that every promise holds, beside those of each.
ALL = "all"
#: Chances for which the cheapest deployment is shown.
CERTAINTIES = (0.5, 0.8, 0.95)
#: Chances that can be asked for: below, the prediction itself fails; above, an interval says nothing.
SURE = (0.5, 0.99)
#: How closely a chance is computed.
ROUNDING = 1e-6
#: Points of the integral over the shared error.
_POINTS = 200
_NORMAL = NormalDist()

#: ``z`` -> metric -> s, of runs of one deployment under one load.
Curve = Mapping[float, Mapping[str, float]]


def read_chance(value: str | float) -> float:
    """The chance a plan must have: ``0.8`` or ``80%``. Raises :class:`InputError`."""
    least, most = SURE
    per_cent = isinstance(value, str) and value.strip().endswith("%")
    found = parse_quantity(value.strip().removesuffix("%") if isinstance(value, str) else value, "1", "sure")
    found = found / 100 if per_cent else found
    if not least <= found <= most:
        meant = f"; did you mean {found:g}%?" if least <= found / 100 <= most else ""
        words = f"expected a chance from {least} to {most}, such as 0.8 or 80%, got {show(value)}{meant}"
        raise InputError(words, field="sure")
    return found


def holds(chance: float, sure: float) -> bool:
    """Whether a chance is as large as asked for."""
    return chance >= sure - ROUNDING


def safety(sure: float, spread: float) -> tuple[float, float]:
    """Factors by which steps, and times to first token, must be faster than needed for a chance to be likely."""
    z = quantile(sure)
    return math.exp(z * spread), math.exp(z * math.hypot(spread, FIRST_TOKEN_SPREAD))


def chances(targets: Sequence[Target], runs: Curve, rate_z: float = math.nan) -> dict[str, float]:
    """The chance of each promise, by ``ttft``, ``tpot``, ``e2e``, ``rate``, and of all of them.

    Args:
        targets: the SLOs.
        runs: times at the percentiles of the SLOs by ``z``; ``z = 0`` must be there.
        rate_z: the ``z`` up to which the rate is held; NaN = not known, so that the SLOs decide.
    """
    shared, found, first = math.inf, dict[str, float](), None
    for target in targets:
        name = target.metric.removesuffix("_s")
        known = sorted((z, run[target.metric]) for z, run in runs.items() if run.get(target.metric, 0.0) > 0)
        known = [(z, value) for z, value in known if math.isfinite(value)]
        if not known:  # no request has it
            found[name] = 1.0
            continue
        line = _Line(known)
        if target.metric == "ttft_s":
            first = line, math.log(target.limit_s)
            found[name] = _first_token(*first, 1.0)
        else:
            z = line.crosses(math.log(target.limit_s))
            found[name], shared = _NORMAL.cdf(z), min(shared, z)
    below = _NORMAL.cdf(shared)
    together = below if first is None else _first_token(*first, below)
    if not math.isnan(rate_z):  # the rate is held when the SLOs are: it rules nothing out that they do not
        found["rate"] = _NORMAL.cdf(rate_z)
        together = min(together, found["rate"])
    return {**found, ALL: together}


class _Line:
    """The logarithm of a time over ``z``: never falling, straight between runs and beyond them."""

    def __init__(self, known: Sequence[tuple[float, float]]) -> None:
        self.z = np.array([z for z, _ in known])
        self.log = np.maximum.accumulate(np.log([value for _, value in known]))
        slope = np.diff(self.log) / np.diff(self.z) if len(known) > 1 else np.zeros(1)
        self.before, self.after = float(slope[0]), float(slope[-1])

    def at(self, z: np.ndarray) -> np.ndarray:
        """Its values."""
        inside = np.interp(z, self.z, self.log)
        inside = inside + np.minimum(z - self.z[0], 0.0) * self.before
        return np.asarray(inside + np.maximum(z - self.z[-1], 0.0) * self.after)

    def crosses(self, limit: float) -> float:
        """The largest ``z`` at which it is not above a limit."""
        if limit < self.log[0]:
            return float(self.z[0] + (limit - self.log[0]) / self.before) if self.before > 0 else -math.inf
        if limit >= self.log[-1]:
            return float(self.z[-1] + (limit - self.log[-1]) / self.after) if self.after > 0 else math.inf
        i = int(np.searchsorted(self.log, limit, side="right"))
        part = (limit - self.log[i - 1]) / (self.log[i] - self.log[i - 1])
        return float(self.z[i - 1] + part * (self.z[i] - self.z[i - 1]))


def _first_token(line: _Line, limit: float, below: float) -> float:
    """The chance of a time to first token while the shared error is in its lowest share ``below``."""
    middles = (np.arange(_POINTS) + 0.5) / _POINTS * below
    z = np.array([_NORMAL.inv_cdf(min(max(u, 1e-12), 1 - 1e-12)) for u in middles])
    left = (limit - line.at(z)) / FIRST_TOKEN_SPREAD
    return below * float(np.mean([_NORMAL.cdf(x) for x in left]))
