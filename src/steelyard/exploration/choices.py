"""Spaces of choices: what can be chosen, as a file or from code; points are rows of numbers of choices.

A file (``steelyard.choices/1``) lists choices of any kind of value, whole numbers from a range, and choices that only
matter where another has certain values::

    schema = "steelyard.choices/1"
    title = "Widths and depths"
    [[choice]]
    name = "width"
    values = [0.5, 0.75, 1.0]
    [[choice]]
    name = "blocks"
    first = 2          # whole numbers from 2 to 8, two apart
    last = 8
    step = 2
    [[choice]]
    name = "ratio"
    values = [0.25, 0.5]
    when = { width = [0.75, 1.0] }
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from steelyard.errors import InputError, Problem, UnknownName, raise_all, show

__all__ = ["LARGEST", "Choice", "Choices"]

Codes = NDArray[np.int64]
#: Most points that are listed whole, and most values of a choice.
LARGEST, MOST_VALUES = 2_000_000, 10_000

Value = bool | int | float | str


@dataclass(frozen=True)
class Choice:
    """One thing to be chosen: ``values``, or the whole numbers ``first``, ``first + step``, ... up to ``last``."""

    __pydantic_config__ = {"extra": "forbid"}

    name: Annotated[str, "what it is called"]
    values: Annotated[tuple[Value, ...], "what it may be"] = ()
    first: Annotated[int | None, "the least whole number"] = None
    last: Annotated[int | None, "the largest whole number"] = None
    step: Annotated[int, "from one whole number to the next"] = 1
    when: Annotated[Mapping[str, tuple[Value, ...]], "values of earlier choices where it matters"] = field(
        default_factory=dict
    )

    def __post_init__(self) -> None:
        raise_all(list(self._problems()))

    def _problems(self) -> Iterator[Problem]:
        ranged = self.first is not None or self.last is not None
        if not self.name.strip():
            yield Problem("name", "expected a name")
        if bool(self.values) == ranged:
            yield Problem("values", f"expected either values, or first and last, of {show(self.name)}")
        elif self.step < 1:
            yield Problem("step", f"expected at least 1, got {self.step}")
        elif ranged and (self.first is None or self.last is None or self.last < self.first):
            yield Problem("last", f"expected first and last, first not above last, of {show(self.name)}")
        elif self.number > MOST_VALUES:
            yield Problem("values", f"expected at most {MOST_VALUES:,} values of {show(self.name)}")
        elif len({(type(v) is bool, v) for v in self.values}) < len(self.values):
            yield Problem("values", f"a value of {show(self.name)} is there twice")

    @property
    def number(self) -> int:
        """How many values it has."""
        if self.values or self.first is None or self.last is None:
            return len(self.values)
        return (self.last - self.first) // self.step + 1

    @cached_property
    def all_values(self) -> tuple[Value, ...]:
        """Its values, whole numbers of a range written out."""
        if self.values or self.first is None or self.last is None:
            return self.values
        return tuple(range(self.first, self.last + 1, self.step))


@dataclass(frozen=True)
class Choices:
    """A space: one value of each choice. A choice whose ``when`` is not met is held at its first value."""

    __pydantic_config__ = {"extra": "forbid"}

    choice: tuple[Choice, ...]
    schema: str = "steelyard.choices/1"
    title: str = ""

    def __post_init__(self) -> None:
        raise_all(list(self._problems()))

    def _problems(self) -> Iterator[Problem]:
        if not self.choice:
            yield Problem("choice", "expected at least one [[choice]]")
        before: dict[str, Choice] = {}
        for c in self.choice:
            if c.name in before:
                yield Problem(f"choice.{c.name}", "the name is there twice")
            for other, values in c.when.items():
                if other not in before:
                    yield Problem(f"choice.{c.name}.when", UnknownName("earlier choice", other, list(before)).message)
                elif wrong := [v for v in values if v not in before[other].all_values]:
                    yield Problem(f"choice.{c.name}.when", f"{other} is never {show(wrong[0])}")
            before[c.name] = c

    @property
    def names(self) -> tuple[str, ...]:
        """Of the choices."""
        return tuple(c.name for c in self.choice)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """How many values each choice has."""
        return tuple(c.number for c in self.choice)

    @property
    def size(self) -> int:
        """Points at most (points that differ in what does not matter are one)."""
        total = 1
        for n in self.sizes:
            total *= n
        return total

    def settled(self, codes: Codes) -> Codes:
        """Points ``[n, choices]`` with every choice that does not matter at its first value."""
        found = np.array(codes, dtype=np.int64)
        at = {c.name: i for i, c in enumerate(self.choice)}
        matters = np.ones(found.shape, dtype=bool)
        for i, c in enumerate(self.choice):
            for other, values in c.when.items():
                known = self.choice[at[other]].all_values
                met = np.isin(found[:, at[other]], [known.index(v) for v in values])
                matters[:, i] &= met & matters[:, at[other]]
            found[~matters[:, i], i] = 0
        return found

    def all(self) -> Codes:
        """Every point that differs in what matters. Raises :class:`InputError`: too many to list."""
        if self.size > LARGEST:
            raise InputError(f"{self.size:.2g} points are too many to list, {LARGEST:,} are the most", field="space")
        codes = np.stack(np.unravel_index(np.arange(self.size), self.sizes), axis=1).astype(np.int64)
        settled = self.settled(codes)
        return np.asarray(codes[(settled == codes).all(axis=1)])

    def columns(self, codes: Codes) -> dict[str, NDArray[Any]]:
        """The values of points ``[n, choices]``: an array ``[n]`` a choice."""
        return {c.name: np.array(c.all_values)[codes[:, i]] for i, c in enumerate(self.choice)}

    def values(self, code: Sequence[int]) -> dict[str, Value]:
        """The values of one point, those that matter."""
        found: dict[str, Value] = {}
        for c, place in zip(self.choice, code, strict=True):
            if all(other in found and found[other] in values for other, values in c.when.items()):
                found[c.name] = c.all_values[int(place)]
        return found

    def spell(self, code: Sequence[int]) -> str:
        """A point as text: ``width=0.5 blocks=4``."""
        return " ".join(f"{name}={value}" for name, value in self.values(code).items())
