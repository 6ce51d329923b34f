"""What a run should show in its first steps: ``check.json``, and a script that compares a log with it."""

from __future__ import annotations

import json
from typing import Any

from steelyard._version import __version__
from steelyard.launch.training_job import TrainJob

__all__ = ["SCHEMA", "check_json", "check_script"]

SCHEMA = "steelyard.train-check/1"
_GIB = 2.0**30


def expected(job: TrainJob) -> dict[str, Any]:
    """Expected numbers with their intervals; memory as PyTorch's allocator reserves it, and as the driver shows it."""
    found, context = job.found, job.plan.outside_bytes
    low, high = found.interval["peak_memory_bytes"]
    stage = found.stages[found.peak_stage]

    def three(value: float, ends: tuple[float, float]) -> dict[str, float]:
        return {"value": value, "low": ends[0], "high": ends[1]}

    step = {
        "tokens_per_step": found.tokens_per_step,
        "step_s": three(found.step_s, found.interval["step_s"]),
        "tokens_per_s_per_device": three(found.tokens_per_s_per_device, found.interval["tokens_per_s_per_device"]),
    }
    if (done := found.rewarded) is not None:
        rates = tuple(done.tokens / end / done.devices for end in reversed(done.ends_s))
        step = {
            "tokens_per_step": done.tokens,
            "step_s": three(done.step_s, done.ends_s),
            "tokens_per_s_per_device": three(done.tokens_per_s / done.devices, (rates[0], rates[1])),
        }
    return {
        "schema": SCHEMA,
        "version": __version__,
        "framework": job.plan.framework.called,
        "model": job.repository,
        "devices": job.devices,
        "skip_steps": 5 if done is None else 1,
        **step,
        "model_tflops_per_device": found.model_tflops_per_device,
        "peak_reserved_gib": three(
            (stage.reserved_bytes - context) / _GIB, ((low - context) / _GIB, (high - context) / _GIB)
        ),
        "peak_device_gib": three(stage.reserved_bytes / _GIB, (low / _GIB, high / _GIB)),
        "stages": [
            {"stage": i, "reserved_gib": (s.reserved_bytes - context) / _GIB} for i, s in enumerate(found.stages)
        ],
    }


def check_json(job: TrainJob) -> str:
    """``check.json``."""
    return json.dumps(expected(job), indent=2) + "\n"


def check_script() -> str:
    """``check.py``: needs Python alone."""
    return _SCRIPT


_SCRIPT = '''\
#!/usr/bin/env python3
"""Says whether a run is as planned: ./check.py train.log (or - for standard input).

Reads the lines of Megatron, torchtitan, the Transformers Trainer and verl. Exit code 0: within the intervals of
check.json, 1: not, 2: too few steps were found.
"""

import json
import re
import statistics
import sys
from pathlib import Path

STEP_MS = re.compile(r"elapsed time per iteration \\(ms\\): ([0-9.]+)")
VERL_S = re.compile(r"timing_s/step:([0-9.]+)")
VERL_GB = re.compile(r"perf/max_memory_reserved_gb:([0-9.]+)")
TPS = re.compile(r"\\btps: ([0-9,]+)")
BAR = re.compile(r"([0-9.]+)(s/it|it/s)\\b")
TITAN_GIB = re.compile(r"memory: *([0-9.]+)GiB")
MEGATRON_MIB = re.compile(r"max reserved: ([0-9.]+)")
COLOURS = re.compile(r"\\x1b\\[[0-9;]*m")


def read(text, plan):
    """Seconds of every step, and the largest memory in GiB."""
    text = COLOURS.sub("", text)
    per_device = plan["tokens_per_step"] / plan["devices"]
    steps = [float(x) / 1e3 for x in STEP_MS.findall(text)] or [float(x) for x in VERL_S.findall(text)]
    if not steps:
        steps = [per_device / float(x.replace(",", "")) for x in TPS.findall(text) if float(x.replace(",", ""))]
    if not steps:
        bars = ((float(x), unit) for x, unit in BAR.findall(text))
        steps = [x if unit == "s/it" else 1 / x for x, unit in bars if x]
    held = [float(x) for x in TITAN_GIB.findall(text)] + [float(x) / 1024 for x in MEGATRON_MIB.findall(text)]
    held += [float(x) for x in VERL_GB.findall(text)]
    return steps, max(held, default=None)


def said(name, unit, value, ends):
    """One line, and whether the value is within the interval."""
    good = ends["low"] <= value <= ends["high"]
    words = "as planned" if good else "above the interval" if value > ends["high"] else "below the interval"
    planned = f"{ends['value']:,.4g} ({ends['low']:,.4g} to {ends['high']:,.4g})"
    print(f"{name}: {value:,.4g} {unit}, planned {planned}: {words}")
    return good


def main(arguments):
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    plan = json.loads(Path(__file__).with_name("check.json").read_text(encoding="utf-8"))
    source = sys.stdin if arguments[0] == "-" else open(arguments[0], encoding="utf-8", errors="replace")
    with source:
        steps, held = read(source.read(), plan)
    kept = steps[plan["skip_steps"] :]
    if not kept:
        needed = f"more than {plan['skip_steps']} are needed (the first are slower)"
        print(f"{len(steps)} steps found; {needed}", file=sys.stderr)
        return 2
    step = statistics.median(kept)
    good = said("step", "s", step, plan["step_s"])
    rate = plan["tokens_per_step"] / step / plan["devices"]
    said("tokens a second and device", "", rate, plan["tokens_per_s_per_device"])
    if held is None:
        low, high = (plan["peak_device_gib"][end] for end in ("low", "high"))
        print(f"memory: none in the log; nvidia-smi should show {low:.1f} to {high:.1f} GiB on the fullest device")
    else:
        good = said("memory the allocator reserved", "GiB", held, plan["peak_reserved_gib"]) and good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
'''
