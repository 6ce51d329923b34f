"""Figures of results: one description that pages, reports and notebooks draw."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from steelyard.report.figures.figure import LIBRARY, Figure, asset, has_library

__all__ = ["LIBRARY", "Figure", "asset", "figures_of", "has_library"]


#: Module and function of the figures of each kind of result.
_FIGURES: Mapping[str, tuple[str, str]] = {
    "Estimate": ("estimate", "estimate_figures"),
    "Explanation": ("estimate", "explanation_figures"),
    "NetEstimate": ("network", "network_figures"),
    "SpaceEstimate": ("network", "space_figures"),
    "Simulation": ("simulation", "simulation_figures"),
    "Answer": ("plan", "plan_figures"),
    "TrainEstimate": ("train", "train_figures"),
    "TrainAnswer": ("train_plan", "plan_figures"),
    "Findings": ("study", "study_figures"),
    "Comparison": ("beside", "comparison_figures"),
    "Replay": ("beside", "replay_figures"),
    "LlamaBench": ("beside", "llama_bench_figures"),
    "Places": ("beside", "place_figures"),
    "NetworkSearch": ("search", "network_figures"),
    "Allocation": ("search", "allocation_figures"),
    "ChipSearch": ("search", "chip_figures"),
    "Codesign": ("search", "codesign_figures"),
    "SearchCost": ("search", "cost_figures"),
    "Leaderboard": ("search", "predictor_figures"),
}


def figures_of(result: Any) -> list[Figure]:
    """The figures of a result of a verb, in the order they are read; none for a kind that has no picture."""
    place = next((_FIGURES[kind.__name__] for kind in type(result).__mro__ if kind.__name__ in _FIGURES), None)
    if place is None:
        return []
    found: list[Figure] = getattr(import_module(f"steelyard.report.figures.{place[0]}"), place[1])(result)
    return found
