"""What silicon costs and emits before it runs: dies of a wafer, their yield, packages of several, by process.

::

    dies     = pi d^2 / 4 A  -  pi d / sqrt(2 A)                 of a wafer of diameter d
    yield    = (1 + A D / c)^-c                                   defects D in clusters c: negative binomial
    die      = wafer / (dies yield)
    carbon   = A (grid fab_energy + gases + materials) / yield    and 150 g a package
    service  = making + years x 8766 h x power x PUE x (price or carbon of a kWh)
    package  = dies / bonds,  bonds = bond_yield^dies             known good dies; what does not bond is lost whole

Sources: D. Patterson and J. Hennessy, Computer architecture: a quantitative approach, 1.6 (dies of a wafer);
J. Cunningham, IEEE TSM 3(2), 1990 (yield); figures of a process: ``catalogue/energy/dies.toml``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from steelyard.documents import build_file
from steelyard.errors import InputError, Problem, raise_all
from steelyard.units import HOURS_PER_YEAR

__all__ = ["Made", "Service", "die_yield", "dies_per_wafer", "in_service", "silicon"]

#: Diameter of a wafer, m.
WAFER_M = 0.3


@dataclass(frozen=True, slots=True)
class _Row:
    __pydantic_config__ = {"extra": "forbid"}

    nm: tuple[float, ...]
    values: tuple[float, ...]

    def at(self, nm: Any) -> Any:
        """A power of the feature size between the points, the nearest beyond them; arrays."""
        order = np.argsort(self.nm)
        points = np.log(np.array(self.nm)[order]), np.log(np.array(self.values)[order])
        return np.exp(np.interp(np.log(np.maximum(np.asarray(nm, dtype=np.float64), 1e-3)), *points))


@dataclass(frozen=True, slots=True)
class _Figures:
    __pydantic_config__ = {"extra": "forbid"}

    clusters: float
    materials_kg_per_m2: float
    grid_kg_per_kwh: float
    package_kg: float
    wafer_usd: _Row
    defects_per_m2: _Row
    fab_kwh_per_m2: _Row
    gases_kg_per_m2: _Row


@dataclass(frozen=True, slots=True)
class _File:
    __pydantic_config__ = {"extra": "forbid"}

    made: _Figures


@cache
def _figures() -> _Figures:
    return build_file(_File, Path(__file__).parent.parent / "catalogue" / "energy" / "dies.toml").made


@dataclass(frozen=True, slots=True)
class Made:
    """A package of equal dies as it leaves the fab; arrays over areas and processes."""

    dies_per_wafer: Any
    die_yield: Any
    die_usd: Any
    """Of a good die."""
    usd: Any
    """Of all dies of a package, those lost in bonding paid by the others; no substrate, test or margin."""
    carbon_kg: Any
    """CO2 of the same, with the package."""


def dies_per_wafer(area_m2: Any, wafer_m: float = WAFER_M) -> Any:
    """Whole dies of a wafer; 0: none fits."""
    area = np.asarray(area_m2, dtype=np.float64)
    return np.maximum(0.0, np.pi * wafer_m**2 / (4.0 * area) - np.pi * wafer_m / np.sqrt(2.0 * area))


def die_yield(area_m2: Any, defects_per_m2: Any, clusters: float) -> Any:
    """Share of dies without a defect."""
    return (1.0 + np.asarray(area_m2, dtype=np.float64) * defects_per_m2 / clusters) ** -clusters


def silicon(area_m2: Any, nm: Any, dies: Any = 1.0, bond_yield: float = 0.99, **other: float) -> Made:
    """Cost and carbon of a package.

    Args:
        area_m2: silicon of the package, m2, in ``dies`` equal ones; may be an array.
        nm: feature size; may be an array.
        dies: of a package.
        bond_yield: share of dies that survive being bonded to others; a single die is not bonded.
        other: ``wafer_usd``, ``defects_per_m2``, ``grid_kg_per_kwh`` in place of the tables'.

    Raises:
        InputError: a figure is none, or no die of this area fits a wafer.
    """
    known: Mapping[str, Any] = {
        "wafer_usd": _figures().wafer_usd.at(nm),
        "defects_per_m2": _figures().defects_per_m2.at(nm),
        "grid_kg_per_kwh": _figures().grid_kg_per_kwh,
    }
    problems = [Problem(n, f"unknown figure of a die; known: {', '.join(known)}") for n in other if n not in known]
    given = {"area_m2": area_m2, "nm": nm, "dies": dies, **other}
    problems += [Problem(n, "expected a number above 0") for n, v in given.items() if not np.all(np.asarray(v) > 0)]
    if not 0 < bond_yield <= 1:
        problems.append(Problem("bond_yield", f"expected a share above 0 and at most 1, got {bond_yield:g}"))
    raise_all(problems)
    figures = {**known, **other}
    each = np.asarray(area_m2, dtype=np.float64) / dies
    count = dies_per_wafer(each)
    if not np.all(count >= 1):
        raise InputError(f"no die of {np.max(each) * 1e6:.4g} mm2 fits a wafer of {WAFER_M:g} m", field="area_m2")
    good = die_yield(each, figures["defects_per_m2"], _figures().clusters)
    die_usd = figures["wafer_usd"] / (count * good)
    bonded = np.where(np.asarray(dies) > 1, bond_yield ** np.asarray(dies, dtype=np.float64), 1.0)
    per_m2 = figures["grid_kg_per_kwh"] * _figures().fab_kwh_per_m2.at(nm) + _figures().gases_kg_per_m2.at(nm)
    carbon = each * (per_m2 + _figures().materials_kg_per_m2) / good
    return Made(count, good, die_usd, die_usd * dies / bonded, carbon * dies / bonded + _figures().package_kg)


@dataclass(frozen=True, slots=True)
class Service:
    """A package over its years; arrays as what was given."""

    kwh: Any
    usd: Any
    carbon_kg: Any
    made_carbon_share: Any
    """Of the carbon, what making it emitted."""


def in_service(
    made: Made, power_w: Any, years: float, *, usd_per_kwh: float, kg_per_kwh: float, pue: float = 1.0
) -> Service:
    """Money and carbon of silicon that draws a mean power over years.

    Args:
        made: the package.
        power_w: mean power, idle hours included; may be an array.
        years: in service.
        usd_per_kwh, kg_per_kwh: of the electricity it runs on.
        pue: power of the site over that of its machines.

    Raises:
        InputError: a figure is below 0, or the PUE below 1.
    """
    given = {"power_w": power_w, "years": years, "usd_per_kwh": usd_per_kwh, "kg_per_kwh": kg_per_kwh}
    problems = [
        Problem(n, "expected a number of at least 0") for n, v in given.items() if not np.all(np.asarray(v) >= 0)
    ]
    if not pue >= 1:
        problems.append(Problem("pue", f"expected at least 1, got {pue:g}"))
    raise_all(problems)
    kwh = np.asarray(power_w, dtype=np.float64) / 1e3 * years * HOURS_PER_YEAR * pue
    carbon = made.carbon_kg + kwh * kg_per_kwh
    return Service(kwh, made.usd + kwh * usd_per_kwh, carbon, made.carbon_kg / carbon)
