"""A study of estimates in memory: columns from the axes to the answers, no object per point.

Axes are laid out as arrays, points that share model, machines, plan and engine are one group, and every group is one
call of :func:`~steelyard.estimation.estimate.estimate_batch`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from steelyard.errors import InputError
from steelyard.estimation.estimate import estimate_batch
from steelyard.scenario.fields import fields_of
from steelyard.studies.answers import REFUSED
from steelyard.studies.points import SIZES, check_points, scenario_of, shared_inputs, written_inputs
from steelyard.studies.store_columns import columns_of
from steelyard.studies.study import Case, Study
from steelyard.studies.table import OK, Column, Places, Table, coded, objects

__all__ = ["estimate_grid"]


def estimate_grid(study: Study) -> Table:
    """Answer every point of a study of estimates.

    Raises:
        InputError: names that nothing answers to (all of them), too many points, or none.
    """
    check_points(study)
    swept = _laid_out(study)
    n = len(swept["case"].codes)  # type: ignore[arg-type]
    if n == 0:
        raise InputError("no point is left", field="exclude")
    defaults = fields_of("estimate")
    sizes = {}
    for name in SIZES:
        lengths = swept.get(name) or _same(study.fixed.get(name), n)
        filled = objects([defaults[name].default if v is None else v for v in lengths.values])
        sizes[name] = Column(filled, lengths.codes)
    numbers = [np.array([int(v) for v in c.values], dtype=np.int64)[c.codes] for c in sizes.values()]
    groups = list(_groups({name: c for name, c in swept.items() if name not in (*SIZES, "case")}, n))
    answers = _Answers(n)
    inputs: list[Mapping[str, Any]] = []
    group_of = np.zeros(n, dtype=np.intp)
    for k, (values, places) in enumerate(groups):
        group_of[places] = k
        given = {**study.fixed, **values}
        try:
            scenario = scenario_of(study.folder, given)
        except InputError as error:
            inputs.append(written_inputs(study, given))
            answers.refuse(np.arange(n)[places], [str(error)])
            continue
        inputs.append(shared_inputs(study.folder, given))
        found, problems = estimate_batch(scenario.sized(*(x[places] for x in numbers)))
        bad = [i for i, p in enumerate(problems) if p]
        if bad:
            places = np.arange(n)[places]
            answers.refuse(places[bad], ["; ".join(map(str, problems[i])) for i in bad])
            places = np.delete(places, bad)
        if found is not None:
            answers.add(places, found.columns() | found.totals())
    columns = {}
    for name, column in columns_of("estimate").items():
        if name in SIZES:
            columns[name] = sizes[name]
        elif column.asked:
            kept = coded([given.get(name) for given in inputs])
            columns[name] = Column(kept.values, kept.codes[group_of])  # type: ignore[index]
        else:
            columns[name] = answers.column(name)
    axes = {name: _given(swept[name]) for name in study.axes}
    return Table(axes, columns, *answers.outcome(), Column(np.ones(n, dtype=np.int64)))


def _given(column: Column) -> Column:
    """An axis whose rows that do not give it have no value."""
    none = np.array([v is None for v in column.values.tolist()], dtype=np.bool_)
    assert column.codes is not None
    return Column(column.values, np.where(none[column.codes], -1, column.codes)) if none.any() else column


def _same(value: Any, n: int) -> Column:
    """One value in all rows."""
    return Column(objects([value]), np.zeros(n, dtype=np.intp))


def _laid_out(study: Study) -> dict[str, Column]:
    """Values of every field that differs between points, a row per point that is not excluded; the case is one."""
    parts = [_case(study, case) for case in study.cases or (Case("", {}),)]
    if len(parts) == 1:
        return parts[0]
    found: dict[str, Column] = {}
    for name in dict.fromkeys(n for part in parts for n in part):
        columns = [p.get(name) or _same(study.fixed.get(name), len(p["case"].codes)) for p in parts]  # type: ignore[arg-type]
        distinct = coded([v for c in columns for v in c.values.tolist()])
        assert distinct.codes is not None
        ends = np.cumsum([len(c.values) for c in columns])[:-1]
        places = [to[c.codes] for to, c in zip(np.split(distinct.codes, ends), columns, strict=True)]
        found[name] = Column(distinct.values, np.concatenate(places))
    return found


def _case(study: Study, case: Case) -> dict[str, Column]:
    """The points of one case: zipped fields, then the fields of the grid, the last the fastest."""
    over = case.values
    dimensions = [dict(t) for t in study.zips if t and not set(t) & set(over)]
    dimensions += [{name: values} for name, values in study.grid.items() if name not in over]
    sizes = [len(next(iter(d.values()))) for d in dimensions]
    total = int(np.prod(sizes, dtype=np.int64))
    found = {name: _same(value, total) for name, value in {**over, "case": case.name}.items()}
    slower = 1
    for together, size in zip(dimensions, sizes, strict=True):
        place = np.tile(np.repeat(np.arange(size), total // (slower * size)), slower)
        slower *= size
        found |= {name: Column(objects(values), place) for name, values in together.items()}
    kept = np.ones(total, dtype=np.bool_)
    for table in study.exclude:
        out = np.full(total, bool(table))
        for name, wanted in table.items():
            column = found.get(name) or _same(study.fixed.get(name), total)
            out &= np.array([v in wanted for v in column.values.tolist()], dtype=np.bool_)[column.codes]
        kept &= ~out
    return found if kept.all() else {name: c.take(np.flatnonzero(kept)) for name, c in found.items()}


def _groups(shared: Mapping[str, Column], n: int) -> Iterator[tuple[dict[str, Any], Places | slice]]:
    """Points with the same values of these fields: the values, and the places of the points."""
    group = np.zeros(n, dtype=np.intp)
    for column in shared.values():
        if len(column.values) > 1:
            assert column.codes is not None
            group = np.unique(group * len(column.values) + column.codes, return_inverse=True)[1]
    if not group.any():
        yield {name: c.values[c.codes[0]] for name, c in shared.items()}, slice(None)  # type: ignore[index]
        return
    order = np.argsort(group, kind="stable")
    for places in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
        yield {name: c.values[c.codes[places[0]]] for name, c in shared.items()}, places  # type: ignore[index]


class _Answers:
    """Answers of all points, a column each, filled group by group."""

    def __init__(self, points: int) -> None:
        self.points = points
        self.parts: list[tuple[Places | slice, dict[str, Any]]] = []
        self.refused: list[tuple[Places, list[str]]] = []

    def add(self, places: Places | slice, figures: dict[str, Any]) -> None:
        """The answers of some points."""
        self.parts.append((places, figures))

    def refuse(self, places: Places, words: list[str]) -> None:
        """Points without an answer, and why: a reason each, or one for all."""
        self.refused.append((places, words * (len(places) // len(words))))

    def column(self, name: str) -> Column:
        """One figure of all points."""
        parts = [(p, np.asarray(f[name])) for p, f in self.parts if f.get(name) is not None]
        if not parts:
            return Column(objects([]), np.full(self.points, -1, dtype=np.intp))
        if all(not v.ndim for _, v in parts):  # a figure that points of a group share
            of_part = np.full(self.points, -1, dtype=np.intp)
            kept = coded([v.item() for _, v in parts])
            assert kept.codes is not None
            for (places, _), code in zip(parts, kept.codes, strict=True):
                of_part[places] = code
            return Column(kept.values, of_part)
        if len(parts) == 1 and isinstance(parts[0][0], slice):
            return Column(parts[0][1])
        values = np.zeros(self.points, dtype=np.result_type(*(v for _, v in parts)))
        known = np.zeros(self.points, dtype=np.bool_)
        for places, part in parts:
            values[places], known[places] = part, True
        return Column(values, None, known)

    def outcome(self) -> tuple[Column, Column]:
        """Status of every point, and why it has no answer."""
        bad = np.zeros(self.points, dtype=np.intp)
        why = np.zeros(self.points, dtype=np.intp)
        reasons = {"": 0}
        for places, words in self.refused:
            bad[places] = 1
            why[places] = [reasons.setdefault(w, len(reasons)) for w in words]
        return Column(objects([OK, REFUSED]), bad), Column(objects(list(reasons)), why)
