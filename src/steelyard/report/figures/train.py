"""Figures of training: memory of every stage, a step and what is lost on the way to MFU, its pipeline, the run."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from steelyard.deployment.failures import DAY_S
from steelyard.report.figures.figure import Figure
from steelyard.report.figures.options import (
    axis,
    bars,
    categories,
    colour,
    level,
    limit,
    line,
    named_rows,
    segments,
)
from steelyard.report.figures.shared import GIB, Time, breakdown, distributions
from steelyard.report.paper import spare_text
from steelyard.report.train_picture import PASSES, SHOWN, played_step
from steelyard.scenario.run_limits import limits_of
from steelyard.training.memory import PARTS
from steelyard.training.reliability import effective
from steelyard.training.schedule import Played
from steelyard.training.schedule_tables import BOTH, FORWARD, INPUT, NONE
from steelyard.training.step import BREAKDOWN
from steelyard.units import format_quantity as q

if TYPE_CHECKING:
    from steelyard.training.estimate import TrainEstimate

__all__ = ["pipeline_figure", "train_figures"]

#: Height of a stage of a pipeline and of a bar of memory, pixels.
_ROW, _BAR = 22, 16
#: Passes that are numbered, from this width of a pass on, pixels of a picture of ``_WIDTH``.
_NUMBERED, _WIDTH = 20, 900
#: Intervals of checkpoints that are compared, as shares of the best.
_SHARES: Final = np.geomspace(0.05, 20.0, 61)
#: Points of a distribution.
_POINTS = 161
#: Products of the model in a step's breakdown: what of them is not the peak's time is lost below it.
_PRODUCTS = ("gemm", "attention", "head_loss")


def train_figures(found: TrainEstimate) -> list[Figure]:
    """Memory, its course on the fullest stage, the step, from the peak to MFU, the pipeline, and the run."""
    played = None if found.cost is None else played_step(found, SHOWN)
    step = found.interval["step_s"]
    drawn: list[Figure | None] = [
        _memory(found),
        distributions([Time("a step", found.step_s, *step, found.limit_s)], name="step", title="How long a step takes"),
        _waterfall(found),
        _parts(found),
    ]
    if played is not None and found.scenario.plan.pp > 1:
        drawn.append(pipeline_figure(*played, found.scenario.plan.micro_batches))
    if played is not None:
        drawn.append(_live(found, *played))
    drawn += [_run(found), _checkpoints(found)]
    return [f for f in drawn if f is not None]


def _memory(found: TrainEstimate) -> Figure:
    """Bytes of every stage by part, and what a device has."""
    stages = found.stages
    names = [f"stage {i}" if len(stages) > 1 else "a device" for i in range(len(stages))]
    tones = dict(zip(PARTS, ("--c0", "--c4", "--c3", "--c2", "--c1", "--c5"), strict=True))
    series = []
    for part in stages[0].parts:
        values = [s.parts[part] for s in stages]
        words = [f"{n}, {part}\n{q(v, 'B')}" for n, v in zip(names, values, strict=True)]
        tone = {"color": tones.get(part, "--c5")}
        series.append(bars(part, [v / GIB for v in values], words=words, stack="held", barWidth=_BAR, itemStyle=tone))
    beyond = [s.reserved_bytes - s.allocated_bytes for s in stages]
    words = [f"{n}, allocator and driver\n{q(v, 'B')}" for n, v in zip(names, beyond, strict=True)]
    style: dict[str, Any] = {"color": "--line", "borderColor": "--soft", "borderWidth": 1}
    series.append(
        bars(
            "allocator and driver", [v / GIB for v in beyond], words=words, stack="held", barWidth=_BAR, itemStyle=style
        )
    )
    usable = limit(x=found.capacity_bytes / GIB, words=f"usable {q(found.capacity_bytes, 'B')}")
    series[0] |= level([usable | {"align": "right"}])
    most = max(found.capacity_bytes, *(s.reserved_bytes for s in stages)) / GIB
    fullest = stages[found.peak_stage]
    spare = found.capacity_bytes - fullest.reserved_bytes
    largest = max(fullest.parts, key=lambda p: fullest.parts[p])
    says = (
        f"{q(fullest.reserved_bytes, 'B')} of {q(found.capacity_bytes, 'B')} on {names[found.peak_stage]}, fullest: "
        f"{'fits' if spare >= 0 else 'does not fit'}, {spare_text(spare)}; "
        f"most of it {largest}, {q(fullest.parts[largest], 'B')}."
    )
    option = {
        "height": (_BAR + 8) * len(stages) + 62,
        "trigger": "item",
        "xAxis": axis("", "GiB", max=round(most * 1.02, 2), ends=False),
        "yAxis": categories(names, down=True),
        "series": series,
    }
    heads = ("stage", "layers", *(f"{p}, bytes" for p in stages[0].parts), "allocated, bytes", "reserved, bytes")
    rows = tuple(
        (n, float(s.layers), *(float(v) for v in s.parts.values()), float(s.allocated_bytes), float(s.reserved_bytes))
        for n, s in zip(names, stages, strict=True)
    )
    return Figure("memory", "Memory of every stage at its fullest", says, option, heads, rows)


def _parts(found: TrainEstimate) -> Figure:
    parts = {BREAKDOWN[name]: time for name, time in found.breakdown_s.items() if time > 0.0005 * found.step_s}
    largest = sorted(parts.items(), key=lambda item: -item[1])[:2]
    most = " and ".join(f"{name} {time / found.step_s:.0%}" for name, time in largest)
    says = f"{q(found.step_s, 's')} a step, most of it {most}."
    return breakdown({"a step": parts}, "s", name="time", title="Where the time of a step goes", says=says)


def _waterfall(found: TrainEstimate) -> Figure:
    """From the peak of all devices to MFU: every part of a step as the share of the peak that it takes."""
    ideal = found.mfu_frac * found.step_s
    products = sum(found.breakdown_s.get(n, 0.0) for n in _PRODUCTS)
    lost = {"products below the peak": products - ideal}
    lost |= {BREAKDOWN[n]: t for n, t in found.breakdown_s.items() if n not in _PRODUCTS}
    rest = found.step_s - ideal - sum(lost.values())
    lost["other"] = rest
    shares = {name: time / found.step_s * 100 for name, time in lost.items()}
    kept = {name: share for name, share in sorted(shares.items(), key=lambda item: -item[1]) if abs(share) >= 0.05}
    small = sum(shares.values()) - sum(kept.values())
    if abs(small) >= 0.005:
        kept["the rest"] = small
    names, base, fall, left = ["peak"], [0.0], [100.0], 100.0
    for name, share in kept.items():
        left -= share
        names.append(name)
        base.append(min(left, left + share))
        fall.append(abs(share))
    names.append("MFU")
    base.append(0.0)
    fall.append(found.mfu_frac * 100)
    words = [f"{n}\n{v:.1f} % of the peak" for n, v in zip(names, fall, strict=True)]
    drawn = bars("share of the peak", fall, words=words, stack="fall", barMaxWidth=15, itemStyle={"color": "--c1"})
    ends = (0, len(names) - 1)
    for i, item in enumerate(drawn["data"]):
        item["itemStyle"] = {"color": "--c0" if i in ends else "--c1"}
        item["label"] = {"show": True, "position": "right", "formatter": f"{'' if i in ends else '−'}{fall[i]:.1f} %"}
    under = bars("", base, stack="fall", barMaxWidth=15, itemStyle={"color": "transparent"}, silent=True, unnamed=True)
    again = f", {found.hfu_frac:.1%} with what is computed again" if found.hfu_frac - found.mfu_frac > 5e-4 else ""
    worst = ", ".join(f"{name} {share:.1f} %" for name, share in list(kept.items())[:3])
    says = f"MFU {found.mfu_frac:.1%}{again}. Of the peak most is lost to {worst}."
    option = {
        "height": 22 * len(names) + 48,
        "trigger": "item",
        "xAxis": axis("", "%", max=132, interval=20, ends=False),
        "yAxis": categories(names, down=True),
        "series": [under, drawn],
    }
    rows = tuple(zip(names, fall, strict=True))
    return Figure("mfu", "From the peak to what trains the model", says, option, ("", "% of the peak"), rows)


def pipeline_figure(played: Played, count: int, of: int) -> Figure:
    """The passes of every stage over time, a stroke a pass.

    Args:
        played: the schedule.
        count, of: micro-batches that are drawn, of how many.
    """
    table = played.table
    series: list[dict[str, Any]] = []
    numbers: list[tuple[float, float, int]] = []
    side = table.joined | np.roll(table.joined, 1, axis=1)
    rows: list[tuple[Any, ...]] = []
    for kind, (tone, letter, words) in PASSES.items():
        for late in (False, True):
            for beside in (False, True):
                picked = (table.kind == kind) & ((table.chunk % 2 == 1) == late) & (side == beside)
                stage, slot = np.nonzero(picked)
                if not stage.size:
                    continue
                begin, end = played.begin_s[stage, slot], played.end_s[stage, slot]
                gap = np.minimum(played.makespan_s / 3000, (end - begin) * 0.1)
                shift = np.where(beside, np.where(np.roll(table.joined, 1, axis=1)[stage, slot], 0.21, -0.21), 0.0)
                ends = zip(
                    *(np.round(x, 9).tolist() for x in (begin, stage + shift, end - gap, stage + shift)), strict=True
                )
                style = {"color": colour(tone), "opacity": 0.6 if late else 1.0}
                width = (_ROW - 6) / 2 - 1 if beside else _ROW - 6
                series.append(
                    segments(words, ends, width=width, lineStyle=style, itemStyle={"color": colour(tone)}, silent=True)
                )
        stage, slot = np.nonzero(table.kind == kind)
        for s, k in zip(stage.tolist(), slot.tolist(), strict=True):
            begin_s, end_s = float(played.begin_s[s, k]), float(played.end_s[s, k])
            number = int(table.micro_batch[s, k])
            rows.append((f"stage {s}", letter, number, int(table.chunk[s, k]), begin_s, end_s))
            if (end_s - begin_s) / played.makespan_s * _WIDTH >= _NUMBERED and not side[s, k]:
                numbers.append(((begin_s + end_s) / 2, s, number))
    if numbers:
        data = [
            {"value": [x, s], "label": {"show": True, "formatter": str(n), "color": "--page", "fontSize": 10}}
            for x, s, n in numbers
        ]
        series.append(
            {"type": "scatter", "data": data, "symbolSize": 0.01, "silent": True, "unnamed": True, "wide": True, "z": 5}
            | {"label": {"position": "inside"}}
        )
    part = "" if count == of else f"; {count} of {of} micro-batches are drawn"
    says = (
        f"{table.name} on {table.stages} stages with {of} micro-batches: "
        f"{played.bubble_frac:.1%} of the stages' time is idle{part}."
    )
    option = {
        "height": _ROW * table.stages + 56,
        "trigger": "none",
        "xAxis": axis("time in a step", "s", max=float(f"{played.makespan_s:.6g}"), ends=False),
        "yAxis": named_rows([f"stage {s}" for s in range(table.stages)]),
        "series": series,
    }
    heads = ("stage", "pass", "micro-batch", "chunk", "from, s", "to, s")
    rows.sort(key=lambda r: (int(r[0].split()[1]), r[4]))
    return Figure("pipeline", "The pipeline of a step", says, option, heads, tuple(rows))


def _live(found: TrainEstimate, played: Played, count: int) -> Figure | None:
    """Bytes alive on the fullest stage over a step: what stays, and the activations of the passes that wait."""
    s, stage = found.stages[found.peak_stage], found.peak_stage
    table = played.table
    if stage >= table.stages:
        return None
    used = np.flatnonzero(table.kind[stage] != NONE)
    kinds = table.kind[stage, used]
    change = (kinds == FORWARD).astype(float) - np.isin(kinds, (INPUT, BOTH)).astype(float)
    at = np.where(kinds == FORWARD, played.begin_s[stage, used], played.end_s[stage, used])
    order = np.argsort(at, kind="stable")
    held = np.maximum(np.cumsum(change[order]), 0.0)
    most = held.max() or 1.0
    fixed = sum(s.parts.get(n, 0.0) for n in ("weights", "gradients", "optimizer"))
    passing = s.parts.get("activations", 0.0) + s.parts.get("logits", 0.0) + s.parts.get("buffers", 0.0)
    times = np.concatenate([[0.0], at[order], [played.makespan_s]])
    shares = np.concatenate([[0.0], held / most, [0.0]])
    if times.size > 2000:
        pick = np.linspace(0, times.size - 1, 2000).astype(int)
        times, shares = times[pick], shares[pick]
    stay = np.full(times.size, fixed / GIB)
    live = passing * shares / GIB
    plain: dict[str, Any] = {"stack": "live", "step": "end", "lineStyle": {"width": 0}}
    series = [
        line(
            "weights, gradients, optimizer",
            times,
            stay,
            **plain,
            areaStyle={"color": "--c0", "opacity": 0.75},
            itemStyle={"color": "--c0"},
        ),
        line(
            "activations and what passes",
            times,
            live,
            **plain,
            areaStyle={"color": "--c2", "opacity": 0.75},
            itemStyle={"color": "--c2"},
        ),
    ]
    series[0] |= level([limit(y=found.capacity_bytes / GIB, words=f"usable {q(found.capacity_bytes, 'B')}")])
    says = (
        f"On stage {stage} {q(fixed, 'B')} stay; activations of at most {most:,.0f} passes and what passes beside them "
        f"take up to {q(passing, 'B')}, so that {q(s.reserved_bytes, 'B')} are reserved at the fullest moment."
    )
    top = max(found.capacity_bytes, s.allocated_bytes) / GIB
    option = {
        "height": 220,
        "xAxis": axis("time in a step", "s", max=float(f"{played.makespan_s:.6g}"), ends=False),
        "yAxis": axis("", "GiB", max=round(top * 1.05, 1)),
        "series": series,
    }
    heads = ("time, s", "stays, bytes", "passes, bytes")
    rows = tuple((float(t), fixed, float(v * GIB)) for t, v in zip(times, live, strict=True))
    return Figure("live", "Bytes alive on the fullest stage", says, option, heads, rows)


def _run(found: TrainEstimate) -> Figure | None:
    """Share of runs that have ended, over days."""
    run = found.run
    if run is None:
        return None
    days = np.sort(run.samples_days)
    at = np.linspace(0, len(days) - 1, min(_POINTS, len(days))).astype(int)
    share = np.linspace(0.0, 100.0, len(days))[at]
    tone: dict[str, Any] = {"lineStyle": {"color": "--c0"}, "areaStyle": {"color": "--c0", "opacity": 0.12}}
    drawn = line("runs that have ended", days[at], share, **tone)
    marks = [limit(x=run.ideal_days, words="without failures", tone="--soft")]
    by = limits_of(found.scenario.words).by_s
    said = ""
    if by is not None:
        chance = run.chance_by(by / DAY_S)
        marks.append(limit(x=by / DAY_S, words=f"{chance:.0%} by {by / DAY_S:,.0f} d"))
        said = f", {chance:.0%} within {by / DAY_S:,.0f}"
    drawn |= level(marks)
    p = run.days
    says = (
        f"Half of the runs end within {p['p50']:,.1f} days, 10 % within {p['p10']:,.1f}, 90 % within {p['p90']:,.1f}"
        f"{said}; without failures it would be {run.ideal_days:,.1f}. {run.interruptions:,.0f} interruptions are "
        f"expected; {run.ettr_frac:.1%} of the time ends up in the model."
    )
    option = {
        "height": 240,
        "xAxis": axis("days", "", zero=False),
        "yAxis": axis("runs that have ended", "%", max=100),
        "series": [drawn],
    }
    rows = tuple((int(x), float(np.quantile(days, x / 100))) for x in (1, 5, 10, 25, 50, 75, 90, 95, 99))
    return Figure("run", "When the run ends", says, option, ("% of runs", "days"), rows)


def _checkpoints(found: TrainEstimate) -> Figure | None:
    """Days of the run by the work between checkpoints."""
    run, s = found.run, found.scenario
    if run is None or not np.isfinite(run.checkpoint_interval_s) or not run.failures.rates:
        return None
    best = run.checkpoint_interval_s
    nodes, devices = int(s.cluster.node_count), s.cluster.count
    tried = best * _SHARES
    rule = s.checkpoint.checkpoint(run.checkpoint_bytes, nodes=nodes, writers=devices)
    size: dict[str, Any] = {"nodes": nodes, "devices": devices, "replicas": s.plan.dp}
    rules = (replace(rule, interval_s=float(t)) for t in tried)
    taken = [effective(run.failures, each, run.recovery, **size) for each in rules]
    days = run.ideal_days / np.maximum([float(e.ettr_frac) for e in taken], 1e-12)
    drawn = line("days", tried / 60, days, lineStyle={"color": "--c0"})
    drawn |= level([limit(x=best / 60, words="taken", tone="--ink")])
    here = float(np.interp(best, tried, days))
    option = {
        "height": 220,
        "xAxis": axis("work between checkpoints, min", "", log=True),
        "yAxis": axis("days", "", zero=False),
        "series": [drawn],
    }
    says = f"A checkpoint every {q(best, 's')} of work is taken: {here:,.1f} days on average."
    rows = tuple(zip(tried.tolist(), days.tolist(), strict=True))
    return Figure("checkpoints", "What the time between checkpoints does", says, option, ("interval, s", "days"), rows)
