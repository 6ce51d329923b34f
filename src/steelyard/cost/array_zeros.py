"""Zeros on an array: multipliers that gate or skip them, how evenly the rest falls on them, memories without them.

With shares ``d`` of values that are not zero::

    gated     a product with a zero moves no multiplier, no sum, and of the other operand nothing; its cycle passes
    skipped   it takes no cycle either, but multipliers wait for the slowest of them:
              cycles / dense cycles = E[max of L binomials (n, d)] / n
              n   products of a multiplier between two waits: those of an output, or all
              L   multipliers whose operands are unlike; a zero that all of them share is skipped by all
    queued    Q operands wait at each multiplier: d (1 + (1 - d) / d H(L) / 2 N), N dense products that wait, H(L) the
              sum of 1 / i up to L, some ln L + 0.577
    bitmap    d + 1 / b                          of the b bits of a value
    runs      d / (1 - (1 - d)^(2^r)) (1 + r / b)     r bits before a value say how many zeros; longer runs in pieces

Zeros lie anywhere with equal chance: what training makes of whole channels or regions is not seen. The queue is a walk
between two walls (J. M. Harrison, Brownian motion and stochastic flow systems, 1985): backlogs of negative drift whose
largest of L touches the end; no more than waiting after every full queue. A simulation of it is 5 % above at most.
Sources: Y.-H. Chen et al., Eyeriss, JSSC 2017 (gating, runs); S. Han et al., EIE, ISCA 2016 (queues, runs);
A. Parashar et al., SCNN, ISCA 2017.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, ndtri

from steelyard.cost.array_mapping import HAS
from steelyard.cost.net_effect import Density
from steelyard.machine.component import Compute

__all__ = ["done_share", "largest_binomial", "near_shares", "packed_share", "run_entries", "taken_share", "turns_left"]

Floats = NDArray[np.float64]
#: Lists of so many longest runs end so seldom that their ends are not seen.
_LONG = 64.0
#: Binomials of so many trials are summed; larger ones are normal.
_SUMMED = 4096


def _zeros_of(word: str) -> tuple[bool, bool]:
    """Whether ``weights``, ``inputs`` or ``both`` names each operand."""
    return word in ("weights", "both"), word in ("inputs", "both")


def largest_binomial(trials: Any, chance: Any, lanes: Any) -> Floats:
    """Expected largest of so many binomials, arrays broadcast: ``sum over x of 1 - F(x)^lanes``.

    Beyond some thousand trials ``n d + sqrt(n d (1 - d)) z``, ``z`` the expected largest of so many normals (G. Blom,
    1958).
    """
    n, d, count = np.broadcast_arrays(
        *(np.atleast_1d(np.asarray(x, dtype=np.float64)) for x in (trials, chance, lanes))
    )
    z = ndtri((np.maximum(count, 1.0) - 0.375) / (np.maximum(count, 1.0) + 0.25))
    found = np.minimum(n, n * d + np.sqrt(n * d * (1.0 - d)) * z)
    for at in zip(*np.nonzero((n <= _SUMMED) & (d < 1.0)), strict=True):
        below = bdtr(np.arange(int(n[at])), int(n[at]), d[at])
        found[at] = float(np.sum(1.0 - below ** count[at]))
    return np.asarray(found, dtype=np.float64)


def run_entries(density: float, run_bits: float, length: float = np.inf) -> float:
    """Entries of a list of runs over its values, a zero among them where a run is longer than its bits can say.

    Zeros at the end of a list need none: with ``q = 1 - d``, ``R = 2^r``, ``s`` places before a run begins,
    ``d + sum over s and j of P(s) q^(R j) (1 - q^(length - s - R j)) / length``.

    Args:
        density: share of values that are not zero.
        run_bits: that say how many zeros are before an entry.
        length: values of a list.
    """
    piece, zero = 2.0**run_bits, 1.0 - density
    if density <= 0.0:
        return 0.0 if length <= _LONG * piece else 1.0 / piece
    if length > _LONG * piece:
        return float(density / (1.0 - zero**piece))
    begins, pieces = np.arange(int(length))[:, None], np.arange(1, int(length // piece) + 1)[None]
    left = length - begins - piece * pieces
    chance = np.where(begins == 0, 1.0, density) * zero ** (piece * pieces) * (1.0 - zero ** np.maximum(left, 0.0))
    return float(density + chance.sum() / length)


def turns_left(layer: Floats, ways: Floats, engine: Compute, density: Density, run_bits: float = 0.0) -> Floats:
    """Turns of an array that skips zeros over those of one that does not, ``[ways]``.

    Args:
        layer: its loops (:data:`steelyard.cost.array_mapping.LAYER`).
        ways: how it is spread over multipliers ``[ways, 8]``.
        engine: the array.
        density: shares that are not zero.
        run_bits: of weights that are packed in lists of runs, the outputs of a multiplier in each; 0: they are not.
    """
    of_weights, of_inputs = _zeros_of(engine.skips)
    turns = np.ceil(layer[:8] / ways)
    inputs: Any = density.inputs if of_inputs else 1.0
    weights: Any = density.weights if of_weights else 1.0
    if of_weights and run_bits and weights < 1.0:
        weights = np.array([run_entries(density.weights, run_bits, n) for n in turns[:, 1]])
    if np.min(weights) * inputs >= 1.0:
        return np.ones(len(ways))
    unlike = [ways[:, has].prod(axis=1) for has in HAS[:2]]
    shared = np.where(unlike[0] > 1, 1.0, weights) * np.where(unlike[1] > 1, 1.0, inputs)
    d = weights * inputs / shared
    lanes = ways.prod(axis=1) if of_weights and of_inputs else unlike[0 if of_weights else 1]
    lanes = np.where((weights < 1.0) & (inputs < 1.0) & (shared < 1.0), np.maximum(*unlike), lanes)
    if engine.queue:
        each = turns[:, 1] if np.max(weights) < 1.0 else 1.0 / d
        waiting = np.maximum(1.0, engine.queue - 1.0) * each
        spread = (1.0 - d) / d * np.where(lanes > 1, np.log(lanes) + np.euler_gamma, 0.0) / (2.0 * waiting)
        full = np.maximum(1.0, np.rint(engine.queue * each))
        return np.asarray(shared * np.minimum(d * (1.0 + spread), largest_binomial(full, d, lanes) / full))
    between = (turns[:, ~HAS[2]] if engine.settles == "output" else turns).prod(axis=1)
    n = np.maximum(1.0, np.rint(between * shared))
    return np.asarray(shared * largest_binomial(n, d, lanes) / n)


def done_share(engine: Compute, density: Density) -> float:
    """Products that draw energy over all of them: those of operands whose zeros are neither gated nor skipped."""
    gates, skips = _zeros_of(engine.gates), _zeros_of(engine.skips)
    return float(np.prod([d if g or s else 1.0 for g, s, d in zip(gates, skips, density[:2], strict=True)]))


def taken_share(engine: Compute, density: Density) -> float:
    """Products that take a cycle over all of them: those of operands whose zeros are not skipped."""
    return float(np.prod([d if s else 1.0 for s, d in zip(_zeros_of(engine.skips), density[:2], strict=True)]))


def near_shares(engine: Compute, density: Density) -> tuple[float, float, float]:
    """Accesses of weights, inputs and sums beside the multipliers over those of an array that takes every zero.

    A zero that is gated is read and found to be one; the other operand and the sum are left alone. One that is skipped
    is not read.
    """
    gates, skips = _zeros_of(engine.gates), _zeros_of(engine.skips)
    known = [g or s for g, s in zip(gates, skips, strict=True)]
    weights = (density.inputs if known[1] else 1.0) * (density.weights if skips[0] else 1.0)
    inputs = (density.weights if known[0] else 1.0) * (density.inputs if skips[1] else 1.0)
    return weights, inputs, done_share(engine, density)


def packed_share(density: float, bits: float, run_bits: float) -> float:
    """Bits of a value in a memory without zeros over those of a plain one; plain where that is less.

    Args:
        density: share of values that are not zero.
        bits: of a value.
        run_bits: that say how many zeros are before a value; 0: a bit for each value says whether it is zero.
    """
    if density >= 1.0:
        return 1.0
    if not run_bits:
        return min(1.0, density + 1.0 / bits)
    return float(min(1.0, run_entries(density, run_bits) * (1.0 + run_bits / bits)))
