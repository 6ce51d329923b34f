"""Reader of measured GEMM kernel times: ``<system>__gemm__<framework>.parquet`` of the aiconfigurator collector.

Columns used: gemm_dtype, kernel_source, m, n, k, latency (ms; CUDA-graph steady state, except block-scaled
fp8 rows, which are eager and carry a host floor of 50 to 300 us).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

__all__ = ["FORMAT_BITS", "GemmRows", "aic_gemm_files", "read_aic_gemm", "split_by_pair", "take"]

Array = NDArray[np.float64]

FORMAT_BITS: Mapping[str, tuple[float, float, float]] = MappingProxyType(
    {
        "bf16": (16.0, 16.0, 16.0),
        "fp8": (8.0, 8.0, 16.0),
        "fp8_block": (8.0, 8.0, 16.0),
        "nvfp4": (4.5, 4.5, 16.0),
        "int8_wo": (8.0, 16.0, 16.0),
        "int4_wo": (4.25, 16.0, 16.0),
    }
)
"""(weight, activation, output) bits of each format of the tables; scale factors of block formats included."""

_NAMES: Mapping[str, str] = MappingProxyType({"bfloat16": "bf16", "float16": "bf16"})


@dataclass(frozen=True, slots=True)
class GemmRows:
    """Measured kernel times of one machine and format."""

    machine: str
    format: str
    source: str
    """File name."""
    m: Array
    n: Array
    k: Array
    latency_s: Array
    kernel: NDArray[np.str_]
    """Software kernel of each row, as the table names it."""

    def __len__(self) -> int:
        return int(self.m.size)


def aic_gemm_files(folder: Path) -> dict[str, Path]:
    """Machine name to file, for every GEMM table in a folder."""
    return {path.name.split("__")[0]: path for path in sorted(folder.glob("*__gemm__*.parquet"))}


def read_aic_gemm(path: Path) -> dict[str, GemmRows]:
    """One ``GemmRows`` per number format of a table.

    Args:
        path: a file named ``<machine>__gemm__<software>.parquet``.

    Returns:
        Format name to rows, in file order; rows without a positive time are dropped.
    """
    import pandas as pd

    frame = pd.read_parquet(path, columns=["gemm_dtype", "kernel_source", "m", "n", "k", "latency"])
    frame = frame[frame["latency"] > 0.0]
    rows: dict[str, GemmRows] = {}
    for dtype, part in frame.groupby("gemm_dtype", sort=True):
        name = _NAMES.get(str(dtype), str(dtype))
        rows[name] = GemmRows(
            machine=path.name.split("__")[0],
            format=name,
            source=path.name,
            m=part["m"].to_numpy(np.float64),
            n=part["n"].to_numpy(np.float64),
            k=part["k"].to_numpy(np.float64),
            latency_s=part["latency"].to_numpy(np.float64) * 1e-3,
            kernel=part["kernel_source"].to_numpy(np.str_),
        )
    return rows


def take(rows: GemmRows, index: NDArray[np.generic]) -> GemmRows:
    """The rows at ``index`` (positions or a mask)."""
    return GemmRows(
        rows.machine,
        rows.format,
        rows.source,
        rows.m[index],
        rows.n[index],
        rows.k[index],
        rows.latency_s[index],
        rows.kernel[index],
    )


def split_by_pair(rows: GemmRows, fit_frac: float = 1.0 / 3.0, seed: int = 0) -> tuple[GemmRows, GemmRows]:
    """(fit, held-out): whole (n, k) pairs go to one side, so a score never sees a weight shape of the fit."""
    pairs, inverse = np.unique(np.stack([rows.n, rows.k]), axis=1, return_inverse=True)
    chosen = np.random.default_rng(seed).random(pairs.shape[1]) < fit_frac
    mask: NDArray[np.bool_] = np.asarray(chosen)[np.ravel(inverse)]
    return take(rows, mask), take(rows, ~mask)
