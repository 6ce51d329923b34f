"""Counted ops of an op list: a number over a rate that somebody measured, else their work on the vector engine.

time = number / rate, or launch + number * work / (frac * vector peak)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from steelyard.cost.kernel import Kernel
from steelyard.cost.kinds import Kind, Structure
from steelyard.cost.models import KernelTime, PricingContext, cost_model
from steelyard.deployment.plan import Plan
from steelyard.errors import normalise
from steelyard.workload.oplist import numbers

__all__ = ["COUNTED", "counted"]

#: Share of the vector peak that chains of integer operations reach, and the spread of that guess and of a rate.
_VECTOR_FRAC, _GUESS_SPREAD, _RATE_SPREAD = 0.5, 0.7, 0.2
_LAUNCH_S = 3e-6


def _features(s: Structure, plan: Plan) -> Mapping[str, Any]:
    return {"number": numbers(s.ops[0])}


COUNTED = Kind(
    "counted", lambda s: all("rate" in op.facts for op in s.ops) and len(s.ops) == 1, _features, engine="vector"
)


@cost_model(COUNTED)
def counted(kernel: Kernel, context: PricingContext) -> KernelTime:
    """A number of ops of a rate."""
    facts, site = kernel.ops[0].facts, context.site
    number = np.asarray(kernel.features["number"], dtype=np.float64)
    rate = next((r for name, r in facts["per_s"].items() if normalise(name) == normalise(site.machine.name)), None)
    if rate:
        return KernelTime(number / rate, _RATE_SPREAD, f"rate of {facts['rate']}: {facts['source']}")
    time = _LAUNCH_S + number * facts["work"] / (_VECTOR_FRAC * site.peak_ops_per_s)
    return KernelTime(time, _GUESS_SPREAD, f"work of {facts['rate']} on the vector engine, a guess")
