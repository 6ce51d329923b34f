"""Requests in buckets of prompt and output length, and the routing of buckets to pools."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from steelyard.errors import InputError
from steelyard.search.options import Floats, Integers
from steelyard.traffic.trace import Trace

__all__ = ["ROUTING", "Buckets", "buckets_of", "deal"]

#: What the router of a mixed fleet knows of a request: its prompt alone, or its output length as well (predicted).
ROUTING = ("prompt", "size")
#: Bounds of buckets per doubling of the prompt and of the output.
PROMPT_OCTAVE, OUTPUT_OCTAVE = 2, 1
#: Lengths below which no bound is drawn: shorter requests cost about the same.
SHORT_PROMPT, SHORT_OUTPUT = 64, 8
#: Share of the requests below which a row of prompt lengths is joined with its neighbour.
THIN = 0.004
#: Fraction of the golden ratio: its multiples modulo 1 are spread most evenly.
GOLDEN = 0.6180339887498949


@dataclass(frozen=True, eq=False)
class Buckets:
    """Buckets of a trace. Arrays ``[b]``; ``member [n]`` is the bucket of each request.

    A bucket is what capacities are computed for; a ``group`` of buckets is what the router can tell apart.
    """

    prompt_tokens: Floats
    """Mean."""
    output_tokens: Floats
    """Mean."""
    share: Floats
    """Of the requests."""
    context_tokens: Floats
    """Mean tokens in the cache of a request while it decodes."""
    longest_tokens: Integers
    """Most tokens of a prompt with its output."""
    prompt_range: Integers
    """``[b, 2]`` shortest and longest prompt, tokens."""
    output_range: Integers
    """``[b, 2]`` shortest and longest output, tokens."""
    group: Integers
    """Number of the bucket's group, from 0."""
    member: Integers
    routing: str
    """Of :data:`ROUTING`."""

    def __len__(self) -> int:
        return len(self.share)

    @property
    def groups(self) -> int:
        """Groups the router tells apart."""
        return int(self.group.max()) + 1

    @property
    def group_of(self) -> Integers:
        """``[n]`` the group of each request."""
        return np.asarray(self.group[self.member])

    def ranges(self, group: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Shortest and longest prompt, and shortest and longest output, of a group."""
        own = self.group == group
        prompts, outputs = (
            (int(x[own, 0].min()), int(x[own, 1].max())) for x in (self.prompt_range, self.output_range)
        )
        return prompts, outputs


def buckets_of(trace: Trace, routing: str = "prompt") -> Buckets:
    """Cut a trace into buckets: two per doubling of the prompt, one per doubling of the output.

    Args:
        trace: lengths; arrivals do not matter.
        routing: ``prompt``: buckets of equal prompts and unlike outputs form one group; ``size``: each is its own.

    Raises:
        InputError: unknown ``routing``.
    """
    if routing not in ROUTING:
        raise InputError(f"expected one of {', '.join(ROUTING)}, got {routing!r}", field="routing")
    isl, osl = np.asarray(trace.isl, dtype=np.int64), np.asarray(trace.osl, dtype=np.int64)
    row = _joined(_place(isl, SHORT_PROMPT, PROMPT_OCTAVE))
    column = _place(osl, SHORT_OUTPUT, OUTPUT_OCTAVE)
    keys, member = np.unique(row * 1000 + column, return_inverse=True)
    member = np.asarray(member).reshape(-1)
    count = np.bincount(member).astype(np.float64)

    def mean(values: Any) -> Floats:
        return np.asarray(np.bincount(member, np.asarray(values, dtype=np.float64)) / count)

    def extremes(values: Integers) -> Integers:
        low = np.full(len(keys), np.iinfo(np.int64).max)
        high = np.zeros(len(keys), dtype=np.int64)
        np.minimum.at(low, member, values)
        np.maximum.at(high, member, values)
        return np.stack([low, high], axis=1)

    weight = np.maximum(osl - 1, 1)
    context = np.bincount(member, (isl + 0.5 * osl) * weight) / np.bincount(member, weight)
    rows = keys // 1000
    group = np.arange(len(keys)) if routing == "size" else np.unique(rows, return_inverse=True)[1].reshape(-1)
    return Buckets(
        mean(isl),
        mean(osl),
        count / len(trace),
        np.asarray(context),
        extremes(isl + osl)[:, 1],
        extremes(isl),
        extremes(osl),
        np.asarray(group, dtype=np.int64),
        np.asarray(member, dtype=np.int64),
        routing,
    )


def _place(lengths: Integers, short: int, octave: int) -> Integers:
    """``0`` to ``short`` tokens, then ``octave`` places per doubling."""
    above = np.log2(np.maximum(lengths, short) / short) * octave
    return np.asarray(np.ceil(above - 1e-9), dtype=np.int64)


def _joined(row: Integers) -> Integers:
    """Rows with hardly a request joined with the next longer one that has some (the last ones with each other)."""
    names, where, count = np.unique(row, return_inverse=True, return_counts=True)
    target = np.zeros(len(names), dtype=np.int64)
    label, gathered = 0, 0
    for k, n in enumerate(count.tolist()):
        target[k] = label
        gathered += n
        if gathered >= THIN * len(row):
            label, gathered = label + 1, 0
    return np.asarray(target[np.asarray(where).reshape(-1)])


def deal(group: Integers, shares: Floats) -> Integers:
    """The pool of each request: of every group, each pool gets its share as evenly in time as whole requests allow.

    Args:
        group: ``[n]`` group of each request, in order of arrival.
        shares: ``[groups, pools]``, rows that sum to 1.

    Returns:
        ``[n]`` pools. The ``k``-th request of a group goes to the pool that a sequence of low discrepancy points at, so
        that after any number of requests no pool is more than about one request from its share.
    """
    pool = np.zeros(len(group), dtype=np.int64)
    for g in np.unique(group):
        rows = np.flatnonzero(group == g)
        used = np.flatnonzero(shares[g] > 0)
        point = (0.5 + np.arange(len(rows)) * GOLDEN) % 1.0
        pool[rows] = used[np.searchsorted(np.cumsum(shares[g][used])[:-1], point, side="right")]
    return pool
