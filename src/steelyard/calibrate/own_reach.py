"""A user's device known by networks measured on it: three scales about a runtime's factors."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from steelyard.calibrate.networks import PASS_S, scales_of, twice
from steelyard.calibrate.toml_files import document, write_files
from steelyard.cost.net_lower import lower_net
from steelyard.cost.net_price import clock_held, reach_of, scale_of, weighed
from steelyard.cost.net_terms import net_site
from steelyard.deployment.runtime import Precision, Reach, Runtime
from steelyard.documents import read_text
from steelyard.errors import InputError, Problem, raise_all, show
from steelyard.folders import folder_to_write
from steelyard.machine.component import Machine
from steelyard.units import format_quantity as q
from steelyard.workload.nets import load_net

__all__ = ["MOST", "OwnFit", "TimedNetwork", "fit_own_reach", "reach_file", "read_networks", "write_reach"]

#: Networks of a file at most, and at least for a fit.
MOST, FEWEST = 1000, 3
#: Columns of times and their unit in s.
TIMES = {"latency_s": 1.0, "seconds": 1.0, "latency_ms": 1e-3}
#: How many times what is predicted, or less, a measurement may take: more is another unit or another network.
BEYOND = 300.0
#: Time of a kernel, however small, that the scales of a runtime without factors begin with, s (guess).
KERNEL_S = 5e-6


@dataclass(frozen=True, slots=True)
class TimedNetwork:
    """A measured pass of a network."""

    network: str
    latency_s: float
    batch: float = 1.0
    size: str = ""


@dataclass(frozen=True, eq=False)
class OwnFit:
    """What a runtime reaches on a device, each network predicted from the others, and mean errors in %."""

    reach: Reach
    networks: tuple[str, ...]
    measured_s: tuple[float, ...]
    predicted_s: tuple[float, ...]
    """Each network with the scales of the others."""
    before: float
    """Mean error without any of them."""
    after: float
    """Mean error of networks left out."""


def read_networks(path: str | Path) -> list[TimedNetwork]:
    """Read a CSV of ``network, latency_s`` (or ``latency_ms``) and, where not the usual ones, ``batch`` and ``size``.

    Raises:
        InputError: no such file, a missing column, too few or too many rows, values that are no positive numbers, times
            of no pass, or a network twice.
    """
    name = Path(path).name
    lines = [line for line in read_text(path).splitlines() if line.strip() and not line.lstrip().startswith("#")]
    try:
        rows = list(csv.DictReader(lines, skipinitialspace=True))
    except csv.Error as error:
        raise InputError(f"not a CSV file: {error}", field=name) from None
    if not FEWEST <= len(rows) <= MOST:
        raise InputError(f"expected {FEWEST} to {MOST:,} measured networks, got {len(rows)}", field=name)
    time = next((c for c in TIMES if c in rows[0]), "")
    missing = [c for c, there in (("network", "network" in rows[0]), ("latency_s", time)) if not there]
    if missing:
        raise InputError(
            f"column {missing[0]!r} is missing; expected network, {' or '.join(TIMES)}, and if need be batch and size",
            field=name,
        )
    found, problems = [], []
    for number, row in enumerate(rows, start=2):
        seconds, batch = _positive(row.get(time)), _positive(row.get("batch") or "1")
        for column, value in ((time, seconds), ("batch", batch)):
            if not value:
                said = (
                    f"line {number}: {column}: expected a positive number, got {show((row.get(column) or '').strip())}"
                )
                problems.append(Problem(name, said))
        if seconds and not PASS_S[0] <= seconds * TIMES[time] <= PASS_S[1]:
            said = f"line {number}: {time}: expected a pass of 1 us to 1 h, got {q(seconds * TIMES[time], 's')}"
            problems.append(Problem(name, said))
        found.append(
            TimedNetwork((row["network"] or "").strip(), seconds * TIMES[time], batch, (row.get("size") or "").strip())
        )
    for i, first in twice([(r.network, r.batch, r.size) for r in found]).items():
        said = (
            f"line {i + 2}: {found[i].network} is in line {first + 2} already; give each network, batch and size once"
        )
        problems.append(Problem(name, said))
    raise_all(problems[:10])
    return found


def _positive(text: str | None) -> float:
    """A number above zero and finite, or 0."""
    try:
        value = float(text or "")
    except ValueError:
        return 0.0
    return value if 0 < value < 1e9 else 0.0


def fit_own_reach(rows: list[TimedNetwork], machine: Machine, runtime: Runtime, precision: Precision) -> OwnFit:
    """Three scales of a device about the factors of its runtime; where it has none, about twice the limits.

    Raises:
        InputError: an unknown network, arithmetic the machine lacks, or times that are far from any such device's.
    """
    base = reach_of(runtime, machine, "", precision=precision.name)
    if not base.times:
        base = replace(base, stacks=(machine.launch,), kernel_s=KERNEL_S, source="twice the limits of the kernels")
    by = np.array([_parts(row, machine, runtime, precision, base) for row in rows])
    time = np.array([row.latency_s for row in rows])
    raise_all(list(_far(rows, by.sum(axis=1), machine)))
    scale = scales_of(by, time)
    keep = ~np.eye(len(rows), dtype=np.bool_)
    alone = np.array([float(by[i] @ scales_of(by[keep[i]], time[keep[i]])) for i in range(len(rows))])
    a, b, c = (float(s * o) for s, o in zip(scale, scale_of(machine, base), strict=True))
    found = replace(
        base,
        machines=(machine.name,),
        measured=(machine.name,),
        precisions=(precision.name,),
        host_s=base.host_s * float(scale[2]),
        scale={machine.name: (a / clock_held(machine, base), b, c)},
        spread=max(1.05, float(np.exp(np.quantile(np.abs(np.log(alone / time)), 0.8)))),
        source=f"{base.source}; scaled to {len(rows)} networks measured on the device",
    )
    errors = [100 * float(np.mean(np.abs(made / time - 1.0))) for made in (by.sum(axis=1), alone)]
    names = tuple(row.network for row in rows)
    return OwnFit(found, names, tuple(time.tolist()), tuple(alone.tolist()), *errors)


def _far(rows: list[TimedNetwork], predicted_s: Any, machine: Machine) -> Iterator[Problem]:
    """Measurements that no device of the kind takes."""
    for row, predicted in zip(rows, predicted_s.tolist(), strict=True):
        if not 1 / BEYOND <= row.latency_s / predicted <= BEYOND:
            words = (
                f"{row.network}: {q(row.latency_s, 's')} where about {q(predicted, 's')} is predicted on {machine.name}"
            )
            yield Problem("networks", f"{words}; expected at most {BEYOND:.0f} times more or less: check the unit")


def _parts(row: TimedNetwork, machine: Machine, runtime: Runtime, precision: Precision, reach: Reach) -> Any:
    """Predicted seconds of arithmetic, of traffic and of the rest: kernels, the pass, the host beyond them."""
    try:
        graph = load_net(row.network, size=row.size or None)
    except InputError as error:
        raise InputError(f"{row.network or 'a row without a name'}: {error.message}", field="networks") from None
    site = net_site(machine, precision)
    kernels = lower_net(graph, {"batch": np.array([row.batch])}, runtime, precision, block=reach.block)
    parts = np.array([0.0, 0.0, scale_of(machine, reach)[2] * reach.step_s])
    for share, values in weighed(kernels, site, runtime, reach):
        parts[share] += float(values.sum())
    parts[2] += max(0.0, reach.host_s * len(kernels) - float(parts.sum()))
    return parts


def write_reach(fit: OwnFit, runtime: Runtime, out: str = "") -> Path:
    """Write ``reach/MACHINE-RUNTIME-PRECISION.toml`` to a catalogue. Raises :class:`InputError` where it cannot be."""
    name = "-".join((fit.reach.machines[0], runtime.name, fit.reach.precisions[0]))
    return write_files(folder_to_write(out), {f"reach/{name}.toml": reach_file(fit, runtime)})[0]


def reach_file(fit: OwnFit, runtime: Runtime) -> str:
    """The text of the catalogue's file."""
    reach = fit.reach
    comments = (
        f"{len(fit.networks)} networks measured on {reach.machines[0]} under {runtime.title}.",
        f"Used by `steelyard estimate NETWORK --on {reach.machines[0]} --runtime {runtime.name}`.",
    )
    fields: dict[str, Any] = {
        "stacks": list(reach.stacks),
        "machines": list(reach.machines),
        "precisions": list(reach.precisions),
        "measured": list(reach.measured),
        "terms": reach.terms or runtime.terms,
        "block": reach.block,
        "times": dict(reach.times),
        "kernel_s": reach.kernel_s,
        "host_s": reach.host_s,
        "step_s": reach.step_s,
        "scale": {name: list(s) for name, s in reach.scale.items()},
        "spread": reach.spread,
        "spread_elsewhere": max(reach.spread, reach.spread_elsewhere),
        "source": reach.source,
    }
    return document({"reach": [{"runtime": runtime.name, "reach": fields}]}, comments)
