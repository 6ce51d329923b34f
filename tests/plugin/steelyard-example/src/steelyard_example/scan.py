"""Recurrences as a kind of their own: each step of the chain waits for the one before.

``T = steps t_sync + max(flops / peak, bytes / bandwidth) / 0.5``
"""

import numpy as np

from steelyard.cost.kinds import Kind
from steelyard.cost.models import KernelTime, cost_model
from steelyard.cost.place import roofline

#: Time one step waits for the step before, s.
SYNC_S = 1e-6
#: Share of the limit a chain of small products reaches.
SUSTAINED = 0.5


def features(structure, plan):
    """The length of the serial chain."""
    return {"steps": structure.ops[0].steps()}


#: Fused ops of which a rank runs one after another.
SCAN = Kind("scan", lambda s: bool(s.iterative), features, refines=("vector", "gemm", "state_scan"), weights_cold=False)


@cost_model(SCAN)
def scan(kernel, context):
    """Price a recurrence."""
    limit = np.maximum(*roofline(kernel, context.site))
    return KernelTime(kernel.features["steps"] * SYNC_S + limit / SUSTAINED, 0.3, "steelyard-example: scan")
