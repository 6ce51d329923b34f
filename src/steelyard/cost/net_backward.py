"""The backward pass and the update of a training step, from the kernels of the forward pass.

A product is differentiated by its input and by its weight: two products of as many operations. Any other kernel reads
the gradient of its output beside what it read, and writes that of its input. The update reads weight, gradient and two
moments and writes weight and moments, in 32 bits.
"""

from __future__ import annotations

import numpy as np

from steelyard.cost.net_kernels import PRODUCTS, NetKernels

__all__ = ["OPTIMIZER_BYTES", "with_backward"]

#: Bytes of an update per parameter: four values read and three written, 32 bits each (Adam and its kin).
OPTIMIZER_BYTES = (16.0, 12.0)
#: Kernels without a gradient.
_NONE = ("weight_cast", "cast", "gather", "sort")


def with_backward(kernels: NetKernels, parameters: float) -> NetKernels:
    """The kernels of a training step.

    Args:
        kernels: of the forward pass.
        parameters: of the network.
    """
    product = [i for i, c in enumerate(kernels.classes) if c in PRODUCTS or c.startswith("depthwise")]
    other = [i for i, c in enumerate(kernels.classes) if c not in _NONE and i not in set(product)]
    order = [*range(len(kernels)), *product, *product, *other]
    n, p = len(kernels), len(product)
    scenarios = kernels.flops.shape[1]
    update = np.full((1, scenarios), float(parameters))
    dgrad, wgrad, rest = slice(n, n + p), slice(n + p, n + 2 * p), slice(n + 2 * p, len(order))
    read, written, weights = (x[order].copy() for x in (kernels.read, kernels.written, kernels.weights))
    read[dgrad], written[dgrad] = kernels.written[product], kernels.read[product]
    read[wgrad], written[wgrad] = kernels.written[product] + kernels.read[product], kernels.weights[product]
    weights[wgrad] = 0.0
    read[rest], written[rest] = kernels.read[other] + kernels.written[other], kernels.read[other]
    return NetKernels(
        names=(*(kernels.names[i] for i in order), "optimizer"),
        classes=(*(kernels.classes[i] for i in order), "pointwise"),
        ops=(*(kernels.ops[i] for i in order), "update"),
        flops=np.vstack([kernels.flops[order], 8 * update]),
        padded=np.vstack([kernels.padded[order], 8 * update]),
        read=np.vstack([read, OPTIMIZER_BYTES[0] * update]),
        written=np.vstack([written, OPTIMIZER_BYTES[1] * update]),
        weights=np.vstack([weights, 0 * update]),
        serial=np.vstack([kernels.serial[order], np.ones((1, scenarios))]),
    )
