"""A GPU of this computer, measured through PyTorch: its sections, on the catalogue's figures of that GPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from steelyard.calibrate.fit import Section, fit_task
from steelyard.calibrate.here import FOLDS, folds_of
from steelyard.calibrate.measure.session import Measured, Session
from steelyard.calibrate.tasks import Task, attention_task, gemm_task, vector_task
from steelyard.cost.attention_kernels import attention_kernel
from steelyard.errors import InputError, UnknownName
from steelyard.machine.catalogue import find_machine
from steelyard.machine.component import Machine
from steelyard.measurements.aic_attention import AttentionRows
from steelyard.measurements.aic_gemm import GemmRows

__all__ = ["gpu_sections"]

Array = NDArray[np.float64]

HOST_BOUND = 2.0
"""Calls shorter than this many launches are the host's (guess)."""
LEAST_GPU_ROWS = 8
"""Fewer rows of a section are not fitted."""


def gpu_sections(session: Session) -> tuple[Machine, list[Section]]:
    """Fit a session of a GPU: products, attention and vector kernels, on the catalogue's figures of that GPU.

    Calls that last less than HOST_BOUND times the shortest one measure the host that launches them, and are left out.

    Raises:
        InputError: the catalogue has no such GPU, or too few calls last longer than a launch.
    """
    try:
        machine = find_machine(session.device_title)
    except UnknownName as error:
        hint = "describe it with `steelyard calibrate NAME --samples FILE --like MACHINE`"
        raise InputError(f"{error.message}; {hint}", field="device") from None
    floor = HOST_BOUND * min(m.time_s for m in session.rows)
    rows = [m for m in session.rows if m.time_s > floor]
    tasks = [t for t in _gpu_tasks(machine, session, rows) if len(t) >= LEAST_GPU_ROWS]
    if not tasks:
        raise InputError(f"no call lasted longer than a launch ({floor * 1e6:.0f} us)", field="device")
    return machine, [fit_task(t) for t in tasks]


def _gpu_tasks(machine: Machine, session: Session, rows: Sequence[Measured]) -> Iterator[Task]:
    source = f"steelyard calibrate --here, {session.backend}"
    split = "whole shapes left out"

    def column(chosen: Sequence[Measured], name: str) -> Array:
        return np.array([m.case.shape.get(name, 0.0) for m in chosen])

    for fmt in (f for f in session.number_formats if f != "fp32"):
        chosen = [
            m for m in rows if m.case.op == "gemm" and m.case.number_format == fmt and m.case.shape["groups"] == 1
        ]
        time_s, seen = np.array([m.time_s for m in chosen]), folds_of(chosen) != 0
        m, n, k = (column(chosen, name) for name in ("m", "n", "k"))
        table = GemmRows(machine.name, "bf16", source, m, n, k, time_s, np.full(len(chosen), "", dtype=np.str_))
        yield gemm_task(machine, table, seen, split=split)
        for phase in ("prefill", "decode"):
            chosen = [m for m in rows if m.case.op == phase and m.case.number_format == fmt]
            zeros, bits = np.zeros(len(chosen)), np.full(len(chosen), 16.0)
            kernels = [attention_kernel(machine.family, 16.0, m.case.shape["head_dim"]) for m in chosen]
            attention = AttentionRows(
                kernel=np.asarray(kernels, dtype=np.str_),
                batch=column(chosen, "batch"),
                new_tokens=column(chosen, "new"),
                context=column(chosen, "context"),
                heads=column(chosen, "heads"),
                kv_heads=column(chosen, "kv_heads"),
                head_dim=column(chosen, "head_dim"),
                window=zeros,
                kv_bits=bits,
                time_s=np.array([m.time_s for m in chosen]),
                base_s=zeros,
                base_context=zeros,
            )
            yield attention_task(machine, phase, attention, folds_of(chosen) != 0, source=source, split=split)
    streams = [m for m in session.streams if m.case.detail in ("copy", "triad")]
    moved = np.array([m.case.shape["bytes"] for m in streams])
    reads = np.array([2.0 if m.case.detail == "triad" else 1.0 for m in streams])
    ones = np.ones(len(streams))
    columns = {"read_bytes": moved * reads, "write_bytes": moved, "flops": 0.0 * ones, "rows": ones, "cold": 0.0 * ones}
    columns["overhead"] = 0.0 * ones
    yield vector_task(
        machine,
        {**columns, "kind": np.full(len(streams), "elementwise")},
        np.array([m.time_s for m in streams]),
        np.arange(len(streams)) % FOLDS != 0,
        source=source,
        split=split,
    )
