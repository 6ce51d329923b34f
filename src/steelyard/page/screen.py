"""A screen: a verb, its form, and what an answer shows. Adding one is a file of ``screens`` and a template.

``query -> words -> Screen.ask -> Shown -> page, JSON, CSV``: everything between the two ends is the same for all
screens. ``docs/methods/page.md`` has the smallest one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Any

from steelyard.errors import InputError, UnknownName
from steelyard.scenario.fields import Field

__all__ = ["SCREENS", "Screen", "Shown", "fact", "screen", "screens", "with_addresses"]

#: Modules of :mod:`steelyard.page.screens` in the order of the navigation; each has its ``SCREEN``.
SCREENS = (
    "estimate",
    "plan",
    "simulate",
    "train",
    "train_plan",
    "advise",
    "literature",
    "validation",
    "catalogue",
    "machine",
)

#: Called with what is being done, in words, and the share that is done (0 to 1) where it is known.
Tell = Callable[[str, float | None], None]


@dataclass(frozen=True)
class Shown:
    """An answer, of plain values alone: it is kept, sent between processes and rendered more than once."""

    document: Mapping[str, Any]
    """The JSON form, exactly that of the command's ``--json``."""
    rows: Sequence[Mapping[str, Any]] = ()
    """The rows of the CSV form."""
    figures: Sequence[Mapping[str, Any]] = ()
    """Charts, as :meth:`steelyard.report.figures.Figure.to_dict` makes them."""
    view: Mapping[str, Any] = field(default_factory=dict)
    """What the template needs beside these."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Texts to download by file name."""


@dataclass(frozen=True)
class Screen:
    """One screen of the page."""

    name: str
    """Its path: ``/plan``, ``/api/plan``."""
    title: str
    says: str
    """What it answers, one line."""
    ask: Callable[[Mapping[str, Any], Tell], Shown]
    """The answer to the words of a question. Raises :class:`~steelyard.errors.InputError`."""
    verb: str = ""
    """Whose fields its form has, as :func:`steelyard.scenario.fields.fields_of` knows them; empty: no form."""
    command: str = ""
    """The verb of the command line, where it is called otherwise: ``plan --train``."""
    function: str = ""
    """The function of :mod:`steelyard`, where it is called otherwise: ``plan_training``."""
    usual: str = ""
    """Fields of its form that are always in sight, in words; the others are folded under each topic."""
    sliders: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Fields with a slider beside them: least and most, on a logarithmic scale."""
    shown: Callable[[Mapping[str, Any]], frozenset[str]] | None = None
    """The fields of the form for these words; default: all of the verb."""
    start: Mapping[str, str] = field(default_factory=dict)
    """The question shown first, by field."""
    columns: int = 1
    """Questions side by side at most."""
    together: Callable[[Sequence[Shown]], Sequence[Mapping[str, Any]]] | None = None
    """Figures of several answers at once, of a screen with columns."""
    long: bool = False
    """Whether it runs in a process of its own, tells its progress and is kept."""
    minutes: bool = False
    """Whether its first question asks so many others that an export leaves it unasked."""
    template: str = ""
    """The fragment of an answer; default: ``NAME.html``. It extends nothing and sees ``shown`` and ``state``."""
    fields: Callable[[], Mapping[str, Field]] | None = None
    """The fields of its form where they are not those of a verb; each group is a topic of theirs."""
    listed: bool = True
    """Whether the navigation names it."""
    under: str = ""
    """The listed screen that it is another side of."""
    sides: Callable[[Mapping[str, Sequence[str]]], Sequence[tuple[str, str]]] | None = None
    """Title and address of its sides for what is given, this one among them: shown as tabs above the answer."""
    examples: Sequence[tuple[str, Mapping[str, str]]] = ()
    """Questions offered where none was answered yet: what each asks, and its words."""
    brings: Sequence[tuple[str, str]] = ()
    """What an answer shows: the sketch of ``sketch.html`` beside it, and the words."""
    made: Mapping[str, Callable[[Mapping[str, Any]], str]] = field(default_factory=dict)
    """Files that are large: each is made from the words of a question when it is asked for, by name."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    """What it takes beside the fields of its verb, by name with what it means (of a screen without a form)."""

    def refuse_unknown(self, words: Mapping[str, Any]) -> None:
        """Refuse a word that is none of its parameters. Raises :class:`InputError`."""
        for name in words:
            if name not in self.parameters:
                raise InputError(UnknownName("parameter", name, self.parameters).message, field=name)

    @property
    def fragment(self) -> str:
        """The template of an answer."""
        return self.template or f"{self.name}.html"

    @property
    def typed(self) -> str:
        """The words of the command line before its options."""
        return self.command or self.name

    @property
    def called(self) -> str:
        """The name of the function in Python."""
        return self.function or self.verb or self.name


def fact(name: str, label: str, value: float | None, unit: str, below: str = "", ends: Any = None) -> dict[str, Any]:
    """One figure of the strip of an answer.

    Args:
        name: by which it is found: ``ttft_s``.
        label: above it.
        value: in SI units; None: not known.
        unit: ``s``, ``USD``, ...; ``1`` of a plain number.
        below: what is said below it.
        ends: its 80 % interval.
    """
    return {"name": name, "label": label, "value": value, "unit": unit, "below": below, "interval": ends}


def with_addresses(figure: dict[str, Any], places: Mapping[str, str]) -> dict[str, Any]:
    """A plain figure whose points open an address at a click.

    Args:
        figure: as :meth:`steelyard.report.figures.Figure.to_dict` makes it; it is changed.
        places: addresses of this server by the words of a point.
    """
    for series in figure["option"]["series"]:
        for point in series.get("data", ()):
            if isinstance(point, dict) and (address := places.get(point.get("words", ""))):
                point["open"] = address
    return figure


@cache
def screens() -> Mapping[str, Screen]:
    """Every screen by name, in the order of the navigation."""
    found = [import_module(f"steelyard.page.screens.{name}").SCREEN for name in SCREENS]
    return {one.name: one for one in found}


def screen(name: str) -> Screen:
    """The screen of a name. Raises :class:`UnknownName`."""
    if name not in screens():
        raise UnknownName("screen", name, screens())
    return screens()[name]
