"""Why techniques refuse a question: reasons that several of them have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from steelyard.errors import InputError, Problem

__all__ = ["no_answers", "no_cache", "refused_by"]


def no_answers(name: str, model: Any) -> list[Problem]:
    """Of a model that answers nothing, token after token."""
    return [] if model.causal else [Problem(name, f"{model.name} does not generate")]


def no_cache(name: str, model: Any) -> list[Problem]:
    """Of a model without a cache."""
    return [] if model.causal else [Problem(name, f"{model.name} does not generate: it has no KV cache")]


def refused_by(name: str, look: Callable[[], Any]) -> list[Problem]:
    """What is wrong with something that a parameter names: ``look`` finds it or raises :class:`InputError`."""
    try:
        look()
    except InputError as error:
        return [Problem(name, problem.message) for problem in error.problems]
    return []
