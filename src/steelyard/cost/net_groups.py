"""Terms of runtimes whose compilers plan a whole network: phones' NPUs and dataflow chips.

Such a compiler keeps activations on chip where it can, streams weights beside the work, and runs what is not a product
on a vector unit. Its layers are not published, so terms are few and of kinds of work rather than of kernel classes:

=====================  =================================================================================
``dense.compute``      convolutions with full tiles, at the peak of the matrix engine, in s
``linear.compute``     products with weights of rows of tokens, which are laid out anew for the engine
``grouped.compute``    the same of grouped convolutions
``mixing.compute``     products of activations with activations (attention), and recurrences
``depthwise.compute``  depthwise convolutions at the peak of the vector engine
``vector.compute``     pointwise ops, normalisations and softmax that follow no product, there too
``weights.traffic``    bytes of weights / bandwidth of memory
``CLASSES.traffic``    bytes of activations that pass between kernels, those that fit on chip at its rate
``kernels``            kernels
``load.weights``       bytes of weights of a network that does not stay on chip, loaded once per pass
``load.kernels``       its kernels
=====================  =================================================================================

A chip that keeps a whole network (Hailo) needs no memory while it fits; otherwise its parts are loaded one after
another for every batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from steelyard.cost.net_kernels import NetKernels
from steelyard.cost.net_terms import moved_s, streamed_s
from steelyard.cost.site import Site
from steelyard.deployment.runtime import Runtime
from steelyard.workload.op import Array
from steelyard.workload.tensor_graph import TensorGraph

__all__ = ["GROUPS", "SHARES", "Groups", "elsewhere", "group_terms", "share_of", "stays_on_chip"]

_DENSE, _MIXING = ("conv1x1", "conv"), ("matmul", "attention", "recurrent")
_DEPTHWISE = ("depthwise", "depthwise_large", "wide")
_POINTWISE, _NORM = ("pointwise", "fused", "batch_norm", "cast", "weight_cast"), ("norm", "softmax", "reduce")
_MOVES = ("copy", "gather", "resize", "pool", "other", "sort")
#: Classes whose activations are one term of traffic.
_TRAFFIC: Mapping[str, Sequence[str]] = {
    "products": (*_DENSE, "linear", "grouped", *_DEPTHWISE),
    "mixing": _MIXING,
    "pointwise": _POINTWISE,
    "norm": _NORM,
    "moves": _MOVES,
}
#: Every term.
GROUPS: tuple[str, ...] = (
    *(f"{n}.compute" for n in ("dense", "linear", "grouped", "mixing", "depthwise", "vector")),
    "weights.traffic",
    *(f"{n}.traffic" for n in _TRAFFIC),
    *("kernels", "load.weights", "load.kernels"),
)
#: What a device's own scale multiplies: arithmetic, memory, and what is paid per kernel, load or pass.
SHARES = ("compute", "traffic", "host")

Groups = Mapping[str, Array]


def share_of(term: str) -> int:
    """Which of :data:`SHARES` a term belongs to."""
    return 0 if term.endswith(".compute") else 1 if term.endswith(".traffic") else 2


def stays_on_chip(kernels: NetKernels, site: Site, runtime: Runtime) -> bool:
    """Whether a compiler that keeps networks on chip can keep this one: weights and what each kernel needs beside them
    fit, and nothing needs a whole row of scores before it goes on."""
    if any(c in runtime.splits for c in kernels.classes):
        return False
    weights = float(np.max(kernels.weights.sum(axis=0))) if len(kernels) else 0.0
    return weights + runtime.kernel_bytes * len(kernels) <= site.l2_bytes


def group_terms(kernels: NetKernels, site: Site, runtime: Runtime) -> Groups:
    """Every term, ``[kernels, scenarios]``."""

    def of(classes: Sequence[str], values: Any) -> Array:
        chosen = np.array([c in classes for c in kernels.classes], dtype=np.bool_)[:, None]
        return np.where(chosen, values, 0.0)

    moved, streamed = moved_s(kernels, site), streamed_s(kernels, site)
    ones = np.ones_like(moved)
    found = {
        "dense.compute": of(_DENSE, kernels.padded / site.peak_ops_per_s),
        "linear.compute": of(("linear",), kernels.padded / site.peak_ops_per_s),
        "grouped.compute": of(("grouped",), kernels.padded / site.peak_ops_per_s),
        "mixing.compute": of(_MIXING, kernels.padded / site.peak_ops_per_s),
        "depthwise.compute": of(_DEPTHWISE, kernels.flops / site.vector_ops_per_s),
        "vector.compute": of((*_POINTWISE, *_NORM), kernels.flops / site.vector_ops_per_s),
    }
    loads = 0.0 if runtime.keeps_network and stays_on_chip(kernels, site, runtime) else 1.0
    found |= {f"{name}.traffic": loads * of(classes, moved) for name, classes in _TRAFFIC.items()}
    if runtime.keeps_network:
        return {**found, "load.weights": loads * streamed, "load.kernels": loads * ones}
    return {**found, "weights.traffic": streamed, "kernels": ones}


def elsewhere(graph: TensorGraph, runtime: Runtime) -> tuple[str, ...]:
    """Ops of a network that a runtime hands to the CPU, by name; a convolution over frames is ``conv3d``."""
    names = {f"conv{len(n.facts['kernel'])}d" if n.op == "conv" else n.op for n in graph.nodes}
    return tuple(sorted(names & set(runtime.elsewhere)))
