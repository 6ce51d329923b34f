"""Points that no other beats in every figure: a Pareto front of any number of figures."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["evenly", "front_of"]

#: Points that throw others out before the search of the front; points of the front found between two clearings.
_PIVOTS, _TURNS = 8, 64
#: Points of three figures that are weighed against each other at once.
_BLOCK = 256


def evenly(places: NDArray[Any], most: int) -> NDArray[Any]:
    """At most ``most`` of them, evenly, with the first and the last."""
    return places[np.unique(np.rint(np.linspace(0, len(places) - 1, min(most, len(places)))).astype(np.intp))]


def front_of(numbers: NDArray[np.float64]) -> NDArray[np.intp]:
    """Points that no other beats in every figure; of equal points the first.

    Args:
        numbers: ``[points, figures]``, smaller is better.

    Returns:
        their places, by the first figure, then the next ones.
    """
    left = np.lexsort(numbers.T[::-1])
    values = np.ascontiguousarray(numbers[left].T)
    scale = np.abs(values).sum(axis=1, keepdims=True) + 1e-300
    for _ in range(_PIVOTS):  # a point that is good in everything beats most of the others
        if not len(left):
            break
        pivot = values[:, np.argmin((values / scale).sum(axis=0))]
        kept = ~_no_better(values, pivot) | (values == pivot[:, None]).all(axis=0)
        if kept.all():
            break
        left, values = left[kept], values[:, kept]
    if len(values) == 3:
        return np.asarray(left[_of_three(values)], dtype=np.intp)
    front: list[int] = []
    while len(left):  # sorted: no point after the first beats it
        beaten, at = np.zeros(len(left), dtype=np.bool_), 0
        for _ in range(_TURNS):
            front.append(int(left[at]))
            beaten |= _no_better(values, values[:, at])
            at = int(beaten.argmin())
            if beaten[at]:
                break
        left, values = left[~beaten], values[:, ~beaten]
    return np.array(front, dtype=np.intp)


def _of_three(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which points ``[3, points]`` in order are on the front: a sweep along the first figure.

    Of all points before, the least third figure by the second is kept, a staircase that each block is looked up in.
    """
    kept = np.zeros(values.shape[1], dtype=np.bool_)
    second, third = np.array([-np.inf]), np.array([np.inf])
    for at in range(0, values.shape[1], _BLOCK):
        y, z = values[1:, at : at + _BLOCK]
        better = third[np.searchsorted(second, y, side="right") - 1] > z
        before = np.triu((y[:, None] <= y) & (z[:, None] <= z), 1)
        better &= ~before.any(axis=0)
        kept[at : at + _BLOCK] = better
        second, third = np.concatenate([second, y[better]]), np.concatenate([third, z[better]])
        order = np.lexsort((third, second))
        second, third = second[order], third[order]
        steps = np.concatenate([[True], third[1:] < np.minimum.accumulate(third)[:-1]])
        second, third = second[steps], third[steps]
    return kept


def _no_better(values: NDArray[np.float64], point: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which points ``[figures, points]`` are in no figure better than this one."""
    found: NDArray[np.bool_] = values[0] >= point[0]
    for figures, one in zip(values[1:], point[1:], strict=True):
        found &= figures >= one
    return found
