"""Several scenarios: one row each, those that cannot run or do not fit included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.text import Text

from steelyard.deployment.plan import DEGREES
from steelyard.report.estimate import to_dict as one_to_dict
from steelyard.report.paper import columns as table_of
from steelyard.report.paper import figure, kept, needed, render
from steelyard.report.plain import plain
from steelyard.scenario.fields import GROUPS, STATIC_FLAGS
from steelyard.units import format_quantity as q
from steelyard.workload.protocol import beyond_context

if TYPE_CHECKING:
    from steelyard.errors import Problem
    from steelyard.estimation.estimate import Estimate

__all__ = ["SCHEMA", "Cell", "text", "to_dict"]

SCHEMA = "steelyard.estimates/1"

Cell = tuple[Mapping[str, Any], "Estimate | None", Sequence["Problem"]]
"""Inputs of a scenario, its estimate, or what was wrong with it."""

_SIZES = GROUPS["batch"]
#: Inputs that become a column when they differ between rows, with the heading.
_AXES = (
    ("on", "machine"),
    ("weights", "weights"),
    ("activations", "act"),
    ("kv", "kv"),
    ("communication", "comm"),
    ("engine", "engine"),
    *zip(DEGREES, DEGREES, strict=True),
    *zip(_SIZES, _SIZES, strict=True),
    *zip(STATIC_FLAGS, STATIC_FLAGS, strict=True),
)


def to_dict(cells: Sequence[Cell]) -> dict[str, Any]:
    """``{"schema": "steelyard.estimates/1", "rows": [...]}``; a row that could not run has ``error`` and ``inputs``."""
    rows = []
    shared: dict[Any, Any] = {}
    for inputs, estimate, problems in cells:
        if estimate is not None:
            rows.append(one_to_dict(estimate, shared))
        else:
            found = [{"field": p.field, "message": p.message} for p in problems]
            rows.append(plain({"error": {"problems": found}, "inputs": inputs}))
    return {"schema": SCHEMA, "rows": rows}


def text(cells: Sequence[Cell], width: int | None = None) -> str:
    """The table for a terminal; only what differs between the rows has a column of its own."""
    axes = [(key, head) for key, head in _AXES if len({str(_value(c, key)) for c in cells} - {""}) > 1]
    if not axes:
        axes = [("batch", "batch")]
    notes: dict[str, int] = {}
    rows = [{head: str(_value(c, key)) for key, head in axes} | _figures(c, notes) for c in cells]
    names = [*(head for _, head in axes), *_FIGURES]
    every = [[row.get(n, "") for n in names] for row in rows]
    whole = needed(names, every, gap=1)
    names = [names[i] for i in kept(names, every, width, _OPTIONAL, gap=1)]
    table = [
        [Text(row.get(n, ""), style="red" if n == "bound" and "[" in row[n] else "") for n in names] for row in rows
    ]
    numeric = [n for n in names if n not in ("machine", "weights", "act", "kv", "comm", "engine", "bound")]
    made = table_of(names, table, numeric, gap=1)
    parts: list[Any] = [*_head(cells, {key for key, _ in axes}), "", made, ""]
    parts += [f"[{number}] {words}" for words, number in notes.items()] + _foot(cells)
    return render(parts, width, piped=max(120, whole))


#: Columns of figures, and those a narrow terminal goes without, first to go first.
_FIGURES = ("GiB", "TTFT", "TPOT", "tok/s", "per dev", "J/tok", "USD/M", "bound")
_OPTIONAL = ("J/tok", "GiB", "per dev", "act", "comm", "kv", "USD/M")


def _value(cell: Cell, key: str) -> Any:
    inputs, estimate, _ = cell
    if estimate is not None and key not in ("on", *_SIZES, *STATIC_FLAGS):
        return estimate.scenario.engine.name if key == "engine" else getattr(estimate.scenario.plan, key)
    return inputs.get(key, "")


#: Short words for what bounds a phase.
_SHORT = {"compute": "comp", "memory": "mem", "network": "net", "overhead": "ovh"}


def _figures(cell: Cell, notes: dict[str, int]) -> dict[str, str]:
    _, e, problems = cell
    if e is None:
        note = notes.setdefault(f"cannot run: {_why(problems)}", len(notes) + 1)
        return {"bound": f"error [{note}]"}
    total = f"{float(e.memory.total) / 2**30:,.1f}"
    if not e.fits:
        capacity = f"{float(e.memory.capacity) / 2**30:,.1f} GiB"
        words = f"does not fit: {e.scenario.cluster.machine.name} has {capacity} usable per device"
        return {"GiB": total, "bound": f"no fit [{notes.setdefault(words, len(notes) + 1)}]"}
    usd, s, mark = e.usd_per_million_tokens, e.scenario, ""
    if beyond_context(s.transformer, s.prompt + s.osl * s.transformer.causal):
        words = f"beyond the {s.transformer.max_context:,} tokens the model was made for; --json says what engines need"
        mark = f" [{notes.setdefault(words, len(notes) + 1)}]"
    values = (
        total,
        q(e.ttft_s, "s"),
        q(e.tpot_s, "s"),
        figure(e.tokens_per_s),
        figure(e.tokens_per_s_per_device),
        f"{e.energy_j_per_token:.3g}",
        "-" if usd is None else figure(usd),
        "/".join(_SHORT.get(b, b) for b in e.bound.values()) + mark,
    )
    return dict(zip(_FIGURES, values, strict=True))


def _why(problems: Sequence[Problem]) -> str:
    return "; ".join(str(p) for p in problems)


def _head(cells: Sequence[Cell], varying: set[str]) -> list[str]:
    first = next((c for c in cells if c[1] is not None), cells[0])
    inputs, e, _ = first
    fixed = [
        f"{head} {_value(first, key)}"
        for key, head in _AXES
        if key not in varying and key != "on" and _told(e, key, first)
    ]
    machine = "" if "on" in varying else f" on {inputs['on']}"
    return [f"{inputs['model']}{machine}", ", ".join(fixed)]


def _told(estimate: Estimate | None, key: str, cell: Cell) -> bool:
    value = _value(cell, key)
    if key in DEGREES:
        return value not in ("", 1, "1")
    return key in ("weights", "kv", *_SIZES, "engine") and value != ""


def _foot(cells: Sequence[Cell]) -> list[str]:
    fitting = [e for _, e, _ in cells if e is not None and e.fits]
    if not fitting:
        return ["No scenario fits."]
    fastest = max(fitting, key=lambda e: e.tokens_per_s_per_device)
    s = fastest.scenario
    best = f"Most tokens/s per device: batch {s.batch} on {s.cluster} ({fastest.tokens_per_s_per_device:,.0f})."
    priced = [e for e in fitting if e.usd_per_million_tokens is not None]
    if priced:
        cheapest = min(priced, key=lambda e: e.usd_per_million_tokens or 0.0)
        c, usd = cheapest.scenario, cheapest.usd_per_million_tokens
        best += (
            f" Cheapest: batch {c.batch} on {c.cluster} ({q(usd, 'USD')} per million tokens)."
            if usd is not None
            else ""
        )
    return [best, "bound: prefill/decode. TTFT is of the whole batch. --json has intervals, limits, sources."]
