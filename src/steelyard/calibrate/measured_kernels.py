"""Measured kernel tables of an installed ``aiconfigurator-core`` package, beside our own answers.

Where that package is installed, its tables (``systems/data/<system>/<op>/<backend>/<version>/<op>_perf.parquet``) can
price dense products and attention directly: the nearest measured shapes, each scaled by the ratio of physical limits,
averaged with weights 1 / distance^2 in log shape. Shapes more than an octave from any measured one are not answered.
Only kernel tables are read, never serving samples; nothing of ours is fitted from them, and nothing is imported or read
before it is asked for.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from steelyard.cost.attention import decode_attention_limit_s, prefill_attention_limit_s
from steelyard.cost.devices import attention_device, gemm_device
from steelyard.cost.gemm import gemm_roofline_s
from steelyard.cost.site import site_for
from steelyard.errors import InputError
from steelyard.machine.component import Machine

if TYPE_CHECKING:
    from steelyard.cost.cost import Cost
    from steelyard.cost.program import Kernel

__all__ = ["PACKAGE", "Beside", "MeasuredKernels", "beside", "installed_tables", "measured_kernels"]

#: Columns of a table of attention kernels that tell its rows apart.
_KEYS = "batch_size isl context num_heads num_key_value_heads head_dim"

Array = NDArray[np.float64]

PACKAGE = "aiconfigurator_core"
NEIGHBOURS = 6
OCTAVE = float(np.log(2.0))
"""Farthest measured shape that still answers, in log size, per dimension."""
_GEMM_FORMATS: Mapping[str, str] = {"bf16": "bfloat16", "fp16": "bfloat16"}
_TABLES = {"gemm": "gemm", "prefill": "context_attention", "decode": "generation_attention"}


def installed_tables() -> Path | None:
    """The ``systems/data`` folder of the package, or None when it is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        folder = Path(place) / "systems" / "data"
        if folder.is_dir():
            return folder
    return None


def _version_key(name: str) -> tuple[int, ...]:
    return tuple(int(x) for x in re.findall(r"\d+", name))


def measured_kernels(machine: Machine, backend: str = "vllm", folder: Path | None = None) -> MeasuredKernels:
    """The tables of a machine, newest version of each.

    Args:
        machine: whose catalogue name is the package's system name.
        backend: ``vllm``, ``sglang`` or ``trtllm``.
        folder: of the tables; default: of the installed package.

    Raises:
        InputError: the package is not installed, or it has no table of the machine.
    """
    root = folder or installed_tables()
    if root is None:
        raise InputError("no measured kernels: pip install aiconfigurator-core", field="measured")
    paths: dict[str, Path] = {}
    for op, stem in _TABLES.items():
        found = [p for p in (root / machine.name).glob(f"**/{backend}/*/{stem}_perf.parquet") if p.is_file()]
        if found:
            paths[op] = max(found, key=lambda p: _version_key(p.parent.name))
    if not paths:
        raise InputError(f"no measured kernels of {machine.name} with {backend} in {PACKAGE}", field="measured")
    return MeasuredKernels(machine, backend, paths)


@dataclass(frozen=True, eq=False)
class MeasuredKernels:
    """Measured products and attention calls of one machine and software."""

    machine: Machine
    backend: str
    paths: Mapping[str, Path]
    """Table by op: ``gemm``, ``prefill``, ``decode``."""

    def gemm_s(self, m: ArrayLike, n: ArrayLike, k: ArrayLike, fmt: str = "bf16") -> Array:
        """Seconds of dense products, from the nearest measured ones; NaN where none is near."""
        rows = _gemm_table(self.paths.get("gemm"), _GEMM_FORMATS.get(fmt, fmt))
        where = site_for(self.machine, fmt)
        bits = _bits(fmt)

        def limit(shape: Array) -> Array:
            return gemm_roofline_s(
                *shape.T, weight_bits=bits[0], act_bits=bits[1], out_bits=16.0, device=gemm_device(where)
            )

        return _nearest(rows, _stacked(m, n, k), limit)

    def decode_s(
        self,
        batch: ArrayLike,
        context: ArrayLike,
        heads: ArrayLike,
        kv_heads: ArrayLike,
        head_dim: ArrayLike,
        kv_bits: float = 16.0,
    ) -> Array:
        """Seconds of decode attention of one layer; NaN where nothing near was measured."""
        rows = _attention_table(self.paths.get("decode"), kv_bits)
        device = attention_device(site_for(self.machine))

        def limit(shape: Array) -> Array:
            b, _, context_, h, kv, d = shape.T
            return decode_attention_limit_s(b, context_, h, kv, d, kv_bits=kv_bits, device=device, computes_fp8=False)

        return _nearest(rows, _stacked(batch, 1.0, context, heads, kv_heads, head_dim), limit)

    def prefill_s(
        self,
        batch: ArrayLike,
        new: ArrayLike,
        context: ArrayLike,
        heads: ArrayLike,
        kv_heads: ArrayLike,
        head_dim: ArrayLike,
        kv_bits: float = 16.0,
    ) -> Array:
        """Seconds of prefill attention of one layer, ``context`` counting the new tokens; NaN where nothing is near."""
        rows = _attention_table(self.paths.get("prefill"), kv_bits)
        device = attention_device(site_for(self.machine))

        def limit(shape: Array) -> Array:
            b, s, c, h, kv, d = shape.T
            before = np.maximum(c - s, 0.0)
            return prefill_attention_limit_s(b, s, before, h, kv, d, kv_bits=kv_bits, device=device, computes_fp8=False)

        return _nearest(rows, _stacked(batch, new, context, heads, kv_heads, head_dim), limit)

    def kernel_s(self, kernel: Kernel) -> Array | None:
        """Seconds of a lowered kernel, or None for kinds without a table and shapes nothing near was measured of."""
        f = kernel.features
        if kernel.kind == "gemm" and float(np.max(np.asarray(f["groups"]))) == 1.0:
            time = self.gemm_s(f["m"], f["n"], f["k"], kernel.weight_format or "bf16")
        elif kernel.kind == "attention" and not f["latent"] and not np.any(np.asarray(f["window"]) > 0):
            shape = (f["heads"], f["kv_heads"], f["head_dim"])
            if bool(np.all(np.asarray(f["new"]) <= 1)):
                time = self.decode_s(f["batch"], f["context"], *shape, kv_bits=f["kv_bits"])
            else:
                time = self.prefill_s(f["batch"], f["new"], f["context"], *shape, kv_bits=f["kv_bits"])
        else:
            return None
        return None if np.isnan(time).any() else time


def _bits(fmt: str) -> tuple[float, float]:
    from steelyard.deployment.formats import find_format

    stored = find_format(fmt)
    return stored.stored_bits, find_format(stored.activations or stored.name).stored_bits


def _stacked(*sizes: ArrayLike) -> tuple[tuple[int, ...], Array]:
    arrays = np.broadcast_arrays(*(np.asarray(x, dtype=np.float64) for x in sizes))
    return arrays[0].shape, np.stack([a.ravel() for a in arrays], axis=1)


@cache
def _frame(path: Path) -> Any:
    import pandas as pd

    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path.name}: {' '.join(str(error).split())[:150]}", field="measured") from error
    return frame[frame["latency"] > 0]


_Rows = tuple[Array, Array]


def _gemm_table(path: Path | None, dtype: str) -> _Rows:
    if path is None:
        return np.empty((0, 3)), np.empty(0)
    frame = _frame(path)
    frame = frame[frame["gemm_dtype"] == dtype].groupby(["m", "n", "k"], as_index=False)["latency"].median()
    return frame[["m", "n", "k"]].to_numpy(np.float64), frame["latency"].to_numpy(np.float64) * 1e-3


def _attention_table(path: Path | None, kv_bits: float) -> _Rows:
    if path is None:
        return np.empty((0, 6)), np.empty(0)
    frame = _frame(path)
    eight = frame["kv_cache_dtype"].astype(str).str.contains("8")
    frame = frame[eight == (kv_bits <= 8.5)].copy()
    if "window_size" in frame:
        frame = frame[frame["window_size"].fillna(0) <= 0]
    frame["context"] = frame["isl"] + frame["step"]
    keys = _KEYS.split()
    frame = frame.groupby(keys, as_index=False)["latency"].median()
    return frame[keys].to_numpy(np.float64), frame["latency"].to_numpy(np.float64) * 1e-3


def _nearest(rows: _Rows, asked: tuple[tuple[int, ...], Array], limit: Any) -> Array:
    """Measured time over physical limit, averaged over the nearest shapes, times the limit of the shape asked."""
    (shape, points), (known, time_s) = asked, rows
    out = np.full(len(points), np.nan)
    if len(known) == 0:
        return out.reshape(shape)
    ratio = np.log(time_s / limit(known))
    logs = np.log(known)
    for i, point in enumerate(np.log(points)):
        apart = np.abs(logs - point)
        near = np.flatnonzero((apart <= OCTAVE + 1e-9).all(axis=1))
        if near.size == 0:
            continue
        distance = np.sqrt((apart[near] ** 2).sum(axis=1))
        chosen = np.argsort(distance, kind="stable")[:NEIGHBOURS]
        if distance[chosen[0]] < 1e-9:
            mean = ratio[near[chosen[0]]]
        else:
            weight = distance[chosen] ** -2.0
            mean = float((ratio[near[chosen]] * weight).sum() / weight.sum())
        out[i] = np.exp(mean)
    return np.asarray((out * limit(points)).reshape(shape))


@dataclass(frozen=True, slots=True)
class Beside:
    """One kernel: our answer and the measured one, seconds per copy; None where nothing near was measured."""

    name: str
    kind: str
    count: float
    analytic_s: float
    measured_s: float | None


def beside(cost: Cost, tables: MeasuredKernels) -> Sequence[Beside]:
    """Our answer for every kernel of a priced program, and the measured one where there is one.

    Args:
        cost: a program priced for one scenario.
        tables: of the machine it was priced on.
    """
    return tuple(_beside(cost, tables))


def _beside(cost: Cost, tables: MeasuredKernels) -> Iterator[Beside]:
    for part in cost:
        count = float(np.max(np.asarray(part.kernel.count)))
        found = tables.kernel_s(part.kernel)
        measured = None if found is None else float(np.max(found))
        yield Beside(part.kernel.name, part.kernel.kind, count, float(np.max(part.time_s)) / max(count, 1.0), measured)
