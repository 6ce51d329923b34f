"""The points of a study as columns: what findings and reports look at, whoever answered the points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steelyard.studies.store_columns import columns_of

__all__ = ["OK", "REPEATS", "Column", "Row", "Table", "coded", "table_of"]

#: Status of a point with an answer.
OK = "ok"
#: Axes that repeat a point with other draws: their answers are averaged.
REPEATS = ("repeat", "seed")

Places = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Row:
    """One point of a study, its repeats averaged."""

    axes: Mapping[str, Any]
    values: Mapping[str, Any]
    """Inputs and answers by column; numbers are means over the runs."""
    status: str
    problem: str
    runs: int = 1

    @property
    def answered(self) -> bool:
        """Whether it has an answer."""
        return self.status == OK


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """A value per row."""

    values: NDArray[Any]
    """``[rows]``, or with ``codes`` the distinct values."""
    codes: Places | None = None
    """Which of the values each row has; -1 = none."""
    known: NDArray[np.bool_] | None = None
    """Rows that have a value; None = all."""

    def take(self, rows: Places) -> Column:
        """Some of the rows."""
        if self.codes is not None:
            return Column(self.values, self.codes[rows])
        return Column(self.values[rows], None, None if self.known is None else self.known[rows])

    def tolist(self) -> list[Any]:
        """Plain values, None where a row has none."""
        values = self.values.tolist()
        if self.codes is not None:
            return [values[c] if c >= 0 else None for c in self.codes.tolist()]
        if self.known is None or self.known.all():
            return values  # type: ignore[no-any-return]
        return [v if k else None for v, k in zip(values, self.known.tolist(), strict=True)]

    def floats(self) -> NDArray[np.float64]:
        """Numbers; nan where a row has none."""
        if self.values.dtype == object:
            numbers = np.array([np.nan if v is None else v for v in self.values.tolist()], dtype=np.float64)
        else:
            numbers = self.values.astype(np.float64)
        if self.codes is not None:
            return np.append(numbers, np.nan)[self.codes]
        return numbers if self.known is None else np.where(self.known, numbers, np.nan)


@dataclass(frozen=True, eq=False)
class Table:
    """Points of a study in its order, a column per swept field and per input and answer."""

    axes: Mapping[str, Column]
    """Coded, each value once."""
    values: Mapping[str, Column]
    status: Column
    problem: Column
    runs: Column

    def __len__(self) -> int:
        return len(self.runs.values)

    @property
    def answered(self) -> NDArray[np.bool_]:
        """Rows with an answer."""
        codes = self.status.codes
        assert codes is not None
        return np.asarray(self.status.values == OK, dtype=np.bool_)[codes]

    def floats(self, name: str) -> NDArray[np.float64]:
        """A column as numbers; nan where there is none."""
        column = self.values.get(name)
        return np.full(len(self), np.nan) if column is None else column.floats()

    def axis_values(self, name: str) -> list[Any]:
        """Values of an axis in the order in which the rows have them."""
        column = self.axes[name]
        assert column.codes is not None
        first = first_places(column.codes, len(column.values))
        return list(dict.fromkeys(column.values[i] for i in np.argsort(first, kind="stable") if first[i] < len(self)))

    def rows(self, places: Places | None = None) -> list[Row]:
        """Rows as objects; None = all of them."""
        part = np.arange(len(self)) if places is None else places
        axes = {n: c.take(part) for n, c in self.axes.items()}
        swept = list(zip(*(c.tolist() for c in axes.values()), strict=True)) or [()] * len(part)
        gaps = any((c.codes < 0).any() for c in axes.values() if c.codes is not None)
        values = zip(*(c.take(part).tolist() for c in self.values.values()), strict=True)
        rest = (c.take(part).tolist() for c in (self.status, self.problem, self.runs))
        found = []
        for i, (own, figures, *more) in enumerate(zip(swept, values, *rest, strict=True)):
            at = dict(zip(axes, own, strict=True))
            if gaps:
                at = {n: v for n, v in at.items() if axes[n].codes[i] >= 0}  # type: ignore[index]
            found.append(Row(at, dict(zip(self.values, figures, strict=True)), *more))
        return found


def first_places(codes: Places, values: int) -> Places:
    """The first row of each value, ``[values]``; the number of rows where none has it."""
    n = len(codes)
    first = np.full(values + 1, n, dtype=np.intp)
    first[codes[::-1]] = np.arange(n - 1, -1, -1)  # of several the last one written stays
    return first[:-1]


def objects(values: Sequence[Any]) -> NDArray[Any]:
    """Any values as an array of objects."""
    found = np.empty(len(values), dtype=object)
    found[:] = values
    return found


def coded(values: Sequence[Any]) -> Column:
    """A column of values of which many are equal."""
    known: dict[str, int] = {}
    codes = np.array([known.setdefault(repr(v), len(known)) for v in values], dtype=np.intp)
    first = first_places(codes, len(known))
    return Column(objects([values[i] for i in first.tolist()]), codes)


def table_of(kind: str, columns: Mapping[str, Sequence[Any]]) -> Table:
    """The table of rows as the store gives them; rows that differ in their draws only become one, their mean.

    Args:
        kind: of the study.
        columns: from :meth:`steelyard.studies.store_results.Store.rows`.
    """
    known = columns_of(kind)
    swept = [{k: v for k, v in axes.items() if k not in REPEATS} for axes in columns["axes"]]
    groups: dict[str, list[int]] = {}
    for i, axes in enumerate(swept):
        groups.setdefault(repr({"case": columns["case"][i], **axes}), []).append(i)
    good = [[i for i in members if columns["status"][i] == OK] for members in groups.values()]
    at = [ok[0] if ok else members[0] for ok, members in zip(good, groups.values(), strict=True)]
    values = {}
    for name in (n for n in columns if n in known):
        column, found = columns[name], [columns[name][i] for i in at]
        for k, several in ((k, g) for k, g in enumerate(good) if len(g) > 1):
            if known[name].type == "switch":  # holds when it holds in every run
                found[k] = None if found[k] is None else all(column[i] for i in several)
            elif known[name].type != "text" and not known[name].asked:
                numbers = [column[i] for i in several if column[i] is not None]
                found[k] = sum(numbers) / len(numbers) if numbers else None
        values[name] = Column(objects(found))
    axes = {}
    for name in dict.fromkeys(n for i in at for n in swept[i]):
        axis = coded([swept[i].get(name, ...) for i in at])
        assert axis.codes is not None
        absent = np.array([v is ... for v in axis.values], dtype=np.bool_)
        axes[name] = Column(axis.values, np.where(absent[axis.codes], -1, axis.codes)) if absent.any() else axis
    status, problem = (coded([columns[n][i] for i in at]) for n in ("status", "problem"))
    return Table(axes, values, status, problem, Column(np.array([len(g) or 1 for g in good])))
