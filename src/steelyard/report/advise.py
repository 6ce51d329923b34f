"""Advice as text and rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from steelyard.units import figure, format_quantity

if TYPE_CHECKING:
    from steelyard.search.advise import Advice, Tried

__all__ = ["rows", "text"]

#: Objectives that are shown beside the gain, with their units and headings.
_SHOWN = {
    "capacity": ("", "max rate/s"),
    "goodput": ("", "kept/s"),
    "ttft": ("s", "TTFT"),
    "tpot": ("s", "TPOT"),
    "throughput": ("", "tokens/s"),
    "cost": ("USD", "per M tokens"),
}
#: Those that are shown only where they are the objective.
_ASKED = ("capacity", "goodput")
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
    from steelyard.search.advise import OBJECTIVES, Tried, costs_of

    wanted = OBJECTIVES[found.objective]
    base, unit = found.base[found.objective], "s" if wanted.path.endswith("_s.mean") else ""
    without = format_quantity(base, unit) if unit else f"{base:.4g}"
    lines: list[Any] = [f"ranked by {wanted.words}; without any: {without}", ""]
    if found.objective == "e2e" and any(found.asked.get(name) for name in ("ttft", "tpot", "e2e")):
        lines[0] = f"promises are kept as it is by {found.base['kept']:.0%} of requests; {lines[0]}"
        lines[1:] = ["--capacity ranks by the largest rate at which they are", ""]
    best = [t for t in found.ranked if t.gain > 1.005][:_ROWS]
    if best:
        shown = {n: v for n, v in _SHOWN.items() if n not in _ASKED or n == found.objective}
        heads = ["techniques", "gain", "80 %", *(head for _, head in shown.values())]
        cells = [_cells(" + ".join(t.names), t, shown) for t in best]
        cells.append(_cells("none of them", Tried((), 1.0, None, found.base), shown))
        lines.append(columns(heads, cells, heads[1:], ("techniques",)))
        if said := dict.fromkeys(pair for t in best for pair in costs_of(t.names)):
            lines += ["", "what their papers say they cost:", *(f"  {name}: {words}" for name, words in said)]
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
        lines += [
            f"  {t.names[0]}: {_short(t.refused.removeprefix(f'{t.names[0]}: '))}" for t in found.refused[:_REFUSED]
        ]
        more = len(found.refused) - _REFUSED
        lines += [f"  and {more} more (--json has all)"] if more > 0 else []
    return render(lines, width, piped=140)


def _cells(name: str, tried: Tried, shown: Mapping[str, tuple[str, str]]) -> list[str]:
    ends = f"{tried.interval[0]:.2f}-{tried.interval[1]:.2f}" if tried.interval else ""
    values = [(tried.figures[n], unit) for n, (unit, _) in shown.items()]
    figures = ["" if math.isnan(v) else format_quantity(v, unit) if unit else figure(v) for v, unit in values]
    return [name, "from 0" if math.isinf(tried.gain) else f"{tried.gain:.2f}", ends, *figures]


def _short(words: str) -> str:
    return words if len(words) <= 100 else f"{words[:97]}..."
