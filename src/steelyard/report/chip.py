"""A search of chips: as JSON (``steelyard.search/1``), CSV rows, and a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard.report.paper import bullets, columns, figure, render, spread, styled
from steelyard.report.plain import plain
from steelyard.units import format_quantity as q

if TYPE_CHECKING:
    from steelyard.exploration.codesign import Codesign
    from steelyard.search.chip import ChipPoint, ChipSearch
    from steelyard.search.chip_mix import Mix

__all__ = [
    "SCHEMA",
    "Legend",
    "assumed",
    "assumed_of",
    "cells",
    "front_words",
    "heads",
    "kept",
    "limits_of",
    "mixed",
    "parts",
    "point",
    "priced",
    "report",
    "row_of",
    "rows",
    "summary",
    "to_dict",
    "together",
    "words",
    "words_of",
]

SCHEMA = "steelyard.search/1"
#: Figures of the years of a chip.
_SERVICE = ("service_w", "service_usd", "service_kg")
#: Chips of the front that a report shows.
_SHOWN = 12


def point(point: ChipPoint) -> dict[str, Any]:
    """A chip as JSON."""
    return {
        "chosen": dict(point.chosen),
        "latency_s": dict(point.latency_s),
        "energy_j": dict(point.energy_j),
        "area_m2": point.area_m2,
        "power_w": point.power_w,
        "utilisation": dict(point.utilisation),
        "silicon_usd": point.silicon_usd,
        "carbon_kg": point.carbon_kg,
        **({n: getattr(point, n) for n in _SERVICE} if point.service_w else {}),
    }


def to_dict(found: ChipSearch) -> dict[str, Any]:
    """The answer in the form ``steelyard.search/1``: SI units, nothing that is not finite."""
    limits = {n: found.words[n] for n in ("area_m2", "power_w", "latency_s") if np.isfinite(found.words[n])}
    return plain(  # type: ignore[no-any-return]
        {
            "schema": SCHEMA,
            "kind": "chip",
            "space": found.space.name,
            "base": found.space.base.name,
            "precision": found.space.precision,
            "fields": list(found.space.fields),
            "workloads": list(found.work.names),
            "batch": found.words["batch"],
            "context": found.words["context"],
            "limits": limits,
            **mixed(found),
            "points": found.points,
            "feasible": found.feasible,
            "structures": found.structures,
            "front_size": found.front_size,
            "front": [point(p) for p in found.front],
            "best": {name: point(p) for name, p in found.best.items()},
            "assumptions": assumed(found),
            "provenance": dict(found.provenance),
        }
    )


def mixed(found: ChipSearch | Codesign) -> dict[str, Any]:
    """How workloads become one figure, what the front is of, and the years of a chip."""
    mix, names = found.mix, found.mix.names
    told = {"passes": dict(zip(names, mix.passes.tolist(), strict=True)), "over": mix.over, "front_of": list(mix.front)}
    return {**told, "service": asdict(mix.service) if mix.service.years else None}


def rows(found: ChipSearch) -> list[dict[str, Any]]:
    """The front as rows of text and numbers."""
    return [row_of(found.space.fields, found.work.names, p) for p in found.front]


def row_of(fields: Sequence[str], workloads: Sequence[str], p: ChipPoint) -> dict[str, Any]:
    """A chip as text and numbers: what it chooses of these fields, and its figures."""
    row: dict[str, Any] = {name: p.chosen.get(name, "") for name in fields}
    for name in workloads:
        row |= {f"latency_s {name}": p.latency_s[name], f"energy_j {name}": p.energy_j[name]}
    served = _SERVICE if p.service_w else ()
    return row | {n: getattr(p, n) for n in ("area_m2", "power_w", "silicon_usd", "carbon_kg", *served)}


def summary(found: ChipSearch) -> str:
    """One line for a Python prompt."""
    words = f"{found.feasible:,} possible, {found.front_size:,} on the front"
    return f"<ChipSearch of {found.points:,} of {found.space.name}: {words}>"


def report(found: ChipSearch, width: int | None = None) -> str:
    """The whole answer as text."""
    return render(parts(found), width)


def _short(name: str, names: tuple[str, ...]) -> str:
    """The last part of a field's name, with its component where another one ends alike."""
    last = name.rpartition(".")[2]
    same = [n for n in names if n.rpartition(".")[2] == last]
    label = last if len(same) == 1 else ".".join(name.split(".")[-2:])
    return label.removesuffix("_per_s").removesuffix("_bytes").removesuffix("_hz")


_UNITS = {"_bytes": "B", "_bytes_per_s": "B/s", "_hz": "Hz"}


def _shown(name: str, value: Any) -> str:
    """A value as people write it."""
    if isinstance(value, bool | str):
        return str(value).replace("_stationary", "")
    unit = next((u for end, u in _UNITS.items() if name.endswith(end)), "")
    return q(float(value), unit) if unit else f"{value:g}"


def words(found: ChipSearch | Codesign, p: ChipPoint, names: Sequence[str]) -> str:
    """What a chip chooses of these fields."""
    fields = found.space.fields
    return ", ".join(f"{_short(n, fields)} {_shown(n, p.chosen[n]) or 'nothing'}" for n in names if n in p.chosen)


def together(found: ChipSearch | Codesign, p: ChipPoint) -> tuple[float, float]:
    """Time and energy of a mix of the workloads on a chip, s and J."""
    passes = dict(zip(found.mix.names, found.mix.passes.tolist(), strict=True))
    return sum(n * p.latency_s[w] for w, n in passes.items()), sum(n * p.energy_j[w] for w, n in passes.items())


def words_of(found: ChipSearch | Codesign, p: ChipPoint) -> str:
    """A chip in words: its figures, and what it chooses."""
    time, joule = together(found, p)
    shown = f"{q(time, 's')}, {q(joule, 'J')}, {q(p.power_w, 'W')}"
    size = f", {q(p.area_m2, 'm2')}" if p.area_m2 else ""
    return f"{shown}{size}\n{words(found, p, found.space.fields)}"


#: Columns of a table that are left for times of workloads; of one that has networks, too; of a figure with its gap.
_ROOM, _ROOM_BESIDE, _FIGURE = 39, 20, 9


def heads(found: ChipSearch | Codesign, wide: bool = False) -> list[str]:
    """What :func:`cells` are: a time of each workload where there is room (``wide``: always), else that of the mix."""
    paid, green = _spent(found.mix)
    times = list(found.mix.names) if _apart(found, wide) else ["time"]
    return [*times, "energy", "area", "power", *(["money"] if paid else []), *(["CO2"] if green else [])]


def _spent(mix: Mix) -> tuple[bool, bool]:
    """Whether money and CO2 are told of each chip."""
    paid = bool(mix.service.years) or bool({"usd", "carbon"} & set(mix.front))
    return paid, paid and (not mix.service.years or mix.service.g_per_kwh is not None)


def _apart(found: ChipSearch | Codesign, wide: bool = False) -> bool:
    """Whether there is room for the time of every workload."""
    room = (_ROOM_BESIDE if hasattr(found, "networks") else _ROOM) - _FIGURE * sum(_spent(found.mix))
    return len(found.mix.names) > 1 and (wide or sum(max(len(n) + 2, _FIGURE) for n in found.mix.names) <= room)


def cells(found: ChipSearch | Codesign, p: ChipPoint, wide: bool = False) -> list[str]:
    """Figures of a chip as people write them."""
    time, joule = together(found, p)
    shown = [q(p.latency_s[n], "s") for n in found.mix.names] if _apart(found, wide) else [q(time, "s")]
    shown += [q(joule, "J"), q(p.area_m2, "m2") if p.area_m2 else "", q(p.power_w, "W")]
    paid, green = _spent(found.mix)
    shown += [f"${figure(p.service_usd or p.silicon_usd)}"] if paid else []
    return [*shown, *([q((p.service_kg or p.carbon_kg) * 1e3, "g")] if green else [])]


class Legend:
    """Chips by a number each, fields of which they are ``unlike``, and what each chooses of them."""

    def __init__(self, found: ChipSearch | Codesign, points: Sequence[ChipPoint]) -> None:
        self.found, self.chips = found, {p.codes: p for p in points}
        fields = found.space.fields
        self.unlike = [n for n in fields if len({str(p.chosen.get(n)) for p in points}) > 1]
        self.same = words(found, points[0], [n for n in fields if n not in self.unlike])
        self.numbers = {codes: i for i, codes in enumerate(self.chips, 1)}

    def _told(self, p: ChipPoint) -> str:
        """What a chip chooses; its times where they are no columns, of networks beside a space of networks."""
        mix, said = self.found.mix, words(self.found, p, self.unlike)
        if len(mix.names) == 1 or _apart(self.found) or hasattr(self.found, "networks"):
            return said
        times = ", ".join(f"{n} {q(p.latency_s[n], 's')}" for n in mix.names)
        return f"{said}: {times}" if said else times

    def number(self, p: ChipPoint) -> str:
        """Of a chip."""
        return str(self.numbers[p.codes])

    def lines(self) -> list[Any]:
        """The legend as renderables."""
        each = [f"{i}. {text}" for i, p in enumerate(self.chips.values(), 1) if (text := self._told(p))]
        return [*bullets("chips", each), *([styled(f"all chips: {self.same}"), ""] if self.same else [])]


def _made(p: ChipPoint) -> str:
    """What the silicon of a chip costs."""
    if not np.isfinite(p.silicon_usd):
        return f"the silicon of least product, {q(p.area_m2, 'm2')}, is larger than any die"
    return (
        f"making the silicon of least product: ${p.silicon_usd:.3g} and {q(p.carbon_kg * 1e3, 'g')} CO2 with a package"
    )


#: Figures of a front, in words.
_NAMES = {"latency": "time", "usd": "money", "carbon": "CO2"}


def front_words(found: ChipSearch | Codesign, *first: str) -> str:
    """What the front is of, in words."""
    names = [*first, *(_NAMES.get(n, n) for n in found.mix.front)]
    return f"front of {', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else f"least {names[0]}"


def assumed_of(found: ChipSearch | Codesign) -> list[str]:
    """What a mix and years in service mean."""
    mix, said = found.mix, []
    if mix.over != "mix":
        several = "the largest multiple" if mix.over == "worst" else f"the {mix.over} over workloads of the multiples"
        said.append(f"time and energy of the front: {several} of the least that any chip needs for a workload")
    if mix.service.years:
        s = mix.service
        passes = ", ".join(f"{n:g} {name}" for n, name in zip(mix.passes, mix.names, strict=True))
        said.append(f"{s.years:g} years of {s.rate_per_s:g} mixes a second, each {passes}; static power all the time")
        price = f"{s.usd_per_kwh:g} USD" + ("" if s.g_per_kwh is None else f" and {s.g_per_kwh:g} g CO2")
        said.append(f"a kWh has {price}; money and carbon are of making the silicon and of its electricity")
    elif {"usd", "carbon"} & set(mix.front):
        said.append("money and carbon are of making the silicon with a package")
    return said


def priced(found: ChipSearch | Codesign) -> list[str]:
    """How chips are priced."""
    said = [
        "the best mapping of every layer among those that are tried, fewer than in an estimate of one chip",
        "a pass of each workload; power is the mean while the one that draws most runs",
        f"energies and areas by process where {found.space.base.name} states none, as docs/methods/chips.md says",
    ]
    if min(found.space.zeros) < 1.0:
        weights, maps = found.space.zeros
        said.append(f"of weights {weights:.0%}, of maps between layers {maps:.0%} are not zero, anywhere alike")
    return said


def assumed(found: ChipSearch) -> list[str]:
    """What was assumed."""
    said = priced(found)
    served = [n for n, o in zip(found.work.names, found.work.others, strict=True) if not len(o)]
    if served:
        said.append(f"of {', '.join(served)} products alone")
    return [*said, *assumed_of(found)]


def limits_of(said: Mapping[str, Any]) -> list[str]:
    """Limits that were given, in words."""
    return [
        f"{word} {q(said[key], unit)}"
        for word, key, unit in (("area", "area_m2", "m2"), ("power", "power_w", "W"), ("latency", "latency_s", "s"))
        if np.isfinite(said[key])
    ]


def kept(found: ChipSearch | Codesign) -> str:
    """How many keep which limits, as words after how many there are; empty: there are no limits."""
    limits = limits_of(found.words)
    return f", {found.feasible:,} within {', '.join(limits)}" if limits else ""


def parts(found: ChipSearch) -> list[Any]:
    """The report as renderables."""
    head = heads(found)
    some = spread(found.front, _SHOWN)
    of = f", {len(some)} of {found.front_size:,} shown" if len(some) < found.front_size else ""
    legend = Legend(found, [*some, *found.best.values()])
    numeric = ["chip", *head]
    rows = [[legend.number(p), *cells(found, p)] for p in some]
    bests = [[name, legend.number(p), *cells(found, p)] for name, p in found.best.items()]
    return [
        styled("chips of ", (found.space.name, "bold"), f" for {', '.join(found.work.names)}"),
        styled(f"{found.points:,} chips{kept(found)}; batch {found.words['batch']:,}, {found.space.precision}"),
        "",
        styled((f"{front_words(found)}{of}", "bold")),
        columns(numeric, rows, numeric=numeric),
        "",
        columns(["least", *numeric], bests, numeric=numeric),
        "",
        *legend.lines(),
        *([styled(_made(found.best["product"])), ""] if found.best["product"].silicon_usd else []),
        *bullets("assumed", assumed(found)),
    ]
