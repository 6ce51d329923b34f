"""Solvers of Optuna behind the contract of ours: tree-structured Parzen estimators, NSGA-II and NSGA-III."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from steelyard.errors import InputError
from steelyard.exploration.solver import Codes, Floats

__all__ = ["Nsga2", "Nsga3", "Tpe"]


class _Optuna:
    """A study in memory, asked and told; limits by Optuna's constraints."""

    name = ""

    def __init__(self, sizes: Sequence[int], objectives: int, seed: int) -> None:
        optuna = _library()
        self.sizes = tuple(int(s) for s in sizes)
        self.places = {
            f"x{i}": optuna.distributions.CategoricalDistribution(tuple(range(s))) for i, s in enumerate(self.sizes)
        }
        self.study = optuna.create_study(directions=["minimize"] * objectives, sampler=self._sampler(optuna, seed))
        self.open: list[Any] = []

    def _sampler(self, optuna: Any, seed: int) -> Any:
        raise NotImplementedError

    def ask(self, n: int) -> Codes:
        """So many trials."""
        self.open = [self.study.ask(self.places) for _ in range(n)]
        return np.array([[t.params[p] for p in self.places] for t in self.open], dtype=np.int64)

    def tell(self, codes: Codes, values: Floats, broken: Floats) -> None:
        """Close them."""
        from optuna.trial import TrialState

        for trial, value, over in zip(self.open, values, broken, strict=False):
            trial.set_constraint("limits", float(over))
            if np.isfinite(value).all():
                self.study.tell(trial, [float(v) for v in value])
            else:
                self.study.tell(trial, state=TrialState.FAIL)


class Tpe(_Optuna):
    """Bayesian: tree-structured Parzen estimators (Bergstra et al. 2011)."""

    name = "tpe"

    def _sampler(self, optuna: Any, seed: int) -> Any:
        return optuna.samplers.TPESampler(seed=seed, multivariate=True)


class Nsga2(_Optuna):
    """Optuna's NSGA-II."""

    name = "nsga2"

    def _sampler(self, optuna: Any, seed: int) -> Any:
        return optuna.samplers.NSGAIISampler(seed=seed)


class Nsga3(_Optuna):
    """Optuna's NSGA-III, for more than three figures."""

    name = "nsga3"

    def _sampler(self, optuna: Any, seed: int) -> Any:
        return optuna.samplers.NSGAIIISampler(seed=seed)


def _library() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise InputError("this solver needs Optuna: pip install 'steelyard[opt]'", field="solver") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna
