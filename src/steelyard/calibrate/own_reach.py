"""A user's device known by networks measured on it: three scales about a runtime's factors."""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from steelyard.calibrate.networks import scales_of
from steelyard.calibrate.toml_files import document
from steelyard.cost.net_lower import lower_net
from steelyard.cost.net_price import reach_of, scale_of, weighed
from steelyard.cost.net_terms import net_site
from steelyard.deployment.runtime import Precision, Reach, Runtime
from steelyard.documents import read_text
from steelyard.errors import InputError, show
from steelyard.machine.component import Machine
from steelyard.workload.nets import load_net

__all__ = ["MOST", "OwnFit", "TimedNetwork", "fit_own_reach", "reach_file", "read_networks"]

#: Networks of a file at most, and at least for a fit.
MOST, FEWEST = 1000, 3
_COLUMNS = ("network", "latency_s", "batch", "size")


@dataclass(frozen=True, slots=True)
class TimedNetwork:
    """A measured pass of a network."""

    network: str
    latency_s: float
    batch: float = 1.0
    size: str = ""


@dataclass(frozen=True, eq=False)
class OwnFit:
    """What a runtime reaches on a device, and the mean error of networks left out, before and after, in %."""

    reach: Reach
    networks: tuple[str, ...]
    before: float
    after: float


def read_networks(path: str | Path) -> list[TimedNetwork]:
    """Read a CSV of ``network, latency_s`` and, where they are not the usual ones, ``batch`` and ``size``.

    Raises:
        InputError: no such file, a missing column, too few or too many rows, or values that are no positive numbers.
    """
    name = Path(path).name
    lines = [line for line in read_text(path).splitlines() if line.strip() and not line.lstrip().startswith("#")]
    rows = list(csv.DictReader(lines, skipinitialspace=True))
    if not FEWEST <= len(rows) <= MOST:
        raise InputError(f"expected {FEWEST} to {MOST:,} measured networks, got {len(rows)}", field=name)
    missing = [c for c in _COLUMNS[:2] if c not in rows[0]]
    if missing:
        raise InputError(f"column {missing[0]!r} is missing; expected {', '.join(_COLUMNS)}", field=name)
    found = []
    for number, row in enumerate(rows, start=2):
        numbers: dict[str, float] = {}
        for column in ("latency_s", "batch"):
            given = (row.get(column) or ("1" if column == "batch" else "")).strip()
            try:
                value = float(given)
            except ValueError:
                value = np.nan
            if not 0 < value < 1e9:
                raise InputError(f"line {number}: {column}: expected a positive number, got {show(given)}", field=name)
            numbers[column] = value
        found.append(
            TimedNetwork(
                (row["network"] or "").strip(), numbers["latency_s"], numbers["batch"], (row.get("size") or "").strip()
            )
        )
    return found


def fit_own_reach(rows: list[TimedNetwork], machine: Machine, runtime: Runtime, precision: Precision) -> OwnFit:
    """Three scales of a device about the factors of its runtime.

    Raises:
        InputError: an unknown network, arithmetic the machine lacks, or a runtime without factors for such a machine.
    """
    base = reach_of(runtime, machine, "", precision=precision.name)
    if not base.times:
        raise InputError(f"nothing was measured of {runtime.name} on machines like {machine.name}", field="runtime")
    by = np.array([_parts(row, machine, runtime, precision, base) for row in rows])
    time = np.array([row.latency_s for row in rows])
    scale = scales_of(by, time)
    keep = ~np.eye(len(rows), dtype=np.bool_)
    alone = np.array([float(by[i] @ scales_of(by[keep[i]], time[keep[i]])) for i in range(len(rows))])
    old = scale_of(machine, base)
    a, b, c = (float(s * o) for s, o in zip(scale, old, strict=True))
    found = replace(
        base,
        machines=(machine.name,),
        measured=(machine.name,),
        precisions=(precision.name,),
        scale={machine.name: (a, b, c)},
        spread=max(1.05, float(np.exp(np.quantile(np.abs(np.log(alone / time)), 0.8)))),
        source=f"{base.source}; scaled to {len(rows)} networks measured on the device",
    )
    errors = [100 * float(np.mean(np.abs(made / time - 1.0))) for made in (by.sum(axis=1), alone)]
    return OwnFit(found, tuple(row.network for row in rows), *errors)


def _parts(row: TimedNetwork, machine: Machine, runtime: Runtime, precision: Precision, reach: Reach) -> Any:
    """Predicted seconds of arithmetic, of traffic and of the rest."""
    graph = load_net(row.network, size=row.size or None)
    site = net_site(machine, precision)
    kernels = lower_net(graph, {"batch": np.array([row.batch])}, runtime, precision)
    parts = np.array([0.0, 0.0, scale_of(machine, reach)[2] * reach.step_s])
    for share, values in weighed(kernels, site, runtime, reach):
        parts[share] += float(values.sum())
    return parts


def reach_file(fit: OwnFit, runtime: Runtime) -> str:
    """The text of the catalogue's file."""
    reach = fit.reach
    fields: dict[str, Any] = {
        "stacks": list(reach.stacks),
        "machines": list(reach.machines),
        "precisions": list(reach.precisions),
        "measured": list(reach.measured),
        "times": dict(reach.times),
        "kernel_s": reach.kernel_s,
        "host_s": reach.host_s,
        "step_s": reach.step_s,
        "scale": {name: list(s) for name, s in reach.scale.items()},
        "spread": reach.spread,
        "spread_elsewhere": max(reach.spread, reach.spread_elsewhere),
        "source": reach.source,
    }
    return document({"reach": [{"runtime": runtime.name, "reach": fields}]})
