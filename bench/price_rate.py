"""Scenarios priced per CPU-second on the paths that users take: many at once, one by one, and a table of ranges.

A scenario is a whole estimate (prefill, decode, memory, energy, money, intervals) of Llama-3.1-70B in fp8, tensor
parallel over eight H100s, at its own batch and lengths. A sweep is ``steelyard.study`` in memory, findings included;
its rate is that of further points, without the fixed cost of a study. The ranges of ``steelyard estimate`` call
``estimate_batch`` as studies do; ``steelyard.estimate`` is one row of the same arithmetic.
"""

from __future__ import annotations

import sys

import numpy as np

import steelyard as sy
from bench.timing import cpu_s, process_s
from steelyard.estimation.estimate import estimate_batch

#: 98,304 scenarios: batches x prompts x answers, as a sweep has them.
GRID = (np.arange(1, 257), np.arange(128, 32769, 256), np.array([64, 256, 1024]))
#: Scenarios whose sizes have nothing in common.
SCATTERED = 100_000
LOOPED = 40
#: 38,400 rows.
TABLE = "estimate llama-3.1-8b --on h100_sxm --batch 1-200+1 --isl 128-8192+128 --osl 64,256,1024 --csv"


def run() -> dict[str, dict[str, object]]:
    """Scenarios per CPU-second, and CPU time of the table; both paths must agree."""
    asked = {"tp": 8, "weights": "fp8", "kv": "fp8"}
    one = sy.estimate("llama-3.1-70b", "h100_sxm:8", batch=32, **asked)
    grid = [x.ravel() for x in np.meshgrid(*GRID, indexing="ij")]
    rng = np.random.default_rng(0)
    scattered = [rng.integers(low, high, SCATTERED) for low, high in ((1, 513), (128, 32768), (1, 1024))]
    looped = [x[:: len(x) // LOOPED][:LOOPED].tolist() for x in grid]

    def sweep(*axes: np.ndarray) -> object:
        grid = {n: x.tolist() for n, x in zip(("batch", "isl", "osl"), axes, strict=True)}
        fixed = {"model": "llama-3.1-70b", "on": "h100_sxm:8", **asked}
        return sy.study({"name": "rate", "kind": "estimate", "fixed": fixed, "grid": grid})

    def many(sizes: list[np.ndarray]) -> object:
        return estimate_batch(one.scenario.sized(*sizes))[0]

    def loop() -> list[float]:
        return [
            sy.estimate("llama-3.1-70b", "h100_sxm:8", batch=b, isl=i, osl=o, **asked).e2e_s
            for b, i, o in zip(*looped, strict=True)
        ]

    together = estimate_batch(one.scenario.sized(*looped))[0]
    if together is None or not np.allclose(together.e2e_s, loop(), rtol=1e-12):
        raise AssertionError("many at once and one by one disagree")
    few = [x[:: len(x) // 2][:2] for x in GRID]
    further_s = cpu_s(lambda: sweep(*GRID), runs=3) - cpu_s(lambda: sweep(*few), runs=3)
    swept = (len(grid[0]) - 2 ** len(few)) / further_s
    fast, spread = len(grid[0]) / cpu_s(lambda: many(grid), runs=3), SCATTERED / cpu_s(lambda: many(scattered), runs=3)
    slow = LOOPED / cpu_s(loop, runs=3)
    _, table = process_s([sys.executable, "-m", "steelyard.cli.main", *TABLE.split()], runs=3, warm_up=1)
    return {
        "sweep with sy.study": {"value": swept, "unit": "scenarios/CPU-s", "target": ">= 300,000"},
        "estimates of its points": {"value": fast, "unit": "scenarios/CPU-s"},
        "estimates of unrelated sizes": {"value": spread, "unit": "scenarios/CPU-s"},
        "estimates one by one": {"value": slow, "unit": "scenarios/CPU-s"},
        "estimate over ranges, 38,400 rows as CSV": {"value": table, "unit": "s CPU", "target": "<= 5"},
    }
