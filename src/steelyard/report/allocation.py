"""Bits, channels or devices of every layer of a network: as JSON (``steelyard.search/1``), rows, and a report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from steelyard.exploration.allocation import UNITS
from steelyard.report.paper import bullets, columns, figure, render, span, styled
from steelyard.report.plain import plain
from steelyard.units import format_quantity as q

if TYPE_CHECKING:
    from steelyard.exploration.allocation import Allocation, Point

__all__ = ["SCHEMA", "WORDS", "flat_rows", "parts", "proven", "report", "shown", "summary", "title", "to_dict"]

SCHEMA = "steelyard.search/1"
#: Points of the front, and layers, that a report shows.
_SHOWN, _LAYERS = 12, 40
#: What is chosen, by the kind of search.
WORDS = {"bits": "bits", "prune": "share of channels kept", "placement": "device"}
#: Figures by what people call them.
NAMES = {
    "loss": "loss",
    "latency_s": "latency",
    "period_s": "period",
    "energy_j": "energy",
    "memory_bytes": "weights",
    "macs": "MACs",
    "parameters": "parameters",
}


def _point(point: Point) -> dict[str, Any]:
    bounds = {"latency_s_low": point.latency_low_s, "latency_s_high": point.latency_high_s}
    return {"chosen": dict(point.chosen), **point.figures, **bounds}


def to_dict(found: Allocation) -> dict[str, Any]:
    """The answer as ``steelyard.search/1``."""
    task = found.task
    return plain(  # type: ignore[no-any-return]
        {
            "schema": SCHEMA,
            "kind": task.kind,
            "network": task.network,
            "devices": list(task.devices),
            "goal": {"name": found.goal, "meaning": task.goal_title, "proxy": task.proxy},
            "axis": found.axis,
            "limits": dict(found.limits),
            "exact": found.exact,
            "gap": found.gap,
            "how": "elimination of places, integer programs where several limits bind",
            "programs": found.programs,
            "layers": {n: list(c) for n, c in zip(task.names, task.choices, strict=True)},
            "best": _point(found.best),
            "front": [_point(p) for p in found.front],
            "alike": {name: _point(p) for name, p in found.alike.items()},
            "sources": dict(task.ledger.sources),
            "assumptions": list(task.ledger.assumptions),
            "provenance": dict(found.provenance),
        }
    )


def flat_rows(found: Allocation) -> list[dict[str, Any]]:
    """A row for each point of the front: figures, and what every layer has."""
    rows = []
    for p in found.front:
        bounds = {"latency_s_low": p.latency_low_s, "latency_s_high": p.latency_high_s}
        rows.append({**p.figures, **bounds, **{f"layer.{n}": c for n, c in p.chosen.items()}})
    return rows


def summary(found: Allocation) -> str:
    """One line for a Python prompt."""
    return f"<Allocation of {WORDS[found.task.kind]} of {found.task.network}: {len(found)} on the front>"


def report(found: Allocation, width: int | None = None) -> str:
    """The answer as text."""
    return render(parts(found), width)


def title(found: Allocation) -> str:
    """What is answered."""
    return f"{WORDS[found.task.kind]} of every layer of {found.task.network} on {', '.join(found.task.devices)}"


def shown(name: str, value: float) -> str:
    """A figure with its unit."""
    unit = UNITS[name.partition(".")[0]]
    if unit != "1":
        return q(value, unit)
    return q(value, "").strip() if name in ("macs", "parameters") else figure(value)


def figures_shown(found: Allocation) -> list[str]:
    """Figures of the columns of a report: the goal first, memories of several devices left out."""
    names = [n for n in found.task.measures if "." not in n]
    return [found.goal, *(n for n in names if n != found.goal)]


def proven(found: Allocation) -> str:
    """How far points may be from the optimum at their limits."""
    return "each exact" if found.exact else f"each within {found.gap:.1%} of the least"


def parts(found: Allocation) -> list[Any]:
    """The report as renderables: the front, one choice for all, the best by layer."""
    names = figures_shown(found)
    heads = [NAMES[n] for n in names]

    def row(label: str, p: Point) -> list[str]:
        return [label, *(shown(n, p.figures[n]) for n in names), span(p.latency_low_s, p.latency_high_s)]

    front = [row(f"{i + 1}.", p) for i, p in enumerate(found.front[:_SHOWN])]
    alike = [row(f"all {name}", p) for name, p in found.alike.items()]
    told = [f"{NAMES[n]} {shown(n, v)}" for n, v in found.limits.items() if "." not in n]
    within = f"within {', '.join(told)}; " if told else ""
    numeric = [*heads, "80% of latency"]
    best = found.best.chosen
    stretches = _stretches(best)
    more = len(stretches) - _LAYERS
    return [
        styled((title(found), "bold")),
        styled(f"{within}least {NAMES[found.goal]} at several limits of {NAMES[found.axis]}, {proven(found)}"),
        "",
        columns(["", *numeric], [*front, *alike], numeric),
        "",
        *bullets("the first, by layer", stretches[:_LAYERS]),
        *([styled(f"{more} more; --csv and --json have all")] if more > 0 else []),
        "",
        *bullets("assumed", found.task.ledger.assumptions),
        *bullets("sources", [f"{what}: {source}" for what, source in list(found.task.ledger.sources.items())[:6]]),
    ]


def _stretches(chosen: dict[str, str] | Any) -> list[str]:
    """Layers that follow each other and have the same, in one line."""
    found: list[tuple[str, str, str]] = []
    for layer, choice in chosen.items():
        if found and found[-1][2] == choice:
            found[-1] = (found[-1][0], layer, choice)
        else:
            found.append((layer, layer, choice))
    return [f"{a}: {c}" if a == b else f"{a} to {b}: {c}" for a, b, c in found]
