"""Service level objectives: a percentile of TTFT, TPOT, ITL or end-to-end time under a limit."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from steelyard.errors import InputError, Problem, raise_all, show
from steelyard.units import parse_quantity

__all__ = ["METRICS", "Target", "Verdict", "judge", "may_miss", "parse_target", "parse_targets"]

#: Times of a request that an SLO may bound.
METRICS = ("ttft_s", "tpot_s", "itl_s", "max_itl_s", "e2e_s")

_PERCENTILE = re.compile(r"^p(\d+(?:\.\d+)?)$")


@dataclass(frozen=True, slots=True)
class Target:
    """One SLO: the ``percentile`` of ``metric`` is at most ``limit_s``.

    Args:
        metric: one of :data:`METRICS`; ``itl_s`` is every gap between tokens, ``max_itl_s`` the longest of a request.
        percentile: from 0 to 100; NaN = the mean.
        limit_s: s.
    """

    metric: str
    percentile: float
    limit_s: float

    @property
    def label(self) -> str:
        """``p99`` or ``mean``."""
        return "mean" if math.isnan(self.percentile) else f"p{self.percentile:g}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A target, what came out, and whether it holds. ``value_s`` is NaN when no request has the metric."""

    target: Target
    value_s: float

    @property
    def met(self) -> bool:
        """Whether the SLO is met."""
        return self.value_s <= self.target.limit_s

    @property
    def name(self) -> str:
        """``TTFT p99``, ``max ITL mean``."""
        words = self.target.metric.removesuffix("_s").upper().replace("MAX_", "max ")
        return f"{words} {self.target.label}"


def may_miss(target: Target, number: int) -> tuple[float, int]:
    """The limit a run may be given up at, and how many of ``number`` requests may exceed it; not of a mean.

    The percentile ``q`` lies within the limit while at most ``n - 1 - floor(q (n - 1))`` requests miss it.
    """
    kept = math.floor((number - 1) * target.percentile / 100 - 1e-9)
    return target.limit_s * (1 + 1e-9), number - 1 - max(kept, 0)


def parse_target(text: object, metric: str) -> Target:
    """Read ``p99:1s``, ``mean:50ms`` or ``1s`` (the 99th percentile).

    Raises:
        InputError: with the field: the metric without its unit.
    """
    field = metric.removesuffix("_s")
    if not isinstance(text, str):
        raise InputError(f"expected p99:1s, mean:50ms or 1s, got {show(text)}", field=field)
    which, colon, limit = text.strip().rpartition(":")
    percentile = 99.0
    if colon:
        match = _PERCENTILE.match(which.strip().lower())
        if match:
            percentile = float(match.group(1))
        elif which.strip().lower() in ("mean", "avg", "average"):
            percentile = math.nan
        elif which.strip().lower() in ("median",):
            percentile = 50.0
        else:
            raise InputError(f"expected p99:1s, mean:50ms or 1s, got {text!r}", field=field)
    if not math.isnan(percentile) and not 0 <= percentile <= 100:
        raise InputError(f"expected a percentile from 0 to 100, got {percentile:g}", field=field)
    try:
        limit_s = parse_quantity(limit, "s", field)
    except InputError as error:
        raise InputError(f"{error.message}; write it as 1s, p99:1s or mean:50ms", field=field) from None
    if not (math.isfinite(limit_s) and limit_s > 0):
        raise InputError(f"expected a time above 0 s, got {limit!r}", field=field)
    return Target(metric, percentile, limit_s)


def parse_targets(words: Mapping[str, str]) -> tuple[Target, ...]:
    """The SLOs among the fields of a question: ``ttft``, ``tpot``, ``itl``, ``max_itl``, ``e2e``.

    Raises:
        InputError: every problem at once.
    """
    problems: list[Problem] = []
    found = []
    for metric in METRICS:
        text = words.get(metric.removesuffix("_s"), "")
        if text:
            try:
                found.append(parse_target(text, metric))
            except InputError as error:
                problems += error.problems
    raise_all(problems)
    return tuple(found)


def judge(targets: Sequence[Target], values: dict[str, NDArray[np.float64]]) -> list[Verdict]:
    """Each target beside what came out.

    Args:
        targets: the SLOs.
        values: by metric, one entry per completed request; NaN = it has none (TPOT of a one-token answer).
    """
    found = []
    for target in targets:
        known = values[target.metric][np.isfinite(values[target.metric])]
        value = math.nan
        if known.size:
            mean = math.isnan(target.percentile)
            value = float(np.mean(known) if mean else np.percentile(known, target.percentile))
        found.append(Verdict(target, value))
    return found
