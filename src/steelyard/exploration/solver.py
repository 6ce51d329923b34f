"""Solvers of searches: what to try next, and what came of it. The contract, and the built-in ones by name.

A solver asks for points and is told what they cost; it never sees what is searched. A plug-in is a class with the
methods of :class:`Solver`, declared in the entry-point group ``steelyard.solvers``;
:class:`steelyard.testing.solvers.SolverContract` tests it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from steelyard.errors import InputError, check_whole
from steelyard.registry import Registry
from steelyard.scenario.words import Problems

__all__ = ["SOLVERS", "Codes", "Floats", "Solver", "check_efforts", "check_seed"]

Codes = NDArray[np.int64]
Floats = NDArray[np.float64]


@runtime_checkable
class Solver(Protocol):
    """Proposes points of a space of choices.

    A solver may have an attribute ``effort``: with which share of the whole effort (of the epochs of a training, say)
    the points that it asked for last are to be scored, above 0 to 1. Points of less than all of it are on no front.

    Args (of the class):
        sizes: how many values each place has.
        objectives: how many figures are made small.
        seed: of all it draws: the same seed and the same answers propose the same points.
    """

    def __init__(self, sizes: Sequence[int], objectives: int, seed: int) -> None: ...

    def ask(self, n: int) -> Codes:
        """At most ``n`` points ``[k, places]``, one and more, each number from 0 to below its size."""
        ...

    def tell(self, codes: Codes, values: Floats, broken: Floats) -> None:
        """What points cost.

        Args:
            codes: as they were asked for.
            values: ``[k, objectives]``, small is good; infinite where a point has no answer.
            broken: ``[k]``, by how much a point breaks its limits, 0 where it keeps all, relative to the limits.
        """
        ...


#: Solvers by name.
SOLVERS: Registry[type[Solver]] = Registry("solver", "steelyard.solvers")


def check_efforts(solver: str, what: str) -> None:
    """Refuse a solver that scores with less effort where nothing can. Raises :class:`InputError`."""
    if hasattr(SOLVERS.get(solver), "effort"):
        raise InputError(
            f"{solver} scores points with a part of the effort first: {what}; expected another solver, or auto",
            field="solver",
        )


def check_seed(seed: Any, problems: Problems) -> None:
    """Note a seed that not every solver takes."""
    problems.read(check_whole, seed, "seed", 0, 2**32 - 1)
