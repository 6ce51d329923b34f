"""``training_failures/facts.csv``: how often training jobs are interrupted, and what is left of their time.

Mean times between interruptions of RSC-1 are asked with its own rates: what the paper projects with the failures of its
nodes alone, what it measured with the term of software that was fitted to those two rows. The rates of the clusters
themselves are asked with the geometric mean of the other clusters. ByteRobust's share of effective time is asked with
the mean cluster and the assumptions of ``steelyard train`` about restarts, its checkpoints taken as free. The other
rows are bounds or give no size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from steelyard.deployment.failures import Failures, failing_clusters, parse_failures, typical_failures
from steelyard.deployment.recovery import Checkpoint
from steelyard.interval import interval80
from steelyard.measurements.reader import Ask, Comparison, comparison, guarded, machine_name, read_frame
from steelyard.training.reliability import effective

__all__ = ["read"]

#: Devices of a node of every cluster of the table.
PER_NODE = 8
DAY_S, HOUR_S = 86400.0, 3600.0
#: Rows asked with what other clusters measured.
OTHERS = "other clusters"


class _Row(NamedTuple):
    """How a row is asked: its quantity, the failures, and what it was to them."""

    phase: str
    metric: str
    column: str
    failures: Failures
    split: str


def _rows() -> dict[str, _Row]:
    others = {name: typical_failures(without=name) for name in failing_clusters()}
    rsc1 = parse_failures("rsc-1")
    rate = "failures_per_1000_node_days"
    return {
        "Llama 3 405B pre-training, unexpected only": _Row(OTHERS, "mttf_s", "mttf_h", others["llama3"], "left-out"),
        "Meta RSC-1 node failures": _Row(OTHERS, rate, "per_1000_node_days", others["rsc-1"], "left-out"),
        "Meta RSC-2 node failures": _Row(OTHERS, rate, "per_1000_node_days", others["rsc-2"], "left-out"),
        "RSC-1 jobs of 1024 GPUs, measured": _Row("job", "mttf_s", "mttf_h", rsc1, "fit"),
        "RSC-1 jobs of 8 GPUs, measured": _Row("job", "mttf_s", "mttf_h", rsc1, "fit"),
        "RSC-1 projected": _Row("nodes alone", "mttf_s", "mttf_h", rsc1.only("hardware"), "all"),
        "ByteRobust three-month job": _Row("run", "ettr_frac", "ettr", typical_failures(), "all"),
    }


def read(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """Mean times between interruptions, rates and shares of effective time."""
    for path in ask.files(folder, "facts.csv"):
        if ask.wants(path.stem):
            yield from guarded(ask, path, partial(_table, path, ask))


def _machines(gpus: Iterable[Any]) -> list[str]:
    return [machine_name(gpu) if isinstance(gpu, str) and gpu else "not stated" for gpu in gpus]


def _predicted(row: _Row, devices: float) -> tuple[float, float, float]:
    """The figure and the ends of its interval."""
    nodes = max(devices / PER_NODE, 1.0)
    if row.metric == "ettr_frac":
        ends = [
            float(effective(row.failures, Checkpoint(0.0), nodes=nodes * times, devices=devices * times).ettr_frac)
            for times in interval80(1.0, row.failures.spread)
        ]
        value = float(effective(row.failures, Checkpoint(0.0), nodes=nodes, devices=devices).ettr_frac)
        return value, min(ends), max(ends)
    value = float(row.failures.mtbf_s(nodes, devices))
    if row.metric != "mttf_s":
        value = 1000.0 * DAY_S / (value * nodes)
    low, high = interval80(value, row.failures.spread)
    return value, float(low), float(high)


def _table(path: Path, ask: Ask) -> Iterator[Comparison]:
    frame = read_frame(path, ["what", "gpus", "gpu", "per_1000_node_days", "mttf_h", "ettr"])
    frame = frame.iloc[ask.pick(len(frame), path.stem)]
    known = _rows()
    asked = [known.get(what) for what in frame["what"]]
    groups = dict.fromkeys((r.phase, r.metric) for r in known.values())
    for phase, metric in groups:
        mine = [r is not None and (r.phase, r.metric) == (phase, metric) for r in asked]
        if not any(mine):
            continue
        part, rows = frame[mine], [r for r in asked if r is not None and (r.phase, r.metric) == (phase, metric)]
        found = [_predicted(r, float(d)) for r, d in zip(rows, part["gpus"], strict=True)]
        value, low, high = np.array(found).T
        borrowed = high > low
        yield comparison(
            ask,
            path.stem,
            metric=metric,
            phase=phase,
            machine=_machines(part["gpu"]),
            family="training job",
            measured=part[rows[0].column].astype(float).to_numpy() * (HOUR_S if metric == "mttf_s" else 1.0),
            predicted=value,
            low=np.where(borrowed, low, np.nan),
            high=np.where(borrowed, high, np.nan),
            split=[r.split for r in rows],
        )
    rest = frame[[r is None for r in asked]]
    if len(rest):
        yield comparison(
            ask,
            path.stem,
            metric="ettr_frac",
            phase="run",
            machine=_machines(rest["gpu"]),
            family="training job",
            measured=np.full(len(rest), np.nan),
            why="a bound, or a job whose size is not stated",
        )
