"""A study as JSON (``steelyard.study/1``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steelyard.report.plain import plain
from steelyard.studies.findings import Findings, Row

__all__ = ["SCHEMA", "flat_rows", "to_dict"]

SCHEMA = "steelyard.study/1"


def flat_rows(found: Findings) -> list[dict[str, Any]]:
    """One row per point: its axes, inputs and answers, and how many runs it is the mean of."""
    return [{**r.values, **r.axes, "runs": r.runs, "status": r.status, "problem": r.problem} for r in found.rows]


def to_dict(found: Findings, sources: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The answer in the stable JSON form ``steelyard.study/1`` (SI units)."""
    study = found.study

    def told(row: Row) -> dict[str, Any]:
        return {"axes": dict(row.axes), "runs": row.runs, **row.values}

    document = {
        "schema": SCHEMA,
        "study": study.name,
        "kind": study.kind,
        "version": study.version,
        "points": study.points,
        "priced": study.priced,
        "axes": found.axes,
        "objectives": [
            {
                "metric": o.metric,
                "maximise": o.maximise,
                "name": o.name,
                "where": [str(c) for c in o.where],
                "best": [told(r) for r in best],
            }
            for o, best in zip(found.objectives, found.best, strict=True)
        ],
        "front": [told(r) for r in found.front],
        "sensitivity": [
            {"axis": a.name, "metric": a.metric, "ratio": a.ratio, "best": a.best}
            | {"best_frac": a.best_frac, "settings": a.settings}
            for a in found.sensitivity
        ],
        "problems": [{"problem": p, "points": n} for p, n in found.problems.items()],
        "rows": [{**told(r), "status": r.status, "problem": r.problem} for r in found.rows],
        "definition": study.document.get("study", {}),
        **(sources or {}),
    }
    return plain(document)  # type: ignore[no-any-return]
