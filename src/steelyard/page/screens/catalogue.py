"""Catalogue: what is known of machines, models, prices, engines and techniques, and where it is from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from steelyard.errors import InputError
from steelyard.page.screen import Screen, Shown, Tell
from steelyard.report import listing
from steelyard.report.entry import Entry, Kind, find, reason, to_dict, unit_of, units_of
from steelyard.report.entry import shown as figure_text
from steelyard.report.figures import Figure
from steelyard.report.figures.options import axis, colour, line
from steelyard.units import format_quantity as q

__all__ = ["SCREEN", "roofs"]

#: Lists shown as tabs, in this order; the others are below "more".
_FIRST = ("machines", "models", "nets", "prices", "engines", "techniques")
#: Columns of text that may be long.
_LONG = ("title", "also", "source", "math", "parameters", "effect", "verbs", "failures", "phases", "sizes")
#: Formats whose roofs are drawn, of each machine the widest two it has.
_ROOFS = (("bf16", "fp16", "fp32"), ("fp8", "int8", "fp4"))


def ask(words: Mapping[str, Any], tell: Tell) -> Shown:
    """A list, or one entry of it."""
    SCREEN.refuse_unknown(words)
    kind = str(words.get("kind", "machines"))
    if name := words.get("name"):
        return _entry(kind, str(name), str(words.get("beside", "")))
    text = str(words.get("q", ""))
    rows, told = listing.rows_with_origins(kind, text)
    return Shown({"schema": "steelyard.list/1", "kind": kind, "rows": rows}, rows, view=_table(kind, rows, told, text))


def _singular(kind: str) -> str:
    """The kind of an entry of a list; empty where its entries are rows and no more."""
    one = {"policies": "policy"}.get(kind, kind.removesuffix("s"))
    return one if one in get_args(Kind) else ""


def _tabs(kind: str) -> dict[str, Any]:
    return {"first": _FIRST, "others": [k for k in listing.kinds() if k not in _FIRST], "kind": kind}


def _table(
    kind: str, rows: Sequence[Mapping[str, Any]], told: Sequence[Mapping[str, str]], text: str
) -> dict[str, Any]:
    names = list(rows[0]) if rows else []
    numeric = {n for n in names if any(isinstance(r[n], int | float) and not isinstance(r[n], bool) for r in rows)}
    heads = [{"name": n, "head": listing.heading(n), "text": n not in numeric, "long": n in _LONG} for n in names]
    published = [next((w for w in of.values() if not w.startswith("guess")), "") for of in told]
    cells = [
        [
            {
                "text": listing.shown(n, r[n]),
                "value": r[n] if n in numeric else None,
                "guess": guess if (guess := of.get(n, "")).startswith("guess") else "",
            }
            for n in names
        ]
        for r, of in zip(rows, told, strict=True)
    ]
    opens = _singular(kind)
    linked = [str(r[names[0]]) if opens else "" for r in rows]
    return {
        "title": kind,
        "tabs": _tabs(kind),
        "q": text,
        "heads": heads,
        "rows": cells,
        "names": linked,
        "from": published,
        "sourced": any(told),
        "entry": None,
    }


def _entry(kind: str, name: str, beside: str) -> Shown:
    """Every figure of one entry with its unit, guesses and sources; of machines their roofs."""
    one = _singular(kind)
    if not one:
        raise InputError(f"entries of {kind} are rows and no more", field="name")
    entry = find(name, one)  # type: ignore[arg-type]
    document, units = to_dict(entry), units_of(entry)
    guesses = document["guesses"]
    rows = [
        {
            "path": path,
            "text": figure_text(value, unit_of(path, units), 10),
            "value": value,
            "unit": unit_of(path, units),
            "guess": reason(guesses, path),
        }
        for path, value in document["facts"].items()
        if path not in ("name", "title")
    ]
    figures = []
    other: Entry | None = None
    if one == "machine":
        other = find(beside, "machine") if beside else None
        figures = [roofs([entry.value, *([other.value] if other else [])]).to_dict()]
    view = {
        "title": f"{entry.name}",
        "about": getattr(entry.value, "title", ""),
        "tabs": _tabs(kind),
        "entry": {"kind": one, "name": entry.name, "beside": other.name if other else "", "facts": rows},
        "sources": document["sources"],
        "released": getattr(entry.value, "released", ""),
    }
    flat = [{n: row[n] for n in ("path", "value", "unit", "guess")} for row in rows]
    return Shown(document, flat, figures, view)


def roofs(machines: Sequence[Any]) -> Figure:
    """The roofs of machines over each other: what they reach at each intensity, at most.

    ``min(peak, intensity x bandwidth)`` of the outermost memory and of the fastest engine of a format.
    """
    series: list[dict[str, Any]] = []
    rows: list[tuple[Any, ...]] = []
    words = []
    for i, m in enumerate(machines):
        bandwidth = m.root.bandwidth_bytes_per_s
        peaks: dict[str, float] = {}
        for compute in m.compute:
            for fmt, peak in compute.peak.items():
                peaks[fmt] = max(peak, peaks.get(fmt, 0.0))
        chosen = [f for wanted in _ROOFS for f in [next((f for f in wanted if f in peaks), "")] if f] or [*peaks][:1]
        for j, fmt in enumerate(dict.fromkeys(chosen)):
            peak = peaks[fmt]
            ridge = peak / bandwidth
            x = [0.1, ridge, max(1e4, 3 * ridge)]
            y = [0.1 * bandwidth, peak, peak]
            name = f"{m.name} {fmt}" + ", dashed" * (j > 0)
            style = {"color": colour(i), "type": "solid" if j == 0 else "dashed"}
            said = [f"{m.title}, {fmt}: {q(b, 'FLOP/s')} at {a:,.4g} FLOP per byte" for a, b in zip(x, y, strict=True)]
            line_of = {"lineStyle": style, "itemStyle": {"color": colour(i)}}
            series.append(line(name, x, y, words=said, **line_of))
            rows.append((m.name, fmt, peak, bandwidth, ridge))
        listed = ", ".join(f"{f} {q(peaks[f], 'OP/s')}" for f in dict.fromkeys(chosen))
        words.append(f"{m.title}: {listed}, memory at {q(bandwidth, 'B/s')}")
    option = {
        "height": 340,
        "trigger": "item",
        "xAxis": axis("FLOP per byte", "", log=True),
        "yAxis": axis("FLOP/s", "FLOP/s", log=True),
        "series": series,
    }
    says = "; ".join(words) + ". Left of the ridge memory bounds a kernel, right of it arithmetic."
    heads = ("machine", "format", "peak, OP/s", "bandwidth, B/s", "ridge, FLOP per byte")
    return Figure("roofs", "Roofline", says, option, heads, tuple(rows))


SCREEN = Screen(
    name="catalogue",
    title="Catalogue",
    says="Machines, models, prices, engines and techniques, each number with its source.",
    ask=ask,
    command="ls",
    parameters={
        "kind": "of what: machines, models, prices, ...",
        "q": "text that occurs in the row",
        "name": "one entry",
        "beside": "with a machine: another whose roofs are drawn over it",
    },
    start={"kind": "machines"},
)
