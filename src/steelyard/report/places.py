"""Places a model can run, or models a machine can run, as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from steelyard.report.paper import columns, figure, kept, left_out, needed, render
from steelyard.report.plain import plain
from steelyard.units import format_quantity as q

if TYPE_CHECKING:
    from steelyard.estimation.places import Place, Places

__all__ = ["parts", "rows", "summary", "text", "to_dict"]


def to_dict(found: Places) -> dict[str, Any]:
    """The JSON form ``steelyard.fit/1``."""
    head = {"schema": "steelyard.fit/1", "about": found.about, "tried": found.tried}
    return plain({**head, "rows": rows(found), "notes": [*found.notes]})  # type: ignore[no-any-return]


def rows(found: Places) -> list[dict[str, Any]]:
    """The rows for CSV."""
    return [plain(place.row()) for place in found]


def summary(found: Places) -> str:
    """A line for a Python prompt, and the first few rows."""
    what = "models" if found.models else "machines"
    first = [" ".join(_cells(place, found.models, False, False)[:2]) for place in found.rows[:3]]
    names = ", ".join(first) + (", ..." if len(found) > len(first) else "")
    return f"<Places of {found.about}: {len(found)} of {found.tried} {what}{': ' * bool(names)}{names}>"


def text(found: Places, width: int | None = None) -> str:
    """The table for a terminal.

    Args:
        found: what was found.
        width: columns of the terminal; None: no terminal.
    """
    heads, cells = _table(found)
    return render(parts(found, width), width, piped=max(120, needed(heads, cells)))


#: Below a table with such places.
_STARRED = "* the engine does not start with its defaults there: steelyard estimate says with which limits it does"
_BARE = "+ the processor alone: the board and the memory that holds the model come on top; listed after whole machines"
_BOUGHT = "' bought: the devices over three years with their power, as no rental price is known"
#: Columns that narrow terminals go without, first to go first.
_OPTIONAL = ("80%", "TTFT", "engine", "states", "context", "weights", "memory")


def parts(found: Places, width: int | None = None) -> list[Any]:
    """The table as renderables."""
    models = found.models
    if not found.rows:
        none = f"{found.about}: nothing found among {found.tried} {'models' if models else 'machines'}"
        return [none, *found.notes]
    heads, cells = _table(found)
    gap = 2 if width is None or needed(heads, cells) <= width else 1
    numeric = [h for h in heads if h not in heads[:3]]
    shown = kept(heads, cells, width, _OPTIONAL, gap=gap)
    table = columns([heads[i] for i in shown], [[row[i] for i in shown] for row in cells], numeric, gap=gap)
    head = (
        f"{found.about}: {'the largest of' if models else ''} {found.tried} {'models' if models else 'machines'} tried"
    )
    users = found.rows[0].users
    head += f"; room for {users:,} requests at once, speed of each" if users > 1 else ""
    ends = [cell[-1:] for row in cells for cell in row]
    star = [words for mark, words in (("*", _STARRED), ("'", _BOUGHT), ("+", _BARE)) if mark in ends]
    more = [f"{p.row()['model']} +{len(p.alike)}: the same figures have {', '.join(p.alike)}" for p in found if p.alike]
    return [" ".join(head.split()), "", table, *star, *left_out(heads, shown), *more, *found.notes]


def _table(found: Places) -> tuple[list[str], list[list[str]]]:
    """Names of the columns, and a cell of each per place."""
    heads = [
        "model" if found.models else "machine",
        "weights",
        "engine",
        "memory",
        "TTFT",
        "tokens/s",
        "80%",
        "context",
    ]
    priced = not found.models and any(place.usd_per_hour is not None for place in found)
    states = any(place.states[0] for place in found)
    heads += ["states"] if states else []
    heads += ["USD/h"] if priced else []
    return heads, [_cells(p, found.models, priced, states) for p in found]


def _cells(place: Place, models: bool, priced: bool, states: bool) -> list[str]:
    row = place.row()
    name = row["machine"] if row["count"] == 1 else f"{row['count']} x {row['machine']}"
    usd = row["price_usd_per_hour"]
    share = row["memory_bytes"] / row["capacity_bytes"]
    cells = [
        row["model"] + (f" +{len(place.alike)}" if place.alike else "") if models else name,
        row["weights"],
        row["engine"],
        f"{q(row['memory_bytes'], 'B')} ({share:.0%})",
        q(row["ttft_s"], "s"),
        figure(row["tokens_per_s"]),
        f"{figure(row['tokens_per_s_low'])}-{figure(row['tokens_per_s_high'])}",
        f"{row['largest_context']:,}" + ("" if row["starts_with_defaults"] else "*"),
    ]
    cells += [f"{row['state_slots']:,}" if row["state_slots"] else ""] if states else []
    mark = "+" if row["price_of_processor_alone"] else "'" if row["price_of_purchase"] else ""
    return cells + ([f"{usd:,.2f}{mark}" if usd is not None else ""] if priced else [])
