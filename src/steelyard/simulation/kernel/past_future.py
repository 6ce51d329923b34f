"""LightLLM's past-future admission (arXiv:2507.10150), compiled: what the cache will hold at its fullest.

Answers that ended teach how long answers get. A running request with ``g`` tokens so far is expected to write
``r = E[length | length > g] - g`` more; while those with ``r`` or more to go are still there, they hold

    sum over them of (tokens now + r)

and a request is admitted when the largest of these sums, with its own, fits the cache.
"""

from __future__ import annotations

import math
from typing import Any

from steelyard.cost.jit import apart, njit_inner
from steelyard.simulation.kernel.methods import PAST_BINS, PAST_OCTAVE

__all__ = ["expect", "forget_future", "future_peak", "learn_length", "plan_future"]

#: Answers that must have ended before they are believed; until then every answer is taken for this many tokens.
FEW, UNKNOWN = 20, 2048.0


@njit_inner
def _bin(tokens: float) -> int:
    return int(min(max(PAST_OCTAVE * math.log2(max(tokens, 1.0)), 0.0), PAST_BINS - 1.0))


@njit_inner
def _upper(k: int) -> float:
    return float(2.0 ** ((k + 1) / PAST_OCTAVE))


@njit_inner
def learn_length(past: Any, replica: int, tokens: int) -> None:
    """An answer of a replica ended."""
    past[replica, 0, _bin(tokens)] += 1.0


@njit_inner
def expect(past: Any, replica: int) -> None:
    """Mean length of the answers longer than each bin, from those that ended: second row of ``past[replica]``."""
    apart()
    count, total = 0.0, 0.0
    for back in range(PAST_BINS):
        k = PAST_BINS - 1 - back
        count += past[replica, 0, k]
        total += past[replica, 0, k] * _upper(k)
        past[replica, 1, k] = total / count if count > 0.0 else _upper(k)
    if count < FEW:
        for k in range(PAST_BINS):
            past[replica, 1, k] = max(UNKNOWN, _upper(k))


@njit_inner
def forget_future(past: Any, replica: int) -> None:
    """Nobody runs: third row requests, fourth row tokens by the time they have to go."""
    for k in range(PAST_BINS):
        past[replica, 2, k] = 0.0
        past[replica, 3, k] = 0.0


@njit_inner
def plan_future(past: Any, replica: int, tokens: float, answered: float, sign: float) -> None:
    """One more request (or, with -1, one fewer) that holds ``tokens`` and has answered ``answered`` tokens."""
    rest = max(past[replica, 1, _bin(answered + 1.0)] - answered, 1.0)
    k = _bin(rest)
    past[replica, 2, k] += sign
    past[replica, 3, k] += sign * tokens


@njit_inner
def future_peak(past: Any, replica: int) -> float:
    """Tokens in the cache at its fullest."""
    apart()
    count, tokens, peak = 0.0, 0.0, 0.0
    for back in range(PAST_BINS):
        k = PAST_BINS - 1 - back
        if past[replica, 2, k] > 0.0:
            count += past[replica, 2, k]
            tokens += past[replica, 3, k]
            peak = max(peak, tokens + count * _upper(k))
    return peak
