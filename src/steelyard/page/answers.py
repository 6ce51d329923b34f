"""Answers of screens: asked of the library, kept while the page runs."""

from __future__ import annotations

import dataclasses
import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any

from steelyard._version import __version__
from steelyard.errors import InputError, SteelyardError
from steelyard.page.problems import Wrong, wrong_of
from steelyard.page.question import Question
from steelyard.page.screen import Screen, Shown
from steelyard.provenance import content_hash
from steelyard.report.figures.figure import markup

__all__ = ["Answers", "Column", "asked", "column_of", "figure_html", "json_text", "key_of", "shown_dict", "shown_from"]

#: Answers of quick screens that are kept in memory.
KEPT = 256


@dataclass(frozen=True)
class Column:
    """One question of a screen and its answer, as the templates see it."""

    number: int
    given: Mapping[str, Sequence[str]]
    shown: Shown | None = None
    problems: Sequence[Wrong] = ()
    command: str = ""
    python: str = ""
    query: str = ""
    """Of this question alone, for the links to JSON and CSV."""

    def answered(self, shown: Shown) -> Column:
        """The same with its answer."""
        return replace(self, shown=shown)

    def refused(self, problems: Sequence[Wrong]) -> Column:
        """The same with what is wrong with it."""
        return replace(self, problems=problems)

    def figure(self, name: str) -> str:
        """A figure as HTML; empty where the answer has none of this name."""
        for one in self.shown.figures if self.shown else ():
            if one["name"] == name:
                return figure_html(one, self.number)
        return ""

    @property
    def figures(self) -> list[str]:
        """The names of all figures."""
        return [one["name"] for one in self.shown.figures] if self.shown else []


def figure_html(figure: Mapping[str, Any], column: int = 1) -> str:
    """A figure that was made plain, as HTML; its name is that of its column."""
    return markup(figure if column == 1 else {**figure, "name": f"{figure['name']}-{column}"})


def nothing(words: str, share: float | None = None) -> None:
    """Progress that nobody looks at."""


def key_of(screen: Screen, given: Mapping[str, Sequence[str]]) -> str:
    """The name of an answer: a hash of the version, the screen and the question."""
    said = {name: list(values) for name, values in sorted(given.items())}
    return content_hash({"version": __version__, "screen": screen.name, "given": said})


def asked(question: Question, column: int = 0) -> Shown:
    """The answer to a column. Raises :class:`~steelyard.errors.SteelyardError`."""
    return question.screen.ask(question.words(column), nothing)


class Answers:
    """The last answers of quick screens."""

    def __init__(self, most: int = KEPT) -> None:
        self._kept: OrderedDict[str, Shown] = OrderedDict()
        self._most, self._lock = most, Lock()

    def of(self, question: Question, column: int = 0) -> Shown:
        """The answer to a column of a question. Raises :class:`~steelyard.errors.SteelyardError`."""
        key = key_of(question.screen, question.columns[column])
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        found = asked(question, column)
        with self._lock:
            self._kept[key] = found
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return found

    def columns(self, question: Question) -> list[Column]:
        """Every column with its answer, or with what is wrong with it."""
        found = []
        for i in range(len(question.columns)):
            made = column_of(question, i)
            try:
                found.append(made.answered(self.of(question, i)))
            except SteelyardError as error:
                found.append(made.refused(wrong_of(error)))
        return found


def column_of(question: Question, i: int) -> Column:
    """A column without its answer."""
    alone = Question(question.screen, (question.columns[i],))
    return Column(
        i + 1,
        question.columns[i],
        command=question.command(i),
        python=question.python(i),
        query=alone.query,
    )


def shown_dict(shown: Shown) -> dict[str, Any]:
    """An answer as plain values."""
    return {f.name: getattr(shown, f.name) for f in dataclasses.fields(shown)}


def shown_from(data: Any) -> Shown:
    """An answer from what :func:`shown_dict` made. Raises :class:`InputError`: it is none."""
    names = {f.name for f in dataclasses.fields(Shown)}
    if not isinstance(data, dict) or set(data) != names or not isinstance(data["document"], dict):
        raise InputError("expected a stored answer", field="answer")
    return Shown(**data)


def json_text(document: Mapping[str, Any]) -> str:
    """A document as the command writes it."""
    return json.dumps(document, indent=2, allow_nan=False) + "\n"
