"""The form of a screen, from the table of fields: topics as groups, what most questions leave out folded away."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steelyard.page.names import KINDS
from steelyard.page.question import Question, fields_on
from steelyard.page.screen import Screen
from steelyard.scenario.fields import ENGINE_FLAGS, REQUIRED, TOPICS, USUAL, Field

__all__ = ["Group", "Input", "form_of", "label_of"]

#: The unit at the end of a name.
_UNIT = re.compile(r"_(?:(?:usd|bytes|j)_per_\w+|bytes|w|s|hz|usd)$")


@dataclass(frozen=True)
class Input:
    """One field of a form."""

    field: Field
    label: str
    values: Sequence[str]
    """As given; of a field that may be given several times all of them."""
    changed: bool = False
    """Whether this column says other than the first."""
    inherited: Sequence[str] = ()
    """What the first column says."""
    slider: tuple[float, float] | None = None
    names: str = ""
    """The kind of names that are offered while one types; empty: none."""

    @property
    def value(self) -> str:
        """The single value, or all of them."""
        return ", ".join(self.values)

    @property
    def placeholder(self) -> str:
        """The default, as text."""
        default = self.field.default
        if default is REQUIRED or default is None or isinstance(default, bool | tuple):
            return ""
        return f"{default:g}" if isinstance(default, float) else str(default)

    @property
    def on(self) -> bool:
        """Whether a switch is on."""
        return (self.value or str(self.field.default)).lower() in ("true", "yes", "on", "1")


@dataclass(frozen=True)
class Group:
    """The fields of one topic."""

    title: str
    shown: Sequence[Input]
    folded: Sequence[Input]

    @property
    def used(self) -> int:
        """Folded fields that are given, which hold the fold open."""
        return sum(1 for one in self.folded if one.values)


def label_of(field: Field) -> str:
    """A field's name for people: ``max_num_seqs`` as ``max num seqs``, abbreviations in capitals (``TTFT``)."""
    name = field.name.rpartition(".")[2]
    if field.name == "on":
        return "machine"
    if len(name) == 3 and (tokens := re.match(r"(\w+ tokens)\b", field.doc)):
        return tokens[1]
    short = re.fullmatch(r"[^aeiou_]+|[a-z]{2}", name) and name != "by"
    if short or (field.topic == "SLOs" and len(name) <= 4):
        return name.upper()
    if field.unit != "1":  # which is written beside it
        name = field.option if field.options else _UNIT.sub("", name)
    return name.replace("_", " ")


def form_of(question: Question, column: int = 0) -> list[Group]:
    """The groups of a column's form, in the order of the help.

    Fields that its screen does not show for this question (those of networks, for a model that is served) are left out
    unless they are given.
    """
    screen, given, first = question.screen, question.columns[column], question.columns[0]
    known = fields_on(screen)
    fitting = screen.shown(_plain(given)) if screen.shown is not None else frozenset(known)
    topics = dict.fromkeys((*TOPICS, *(entry.topic for entry in known.values())))
    groups: dict[str, tuple[list[Input], list[Input]]] = {topic: ([], []) for topic in topics}
    for name, entry in known.items():
        if name not in fitting and name not in given:
            continue
        shown, folded = groups[entry.topic]
        one = Input(
            entry,
            label_of(entry),
            list(given.get(name, ())),
            changed=column > 0 and list(given.get(name, ())) != list(first.get(name, ())),
            inherited=list(first.get(name, ())) if column else (),
            slider=screen.sliders.get(name),
            names=KINDS.get(name, "") if screen.verb else "",
        )
        (shown if _in_sight(screen, name) else folded).append(one)
    order = {name: i for i, name in enumerate(screen.usual.split())}
    for shown, _ in groups.values():
        shown.sort(key=lambda one: order.get(one.field.name, len(order)))
    return [Group(topic, *found) for topic, found in groups.items() if any(found)]


def _in_sight(screen: Screen, name: str) -> bool:
    usual = screen.usual.split() or [n for n in USUAL if n not in ENGINE_FLAGS]
    return name == "model" or name in usual


def _plain(given: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    return {name: values[-1] for name, values in given.items() if values}
