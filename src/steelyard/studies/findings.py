"""What a study found: best points per objective, the Pareto front, what each axis does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steelyard._display import Result
from steelyard.pareto import front_of
from steelyard.scenario.fields import PRICE
from steelyard.studies.store_results import StudyRecord
from steelyard.studies.study import OPERATORS, Constraint, Objective
from steelyard.studies.table import REPEATS, Row, Table, first_places

__all__ = ["Axis", "Findings", "Row", "findings", "objectives_of", "shown_metrics"]

Places = NDArray[np.intp]

#: Cells per point up to which the settings of an axis are laid out as a whole; numbers of settings before they are
#: counted.
_SPARSE, _MOST_SETTINGS = 4, 2**40

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
    "train": (("usd_per_trillion_tokens", False, "fits"), ("tokens_per_s", True, "fits")),
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
    "train": ("step_s", "mfu_frac", "peak_memory_bytes", "days", "layout", "usd", "kwh"),
}


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


@dataclass(frozen=True, eq=False, repr=False)
class Findings(Result):
    """A study's rows and what they say."""

    study: StudyRecord
    table: Table
    """Its points as columns."""
    axes: Mapping[str, list[Any]]
    objectives: tuple[Objective, ...]
    best: tuple[list[Row], ...]
    """Per objective, best first."""
    front: list[Row]
    """Points that no other point beats in every objective, by the first of them."""
    sensitivity: list[Axis]
    problems: Mapping[str, int]
    """Reasons for points without an answer, and how many have each."""

    @cached_property
    def rows(self) -> list[Row]:
        """Its points as objects."""
        return self.table.rows()

    @cached_property
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


def findings(study: StudyRecord, table: Table, objectives: Sequence[Objective] = (), best: int = 5) -> Findings:
    """What the rows of a study say.

    Args:
        study: as the store has it.
        table: its points, from :func:`~steelyard.studies.table.table_of`.
        objectives: instead of the study's own.
        best: points kept per objective.
    """
    names = [n for n in study.document.get("axes", ()) if n not in REPEATS and n in table.axes]
    axes = {n: values for n in names if len(values := table.axis_values(n)) > 1}
    asked = tuple(objectives) or objectives_of(study)
    answered = table.answered
    figures = {o.metric: np.where(answered, table.floats(o.metric), np.nan) for o in asked}
    known = [o for o in asked if not np.isnan(figures[o.metric]).all()]
    ranked = tuple(table.rows(_ranked(figures[o.metric], _meets(table, o.where), o.maximise, best)) for o in asked)
    sensitivity = [a for o in known for a in _sensitivity(table, axes, o, figures[o.metric])]
    problems = Counter(table.problem.take(np.flatnonzero(~answered)).tolist())
    front: list[Row] = []
    if len(known) > 1:
        able = _meets(table, list(dict.fromkeys(c for o in known for c in o.where)))
        numbers = np.stack([figures[o.metric] * _sign(o.maximise) for o in known], axis=1)
        places = np.flatnonzero(able & ~np.isnan(numbers).any(axis=1))
        front = table.rows(places[front_of(numbers[places])])
    return Findings(study, table, axes, asked, ranked, front, sensitivity, dict(problems.most_common()))


def _sign(maximise: bool) -> float:
    return -1.0 if maximise else 1.0


def _meets(table: Table, constraints: Sequence[Constraint]) -> NDArray[np.bool_]:
    """Answered rows that meet all constraints."""
    met = table.answered
    for c in constraints:
        met = met & OPERATORS[c.relation](table.floats(c.metric), c.value)
    return met


def _ranked(figures: NDArray[np.float64], able: NDArray[np.bool_], maximise: bool, best: int) -> Places:
    """The best of the able rows, best first; equal ones in the order of the study."""
    places = np.flatnonzero(able & ~np.isnan(figures))
    values = figures[places] * _sign(maximise)
    if len(values) > best:
        near = values <= np.partition(values, best - 1)[best - 1]
        places, values = places[near], values[near]
    return places[np.argsort(values, kind="stable")[:best]]


def _sensitivity(
    table: Table, axes: Mapping[str, list[Any]], objective: Objective, figures: NDArray[np.float64]
) -> list[Axis]:
    """Per axis: compare points that differ in this axis only; points that break a limit but can run count too."""
    able_if = [Constraint(name, "==", True) for name in ("fits", "feasible") if name in table.values]
    places = np.flatnonzero(_meets(table, able_if) & (figures > 0))
    if not len(places):
        return []
    values = figures[places]
    codes = {n: c.codes[places] for n in axes if (c := table.axes[n]).codes is not None}
    found = []
    for name, mine in codes.items():
        size, others = len(table.axes[name].values), [(n, c) for n, c in codes.items() if n != name]
        setting, settings = _settings([(c, len(table.axes[n].values)) for n, c in others], len(places))
        if settings * size > _SPARSE * len(places):
            here, setting = np.unique(setting, return_inverse=True)
            settings = len(here)
        rows = np.full((settings, size), len(places), dtype=np.intp)
        has = mine >= 0
        rows[setting[has], mine[has]] = np.flatnonzero(has)
        rows = rows[(rows < len(places)).sum(axis=1) > 1]
        if not len(rows):
            continue
        signed = np.append(values * _sign(objective.maximise), np.inf)[rows]
        least = signed.min(axis=1)
        most = np.where(rows < len(places), signed, -np.inf).max(axis=1)
        ratio = float(np.median(least / most if objective.maximise else most / least))
        # the value that is best most often; of several the one of the first setting, as within a setting the first row
        winner = np.where(signed == least[:, None], rows, len(places)).argmin(axis=1)
        times = np.bincount(winner, minlength=size)
        winner = winner[np.argsort(rows.min(axis=1), kind="stable")]
        first = first_places(winner.astype(np.intp), size)
        best = int(np.where(times == times.max(), first, len(winner)).argmin())
        value = table.axes[name].values[best]
        found.append(Axis(name, objective.metric, ratio, value, int(times[best]) / len(winner), len(winner)))
    return sorted(found, key=lambda a: -a.ratio)


def _settings(others: Sequence[tuple[Places, int]], n: int) -> tuple[Places, int]:
    """A number per row for the values of the other axes, and how many there may be."""
    setting, total = np.zeros(n, dtype=np.intp), 1
    for codes, size in others:
        absent = int((codes < 0).any())
        if total * (size + absent) > _MOST_SETTINGS:
            here, setting = np.unique(setting, return_inverse=True)
            total = len(here)
        setting = setting * (size + absent) + codes + absent
        total *= size + absent
    return setting, total
