"""Fits of the catalogue's parameters to public tables: ``python -m steelyard_validation.fits.OP TABLES CALIBRATION``.

``OP`` is gemm, attention, moe, collective or vector; ``TABLES`` the folder that holds ``aic_ops`` and the others,
``CALIBRATION`` the folder ``catalogue/calibration`` to write. What a user fits is ``steelyard calibrate``; the models,
bounds and the loss are the same (:mod:`steelyard.calibrate.task`), the families and the borrowed spreads are made here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from steelyard.calibrate.toml_files import document, write_files

__all__ = ["between", "command", "mean_parameters", "section", "write"]

T = TypeVar("T")


def mean_parameters(sets: Sequence[T]) -> T:
    """Geometric mean of parameter sets, parameter by parameter."""
    kind: Any = type(sets[0])

    def mean(name: str) -> float:
        return float(np.exp(np.mean([np.log(max(getattr(p, name), 1e-12)) for p in sets])))

    made: T = kind(**{f.name: mean(f.name) for f in fields(kind)})
    return made


def between(left_out: Mapping[str, float], own: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The residual of a family of one lineage: its spread lies between its members' own and that of other lineages."""
    mixed = dict(left_out)
    for name in ("log_std", "log_low10", "log_high90"):
        mixed[name] = 0.5 * (left_out[name] + float(np.mean([o[name] for o in own])))
    mixed["log_bias"] = 0.0
    return mixed


def section(
    parameters: Any, residual: Mapping[str, float], provenance: Mapping[str, Any], facts: str = ""
) -> dict[str, Any]:
    """One section of a calibration file."""
    named = {"facts": facts} if facts else {}
    values = {f.name: float(getattr(parameters, f.name)) for f in fields(parameters)}
    return {**named, "parameters": values, "residual": dict(residual), "provenance": dict(provenance)}


def write(catalogue: Path, folder: str, op: str, table: Mapping[str, Any], comments: Sequence[str]) -> None:
    """``<folder>/<op>.toml`` of a calibration catalogue."""
    write_files(catalogue, {f"{folder}/{op}.toml": document(table, comments)})


def command(run: Callable[[Path, Path], None]) -> None:
    """The command line of a fit: the folder of tables and the calibration folder."""
    if len(sys.argv) != 3:
        sys.exit(f"usage: python -m {run.__module__} TABLES CALIBRATION")
    run(Path(sys.argv[1]), Path(sys.argv[2]))
