"""A study as text: best points per objective, the Pareto front, what each axis does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from steelyard.report.paper import PREFIXED, columns, figure, kept, left_out, render, spread
from steelyard.scenario.fields import PRICE
from steelyard.studies.findings import Findings, shown_metrics
from steelyard.studies.store_columns import columns_of
from steelyard.studies.study import Objective
from steelyard.studies.table import Row
from steelyard.traffic.trace import LENGTHS
from steelyard.units import format_quantity as q

__all__ = ["FIXED", "heading", "listing", "objective_text", "parts", "quantity", "short", "subtitle", "summary", "text"]

#: Rows of the front, and reasons of missing answers, before the rest is only counted.
_FRONT, _REASONS = 12, 5
#: Inputs that every row shares and that are worth naming.
FIXED = (
    *("model", "on", "weights", "kv", "engine", "batch", *LENGTHS, "trace", "rate", "ttft", "tpot"),
    *("task", "framework", "precision", "gbs", "seq", "tokens"),
)


def quantity(kind: str, name: str, value: Any) -> str:
    """An answer for people: ``12.3 ms``, ``1,744``."""
    if value is None:
        return "-"
    column = columns_of(kind).get(name)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str) or column is None:
        return str(value)
    if column.unit in PREFIXED:
        return q(float(value), column.unit)
    return f"{value:,}" if isinstance(value, int) else figure(float(value))


def heading(name: str) -> str:
    """A column's name as the head of a table: ``TTFT p99``, ``tok/s per device``."""
    words = name.removesuffix("_s").removesuffix("_bytes").removeprefix("output_")
    for long, short in (
        ("energy_j_per_output_token", "J/tok"),
        ("energy_j_per_token", "J/tok"),
        ("usd_per_million_output_tokens", "USD/M"),
        ("usd_per_million_tokens", "USD/M"),
        (PRICE, "USD/h"),
        ("tokens_per_s_per_device", "tok/s/dev"),
        ("tokens_per_s_per_user", "tok/s/user"),
        ("tokens_per", "tok/s"),
        ("goodput_requests_per", "goodput/s"),
        ("memory_total", "memory"),
        ("peak_memory", "memory"),
        ("usd_per_trillion_tokens", "USD/T"),
        ("mfu_frac", "MFU"),
        ("kgco2", "kg CO2"),
    ):
        if words == long:
            return short
    return words.replace("ttft", "TTFT").replace("tpot", "TPOT").replace("_", " ")


def short(name: str) -> str:
    """An axis as the head of a table."""
    return name.removeprefix("flags.")


def objective_text(objective: Objective) -> str:
    """An objective with its name, when it has one."""
    return f"{objective.name}: {objective}" if objective.name else str(objective)


def subtitle(findings: Findings) -> str:
    """What all rows share: ``model llama-3.1-70b, weights fp8``."""
    table = findings.table
    rows = np.flatnonzero(table.answered) if table.answered.any() else np.arange(len(table))
    names = [n for n in FIXED if n not in findings.axes and n in table.values]
    seen = {n: list({str(v): v for v in set(table.values[n].take(rows).tolist())}.values()) for n in names}
    return ", ".join(f"{n} {v[0]}" for n, v in seen.items() if len(v) == 1 and v[0] not in (None, ""))


def text(findings: Findings, width: int | None = None) -> str:
    """The whole report as text.

    Args:
        found: what the study says.
        width: columns of the terminal; None = no terminal.
    """
    return render(parts(findings, width), width, piped=140)


def summary(findings: Findings) -> str:
    """One line for a Python prompt."""
    return f"<Findings of {findings.study.name}: {len(findings.rows):,} points, {len(findings.front):,} on the front>"


def parts(findings: Findings, width: int | None = None) -> list[Any]:
    """The report as renderables, from the name of the study to the reasons of missing answers."""
    study = findings.study
    left = "" if study.finished else f" ({study.points - study.priced:,} not priced yet)"
    made: list[Any] = [f"{study.name}: {study.kind}, {study.points:,} points{left}", subtitle(findings), ""]
    metrics = shown_metrics(study.kind, findings.objectives)
    axes = list(findings.axes)
    for objective, best in zip(findings.objectives, findings.best, strict=True):
        made.append(objective_text(objective))
        made += _table(findings, best, axes, _fitting(metrics, objective), width) if best else ["  no point does", ""]
    if findings.front:
        names = ", ".join(heading(o.metric) for o in findings.objectives)
        made.append(f"Pareto front of {names}: {len(findings.front):,} points")
        made += _table(findings, spread(findings.front, _FRONT), axes, [o.metric for o in findings.objectives], width)
    made += _axes(findings, width)
    for problem, count in list(findings.problems.items())[:_REASONS]:
        made.append(f"{count:,} without an answer: {problem}")
    if len(findings.problems) > _REASONS:
        made.append(f"{len(findings.problems) - _REASONS:,} more reasons; --csv has them all")
    return made


def _fitting(metrics: Sequence[str], objective: Objective) -> list[str]:
    wanted = [objective.metric, *(c.metric for c in objective.where if not isinstance(c.value, bool)), *metrics]
    return list(dict.fromkeys(wanted))[:6]


def listing(findings: Findings, row: Row, axes: Sequence[str], metrics: Sequence[str]) -> list[str]:
    """Cells of a row: its axes, then its figures."""
    return [_word(row.axes, n) for n in axes] + [quantity(findings.study.kind, m, row.values.get(m)) for m in metrics]


def _word(axes: Mapping[str, Any], name: str) -> str:
    value = axes.get(name, "-")
    return "default" if value == "" else str(value)


def _table(
    findings: Findings, rows: Sequence[Row], axes: Sequence[str], metrics: Sequence[str], width: int | None
) -> list[Any]:
    names = [short(n) for n in axes] + [heading(m) for m in metrics]
    cells = [listing(findings, r, axes, metrics) for r in rows]
    numeric = [
        n for i, n in enumerate(names) if i >= len(axes) or all(c[i].replace(".", "").isdecimal() for c in cells)
    ]
    gap = 2 if width is None or width > 100 else 1
    shown = kept(names, cells, width, [heading(m) for m in metrics[:0:-1]], gap=gap)
    table = columns([names[i] for i in shown], [[row[i] for i in shown] for row in cells], numeric, gap=gap)
    return [table, *left_out(names, shown), ""]


def _axes(findings: Findings, width: int | None) -> list[Any]:
    """What changing one axis alone does, per objective."""
    if not findings.sensitivity:
        return []
    rows = [
        [
            heading(a.metric),
            short(a.name),
            f"{a.ratio:,.2f}x",
            _word({"": a.best}, ""),
            f"{a.best_frac:.0%}",
            f"{a.settings:,}",
        ]
        for a in findings.sensitivity
    ]
    names = ["figure", "axis", "worst/best", "best value", "how often", "settings"]
    words = "What one axis does when nothing else changes (median over the settings of the others):"
    shown = kept(names, rows, width, ["settings", "how often"])
    numeric = ["worst/best", "how often", "settings"]
    table = columns([names[i] for i in shown], [[row[i] for i in shown] for row in rows], numeric)
    return [words, table, *left_out(names, shown), ""]
