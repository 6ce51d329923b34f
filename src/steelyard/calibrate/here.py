"""This computer, measured: its machine file and its calibration, from one :class:`Session`."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steelyard._version import __version__
from steelyard.calibrate.measure.graphs import kernel_of
from steelyard.calibrate.measure.session import Measured, Session
from steelyard.calibrate.task import Section, errors_of, fit_parameters, need_scipy, sections_table
from steelyard.calibrate.toml_files import document, write_files
from steelyard.cost.cpu import CpuAttention, CpuChain, CpuProduct, kernel_work, measured_cpu, time_s, variant_of
from steelyard.cost.program import Kernel
from steelyard.cost.site import site_of
from steelyard.errors import InputError
from steelyard.folders import folder_to_write
from steelyard.machine.component import Machine
from steelyard.machine.loader import machine_from_dict

__all__ = ["Calibration", "calibrate_session", "machine_of", "measured_with", "write_here"]

Array = NDArray[np.float64]

RESERVED_FRAC = 0.1
"""Memory the system keeps (guess)."""
WATTS_PER_CORE = 8.0
"""Package power per core under load (guess; servers 4 to 8, desktops 8 to 15)."""
IDLE_FRAC = 0.3
FOLDS = 3
SIGMA = 1.0
"""Log-space width of the prior on a host: wide, hundreds of rows speak."""
PRODUCT_BOUNDS: Mapping[str, tuple[float, float]] = {
    "launch_s": (1e-7, 2e-4),
    "compute_frac": (0.02, 1.0),
    "stream_frac": (0.02, 1.0),
    "pack_frac": (0.02, 20.0),
    "act_frac": (0.02, 20.0),
    "overlap_power": (1.0, 8.0),
}
ATTENTION_BOUNDS: Mapping[str, tuple[float, float]] = {
    "launch_s": (1e-7, 5e-4),
    "compute_frac": (1e-3, 1.0),
    "exp_ops": (1.0, 2e4),
    "row_ops": (10.0, 1e6),
    "stream_frac": (0.02, 1.0),
    "overlap_power": (1.0, 8.0),
}
CHAIN_BOUNDS: Mapping[str, tuple[float, float]] = {
    "launch_s": (1e-7, 2e-4),
    "cache_frac": (1e-3, 4.0),
    "stream_frac": (0.02, 4.0),
    "hot_frac": (0.01, 2.0),
}
UNUSED: Mapping[str, tuple[str, ...]] = {
    "batched": ("stream_frac", "pack_frac"),
    "conv": ("pack_frac",),
    "conv_1x1": ("pack_frac",),
}
"""Figures a kind of product says nothing about: batched products have no weights, convolutions always pack."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """The machine and its sections."""

    machine: Machine
    machine_toml: str
    sections: tuple[Section, ...]
    files: Mapping[str, str]
    """File name to TOML text, below ``calibration/<machine>/``."""


def machine_of(session: Session, name: str) -> tuple[Machine, str]:
    """The machine a session measured, and its TOML file: peaks are the best any kernel reached.

    Args:
        session: what was measured.
        name: of the machine, such as ``here``.
    """
    host = session.host
    peaks = {fmt: _peak(session, fmt) for fmt in session.number_formats}
    dram = _stream_rate(session, 2.0 * host.last_level_bytes, math.inf)
    caches = [c for c in host.caches if c.level > 1]
    memory: list[dict[str, Any]] = [
        {"name": "dram", "kind": "dram", "capacity_bytes": host.memory_bytes, "bandwidth_bytes_per_s": dram}
    ]
    outer, least = "dram", dram
    for cache in reversed(caches):
        share = cache.capacity_bytes / cache.copies * min(cache.copies, session.threads)
        rate = max(_stream_rate(session, share / 16.0, share), least)
        memory.append(
            {
                "name": f"l{cache.level}",
                "kind": "sram",
                "inside": outer,
                "capacity_bytes": cache.capacity_bytes,
                "bandwidth_bytes_per_s": rate,
            }
        )
        outer, least = f"l{cache.level}", rate
    fields: dict[str, Any] = {
        "name": name,
        "title": f"{session.device_title}, {session.threads} of {host.cores} cores",
        "kind": "cpu",
        "vendor": host.vendor,
        "family": host.family,
        "tdp_w": WATTS_PER_CORE * host.cores,
        "idle_w": IDLE_FRAC * WATTS_PER_CORE * host.cores,
        "reserved_bytes": RESERVED_FRAC * host.memory_bytes,
        "launch": "cpu",
        "notes": f"Measured with {session.backend} on {host.system}, {session.threads} threads.",
        "compute": [
            {"name": "cores", "kind": "vector", "units": session.threads, "clock_hz": host.clock_hz, "peak": peaks}
        ],
        "memory": memory,
    }
    data = {
        "sources": {"measured": f"steelyard calibrate --here, steelyard {__version__}, {session.backend}"},
        "guess": {
            "tdp_w": f"{WATTS_PER_CORE:g} W per core",
            "idle_w": f"{IDLE_FRAC:g} of the rated power",
            "reserved_bytes": "operating system",
            "compute.cores.peak": "the best any kernel of this measurement reached, not a data sheet",
            "memory": "bandwidths are the best streams reached; capacities as the operating system states them",
        },
        "machine": fields,
    }
    comments = [f"{fields['title']}: measured by `steelyard calibrate --here`. Peaks are measured ones."]
    text = document(data, comments)
    return machine_from_dict(tomllib.loads(text), name), text


def _peak(session: Session, number_format: str) -> float:
    rates = [
        float(np.max(_flops(m.case)) / m.time_s)
        for m in session.rows
        if m.case.number_format == number_format and m.case.op in ("gemm", "conv")
    ]
    return max(rates, default=1e9)


def _flops(case: Any) -> float:
    s = case.shape
    if case.op == "conv":
        return float(2.0 * s["batch"] * s["c"] * s["k"] * s["size"] ** 2 * s["kernel"] ** 2)
    return float(2.0 * s["groups"] * s["m"] * s["n"] * s["k"])


def _stream_rate(session: Session, least: float, most: float) -> float:
    """Best rate of streams whose footprint lies in a range, B/s; the largest stream where none does."""
    arrays = {"read": 1.0, "copy": 2.0, "triad": 3.0}
    rates = [(arrays[m.case.detail] * m.case.shape["bytes"], m.time_s) for m in session.streams]
    inside = [size / seconds for size, seconds in rates if least <= size <= most]
    return max(inside) if inside else max(rates)[0] / max(rates)[1]


def calibrate_session(session: Session, name: str) -> Calibration:
    """Fit a session of the CPU; scores come from shapes left out of the fit.

    Raises:
        InputError: SciPy is missing.
    """
    need_scipy()
    machine, text = machine_of(session, name)
    kernels = [kernel_of(m.case, machine) for m in session.rows]
    groups: dict[tuple[str, str], list[int]] = {}
    for i, (m, kernel) in enumerate(zip(session.rows, kernels, strict=True)):
        if kernel.kind == "vector" and m.case.number_format != session.number_formats[0]:
            continue  # elementwise work is priced in one format
        key = (variant_of(kernel), "" if kernel.kind == "vector" else m.case.number_format)
        groups.setdefault(key, []).append(i)
    chains = [i for key, index in groups.items() if key[0].startswith("chain_") for i in index]
    if chains:
        groups["chain", ""] = chains
    provenance = {
        "kind": "fitted",
        "source": f"steelyard calibrate --here, {session.backend}, {session.threads} threads",
        "split": f"whole shapes left out, {FOLDS} folds; parameters are of the fit to all rows",
    }
    sections = tuple(
        _section(*key, [session.rows[i] for i in index], [kernels[i] for i in index], machine, provenance)
        for key, index in groups.items()
    )
    head = f"{session.device_title}: what `steelyard calibrate --here` fitted."
    slower, drift = 100 * math.expm1(session.noise), 100 * math.expm1(session.drift)
    note = f"Noise: a median round was {slower:.0f} % slower than the one kept; drift {drift:+.0f} %."
    files = {f"{op}.toml": document(table, [head, note]) for op, table in sections_table(sections).items()}
    return Calibration(machine, text, sections, files)


def _section(
    variant: str,
    number_format: str,
    rows: Sequence[Measured],
    kernels: Sequence[Kernel],
    machine: Machine,
    provenance: Mapping[str, Any],
) -> Section:
    predict, prior, bounds = _model(kernels, machine)
    measured = np.array([m.time_s for m in rows])
    fold = folds_of(rows)
    held = np.empty_like(measured)
    names = [n for n in bounds if n not in UNUSED.get(variant, ())]
    for number in range(FOLDS):
        inside = fold != number
        if inside.all() or not inside.any():
            continue
        fitted = fit_parameters(
            lambda p, at=inside: predict(p)[at],  # type: ignore[misc]
            prior,
            measured[inside],
            names,
            sigma=SIGMA,
            bounds=bounds,
        )
        held[~inside] = predict(fitted)[~inside]
    final = fit_parameters(predict, prior, measured, names, sigma=SIGMA, bounds=bounds)
    section = ".".join(part for part in (variant, number_format) if part)
    about = {**provenance, "rows": len(rows)}
    before = errors_of(predict(prior), measured)
    return Section("cpu", section, variant, final, len(rows), errors_of(held, measured), before, about)


def folds_of(rows: Sequence[Measured]) -> NDArray[np.int_]:
    """Whole shapes to one fold: every m of an (n, k) pair, every chain of one size."""
    keys = [tuple(sorted((k, v) for k, v in r.case.shape.items() if k not in ("m", "batch"))) for r in rows]
    order = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    return np.array([order[key] % FOLDS for key in keys])


def _model(
    kernels: Sequence[Kernel], machine: Machine
) -> tuple[Callable[[Any], Array], Any, Mapping[str, tuple[float, float]]]:
    """(parameters -> seconds per row, prior, bounds) of one section."""
    kind = kernels[0].kind
    site = site_of(machine, kernels[0].engine, kernels[0].compute)
    work = [kernel_work(k) for k in kernels]
    columns = {name: np.array([float(w[name]) for w in work]) for name in work[0]}
    prior, bounds = {
        "gemm": (CpuProduct(), PRODUCT_BOUNDS),
        "attention": (CpuAttention(), ATTENTION_BOUNDS),
        "vector": (CpuChain(), CHAIN_BOUNDS),
    }[kind]
    return lambda p: time_s(kind, columns, site, p), prior, bounds


def write_here(session: Session, name: str, out: str = "") -> tuple[Calibration, list[Path]]:
    """Fit a session and write its machine and calibration into a catalogue folder.

    Args:
        session: what was measured.
        name: of the machine.
        out: catalogue folder; empty = the user's.

    Raises:
        InputError: the folder cannot be written to.
    """
    folder = folder_to_write(out)
    if session.device != "cpu":
        from steelyard.calibrate.here_gpu import gpu_sections
        from steelyard.calibrate.tables import files_of

        machine, sections = gpu_sections(session)
        texts = files_of(machine.name, sections)
        paths = write_files(folder, {f"calibration/{file}": text for file, text in texts.items()})
        return Calibration(machine, "", tuple(sections), texts), paths
    found = calibrate_session(session, name)
    files = {f"machines/{name}.toml": found.machine_toml}
    files |= {f"calibration/{name}/{file}": text for file, text in found.files.items()}
    return found, write_files(folder, files)


def measured_with(machine: Machine) -> tuple[int, tuple[str, ...]]:
    """(threads, number formats) a machine of this computer was measured with.

    Raises:
        InputError: it was not measured by ``calibrate --here``.
    """
    if not measured_cpu(machine.name):
        raise InputError(
            f"{machine.name} was not measured here; run `steelyard calibrate --here` first", field="machine"
        )
    engine = machine.compute[0]
    return int(engine.units), tuple(f for f in engine.peak if f in ("fp32", "bf16"))
