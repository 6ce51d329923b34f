"""Documents of unlike length packed into the sequences of a training step: attention stays inside of each.

Over documents of ``l`` tokens a token sees ``E[l^2] / (2 E[l])`` others on average, so pairs of attention are those of
sequences of ``E[l^2] / E[l]`` tokens. Replicas that were dealt longer documents are waited for: the pairs of a step's
replica vary by ``cv(l^2) / sqrt(documents)``, and the largest of ``n`` replicas lies ``z(n)`` of that above the mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steelyard.errors import InputError
from steelyard.traffic.lengths import parse_lengths

__all__ = ["Packing", "packing_of", "packing_of_lengths"]

#: Documents that are drawn of a distribution.
_DRAWN = 65_536
#: Equal shares of tokens whose documents are kept.
_QUANTILES = 256


@dataclass(frozen=True, slots=True)
class Packing:
    """Documents in the sequences of a step."""

    mean: float
    """Tokens of a document."""
    seen: float
    """Tokens of equal sequences with as many pairs a token: ``E[l^2] / E[l]``."""
    varies: float
    """Coefficient of variation of the pairs of a document."""
    text: str = ""
    quantiles: tuple[float, ...] = ()
    """Tokens of the documents in which equal shares of all tokens are, shortest first."""
    grouped: bool = False
    """Context-parallel ranks share a document in groups as wide as it needs."""

    def passed(self, tokens: float, ranks: int) -> float:
        """What context-parallel ranks pass around, over what one group of all would: ``E[g - 1] / (ranks - 1)``.

        Args:
            tokens: of a rank.
            ranks: of a sequence, at least 2.
        """
        if not self.grouped:
            return 1.0
        needed = np.asarray(self.quantiles) / tokens
        groups = np.minimum(2.0 ** np.ceil(np.log2(np.maximum(needed, 1.0))), ranks)
        return float(np.mean(groups - 1.0)) / (ranks - 1.0)

    def waits(self, tokens: Any, replicas: Any) -> Any:
        """Share by which the fullest of ``replicas`` has more pairs than the mean, of a step of ``tokens`` tokens.

        Documents of equal length, and one replica, wait for nothing; no replica has more than all pairs.
        """
        n = np.asarray(replicas, dtype=np.float64)
        each = np.maximum(np.asarray(tokens, dtype=np.float64) / n / self.mean, 1.0)
        largest = np.where(n > 1, np.sqrt(2.0 * np.log(np.maximum(n, 2.0))), 0.0)
        return np.minimum(self.varies / np.sqrt(each) * largest, n - 1.0)


def packing_of_lengths(lengths: NDArray[Any], text: str = "") -> Packing:
    """That of documents of these lengths, tokens."""
    found = np.asarray(lengths, dtype=np.float64)
    squares = found**2
    mean = float(found.mean())
    ordered = np.sort(found)
    at = np.searchsorted(np.cumsum(ordered), (np.arange(_QUANTILES) + 0.5) / _QUANTILES * ordered.sum())
    shares = tuple(float(x) for x in ordered[np.minimum(at, len(ordered) - 1)])
    return Packing(mean, float(squares.mean()) / mean, float(squares.std() / squares.mean()), text, shares)


def packing_of(text: Any, seq: int, seed: int = 0) -> Packing | None:
    """That of a distribution in words (``600``, ``lognormal:600``), documents cut at a sequence; None of no words.

    Raises:
        InputError: the words are wrong, or documents are longer than a sequence.
    """
    if text in (None, ""):
        return None
    drawn = parse_lengths(text, "docs").draw(_DRAWN, np.random.default_rng(seed))
    if float(np.median(drawn)) > seq:
        message = f"half of the documents of {text} tokens are longer than a sequence of {seq}: give --seq"
        raise InputError(message, field="docs")
    return packing_of_lengths(np.minimum(drawn, seq), str(text))
