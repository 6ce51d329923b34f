"""Fitted utilisation parameters: a machine's own, or borrowed from its family, or generic.

``catalogue/calibration/<machine>/<op>.toml`` holds what ``steelyard calibrate`` wrote for a measured machine;
``catalogue/calibration/_families/<op>.toml`` holds one table per family for machines nobody measured. Each variant
(a kernel or number format) has ``parameters``, and ``residual`` with the log-space spread on rows left out of the fit.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

from steelyard.cost.site import Site
from steelyard.machine.catalogue import catalogue_folders
from steelyard.machine.component import Machine

__all__ = ["UNMEASURED_SPREAD", "Calibrated", "calibrated", "calibration_table"]

#: Log-space spread assumed for a machine with neither measurements nor a measured family (guess; about +-50 %).
UNMEASURED_SPREAD = 0.4


@dataclass(frozen=True, slots=True)
class Calibrated:
    """Parameters of one op model on one machine."""

    parameters: Any
    facts: Any
    spread: float
    source: str
    """``fitted: <machine>``, ``borrowed: <family>`` or ``default``."""


@cache
def calibration_table(folder: str, op: str) -> Mapping[str, Any]:
    """The parsed table ``calibration/<folder>/<op>.toml`` of the first catalogue that has it, or an empty one."""
    for root in catalogue_folders():
        path = root / "calibration" / folder / f"{op}.toml"
        if path.is_file():
            return tomllib.loads(path.read_text(encoding="utf-8"))
    return {}


def make(cls: type[Any], values: Mapping[str, Any]) -> Any:
    """An instance of a parameter dataclass from a table, ignoring keys it does not have."""
    known = {f.name for f in fields(cls)}
    return cls(**{k: v for k, v in values.items() if k in known})


def calibrated(op: str, where: Site | Machine, variant: str = "") -> Calibrated:
    """Parameters of an op model on a machine: fitted there, borrowed from its family, or generic.

    Args:
        op: ``gemm``, ``decode``, ``prefill``, ``mla``, ``moe``, ``vector`` or ``collective``.
        where: the site (or, for collectives, the machine).
        variant: number format or kernel; for collectives the kind of link.
    """
    machine = where if isinstance(where, Machine) else where.machine
    return _calibrated(op, machine.name, machine.family, variant)


@cache
def _calibrated(op: str, machine: str, family: str, variant: str) -> Calibrated:
    cls, facts, file = _model(op, variant)
    own = _section(calibration_table(machine, file), op, variant)
    if own is not None:
        return Calibrated(make(cls, own["parameters"]), facts, _spread(own), f"fitted: {machine}")
    shared = calibration_table("_families", file)
    for name in (family, variant, "generic"):
        table = shared.get(name)
        section = _section(table, op, variant) if isinstance(table, Mapping) else None
        if section is not None:
            return Calibrated(make(cls, section["parameters"]), facts, _spread(section), f"borrowed: {name}")
    return Calibrated(cls(), facts, UNMEASURED_SPREAD, "default")


def _section(table: Mapping[str, Any], op: str, variant: str) -> Mapping[str, Any] | None:
    for keys in ((variant,), (op, variant), (op,), ()):
        found: Any = table
        for key in keys:
            found = found.get(key, {}) if isinstance(found, Mapping) else {}
        if isinstance(found, Mapping) and "parameters" in found:
            return found
    return None


def _spread(section: Mapping[str, Any]) -> float:
    residual = section.get("residual", {})
    return float(residual.get("log_std", UNMEASURED_SPREAD))


def _model(op: str, variant: str) -> tuple[type[Any], Any, str]:
    """(parameter class, software facts, calibration file) of an op."""
    if op == "gemm":
        from steelyard.cost import gemm

        return gemm.GemmParameters, gemm.DEFAULT_FACTS, "gemm"
    if op == "moe":
        from steelyard.cost import moe

        return moe.MoeParameters, moe.FACTS["triton"], "moe"
    if op == "vector":
        from steelyard.cost import vector

        return vector.VectorParameters, None, "vector"
    if op == "collective":
        from steelyard.cost import collective

        return collective.CollectiveParameters, None, "collective"
    from steelyard.cost import attention

    if op == "mla":
        from steelyard.cost import mla

        return mla.MlaParameters, mla.MlaFacts(), "attention"
    cls = attention.DecodeParameters if op == "decode" else attention.PrefillParameters
    return cls, attention.AttentionFacts(), "attention"
