"""Recurrent states: linear attention and state spaces, worked on in chunks.

    time = launch + max(bytes / (memory_frac * DRAM), FLOPs / (matrix_frac * peak) + chunks * chain_s)

A decode step moves the state of every sequence in and out; a prefill computes products inside chunks on the matrix
engine, and hands the state from one chunk to the next: a chain that more units do not shorten.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steelyard.cost.kernel import Kernel
from steelyard.cost.kinds import Kind, Structure
from steelyard.cost.models import KernelTime, PricingContext, cost_model
from steelyard.cost.parameters import calibrated
from steelyard.cost.site import Site
from steelyard.deployment.plan import Plan
from steelyard.workload.op import Op

__all__ = ["SCAN", "ScanParameters", "scan", "scan_time_s"]


@dataclass(frozen=True, slots=True)
class ScanParameters:
    """Figures of the kernels; ``calibration/h20/scan.toml`` says where they are from."""

    launch_s: float = 3.0e-6
    """Fixed part of one launch in a captured graph."""
    memory_frac: float = 0.56
    """Share of the DRAM peak at which states are read and written."""
    matrix_frac: float = 0.47
    """Share of the 16-bit peak of the products inside chunks."""
    chain_s: float = 2.9e-6
    """From one chunk's state to the next."""


def _products_inside_chunks(s: Structure) -> bool:
    own = ("activation", "weight")  # with weights: a recurrence whose outputs are mixed into the next token (sLSTM)
    return any(op.iterative and all(t.role in own for t in op.tensors) for op in s.contractions)


#: Kernels of a prefill in chunks, where each is launched: flash-linear-attention's delta rule (norms of queries and
#: keys, sum of decays, products of keys, solve and merge, two vectors, states, outputs), Mamba-2's scan.
LAUNCHES_CORRECTED, LAUNCHES = 10, 5


def _features(s: Structure, plan: Plan) -> Mapping[str, Any]:
    op = next(op for op in s.contractions if op.iterative)
    new = op.steps() * np.asarray(_size(op, "m"), dtype=np.float64)
    corrected = any(op.name.endswith("_read") for op in s.contractions)
    prompt = 1 if any(t.role == "weight" for t in op.tensors) else LAUNCHES_CORRECTED if corrected else LAUNCHES
    launches = np.where(new > 1, prompt, 1)
    return {"batch": _size(op, "b"), "chunks": op.steps(), "heads": _size(op, "h"), "launches": launches}


def _size(op: Op, rank: str) -> Any:
    """Extent of a rank; 1 where the recurrence has none, as an op list's may."""
    return op.size(rank) if rank in op.ranks else 1.0


#: Products inside chunks of tokens (or of single tokens), and a state handed on between them.
SCAN = Kind("state_scan", _products_inside_chunks, _features, refines=("vector", "gemm"), multiplies="cache")


def scan_time_s(bytes_moved: Any, flops: Any, chunks: Any, site: Site, p: ScanParameters) -> NDArray[np.float64]:
    """Seconds of one kernel.

    Args:
        bytes_moved: compulsory bytes, states in and out included.
        flops: arithmetic operations.
        chunks: links of the chain.
        site: where it runs.
        p: parameters.
    """
    memory = np.asarray(bytes_moved, dtype=np.float64) / (p.memory_frac * site.dram_bytes_per_s)
    products = np.asarray(flops, dtype=np.float64) / (p.matrix_frac * site.peak_ops_per_s)
    return p.launch_s + np.maximum(memory, products + np.asarray(chunks, dtype=np.float64) * p.chain_s)


@cost_model(SCAN)
def scan(kernel: Kernel, context: PricingContext) -> KernelTime:
    """Linear attention and state spaces."""
    site = context.site
    found = calibrated("scan", ScanParameters, site.machine.name, (site.family,))
    time = scan_time_s(kernel.bytes, kernel.flops, kernel.features["chunks"], site, found.parameters)
    return KernelTime(time, found.spread, found.source)
