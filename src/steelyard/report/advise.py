"""Advice as text and rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from steelyard.units import format_quantity

if TYPE_CHECKING:
    from steelyard.search.advise import Advice, Tried

__all__ = ["rows", "text"]

#: Objectives that are shown beside the gain, with their units.
_SHOWN = (("ttft", "s"), ("tpot", "s"), ("throughput", ""), ("cost", "USD"))
#: Rows of the table at most, and refusals that are listed.
_ROWS, _REFUSED = 25, 12


def rows(found: Advice) -> list[dict[str, Any]]:
    """One CSV row per combination."""
    return [
        {
            "techniques": " + ".join(t.names),
            "gain": t.gain,
            "gain_low": t.interval[0] if t.interval else None,
            "gain_high": t.interval[1] if t.interval else None,
            **t.figures,
            "costs": "; ".join(t.costs),
        }
        for t in found.ranked
    ]


def text(found: Advice, width: int | None = None) -> str:
    """The ranking for a terminal."""
    from steelyard.report.paper import columns, render
    from steelyard.search.advise import OBJECTIVES

    wanted = OBJECTIVES[found.objective]
    lines: list[Any] = [f"ranked by {wanted.words}; without any: {found.base[found.objective]:.4g}", ""]
    if found.objective == "e2e" and any(found.asked.get(name) for name in ("ttft", "tpot", "e2e")):
        lines[0] = f"promises are kept as it is by {found.base['kept']:.0%} of requests; {lines[0]}"
    best = [t for t in found.ranked if t.gain > 1.005][:_ROWS]
    if best:
        heads = ["techniques", "gain", "80 %", *(name for name, _ in _SHOWN), "its paper says"]
        cells = [_cells(t) for t in best]
        if not any(row[-1] for row in cells):
            heads, cells = heads[:-1], [row[:-1] for row in cells]
        lines.append(columns(heads, cells, ["gain", *(n for n, _ in _SHOWN)], ("techniques", heads[-1])))
    else:
        lines.append("nothing that was tried is better than the scenario as it is")
    worse = [t for t in found.ranked if t.gain < 0.995 and len(t.names) == 1]
    same = sum(0.995 <= t.gain <= 1.005 and len(t.names) == 1 for t in found.ranked)
    tried = sum(len(t.names) == 1 for t in found.ranked)
    lines += ["", f"{tried} techniques tried alone, {len(found.ranked) - tried} pairs; {same} change nothing here"]
    if worse:
        lines.append(f"worse here: {', '.join(f'{t.names[0]} ({t.gain:.2f})' for t in worse[:_REFUSED])}")
    if found.refused:
        lines.append("not here:")
        lines += [f"  {t.names[0]}: {_short(t.refused)}" for t in found.refused[:_REFUSED]]
        more = len(found.refused) - _REFUSED
        lines += [f"  and {more} more (--json has all)"] if more > 0 else []
    return render(lines, width, piped=140)


def _cells(tried: Tried) -> list[str]:
    ends = f"{tried.interval[0]:.2f}-{tried.interval[1]:.2f}" if tried.interval else ""
    figures = [format_quantity(tried.figures[n], unit) if unit else f"{tried.figures[n]:,.0f}" for n, unit in _SHOWN]
    return [" + ".join(tried.names), f"{tried.gain:.2f}", ends, *figures, _costs(tried.costs)]


def _costs(costs: Sequence[str]) -> str:
    return "; ".join(costs)


def _short(words: str) -> str:
    return words if len(words) <= 100 else f"{words[:97]}..."
