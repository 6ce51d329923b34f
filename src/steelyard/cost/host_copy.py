"""Entries of the cache that a step fetches from the memory of the host, over the device's link to it.

time = bytes / (LINK_FRAC link),   after what chose them and before attention reads them
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steelyard.cost.host_memory import LINK_FRAC, SPREAD
from steelyard.cost.kernel import Kernel
from steelyard.cost.kinds import Kind, Structure
from steelyard.cost.models import KernelTime, PricingContext, cost_model
from steelyard.deployment.plan import Plan

__all__ = ["HOST_COPY", "host_copy"]


def _features(s: Structure, plan: Plan) -> Mapping[str, Any]:
    op = s.ops[0]
    width = plan.format("kv" if op.inputs[0].role == "kv" else "communication").stored_bits
    stated = {"rate": op.facts.get("link_rate", 0.0), "wait_s": op.facts.get("wait_s", 0.0)}
    return {"host_bytes": op.elements(op.inputs[0]) * width / 8, **stated}


#: A copy over a link: from host memory to the device, or between instances.
HOST_COPY = Kind("host_copy", lambda s: s.ops[0].facts.get("over") in ("host", "peers"), _features, engine="vector")


@cost_model(HOST_COPY)
def host_copy(kernel: Kernel, context: PricingContext) -> KernelTime:
    """Bytes over the link at the share of its rate that copies sustain."""
    f, links = kernel.features, context.cluster.machine.links("host")
    if f["rate"]:
        return KernelTime(f["wait_s"] + f["host_bytes"] / (LINK_FRAC * f["rate"]), SPREAD, "stated link")
    rate = links[0].bandwidth_bytes_per_s if links else context.site.dram_bytes_per_s  # one memory for both
    return KernelTime(f["host_bytes"] / (LINK_FRAC * rate), SPREAD, "link of the data sheet")
