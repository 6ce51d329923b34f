"""Plans of training runs: layouts weighed per CPU-second, all in, and the CPU seconds of a plan."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

import steelyard as sy

__all__ = ["QUESTIONS", "run"]

#: A dense model on one machine, on two of them in time, and a model with experts; large enough for layouts to matter.
QUESTIONS: Mapping[str, Mapping[str, Any]] = {
    "llama-3.1-405b on 1,024 H100": {
        "model": "llama-3.1-405b",
        "on": "h100_sxm:1024",
        "gbs": 1536,
        "seq": 8192,
        "tokens": "15T",
    },
    "llama-3.1-70b on H100 or B200": {
        "model": "llama-3.1-70b",
        "on": "h100_sxm,b200_sxm",
        "gbs": "4Mtok",
        "tokens": "2T",
        "by": "30d",
    },
    "deepseek-v3 on 2,048 H100": {
        "model": "deepseek-v3",
        "on": "h100_sxm:2048",
        "gbs": 8192,
        "seq": 4096,
        "tokens": "15T",
        "framework": "bridge",
    },
}


def run() -> dict[str, dict[str, object]]:
    """CPU seconds of each plan in a warm process, and layouts weighed per second of the slowest of them."""
    sy.plan_training(**next(iter(QUESTIONS.values())))  # read the catalogue
    figures: dict[str, dict[str, object]] = {}
    rates = []
    for name, words in QUESTIONS.items():
        found = [sy.plan_training(**words) for _ in range(3)]
        seconds = statistics.median(a.seconds for a in found)
        rates.append(found[0].screened / seconds)
        aim = {"target": "<= 1"} if "405b" in name else {}
        figures[f"plan --train {name}"] = {"value": seconds, "unit": "CPU s", **aim}
    figures["layouts of trainings weighed, slowest of the three"] = {
        "value": min(rates),
        "unit": "layouts/s",
        "target": ">= 20,000",
    }
    return figures
