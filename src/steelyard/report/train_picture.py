"""Pictures of training: the passes of a pipeline as SVG and as a Chrome trace, when runs end, what checkpoints cost.

In a trace every stage is a track of its passes (``F12`` of micro-batch 12 forward, ``B12`` backward for inputs, ``W12``
for weights), and a counter of the micro-batches it holds. Times in the file are us.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from steelyard.deployment.failures import DAY_S
from steelyard.errors import InputError
from steelyard.report.charts import Chart, nice_ticks, tick_label
from steelyard.report.html import stylesheet
from steelyard.scenario.run_limits import limits_of
from steelyard.training.reliability import effective
from steelyard.training.schedule import Played, play, schedule_table
from steelyard.training.schedule_tables import BOTH, FORWARD, INPUT, NONE, WEIGHT
from steelyard.writing import whole_file, write_text

if TYPE_CHECKING:
    from steelyard.training.estimate import TrainEstimate

__all__ = ["pictures", "pipeline_svg", "played_step", "write_pictures", "write_trace"]

#: Slots of a picture and of a trace at most: beyond, fewer micro-batches show the same pattern.
SHOWN, TRACED = 6_000, 200_000
#: Colour, letter and words of a pass.
PASSES: Final = {
    FORWARD: (0, "F", "forward"),
    INPUT: (1, "B", "backward, inputs"),
    WEIGHT: (2, "W", "backward, weights"),
    BOTH: (3, "B", "backward"),
}
#: Of a picture, pixels: width, height of a stage, left, top, bottom; width from which a pass is numbered.
WIDTH, ROW, LEFT, TOP, BOTTOM, NUMBERED = 1064, 26, 66, 46, 44, 15
#: Intervals of checkpoints that are compared, as shares of the best.
_SHARES: Final = np.geomspace(0.05, 20.0, 61)


def played_step(found: TrainEstimate, most: int = TRACED) -> tuple[Played, int]:
    """The pipeline of a step played, and how many micro-batches: fewer where there would be more than ``most`` slots.

    Every stage takes as long as the slowest.

    Raises:
        InputError: a network that is copied to every device has no pipeline.
    """
    cost, plan = found.cost, found.scenario.plan
    if cost is None:
        raise InputError("a network is copied to every device: there is no pipeline", field="perfetto")
    forward, backward, weight, send = (
        float(np.ravel(x)[0]) for x in (cost.forward_s, cost.backward_s, cost.weight_s, cost.send_s)
    )
    slots = plan.pp * plan.vp * 3
    count = plan.micro_batches
    if count * slots > most:
        count = max(2 * plan.pp, most // slots // (2 * plan.pp) * 2 * plan.pp)
    table = schedule_table(plan.schedule, plan.pp, count, plan.vp)
    return play(table, forward, max(backward - weight, 0.0), weight, send), count


def write_trace(found: TrainEstimate, path: str | Path) -> str:
    """Write the step as a Chrome trace; returns what was left out, in words, empty when nothing was.

    Raises:
        InputError: there is no pipeline, or the file cannot be written.
    """
    played, count = played_step(found)
    total = found.scenario.plan.micro_batches
    left = "" if count == total else f"{count} of {total} micro-batches"
    with whole_file(path, "perfetto") as file, file.open("w", encoding="utf-8") as stream:
        stream.write('{"displayTimeUnit":"ms","traceEvents":[')
        for i, event in enumerate(_events(played)):
            stream.write((",\n" if i else "\n") + json.dumps(event, separators=(",", ":")))
        other = {"tool": "steelyard train", "holds": left or "every micro-batch of a step"}
        stream.write(f'\n],"otherData":{json.dumps(other)}}}\n')
    return f"holds {left}" if left else ""


def _events(played: Played) -> Iterator[dict[str, Any]]:
    table = played.table
    yield {"ph": "M", "pid": 1, "tid": 0, "name": "process_name", "args": {"name": f"pipeline, {table.name}"}}
    for s in range(table.stages):
        track = {"pid": 1, "tid": s + 1}
        yield {"ph": "M", **track, "name": "thread_name", "args": {"name": f"stage {s}"}}
        held = 0
        used = np.flatnonzero(table.kind[s] != NONE)
        for k in used.tolist():
            kind, chunk = int(table.kind[s, k]), int(table.chunk[s, k])
            begin, end = float(played.begin_s[s, k]), float(played.end_s[s, k])
            _, letter, _ = PASSES[kind]
            held += (kind == FORWARD) - (kind in (INPUT, BOTH))
            number = int(table.micro_batch[s, k])
            args = {"micro_batch": number, "chunk": chunk, "position": int(table.position[s, chunk])}
            yield {
                "ph": "X",
                **track,
                "cat": "pass",
                "name": f"{letter}{number}",
                "ts": round(begin * 1e6, 3),
                "dur": round((end - begin) * 1e6, 3),
                "args": args,
            }
            counter = {"ph": "C", "pid": 1, "tid": 0, "name": f"held by stage {s}", "ts": round(begin * 1e6, 3)}
            yield counter | {"args": {"passes": held}}


def pipeline_svg(played: Played, title: str, attributes: str = "") -> str:
    """The passes of every stage over time, one row a stage."""
    table = played.table
    height = TOP + ROW * table.stages + BOTTOM
    scale = (WIDTH - LEFT - 16) / played.makespan_s
    parts = [f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}" {attributes}>']
    parts.append(f'<text class="title" x="4" y="16">{escape(title)}</text>')
    names = {kind: PASSES[kind] for kind in PASSES if np.any(table.kind == kind)}
    spans = [f'<tspan class="c{colour} fill">{words}</tspan>' for colour, _, words in names.values()]
    parts.append(f'<text class="key" x="4" y="35">{" &#160; ".join(spans)}</text>')
    base = TOP + ROW * table.stages
    for value in nice_ticks(0.0, played.makespan_s, 8):
        x = LEFT + value * scale
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{base}"/>')
        label = tick_label(value, "s")
        parts.append(f'<text class="tick" x="{x:.1f}" y="{base + 18}" text-anchor="middle">{label}</text>')
    for s in range(table.stages):
        y = TOP + ROW * s
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 17}" text-anchor="end">stage {s}</text>')
        for k in np.flatnonzero(table.kind[s] != NONE).tolist():
            colour, letter, words = PASSES[int(table.kind[s, k])]
            x, wide = LEFT + played.begin_s[s, k] * scale, (played.end_s[s, k] - played.begin_s[s, k]) * scale
            number, chunk = int(table.micro_batch[s, k]), int(table.chunk[s, k])
            low, high = (y + 3, ROW - 6) if not _beside(table, s, k) else (y + 3 + 10 * _second(table, s, k), 10)
            shade = 1.0 if chunk % 2 == 0 else 0.65
            parts.append(
                f'<rect class="c{colour} fill" x="{x:.2f}" y="{low}" width="{max(wide - 0.6, 0.3):.2f}" '
                f'height="{high}" fill-opacity="{shade:g}">'
                f"<title>{letter}{number}, {words}, chunk {chunk}</title></rect>"
            )
            if wide >= NUMBERED and high > 12:
                style = 'text-anchor="middle" style="font-size:11px;fill:var(--page)"'
                parts.append(f'<text x="{x + wide / 2:.1f}" y="{y + 17}" {style}>{number}</text>')
    parts.append(f'<text class="tick" x="{WIDTH - 16}" y="{base + 38}" text-anchor="end">time in a step</text>')
    return "".join([*parts, "</svg>"])


def _beside(table: Any, s: int, k: int) -> bool:
    """Whether a slot shares its time with another."""
    return bool(table.joined[s, k] or (k and table.joined[s, k - 1]))


def _second(table: Any, s: int, k: int) -> bool:
    return bool(k and table.joined[s, k - 1])


def pictures(found: TrainEstimate) -> str:
    """One SVG file: the pipeline of a step, and of a run when it ends and what the checkpoints cost."""
    plan, gap, y = found.scenario.plan, 24, 0
    parts: list[str] = []
    if found.cost is not None:
        played, count = played_step(found, SHOWN)
        part = "" if count == plan.micro_batches else f", {count} of {plan.micro_batches} micro-batches"
        title = f"{plan.schedule} on {plan.pp} stages{part}: {played.bubble_frac:.1%} of the time idle"
        tall = TOP + ROW * plan.pp + BOTTOM
        parts.append(pipeline_svg(played, title, f'x="0" y="0" width="{WIDTH}" height="{tall}"'))
        y = tall + gap
    charts = _run_charts(found)
    for i, chart in enumerate(charts):
        w, h = chart.size
        parts.append(chart.svg(f'x="{i * (w + gap)}" y="{y}" width="{w}" height="{h}"'))
    y += charts[0].size[1] + gap if charts else 0
    width = WIDTH
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y}" width="{width}" height="{y}">'
    style = f"<style>{stylesheet('colours.css', 'charts.css')}</style>"
    return "".join([head, style, f'<rect width="{width}" height="{y}" class="page"/>', *parts, "</svg>\n"])


def _run_charts(found: TrainEstimate) -> list[Chart]:
    """When runs end, and what a run takes with checkpoints at other intervals; none without a run."""
    run, s = found.run, found.scenario
    if run is None:
        return []
    ends = Chart("share of runs that have ended", x="days", x_zero=False, y_unit="%", top=100.0)
    days = np.sort(run.samples_days)
    share = np.linspace(0.0, 1.0, len(days))
    at = np.linspace(0, len(days) - 1, 201).astype(int)
    ends.line("", days[at], share[at] * 100)
    by = limits_of(s.words).by_s
    if by is not None:
        ends.limit(f"{run.chance_by(by / DAY_S):.0%} by {by / DAY_S:,.0f} d", by / DAY_S)
    charts = [ends]
    best = run.checkpoint_interval_s
    if np.isfinite(best) and run.failures.rates:
        cost = Chart(
            "days by the work between checkpoints", x="work between checkpoints", x_unit="s", x_log=None, y_zero=False
        )
        nodes, devices = int(s.cluster.node_count), s.cluster.count
        tried = best * _SHARES
        rule = s.checkpoint.checkpoint(run.checkpoint_bytes, nodes=nodes, writers=devices)
        size: dict[str, Any] = {"nodes": nodes, "devices": devices, "replicas": s.plan.dp}
        rules = (replace(rule, interval_s=float(t)) for t in tried)
        taken = [effective(run.failures, each, run.recovery, **size) for each in rules]
        shares = np.array([float(e.ettr_frac) for e in taken])
        cost.line("", tried, run.ideal_days / np.maximum(shares, 1e-12))
        cost.limit("taken", best)
        charts.append(cost)
    return charts


def write_pictures(found: TrainEstimate, path: str | Path) -> None:
    """Write :func:`pictures`. Raises :class:`InputError`: the file cannot be written."""
    write_text(path, pictures(found), "svg")
