"""A network of fixed ops: the smallest workload, for anything that is not a language model.

    n = FixedGraph("resnet-stem", (Op("conv", "b c p+r q+s, k c r s -> b k p q", {...}, roles=(...)),))

A step computes the ops for a batch: the rank ``b`` takes the sequences of the step, the rank ``t`` its tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from steelyard.errors import InputError
from steelyard.workload.graph import Graph
from steelyard.workload.op import Array, Op, Size
from steelyard.workload.step import Step
from steelyard.workload.tower import Tower

__all__ = ["FixedGraph"]


@dataclass(frozen=True, eq=False)
class FixedGraph:
    """Ops in order; see :class:`~steelyard.workload.protocol.Workload` for the fields."""

    name: str
    ops: tuple[Op, ...]
    model_type: str = "graph"
    notes: tuple[str, ...] = ()
    native_weights: str = "bf16"
    native_formats: tuple[tuple[str, str], ...] = ()
    native_kv: str = ""
    extra_parameters: int = 0
    towers: tuple[Tower, ...] = ()
    depth: int = 1
    hidden: int = 0
    vocab: int = 0
    head: bool = False
    causal: bool = False
    latent: bool = False
    encodes: bool = False
    max_context: int = 0
    experts: int = 0
    head_groups: tuple[tuple[int, int], ...] = ()
    window: int = 0
    state_bytes: float = 0.0
    peak_elements: float = 0.0
    """Elements per token alive at once between two ops."""

    def __post_init__(self) -> None:
        if not self.ops:
            raise InputError("expected at least one op", field="ops")

    def kv_elements(self, context: Size, shards: int = 1) -> Array:
        """Nothing is kept."""
        return np.zeros(np.shape(context))

    def widest_elements(self, shards: int = 1) -> float:
        """``peak_elements`` over the devices that share it."""
        return self.peak_elements / shards

    def parameters(self) -> int:
        """Elements of all weights."""
        return round(float(Graph(self.name, self.ops).weight_elements())) + self.extra_parameters

    def active_parameters(self, embedding: bool = True) -> int:
        """All of them."""
        return self.parameters()

    def graph(self, step: Step, absorb: bool | None = None) -> Graph:
        """The ops with their rank ``b`` at the sequences and ``t`` at the tokens of the step."""
        ops = tuple(op.resized({"b": step.batch, "t": step.tokens}) for op in self.ops)
        facts = {
            "model_type": self.model_type,
            "native_weights": self.native_weights,
            "native_formats": self.native_formats,
        }
        return Graph(self.name, ops, facts)
