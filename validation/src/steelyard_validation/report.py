"""The validation pages: accuracy tables, why rows are missing, peers beside us, and scatter pictures.

Everything is written from one :class:`~steelyard_validation.validate.Validation`; no figure on these pages comes from
anywhere else. ``README.md`` gets the short table between its two markers.
"""

from __future__ import annotations

import datetime
import inspect
from collections.abc import Iterable, Mapping, Sequence
from math import isnan
from pathlib import Path

import numpy as np

from steelyard.errors import InputError, SteelyardError
from steelyard.measurements.reader import Comparison
from steelyard_validation import planned
from steelyard_validation.peers import PeerAccuracy, peers
from steelyard_validation.readers.inferencex import LINES_TABLE
from steelyard_validation.targets import SHORT, Reached, reached
from steelyard_validation.validate import READERS, Accuracy, Validation

__all__ = ["MARKERS", "accuracy_table", "overview", "short_table", "text", "update_readme", "write_pages"]

#: What encloses the generated table in README.md.
MARKERS = ("<!-- accuracy:start -->", "<!-- accuracy:end -->")
#: Most points of a picture, and its width in inches and resolution: keeps a file under 120 KB.
POINTS, INCHES, DPI = 3000, 4.6, 110
#: Metrics in words.
METRICS = {
    "time_s": "time",
    "ttft_s": "time to first token",
    "tpot_s": "time per output token",
    "itl_s": "time between tokens",
    "e2e_s": "end to end",
    "tokens_per_s": "tokens per second",
    "tokens_per_s_per_device": "tokens per second and device",
    "requests_per_s": "requests per second",
    "energy_j": "energy",
    "power_w": "power",
    "mttf_s": "time between interruptions",
    "failures_per_1000_node_days": "failures per 1,000 nodes and day",
    "ettr_frac": "effective share of time",
}


def totals(rows: Iterable[Accuracy]) -> list[Accuracy]:
    """One row per table, phase and metric over all machines and families: rows left out of the fit where there are."""
    chosen: dict[tuple[str, ...], Accuracy] = {}
    for row in rows:
        over_all = row.table not in ("*", LINES_TABLE) and row.machine == "*" and row.family == "*"
        if over_all and (row.phase != "*" or row.metric == "*"):
            key = (row.source, row.table, row.phase, row.metric)
            if key not in chosen or row.split == "left-out" or row.n == chosen[key].n:
                chosen[key] = row
    return [chosen[key] for key in sorted(chosen)]


def _percent(value: float, signed: bool = False) -> str:
    if isnan(value):
        return ""
    digits = 0 if abs(value) >= 99.5 else 1
    return f"{value:{'+' if signed else ''}.{digits}f}"


def _figures(row: Accuracy) -> list[str]:
    inside = "" if isnan(row.interval80) else f"{row.interval80 * 100:.0f}"
    return [
        f"{row.n:,}",
        f"{100 * row.covered / max(row.n, 1):.0f}",
        _percent(row.median_ape),
        _percent(row.mean_ape),
        _percent(row.p90_ape),
        _percent(row.bias, signed=True),
        inside,
        "" if isnan(row.width) else f"{row.width:.2f}",
        _percent(row.roofline_mean_ape),
    ]


_HEAD = ("rows", "covered", "median", "mean", "p90", "bias", "in 80 %", "width", "roofline mean")


def _markdown(head: Sequence[str], lines: Iterable[Sequence[str]], texts: int) -> str:
    """A table whose first ``texts`` columns are text and the rest numbers."""
    rule = ["---"] * texts + ["---:"] * (len(head) - texts)
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *lines))


def _what(row: Accuracy) -> str:
    metric = METRICS.get(row.metric, row.metric)
    name = row.phase if row.phase not in ("*", "") else "all"
    return name if metric in ("time", "*") else f"{name}, {metric}"


def _rows_of(row: Accuracy) -> str:
    return {"left-out": "left out of the fit", "fit": "fitted", "all": "all"}[row.split]


def accuracy_table(rows: Iterable[Accuracy]) -> str:
    """The short table: one line per table and phase, errors in %."""
    lines = [[r.source, r.table, _what(r), _rows_of(r), *_figures(r)] for r in totals(rows)]
    return _markdown(("source", "table", "what", "which rows", *_HEAD), lines, 4)


def short_table(rows: Iterable[Accuracy]) -> str:
    """Two dozen lines for the README, good and bad ones alike; what a run did not read is left out."""
    found = {(r.source, r.table, r.phase, r.metric): r for r in totals(rows)}
    lines = []
    for words, *key in SHORT:
        row = found.get((key[0], key[1], key[2], key[3])) or found.get((key[0], key[1], "*", key[3]))
        if row is not None:
            lines.append([words, _rows_of(row), *_figures(row)])
    return _markdown(("what", "which rows", *_HEAD), lines, 2)


def text(validation: Validation) -> str:
    """The same for a terminal."""
    lines = [[f"{r.source}/{r.table}", _what(r), _rows_of(r), *_figures(r)] for r in totals(validation.rows)]
    head = ("source", "what", "which rows", *_HEAD)
    width = [max(len(x[i]) for x in (head, *lines)) for i in range(len(head))]
    shown = [
        "  ".join(
            cell.ljust(w) if i < 3 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, width, strict=True))
        )
        for line in (head, *lines)
    ]
    note = "errors, bias and coverage in %; in 80 %: share of measurements inside the stated interval; width: its ends"
    return "\n".join([*shown, "", note, *_target_text(validation)])


def _target_text(validation: Validation) -> list[str]:
    """Targets and what is reached, one line each, for a terminal."""
    found = [a for source in sorted({r.source for r in validation.rows}) for a in reached(validation.rows, source)]
    lines = [
        (
            f"{a.target.source}: {a.target.words}",
            METRICS.get(a.target.metric, a.target.metric),
            f"{_percent(a.target.median) or '-'} / {_percent(a.target.p90) or '-'}",
            f"{_percent(a.row.median_ape)} / {_percent(a.row.p90_ape)}",
            f"{a.row.n:,}",
        )
        for a in found
        if a.row is not None
    ]
    if not lines:
        return []
    head = ("line", "what", "target median / p90", "reached", "rows")
    width = [max(len(x[i]) for x in (head, *lines)) for i in range(len(head))]
    return ["", *("  ".join(c.ljust(w) for c, w in zip(x, width, strict=True)).rstrip() for x in (head, *lines))]


def write_pages(validation: Validation, folder: Path, data: Path, command: str, *, pictures: bool = True) -> list[Path]:
    """Write one page per source and the index.

    Args:
        validation: what a run found.
        folder: where to (``docs/validation``).
        data: the data folder, for its date and the peers beside it.
        command: the command that made the pages.
        pictures: draw scatter plots; without matplotlib they are left out.

    Returns:
        the files written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    beside = peers(data)
    written = []
    sources = sorted({r.source for r in validation.rows})
    for source in sources:
        drawn = _pictures(validation, source, folder) if pictures else []
        path = folder / f"{source}.md"
        path.write_text(_page(validation, source, data, command, drawn, beside), encoding="utf-8")
        written += [path, *drawn]
    if pictures:
        drawn_over = overview(validation, folder)
        written += [drawn_over] if drawn_over else []
    if sources:
        path = folder / "index.md"
        path.write_text(_index(validation, command, sources, beside), encoding="utf-8")
        written.append(path)
    return written


_EXPLANATION = """\
Errors are of predicted against measured figures, in %: median, mean and 90th percentile of the absolute error. *Bias*
above 0: predictions are too high (geometric mean of the ratio). *In 80 %*: how often the measurement lies inside the
80 % interval, the one `estimate` and `simulate` show a user; 70 to 90 is right. *Width*: the upper end of that interval
over its lower, the median. *Roofline mean*: the error of
max(FLOPs / peak, bytes / bandwidth) from the datasheet on the same rows. Rows that cannot be predicted count against
*covered* and in no error. *Left out of the fit*: whole weight shapes, head configurations or sizes that the calibration
never saw; *all*: nothing of this table was fitted. Served rows of InferenceX are asked twice: *serve* with the recipe
of the benchmark (`--recipe`), *as a user* with model and format, machine, degrees, engine, clients and nominal lengths,
all else by default. The README shows the second.
"""


def _index(validation: Validation, command: str, sources: Sequence[str], beside: Sequence[PeerAccuracy]) -> str:
    links = "\n".join(f"- [{name}]({name}.md): {_about(name)}" for name in sources)
    parts = [
        "# Validation",
        f"Written by `{command}`. {_EXPLANATION}",
        accuracy_table(validation.rows),
        "## Sources",
        links,
    ]
    if beside:
        parts += ["## Others on measured rows", _peer_table(beside)]
    return "\n\n".join(parts) + "\n"


#: Why the interval of a source holds more or less often than 70 to 90 %.
COVERAGE: Mapping[str, str] = {
    "aic_ops": "one spread stands for all rows of a section, of which some kinds scatter less than others; rows bound "
    "by a host and machines without a fit of their own scatter more",
    "inferencex_silicon": "rates and times between tokens hold more often, since the interval does not know that the "
    "load is like those the engine was fitted to",
    "llmservingsim_vllm_runs": "the requests of one log share the errors of one engine and one machine",
    "ml_energy_v3": "prompt lengths are guessed, and no interval is shown of an energy",
    "mlperf_inference": "GPT-J and Mixtral were submitted far below what full batches reach in a simulation; how "
    "requests were batched is not stated",
    "neusight_ops": "one spread stands for all vector kernels: elementwise ones scatter less, norms and softmax more",
    "splitwise_perf_model": "one host's Python sets the floor of every small batch",
    "trtllm_perf_overview": "errors of single steps average out over an offline run, so that its interval is wide; the "
    "rate of an open loop is that of its arrivals, so that its interval is narrow",
    "vidur_profiling": "one spread stands for all vector kernels, and eager calls carry the jitter of a host",
}
#: A source's coverage is judged where it has more rows than this.
FEWEST_JUDGED = 200


def coverage_note(rows: Iterable[Accuracy], source: str) -> str:
    """What lies outside 70 to 90 % among figures of many rows (left-out ones where there are any), and why."""
    kept: dict[tuple[str, str, str], Accuracy] = {}
    for row in rows:
        if row.source == source and row.machine == "*" and row.family == "*" and row.metric != "*" and row.phase != "*":
            key = (row.table, row.phase, row.metric)
            if key not in kept or row.split == "left-out":
                kept[key] = row
    judged = [r for r in kept.values() if r.covered > FEWEST_JUDGED and not isnan(r.interval80)]
    odd = [r for r in judged if not 0.695 <= r.interval80 < 0.905]
    if not odd:
        return ""
    named = ", ".join(f"{r.table} {_what(r)} {r.interval80 * 100:.0f} %" for r in odd)
    why = COVERAGE.get(source, "no cause is known yet")
    return f"Outside 70 to 90 % in the interval: {named}. {why[:1].upper()}{why[1:]}."


def _about(source: str) -> str:
    """The first line of the reader's own documentation."""
    for name in READERS:
        if name.partition(".")[0] == source:
            try:
                module = inspect.getmodule(READERS.get(name))
            except (SteelyardError, ImportError):
                continue
            return (inspect.getdoc(module) or "").partition("\n")[0].partition(": ")[2] or "measured tables"
    return "no reader yet"


def _page(
    validation: Validation,
    source: str,
    data: Path,
    command: str,
    pictures: Sequence[Path],
    beside: Sequence[PeerAccuracy],
) -> str:
    folder = data / source
    stamps = [p.stat().st_mtime for p in folder.iterdir()] if folder.is_dir() else []
    newest = datetime.datetime.fromtimestamp(max(stamps, default=0.0), tz=datetime.UTC)
    date = f" Data of {newest:%Y-%m}." if stamps else ""
    parts = [f"# {source}", f"{_about(source)[:1].upper()}{_about(source)[1:]}".rstrip(".") + "."]
    parts.append(f"Written by `{command}`.{date} What the columns mean: [index](index.md).")
    rows = [r for r in validation.rows if r.source == source]
    aims = reached(rows, source)
    if any(a.row for a in aims):
        parts += ["## Target and reached", _target_table(aims)]
    for table in sorted({r.table for r in rows} - {"*"}):
        mine = [r for r in rows if r.table == table]
        parts.append(f"## {table}")
        fine = _telling(r for r in mine if r.phase != "*" or r.metric == "*")
        fine.sort(key=lambda r: (r.phase, r.metric, r.machine, r.family, r.split))
        head = ("what", "machine", "family", "which rows", *_HEAD)
        parts.append(_markdown(head, [[_what(r), r.machine, r.family, _rows_of(r), *_figures(r)] for r in fine], 4))
        missing = validation.reasons(source, table)
        if missing:
            parts.append("Not covered: " + "; ".join(f"{why} ({n:,} rows)" for why, n in missing.most_common(8)) + ".")
        drawn = [p for p in pictures if p.stem.startswith(f"{source}-{table}-")]
        parts += [f"![measured and predicted, {p.stem}](img/{p.name})" for p in drawn]
    if source == planned.SOURCE and (chosen := planned.section(data)):
        parts.append(chosen)
    note = coverage_note(validation.rows, source)
    if note:
        parts += ["## Intervals", note]
    others = [p for p in beside if p.source == source]
    if others:
        parts += ["## Others on these rows", _peer_table(others)]
    return "\n\n".join(parts) + "\n"


def _target_table(aims: Sequence[Reached]) -> str:
    """Target next to reached, errors in %; rows without a target are set apart and shown all the same."""
    head = ("line", "what", "target median", "reached", "target p90", "reached p90", "bias", "in 80 %", "rows", "met")
    lines = []
    for aim in aims:
        target, row = aim.target, aim.row
        if row is None:
            continue
        inside = "" if isnan(row.interval80) else f"{row.interval80 * 100:.0f}"
        met = {True: "yes", False: "no", None: ""}[aim.met]
        lines.append(
            [
                target.words,
                METRICS.get(target.metric, target.metric),
                _percent(target.median),
                _percent(row.median_ape),
                _percent(target.p90),
                _percent(row.p90_ape),
                _percent(row.bias, signed=True),
                inside,
                f"{row.n:,}",
                met,
            ]
        )
    return _markdown(head, lines, 2)


def _telling(rows: Iterable[Accuracy]) -> list[Accuracy]:
    """The rows that say something of their own: no total over one thing only, no sum of fitted and left-out rows."""
    found: dict[tuple[str, ...], list[Accuracy]] = {}
    for row in rows:
        found.setdefault((row.phase, row.metric), []).append(row)
    kept = []
    for group in found.values():
        for row in group:
            finer = (
                other is not row
                and other.n == row.n
                and other.split in (row.split, "fit", "left-out")
                and row.machine in ("*", other.machine)
                and row.family in ("*", other.family)
                and (row.split == other.split or row.split == "all")
                for other in group
            )
            parted = row.split == "all" and any(
                (o.machine, o.family, o.split) == (row.machine, row.family, "left-out") for o in group
            )
            if not parted and not any(finer):
                kept.append(row)
    return kept


def _peer_table(found: Sequence[PeerAccuracy]) -> str:
    head = ("who", "source", "what", "rows", "median", "mean", "p90")
    lines = [
        [p.peer, p.source, p.what, f"{p.n:,}", _percent(p.median_ape), _percent(p.mean_ape), _percent(p.p90_ape)]
        for p in found
    ]
    return _markdown(head, lines, 3)


def update_readme(path: Path, rows: Iterable[Accuracy]) -> bool:
    """Replace what is between the two markers by the short table; False when the file has no markers.

    Raises:
        InputError: only one of the markers is there.
    """
    content = path.read_text(encoding="utf-8") if path.is_file() else ""
    start, end = content.find(MARKERS[0]), content.find(MARKERS[1])
    if start < 0 and end < 0:
        return False
    if start < 0 or end < start:
        raise InputError(f"expected {MARKERS[0]} and then {MARKERS[1]}", field=path.name)
    head, tail = content[: start + len(MARKERS[0])], content[end:]
    path.write_text(f"{head}\n\n{short_table(rows)}\n\n{tail}", encoding="utf-8")
    return True


def _pictures(validation: Validation, source: str, folder: Path) -> list[Path]:
    """One scatter of measured against predicted per table and metric."""
    try:
        import matplotlib
    except ImportError:
        return []
    matplotlib.use("Agg")
    (folder / "img").mkdir(exist_ok=True)
    groups: dict[tuple[str, str], list[Comparison]] = {}
    for c in validation.comparisons:
        if c.source == source and np.isfinite(c.predicted).any():
            groups.setdefault((c.table, c.metric), []).append(c)
    return [
        path
        for (table, metric), parts in sorted(groups.items())
        for path in [_scatter(parts, folder / "img" / f"{source}-{table}-{metric}.png", f"{source}/{table}", metric)]
        if path is not None
    ]


#: Panels of the overview: words, source, table, phase (empty: every one), and the metric on both axes.
PANELS = (
    ("matrix products", "aic_ops", "gemm", "gemm", "time_s"),
    ("attention decode", "aic_ops", "generation_attention", "decode", "time_s"),
    ("expert layers", "aic_ops", "moe", "moe", "time_s"),
    ("static batches, decode step", "splitwise_perf_model", "splitwise_a100_h100", "decode", "tpot_s"),
    ("served models, time per token", "inferencex_silicon", "agg_ttft_tpot", "", "tpot_s"),
    ("Apple chips, tokens per second", "llamacpp_consumer", "apple_silicon_4167", "", "tokens_per_s"),
)


def overview(validation: Validation, folder: Path) -> Path | None:
    """Measured against predicted in six panels, for the README; None unless all of them were read."""
    try:
        import matplotlib
    except ImportError:
        return None
    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    panels = []
    for words, source, table, phase, metric in PANELS:
        parts = [
            c
            for c in validation.comparisons
            if (c.source, c.table, c.metric) == (source, table, metric) and phase in ("", c.phase)
        ]
        truth, answer = (np.concatenate([getattr(c, n) for c in parts] or [[]]) for n in ("measured", "predicted"))
        good = np.flatnonzero(np.isfinite(answer) & (truth > 0))
        if good.size < 5:
            return None
        shown = np.random.default_rng(0).permutation(good)[: POINTS // 3]
        panels.append((words, metric, truth[shown], answer[shown]))
    figure, grid = pyplot.subplots(2, 3, figsize=(9.6, 6.2), dpi=DPI)
    for axes, (words, metric, truth, answer) in zip(grid.flat, panels, strict=True):
        ends = np.array([min(truth.min(), answer.min()), max(truth.max(), answer.max())])
        axes.fill_between(ends, ends / 1.25, ends * 1.25, color="black", alpha=0.1, linewidth=0)
        axes.plot(ends, ends, "-", color="black", linewidth=0.8)
        axes.plot(truth, answer, ".", markersize=2, alpha=0.5, color="#1f6fb4", rasterized=True)
        unit = ", tokens/s" if metric == "tokens_per_s" else ""
        axes.set(xscale="log", yscale="log", xlabel=f"measured{unit}", ylabel=f"predicted{unit}", title=words)
        axes.title.set_fontsize(10)
        for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            narrow = high < 50 * low  # one or two powers of ten are too few ticks
            axis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0) if narrow else (1.0,)))
            axis.set_major_formatter(ticker.EngFormatter(unit="" if metric == "tokens_per_s" else "s"))
            axis.set_minor_formatter(ticker.NullFormatter())
            axis.set_tick_params(labelsize=8)
    figure.tight_layout()
    (folder / "img").mkdir(parents=True, exist_ok=True)
    path = folder / "img" / "overview.png"
    figure.savefig(path, metadata={"Software": None})
    pyplot.close(figure)
    return path


def _scatter(parts: Sequence[Comparison], path: Path, title: str, metric: str) -> Path | None:
    from matplotlib import pyplot

    names = np.concatenate([p.machine for p in parts])
    truth, answer = (np.concatenate([getattr(p, name) for p in parts]) for name in ("measured", "predicted"))
    good = np.flatnonzero(np.isfinite(answer) & (truth > 0))
    if good.size < 5:
        return None
    rng = np.random.default_rng(0)
    shown = np.sort(rng.choice(good, POINTS, replace=False)) if good.size > POINTS else good
    figure, axes = pyplot.subplots(figsize=(INCHES, INCHES), dpi=DPI)
    low, high = min(truth[shown].min(), answer[shown].min()), max(truth[shown].max(), answer[shown].max())
    for machine in sorted(set(names[shown].tolist())):
        mask = shown[names[shown] == machine]
        axes.plot(truth[mask], answer[mask], ".", markersize=2, alpha=0.5, label=machine, rasterized=True)
    line = np.array([low, high])
    axes.plot(line, line, "-", color="black", linewidth=0.8)
    axes.fill_between(line, line / 1.25, line * 1.25, color="black", alpha=0.08, linewidth=0)
    axes.set(xscale="log", yscale="log", xlabel=f"measured {metric}", ylabel=f"predicted {metric}", title=title)
    axes.legend(fontsize=6, markerscale=4, loc="upper left")
    figure.tight_layout()
    figure.savefig(path, metadata={"Software": None})
    pyplot.close(figure)
    return path
