"""A search of networks: as JSON (``steelyard.search/1``), rows, and a report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from steelyard.report.paper import bullets, columns, figure, named, render, span, styled
from steelyard.report.plain import plain
from steelyard.units import format_quantity as q

if TYPE_CHECKING:
    from steelyard.exploration.networks import NetworkSearch

__all__ = ["SCHEMA", "cells", "effort", "flat_rows", "parts", "report", "summary", "to_dict"]

SCHEMA = "steelyard.search/1"
#: Points of the front that a report shows.
_SHOWN = 12


def flat_rows(found: NetworkSearch) -> list[dict[str, Any]]:
    """A row for each point of the front."""
    rows = []
    for i, architecture in enumerate(found.architectures):
        row: dict[str, Any] = {"architecture": architecture, "score": float(found.score[i])}
        for d, device in enumerate(found.devices):
            row[f"latency_s.{device}"] = float(found.latency_s[i, d])
            row[f"latency_s_low.{device}"] = float(found.low_s[i, d])
            row[f"latency_s_high.{device}"] = float(found.high_s[i, d])
        row |= {
            "chance": float(found.chance[i]),
            "macs": float(found.macs[i]),
            "parameters": float(found.parameters[i]),
        }
        if found.peak_memory_bytes is not None:
            row["peak_memory_bytes"] = float(found.peak_memory_bytes[i])
        rows.append(row)
    return rows


def to_dict(found: NetworkSearch) -> dict[str, Any]:
    """The answer as ``steelyard.search/1``."""
    front = [
        {
            "architecture": architecture,
            "score": found.score[i],
            "latency_s": dict(zip(found.devices, found.latency_s[i], strict=True)),
            "latency_s_low": dict(zip(found.devices, found.low_s[i], strict=True)),
            "latency_s_high": dict(zip(found.devices, found.high_s[i], strict=True)),
            "chance": found.chance[i],
            "macs": found.macs[i],
            "parameters": found.parameters[i],
            "peak_memory_bytes": None if found.peak_memory_bytes is None else found.peak_memory_bytes[i],
        }
        for i, architecture in enumerate(found.architectures)
    ]
    return plain(  # type: ignore[no-any-return]
        {
            "schema": SCHEMA,
            "kind": "network",
            "space": found.space.name,
            "architectures": found.space.size,
            "devices": list(found.devices),
            "score": {"name": found.score_name, "meaning": found.score_title, "proxy": found.proxy},
            "limits": dict(found.limits),
            "sure": found.sure,
            "how": found.how,
            "exact": found.exact,
            "tried": found.tried,
            "ended": found.ended,
            "best": found.best,
            "front": front,
            "history": [{"tried": n, "hypervolume_frac": v} for n, v in found.history],
            "cpu_s": found.cpu_s,
            "sources": dict(found.ledger.sources),
            "assumptions": list(found.ledger.assumptions),
            "provenance": dict(found.provenance),
        }
    )


def summary(found: NetworkSearch) -> str:
    """One line for a Python prompt."""
    return f"<NetworkSearch of {found.space.name}: {len(found)} on the front, best {found.best}>"


def report(found: NetworkSearch, width: int | None = None) -> str:
    """The answer as text."""
    return render(parts(found), width)


def effort(found: NetworkSearch) -> str:
    """Limits, how many networks were tried, and how."""
    units = {"macs": "", "parameters": "", "memory": "B"}
    limits = ", ".join(
        f"{name.removeprefix('latency_s.')} {q(v, units.get(name, 's')).strip()}" for name, v in found.limits.items()
    )
    how = f"exact, by {found.how}" if found.exact else f"{found.how}, {found.ended}"
    return f"{f'within {limits}; ' if limits else ''}{found.tried:,} tried, {how}"


def cells(found: NetworkSearch) -> tuple[list[str], list[list[str]]]:
    """Heads, and a row of every network of the front, best score first."""
    alone = len(found.devices) == 1
    heads = ["score"]
    for device in found.devices:
        heads += [device, "80% interval"] if alone else [device]
    held = found.peak_memory_bytes
    heads += ["MACs", "parameters", *(["memory"] if held is not None else []), *(["chance"] if found.limits else [])]
    rows = []
    for i in range(len(found)):
        row = [f"{i + 1}.", figure(float(found.score[i]))]
        for d in range(len(found.devices)):
            row.append(q(float(found.latency_s[i, d]), "s"))
            if alone:
                row.append(span(float(found.low_s[i, d]), float(found.high_s[i, d])))
        row += [q(float(v[i]), "").strip() for v in (found.macs, found.parameters)]
        row += [q(float(held[i]), "B")] if held is not None else []
        rows.append([*row, *([f"{100 * float(found.chance[i]):.0f} %"] if found.limits else [])])
    return ["", *heads], rows


def parts(found: NetworkSearch) -> list[Any]:
    """The report as renderables: the front, best score first."""
    heads, rows = cells(found)
    shown = rows[:_SHOWN]
    more = len(found) - len(shown)
    return [
        styled((found.space.title, "bold"), f": best {found.score_name} on {', '.join(found.devices)}"),
        styled(effort(found)),
        "",
        columns(heads, shown, heads),
        "",
        *named("architectures", found.architectures[: len(shown)]),
        *([styled(f"{more} more on the front; --csv has all")] if more else []),
        "",
        *bullets("assumed", found.ledger.assumptions),
        *bullets("sources", [f"{what}: {source}" for what, source in list(found.ledger.sources.items())[:6]]),
    ]
