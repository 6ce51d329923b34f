"""Fair timing: repeated runs, the median quoted."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable, Sequence

__all__ = ["call_s", "cpu_s", "process_s"]


def cpu_s(work: Callable[[], object], runs: int = 5, warm_up: int = 1) -> float:
    """Median CPU time of a call, s."""
    return call_s(work, runs, warm_up, time.process_time)


def call_s(
    work: Callable[[], object], runs: int = 5, warm_up: int = 1, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Median time of a call by a clock (default: wall time), s."""
    for _ in range(warm_up):
        work()
    times = []
    for _ in range(runs):
        start = clock()
        work()
        times.append(clock() - start)
    return statistics.median(times)


def process_s(command: Sequence[str], runs: int = 7, warm_up: int = 2) -> tuple[float, float]:
    """Median wall time and median CPU time of a whole process, s."""
    import resource

    wall, cpu = [], []
    for i in range(runs + warm_up):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        took = time.perf_counter() - start
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if i >= warm_up:
            wall.append(took)
            cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return statistics.median(wall), statistics.median(cpu)
