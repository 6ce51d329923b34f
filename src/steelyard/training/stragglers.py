"""Steps that wait for the slowest: how much longer the slowest of many ranks takes than the mean one.

A step ends when its last rank does. Where ranks vary by chance, the mean of the largest of ``n`` grows with ``n``;
backup ranks or coded gradients wait for fewer of them.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from steelyard.errors import InputError

__all__ = ["coded_factor", "slowest_factor"]

Floats = NDArray[np.float64]
#: Ranks up to which exponential tails are summed term by term.
EXACT = 1_000_000
#: Points of the distribution over which the mean of the slowest is taken.
POINTS = 4001


def slowest_factor(
    ranks: ArrayLike,
    cv: float,
    *,
    spared: int = 0,
    shape: Literal["normal", "exponential"] = "normal",
    slow_frac: float = 0.0,
    slow_factor: float = 1.0,
) -> Floats:
    """Mean time of the slowest rank that is waited for, over that of a mean rank.

    ``normal``: ``1 + cv E[k-th smallest of n normal]``, by integrating its distribution; ``exponential``: a rank takes
    at least ``1 - cv`` and an exponential ``cv`` more, ``1 - cv + cv (H_n - H_(n - k))``, k = n - spared. Ranks that
    are slow for good make the step ``slow_factor`` as long where there are more of them than are spared.

    Args:
        ranks: n; an array over sizes.
        cv: standard deviation over mean of a rank's time.
        spared: ranks that are not waited for (backup workers, gradient coding).
        shape: of a rank's time.
        slow_frac: share of ranks that are slow for good.
        slow_factor: how long they take, over the others.

    Raises:
        InputError: no rank is waited for, or a share is outside 0 to 1.

    Source: K. Lee et al., Speeding up distributed machine learning using codes, arXiv:1512.02673 (exponential tails).
    """
    many = np.asarray(ranks, np.float64)
    if np.any(many - spared < 1):
        raise InputError(f"expected more than {spared} ranks, got {float(many.min()):g}", field="ranks")
    if not (0 <= cv < 1e3 and 0 <= slow_frac <= 1 and slow_factor >= 1 and spared >= 0):
        raise InputError("expected a cv from 0, a slow_frac from 0 to 1 and a slow_factor of at least 1", field="cv")
    if shape == "exponential":
        if cv > 1:
            raise InputError(f"an exponential tail has a cv of at most 1, got {cv:g}", field="cv")
        tail = np.vectorize(lambda n: _harmonic(n) - _harmonic(spared), otypes=[np.float64])
        found = 1.0 - cv + cv * tail(many)
    else:
        found = 1.0 + cv * np.vectorize(lambda n: _normal_mean(int(n), spared), otypes=[np.float64])(many)
    some = 1.0 - (1.0 - slow_frac) ** many if not spared else _more_than(many, spared, slow_frac)
    return np.asarray(found * (1.0 + some * (slow_factor - 1.0)))


def coded_factor(ranks: ArrayLike, cv: float, *, spared: int, compute_frac: float = 1.0) -> Floats:
    """Mean time of a step with gradient codes over that of a mean rank without.

    To do without any ``spared`` ranks every rank computes ``spared + 1`` parts of the data:
    ``compute_frac spared + slowest_factor(spared)``.

    Args:
        ranks, cv: as of :func:`slowest_factor`, exponential tails.
        spared: ranks that need not be waited for.
        compute_frac: share of a rank's time that grows with its part of the data.

    Source: R. Tandon et al., Gradient coding, arXiv:1612.03301.
    """
    waited = slowest_factor(ranks, cv, spared=spared, shape="exponential")
    return np.asarray(compute_frac * spared * (1.0 - cv) + waited)


def _harmonic(n: float) -> float:
    """``1 + 1/2 + ... + 1/n``."""
    if n <= EXACT:
        return float((1.0 / np.arange(1, int(n) + 1)).sum())
    return float(np.log(n) + np.euler_gamma + 0.5 / n)


def _normal_mean(n: int, spared: int) -> float:
    """Mean of the ``spared + 1``-th largest of ``n`` standard normal values: the integral of its distribution."""
    if n == 1:
        return 0.0
    normal = NormalDist()
    x = np.linspace(-9.0, 9.0, POINTS)
    below = np.clip(np.array([normal.cdf(v) for v in x]), 1e-300, 1.0 - 1e-16)
    k = np.arange(spared + 1)
    logs = _log_choose(n, k)[:, None] + (n - k)[:, None] * np.log(below) + k[:, None] * np.log1p(-below)
    most = np.exp(logs).sum(axis=0)  # at most ``spared`` are above x
    return float(np.trapezoid(np.where(x > 0, 1.0 - most, -most), x))


def _log_choose(n: int, k: NDArray[np.int64]) -> Floats:
    terms = np.log(n - np.arange(k[-1])) - np.log(np.arange(1, k[-1] + 1))
    return np.concatenate([[0.0], np.cumsum(terms)])


def _more_than(many: Floats, spared: int, share: float) -> Floats:
    """Chance that more than ``spared`` of the ranks are slow."""
    if share in (0.0, 1.0):
        return np.full_like(many, share)

    def one(n: float) -> float:
        k = np.arange(spared + 1)
        logs = _log_choose(int(n), k) + k * np.log(share) + (n - k) * np.log1p(-share)
        return float(np.clip(1.0 - np.exp(logs).sum(), 0.0, 1.0))

    return np.asarray(np.vectorize(one, otypes=[np.float64])(many))
