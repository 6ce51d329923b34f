"""A GPU of this computer, measured through PyTorch: its sections, on the catalogue's figures of that GPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard.calibrate.here import FOLDS, folds_of
from steelyard.calibrate.measure.session import Measured, Session
from steelyard.calibrate.task import Section, Task, fit_task
from steelyard.calibrate.tasks import attention_task, gemm_task, vector_task
from steelyard.cost.attention_kernels import attention_kernel
from steelyard.errors import InputError, UnknownName
from steelyard.machine.catalogue import find_machine
from steelyard.machine.component import Machine

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["gpu_sections"]

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
    import pandas as pd

    about = {"source": f"steelyard calibrate --here, {session.backend}", "split": "whole shapes left out"}

    def frame(chosen: Sequence[Measured], **more: Any) -> pd.DataFrame:
        table = pd.DataFrame([{k: float(v) for k, v in m.case.shape.items()} for m in chosen])
        return table.assign(time_s=[m.time_s for m in chosen], fitted=folds_of(chosen) != 0, **more)

    for fmt in (f for f in session.number_formats if f != "fp32"):
        mine = [m for m in rows if m.case.number_format == fmt]
        products = [m for m in mine if m.case.op == "gemm" and m.case.shape["groups"] == 1]
        if products:
            yield gemm_task(machine, "bf16", frame(products), **about)
        for phase in ("prefill", "decode"):
            calls = [m for m in mine if m.case.op == phase]
            if calls:
                kernels = [attention_kernel(machine.family, 16.0, m.case.shape["head_dim"]) for m in calls]
                table = frame(calls, kernel=kernels, window=0.0, kv_bits=16.0).rename(columns={"new": "new_tokens"})
                yield attention_task(machine, phase, table, **about)
    streams = [m for m in session.streams if m.case.detail in ("copy", "triad")]
    if streams:
        written = np.array([m.case.shape["bytes"] for m in streams])
        reads = np.array([2.0 if m.case.detail == "triad" else 1.0 for m in streams])
        table = frame(streams, read_bytes=written * reads, write_bytes=written, flops=0.0, rows=1.0)
        seen = np.arange(len(streams)) % FOLDS != 0
        yield vector_task(machine, table.assign(kind="elementwise", cold=False, fitted=seen), **about)
