"""CPU seconds of plans: nine questions that static planners take 17 to 128 s of CPU for, and one of 32 devices.

Each asks for the cheapest deployment of a model on one kind of machine that holds 10 requests/s of a prompt and answer
length under an SLO on the 99th percentile of TTFT and the 95th of TPOT. The SLOs are what interactive services
publish: a first token within one or two seconds, then 20 to 33 tokens a second. The tenth asks for the most requests
that 32 H200 can serve with DeepSeek-V3, prompts and outputs in pools of their own: the largest search of one machine.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import steelyard as sy
from steelyard.search.answer import Answer

__all__ = ["QUESTIONS", "Asked", "answer", "run"]


@dataclass(frozen=True)
class Asked:
    """One question: mean prompt and answer in tokens, SLOs as ``steelyard.plan`` reads them."""

    model: str
    on: str
    isl: int
    osl: int
    ttft: str
    tpot: str
    engine: str = "trtllm"
    rate: str = "10/s"
    more: Mapping[str, Any] = field(default_factory=dict)
    target: str = "<= 3"
    """CPU seconds."""

    @property
    def name(self) -> str:
        """``llama-3.1-70b on h200_sxm, 4000 + 500``."""
        more = "".join(f", {k} {v}" for k, v in self.more.items())
        return f"{self.model} on {self.on}, {self.isl} + {self.osl}, TTFT {self.ttft}, TPOT {self.tpot}{more}"


QUESTIONS = (
    Asked("llama-3.1-70b", "h200_sxm", 4000, 500, "p99:1s", "p95:50ms"),
    Asked("llama-3.1-70b", "h200_sxm", 4000, 1000, "p99:2s", "p95:30ms"),
    Asked("llama-3.1-70b", "a100_sxm", 4000, 500, "p99:2s", "p95:50ms"),
    Asked("qwen3-32b", "h200_sxm", 4000, 500, "p99:1s", "p95:30ms"),
    Asked("qwen3-32b", "h200_sxm", 4000, 1000, "p99:1s", "p95:50ms"),
    Asked("qwen3-32b", "a100_sxm", 4000, 500, "p99:2s", "p95:50ms"),
    Asked("deepseek-v3", "h200_sxm", 4000, 500, "p99:2s", "p95:50ms"),
    Asked("deepseek-v3", "h200_sxm", 4000, 1000, "p99:2s", "p95:50ms"),
    Asked("llama-3.1-8b", "a100_sxm", 4000, 500, "p99:1s", "p95:30ms"),
    Asked(
        "deepseek-v3",
        "h200_sxm",
        4000,
        1000,
        "p99:2s",
        "p95:40ms",
        engine="vllm",
        rate="",
        more={"objective": "throughput", "mode": "disaggregated", "max_gpus": 32},
        target="<= 4",
    ),
)


def answer(asked: Asked) -> Answer:
    """Ask it."""
    return sy.plan(
        asked.model,
        asked.on,
        rate=asked.rate,
        isl=asked.isl,
        osl=asked.osl,
        ttft=asked.ttft,
        tpot=asked.tpot,
        engine=asked.engine,
        **asked.more,
    )


def run() -> dict[str, dict[str, object]]:
    """CPU seconds of each question in a warm process, and candidates screened per second of the slowest."""
    answer(QUESTIONS[0])  # compile, read the catalogue
    figures: dict[str, dict[str, object]] = {}
    rates = []
    for asked in QUESTIONS:
        answer(asked)
        found = [answer(asked) for _ in range(3)]
        seconds = statistics.median(a.cpu_s for a in found)
        if not asked.more:
            rates.append(statistics.median(a.screened_per_s for a in found))
        figures[f"plan {asked.name}"] = {"value": seconds, "unit": "CPU s", "target": asked.target}
    figures["candidates screened, slowest of the nine"] = {
        "value": min(rates),
        "unit": "candidates/s",
        "target": ">= 100,000",
    }
    return figures
