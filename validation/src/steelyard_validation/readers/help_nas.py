"""``help_nas_latency``: networks of two searched spaces on ten devices, each answered from ten samples of its own.

Every physical device is left out in turn: ``steelyard search predictor`` is told of the others, and of ten networks of
the device, and predicts the rest. A row is predicted in one of several draws, to whose samples it does not belong.
Phases:

``ten samples``          ten drawn, the predictor ``hierarchical``
``ten chosen``           ten that it chooses itself
``counts of the graph``  ``counts``, of the ten drawn: no other device
``one proxy device``     ``proxy``: the other device whose times of the ten are most alike, times one factor
``mix of devices``       ``mix``: a weighed sum of all other devices' times, weights not below 0, fitted to the ten
``all rows``             the additive model fitted to every row: the ceiling of what adds up (nothing is left out)

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

from steelyard.calibrate.space_samples import rank_of
from steelyard.deployment.space_device import next_rows, relative_costs
from steelyard.errors import InputError
from steelyard.exploration.known_devices import KnownDevices
from steelyard.exploration.predictors import search_predictor
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
#: Networks among which the ten are chosen, and phases of predictors.
CANDIDATES = 2000
PHASES = {
    "hierarchical": "ten samples",
    "counts": "counts of the graph",
    "proxy": "one proxy device",
    "mix": "mix of devices",
}
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
    codes = space.codes(read_frame(path)[TABLES[path.stem][1]].astype(str))
    real = [c for c in times if c not in ESTIMATORS]
    for column in times:
        others = [c for c in real if device_of(c) != device_of(column)]
        seconds = np.stack([np.where(_fine(times[c]), times[c], np.nan) for c in others], axis=1)
        yield from _column(ask, path.stem, column, counts, times, KnownDevices(space, codes, seconds, tuple(others)))


def _fine(seconds: Floats) -> NDArray[np.bool_]:
    found = np.zeros(len(seconds), dtype=np.bool_)
    found[clean(seconds)] = True
    return found


def _column(
    ask: Ask, table: str, column: str, counts: Floats, times: Mapping[str, Floats], devices: KnownDevices
) -> Iterator[Comparison]:
    """One column, every row predicted once each way."""
    seconds = times[column]
    able = clean(seconds)
    rng = np.random.default_rng(sum(map(ord, f"{table} {column}")))
    others = np.random.default_rng((sum(map(ord, f"{table} {column}")), 1))
    draw = rng.permutation(len(able)) % DRAWS
    found: dict[str, Any] = {}
    for number in range(DRAWS):
        mine = np.flatnonzero(draw == number)
        rest = np.flatnonzero(draw != number)
        ten = able[rng.choice(rest, SAMPLES, replace=False)]
        among = able[others.choice(rest, min(CANDIDATES, len(rest)), replace=False)]
        none = np.zeros((0, counts.shape[1]))
        chosen = among[next_rows(devices.prior, none, counts[among], SAMPLES)]
        answers = _answers(devices, ten, able[mine], seconds, ",".join(PHASES))
        best = _answers(devices, chosen, able[mine], seconds, "hierarchical")["hierarchical"]
        for phase, (time, spread) in {**{PHASES[n]: a for n, a in answers.items()}, "ten chosen": best}.items():
            low, high = interval80(time, spread)
            into = found.setdefault(phase, np.full((3, len(able)), np.nan))
            into[0, mine], into[1, mine], into[2, mine] = time, low, high
    ceiling = counts[able] @ relative_costs(counts[able], seconds[able])
    found["all rows"] = np.array([ceiling * np.median(seconds[able] / ceiling), *np.full((2, len(able)), np.nan)])
    apart = ", estimators" if column in ESTIMATORS else ""
    ranks = {
        phase: [rank_of(time[0, draw == i], seconds[able][draw == i]) for i in range(DRAWS)]
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


def _answers(
    devices: KnownDevices, told: NDArray[np.intp], asked: NDArray[np.intp], seconds: Floats, predictors: str
) -> Mapping[str, tuple[Floats, Floats]]:
    """What ``search predictor`` says of networks of a device of which it is told some."""
    space = devices.space
    measured = {space.spell(c): float(s) for c, s in zip(devices.codes[told].tolist(), seconds[told], strict=True)}
    words: dict[str, Any] = {"space": space.name, "devices": devices, "predictors": predictors}
    return search_predictor(measured, predict=devices.codes[asked], **words).predicted
