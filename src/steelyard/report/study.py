"""A study as JSON (``steelyard.study/1``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steelyard.report.plain import plain
from steelyard.studies.findings import Findings
from steelyard.studies.table import Row

__all__ = ["SCHEMA", "flat_rows", "to_dict"]

SCHEMA = "steelyard.study/1"


def flat_rows(findings: Findings) -> dict[str, list[Any]]:
    """A column per axis, input and answer, and of how many runs a point is the mean."""
    table = findings.table
    columns = {**table.values, **table.axes, "runs": table.runs, "status": table.status, "problem": table.problem}
    return {name: column.tolist() for name, column in columns.items()}


def to_dict(findings: Findings, sources: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The answer in the stable JSON form ``steelyard.study/1`` (SI units)."""
    study = findings.study

    def row_dict(row: Row) -> dict[str, Any]:
        return {"axes": dict(row.axes), "runs": row.runs, **row.values}

    document = {
        "schema": SCHEMA,
        "study": study.name,
        "kind": study.kind,
        "version": study.version,
        "points": study.points,
        "priced": study.priced,
        "axes": findings.axes,
        "objectives": [
            {
                "metric": o.metric,
                "maximise": o.maximise,
                "name": o.name,
                "where": [str(c) for c in o.where],
                "best": [row_dict(r) for r in best],
            }
            for o, best in zip(findings.objectives, findings.best, strict=True)
        ],
        "front": [row_dict(r) for r in findings.front],
        "sensitivity": [
            {"axis": a.name, "metric": a.metric, "ratio": a.ratio, "best": a.best}
            | {"best_frac": a.best_frac, "settings": a.settings}
            for a in findings.sensitivity
        ],
        "problems": [{"problem": p, "points": n} for p, n in findings.problems.items()],
        "rows": [{**row_dict(r), "status": r.status, "problem": r.problem} for r in findings.rows],
        "definition": study.document.get("study", {}),
        **(sources or {}),
    }
    return plain(document)  # type: ignore[no-any-return]
