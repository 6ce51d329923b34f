"""Search of chips: every point of a space priced on workloads, limits, and the front of time, energy and area."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steelyard._display import Result
from steelyard.cost.energy import static_power_w
from steelyard.deployment.runtime import precision_named
from steelyard.errors import InputError, Problem, check_whole, complete
from steelyard.pareto import evenly, front_of
from steelyard.provenance import provenance_of
from steelyard.scenario.words import Problems
from steelyard.search.chip_mix import Mix, Service, mix_of
from steelyard.search.chip_price import Chips, price_chips
from steelyard.search.chip_space import ChipSpace, read_space
from steelyard.search.chip_work import Work, read_work
from steelyard.search.missed import missed, nearest_of
from steelyard.units import parse_quantity

__all__ = [
    "ChipPoint",
    "ChipSearch",
    "chip_point",
    "files_of",
    "inputs_of",
    "limited",
    "mean_power_w",
    "read_asked",
    "search_chip",
]

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
    service_w: float
    """Mean power in service; 0: no years were asked for."""
    service_usd: float
    """Making it, and the electricity of its years."""
    service_kg: float | None
    """CO2 of the same; None: the electricity's is not known."""
    codes: tuple[int, ...]
    """Places of the values chosen; the space makes a machine of them."""


@dataclass(frozen=True, eq=False, repr=False)
class ChipSearch(Result):
    """The answer: the front, fastest first."""

    space: ChipSpace
    work: Work
    mix: Mix
    words: Mapping[str, Any]
    points: int
    feasible: int
    structures: int
    nests: int
    front: tuple[ChipPoint, ...]
    front_size: int
    best: Mapping[str, ChipPoint]
    """Least ``latency``, ``energy``, ``product`` of both, ``area``, and what else the front is of.

    Of several workloads ``worst`` besides: the chip whose worst workload needs the smallest multiple of the product
    that any chip reaches for it.
    """
    provenance: Mapping[str, Any]


@complete
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
    **words: Any,
) -> ChipSearch:
    """Price every chip of a space on workloads and find the front of time, energy and area, or of what is named.

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
        words: ``passes`` of each workload in the mix, ``resnet50:10,bert-base:1``, one where nothing is said;
            ``over``, how workloads become one figure: their ``mix``, the ``worst`` multiple of the least time or
            energy that any chip has for them, or a quantile of these multiples, ``p90``; ``front``, the figures that
            it is of: ``latency``, ``energy``, ``area``, ``power``, ``usd``, ``carbon``; ``years`` in service (0:
            money and carbon are those of making a chip), ``rate`` of mixes a second (slower chips are left out),
            ``power_price`` in USD of a kWh, ``carbon`` in g CO2 of a kWh.

    Raises:
        InputError: space, workloads or limits are wrong.
        DoesNotFit: no chip keeps the limits.
    """
    problems = Problems()
    names, limits = read_asked(
        workloads, {"area_m2": area_m2, "power_w": power_w, "latency_s": latency_s}, (batch, context), problems
    )
    found = space if isinstance(space, ChipSpace) else problems.read(read_space, space)
    mix = problems.read(mix_of, [name.strip() for name in names if name.strip()], words)
    problems.done()
    assert found is not None and mix is not None
    works = {name: read_work(names, precision_named(name), batch, context) for name in found.formats}
    chips = price_chips(found, works, limits["area_m2"], jobs, state, watch)
    return _answer(chips, works[found.formats[0]], mix, {**limits, "batch": batch, "context": context})


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
        problems.read(check_whole, count, name, 1, 1_000_000)
    return names, found


def inputs_of(space: ChipSpace, names: Sequence[str], mix: Mix, words: Mapping[str, Any]) -> dict[str, Any]:
    """The words of a question about chips, as its record has them."""
    limits = {n: v for n, v in words.items() if not isinstance(v, float) or np.isfinite(v)}
    return {"space": space.name, "base": space.base.name, "workloads": list(names), **limits, **mix.inputs}


def files_of(space: ChipSpace) -> dict[str, Any]:
    """What was read of the files of a space."""
    return {"machine": str(space.base), "fields": space.fields, "values": str(space.values), "needs": str(space.needs)}


def _answer(chips: Chips, work: Work, mix: Mix, words: Mapping[str, Any]) -> ChipSearch:
    space, time, joule = chips.space, chips.time_s, chips.energy_j
    limits = limited(time, joule, words, mix)
    kept = np.ones(len(time), dtype=np.bool_)
    for values, most, _ in limits.values():
        kept &= values <= most
    good = np.flatnonzero(kept)
    if not len(good):
        small = " that are small enough" if len(time) < len(space) else ""
        raise missed(f"chip of {len(time):,}{small}", nearest_of(limits))
    drawn = mix.service.power_w(static_power_w(space.base), mix.sums(time), mix.sums(joule))
    usd, kg = mix.service.costs(chips.area_m2[good], chips.nm[good], drawn[good], chips.dies[good])
    latency, energy = mix.one(time, good)[good], mix.one(joule, good)[good]
    measures: dict[str, Floats] = {
        "latency": latency,
        "energy": energy,
        "product": latency * energy,
        "area": chips.area_m2[good],
        "power": mean_power_w(time, joule)[good],
        "usd": usd,
        "carbon": kg,
    }
    if np.isnan(usd).any() and {"usd", "carbon"} & set(mix.front):
        said = "money and carbon need process_nm and an area of every chip in the base machine"
        raise InputError(f"{said} {space.base.name}", field="front")
    front = good[front_of(np.column_stack([measures[name] for name in mix.front]))]
    if len(work.names) > 1:
        product = (time * joule)[good]
        measures["worst"] = (product / product.min(axis=0)).max(axis=1)
    busy = (work.counts @ work.macs) / chips.macs_per_s[:, None] / time

    def point(i: int) -> ChipPoint:
        return chip_point(chips, work.names, i, time[i], joule[i], busy[i], mix)

    shown = evenly(front, SHOWN)
    told = dict.fromkeys(
        ("latency", "energy", "product", "area", *mix.front, *(["worst"] if "worst" in measures else []))
    )
    return ChipSearch(
        space=space,
        work=work,
        mix=mix,
        words=words,
        points=len(space),
        feasible=len(good),
        structures=chips.structures,
        nests=chips.nests,
        front=tuple(point(int(i)) for i in shown),
        front_size=len(front),
        best={n: point(int(good[_least(measures[n], usd)])) for n in told},
        provenance=provenance_of(inputs_of(space, work.names, mix, words), **files_of(space)),
    )


def mean_power_w(time: Floats, joule: Floats) -> Floats:
    """The most that a workload draws in the mean, ``[chips]`` of ``[chips, workloads]``."""
    return np.asarray((joule / time).max(axis=1), dtype=np.float64)


def limited(time: Floats, joule: Floats, limits: Mapping[str, float], mix: Mix) -> dict[str, tuple[Floats, float, str]]:
    """What is limited of chips, by words: figures, the limit, the unit; what has no limit is left out."""
    rate = mix.service.rate_per_s
    found = {
        "power": (mean_power_w(time, joule), limits["power_w"], "W"),
        "latency": (time.max(axis=1), limits["latency_s"], "s"),
        "a mix": (mix.sums(time), 1.0 / rate if rate else np.inf, "s"),
    }
    return {name: one for name, one in found.items() if np.isfinite(one[1])}


def _least(figure: Floats, usd: Floats) -> int:
    """Place of the least figure; of equal ones the cheapest."""
    ties = np.flatnonzero(figure == figure.min())
    return int(ties[np.argmin(np.nan_to_num(usd[ties], nan=0.0))])


def chip_point(
    chips: Chips, names: Sequence[str], i: int, time: Floats, joule: Floats, busy: Floats, mix: Mix
) -> ChipPoint:
    """A chip as it is told.

    Args:
        chips: what they cost.
        names: workloads.
        i: which chip.
        time: of a pass of each workload, s.
        joule: energy of it, J.
        busy: share of the array's products that are of use.
        mix: of its workloads, with its service.
    """

    def by(values: Floats) -> dict[str, float]:
        return {n: float(v) for n, v in zip(names, values, strict=True)}

    codes, area, nm, dies = chips.codes[i], float(chips.area_m2[i]), float(chips.nm[i]), float(chips.dies[i])
    drawn = float(mix.service.power_w(static_power_w(chips.space.base), time @ mix.passes, joule @ mix.passes))
    spent, made = (np.nan_to_num(s.costs(area, nm, drawn, dies), posinf=np.inf) for s in (mix.service, Service()))
    power, places = float((joule / time).max()), tuple(int(c) for c in codes)
    told = mix.service.years > 0
    return ChipPoint(
        chosen=chips.space.chosen(codes),
        latency_s=by(time),
        energy_j=by(joule),
        area_m2=area,
        power_w=power,
        utilisation=by(busy),
        silicon_usd=float(made[0]),
        carbon_kg=float(made[1]),
        service_w=drawn if told else 0.0,
        service_usd=float(spent[0]) if told else 0.0,
        service_kg=float(spent[1]) if told and mix.service.g_per_kwh is not None else None,
        codes=places,
    )
