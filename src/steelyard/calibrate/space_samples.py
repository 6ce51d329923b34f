"""``steelyard calibrate --networks``: a few measured networks of a searched space make a device known.

See :mod:`steelyard.deployment.space_device` for the model. The file written holds the measurements; ``estimate`` fits
anew, so that a better prior helps devices that were measured before.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from steelyard.calibrate.networks import PASS_S, twice
from steelyard.calibrate.toml_files import document, write_files
from steelyard.deployment.space_device import Prior, SpaceDevice, Timed, costs_of, next_rows, prior_of
from steelyard.errors import InputError, Problem, UnknownName, raise_all, show
from steelyard.folders import folder_to_write
from steelyard.interval import Z80
from steelyard.machine.catalogue import find_machine
from steelyard.scenario.space import columns_of
from steelyard.workload.networks.search_space import Space

__all__ = ["LeftOut", "device_of", "left_out", "rank_of", "suggested", "write_device"]

#: Names of the column of times, and their unit in s.
TIMES: Mapping[str, float] = {"seconds": 1.0, "latency_s": 1.0, "latency_ms": 1e-3, "ms": 1e-3}
#: Most measured networks of a device: what ten say is fitted exactly, thousands would be another method.
MOST = 2000
#: Architectures among which the next to measure are looked for.
_CANDIDATES = 2000


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Every network predicted from the others."""

    predicted_s: tuple[float, ...]
    median_ape: float
    """Median absolute error, %."""
    rank: float
    """Spearman's correlation of predicted and measured."""
    inside: float
    """Share inside the 80 % interval."""
    noise: float
    """Scatter of a measurement as it is believed, relative."""


def device_of(name: str, space: Space, path: str | Mapping[str, float], batch: int = 1) -> SpaceDevice:
    """The device of a file of measured networks.

    Args:
        name: what the device is called: a machine of the catalogue, or a name of one's own.
        space: whose architectures they are.
        path: CSV with the columns ``architecture`` and ``seconds`` (or ``latency_ms``), or seconds by architecture.
        batch: items of a pass.

    Raises:
        InputError: the name, the file, an architecture or a time is wrong; fewer than three networks.
    """
    columns, unit = (([*path], [*map(str, path.values())]), 1.0) if isinstance(path, Mapping) else _columns(path)
    path = "measured" if isinstance(path, Mapping) else path
    timed, problems = [], []
    prefix = f"{space.prefix}:"
    for row, (architecture, text) in enumerate(zip(*columns, strict=True), 2):
        try:
            seconds = unit * float(text)
        except ValueError:
            seconds = math.nan
        if not PASS_S[0] <= seconds <= PASS_S[1]:
            said = f"expected a time of 1 us to 1 h, got {show(text)}"
            problems.append(Problem(f"{Path(path).name}: row {row}", said))
        else:
            timed.append(Timed(architecture.removeprefix(prefix), seconds))
    raise_all(problems[:10])
    for i, first in twice([t.architecture for t in timed]).items():
        said = f"{timed[i].architecture} is in row {first + 2} already; give each once"
        problems.append(Problem(f"{Path(path).name}: row {i + 2}", said))
    raise_all(problems[:10])
    if len(timed) > MOST:
        raise InputError(f"expected at most {MOST:,} networks, got {len(timed):,}", field=Path(path).name)
    return SpaceDevice(_named(name), space.prefix, batch, tuple(timed), Path(path).name)


def _columns(path: str) -> tuple[tuple[list[str], list[str]], float]:
    """Architectures, times as text, and the unit of the times."""
    wrong: InputError | None = None
    for name, unit in TIMES.items():
        try:
            found = columns_of(path, ("architecture", name), "networks")
        except InputError as error:
            # A file with a column of this name says what else is wrong with it; the others only that they are missing.
            wrong = error if wrong is None or not error.message.startswith("expected the columns") else wrong
        else:
            return (found["architecture"], found[name]), unit
    assert wrong is not None
    raise wrong


def _named(name: str) -> str:
    """The catalogue's name of a machine, or the name as given."""
    try:
        return find_machine(name).name
    except UnknownName:
        if not re.fullmatch(r"[a-z0-9_]{1,64}", name):
            message = f"expected a machine of the catalogue, or lower-case letters, digits and '_', got {show(name)}"
            raise InputError(message, field="on") from None
        return name


def left_out(device: SpaceDevice) -> LeftOut:
    """Predict each network of a device from the others."""
    counts, seconds = device.measured
    prior, predicted, spread = prior_of(device.of), np.zeros(len(seconds)), np.zeros(len(seconds))
    every = np.arange(len(seconds))
    folds = every if len(seconds) <= 50 else every % 50
    for fold in np.unique(folds):
        others, mine = folds != fold, folds == fold
        costs = costs_of(prior, counts[others], seconds[others])
        predicted[mine], spread[mine] = costs.time_s(counts[mine]), costs.spread(counts[mine])
    error = np.abs(predicted / seconds - 1.0)
    inside = np.abs(np.log(predicted / seconds)) < Z80 * spread
    return LeftOut(
        tuple(predicted.tolist()),
        100.0 * float(np.median(error)),
        rank_of(predicted, seconds),
        float(np.mean(inside)),
        costs_of(prior, counts, seconds).noise,
    )


def rank_of(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's correlation; equal values share their rank. 0 where all are equal."""

    def ranks(values: np.ndarray) -> np.ndarray:
        _, inverse, count = np.unique(values, return_inverse=True, return_counts=True)
        return (np.cumsum(count) - (count + 1) / 2)[inverse]

    x, y = ranks(a) - (len(a) - 1) / 2, ranks(b) - (len(b) - 1) / 2
    size = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / size if size else 0.0


def suggested(space: Space, device: SpaceDevice | None = None, n: int = 5, prior: Prior | None = None) -> list[str]:
    """Architectures that would tell most of a device beside what was measured of it.

    They are picked among 2,000 drawn of the space, by the prior of the catalogue where none is given. Raises
    :class:`InputError`: there is none for the space.
    """
    codes = space.draw(_CANDIDATES)
    known = device.measured[0] if device else np.zeros((0, len(space.features)))
    return [space.spell(codes[i].tolist()) for i in next_rows(prior or prior_of(space), known, space.counts(codes), n)]


def write_device(device: SpaceDevice, out: str = "") -> Path:
    """Write ``spaces/DEVICE-SPACE-BATCH.toml`` to a catalogue. Raises :class:`InputError` where that cannot be."""
    comments = (
        f"{len(device.timed)} measured networks of {device.of.title} on {device.name}.",
        f"Used by `steelyard estimate {device.space}:... --on {device.name}`.",
    )
    text = document({"schema": "steelyard.space_device/1", "device": [asdict(device)]}, comments)
    return write_files(folder_to_write(out), {f"spaces/{device.name}-{device.space}-{device.batch}.toml": text})[0]
