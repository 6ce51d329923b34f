"""``help_nas_latency``: networks of two searched spaces on ten devices, each answered from ten samples of its own.

Every physical device is left out in turn: the prior of ``steelyard calibrate --networks`` is fitted anew to the others,
ten of its networks are drawn, and the rest are predicted. A row is predicted in one of several draws, to whose samples
it does not belong. Phases:

``ten samples``        the answer
``one proxy device``   the other device whose times of the ten are most alike, times one factor
``mix of devices``     a weighed sum of all other devices' times, weights not below 0, fitted to the ten
``all rows``           the additive model fitted to every row: the ceiling of what adds up (nothing is left out)

Beside times there are ranks (Spearman's correlation of a draw): the phase's as predicted, that of ``all rows`` as
measured.

``eyeriss`` and ``fpga`` are estimators' figures and no device's: they are in no prior, and are reported apart. Values
of raspi4 and pixel3 below a fifth of the median are broken and dropped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steelyard.deployment.space_device import Prior, costs_of, fit_prior, relative_costs
from steelyard.errors import InputError
from steelyard.interval import interval80
from steelyard.measurements.reader import Ask, Comparison, comparison, guarded, read_frame
from steelyard.workload.networks.search_space import SPACES, Space

__all__ = ["ESTIMATORS", "TABLES", "clean", "device_of", "frame_of", "read"]

#: Space and column of the architecture of each table.
TABLES = {"nasbench201_wide": ("nb201", "arch_str"), "fbnet_wide": ("fbnet", "arch_ops")}
#: Columns that a model made, not a device.
ESTIMATORS = ("eyeriss", "fpga")
#: Cards that were measured at several batches.
CARDS = {"1080ti": "gtx_1080_ti", "2080ti": "rtx_2080_ti", "titanx": "titan_x", "titanxp": "titan_xp"}
#: Values below this share of the median are broken.
BROKEN = 0.2
SAMPLES, DRAWS = 10, 5
Floats = NDArray[np.float64]


def device_of(column: str) -> str:
    """The physical device of a column: ``1080ti_32`` is a 1080 Ti."""
    card = column.partition("_")[0]
    return CARDS.get(card, column)


def clean(ms: Floats) -> NDArray[np.intp]:
    """Rows that are not broken."""
    return np.flatnonzero(ms > BROKEN * np.median(ms))


def frame_of(path: Path) -> tuple[Space, Floats, Mapping[str, Floats]]:
    """Space, counts of every architecture, and seconds by column."""
    name, column = TABLES[path.stem]
    frame = read_frame(path)
    if column not in frame:
        raise InputError(f"columns missing: {column}", field=path.name)
    space = SPACES[name]
    counts = space.counts(space.codes(frame[column].astype(str)))
    columns = [c for c in frame if c not in ("arch_index", "arch_str", "arch_ops")]
    return space, counts, {c: frame[c].to_numpy(dtype=np.float64) * 1e-3 for c in columns}


def read(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """Times of networks from ten samples of each device, and of what is simpler."""
    for stem in TABLES:
        for path in ask.files(folder, f"{stem}.parquet"):
            if ask.wants(path.stem):
                yield from guarded(ask, path, partial(_table, path, ask))


def _table(path: Path, ask: Ask) -> Iterator[Comparison]:
    space, counts, times = frame_of(path)
    real = [c for c in times if c not in ESTIMATORS]
    costs = {c: relative_costs(counts[k], times[c][k]) for c in times for k in [clean(times[c])]}
    for column in times:
        others = [c for c in real if device_of(c) != device_of(column)]
        prior = fit_prior(space.name, np.array([costs[c] for c in others]), others)
        yield from _column(ask, path.stem, column, counts, times, others, prior)


def _column(
    ask: Ask,
    table: str,
    column: str,
    counts: Floats,
    times: Mapping[str, Floats],
    others: list[str],
    prior: Prior,
) -> Iterator[Comparison]:
    """One column, every row predicted once each way."""
    seconds = times[column]
    able = clean(seconds)
    rng = np.random.default_rng(sum(map(ord, f"{table} {column}")))
    draw = rng.permutation(len(able)) % DRAWS
    mixture = np.stack([times[c] for c in others], axis=1)
    found: dict[str, Any] = {}
    for number in range(DRAWS):
        mine = np.flatnonzero(draw == number)
        ten = able[rng.choice(np.flatnonzero(draw != number), SAMPLES, replace=False)]
        rows = able[mine]
        known = costs_of(prior, counts[ten], seconds[ten])
        time = known.time_s(counts[rows])
        low, high = interval80(time, known.spread(counts[rows]))
        answers = {
            "ten samples": (time, low, high),
            "one proxy device": (_proxy(mixture, ten, seconds[ten])[rows],),
            "mix of devices": (_mix(mixture, ten, seconds[ten])[rows],),
        }
        for phase, values in answers.items():
            into = found.setdefault(phase, np.full((3, len(able)), np.nan))
            for i, value in enumerate(values):
                into[i, mine] = value
    ceiling = counts[able] @ relative_costs(counts[able], seconds[able])
    found["all rows"] = np.array([ceiling * np.median(seconds[able] / ceiling), *np.full((2, len(able)), np.nan)])
    apart = ", estimators" if column in ESTIMATORS else ""
    ranks = {
        phase: [_rank(time[0, draw == i], seconds[able][draw == i]) for i in range(DRAWS)]
        for phase, time in found.items()
    }
    rows = ask.pick(len(able), f"{table} {column}")
    for phase, (time, low, high) in found.items():
        yield comparison(
            *(ask, table),
            machine=device_of(column),
            family=column,
            metric="time_s",
            phase=phase + apart,
            measured=seconds[able][rows],
            predicted=time[rows],
            low=low[rows],
            high=high[rows],
        )
        if phase != "all rows":
            yield comparison(
                *(ask, table),
                machine=device_of(column),
                family=column,
                metric="rank",
                phase=phase + apart,
                measured=ranks["all rows"],
                predicted=ranks[phase],
            )


def _rank(predicted: Floats, measured: Floats) -> float:
    """Spearman's correlation."""
    from scipy.stats import spearmanr

    return float(spearmanr(predicted, measured).statistic)


def _proxy(mixture: Floats, ten: NDArray[np.intp], seconds: Floats) -> Floats:
    """Times of the device most like the samples, times one factor."""
    ratio = np.log(seconds[:, None] / np.maximum(mixture[ten], 1e-9))
    best = int(np.argmin(ratio.std(axis=0)))
    return np.asarray(mixture[:, best] * np.exp(np.median(ratio[:, best])))


def _mix(mixture: Floats, ten: NDArray[np.intp], seconds: Floats) -> Floats:
    """A sum of other devices' times, weights not below 0, in relative error."""
    from scipy.optimize import nnls

    weights, _ = nnls(mixture[ten] / seconds[:, None], np.ones(len(ten)))
    return np.asarray(mixture @ weights)
