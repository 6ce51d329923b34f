"""The contract of a solver, as tests an author runs.

Subclass :class:`SolverContract` in a test module and give it a solver::

    class TestMySolver(SolverContract):
        @pytest.fixture
        def solver(self):
            return MySolver
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from steelyard.exploration.explore import Explored, Figures, explore, hypervolume
from steelyard.exploration.solver import SOLVERS, Codes

__all__ = ["SolverContract", "prices"]

#: A space of 4,096 points, a figure of effort and one of error that pull apart, and a limit.
SIZES = (8, 8, 8, 8)


def prices(codes: Codes) -> Figures:
    """Effort: choices and how neighbours differ, with a limit. Error: falls with a weighed sum."""
    x = codes / 7.0
    effort = x.sum(axis=1) + 0.5 * np.abs(np.diff(x, axis=1)).sum(axis=1)
    error = 1.0 / (0.1 + x @ np.array([4.0, 2.0, 1.0, 0.5]))
    return Figures(np.stack([effort, error], axis=1), np.maximum(effort / 3.0 - 1.0, 0.0))


class SolverContract:
    """What must hold for every solver."""

    #: Share of the exact front's hypervolume that 1,000 of 4,096 points must reach.
    ENOUGH = 0.9

    @pytest.fixture
    def solver(self) -> Any:
        """The solver's class; override this."""
        raise NotImplementedError("override the solver fixture")

    def search(self, solver: Any, budget: int = 1000, seed: int = 1, **more: Any) -> Explored:
        """A search with it, reached by a name of this test."""
        name = f"under test {solver.__module__}.{solver.__qualname__}"
        if name not in SOLVERS.names():
            SOLVERS.add(name, solver)
        return explore(prices, SIZES, 2, solver=name, budget=budget, seed=seed, **more)

    def test_points_are_of_the_space(self, solver: Any) -> None:
        """Whole numbers from 0 to below the size of each place, at most as many as were asked for."""
        made = solver(SIZES, 2, 3)
        for n in (1, 7, 64):
            codes = np.asarray(made.ask(n))
            assert 1 <= len(codes) <= n
            assert codes.shape[1] == len(SIZES)
            assert ((codes >= 0) & (codes < np.array(SIZES))).all()
            figures = prices(codes)
            made.tell(codes, figures.values, figures.broken)

    def test_the_same_seed_gives_the_same_points(self, solver: Any) -> None:
        """So that a search can be gone on from its log."""
        assert np.array_equal(self.search(solver, 200).codes, self.search(solver, 200).codes)

    def test_points_without_an_answer_are_taken(self, solver: Any) -> None:
        """Infinite figures end no search."""
        made = solver(SIZES, 2, 5)
        for _ in range(3):
            codes = made.ask(16)
            made.tell(codes, np.full((len(codes), 2), np.inf), np.zeros(len(codes)))

    def test_a_place_of_one_value_is_taken(self, solver: Any) -> None:
        """Nothing to choose there."""
        made = solver((1, 3, 1), 2, 5)
        codes = made.ask(8)
        assert (codes[:, [0, 2]] == 0).all()

    def test_it_nears_the_exact_front(self, solver: Any) -> None:
        """Against every point listed; the limit is kept."""
        grid = np.stack(np.unravel_index(np.arange(np.prod(SIZES)), SIZES), axis=1)
        exact, found = prices(grid), self.search(solver)
        reference = np.array([3.3, 10.5])
        whole = hypervolume(exact.values[exact.broken <= 0], reference)
        assert (found.broken[found.front] <= 0).all()
        assert hypervolume(found.values[found.front], reference) >= self.ENOUGH * whole
