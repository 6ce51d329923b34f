"""What a study found: best points per objective, the Pareto front, what each axis does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steelyard._display import Result
from steelyard.scenario.fields import PRICE
from steelyard.studies.store_columns import columns_of
from steelyard.studies.store_results import StudyRecord
from steelyard.studies.study import Constraint, Objective

__all__ = ["Axis", "Findings", "Row", "findings", "front_of", "objectives_of", "shown_metrics"]

#: Axes that repeat a point with other draws: their answers are averaged.
REPEATS = ("repeat", "seed")

#: Objectives of a study that names none.
_DEFAULT: dict[str, tuple[tuple[str, bool, str], ...]] = {
    "estimate": (
        ("usd_per_million_tokens", False, "fits"),
        ("tokens_per_s_per_device", True, "fits"),
        ("tokens_per_s_per_user", True, "fits"),
    ),
    "simulate": (
        ("usd_per_million_output_tokens", False, ""),
        ("goodput_requests_per_s", True, ""),
        ("ttft_p99_s", False, ""),
    ),
    "plan": ((PRICE, False, "feasible"), ("ttft_s", False, "feasible")),
}

#: Figures of every table.
_SHOWN: dict[str, tuple[str, ...]] = {
    "estimate": (
        *("ttft_s", "tpot_s", "tokens_per_s_per_device", "tokens_per_s_per_user"),
        *("usd_per_million_tokens", "energy_j_per_token", "memory_total_bytes"),
    ),
    "simulate": (
        *("ttft_p99_s", "tpot_p95_s", "goodput_requests_per_s", "output_tokens_per_s_per_device"),
        *("usd_per_million_output_tokens", "kv_max_frac"),
    ),
    "plan": ("devices", PRICE, "usd_per_million_tokens", "ttft_s", "tpot_s", "max_rate_per_s", "watts"),
}


@dataclass(frozen=True, slots=True)
class Row:
    """One point of a study, its repeats averaged."""

    axes: Mapping[str, Any]
    values: Mapping[str, Any]
    """Inputs and answers by column; numbers are means over the runs."""
    status: str
    problem: str
    runs: int = 1

    @property
    def answered(self) -> bool:
        """Whether it has an answer."""
        return self.status == "ok"


@dataclass(frozen=True, slots=True)
class Axis:
    """What an axis does to an objective when nothing else changes."""

    name: str
    metric: str
    ratio: float
    """Worst over best value of the axis, the median over all settings of the other axes; at least 1."""
    best: Any
    """The value that is best most often."""
    best_frac: float
    """In this share of the settings."""
    settings: int
    """Settings of the other axes in which at least two values can be compared."""


@dataclass(frozen=True, repr=False)
class Findings(Result):
    """A study's rows and what they say."""

    study: StudyRecord
    axes: Mapping[str, list[Any]]
    rows: list[Row]
    objectives: tuple[Objective, ...]
    best: tuple[list[Row], ...]
    """Per objective, best first."""
    front: list[Row]
    """Points that no other point beats in every objective, by the first of them."""
    sensitivity: list[Axis]
    problems: Mapping[str, int]
    """Reasons for points without an answer, and how many have each."""

    @property
    def answered(self) -> list[Row]:
        """Rows with an answer."""
        return [r for r in self.rows if r.answered]


def objectives_of(study: StudyRecord) -> tuple[Objective, ...]:
    """The objectives of a stored study; the usual ones of its kind when it names none."""
    found = tuple(
        Objective(o["metric"], o["maximise"], tuple(Constraint(*c) for c in o["where"]), o.get("name", ""))
        for o in study.document.get("objectives", ())
    )
    return found or tuple(
        Objective(metric, up, (Constraint(where, "==", True),) if where else ())
        for metric, up, where in _DEFAULT[study.kind]
    )


def shown_metrics(kind: str, objectives: Sequence[Objective]) -> list[str]:
    """Figures of a table: those of the objectives, then the usual ones."""
    return list(dict.fromkeys([*(o.metric for o in objectives), *_SHOWN[kind]]))


def findings(
    study: StudyRecord, columns: Mapping[str, list[Any]], objectives: Sequence[Objective] = (), best: int = 5
) -> Findings:
    """What the rows of a study say.

    Args:
        study: as the store has it.
        columns: its rows, from :meth:`steelyard.studies.store_results.Store.rows`.
        objectives: instead of the study's own.
        best: points kept per objective.
    """
    rows = _rows(study, columns)
    names = [n for n in study.document.get("axes", ()) if n not in REPEATS]
    axes = {n: list(dict.fromkeys(r.axes[n] for r in rows if n in r.axes)) for n in names}
    axes = {n: values for n, values in axes.items() if len(values) > 1}
    asked = tuple(objectives) or objectives_of(study)
    known = [o for o in asked if any(r.values.get(o.metric) is not None for r in rows if r.answered)]
    ranked = tuple(_ranked(rows, o)[:best] for o in asked)
    sensitivity = [a for o in known for a in _sensitivity(rows, axes, o)]
    problems = Counter(r.problem for r in rows if not r.answered)
    return Findings(study, axes, rows, asked, ranked, front_of(rows, known), sensitivity, dict(problems.most_common()))


def _rows(study: StudyRecord, columns: Mapping[str, list[Any]]) -> list[Row]:
    known = columns_of(study.kind)
    numbers = [n for n, c in known.items() if c.type in ("number", "whole") and not c.asked and n in columns]
    switches = [n for n, c in known.items() if c.type == "switch" and n in columns]
    names = [n for n in columns if n in known]
    groups: dict[str, list[int]] = {}
    for i, axes in enumerate(columns["axes"]):
        point = {"case": columns["case"][i], **{k: v for k, v in axes.items() if k not in REPEATS}}
        groups.setdefault(repr(point), []).append(i)
    rows = []
    for members in groups.values():
        first = members[0]
        good = [i for i in members if columns["status"][i] == "ok"]
        at = good[0] if good else first
        values = {n: columns[n][at] for n in names}
        if len(good) > 1:
            for name in numbers:
                several = [columns[name][i] for i in good if columns[name][i] is not None]
                values[name] = sum(several) / len(several) if several else None
            for name in switches:  # holds when it holds in every run
                values[name] = None if values[name] is None else all(columns[name][i] for i in good)
        axes = {k: v for k, v in columns["axes"][first].items() if k not in REPEATS}
        status, problem = columns["status"][at], columns["problem"][at]
        rows.append(Row(axes, values, status, problem, len(good) or 1))
    return rows


def _meets(row: Row, constraints: Sequence[Constraint]) -> bool:
    return row.answered and all(c.holds(row.values.get(c.metric)) for c in constraints)


def _ranked(rows: Sequence[Row], objective: Objective) -> list[Row]:
    """Points that meet the constraints, best first; equal ones in the order of the study."""
    able = [r for r in rows if _meets(r, objective.where) and r.values.get(objective.metric) is not None]
    sign = -1.0 if objective.maximise else 1.0
    return sorted(able, key=lambda r: sign * r.values[objective.metric])


def front_of(rows: Sequence[Row], objectives: Sequence[Objective]) -> list[Row]:
    """Points that meet the constraints of all objectives and that no other such point beats in every objective."""
    if len(objectives) < 2:
        return []
    constraints = list(dict.fromkeys(c for o in objectives for c in o.where))
    able = [r for r in rows if _meets(r, constraints) and all(r.values.get(o.metric) is not None for o in objectives)]
    if not able:
        return []
    signs = [-1.0 if o.maximise else 1.0 for o in objectives]
    table = np.array([[s * r.values[o.metric] for s, o in zip(signs, objectives, strict=True)] for r in able])
    order = np.lexsort(table.T[::-1])
    kept: list[int] = []
    values: NDArray[np.float64] = np.empty((0, len(objectives)))
    for i in order.tolist():  # sorted by the first objective: only points before can beat a point
        if not (values <= table[i]).all(axis=1).any():
            kept.append(i)
            values = np.vstack([values, table[i]])
    return [able[i] for i in kept]


def _sensitivity(rows: Sequence[Row], axes: Mapping[str, list[Any]], objective: Objective) -> list[Axis]:
    """Per axis: compare points that differ in this axis only; points that break a limit but can run count too."""
    able_if = [Constraint(name, "==", True) for name in ("fits", "feasible") if rows and name in rows[0].values]
    able = [r for r in rows if _meets(r, able_if) and _positive(r.values.get(objective.metric))]
    found = []
    for name in axes:
        settings: dict[str, dict[str, tuple[Any, float]]] = {}
        for row in able:
            if name not in row.axes:
                continue
            others = repr([(k, row.axes[k]) for k in axes if k != name and k in row.axes])
            settings.setdefault(others, {})[repr(row.axes[name])] = (row.axes[name], row.values[objective.metric])
        compared = [list(s.values()) for s in settings.values() if len(s) > 1]
        if not compared:
            continue
        pick = max if objective.maximise else min
        ratios = [max(v for _, v in s) / min(v for _, v in s) for s in compared]
        winners = Counter(repr(pick(s, key=lambda x: x[1])[0]) for s in compared)
        word, times = winners.most_common(1)[0]
        best = next(v for v in axes[name] if repr(v) == word)
        ratio = float(np.median(ratios))
        found.append(Axis(name, objective.metric, ratio, best, times / len(compared), len(compared)))
    return sorted(found, key=lambda a: -a.ratio)


def _positive(value: Any) -> bool:
    return value is not None and value > 0
