"""Products on the made-up ring of cores: weights pass from core to core, so a product waits for one trip around.

``T = hops t_hop + max(flops / peak, bytes / bandwidth) / 0.8``
"""

import numpy as np

from steelyard.cost.kinds import GEMM
from steelyard.cost.models import KernelTime, cost_model
from steelyard.cost.place import roofline

#: Time of one hop of the ring, s.
HOP_S = 20e-9
#: Share of the peak that is reached once the ring is full.
SUSTAINED = 0.8


@cost_model(GEMM, families=("ring",))
def ring_gemm(kernel, context):
    """Price a product on the ring."""
    trip = context.site.engine.units * HOP_S
    return KernelTime(trip + np.maximum(*roofline(kernel, context.site)) / SUSTAINED, 0.2, "steelyard-example: ring")
