"""What a runtime reaches on a user's device, from a few measured networks.

The factors of a runtime (:mod:`steelyard.cost.net_groups`) stay those of the machines it was fitted to; ten networks
give the device three scales: of arithmetic, of traffic, and of what is paid per kernel, load and pass. Each is pulled
towards a common one, so that few networks cannot tear them apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from steelyard.cost.net_groups import GROUPS, share_of

__all__ = ["GROUP_TERMS", "OWN_PULL", "PASS_S", "Scales", "least", "own_scales", "scales_of", "twice"]

#: The terms of a pass: those of its kernels, and the pass itself.
GROUP_TERMS: tuple[str, ...] = (*GROUPS, "pass")
#: Networks that the pull of a device's scales towards one weighs.
OWN_PULL = 4.0
#: How far a device's scales may lie from their common one.
APART = 3.0
#: Shortest and longest time of a pass that is taken for a measurement, s.
PASS_S = (1e-6, 3600.0)
#: Rounds of reweighting, and the relative error below which rows count alike.
ROUNDS, FLOOR = 10, 0.03

Scales = Any


def twice(keys: Sequence[Any]) -> dict[int, int]:
    """Rows whose key an earlier row has, with that row's place."""
    first: dict[Any, int] = {}
    return {i: at for i, key in enumerate(keys) if (at := first.setdefault(key, i)) != i}


def least(terms: Any, time_s: Any, usual: Any, pull: float, part: float = 0.005, rounds: int = ROUNDS) -> Any:
    """Factors of least absolute relative error, none below zero, pulled towards the usual ones as by ``pull`` rows.

    A term that takes less than ``part`` of a pass is pulled as one of that part.
    """
    from scipy.optimize import nnls

    share = terms / time_s[:, None]
    typical = np.sqrt(pull) * np.maximum(share.mean(axis=0), part / usual)
    weight = np.ones(len(time_s))
    found = usual
    for _ in range(rounds):
        left = np.vstack([share * weight[:, None], np.diag(typical)])
        found, _residual = nnls(left, np.concatenate([weight, typical * usual]))
        weight = 1.0 / np.sqrt(np.maximum(np.abs(share @ found - 1.0), FLOOR))
        weight /= weight.mean()
    return found


def own_scales(parts: Any, time_s: Any, pull: float = OWN_PULL) -> Scales:
    """Scales of arithmetic, traffic and the rest, from predicted parts ``[rows, terms]`` and measured times."""
    share = np.array([share_of(n) for n in GROUP_TERMS])
    return scales_of(np.stack([parts[:, share == i].sum(axis=1) for i in range(3)], axis=1), time_s, pull)


def scales_of(by: Any, time_s: Any, pull: float = OWN_PULL) -> Scales:
    """Scales of arithmetic, traffic and the rest, from those parts of each network's predicted time ``[rows, 3]``."""
    common = float(np.median(time_s / by.sum(axis=1)))
    return common * np.clip(least(by * common, time_s, np.ones(3), pull, 0.05), 1.0 / APART, APART)
