"""What the store keeps of an answer as columns one can plot: name, SQL type, unit and meaning.

The names are those of the JSON answers; what is not listed goes into the column ``more`` as JSON. The first columns of
every kind are the inputs of the point, resolved.
"""

from __future__ import annotations

from dataclasses import dataclass

from steelyard.scenario.answers import figures_of
from steelyard.scenario.fields import GROUPS, KINDS, Field, fields_of

__all__ = ["ANSWERS", "SCHEMAS", "Column", "columns_of", "number_names"]


@dataclass(frozen=True, slots=True)
class Column:
    """One column of an answer."""

    name: str
    type: str
    """``text``, ``whole``, ``number`` or ``switch``."""
    unit: str
    """``s``, ``B``, ``J``, ``W``, ``USD``, ``1`` ...; empty for text."""
    doc: str
    asked: bool = False
    """An input; otherwise an answer."""

    @property
    def sql(self) -> str:
        """Type in DuckDB."""
        return {"text": "VARCHAR", "whole": "BIGINT", "number": "DOUBLE", "switch": "BOOLEAN"}[self.type]


def _answers(kind: str) -> tuple[Column, ...]:
    """Answers that are kept: single figures first, then the statistics of times."""
    types = {"string": "text", "integer": "whole", "boolean": "switch"}
    single: list[Column] = []
    statistics: list[Column] = []
    for f in figures_of(kind):
        place = statistics if f.type == "statistics" else single
        place += [Column(name, types.get(f.type, "number"), f.unit, f.doc) for name in f.columns]
        if f.path == "throughput.goodput_frac":
            single.append(Column("promises_met", "switch", "", "whether every SLO holds"))
    return (*single, *statistics)


def _asked(kind: str) -> tuple[Column, ...]:
    """Inputs: the fields that are kept, those of the place first."""
    kept = {n: f for n, f in fields_of(kind).items() if f.column}
    place = [n for n in fields_of("estimate") if n in kept and n not in GROUPS["batch"]]
    found = [_column(kept[n]) for n in dict.fromkeys([*(place if kind != "plan" else ["model", "on"]), *kept])]
    if kind != "plan":
        found[2:2] = [
            Column("machine", "text", "", "the machine", True),
            Column("devices", "whole", "1", "devices used", True),
        ]
    return tuple(found)


def _column(entry: Field) -> Column:
    kind = "text" if entry.type == "name" else entry.type
    return Column(entry.name, kind, "" if kind in ("text", "switch") else entry.unit, entry.doc, True)


#: Columns by kind of study: inputs, then answers.
ANSWERS: dict[str, tuple[Column, ...]] = {kind: (*_asked(kind), *_answers(kind)) for kind in KINDS}

#: Version of the answer of each kind: part of a point's hash, so that a changed answer is priced again.
SCHEMAS = {kind: f"steelyard.{kind}/1" for kind in ANSWERS}


def columns_of(kind: str) -> dict[str, Column]:
    """Columns of a kind by name, in their order."""
    return {c.name: c for c in ANSWERS[kind]}


def number_names(kind: str) -> list[str]:
    """Answers that are numbers: what can be an objective."""
    return [c.name for c in ANSWERS[kind] if not c.asked and c.type in ("number", "whole")]
