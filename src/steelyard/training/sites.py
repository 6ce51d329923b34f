"""Where the kernels of a training step run on a machine."""

from __future__ import annotations

from steelyard.cost.site import site_for
from steelyard.errors import InputError
from steelyard.machine.cluster import Cluster
from steelyard.training.work import Sites

__all__ = ["sites_of"]


def sites_of(cluster: Cluster, precision: str) -> Sites:
    """Where the kernels of a training step run. Raises :class:`InputError`: the machine has no such arithmetic."""
    machine = cluster.machine
    try:
        products = site_for(machine, precision, "" if precision != "mxfp4" else "mxfp4")
    except InputError as error:
        raise InputError(error.problems[0].message, field="precision") from None
    wide_format = precision if products.compute in ("fp32", "tf32", "fp16") else "bf16"
    try:
        wide = site_for(machine, wide_format)
    except InputError:
        wide = site_for(machine, "fp16")
    return Sites(products, wide, wide)
