"""Fitted utilisation parameters: a machine's own, or borrowed from its family, or generic.

``catalogue/calibration/<machine>/<op>.toml`` holds what ``steelyard calibrate`` wrote for a measured machine;
``catalogue/calibration/_families/<op>.toml`` holds one table per family for machines nobody measured. Each variant
(a kernel or number format) has ``parameters``, and ``residual`` with the log-space spread on rows left out of the fit.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

from steelyard.cost.interval import BORROWED_SPREAD
from steelyard.documents import read_document
from steelyard.errors import InputError, Problem, raise_all, show
from steelyard.folders import catalogue_folders

__all__ = ["UNMEASURED_SPREAD", "Calibrated", "calibrated", "calibration_table", "make"]

#: Log-space spread assumed for a machine with neither measurements nor a measured family (guess; about +-50 %).
UNMEASURED_SPREAD = 0.4


#: Share of the peak that streams reach, by kind of memory. GDDR6X and GDDR7: products and attention of an RTX PRO 6000
#: and an RTX 4090 (0.92 to 0.94); GDDR6 with error correction in line (L40S) reaches 0.81. LPDDR5X: of 273 GB/s a DGX
#: Spark shows some 0.8 to streams. Kinds that are not here are taken to reach what the measured machine reaches.
MEMORY_SHARES: Mapping[str, float] = {"gddr6x": 0.93, "gddr7": 0.93, "lpddr5x": 0.8}
#: The largest share of a peak that any memory reaches.
MOST_SHARE = 0.97

#: Largest logarithm of a spread or bias, and largest parameter, by the ending of its name where that says what it is.
_MOST_LOG, _MOST = 10.0, 1e18
_MOST_BY_ENDING = {"s": 10.0, "frac": 10.0, "efficiency": 10.0, "ratio": 1e4, "power": 100.0}


@dataclass(frozen=True, slots=True)
class Calibrated:
    """Parameters of one op model on one machine."""

    parameters: Any
    spread: float
    """Standard deviation of log(true / predicted) on rows left out, the spread of borrowing included."""
    source: str
    """``fitted: <machine>``, ``borrowed: <family>`` or ``default``."""
    facts: str = ""
    """The software kernel the parameters belong to, when the file names one."""
    bias: float = 0.0
    """Mean of log(measured / predicted) on the rows left out."""
    variant: str = ""
    """The section that was found; empty: the file's own table."""
    memory_share: float = 0.0
    """Of borrowed parameters: the share of its peak that the memory of the measured machine reaches; 0 = not known."""

    def at_memory(self, kind: str, field: str) -> Calibrated:
        """Borrowed parameters for a machine with another kind of memory.

        Args:
            kind: of its memory.
            field: the parameter that is a share of the peak bandwidth; it changes as what both kinds reach
                (:data:`MEMORY_SHARES`), up to :data:`MOST_SHARE`.
        """
        own = MEMORY_SHARES.get(kind, 0.0)
        if not (own and self.memory_share):
            return self
        share = min(MOST_SHARE, getattr(self.parameters, field) * own / self.memory_share)
        return replace(self, parameters=replace(self.parameters, **{field: share}))


@cache
def calibration_table(folder: str, op: str) -> Mapping[str, Any]:
    """The parsed table ``calibration/<folder>/<op>.toml`` of the first catalogue that has it, or an empty one."""
    for root in catalogue_folders():
        path = root / "calibration" / folder / f"{op}.toml"
        if path.is_file():
            return read_document(path)
    return {}


def make(cls: type[Any], values: Mapping[str, Any]) -> Any:
    """An instance of a parameter dataclass from a table, ignoring keys it does not have."""
    known = {f.name for f in fields(cls)}
    return cls(**{k: v for k, v in values.items() if k in known})


@cache
def calibrated(
    op: str,
    cls: type[Any],
    machine: str,
    families: tuple[str, ...],
    variants: tuple[str, ...] = ("",),
    last: str = "generic",
) -> Calibrated:
    """Parameters of an op model on a machine: fitted there, borrowed from its family, or generic.

    Args:
        op: the file: ``gemm``, ``attention``, ``moe``, ``vector`` or ``collective``.
        cls: parameter dataclass of the model; its defaults serve when no file has the op.
        machine: catalogue name.
        families: tables to borrow from, most specific first.
        last: the table to borrow from when none of them has any; empty = none.
        variants: dotted sections to look for, best first; ``""`` is the file's own table.
    """
    own, variant = _first(calibration_table(machine, op), variants)
    if own is not None:
        return replace(_filled(cls, own, f"fitted: {machine}"), variant=variant)
    shared = calibration_table("_families", op)
    for name in (*families, *filter(None, (last,))):
        section, variant = _first(shared.get(name, {}), variants)
        if section is not None:
            memory = float(section.get("provenance", {}).get("memory_share", 0.0))
            found = replace(_filled(cls, section, f"borrowed: {name}"), variant=variant, memory_share=memory)
            least = 0.0 if op == "collective" else BORROWED_SPREAD[_distance(machine, name, section)]
            return replace(found, spread=max(found.spread, least))
    return Calibrated(cls(), UNMEASURED_SPREAD, "default")


def _distance(machine: str, family: str, section: Mapping[str, Any]) -> str:
    """How far a machine is from those a shared section was fitted on: an entry of :data:`BORROWED_SPREAD`."""
    provenance = section.get("provenance", {})
    if provenance.get("kind") == "whole models":  # its own family's rates decided the figures
        return "none"
    if family == "generic":
        return "generic"
    fitted_on = re.findall(r"[a-z]+[0-9]\w*", f"{provenance.get('members', '')} {provenance.get('source', '')}")
    product = machine.partition("_")[0]
    return "die" if any(name.partition("_")[0] == product for name in fitted_on) else "family"


def _first(table: Mapping[str, Any], variants: Sequence[str]) -> tuple[Mapping[str, Any] | None, str]:
    """The first section of a table that has parameters, and its name."""
    for variant in variants:
        found: Any = table
        for key in filter(None, variant.split(".")):
            found = found.get(key, {}) if isinstance(found, Mapping) else {}
        if isinstance(found, Mapping) and "parameters" in found:
            return found, variant
    return None, ""


def _filled(cls: type[Any], section: Mapping[str, Any], source: str) -> Calibrated:
    """The parameters of a section. Raises :class:`InputError` with every one that can be none."""
    given, residual = section["parameters"], section.get("residual", {})
    where = f"calibration ({source})"
    for name, table in (("parameters", given), ("residual", residual)):
        if not isinstance(table, Mapping):
            raise InputError(f"expected a table, got {show(table)}", field=f"{where}: {name}")
    known = {f.name for f in fields(cls)}
    problems = [
        Problem(f"{where}: parameters.{name}", words)
        for name, value in given.items()
        if name in known and (words := _wrong(value, 0.0, _most(name)))
    ]
    for name, low, high in (("log_std", 0.0, _MOST_LOG), ("log_bias", -_MOST_LOG, _MOST_LOG)):
        if name in residual and (words := _wrong(residual[name], low, high)):
            problems.append(Problem(f"{where}: residual.{name}", words))
    raise_all(problems)
    return Calibrated(
        make(cls, given),
        float(residual.get("log_std", UNMEASURED_SPREAD)),
        source,
        str(section.get("facts", "")),
        float(residual.get("log_bias", 0.0)),
    )


def _most(name: str) -> float:
    """The largest value of a parameter, by what its name says it is."""
    return _MOST if "_per_" in name else _MOST_BY_ENDING.get(name.rpartition("_")[2], _MOST)


def _wrong(value: Any, low: float, high: float) -> str:
    """What is wrong with a parameter; empty: nothing."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return f"expected a number, got {show(value)}"
    return "" if low <= value <= high else f"expected a number from {low:g} to {high:g}, got {value:g}"
