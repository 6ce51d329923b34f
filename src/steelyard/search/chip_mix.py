"""How several workloads of a chip become one figure, and what the chip costs and emits in its years of service.

::

    mix          T = sum of passes x time,  E = sum of passes x energy
    worst, p90   largest, or a quantile by passes, of  time / least time of any chip,  and of energies alike
    power        static + rate x (E - static x T)        of so many mixes a second, where rate x T <= 1
    service      making + years x 8766 h x power x (price or carbon of a kWh)
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steelyard.errors import InputError, Problem, UnknownName, raise_all, show
from steelyard.machine.die import dies_per_wafer, in_service, silicon
from steelyard.scenario.fields import fields_of
from steelyard.scenario.words import Problems, foreign
from steelyard.units import parse_quantity

__all__ = ["FIGURES", "WORDS", "Mix", "Service", "mix_of", "read_mix"]

Floats = NDArray[np.float64]
#: What the front may be of.
FIGURES = ("latency", "energy", "area", "power", "usd", "carbon")
#: What it is of where nothing is said.
USUAL = ("latency", "energy", "area")
#: USD of a kWh where nothing is said, as of plans.
USD_PER_KWH: float = fields_of("plan")["power_price"].default


@dataclass(frozen=True, slots=True)
class Service:
    """The years of a chip. ``years`` 0: what making it costs alone."""

    years: float = 0.0
    rate_per_s: float = 0.0
    """Mixes a second."""
    usd_per_kwh: float = USD_PER_KWH
    g_per_kwh: float | None = None
    """Carbon intensity of the electricity; None: not known."""

    def power_w(self, static_w: float, time_s: Any, energy_j: Any) -> Any:
        """Mean power in service, W: of mixes of ``time_s`` and ``energy_j``, static power included."""
        return static_w + self.rate_per_s * (energy_j - static_w * np.asarray(time_s))

    def costs(self, area_m2: Any, nm: Any, power_w: Any, dies: Any = 1.0) -> tuple[Floats, Floats]:
        """Money in USD and carbon in kg of making, in so many equal dies, and years; infinite where no die of that area
        fits a wafer, NaN where nothing is known of the area or the process."""
        given = np.broadcast_arrays(area_m2, nm, power_w, dies)
        area, nm, power, dies = (np.asarray(x, dtype=np.float64) for x in given)
        usd, kg = np.full(area.shape, np.nan), np.full(area.shape, np.nan)
        known = (area > 0) & (nm > 0)
        usd[known] = kg[known] = np.inf
        able = known & (dies_per_wafer(np.where(known, area / dies, 1.0)) >= 1)
        if able.any():
            made = silicon(area[able], nm[able], dies[able])
            told = {"usd_per_kwh": self.usd_per_kwh, "kg_per_kwh": (self.g_per_kwh or 0.0) / 1e3}
            spent = in_service(made, power[able], self.years, **told)
            usd[able], kg[able] = spent.usd, spent.carbon_kg
        return usd, kg


def read_service(
    years: float | str, rate: float | str, power_price: float | str, carbon: float | str | None
) -> Service:
    """A chip's years as they are given.

    Args:
        years: in service; 0: none.
        rate: mixes of the workloads a second, ``20/s``; where years are given.
        power_price: USD of a kWh.
        carbon: g CO2 of a kWh; None: not known.

    Raises:
        InputError: a number is wrong, or years without a rate.
    """
    problems = Problems()

    def number(field: str, value: Any, unit: str, most: float) -> float:
        return problems.read(_bounded, field, value, unit, most) or 0.0

    found = Service(
        number("years", years or 0.0, "1", 100),
        number("rate", rate or 0.0, "1/s", 1e12),
        number("power_price", power_price, "1", 100),
        None if carbon in (None, "") else number("carbon", carbon, "1", 1e6),
    )
    problems.done()
    if (found.years > 0) != (found.rate_per_s > 0):
        field, words = ("rate", "years need passes a second, such as 20/s")
        if not found.years:
            field, words = "years", "passes a second are of years in service, such as 3"
        raise InputError(f"expected a number above 0: {words}", field=field)
    return found


def _bounded(field: str, value: Any, unit: str, most: float) -> float:
    found = parse_quantity(value, unit, field)
    if not 0 <= found <= most:
        raise InputError(f"expected 0 to {most:g}, got {show(str(value))}", field=field)
    return found


@dataclass(frozen=True, eq=False)
class Mix:
    """How workloads become one figure."""

    names: tuple[str, ...]
    passes: Floats
    """Of each workload."""
    quantile: float | None
    """Of multiples, 1: the worst; None: sums."""
    front: tuple[str, ...]
    service: Service

    @property
    def over(self) -> str:
        """``mix``, ``worst`` or ``p90``."""
        return "mix" if self.quantile is None else "worst" if self.quantile == 1.0 else f"p{100 * self.quantile:g}"

    @property
    def inputs(self) -> dict[str, Any]:
        """Its words, as the record of a question has them."""
        said = {"passes": self.passes.tolist(), "over": self.over, "front": list(self.front)}
        return {**said, **(asdict(self.service) if self.service.years else {})}

    def sums(self, values: Floats) -> Floats:
        """Of a mix, ``[chips]`` of ``[chips, workloads]``."""
        return np.asarray(values @ self.passes, dtype=np.float64)

    def one(self, values: Floats, good: NDArray[np.intp]) -> Floats:
        """One figure of each chip: the sum, or the quantile of multiples of the least that any of ``good`` needs."""
        if self.quantile is None:
            return self.sums(values)
        multiples = values / values[good].min(axis=0)
        order = np.argsort(multiples, axis=1, kind="stable")
        share = np.cumsum(self.passes[order], axis=1) / self.passes.sum()
        at = np.argmax(share >= self.quantile * (1 - 1e-12), axis=1)
        rows = np.arange(len(values))
        return np.asarray(multiples[rows, order[rows, at]], dtype=np.float64)


#: Words of a mix and of the years of a chip, unless given.
WORDS: Mapping[str, Any] = {
    "passes": "",
    "over": "mix",
    "front": "",
    "years": 0.0,
    "rate": 0.0,
    "power_price": USD_PER_KWH,
    "carbon": None,
}


def mix_of(names: Sequence[str], words: Mapping[str, Any]) -> Mix:
    """A mix of workloads and the years of a chip, as words say.

    Args:
        names: workloads.
        words: ``passes``, ``over`` and ``front`` as of :func:`read_mix`; ``years``, ``rate``, ``power_price`` and
            ``carbon`` as of :func:`read_service`.

    Raises:
        InputError: every problem of them.
    """
    raise_all(foreign(words, WORDS))
    passes, over, front, *years = ({**WORDS, **words}[name] for name in WORDS)
    return read_mix(names, passes, over, front, read_service(*years))


def read_mix(names: Sequence[str], passes: Any, over: str, front: Any, service: Service) -> Mix:
    """A mix as it is given.

    Args:
        names: workloads.
        passes: ``resnet50:10,bert-base:1``, or a mapping; what is not named has one. Empty: one of each.
        over: ``mix``, ``worst``, or a quantile: ``p90``.
        front: figures, separated by commas: see :data:`FIGURES`.
        service: of the chip.

    Raises:
        InputError: none of these.
    """
    problems: list[Problem] = []
    given: Mapping[str, Any] = passes if isinstance(passes, Mapping) else {}
    if isinstance(passes, str) and passes.strip():
        given = dict(part.strip().rpartition(":")[::2] for part in passes.split(","))
    counts = dict.fromkeys(names, 1.0)
    for name, value in given.items():
        if name not in counts:
            problems.append(Problem("passes", UnknownName("workload", name, names).message))
            continue
        try:
            counts[name] = parse_quantity(value, "1", "passes")
        except InputError as error:
            problems.extend(error.problems)
        if not 0 < counts[name] < 1e12:
            problems.append(Problem("passes", f"expected a number above 0 of {name}, got {show(str(value))}"))
    found = re.fullmatch(r"p(\d{1,2}(\.\d+)?)", over.strip())
    if over not in ("mix", "worst") and not (found and float(found[1]) > 0):
        problems.append(Problem("over", f"expected mix, worst, or a quantile such as p90, got {show(over)}"))
    parts = [p.strip() for p in front.split(",")] if isinstance(front, str) else [str(p) for p in front]
    chosen = tuple(dict.fromkeys(p for p in parts if p)) or USUAL
    for name in chosen:
        if name not in FIGURES:
            problems.append(Problem("front", UnknownName("figure of a chip", name, FIGURES).message))
    if "carbon" in chosen and service.years and service.g_per_kwh is None:
        problems.append(Problem("carbon", "expected the g of CO2 of a kWh, for a front over carbon"))
    raise_all(problems)
    quantile = None if over == "mix" else 1.0 if over == "worst" else float(found[1]) / 100  # type: ignore[index]
    return Mix(tuple(names), np.array([counts[n] for n in names]), quantile, chosen, service)
