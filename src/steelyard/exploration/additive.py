"""The best architecture where score and limits are sums over choices: one whole program, solved by HiGHS."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from steelyard.search.fleet_solver import Linear
from steelyard.workload.networks.search_space import Space

__all__ = ["Sum", "best_within"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Sum:
    """A figure of an architecture: ``shared`` and the cost of every choice it makes, ``[features]``."""

    shared: float
    choices: Floats


def best_within(space: Space, goal: Sum, limits: Sequence[tuple[Sum, float]]) -> NDArray[np.int64] | None:
    """The architecture of the largest goal whose sums keep their limits; None: there is none.

    ``maximise sum over places of g[choice], one choice a place, sum over places of c[choice] <= limit - shared``

    Args:
        space: one choice at each place.
        goal: what is to be large.
        limits: sums, and what each may be at most.
    """
    numbers = [len(space.choices[kind]) - (place in space.required) for place, kind in enumerate(space.kinds)]
    at = [space.offsets[kind] for kind in space.kinds]
    features = np.concatenate([np.arange(a, a + n) for a, n in zip(at, numbers, strict=True)])
    places = np.repeat(np.arange(len(numbers)), numbers)
    columns = np.arange(len(features))
    gains = goal.choices[features]
    program = Linear(-gains / max(float(np.abs(gains).max(initial=0.0)), 1e-300), np.ones(len(features)), len(features))
    program.add(len(numbers), places, columns, 1.0, 1.0, 1.0)
    for total, limit in limits:
        if math.isfinite(limit):
            scale = max(abs(limit), 1e-300)
            program.add(1, 0, columns, total.choices[features] / scale, -math.inf, (limit - total.shared) / scale)
    solved = program.solve()
    if solved.x is None:
        return None
    chosen = solved.x.round().astype(bool)
    code = np.zeros(len(numbers), dtype=np.int64)
    code[places[chosen]] = (features - np.repeat(at, numbers))[chosen]
    return code
