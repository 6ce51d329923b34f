"""A study as one self-contained page: best points, Pareto front, what each axis does, and a table one can sort.

Nothing is loaded from outside; the only script sorts and filters the table.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

from steelyard.errors import InputError
from steelyard.report.study import Findings, Row, shown_metrics
from steelyard.report.study_charts import COLOURS, Dot, by_value, effects, scatter
from steelyard.report.study_text import heading, listing, quantity, subtitle
from steelyard.studies.store_columns import columns_of
from steelyard.studies.study import Objective

__all__ = ["page", "write_page"]

#: Dots of a scatter and rows of the table at most; more are thinned evenly, and the page says so.
DOTS, ROWS = 4000, 5000
#: Values of an axis drawn at most.
_VALUES = 40

_STYLE = """
:root{color-scheme:light dark;--ink:#1c2330;--soft:#6b7585;--grid:#e2e6ec;--page:#fff;--head:#f4f6f9;
--c0:#1f6fb4;--c1:#d9822b;--c2:#3a8f5c;--c3:#8e5bb5;--c4:#b3435f;--c5:#4d8f9c;--bad:#b3261e}
@media(prefers-color-scheme:dark){:root{--ink:#e8ebf0;--soft:#98a2b3;--grid:#2c3442;--page:#151a22;--head:#1d242f;
--c0:#6db3f2;--c1:#f0a95b;--c2:#78c997;--c3:#c79ae8;--c4:#f08ca4;--c5:#86c9d6;--bad:#ff8a80}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--page);
max-width:960px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.4rem;margin:0}h2{font-size:1.05rem;margin:2rem 0 .3rem}p{margin:.2rem 0;color:var(--soft)}
svg{width:100%;height:auto;margin:.4rem 0;display:block}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(380px,1fr));gap:0 1.5rem}
.wide{overflow-x:auto}.all{max-height:34rem;overflow:auto;border:1px solid var(--grid)}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.88rem;width:100%}
td,th{padding:.22rem .7rem;text-align:right;white-space:nowrap}
th{background:var(--head);position:sticky;top:0;font-weight:600}tr+tr td{border-top:1px solid var(--grid)}
.w{text-align:left}.all th{cursor:pointer}
.all th[data-up="1"]::after{content:" ▲"}.all th[data-up="0"]::after{content:" ▼"}
.bad{color:var(--bad)}input{font:inherit;width:100%;box-sizing:border-box;padding:.3rem .6rem;margin:.4rem 0;
color:inherit;background:var(--page);border:1px solid var(--grid)}
text{font-family:inherit}.title{font-size:14px;font-weight:600;fill:var(--ink)}.tick{font-size:11px;fill:var(--soft)}
.label{font-size:12px;fill:var(--ink)}.key{font-size:12px}.grid{stroke:var(--grid)}
.c0{stroke:var(--c0)}.c1{stroke:var(--c1)}.c2{stroke:var(--c2)}.c3{stroke:var(--c3)}.c4{stroke:var(--c4)}.c5{stroke:var(--c5)}
.c0.fill{fill:var(--c0)}.c1.fill{fill:var(--c1)}.c2.fill{fill:var(--c2)}.c3.fill{fill:var(--c3)}.c4.fill{fill:var(--c4)}
.c5.fill{fill:var(--c5)}.fill{stroke:none}.faint{opacity:.3}.soft{opacity:.55}.ring{stroke:var(--page);stroke-width:1.2}
.line{fill:none;stroke-width:1.8}.front{fill:none;stroke:var(--ink);stroke-width:1.2}
details{margin:1.5rem 0;color:var(--soft)}summary{cursor:pointer}pre{white-space:pre-wrap;font-size:.82rem}
@media print{.all{max-height:none}input{display:none}}
"""

_SCRIPT = """
for(const t of document.querySelectorAll('.all table')){const b=t.tBodies[0];
t.tHead.addEventListener('click',e=>{const h=e.target.closest('th');if(!h)return;
const i=[...h.parentNode.children].indexOf(h),up=h.dataset.up!=='1';
for(const o of h.parentNode.children)delete o.dataset.up;h.dataset.up=up?'1':'0';
const k=r=>{const c=r.cells[i],v=c.dataset.v;return v===undefined?c.textContent:v===''?null:+v};
const less=(x,y)=>typeof x==='number'&&typeof y==='number'?x-y:
String(x).localeCompare(String(y),undefined,{numeric:true});
const rows=[...b.rows].map(r=>[k(r),r]);
rows.sort(([x],[y])=>x===null?1:y===null?-1:less(x,y)*(up?1:-1));
b.append(...rows.map(r=>r[1]))})}
const f=document.getElementById('filter');f&&f.addEventListener('input',()=>{
const w=f.value.toLowerCase().split(/\\s+/).filter(x=>x);
for(const r of document.querySelectorAll('.all tbody tr')){const s=r.textContent.toLowerCase();
r.hidden=!w.every(x=>s.includes(x))}});
"""


def write_page(found: Findings, path: str | Path, sources: Mapping[str, Any] | None = None) -> None:
    """Write the page. Raises :class:`InputError` when the file cannot be written."""
    try:
        Path(path).write_text(page(found, sources), encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {str(path)!r}: {error.strerror or error}", field="html") from error


def page(found: Findings, sources: Mapping[str, Any] | None = None) -> str:
    """The page as text."""
    study = found.study
    about = study.document.get("study", {}).get("about", "")
    left = "" if study.finished else f"; {study.points - study.priced:,} not priced yet"
    answered = len(found.answered)
    lines = [
        about,
        subtitle(found),
        f"{study.kind}, {study.points:,} points{left}, {answered:,} with an answer",
    ]
    body = [f"<h1>{escape(study.name)}</h1>", *(f"<p>{escape(x)}</p>" for x in lines if x)]
    body += [f'<p class="bad">{n:,} without an answer: {escape(p)}</p>' for p, n in list(found.problems.items())[:3]]
    body += _best(found) + _front(found) + _effects(found) + _all(found) + _origin(found, sources or {})
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(study.name)}</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(body)
        + f"\n<script>{_SCRIPT}</script></body></html>\n"
    )


def _table(names: Sequence[str], cells: Sequence[Sequence[str]], words: int) -> str:
    """A plain table whose first ``words`` columns are text."""

    def row(tag: str, values: Sequence[str]) -> str:
        made = (f"<{tag}{' class=w' if i < words else ''}>{escape(v)}</{tag}>" for i, v in enumerate(values))
        return f"<tr>{''.join(made)}</tr>"

    inside = "".join(row("td", c) for c in cells)
    return f'<div class="wide"><table><thead>{row("th", names)}</thead><tbody>{inside}</tbody></table></div>'


def _best(found: Findings) -> list[str]:
    axes = list(found.axes)
    parts = []
    metrics = shown_metrics(found.study.kind, found.objectives)
    for objective, best in zip(found.objectives, found.best, strict=True):
        title = f"{objective.name}: {objective}" if objective.name else str(objective)
        parts.append(f"<h2>{escape(title[:1].upper() + title[1:])}</h2>")
        if not best:
            parts.append('<p class="bad">No point does.</p>')
            continue
        wanted = list(dict.fromkeys([objective.metric, *metrics]))[:6]
        names = [*(n.removeprefix("flags.") for n in axes), *map(heading, wanted)]
        parts.append(_table(names, [listing(found, r, axes, wanted) for r in best], len(axes)))
    return parts


def _front(found: Findings) -> list[str]:
    """A scatter per pair of the first objective and another, coloured by the axis with the fewest values."""
    known = [o for o in found.objectives if any(r.values.get(o.metric) is not None for r in found.answered)]
    if len(known) < 2:
        return []
    names = ", ".join(heading(o.metric) for o in known)
    parts = [f"<h2>Pareto front: {escape(names)}</h2>"]
    if found.front:
        parts.append(
            f"<p>{len(found.front):,} points that no other beats in every figure; point at one to read it.</p>"
        )
    colour = _colour_axis(found)
    groups = [str(v) for v in found.axes[colour]] if colour else []
    for other in known[1:]:
        pair = (known[0], other)
        dots = [d for r in _thinned(found.answered, DOTS) if (d := _dot(found, r, pair, colour)) is not None]
        front = [d for r in found.front if (d := _dot(found, r, pair, colour)) is not None]
        if not dots:
            continue
        units = columns_of(found.study.kind)
        x, y = ((o.metric, units[o.metric].unit) for o in pair)
        parts.append(
            scatter(
                f"{other.metric} over {known[0].metric}",
                x,
                y,
                dots,
                front if len(known) == 2 else _outline(front, pair),
                groups,
                maximise=(pair[0].maximise, pair[1].maximise),
            )
        )
    if colour:
        parts.append(
            f"<p>Coloured by {escape(colour)}. Points that break a limit are shown, but are not on the front.</p>"
        )
    return parts


def _outline(front: Sequence[Dot], pair: tuple[Objective, Objective]) -> list[Dot]:
    """The points of a front of many figures that are also on the front of these two."""
    signs = [-1.0 if o.maximise else 1.0 for o in pair]
    kept: list[Dot] = []
    for dot in sorted(front, key=lambda d: (signs[0] * d.x, signs[1] * d.y)):
        if not kept or signs[1] * dot.y < signs[1] * kept[-1].y:
            kept.append(dot)
    return kept


def _colour_axis(found: Findings) -> str:
    """The axis dots are coloured by: one of few values, machines and cases first."""
    few = [n for n, values in found.axes.items() if 2 <= len(values) <= COLOURS]
    return next((n for n in ("case", "on", "model", "engine", "policy", "weights", *few) if n in few), "")


def _thinned(rows: Sequence[Row], most: int) -> list[Row]:
    step = max(1, -(-len(rows) // most))
    return list(rows[::step])


def _dot(found: Findings, row: Row, pair: tuple[Objective, Objective], colour: str) -> Dot | None:
    x, y = (row.values.get(o.metric) for o in pair)
    if x is None or y is None or any(row.values.get(s) is False for s in ("fits", "feasible")):
        return None
    kind = found.study.kind
    group = found.axes[colour].index(row.axes[colour]) if colour in row.axes and colour in found.axes else 0
    words = [f"{n} {v}" for n, v in row.axes.items()]
    words += [f"{o.metric} {quantity(kind, o.metric, row.values.get(o.metric))}" for o in found.objectives]
    return Dot(float(x), float(y), group, "\n".join(words))


def _effects(found: Findings) -> list[str]:
    """Per objective: how much each axis changes it, and the best and median over the values of the axes."""
    parts: list[str] = []
    unit = columns_of(found.study.kind)
    for objective in found.objectives:
        mine = [a for a in found.sensitivity if a.metric == objective.metric]
        if not mine:
            continue
        metric = objective.metric
        parts.append(f"<h2>What each axis does to {escape(metric)}</h2>")
        bars = [
            (a.name, a.ratio, f"{a.ratio:,.2f}x; best {'default' if a.best == '' else a.best} in {a.best_frac:.0%}")
            for a in mine
        ]
        parts.append(effects("worst over best value of one axis, all else equal (median)", bars))
        pictures = []
        for axis in mine:
            values = found.axes[axis.name]
            if len(values) > _VALUES:
                values = [values[round(i * (len(values) - 1) / (_VALUES - 1))] for i in range(_VALUES)]
            best, middle = _over(found, objective, axis.name, values)
            words = ["default" if v == "" else str(v) for v in values]
            told = partial(quantity, found.study.kind, metric)
            title = f"{heading(metric)} by {axis.name}"
            pictures.append(by_value(title, unit[metric].unit, words, best, middle, told))
        parts.append(f'<div class="pair">{"".join(f"<div>{x}</div>" for x in pictures)}</div>')
    return parts


def _over(
    found: Findings, objective: Objective, axis: str, values: Sequence[Any]
) -> tuple[list[float | None], list[float | None]]:
    """Best and median of an objective at every value of an axis, among the points that meet its constraints."""
    groups: dict[str, list[float]] = {repr(v): [] for v in values}
    for row in found.answered:
        value = row.values.get(objective.metric)
        good = all(c.holds(row.values.get(c.metric)) for c in objective.where)
        if value is not None and good and repr(row.axes.get(axis)) in groups:
            groups[repr(row.axes[axis])].append(value)
    pick = max if objective.maximise else min
    return (
        [pick(g) if g else None for g in groups.values()],
        [statistics.median(g) if g else None for g in groups.values()],
    )


def _all(found: Findings) -> list[str]:
    """Every row in a table that can be sorted and filtered."""
    kind, axes = found.study.kind, list(found.axes)
    metrics = shown_metrics(kind, found.objectives)
    rows = _thinned(found.rows, ROWS)
    head = "".join(f"<th class=w>{escape(n.removeprefix('flags.'))}</th>" for n in axes)
    head += "".join(f"<th>{escape(heading(m))}</th>" for m in metrics) + "<th class=w>remark</th>"
    lines = []
    for row in rows:
        cells = "".join(f"<td class=w>{escape(w)}</td>" for w in listing(found, row, axes, ()))
        for name in metrics:
            value = row.values.get(name)
            number = "" if value is None else f"{float(value):.6g}"
            cells += f'<td data-v="{number}">{escape(quantity(kind, name, value))}</td>'
        lines.append(f"<tr>{cells}<td class=w>{escape(_remark(row))}</td></tr>")
    thinned = f" Every {-(-len(found.rows) // ROWS)}th point is shown." if len(rows) < len(found.rows) else ""
    return [
        f"<h2>All points</h2><p>Click a head to sort.{thinned}</p>",
        '<input id="filter" placeholder="filter: words that a row must have" aria-label="filter">',
        f'<div class="all"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>',
    ]


def _remark(row: Row) -> str:
    if not row.answered:
        return row.problem
    if row.values.get("fits") is False:
        return "does not fit"
    if row.values.get("feasible") is False:
        return "nothing holds the promise"
    return "misses a promise" if row.values.get("promises_met") is False else ""


def _origin(found: Findings, sources: Mapping[str, Any]) -> list[str]:
    """Definition of the study, and what its answers rest on."""
    parts = []
    definition = json.dumps(found.study.document.get("study", {}), indent=2, default=str)
    parts.append(f"<details><summary>Definition</summary><pre>{escape(definition)}</pre></details>")
    facts: list[str] = []
    for title, key in (("Sources", "sources"), ("Guesses", "guesses")):
        if sources.get(key):
            facts += [title, *(f"  {k}: {v}" for k, v in sources[key].items()), ""]
    if sources.get("assumptions"):
        facts += ["Assumptions", *(f"  {a}" for a in sources["assumptions"])]
    if facts:
        text = escape("\n".join(facts))
        parts.append(f"<details><summary>What the answers rest on</summary><pre>{text}</pre></details>")
    parts.append(f"<p>Steelyard {escape(found.study.version)}</p>")
    return parts
