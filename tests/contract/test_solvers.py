"""Every built-in solver and predictor keeps its contract, and so does a space of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from steelyard.exploration.predictors import PREDICTORS
from steelyard.exploration.solver import SOLVERS
from steelyard.testing.predictors import PredictorContract
from steelyard.testing.solvers import SolverContract
from steelyard.testing.spaces import SpaceContract
from steelyard.workload.networks.search_space import Space, find_space

SPACE = """
family = "mobile"
config = { stem = 8, head = 64 }

[choose]
size = [32, 48]

[[stage]]
row = "mb {channels} k{kernel} s2 x3 n{depth}"
each = ["kernel"]
choose = { channels = [16, 24], kernel = [3, 5], depth = [1, 2] }
"""


class TestSolvers(SolverContract):
    @pytest.fixture(params=["annealing", "bandit", "evolution", "halving", "nsga2", "nsga3", "random", "tpe"])
    def solver(self, request: pytest.FixtureRequest) -> Any:
        if request.param in ("nsga2", "nsga3", "tpe"):
            pytest.importorskip("optuna")
        return SOLVERS.get(request.param)

    def search(self, solver: Any, budget: int = 1000, seed: int = 1, **more: Any) -> Any:
        # The Bayesian one takes a tenth of a second a point once it knows many.
        return super().search(solver, min(budget, 192) if solver.name == "tpe" else budget, seed, **more)


class TestPredictors(PredictorContract):
    @pytest.fixture(params=["counts", "hierarchical", "macs", "priced", "proxy"])
    def predictor(self, request: pytest.FixtureRequest) -> Any:
        return PREDICTORS.get(request.param)


class TestSpaces(SpaceContract):
    @pytest.fixture
    def space(self, tmp_path: Path) -> Space:
        (tmp_path / "mine.toml").write_text(SPACE)
        return find_space(str(tmp_path / "mine.toml"))
