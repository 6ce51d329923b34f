"""Choices: which values fields may take (a part of a file), and which of them cost together.

A file that says what is searched has a table ``choose`` of fields with the values to try, and tables ``when`` of fields
that only some values of another field have::

    [choose]
    rows = [16, 32]
    columns = { from = 8, to = 64, step = 8 }
    dataflow = ["weight_stationary", "output_stationary"]

    [[when]]
    field = "dataflow"
    values = ["output_stationary"]
    choose = { capacity_bytes = ["64KiB", "1MiB"] }

A **code** is a place in the values of every field, ``[fields]``; -1 where a field does not belong to the point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from steelyard.errors import InputError, Problem, UnknownName, raise_all, show

__all__ = ["LARGEST", "Choices", "Group", "When", "flattened", "read_choices"]

#: Most points of a space that are listed, values of a field, and fields.
LARGEST, MOST_VALUES, MOST_FIELDS = 20_000_000, 1000, 400
_RANGE = {"from", "to", "step"}


@dataclass(frozen=True, slots=True)
class When:
    """Fields that belong to some values of another field only."""

    __pydantic_config__ = {"extra": "forbid"}

    field: Annotated[str, "a chosen field"]
    values: Annotated[tuple[Any, ...], "its values that the fields below belong to"]
    choose: Annotated[Mapping[str, Any], "fields with the values to try there; elsewhere as they usually are"]


@dataclass(frozen=True, eq=False)
class Choices:
    """Fields with their values. Codes are rows of places in ``values``; -1: the field does not belong to the point."""

    fields: tuple[str, ...] = ()
    values: tuple[tuple[Any, ...], ...] = ()
    needs: tuple[tuple[int, tuple[int, ...]] | None, ...] = ()
    """Of each field the one before it that it depends on, with the places of its values; None: always chosen."""

    @cached_property
    def count(self) -> float:
        """How many points there are."""
        children: dict[int, list[int]] = {}
        for i, need in enumerate(self.needs):
            if need is not None:
                children.setdefault(need[0], []).append(i)

        def points(i: int) -> float:
            mine = [(self.needs[c], c) for c in children.get(i, ())]
            if not mine:
                return float(len(self.values[i]))
            return sum(
                prod(points(c) for need, c in mine if need is not None and v in need[1])
                for v in range(len(self.values[i]))
            )

        return prod((points(i) for i, need in enumerate(self.needs) if need is None), start=1.0)

    def listed(self, most: int = LARGEST) -> NDArray[np.int16]:
        """Every point, ``[points, fields]``. Raises :class:`InputError`: more than ``most``."""
        if self.count > most:
            raise InputError(f"expected at most {most:,} points, got {self.count:,.0f}", field="choose")
        found = np.zeros((1, 0), dtype=np.int16)
        for need, values in zip(self.needs, self.values, strict=True):
            some = np.ones(len(found), dtype=np.bool_) if need is None else np.isin(found[:, need[0]], need[1])
            every = np.repeat(found[some], len(values), axis=0)
            column = np.tile(np.arange(len(values), dtype=np.int16), int(some.sum()))[:, None]
            none = found[~some]
            found = np.vstack([np.hstack([every, column]), np.hstack([none, np.full((len(none), 1), -1, np.int16)])])
        return found

    def settled(self, codes: NDArray[Any]) -> NDArray[Any]:
        """Any codes made points: fields that do not belong are -1, others have a value (their first, where none)."""
        found = np.array(codes)
        for i, (need, values) in enumerate(zip(self.needs, self.values, strict=True)):
            found[:, i] = np.where((found[:, i] < 0) | (found[:, i] >= len(values)), 0, found[:, i])
            if need is not None:
                found[~np.isin(found[:, need[0]], need[1]), i] = -1
        return found

    def chosen(self, code: Iterable[int]) -> dict[str, Any]:
        """What one point chooses."""
        return {n: v[i] for n, v, i in zip(self.fields, self.values, code, strict=True) if i >= 0}


#: Makes a value of a field what it means: (field, value, path for errors). Raises :class:`InputError`.
Reader = Callable[[str, Any, str], Any]


def read_choices(
    choose: Mapping[str, Any], when: Sequence[When], read: Reader, implied: Sequence[When] = ()
) -> Choices:
    """Fields and values of a file.

    Args:
        choose: values to try by field: a list, or ``{from, to, step}`` of whole numbers.
        when: fields of some values.
        read: makes each value what it means.
        implied: further ones, which the file does not write as ``when``; they come first.

    Raises:
        InputError: every wrong field and value.
    """
    problems: list[Problem] = []
    fields: list[str] = []
    values: list[tuple[Any, ...]] = []
    needs: list[tuple[int, tuple[int, ...]] | None] = []

    def made(name: str, raw: Any, at: str) -> list[Any]:
        found: list[Any] = []
        try:
            for value in _expanded(raw, at):
                value = read(name, value, at)
                if value not in found:
                    found.append(value)
        except InputError as error:
            problems.extend(error.problems)
        return found

    def add(chosen: Mapping[str, Any], at: str, need: tuple[int, tuple[int, ...]] | None) -> None:
        for name, raw in chosen.items():
            if name in fields:
                problems.append(Problem(f"{at}.{name}", "chosen twice"))
            elif len(fields) >= MOST_FIELDS:
                raise InputError(f"expected at most {MOST_FIELDS} fields", field=at)
            else:
                fields.append(name)
                values.append(tuple(made(name, raw, f"{at}.{name}")))
                needs.append(need)

    add(choose, "choose", None)
    for i, each in enumerate((*implied, *when), -len(implied)):
        at = f"when[{i}]" if i >= 0 else "choose"
        if each.field not in fields:
            problems.append(Problem(f"{at}.field", UnknownName("chosen field", each.field, fields).message))
            continue
        parent = fields.index(each.field)
        of = made(each.field, each.values, f"{at}.values")
        unknown = [v for v in of if v not in values[parent]]
        problems += [Problem(f"{at}.values", f"{show(str(v))} is no value of {each.field}") for v in unknown]
        add(each.choose, f"{at}.choose", (parent, tuple(values[parent].index(v) for v in of if v not in unknown)))
    raise_all(problems)
    return Choices(tuple(fields), tuple(values), tuple(needs))


def _expanded(raw: Any, at: str) -> Sequence[Any]:
    """A list of values. Raises :class:`InputError`."""
    if isinstance(raw, Mapping) and {"from", "to"} <= set(raw) <= _RANGE:
        first, last, step = raw["from"], raw["to"], raw.get("step", 1)
        if not all(type(x) is int for x in (first, last, step)) or step < 1 or last < first:
            raise InputError("expected whole numbers from <= to and a step of at least 1", field=at)
        raw = list(range(first, min(last, first + step * MOST_VALUES) + 1, step))
    elif isinstance(raw, Mapping) or not isinstance(raw, list | tuple):
        raise InputError(f"expected a list of values or {{ from, to, step }}, got {show(str(raw))}", field=at)
    if not 1 <= len(raw) <= MOST_VALUES:
        raise InputError(f"expected one to {MOST_VALUES:,} values, got {len(raw):,}", field=at)
    return list(raw)


def flattened(data: Mapping[str, Any]) -> dict[str, Any]:
    """A file whose chosen fields are written with dots or as tables: ``compute.array.rows`` is one name."""

    def flat(value: Any, path: str = "") -> dict[str, Any]:
        if not isinstance(value, Mapping) or (path and {"from", "to"} <= set(value)):
            return {path: value}
        return {k: v for n, x in value.items() for k, v in flat(x, f"{path}.{n}" if path else str(n)).items()}

    found = dict(data)
    if isinstance(found.get("choose"), Mapping):
        found["choose"] = flat(found["choose"])
    if isinstance(found.get("when"), list):
        tables = [w if isinstance(w, Mapping) else {} for w in found["when"]]
        found["when"] = [
            {**w, "choose": flat(w["choose"])} if isinstance(w.get("choose"), Mapping) else w for w in tables
        ]
    return found


@dataclass(frozen=True, eq=False)
class Group:
    """Places whose choices cost together: a table with an entry (a **feature**) for every combination of them."""

    places: tuple[int, ...]
    sizes: tuple[int, ...]
    offset: int = 0
    """Where its features begin among those of all groups."""
    valid: NDArray[np.bool_] | None = None
    """Which combinations may be chosen, ``[product of sizes]``; None: all."""

    def __len__(self) -> int:
        return prod(self.sizes)

    def features(self, codes: NDArray[Any]) -> NDArray[np.int64]:
        """The feature of each code ``[n, places of all]``."""
        found = np.zeros(len(codes), dtype=np.int64)
        for place, size in zip(self.places, self.sizes, strict=True):
            found = found * size + codes[:, place]
        return found + self.offset

    def combinations(self) -> NDArray[np.int64]:
        """The places' choices of every feature, ``[features, places]``."""
        if not self.places:
            return np.zeros((1, 0), dtype=np.int64)
        return np.stack(np.unravel_index(np.arange(len(self)), self.sizes), axis=1).astype(np.int64)
