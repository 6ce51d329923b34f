"""Choosing tokens from their scores: what is moved beside reading every score once for the largest.

    time = requests * scores * bytes / (efficiency * device memory bandwidth)

Greedy requests take the largest score, which the sampler's own kernel prices. Drawing one makes probabilities of them
(softmax: two reads, one write), noise (one write), the quotient of both (two reads, one write) and its largest (one
read): eight passes over numbers of 4 bytes. Drawing with top-p or top-k first finds which tokens may be drawn. Kernels
made for it (FlashInfer, Triton) take a few passes more; PyTorch's way sorts every score with its place, sums, masks and
scatters them back. ``Engine.filter_bytes`` says how much that is as if it streamed; see docs/methods/vector.md.
Devices that share the vocabulary gather all scores, and each draws from all of them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np

from steelyard.cost.kernel import Kernel
from steelyard.cost.models import PricingContext
from steelyard.cost.op_models import vector_site
from steelyard.deployment.engine import Engine
from steelyard.deployment.plan import Plan
from steelyard.deployment.sharding import split_ranks

__all__ = ["drawing", "greedy_note", "sampling_s"]

#: Bytes moved per score where tokens are drawn from all of them.
DRAWN_BYTES: Final = 32.0
#: Bytes per score from which top-p changes a step so much that an answer for greedy requests says so.
SORTED_BYTES: Final = 256.0


def _moved_bytes(kernel: Kernel, plan: Plan, engine: Engine) -> Any:
    """Bytes that drawing tokens moves beside reading scores for the largest; 0 of greedy ones, and of other kernels."""
    if engine.sampling == "greedy" or not kernel.ops or kernel.ops[-1].map != "sample":
        return 0.0
    op = kernel.ops[-1]
    gathered = plan.tp if "v" in split_ranks(op, plan) else 1
    scores = np.asarray(op.size("t"), dtype=np.float64) * np.asarray(op.size("v"), dtype=np.float64) * gathered
    return scores * (DRAWN_BYTES if engine.sampling == "random" else engine.filter_bytes)


def sampling_s(kernel: Kernel, plan: Plan, context: PricingContext) -> Any:
    """Time (s) that drawing tokens adds to a kernel."""
    moved = _moved_bytes(kernel, plan, context.engine)
    if not np.any(moved):
        return 0.0
    device, found = vector_site(context)
    return moved / (found.parameters.efficiency * device.dram_bytes_per_s)


def drawing(kernel: Kernel, plan: Plan, engine: Engine) -> Kernel:
    """The kernel with what drawing tokens moves in its traffic, for its energy."""
    moved = _moved_bytes(kernel, plan, engine)
    if not np.any(moved):
        return kernel
    return replace(kernel, traffic={**kernel.traffic, "weight": kernel.traffic.get("weight", 0.0) + moved})


def greedy_note(engine: Engine) -> tuple[str, ...]:
    """What to say of greedy requests on an engine that sorts all scores for others."""
    if engine.sampling != "greedy" or engine.filter_bytes < SORTED_BYTES:
        return ()
    return ("requests are greedy; drawing with top-p or top-k, this release sorts every score (--sampling top-p)",)
