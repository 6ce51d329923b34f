"""``sy.study``: a question with several values in place of one, every point answered."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steelyard.errors import InputError, Problem, complete, raise_all, show
from steelyard.scenario.fields import Field, fields_of
from steelyard.scenario.scenario import Scenario
from steelyard.scenario.words import Problems, read_value
from steelyard.studies.answers import Priced, chunks_of
from steelyard.studies.executors import MAX_JOBS, check_executor, execute
from steelyard.studies.findings import Findings, findings
from steelyard.studies.grid import estimate_grid
from steelyard.studies.points import MAX_POINTS, Point, expand_study
from steelyard.studies.store_columns import columns_of
from steelyard.studies.store_results import Store, StudyRecord
from steelyard.studies.study import Study, parse_study, read_study
from steelyard.studies.sweep import document_of, sweep
from steelyard.studies.table import table_of

__all__ = ["study"]


@complete
def study(
    spec: str | Path | Mapping[str, Any] | Study | Scenario,
    *,
    grid: Mapping[str, Any] | None = None,
    store: str | Path = "",
    executor: str = "serial",
    jobs: int = 1,
    best: int = 5,
    allow_code: bool = False,
) -> Findings:
    """Answer every point of a study.

    Args:
        spec: a study file, or its table: ``{"name": "batches", "kind": "estimate", "fixed": {"model": "llama-3.1-8b"},
            "grid": {"on": "h100_sxm,h200_sxm", "batch": "1-256*2"}}``, or a scenario, whose fields are fixed.
        grid: the fields of a scenario that take several values instead, with those values.
        store: DuckDB file that keeps the answers; points it has are not priced again. Empty = nothing is kept.
        executor: ``serial``, ``process`` or ``ray``.
        jobs: processes at once.
        best: points kept per objective.
        allow_code: whether a study may name code, which is then run: a policy as ``FILE.py:CLASS``.

    Returns:
        a :class:`~steelyard.studies.findings.Findings`: rows, best points per objective, Pareto front, what each axis
        does.

    Raises:
        InputError: every problem of the study at once.
    """
    _check(spec, grid, store, executor, jobs, best, allow_code)
    if isinstance(spec, Scenario):
        asked = parse_study(_table_of(spec, grid or {}), allow_code=True)
    elif isinstance(spec, str | Path):
        asked = read_study(spec, allow_code=allow_code)
    elif isinstance(spec, Study):
        asked = spec
    elif isinstance(spec, Mapping):
        asked = parse_study(spec, allow_code=allow_code)
    else:
        raise InputError(f"expected a study file, a table or a scenario, got {show(spec)}", field="study")
    if store:
        place = Store(store)
        record = sweep(asked, place, executor=executor, jobs=jobs, resume=True).study
        return findings(record, table_of(asked.kind, place.rows(record)), asked.objectives, best)
    if executor in ("serial", "process") and asked.kind == "estimate":  # quicker than processes start
        table = estimate_grid(asked)
        points = len(table)
    else:
        columns = _point_by_point(asked, executor, jobs)
        table, points = table_of(asked.kind, columns), len(columns["axes"])
    document = json.loads(json.dumps(document_of(asked), default=str))
    return findings(StudyRecord(asked.name, asked.kind, document, points, points), table, asked.objectives, best)


def _check(spec: Any, grid: Any, store: Any, executor: Any, jobs: Any, best: Any, allow_code: Any) -> None:
    """Refuse what is of the wrong kind. Raises :class:`InputError` with every problem."""
    problems = Problems()
    if grid is not None and not isinstance(spec, Scenario):
        problems.add([Problem("grid", "only with a scenario; a study has its own grid")])
    elif not isinstance(grid, Mapping | None):
        problems.add([Problem("grid", f"expected a table of fields and their values, got {show(grid)}")])
    if not isinstance(store, str | Path):
        problems.add([Problem("store", f"expected the path of a file, got {show(store)}")])
    problems.read(check_executor, executor)
    problems.read(read_value, Field("jobs", "whole", "", 1, 0, MAX_JOBS), jobs)
    problems.read(read_value, Field("best", "whole", "", 5, 1, MAX_POINTS), best)
    problems.read(read_value, Field("allow_code", "switch", "", False), allow_code)
    problems.done()


def _table_of(scenario: Scenario, grid: Mapping[str, Any]) -> dict[str, Any]:
    """A scenario as the table of a study: the fields that differ from their defaults, those of the grid left out.

    Raises:
        InputError: a field holds an object, which a study has no words for.
    """
    known = fields_of(scenario.verb)
    given = {
        name: value
        for name, value in scenario.words.items()
        if name in known and name not in grid and value is not None and value != known[name].default
    }
    objects = [n for n, v in given.items() if not isinstance(v, str | int | float | Mapping)]
    raise_all([Problem(n, f"a study takes it by name, got {type(given[n]).__name__}") for n in objects])
    return {"name": scenario.verb, "kind": scenario.verb, "fixed": given, "grid": dict(grid)}


def _point_by_point(study: Study, executor: str, jobs: int) -> dict[str, list[Any]]:
    """Every point priced by itself, or estimates in chunks; equal ones once."""
    points = expand_study(study)
    priced = Priced(study.kind)
    for _, part in execute(executor, chunks_of(study.kind, study.folder, points), jobs):
        priced.add(part)
    return _columns(study.kind, points, priced)


def _columns(kind: str, points: list[Point], priced: Priced) -> dict[str, list[Any]]:
    """The rows of the points as the store gives them, a list per column."""
    at = {name: i for i, name in enumerate(priced.hashes)}
    places = [at[p.hash] for p in points]
    columns: dict[str, list[Any]] = {n: [getattr(p, n) for p in points] for n in ("ordinal", "case", "axes")}
    columns["repeat"] = [p.repeat or 0 for p in points]
    columns["status"] = [priced.statuses[i] for i in places]
    columns["problem"] = [priced.problems[i] for i in places]
    for name, column in columns_of(kind).items():
        if column.asked:
            columns[name] = [p.inputs.get(name) for p in points]
        elif name in priced.columns:
            values = priced.columns[name]
            columns[name] = [values[i] for i in places]
        else:
            columns[name] = [None] * len(points)
    return columns
