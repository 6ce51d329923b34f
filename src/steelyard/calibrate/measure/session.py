"""One measurement of this computer: streams first, then every case, interleaved; what is needed to write its files."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from steelyard.calibrate.measure.host import Host, describe_host
from steelyard.calibrate.measure.plan import Case, cases, stream_cases
from steelyard.calibrate.measure.timing import Timed, Timer, interleaved
from steelyard.errors import InputError

__all__ = ["Measured", "Session", "measure", "quiet_threads"]

Progress = Callable[[str, int, int], None]
"""Told (what, done, total)."""

BUDGET_S = 75.0
"""Wall time for the cases; streams, set-up and fits take some 25 s more."""
QUICK_BUDGET_S = 20.0
STREAM_BUDGET_S = 8.0
POOL_CACHES = 4.0
"""Pool of rotating weights, in last-level caches."""
LEAST_POOL_BYTES = 2.0**27


@dataclass(frozen=True, slots=True)
class Measured:
    """One case with its time."""

    case: Case
    timed: Timed

    @property
    def time_s(self) -> float:
        """Seconds per call."""
        return self.timed.time_s


@dataclass(frozen=True, slots=True)
class Session:
    """Everything one measurement found."""

    host: Host
    backend: str
    """``torch 2.x`` or ``numpy 2.x``."""
    device: str
    """``cpu``, ``cuda`` or ``mps``."""
    device_title: str
    threads: int
    number_formats: tuple[str, ...]
    rows: tuple[Measured, ...]
    streams: tuple[Measured, ...]
    seconds: float
    facts: dict[str, float]
    """Of a GPU: units, memory_bytes, l2_bytes, capability."""

    @property
    def drift(self) -> float:
        """Median log ratio of late to early readings: how much the machine slowed down meanwhile."""
        return float(np.median([m.timed.drift for m in self.rows])) if self.rows else 0.0

    @property
    def noise(self) -> float:
        """Median over cases of log(median round / kept round)."""
        return float(np.median([m.timed.spread for m in self.rows])) if self.rows else 0.0


def quiet_threads(host: Host) -> int:
    """Threads to measure with: every core, less those that other programs keep busy."""
    return max(1, host.cores - round(host.load))


def _blas_threads(host: Host) -> int:
    text = os.environ.get("OMP_NUM_THREADS", "")
    return int(text) if text.isdecimal() and int(text) > 0 else host.cores


def measure(
    *,
    quick: bool = False,
    threads: int = 0,
    device: str = "",
    progress: Progress = lambda *_: None,
    host: Host | None = None,
) -> Session:
    """Measure this computer, through PyTorch when it is installed, else NumPy.

    Args:
        quick: a third of the cases and a third of the time.
        threads: processor threads; 0 = what is free.
        device: ``cpu``, ``gpu``, ``cuda`` or ``mps``; empty = the CPU.
        progress: told what is being measured and how far it is.
        host: this computer, when it was described already.

    Raises:
        InputError: a GPU is asked for without PyTorch, or there is none.
    """
    began = time.perf_counter()
    host = host or describe_host()
    given, threads = threads, threads or quiet_threads(host)
    if threads < 1 or threads > 4096:
        raise InputError(f"expected 1 to 4096 threads, got {threads}", field="threads")
    facts: dict[str, float] = {}
    formats: tuple[str, ...] = ("fp32",)
    pool = min(max(POOL_CACHES * host.last_level_bytes, LEAST_POOL_BYTES), host.memory_bytes / 16)
    if importlib.util.find_spec("torch") is None:
        if device not in ("", "cpu"):
            raise InputError("measuring a GPU needs PyTorch: pip install 'steelyard[torch]'", field="device")
        from steelyard.calibrate.measure import kernels_numpy

        if given:
            raise InputError("NumPy takes its threads from OMP_NUM_THREADS; --threads needs PyTorch", field="threads")
        threads = _blas_threads(host)
        kernels: Any = kernels_numpy.Kernels(pool)
        found, kind, title = f"numpy {np.__version__}", "cpu", host.title
        timer: Timer = kernels.timer()
    else:
        import torch

        from steelyard.calibrate.measure import kernels_torch

        where = kernels_torch.find_device(device)
        formats = kernels_torch.number_formats(where, threads)
        kernels = kernels_torch.Kernels(where, pool, threads)
        found, kind, timer = f"torch {torch.__version__}", where.type, kernels.timer(threads)
        title, facts = (host.title, {}) if kind == "cpu" else kernels_torch.gpu_facts(where)
    stream_list = stream_cases(
        host.last_level_bytes if kind == "cpu" else facts.get("l2_bytes", 2.0**25), host.memory_bytes
    )
    streams = _run(stream_list, kernels, timer, STREAM_BUDGET_S, "memory", progress)
    rows = _run(cases(formats, quick=quick), kernels, timer, QUICK_BUDGET_S if quick else BUDGET_S, "kernels", progress)
    return Session(host, found, kind, title, threads, formats, rows, streams, time.perf_counter() - began, facts)


def _run(
    wanted: list[Case], kernels: Any, timer: Timer, budget_s: float, what: str, progress: Progress
) -> tuple[Measured, ...]:
    made = [(case, call) for case in wanted if (call := kernels.call(case)) is not None]
    rounds, done = 9, 0

    def tick(count: int) -> None:
        nonlocal done
        done += count
        progress(what, done, len(made) * (rounds + 1))

    timed = interleaved([call for _, call in made], timer, budget_s=budget_s, rounds=rounds, tick=tick)
    progress(what, len(made) * (rounds + 1), len(made) * (rounds + 1))
    return tuple(Measured(case, t) for (case, _), t in zip(made, timed, strict=True))
