"""Figures of results: one description that pages, reports and notebooks draw."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from steelyard.report.figures.figure import LIBRARY, Figure, asset, has_library

__all__ = ["LIBRARY", "Figure", "asset", "figures_of", "has_library"]


def _estimate(result: Any) -> list[Figure]:
    from steelyard.report.figures.estimate import estimate_figures

    return estimate_figures(result)


def _explanation(result: Any) -> list[Figure]:
    from steelyard.report.figures.estimate import explanation_figures

    return explanation_figures(result)


_FIGURES: dict[str, Callable[[Any], list[Figure]]] = {
    "Estimate": _estimate,
    "Explanation": _explanation,
}


def figures_of(result: Any) -> list[Figure]:
    """The figures of a result of a verb, in the order they are read; none for a kind that has no picture."""
    draw = next((_FIGURES[kind.__name__] for kind in type(result).__mro__ if kind.__name__ in _FIGURES), None)
    return draw(result) if draw else []
