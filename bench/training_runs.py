"""Pipeline schedules played, and training runs with failures drawn, per CPU-second."""

from __future__ import annotations

import numpy as np

from bench.timing import cpu_s
from steelyard.deployment.failures import parse_failures
from steelyard.deployment.recovery import Checkpoint, Recovery
from steelyard.training.failure_runs import draw_runs
from steelyard.training.reliability import effective
from steelyard.training.schedule import bubble_s, play, schedule_table

#: A large pipeline: 131,072 slots.
SCHEDULE, STAGES, MICRO_BATCHES, CHUNKS = "interleaved", 16, 512, 8
#: Runs of 54 days on 16,384 devices.
RUNS, DAYS = 1000, 54
LAYOUTS = 1_000_000


def run() -> dict[str, dict[str, object]]:
    """Slots, failures, closed forms and layouts per CPU-second; the closed form must agree with the draws."""
    table = schedule_table(SCHEDULE, STAGES, MICRO_BATCHES, CHUNKS)
    played = play(table, 1.0, 1.0, 1.0)
    ideal = 3.0 * MICRO_BATCHES
    if not np.isclose(played.makespan_s, ideal + float(bubble_s(SCHEDULE, STAGES, MICRO_BATCHES, CHUNKS))):
        raise AssertionError("schedule played and in closed form disagree")
    slots = table.kind.size / cpu_s(lambda: play(table, 1.0, 1.0, 1.0))
    asked = parse_failures("llama3"), Checkpoint(5.0, 120.0), Recovery(spares=20)
    sizes = {"nodes": 2048, "devices": 16384, "replicas": 128}

    def drawn() -> object:
        return draw_runs(*asked, work_s=DAYS * 86400.0, runs=RUNS, **sizes)

    runs = draw_runs(*asked, work_s=DAYS * 86400.0, runs=RUNS, **sizes)
    if not np.isclose(runs.ettr_frac, float(effective(*asked, **sizes).ettr_frac), rtol=5e-3):
        raise AssertionError("closed form and draws disagree")
    failures = float(runs.interruptions.sum()) / cpu_s(drawn, runs=3)
    many = np.arange(1, LAYOUTS + 1)
    closed = LAYOUTS / cpu_s(lambda: effective(*asked[:2], nodes=many, devices=8 * many), runs=3)
    p, m = many % 64 + 1, many % 512 + 1
    bubbles = LAYOUTS / cpu_s(lambda: bubble_s("zb-h1", p, m, 1, 1.0, 1.0, 1.0), runs=3)
    return {
        "passes of a pipeline schedule played": {"value": slots, "unit": "passes/CPU-s"},
        "failures of training runs drawn": {"value": failures, "unit": "failures/CPU-s", "target": ">= 100,000"},
        "training runs with failures in closed form": {"value": closed, "unit": "runs/CPU-s"},
        "bubbles of layouts in closed form": {"value": bubbles, "unit": "layouts/CPU-s"},
    }
