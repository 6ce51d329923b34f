"""Requests simulated per second: Llama-2-7B on one A100 with Vidur's limits, one core, the kernel compiled.

The traces are those of ``peers/vidur`` under ``STEELYARD_DATA`` (default ``../shared``); without them, Poisson arrivals
at four requests per second with lognormal lengths of the same means.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from steelyard.deployment.deployment import Deployment, Pool
from steelyard.deployment.plan import Plan
from steelyard.simulation.arrays import play, setup_of
from steelyard.simulation.prepared import Options, Prepared, prepare
from steelyard.traffic.trace import Trace

#: Limits of the Vidur runs in ``peers/vidur``.
FLAGS = {"max_num_batched_tokens": 512, "max_num_seqs": 128, "num_gpu_blocks_override": 7424}


def trace_of(name: str, requests: int = 20_000) -> Trace:
    """A trace of ``peers/vidur``, else a synthetic one."""
    path = Path(os.environ.get("STEELYARD_DATA", "../shared")) / "peers" / "vidur" / f"{name}.csv"
    if path.exists():
        rows = np.loadtxt(path, delimiter=",", skiprows=1)
        return Trace(rows[:, 0], rows[:, 1], rows[:, 2], name=name)
    rng = np.random.default_rng(0)
    lengths = [np.clip(rng.lognormal(np.log(mean) - 0.5, 1.0, requests), 1, 2000).astype(int) for mean in (1100, 210)]
    return Trace(np.cumsum(rng.exponential(0.25, requests)), *lengths, name="synthetic")


def repeated(trace: Trace, requests: int) -> Trace:
    """The trace again and again, one after another, to so many requests."""
    times = -(-requests // len(trace))
    span = float(trace.arrived_at[-1]) + 1 / trace.rate_per_s
    arrived = (trace.arrived_at + span * np.arange(times)[:, None]).ravel()[:requests]
    return Trace(arrived, np.tile(trace.isl, times)[:requests], np.tile(trace.osl, times)[:requests], name="repeated")


def prepared(trace: Trace) -> Prepared:
    """The benchmark's question."""
    pool = Pool("a100_sxm", Plan(engine="vllm"), flags=FLAGS)
    return prepare(Deployment("llama-2-7b", (pool,)), trace, Options(log=1 << 16))


def rate(question: Prepared, runs: int = 5) -> tuple[float, float, float]:
    """``(requests per CPU second, steps per CPU second, steps)``: best of some runs, arrays and kernel, no records."""
    trace = question.trace
    first = question.first
    setup = setup_of(first.config, first.kv, trace, request_s=first.scenario.engine.request_s, log=0)
    served = np.zeros(len(trace), dtype=bool)
    best, steps = float("inf"), 0.0
    for _ in range(runs + 1):  # the first may compile
        start = time.process_time()
        steps = play(setup, question.table.tables, trace, "fcfs", "round-robin", 0, served, 0).totals["iterations"]
        best = min(best, time.process_time() - start)
    return len(trace) / best, steps / best, steps


def run() -> dict[str, dict[str, object]]:
    """Rates on the traces, on a million requests, and the peak memory of that."""
    figures: dict[str, dict[str, object]] = {}
    for name in ("poisson4_20000", "azureconv_5000"):
        requests, steps, _ = rate(prepared(trace_of(name)))
        figures[f"simulated requests, {name}"] = {
            "value": requests,
            "unit": "requests/s",
            "target": ">= 180,000, goal 500,000",
        }
        figures[f"simulated engine steps, {name}"] = {"value": steps, "unit": "steps/s"}
    start = time.process_time()
    prepared(trace_of("poisson4_20000"))
    figures["step table and trace prepared"] = {"value": time.process_time() - start, "unit": "s", "target": "< 1"}
    command = [sys.executable, "-c", "from bench.simulate import million; million()"]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    figures["simulated requests, a million of them"] = {"value": float(found[0]), "unit": "requests/s"}
    figures["peak memory of that process"] = {"value": float(found[1]), "unit": "MB", "target": "< 400"}
    for kernel, options, most in (("lean", [], 15), ("full", ["--speculate", "eagle:k=3"], 30)):
        seconds, peak = first_run(options)
        figures[f"first simulation of a machine, {kernel} kernel"] = {
            "value": seconds,
            "unit": "CPU s",
            "target": f"<= {most}",
        }
        figures[f"peak memory of that, {kernel} kernel"] = {"value": peak, "unit": "MB", "target": "< 400"}
    return figures


def first_run(options: list[str]) -> tuple[float, float]:
    """``(CPU seconds, peak MB)`` of the command line's first simulation, the kernel's compilation included."""
    question = ["simulate", "llama-3.1-8b", "--on", "h100_sxm", "--rate", "4/s", "--requests", "200"]
    command = [str(Path(sys.executable).with_name("steelyard")), *question, *options]
    with tempfile.TemporaryDirectory() as folder:
        child = subprocess.Popen(command, env=os.environ | {"XDG_CACHE_HOME": folder}, stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"{' '.join(command)} failed")
    return used.ru_utime + used.ru_stime, used.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def million() -> None:
    """A million requests through ``simulate``, records and summary included; print the rate and the peak memory."""
    from steelyard.simulation.run import run as finish

    question = prepared(repeated(trace_of("poisson4_20000"), 1_000_000))
    start = time.process_time()
    simulation = finish(question, time.perf_counter())
    simulation.summary()
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(1_000_000 / seconds, peak / 1e6)
