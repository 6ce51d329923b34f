"""Search of chips: every point of a space priced on workloads, limits, and the front of time, energy and area."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steelyard._display import Result
from steelyard.deployment.runtime import precision_named
from steelyard.errors import DoesNotFit, Problem, show
from steelyard.machine.die import dies_per_wafer, silicon
from steelyard.pareto import front_of
from steelyard.scenario.words import Problems
from steelyard.search.chip_price import Chips, price_chips
from steelyard.search.chip_space import ChipSpace, read_space
from steelyard.search.chip_work import Work, read_work
from steelyard.units import parse_quantity

__all__ = ["ChipPoint", "ChipSearch", "chip_point", "read_asked", "search_chip"]

Floats = NDArray[np.float64]
_LIMITS: Mapping[str, str] = {"area_m2": "m2", "power_w": "W", "latency_s": "s"}
#: Points of the front that an answer holds.
SHOWN = 200


@dataclass(frozen=True, slots=True)
class ChipPoint:
    """One chip: times in s and energies in J of a pass of each workload."""

    chosen: Mapping[str, Any]
    latency_s: Mapping[str, float]
    energy_j: Mapping[str, float]
    area_m2: float
    power_w: float
    """The most that a workload draws in the mean."""
    utilisation: Mapping[str, float]
    silicon_usd: float
    """What a good die of this area costs to make; 0: no area or process is known; infinite: larger than any."""
    carbon_kg: float
    """CO2 of making it, with a package."""
    codes: tuple[int, ...]
    """Places of the values chosen; the space makes a machine of them."""


@dataclass(frozen=True, eq=False, repr=False)
class ChipSearch(Result):
    """The answer: the front, fastest first."""

    space: ChipSpace
    work: Work
    words: Mapping[str, Any]
    points: int
    feasible: int
    structures: int
    nests: int
    front: tuple[ChipPoint, ...]
    front_size: int
    best: Mapping[str, ChipPoint]
    """Least ``latency``, ``energy``, ``product`` of both, and ``area``.

    Of several workloads ``worst`` besides: the chip whose worst workload needs the smallest multiple of the product
    that any chip reaches for it.
    """


def search_chip(
    space: str | Path | ChipSpace,
    workloads: str | Sequence[str],
    *,
    area_m2: float | str = np.inf,
    power_w: float | str = np.inf,
    latency_s: float | str = np.inf,
    batch: int = 1,
    context: int = 512,
    jobs: int = 2,
    state: str | Path = "",
    watch: Callable[[int, int], None] | None = None,
) -> ChipSearch:
    """Price every chip of a space on workloads and find the front of time, energy and area.

    Args:
        space: the file of a space, or what was read of one.
        workloads: networks, and models that are served with what they do (``llama-3.2-1b:decode``).
        area_m2: most silicon, arrays and memories on chip, m2; this and the next also as text, ``25mm2``.
        power_w: most mean power while a workload runs, W.
        latency_s: most time of a pass of every workload, s.
        batch: items of a pass.
        context: tokens of a prompt, or in the cache of a decode.
        jobs: threads.
        state: folder that keeps what is priced; a search that was stopped goes on from there.
        watch: called with structures priced and all.

    Raises:
        InputError: space, workloads or limits are wrong.
        DoesNotFit: no chip keeps the limits.
    """
    problems = Problems()
    names, limits = read_asked(
        workloads, {"area_m2": area_m2, "power_w": power_w, "latency_s": latency_s}, (batch, context), problems
    )
    found = space if isinstance(space, ChipSpace) else problems.read(read_space, space)
    problems.done()
    assert found is not None
    works = {name: read_work(names, precision_named(name), batch, context) for name in found.formats}
    return _search(found, works, **limits, jobs=jobs, state=state, watch=watch, batch=batch, context=context)


def read_asked(
    workloads: str | Sequence[str], limits: Mapping[str, Any], counts: tuple[int, int], problems: Problems
) -> tuple[list[str], dict[str, float]]:
    """Workloads by name, and limits in SI units.

    Args:
        workloads: a list, or separated by commas.
        limits: ``area_m2``, ``power_w``, ``latency_s``: numbers, or text such as ``25mm2``.
        counts: items of a pass and tokens.
        problems: those that are no quantity above 0, or no number of items or tokens.
    """
    names = workloads.split(",") if isinstance(workloads, str) else [str(name) for name in workloads]
    found: dict[str, float] = {}
    for name, value in limits.items():
        limit = problems.read(parse_quantity, value, _LIMITS[name], name)
        if limit is not None and not limit > 0:
            problems.add([Problem(name, f"expected a limit above 0, got {limit:g}")])
        found[name] = np.inf if limit is None else limit
    for name, count in zip(("batch", "context"), counts, strict=True):
        if not isinstance(count, int) or not 1 <= count <= 1_000_000:
            problems.add([Problem(name, f"expected 1 to 1,000,000, got {show(str(count))}")])
    return names, found


def _search(
    space: ChipSpace,
    works: Mapping[str, Work],
    area_m2: float,
    power_w: float,
    latency_s: float,
    jobs: int,
    state: str | Path,
    watch: Callable[[int, int], None] | None,
    batch: int,
    context: int,
) -> ChipSearch:
    chips = price_chips(space, works, area_m2, jobs, state, watch)
    work, total, time, joule, area = works[space.formats[0]], len(space), chips.time_s, chips.energy_j, chips.area_m2
    power = (joule / time).max(axis=1)
    good = np.nonzero((power <= power_w) & (time.max(axis=1) <= latency_s))[0]
    if not len(good):
        least = f"{power.min():.3g} W and {time.max(axis=1).min() * 1e3:.3g} ms at least, not of one chip"
        raise DoesNotFit(f"no chip of {total:,} keeps the limits: {least}")
    sums = np.column_stack([time.sum(axis=1), joule.sum(axis=1), area])[good]
    kept = good[front_of(sums)]
    macs = work.counts @ work.macs
    busy = macs / chips.macs_per_s[:, None] / time

    def point(i: int) -> ChipPoint:
        return chip_point(chips, work.names, i, time[i], joule[i], busy[i])

    shown = kept[np.unique(np.rint(np.linspace(0, len(kept) - 1, min(SHOWN, len(kept)))).astype(int))]
    measures = {"latency": sums[:, 0], "energy": sums[:, 1], "product": sums[:, 0] * sums[:, 1], "area": sums[:, 2]}
    if len(work.names) > 1:
        product = (time * joule)[good]
        measures["worst"] = (product / product.min(axis=0)).max(axis=1)
    words = {"area_m2": area_m2, "power_w": power_w, "latency_s": latency_s, "batch": batch, "context": context}
    return ChipSearch(
        space=space,
        work=work,
        words=words,
        points=total,
        feasible=len(good),
        structures=chips.structures,
        nests=chips.nests,
        front=tuple(point(int(i)) for i in shown),
        front_size=len(kept),
        best={n: point(int(good[int(np.argmin(v))])) for n, v in measures.items()},
    )


def chip_point(chips: Chips, names: Sequence[str], i: int, time: Floats, joule: Floats, busy: Floats) -> ChipPoint:
    """A chip as it is told.

    Args:
        chips: what they cost.
        names: workloads.
        i: which chip.
        time: of a pass of each workload, s.
        joule: energy of it, J.
        busy: share of the array's products that are of use.
    """

    def by(values: Floats) -> dict[str, float]:
        return {n: float(v) for n, v in zip(names, values, strict=True)}

    codes, area, nm = chips.codes[i], float(chips.area_m2[i]), float(chips.nm[i])
    usd = carbon = 0.0 if not area or not nm else np.inf
    if area and nm and dies_per_wafer(area) >= 1:
        made = silicon(area, nm)
        usd, carbon = float(made.usd), float(made.carbon_kg)
    power, places = float((joule / time).max()), tuple(int(c) for c in codes)
    chosen = chips.space.chosen(codes)
    return ChipPoint(chosen, by(time), by(joule), area, power, by(busy), usd, carbon, codes=places)
