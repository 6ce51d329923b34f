"""What is asked of a training run beside its length: a deadline, a budget."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from steelyard.errors import InputError, Problem, raise_all, show
from steelyard.units import parse_quantity

__all__ = ["LENGTHS", "OF_A_RUN", "Limits", "limits_of", "of_a_step"]

#: Words that mean something only for a run, and those that give its length.
OF_A_RUN = ("failures", "spares", "jitter", "by", "budget", "carbon")
LENGTHS = ("tokens", "samples", "epochs")


class Limits(NamedTuple):
    """When a run has to end and what it may cost; None where it may."""

    by_s: float | None
    budget_usd: float | None


def of_a_step(words: Mapping[str, Any]) -> dict[str, Any]:
    """Words of a question about a run, without those that only a run has."""
    return {n: v for n, v in words.items() if n not in (*LENGTHS, *OF_A_RUN)}


def limits_of(values: Mapping[str, Any]) -> Limits:
    """The limits that words give.

    Raises:
        InputError: one is no time or money, or a word of a run is given without its length.
    """

    def given(name: str) -> bool:
        return values.get(name) not in (None, "")

    problems: list[Problem] = []
    found: dict[str, float | None] = {"by": None, "budget": None}
    for name, unit, such in (("by", "s", "a time such as 30d"), ("budget", "USD", "money such as 3Musd")):
        if given(name):
            try:
                found[name] = parse_quantity(values[name], unit, name)
            except InputError:
                problems.append(Problem(name, f"expected {such}, got {show(str(values[name]))}"))
            else:
                if not 0 < (found[name] or 0.0) < 1e15:
                    problems.append(Problem(name, f"expected more than 0 {unit}, got {show(str(values[name]))}"))
    useless = [name for name in OF_A_RUN if given(name)]
    if useless and not any(given(name) for name in LENGTHS):
        message = f"expected the tokens of the run (15.6T), without which --{useless[0]} says nothing"
        problems.append(Problem("tokens", message))
    raise_all(problems)
    return Limits(found["by"], found["budget"])
