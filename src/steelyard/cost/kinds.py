"""Kinds of kernels: which work a cost model prices, recognised by the contraction structure of the ops.

A kernel is of the most specific kind that matches its ops. Which kind is more specific is stated, not guessed: a kind
``refines`` others, and wins over them and over what they refine. Two matching kinds of which neither refines the other
are an error that names both. A kind enters with the cost model that prices it (:mod:`steelyard.cost.models`), ours and
a plug-in's alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from steelyard.deployment.plan import Plan
from steelyard.errors import SteelyardError, UnknownName
from steelyard.workload.op import Op

__all__ = ["ATTENTION", "COLLECTIVE", "GATHER", "GEMM", "MOE", "VECTOR", "Kind", "Kinds", "Structure"]


@dataclass(frozen=True, slots=True, eq=False)
class Structure:
    """The ops of one kernel, as recognisers look at them."""

    ops: tuple[Op, ...]
    contractions: tuple[Op, ...]
    """Those that multiply two tensors and add over a rank."""

    @classmethod
    def of(cls, ops: Iterable[Op]) -> Structure:
        """The structure of the fused ops of one kernel."""
        found = tuple(ops)
        return cls(found, tuple(op for op in found if op.map == "mul" and op.contracts))

    @property
    def routed(self) -> tuple[Op, ...]:
        """Contractions of weights of which each token meets a part: the experts ``e``."""
        return tuple(op for op in self.contractions if "e" in op.ranks and any(t.role == "weight" for t in op.inputs))

    @property
    def windows(self) -> tuple[str, ...]:
        """Ranks that slide over another (``r`` of ``2*p+r``): those of a convolution."""
        return tuple(dict.fromkeys(rank for op in self.ops for rank in op.windows))

    @property
    def iterative(self) -> tuple[str, ...]:
        """Ranks that run one after another: those of a recurrence."""
        return tuple(dict.fromkeys(rank for op in self.ops for rank in op.iterative))


@dataclass(frozen=True, slots=True, eq=False)
class Kind:
    """A kind of kernel.

    Args:
        name: what kernels, costs and reports call it.
        matches: whether a kernel is of this kind, from its structure alone.
        features: what its cost models read, from the structure and the plan; scalars or arrays over scenarios.
        refines: the kinds it is a special case of; it wins over them and what they refine.
        engine: the engines it runs on.
        multiplies: what decides the format computed in: the weights, or the cache with the activations.
        weights_cold: see :class:`~steelyard.cost.kernel.Kernel`.
    """

    name: str
    matches: Callable[[Structure], bool]
    features: Callable[[Structure, Plan], Mapping[str, Any]]
    refines: tuple[str, ...] = ("vector",)
    engine: Literal["matrix", "vector"] = "matrix"
    multiplies: Literal["weights", "cache"] = "weights"
    weights_cold: bool = True


class Kinds:
    """Every known kind, and the choice between them."""

    def __init__(self, kinds: Iterable[Kind]) -> None:
        self.by_name: dict[str, Kind] = {}
        for kind in kinds:
            known = self.by_name.setdefault(kind.name, kind)
            if known is not kind:
                raise SteelyardError(f"two cost models define the kind {kind.name!r} in different ways")
        self._beaten = {name: self._below(name) for name in self.by_name}

    def _below(self, name: str) -> frozenset[str]:
        """What a kind wins over."""
        below: set[str] = set()
        waiting = list(self.by_name[name].refines)
        while waiting:
            other = waiting.pop()
            if other not in self.by_name:
                raise UnknownName("kind of kernel", other, self.by_name).at(f"{name}.refines")
            if other == name:
                raise SteelyardError(f"the kind {name!r} refines itself")
            if other not in below:
                below.add(other)
                waiting += self.by_name[other].refines
        return frozenset(below)

    def of(self, structure: Structure) -> Kind:
        """The most specific kind that matches.

        Raises:
            SteelyardError: no kind matches, or two of which neither refines the other.
        """
        found = [kind for kind in self.by_name.values() if kind.matches(structure)]
        if len(found) > 1:
            beaten = frozenset().union(*(self._beaten[kind.name] for kind in found))
            found = [kind for kind in found if kind.name not in beaten]
        if len(found) == 1:
            return found[0]
        names = " + ".join(op.name for op in structure.ops)
        if not found:
            raise SteelyardError(f"no kind of kernel matches {names}")
        both = " and ".join(repr(kind.name) for kind in found)
        raise SteelyardError(f"{names} is of the kinds {both}: let one of them refine the other")


def _gemm(s: Structure, plan: Plan) -> Mapping[str, Any]:
    product = s.contractions[0]
    m, n, k, groups = product.gemm_shape()
    summed = 1.0  # rows added up before they leave the kernel
    for rank in set(product.inputs[0].ranks) - set(product.inputs[1].ranks) - set(product.output.ranks):
        summed = summed * float(np.max(np.asarray(product.size(rank))))
    return {"m": m, "n": n, "k": k, "groups": groups, "out_bits": 16.0 / summed}


def _attention(s: Structure, plan: Plan) -> Mapping[str, Any]:
    scores, values = s.contractions[0], s.contractions[1]
    return {
        "batch": scores.size("b"),
        "new": scores.size("s"),
        "context": scores.size("l"),
        "reach": scores.visited.get("l", scores.size("l")),
        "heads": np.asarray(scores.size("g")) * np.asarray(scores.size("q")),
        "kv_heads": scores.size("g"),
        "head_dim": scores.size("c"),
        "value_dim": values.size("z"),
        "pairs": next(iter(scores.domain.values())),
        "causal": "causal" in scores.facts,
        "window": scores.facts.get("window", 0),
        "picked": scores.facts.get("picked", 0),
        "latent": values.inputs[1].bits == 0,
    }


def _moe(s: Structure, plan: Plan) -> Mapping[str, Any]:
    up = s.routed[0]
    pairs, tokens = np.asarray(next(iter(up.domain.values()))), np.asarray(up.size("t"))
    return {
        "tokens": tokens,
        "top_k": round(float(pairs.flat[0] / tokens.flat[0]) * plan.ep),
        "hidden": up.size("d"),
        "intermediate": up.size("f"),
        "experts": up.size("e"),
        "total_experts": np.asarray(up.size("e")) * plan.ep,
        "gated": up.size("u") == 2,
        "exchanged": plan.shares_experts,
    }


def _vector(s: Structure, plan: Plan) -> Mapping[str, Any]:
    largest = max(s.ops, key=lambda op: float(np.max(op.points())))
    rows = largest.size("t") if "t" in largest.ranks else 1.0
    return {"rows": np.asarray(rows, dtype=np.float64)}


#: Elementwise and row-reducing chains; what nothing else matches.
VECTOR = Kind("vector", lambda s: True, _vector, refines=(), engine="vector", weights_cold=False)
#: Rows read from a table.
GATHER = Kind("gather", lambda s: s.ops[0].map == "take", lambda s, plan: {}, engine="vector")
#: One product of two tensors; a convolution is one too (an implicit GEMM).
GEMM = Kind("gemm", lambda s: len(s.ops) == 1 and bool(s.contractions), _gemm)
#: Scores, softmax and values over a cache, in one kernel.
ATTENTION = Kind(
    "attention",
    lambda s: len(s.ops) > 1 and any(op.inputs[1].role == "kv" for op in s.contractions),
    _attention,
    refines=("gather",),
    multiplies="cache",
)
#: Products of routed tokens with their experts.
MOE = Kind("moe", lambda s: bool(s.routed), _moe, refines=("gemm", "attention"))
#: Communication; made by lowering, never recognised.
COLLECTIVE = Kind("collective", lambda s: False, lambda s, plan: {})
