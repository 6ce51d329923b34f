"""A search of chips: as JSON (``steelyard.search/1``), CSV rows, and a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard._version import __version__
from steelyard.report.paper import bullets, columns, render, spread, styled
from steelyard.report.plain import plain
from steelyard.units import format_quantity as q

if TYPE_CHECKING:
    from steelyard.exploration.codesign import Codesign
    from steelyard.search.chip import ChipPoint, ChipSearch

__all__ = [
    "SCHEMA",
    "assumed",
    "cells",
    "differ",
    "limits_of",
    "parts",
    "point",
    "report",
    "row_of",
    "rows",
    "summary",
    "to_dict",
    "words",
    "words_of",
]

SCHEMA = "steelyard.search/1"
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
            "points": found.points,
            "feasible": found.feasible,
            "structures": found.structures,
            "front_size": found.front_size,
            "front": [point(p) for p in found.front],
            "best": {name: point(p) for name, p in found.best.items()},
            "assumptions": assumed(found),
            "provenance": {"version": __version__},
        }
    )


def rows(found: ChipSearch) -> list[dict[str, Any]]:
    """The front as rows of text and numbers."""
    return [row_of(found.space.fields, found.work.names, p) for p in found.front]


def row_of(fields: Sequence[str], workloads: Sequence[str], p: ChipPoint) -> dict[str, Any]:
    """A chip as text and numbers: what it chooses of these fields, and its figures."""
    row: dict[str, Any] = {name: p.chosen.get(name, "") for name in fields}
    for name in workloads:
        row |= {f"latency_s {name}": p.latency_s[name], f"energy_j {name}": p.energy_j[name]}
    return row | {n: getattr(p, n) for n in ("area_m2", "power_w", "silicon_usd", "carbon_kg")}


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


def differ(found: ChipSearch | Codesign, points: Sequence[ChipPoint]) -> list[str]:
    """Fields of which these chips have unlike values."""
    return [n for n in found.space.fields if len({str(p.chosen.get(n)) for p in points}) > 1]


def words(found: ChipSearch | Codesign, p: ChipPoint, names: Sequence[str]) -> str:
    """What a chip chooses of these fields."""
    fields = found.space.fields
    return ", ".join(f"{_short(n, fields)} {_shown(n, p.chosen[n]) or 'nothing'}" for n in names if n in p.chosen)


def words_of(found: ChipSearch | Codesign, p: ChipPoint) -> str:
    """A chip in words: its figures, and what it chooses."""
    shown = f"{q(sum(p.latency_s.values()), 's')}, {q(sum(p.energy_j.values()), 'J')}, {q(p.power_w, 'W')}"
    size = f", {q(p.area_m2, 'm2')}" if p.area_m2 else ""
    return f"{shown}{size}\n{words(found, p, found.space.fields)}"


def cells(found: ChipSearch | Codesign, workloads: Sequence[str], p: ChipPoint, names: Sequence[str]) -> list[str]:
    """Figures of a chip and what it chooses of these fields, as people write them."""
    times = [q(p.latency_s[n], "s") for n in workloads]
    size = q(p.area_m2, "m2") if p.area_m2 else ""
    return [*times, q(sum(p.energy_j.values()), "J"), size, q(p.power_w, "W"), words(found, p, names)]


def _made(p: ChipPoint) -> str:
    """What the silicon of a chip costs."""
    if not np.isfinite(p.silicon_usd):
        return f"the silicon of least product, {q(p.area_m2, 'm2')}, is larger than any die"
    return (
        f"making the silicon of least product: ${p.silicon_usd:.3g} and {q(p.carbon_kg * 1e3, 'g')} CO2 with a package"
    )


def assumed(found: ChipSearch) -> list[str]:
    """What was assumed."""
    served = [n for n, o in zip(found.work.names, found.work.others, strict=True) if not len(o)]
    said = [
        "the best mapping of every layer among those that are tried, fewer than in an estimate of one chip",
        "a pass of each workload; power is the mean while the one that draws most runs",
        f"energies and areas by process where {found.space.base.name} states none, as docs/methods/chips.md says",
    ]
    if min(found.space.zeros) < 1.0:
        weights, maps = found.space.zeros
        said.append(f"of weights {weights:.0%}, of maps between layers {maps:.0%} are not zero, anywhere alike")
    if served:
        said.append(f"of {', '.join(served)} products alone")
    return said


def limits_of(said: Mapping[str, Any]) -> list[str]:
    """Limits that were given, in words."""
    return [
        f"{word} {q(said[key], unit)}"
        for word, key, unit in (("area", "area_m2", "m2"), ("power", "power_w", "W"), ("latency", "latency_s", "s"))
        if np.isfinite(said[key])
    ]


def parts(found: ChipSearch) -> list[Any]:
    """The report as renderables."""
    names = found.space.fields
    limits = limits_of(found.words)
    kept = f", {found.feasible:,} within {', '.join(limits)}" if limits else ""
    times = list(found.work.names) if len(found.work.names) > 1 else ["time"]
    head = [*times, "energy", "area", "power"]
    some = spread(found.front, _SHOWN)
    of = f", {len(some)} of {found.front_size:,} shown" if len(some) < found.front_size else ""
    every = [*some, *found.best.values()]
    unlike = differ(found, every)
    same = words(found, every[0], [n for n in names if n not in unlike])
    bests = [[name, *cells(found, found.work.names, p, unlike)] for name, p in found.best.items()]
    return [
        styled("chips of ", (found.space.name, "bold"), f" for {', '.join(found.work.names)}"),
        styled(f"{found.points:,} chips{kept}; batch {found.words['batch']:,}, {found.space.precision}"),
        "",
        styled((f"front of time, energy and area{of}", "bold")),
        columns(
            [*head, "chip"], [cells(found, found.work.names, p, unlike) for p in some], numeric=head, fold=["chip"]
        ),
        "",
        columns(["least", *head, "chip"], bests, numeric=head, fold=["chip"]),
        "",
        *([styled(f"all of them: {same}"), ""] if same else []),
        *([styled(_made(found.best["product"])), ""] if found.best["product"].silicon_usd else []),
        *bullets("assumed", assumed(found)),
    ]
