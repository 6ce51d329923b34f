"""How long the commands people type take as whole processes, against an empty Python process."""

from __future__ import annotations

import sys

from bench.timing import process_s

ESTIMATE = (
    "estimate meta-llama/Llama-3.1-70B-Instruct --on h100_sxm:8 --tp 8 --batch 32 --isl 4000 --osl 500 --weights fp8"
)


def run() -> dict[str, dict[str, object]]:
    """Whole-process times, s, and their ratio to ``python -c pass``."""
    python = [sys.executable, "-m", "steelyard.cli.main"]
    empty, _ = process_s([sys.executable, "-c", "pass"])
    figures: dict[str, dict[str, object]] = {"python -c pass": {"value": empty, "unit": "s"}}
    for name, command, target in (
        ("import steelyard", [sys.executable, "-c", "import steelyard"], "0.120 over an empty process"),
        ("steelyard --help", [*python, "--help"], "0.3"),
        ("steelyard estimate (70B on 8 H100)", [*python, *ESTIMATE.split()], "0.5"),
    ):
        wall, cpu = process_s(command)
        figures[name] = {"value": wall, "unit": "s wall", "target": target}
        figures[f"{name}: CPU"] = {"value": cpu, "unit": "s CPU", "target": target}
        figures[f"{name}: ratio to an empty process"] = {"value": wall / empty, "unit": "x"}
    return figures
