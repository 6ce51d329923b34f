"""Other devices on which networks of a space were measured: what predictors of a new device learn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from steelyard.calibrate.networks import twice
from steelyard.deployment.space_device import Prior, fit_prior, relative_costs
from steelyard.documents import is_file, read_text
from steelyard.errors import InputError, Problem, raise_all, show
from steelyard.scenario.space import rows_of
from steelyard.workload.networks.search_space import LARGEST, Space

__all__ = ["KnownDevices", "read_devices"]

Codes = NDArray[np.int64]
Floats = NDArray[np.float64]
#: Devices of a table, and networks of each at least.
MOST_DEVICES, LEAST_NETWORKS = 200, 10


@dataclass(frozen=True, eq=False)
class KnownDevices:
    """Times of networks on other devices.

    Args:
        space: whose networks they are.
        codes: the networks, ``[n, places]``.
        seconds: ``[n, devices]``; NaN: not measured.
        names: of the devices.
    """

    space: Space
    codes: Codes
    seconds: Floats
    names: tuple[str, ...]

    @cached_property
    def counts(self) -> Floats:
        """Choices of the networks, ``[n, features]``."""
        return self.space.counts(self.codes)

    @cached_property
    def costs(self) -> Floats:
        """Costs of choices on each device over the time of its mean network, ``[devices, features]``."""
        found = []
        for column in self.seconds.T:
            able = np.isfinite(column)
            found.append(relative_costs(self.counts[able], column[able]))
        return np.array(found)

    @cached_property
    def prior(self) -> Prior:
        """What the devices have in common."""
        return fit_prior(self.space.prefix, self.costs, self.names, "measured tables of other devices")

    @cached_property
    def _rows(self) -> Mapping[bytes, int]:
        return {row.tobytes(): i for i, row in enumerate(np.ascontiguousarray(self.codes, dtype=np.int64))}

    def times(self, codes: Codes) -> Floats:
        """Times of any networks on every device, ``[n, devices]``: as measured, else the sum of choices."""
        rows = np.array([self._rows.get(r.tobytes(), -1) for r in np.ascontiguousarray(codes, dtype=np.int64)])
        found = self.seconds[rows]
        absent = (rows < 0)[:, None] | ~np.isfinite(found)
        if absent.any():
            usual = np.nanmedian(self.seconds / np.maximum(self.counts @ self.costs.T, 1e-30), axis=0)
            summed = np.maximum((self.space.counts(codes) @ self.costs.T) * usual, 1e-12)
            found = np.where(absent, summed, found)
        return np.asarray(found, dtype=np.float64)


def read_devices(path: str | Path, space: Space) -> KnownDevices:
    """The devices of a CSV with a column ``architecture`` and one of seconds for each device (empty: not measured).

    Raises:
        InputError: no file, no such columns, a time that is none, too few networks of a device.
    """
    name = Path(path).name
    if not is_file(path):
        raise InputError(f"no file at {show(str(path))}", field="devices")
    rows = [r for r in rows_of(read_text(path, field="devices"), name) if r]
    header = [cell.strip() for cell in rows[0]] if rows else []
    if "architecture" not in header or not 2 <= len(header) <= MOST_DEVICES + 1:
        said = f"expected a column architecture and one of seconds for each of up to {MOST_DEVICES} devices"
        raise InputError(f"{said}, got {show(', '.join(header)[:80])}", field=name)
    if len(rows) - 1 > LARGEST:
        raise InputError(f"more than {LARGEST:,} rows", field=name)
    at = header.index("architecture")
    codes = space.codes(_architecture(r, at, space) for r in rows[1:])
    others = [i for i in range(len(header)) if i != at]
    seconds = np.full((len(codes), len(others)), np.nan)
    problems: list[Problem] = []
    for n, row in enumerate(rows[1:]):
        for k, i in enumerate(others):
            text = row[i].strip() if i < len(row) else ""
            if text and len(problems) < 10:
                value = _seconds(text)
                seconds[n, k] = value
                if not np.isfinite(value):
                    problems.append(Problem(f"{name}: row {n + 2}", f"expected seconds above 0, got {show(text)}"))
    problems += [Problem(name, f"two columns {show(header[i][:60])}") for i in twice(header)]
    again = list(twice([row.tobytes() for row in codes]).items())[:10]
    problems += [Problem(f"{name}: row {i + 2}", f"is the network of row {j + 2}; give each once") for i, j in again]
    few = [header[i] for k, i in enumerate(others) if np.isfinite(seconds[:, k]).sum() < LEAST_NETWORKS]
    problems += [Problem(f"{name}: {d[:60]}", f"expected {LEAST_NETWORKS} measured networks at least") for d in few]
    raise_all(problems)
    return KnownDevices(space, codes, seconds, tuple(header[i] for i in others))


def _architecture(row: Sequence[str], at: int, space: Space) -> str:
    return (row[at] if at < len(row) else "").strip().removeprefix(f"{space.prefix}:")


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return float("nan")
    return value if 0 < value < 1e6 else float("nan")
