"""Quantities: SI floats inside, text such as ``500ms`` or ``80GiB`` at the door.

Every number a user can write is described once, by a :class:`Quantity` in the annotation of its dataclass
field. Validation, command line help, JSON schema and docs all read that one description.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steelyard.errors import InputError, suggest

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler
    from pydantic_core import CoreSchema

__all__ = [
    "HOURS_PER_YEAR",
    "PREFIXES",
    "Quantity",
    "figure",
    "format_quantity",
    "parameters_text",
    "parse_quantity",
    "power_text",
]

#: Of a mean year, of 365.25 days.
HOURS_PER_YEAR = 8766.0
#: Multipliers of SI and binary prefixes.
PREFIXES: dict[str, float] = {
    "f": 1e-15,
    "p": 1e-12,
    "n": 1e-9,
    "u": 1e-6,
    "µ": 1e-6,
    "m": 1e-3,
    "": 1.0,
    "k": 1e3,
    "K": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "P": 1e15,
    "E": 1e18,
    "Ki": 2.0**10,
    "Mi": 2.0**20,
    "Gi": 2.0**30,
    "Ti": 2.0**40,
}

#: Spellings accepted for each base unit, with the factor to the SI base.
_SPELLINGS: dict[str, dict[str, float]] = {
    "B": {"B": 1.0, "b": 0.125, "bit": 0.125},
    "B/s": {"B/s": 1.0, "b/s": 0.125, "bit/s": 0.125, "bps": 0.125, "Bps": 1.0},
    "s": {"s": 1.0, "sec": 1.0},
    "OP/s": {"OP/s": 1.0, "FLOP/s": 1.0, "FLOPS": 1.0, "OPS": 1.0, "op/s": 1.0},
    "Hz": {"Hz": 1.0},
    "W": {"W": 1.0},
    "J": {"J": 1.0, "Wh": 3600.0},
    "J/B": {"J/B": 1.0, "J/bit": 8.0},
    "J/OP": {"J/OP": 1.0, "J/FLOP": 1.0},
    "USD": {"USD": 1.0, "usd": 1.0, "$": 1.0},
    "USD/h": {"USD/h": 1.0, "usd/h": 1.0, "$/h": 1.0},
    "USD/kWh": {"USD/kWh": 1.0, "usd/kwh": 1.0, "$/kWh": 1.0},
    "1/s": {"1/s": 1.0, "/s": 1.0},
    "1": {},
}
_WHOLE: dict[str, dict[str, float]] = {
    "s": {"min": 60.0, "h": 3600.0, "d": 86400.0, "us": 1e-6},
    "m2": {"mm2": 1e-6, "um2": 1e-12, "cm2": 1e-4},
    "1": {"%": 0.01, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9},
}
_NUMBER = re.compile(r"^\s*([+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(\S.*?)?\s*$")


#: Largest quantity of any file, and the inverse of the smallest that may not be 0: beyond, products of a few overflow.
MOST = 1e30


def parse_quantity(text: str | float | int, unit: str, field: str = "value") -> float:
    """Read a number with an optional prefix and unit into the SI base of ``unit``.

    ``parse_quantity("80GiB", "B") == 80 * 2**30``; a bare number is taken as SI already.

    Args:
        text: a number, or text such as ``"3.35TB/s"``, ``"500ms"``, ``"400Gb/s"`` (bits are lower case ``b``).
        unit: the base unit expected, e.g. ``"B"``, ``"B/s"``, ``"s"``, ``"1"``.
        field: the name used in the error.

    Raises:
        InputError: the text is not a number or its unit is another one.
    """
    wanted = "a number" if unit == "1" else f"a number in {unit}"
    if isinstance(text, bool):
        raise InputError(f"expected {wanted}, got {text}", field=field)
    if isinstance(text, int | float):
        try:
            return float(text)
        except OverflowError:
            raise InputError(f"expected {wanted}, got one beyond every float", field=field) from None
    if not isinstance(text, str):
        raise InputError(f"expected {wanted}, got {text!r:.80}", field=field)
    match = _NUMBER.match(text)
    if match is None:
        raise InputError(f"expected {wanted}, got {text!r}", field=field)
    value, suffix = float(match.group(1).replace("_", "")), match.group(2) or ""
    if not suffix:
        return value
    whole = _WHOLE.get(unit, {})
    if suffix in whole:
        return value * whole[suffix]
    for spelling, factor in _SPELLINGS.get(unit, {unit: 1.0}).items():
        if suffix.endswith(spelling):
            prefix = suffix[: len(suffix) - len(spelling)]
            if prefix in PREFIXES:
                return value * PREFIXES[prefix] * factor
    if suffix in PREFIXES and unit != "s":  # "80Gi", "900G": the unit is understood
        return value * PREFIXES[suffix]
    raise InputError(f"expected {wanted}, got {text!r}: unknown unit {suffix!r}{_nearest(suffix, unit)}", field=field)


def _nearest(suffix: str, unit: str) -> str:
    """The unit that was most likely meant, in words."""
    known = [*_WHOLE.get(unit, {}), *_SPELLINGS.get(unit, {unit: 1.0}), *(["ms"] if unit == "s" else [])]
    near = suggest(suffix, [*known, *(f"{p}{unit}" for p in "kMG" if unit != "s")], 1, kind="unit")
    return f"; did you mean {near[0]!r}?" if near else ""


def format_quantity(value: float, unit: str, digits: int = 3) -> str:
    """Write an SI number for people: ``format_quantity(0.0123, "s") == "12.3 ms"``.

    Args:
        value: the number in SI base units.
        unit: the base unit; bytes get binary prefixes, dimensionless numbers get none.
        digits: significant digits.
    """
    if value is None or not math.isfinite(value):
        return "-" if value is None or math.isnan(value) else ("∞" if value > 0 else "-∞")
    if unit == "1" or value == 0:
        return f"{value:.{digits}g}" + ("" if unit == "1" else f" {unit}")
    if unit == "m2":
        return f"{_significant(value * 1e6, digits)} mm2"
    if unit == "B":
        for prefix in ("Ti", "Gi", "Mi", "Ki"):
            if abs(value) >= PREFIXES[prefix]:
                return f"{_significant(value / PREFIXES[prefix], digits)} {prefix}B"
        return f"{value:.0f} B"
    if unit == "s" and abs(value) >= 60:
        return f"{value / 3600:.1f} h" if abs(value) >= 5400 else f"{_significant(value, digits)} s"
    if unit in ("USD", "USD/h", "USD/kWh"):
        return f"{value:,.2f} {unit}" if abs(value) >= 0.1 else f"{value:.2g} {unit}"
    for prefix in ("E", "P", "T", "G", "M", "k", "", "m", "µ", "n", "p", "f"):
        if abs(value) >= PREFIXES[prefix] * 0.9995:
            return f"{_significant(value / PREFIXES[prefix], digits)} {prefix}{unit}"
    return f"{value:.{digits}g} {unit}"


def power_text(watts: float) -> str:
    """A power for people, whole watts where it has two digits: ``700 W``, ``2.50 W``, ``50.0 mW``."""
    return f"{watts:,.0f} W" if watts >= 10.0 else format_quantity(watts, "W")


def figure(value: float) -> str:
    """A rate with three significant digits: ``1,744``, ``97.4``, ``5.61``."""
    return f"{value:,.0f}" if value >= 999.5 else f"{value:.3g}"


def parameters_text(count: float) -> str:
    """A number of parameters in millions, or billions: ``25.56 M``, ``16.84 B``."""
    return f"{count / 1e9:,.4g} B" if count >= 1e9 else f"{count / 1e6:,.4g} M"


def _significant(value: float, digits: int) -> str:
    whole = len(str(int(abs(value))))
    return f"{value:,.{max(0, digits - whole)}f}"


@dataclass(frozen=True, slots=True)
class Quantity:
    """The one description of a numeric field: unit, meaning and bounds.

    Used as ``Annotated[float, Quantity("B/s", "sustained read bandwidth", gt=0)]``.
    """

    unit: str
    doc: str = ""
    gt: float | None = None
    ge: float | None = None
    le: float | None = None

    def check(self, value: float, field: str = "value") -> float:
        """Return ``value`` when it is inside the bounds.

        Raises:
            InputError: it is not, or it is not a number.
        """
        if not math.isfinite(value):
            got = "NaN" if math.isnan(value) else "an infinite one"
            raise InputError(f"expected a finite number, got {got}", field=field)
        if abs(value) > MOST:
            raise InputError(f"expected a number of at most {MOST:g}{self._unit}, got {value:g}", field=field)
        if self.gt == 0 and 0 < value < 1 / MOST:
            raise InputError(f"expected a number of at least {1 / MOST:g}{self._unit}, got {value:g}", field=field)
        if self.gt is not None and not value > self.gt:
            raise InputError(f"expected a number above {self.gt:g}{self._unit}, got {value:g}", field=field)
        if self.ge is not None and not value >= self.ge:
            raise InputError(f"expected a number of at least {self.ge:g}{self._unit}, got {value:g}", field=field)
        if self.le is not None and not value <= self.le:
            raise InputError(f"expected a number of at most {self.le:g}{self._unit}, got {value:g}", field=field)
        return value

    @property
    def _unit(self) -> str:
        return "" if self.unit == "1" else f" {self.unit}"

    def parse(self, text: str | float | int, field: str = "value") -> float:
        """Read text or a number and check the bounds. Raises :class:`InputError`."""
        return self.check(parse_quantity(text, self.unit, field), field)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import core_schema

        def validate(value: Any) -> float:
            if not isinstance(value, str | int | float):
                raise ValueError(f"expected a number in {self.unit}, got {type(value).__name__}")
            try:
                return self.parse(value, "")
            except InputError as error:
                raise ValueError(error.message) from error

        json = {"type": "number", "description": f"{self.doc} [{self.unit}]"}
        return core_schema.no_info_plain_validator_function(
            validate, metadata={"pydantic_js_functions": [lambda _schema, _handler: json]}
        )
