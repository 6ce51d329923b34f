"""What a search costs itself: as JSON (``steelyard.search/1``), rows, and a report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from steelyard.report.paper import bullets, columns, figure, render, styled
from steelyard.report.plain import plain
from steelyard.units import format_quantity as q

if TYPE_CHECKING:
    from steelyard.exploration.search_cost import SearchCost, Way

__all__ = ["SCHEMA", "days", "parts", "parts_words", "report", "rows", "summary", "table", "title", "to_dict"]

SCHEMA = "steelyard.search/1"
_FIGURES = ("days", "device_days", "kwh", "usd", "kgco2")


def rows(found: SearchCost) -> list[dict[str, Any]]:
    """A row for each way: figures of the middle, and device-days with the ends of the 80 % interval."""
    return [
        {
            "way": w.name,
            "about": w.about,
            **{name: None if (of := getattr(w, name)) is None else of["p50"] for name in _FIGURES},
            "device_days_low": w.device_days["p10"],
            "device_days_high": w.device_days["p90"],
        }
        for w in found.ways
    ]


def to_dict(found: SearchCost) -> dict[str, Any]:
    """The answer as ``steelyard.search/1``."""
    ways = [
        {
            "name": w.name,
            "about": w.about,
            **{name: None if (of := getattr(w, name)) is None else dict(of) for name in _FIGURES},
            "parts_device_days": dict(w.parts),
        }
        for w in found.ways
    ]
    return plain(  # type: ignore[no-any-return]
        {
            "schema": SCHEMA,
            "kind": "cost",
            "space": found.space.name,
            "device": found.device,
            "devices": found.devices,
            "candidates": found.candidates,
            "epochs": found.epochs,
            "samples": found.samples,
            "batch": found.batch,
            "candidate": found.candidate,
            "step_s": found.step_s,
            "ways": ways,
            "sources": dict(found.ledger.sources),
            "assumptions": list(found.ledger.assumptions),
            "provenance": dict(found.provenance),
        }
    )


def summary(found: SearchCost) -> str:
    """One line for a Python prompt."""
    told = ", ".join(f"{w.name} {days(w)}" for w in found.ways)
    return f"<SearchCost of {found.candidates:,} of {found.space.name}, device-days: {told}>"


def report(found: SearchCost, width: int | None = None) -> str:
    """The answer as text."""
    return render(parts(found), width)


def days(way: Way) -> str:
    """Device-days of the middle."""
    return figure(way.device_days["p50"])


def parts_words(way: Way) -> str:
    """What device-days are spent on."""
    return ", ".join(f"{what} {figure(value)}" for what, value in way.parts.items())


def title(found: SearchCost) -> str:
    """What it is about."""
    return f"a search of {found.candidates:,} networks of {found.space.title} on {found.devices:,} {found.device}"


def table(found: SearchCost) -> tuple[list[str], list[list[str]]]:
    """Heads and a row for each way; money and carbon where a price of them is known."""
    paid, told = (any(getattr(w, name) is not None for w in found.ways) for name in ("usd", "kgco2"))
    heads = ["", "device-days", "80% interval", "days", "energy"]
    heads += [*(["money"] if paid else []), *(["CO2"] if told else [])]
    cells = []
    for w in found.ways:
        row = [w.name, days(w), f"{figure(w.device_days['p10'])} to {figure(w.device_days['p90'])}"]
        row += [figure(w.days["p50"]), q(w.kwh["p50"] * 1e3, "Wh")]
        row += [*([f"${figure(w.usd['p50'])}"] if w.usd else []), *([q(w.kgco2["p50"] * 1e3, "g")] if w.kgco2 else [])]
        cells.append(row)
    return heads, cells


def parts(found: SearchCost) -> list[Any]:
    """The report as renderables: a row for each way, and what its days are spent on."""
    heads, cells = table(found)
    return [
        styled((title(found), "bold")),
        styled(f"{figure(found.samples)} samples, {found.batch:,} a step; {found.epochs:g} epochs of a whole training"),
        "",
        columns(heads, cells, heads[1:]),
        "",
        *bullets("what is done", [f"{w.name}: {w.about}" for w in found.ways]),
        *bullets("device-days of it", [f"{w.name}: {parts_words(w)}" for w in found.ways]),
        *bullets("assumed", found.ledger.assumptions),
        *bullets("sources", [f"{what}: {source}" for what, source in list(found.ledger.sources.items())[:6]]),
    ]
