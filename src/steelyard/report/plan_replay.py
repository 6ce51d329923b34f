"""A plan file played again: what comes out beside what was expected."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from steelyard.machine.catalogue import catalogue_difference
from steelyard.report.paper import columns, render
from steelyard.report.plain import plain
from steelyard.units import format_quantity as q

if TYPE_CHECKING:
    from steelyard.deployment.plan_file import PlanFile
    from steelyard.simulation.result import Simulation

__all__ = ["SCHEMA", "percentiles", "rows", "text", "to_dict"]

SCHEMA = "steelyard.replay/1"
_METRICS = ("ttft_s", "tpot_s", "e2e_s")


def percentiles(simulation: Simulation) -> dict[str, dict[str, float]]:
    """Mean and percentiles of TTFT, TPOT and end-to-end time, in s."""
    summary = simulation.summary()
    return {name: {k: v for k, v in summary[name].items() if v is not None} for name in _METRICS}


def _pairs(asked: PlanFile, found: Simulation) -> list[tuple[str, str, float | None, float]]:
    """``(metric, statistic, expected, replayed)``."""
    now, pairs = percentiles(found), []
    for name, values in now.items():
        before: Mapping[str, Any] = asked.expected.get(name, {}) or {}
        pairs += [(name, k, before.get(k), v) for k, v in values.items()]
    return pairs


def equal(asked: PlanFile, found: Simulation) -> bool | None:
    """Whether every expected number came out to the last digit; None when nothing was expected."""
    compared = [(a, b) for _, _, a, b in _pairs(asked, found) if a is not None]
    return all(a == b for a, b in compared) if compared else None


def _differences(asked: PlanFile) -> list[str]:
    """In what the machines of the pools differ from the catalogue's of today."""
    return [said for pool in asked.deployment.pools if (said := catalogue_difference(pool.device))]


def to_dict(asked: PlanFile, found: Simulation) -> dict[str, Any]:
    """The answer as ``steelyard.replay/1``: numbers, those expected, whether they are equal, and the simulation."""
    document = {
        "schema": SCHEMA,
        "equal": equal(asked, found),
        "expected": {k: dict(v) for k, v in asked.expected.items()},
        "replayed": percentiles(found),
        "notes": _differences(asked),
        "simulation": found.summary(),
    }
    return plain(document)  # type: ignore[no-any-return]


def rows(asked: PlanFile, found: Simulation) -> list[dict[str, Any]]:
    """One row per number."""
    return [
        {"metric": m, "statistic": s, "expected_s": a, "replayed_s": b, "equal": a is None or a == b}
        for m, s, a, b in _pairs(asked, found)
    ]


def text(asked: PlanFile, found: Simulation, width: int | None = None) -> str:
    """The comparison as text."""
    cells = [
        [
            m.removesuffix("_s").upper(),
            s,
            "-" if a is None else q(float(a), "s"),
            q(b, "s"),
            "" if a is None else "equal" if a == b else f"{b / a - 1:+.2%}" if a else "was 0",
        ]
        for m, s, a, b in _pairs(asked, found)
        if s in ("mean", "p50", "p90", "p95", "p99")
    ]
    same = equal(asked, found)
    words = {True: "replayed to identical numbers", False: "the numbers differ", None: "nothing was expected"}[same]
    head = f"{asked.deployment.model}: {len(asked.deployment.pools)} pools, {asked.deployment.devices} devices"
    table = columns(("metric", "statistic", "expected", "replayed", ""), cells, ("expected", "replayed"))
    return render([head, words, *dict.fromkeys(_differences(asked)), "", table], width)
