"""A plan as one self-contained page: the answer, the promise, the fronts, the candidates, the commands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from steelyard.errors import InputError
from steelyard.report.paper import figure
from steelyard.report.plan import METRICS, asked, limits, met, money, promise, titled
from steelyard.report.plan_chart import PALETTE, Dot, front_chart, key, standalone
from steelyard.units import format_quantity as q

if TYPE_CHECKING:
    from steelyard.scenario.slo import Target
    from steelyard.search.answer import Answer, Candidate

__all__ = ["page", "picture", "write_page"]

#: Hours of a month, for its rent.
HOURS_PER_MONTH = 730

_STYLE = """
:root{color-scheme:light dark;--ink:#1b2330;--soft:#5d6878;--line:#dde2e9;--page:#fff;--card:#f5f7fa;
--g0:#1f6fb4;--g1:#c8660a;--g2:#2f7d4f;--g3:#8a3fb0;--g4:#a8324a;--g5:#5b6470;--bad:#b3261e;--good:#24752b;
--accent:#1f6fb4}
@media(prefers-color-scheme:dark){:root{--ink:#e9edf3;--soft:#a3aebd;--line:#303947;--page:#131820;--card:#1c232e;
--g0:#6db3f2;--g1:#f2a65a;--g2:#74c795;--g3:#cf97ea;--g4:#f08a9c;--g5:#b3bcc8;--bad:#ff9a90;--good:#86d08c;
--accent:#6db3f2}}
*{box-sizing:border-box}
body{font:15px/1.55 system-ui,-apple-system,"Segoe UI",sans-serif;color:var(--ink);background:var(--page);
max-width:1060px;margin:0 auto;padding:1.6rem 1.1rem 3rem}
h1{font-size:1.55rem;line-height:1.25;margin:.1rem 0 .2rem}h2{font-size:1.08rem;margin:2.1rem 0 .5rem}
p{margin:.25rem 0}.soft,.lead p{color:var(--soft)}.good{color:var(--good)}.bad{color:var(--bad)}
.answer{border-left:4px solid var(--accent);background:var(--card);padding:.9rem 1.1rem;margin:1.1rem 0;
border-radius:0 8px 8px 0}.answer.none{border-color:var(--bad)}
.answer h2{margin:0 0 .15rem;font-size:1.25rem}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(148px,1fr));gap:.7rem;margin:1rem 0}
.tile{background:var(--card);border-radius:8px;padding:.65rem .85rem}
.tile b{display:block;font-size:1.32rem;line-height:1.25;font-variant-numeric:tabular-nums}
.tile span{color:var(--soft);font-size:.86rem}
.pictures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr));gap:1.3rem}
figure{margin:0}figcaption{font-weight:600;margin-bottom:.3rem}svg.front{width:100%;height:auto;display:block}
text{font-family:inherit}
.key{display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;color:var(--soft);font-size:.9rem;margin:.5rem 0 0}
.key span{display:inline-flex;align-items:center;gap:.35rem}.keymark{width:16px;height:16px}
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;min-width:100%;font-size:.93rem}
td,th{padding:.32rem .9rem .32rem 0;text-align:right;white-space:nowrap;border-bottom:1px solid var(--line)}
th{color:var(--soft);font-weight:600}td.t,th.t{text-align:left}.small table{min-width:0}tr.first td{font-weight:600}
.meter{position:relative;height:12px;background:var(--line);border-radius:6px;min-width:150px}
.meter i{position:absolute;top:0;bottom:0;border-radius:6px}.meter .span{background:var(--accent);opacity:.3}
.meter .at{width:4px;margin-left:-2px;background:var(--accent);border-radius:2px;top:-3px;bottom:-3px}
.meter .limit{width:2px;background:var(--bad);top:-4px;bottom:-4px;border-radius:0}
pre{background:var(--card);border-radius:8px;padding:.75rem .9rem;overflow-x:auto;font-size:.84rem;line-height:1.45;
margin:.4rem 0 1rem}details{margin:.4rem 0}summary{cursor:pointer;font-weight:600}li{margin:.15rem 0}
ul{padding-left:1.2rem;margin:.3rem 0}.break{overflow-wrap:anywhere}
"""


def write_page(answer: Answer, path: str | Path) -> None:
    """Write the page, without commands. Raises :class:`InputError` when the file cannot be written."""
    try:
        Path(path).write_text(page(answer), encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {str(path)!r}: {error.strerror or error}", field="html") from error


def page(answer: Answer, commands: Mapping[str, str] | None = None) -> str:
    """The page as text.

    Args:
        answer: what it shows.
        commands: scripts by name, to be shown.
    """
    w = answer.winner
    title = f"{answer.question.model}: {'nothing fits' if w is None else f'{w.devices} devices, {w.shape}'}"
    body = [
        f"<h1>{escape(answer.question.model)}</h1>",
        '<div class="lead">' + "".join(f"<p>{escape(x)}</p>" for x in asked(answer.question)) + "</div>",
        *(_infeasible(answer) if w is None else _winner(answer, w)),
        *_pictures(answer),
        *_tables(answer),
    ]
    if w is not None:
        body += _money(w)
    if commands:
        body.append("<h2>Commands</h2>")
        for i, (name, text) in enumerate(commands.items()):
            mark = " open" if i == 0 else ""
            body.append(f"<details{mark}><summary>{escape(name)}</summary><pre>{escape(_short(text))}</pre></details>")
    body += _provenance(answer)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{_STYLE}{PALETTE}</style></head><body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _short(script: str) -> str:
    """A script without its first line."""
    return script.removeprefix("#!/usr/bin/env bash\n").rstrip()


def _winner(answer: Answer, w: Candidate) -> list[str]:
    parts = [
        '<div class="answer">',
        f"<h2>{escape(titled(w))}</h2>",
        f"<p><b>{escape(w.shape)}</b>, {escape(w.engine)}, {escape(w.mode)}; weights "
        f"{escape(str(w.formats.get('weights', '')))}, KV cache {escape(str(w.formats.get('kv', '')))}</p>",
        f'<p class="soft">{escape(limits(w))}</p></div>',
        '<div class="tiles">',
    ]
    tiles = [
        (("no price", "per hour") if w.usd_per_hour is None else (q(w.usd_per_hour, "USD"), "per hour, all devices")),
        (
            ("no price", "per million tokens")
            if w.usd_per_million_tokens is None
            else (q(w.usd_per_million_tokens, "USD"), "per million generated tokens")
        ),
        (f"{figure(w.max_rate_per_s)}/s", f"requests it holds ({w.headroom_frac:+.0%} of what was asked)"),
        (figure(w.tokens_per_s_per_device), "tokens/s per device, loaded"),
        (figure(w.tokens_per_s_per_user), "tokens/s for a user"),
        (q(w.watts, "W"), "with hosts"),
    ]
    parts += [f'<div class="tile"><b>{escape(a)}</b><span>{escape(b)}</span></div>' for a, b in tiles]
    parts.append("</div>")
    parts += _promise(answer, w)
    if answer.why:
        parts += ["<h2>Why this one</h2>", "<ul>", *(f"<li>{escape(x)}</li>" for x in answer.why), "</ul>"]
    if answer.breaks_first:
        parts += ["<h2>What breaks first</h2>", f"<p>{escape(answer.breaks_first)}</p>"]
    return parts


_STATISTICS = ("mean", "p50", "p90", "p95", "p99")


def _promise(answer: Answer, w: Candidate) -> list[str]:
    heads = ["", *_STATISTICS, "80 % interval", "promise", ""]
    rows = []
    for name, label in METRICS:
        found = w.percentiles.get(name, {})
        cells = [q(found[s], "s") if s in found else "" for s in _STATISTICS]
        if not found:
            cells[-1] = q(float(getattr(w, name)), "s")
        ends = w.interval.get(name)
        span = "" if ends is None else f"{q(ends[0], 's')} to {q(ends[1], 's')}"
        mine = [t for t in answer.question.targets if t.metric == name]
        said = ", ".join(f"{t.label} {q(t.limit_s, 's')}" for t in mine) or "none"
        meters = "".join(_meter(w, t, ends) for t in mine)
        verdict = ""
        if mine:
            good = all(met(w, t)[1] for t in mine)
            verdict = f' <b class="{"good" if good else "bad"}">{"met" if good else "missed"}</b>'
        cells_html = "".join(f"<td>{escape(c)}</td>" for c in (*cells, span))
        rows.append(f'<tr><td class="t">{label}</td>{cells_html}<td>{escape(said)}{verdict}</td><td>{meters}</td></tr>')
    head = "".join(f'<th class="t">{h}</th>' if not h else f"<th>{h}</th>" for h in heads)
    note = '<p class="soft">Bars: the 80 % interval, what is expected, and the promise (red).</p>' if w.interval else ""
    return ["<h2>Expected</h2>", f'<div class="wide"><table><tr>{head}</tr>{"".join(rows)}</table></div>{note}']


def _meter(w: Candidate, target: Target, ends: tuple[float, float] | None) -> str:
    value = met(w, target)[0]
    most = 1.15 * max(target.limit_s, value, ends[1] if ends else 0.0)

    def share(x: float) -> str:
        return f"{100 * min(max(x / most, 0.0), 1.0):.1f}%"

    words = f"{promise(target)}: {q(value, 's')}"
    span = ""
    if ends:
        low, high = (100 * min(max(x / most, 0.0), 1.0) for x in ends)
        span = f'<i class="span" style="left:{low:.1f}%;width:{high - low:.1f}%"></i>'
    marks = f'<i class="at" style="left:{share(value)}"></i><i class="limit" style="left:{share(target.limit_s)}"></i>'
    return f'<div class="meter" role="img" aria-label="{escape(words)}" title="{escape(words)}">{span}{marks}</div>'


def _infeasible(answer: Answer) -> list[str]:
    i = answer.infeasible
    assert i is not None
    parts = [f'<div class="answer none"><h2>Nothing fits</h2><p>{escape(i.reason)}</p></div>']
    if i.nearest:
        rows = [
            [c.text, titled(c.winner), c.winner.shape, c.winner.engine, money(c.winner)] for c in i.nearest
        ]  # each planned again
        parts += [
            "<h2>The nearest changes that would</h2>",
            _table(("change", "machine", "shape", "engine", "money"), rows),
        ]
    if i.closest is not None:
        c = i.closest
        parts += [
            "<h2>The closest that runs</h2>",
            f"<p>{escape(titled(c))}: {escape(c.shape)}, {escape(c.engine)}</p>",
        ]
        parts += _promise(answer, c)[1:]
    return parts


def picture(answer: Answer) -> str:
    """The fronts as one SVG file of their own. Raises :class:`InputError` when there is none."""
    charts, groups = _charts(answer)
    if not charts:
        raise InputError("nothing fits: there is no front to draw", field="picture")
    return standalone(charts, groups)


def _charts(answer: Answer) -> tuple[list[tuple[str, str]], list[str]]:
    """Captions and pictures of the fronts, and the groups of their key."""
    w = answer.winner
    others = [*([w] if w is not None else []), *answer.runners_up]
    speed, cost = list(answer.front), [c for c in answer.cost_front if c.usd_per_hour is not None]
    priced = [c for c in others if c.usd_per_hour is not None]
    groups = list(dict.fromkeys(_group(c) for c in (*others, *speed, *cost)))
    charts = []
    if speed:
        tpot = [t.limit_s for t in answer.question.targets if t.metric == "tpot_s"]
        bound = (1 / min(tpot), f"promised: {q(min(tpot), 's')} a token") if tpot else None
        dots = _dots(speed, others, w, lambda c: (c.tokens_per_s_per_user, c.tokens_per_s_per_device))
        svg = front_chart(
            "tokens per second for a user against tokens per second and device",
            dots,
            "tokens/s for one user",
            "tokens/s per device",
            groups,
            rising=True,
            bound=bound,
        )
        charts.append(("Speed for a user against yield of a device", svg))
    if cost:
        ttft = [t.limit_s for t in answer.question.targets if t.metric == "ttft_s"]
        bound = (min(ttft), f"promised: {q(min(ttft), 's')}") if ttft else None
        dots = _dots(cost, priced, w, lambda c: (c.ttft_s, c.usd_per_hour or 0.0))
        svg = front_chart(
            "rent per hour against time to first token",
            dots,
            "time to first token, s",
            "USD per hour",
            groups,
            rising=False,
            bound=bound,
        )
        charts.append(("Rent against latency", svg))
    return charts, groups


def _pictures(answer: Answer) -> list[str]:
    charts, groups = _charts(answer)
    if not charts:
        return []
    figures = [f"<figure><figcaption>{escape(words)}</figcaption>{svg}</figure>" for words, svg in charts]
    note = '<p class="soft">A line joins the candidates no other is better than on both axes.</p>'
    return ["<h2>The fronts</h2>", '<div class="pictures">', *figures, "</div>", key(groups), note]


def _group(c: Candidate) -> str:
    return f"{c.machine}, {c.mode}"


def _dots(
    front: Sequence[Candidate],
    others: Sequence[Candidate],
    winner: Candidate | None,
    place: Callable[[Candidate], tuple[float, float]],
) -> list[Dot]:
    found: dict[str, Dot] = {}
    for k, c in enumerate((*front, *others)):
        name = repr(c.deployment)
        if name not in found:
            x, y = place(c)
            words = f"{titled(c)}: {c.shape}, {c.engine}; {money(c)}; TTFT {q(c.ttft_s, 's')}, TPOT {q(c.tpot_s, 's')}"
            best = winner is not None and c.deployment == winner.deployment
            found[name] = Dot(x, y, _group(c), words, k < len(front), best)
    return list(found.values())


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], first: bool = False) -> str:
    """A table; the first column and the columns of words go left."""
    words = {"change", "machine", "shape", "engine", "money", "mode", ""}
    head = "".join(f'<th class="t">{escape(h)}</th>' if h in words else f"<th>{escape(h)}</th>" for h in heads)
    made = []
    for i, row in enumerate(rows):
        cells = "".join(
            f'<td class="t">{escape(c)}</td>' if h in words else f"<td>{escape(c)}</td>"
            for h, c in zip(heads, row, strict=True)
        )
        made.append(f'<tr class="first">{cells}</tr>' if first and i == 0 else f"<tr>{cells}</tr>")
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(made)}</table></div>'


_HEADS = (
    "",
    "machine",
    "shape",
    "engine",
    "devices",
    "USD/h",
    "USD/M tok",
    "TTFT",
    "TPOT",
    "req/s held",
    "tok/s/device",
    "tok/s/user",
    "W",
)


def _row(kind: str, c: Candidate) -> list[str]:
    return [
        kind,
        c.machine,
        c.shape,
        c.engine,
        str(c.devices),
        "-" if c.usd_per_hour is None else f"{c.usd_per_hour:,.2f}",
        "-" if c.usd_per_million_tokens is None else f"{c.usd_per_million_tokens:,.3g}",
        q(c.ttft_s, "s"),
        q(c.tpot_s, "s"),
        figure(c.max_rate_per_s),
        figure(c.tokens_per_s_per_device),
        figure(c.tokens_per_s_per_user),
        f"{c.watts:,.0f}",
    ]


def _tables(answer: Answer) -> list[str]:
    rows = [] if answer.winner is None else [_row("winner", answer.winner)]
    rows += [_row(f"{i}.", c) for i, c in enumerate(answer.runners_up, 2)]
    parts = []
    if rows:
        parts += ["<h2>Candidates, best first</h2>", _table(_HEADS, rows, first=answer.winner is not None)]
    for words, found in (
        ("Front of speed and yield", answer.front),
        ("Front of rent and latency", answer.cost_front),
    ):
        if found:
            table = _table(_HEADS[1:], [_row("", c)[1:] for c in found])
            parts.append(f"<details><summary>{words}: {len(found)} candidates</summary>{table}</details>")
    return parts


def _money(w: Candidate) -> list[str]:
    rows = []
    if w.usd_per_hour is not None:
        rows += [
            ["rent per hour", q(w.usd_per_hour, "USD")],
            [f"rent per month of {HOURS_PER_MONTH} hours", q(w.usd_per_hour * HOURS_PER_MONTH, "USD")],
        ]
    if w.usd_per_million_tokens is not None:
        rows.append(["per million generated tokens", q(w.usd_per_million_tokens, "USD")])
    rows.append(["electricity per hour", f"{w.watts / 1e3:,.2f} kWh"])
    if w.carbon_g_per_hour is not None:
        rows.append(["carbon per hour", f"{w.carbon_g_per_hour / 1e3:,.2f} kg CO2e"])
    if w.tokens_per_s > 0:
        rows.append(["energy per generated token", q(w.watts / w.tokens_per_s, "J")])
    return ['<h2>What it costs</h2><div class="small">', _table(("", "at the traffic asked for"), rows), "</div>"]


def _provenance(answer: Answer) -> list[str]:
    from steelyard._version import __version__
    from steelyard.provenance import content_hash
    from steelyard.report.plain import plain

    ledger = answer.ledger
    stamp = content_hash({"version": __version__, "inputs": plain(dict(answer.inputs))})
    parts = [
        "<h2>Where this comes from</h2>",
        f"<p>{answer.candidates:,} candidates screened at {figure(answer.screened_per_s)} per second, "
        f"{answer.simulated:,} simulated request by request, {q(answer.cpu_s, 's')} of CPU. "
        f"Steelyard {escape(__version__)}, inputs <code>{escape(stamp[:16])}</code>.</p>",
    ]
    if ledger.assumptions:
        parts.append(_list("Assumed", ledger.assumptions))
    if ledger.sources:
        parts.append(_list("Sources", [f"{k}: {v}" for k, v in ledger.sources.items()]))
    if ledger.guesses:
        parts.append(_list("Figures nobody published", [f"{k}: {v}" for k, v in ledger.guesses.items()]))
    return parts


def _list(words: str, entries: Sequence[str]) -> str:
    inside = "".join(f"<li>{escape(x)}</li>" for x in entries)
    return f'<details><summary>{words} ({len(entries)})</summary><ul class="break">{inside}</ul></details>'
