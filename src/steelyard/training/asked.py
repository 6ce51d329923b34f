"""Prices of kernels asked for one by one and found together: one call of a cost function for all that it is asked.

The cost functions take arrays, and a model has the same kernels under many layouts: what is asked with the same words
is joined in one array.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from steelyard.cost.models import KernelTime

__all__ = ["Asked", "asked", "found"]


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """A price that is wanted of a cost function."""

    of: Callable[..., KernelTime]
    sizes: tuple[Any, ...]
    """Arrays over scenarios."""
    words: dict[str, Any]
    """What is one for all of a call."""
    apart: tuple[Any, ...] = ()
    """What else keeps it from being joined with others."""

    @property
    def key(self) -> tuple[Any, ...]:
        """What is asked together has the same."""
        words = tuple((n, v if isinstance(v, str | bool | int | float) else id(v)) for n, v in self.words.items())
        return self.of, len(self.sizes), words, self.apart


def asked(of: Callable[..., KernelTime], *sizes: Any, apart: tuple[Any, ...] = (), **words: Any) -> Asked:
    """A price that is wanted."""
    return Asked(of, sizes, words, apart)


def found(wanted: Sequence[Asked]) -> list[KernelTime]:
    """The prices, in order."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for i, one in enumerate(wanted):
        groups.setdefault(one.key, []).append(i)
    prices: list[Any] = [None] * len(wanted)
    for places in groups.values():
        rows = [np.broadcast_arrays(*(np.asarray(x, dtype=np.float64) for x in wanted[i].sizes)) for i in places]
        ends = np.cumsum([row[0].size for row in rows])
        joined = [np.concatenate([row[k].ravel() for row in rows]) for k in range(len(rows[0]))]
        first = wanted[places[0]]
        whole = first.of(*joined, **first.words)
        for i, row, end in zip(places, rows, ends, strict=True):
            time = np.asarray(whole.time_s)[end - row[0].size : end].reshape(row[0].shape)
            prices[i] = KernelTime(time, whole.spread, whole.source)
    return prices
