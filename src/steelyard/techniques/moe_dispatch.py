"""Experts with places: how tokens are laid out for them, by products with a dense mask or sorted (GShard; Tutel).

Of ``T`` tokens of a device, ``E`` experts and ``k`` choices every expert has ``C = capacity k T / E`` places, full or
not, so that the experts of a device are products of one size in one batch (kernels here group rows as they are).

``dense``, as GShard (arXiv:2006.16668) writes it and Fairseq and DeepSpeed-MoE run it: a mask of ``T E C`` elements
says which token goes to which place. It is put together by ``k + 2`` elementwise passes in fp32 (a one-hot product for
each choice, their sum, the conversion), and multiplied with the tokens of width ``M`` on the way in and on the way out:

    FLOP = 2 . 2 T (E C) M = 4 capacity k T^2 M,   bytes of the passes = 8 (k + 2) capacity k T^2

which grows with the square of the tokens and not with the experts. ``sorted``: rows are copied to their places by index
and back. Layers whose experts lie on other devices lay out their own tokens before the exchange.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import numpy as np

from steelyard.cost.effect import Effect
from steelyard.cost.kernel import Kernel, Program
from steelyard.cost.program import apart
from steelyard.cost.step import Replica
from steelyard.errors import Problem
from steelyard.techniques._base import Citation, Technique, unknown
from steelyard.techniques.experts import without_experts
from steelyard.units import Quantity
from steelyard.workload.op import Op

__all__ = ["MoeDispatch"]

_WEIGHTED = ("activation", "weight", "activation")
_FP32 = 32.0


@dataclass(frozen=True)
class Places(Effect):
    """Experts as a batch of equal products, between two layouts of the tokens."""

    dense: bool
    capacity: float

    def lowered(self, program: Program, replica: Replica) -> Program:
        """Every kernel of experts in its parts."""
        kernels: list[Kernel] = []
        for kernel in program.kernels:
            up = next((op for op in kernel.ops if op.name.endswith("expert_up") and op.domain), None)
            ops = self._ops(kernel, up, replica) if up is not None else []
            kernels += apart(kernel, ops, replica.plan, replica.cluster.machine) if ops else (kernel,)
        return replace(program, kernels=tuple(kernels))

    def _ops(self, kernel: Kernel, up: Op, replica: Replica) -> list[Op]:
        plan = replica.plan
        # an op on one device has its own pairs of token and expert, and the tokens of all that share the experts
        pairs = np.asarray(next(iter(up.domain.values())), dtype=np.float64)
        tokens = np.asarray(up.size("t"), dtype=np.float64)
        choices = max(1, round(float(np.max(pairs / tokens)) * plan.ep))
        tokens = np.maximum(tokens / (plan.ep if plan.shares_experts else 1), 1.0)
        places, experts = np.maximum(self.capacity * pairs, 1.0), np.asarray(up.size("e"), dtype=np.float64)
        sizes = {**up.sizes, "t": tokens, "z": places, "a": experts, "c": np.maximum(places / experts, 1.0)}
        act = next(op for op in kernel.ops if op.name.endswith("expert_act"))
        prefix = up.name.removesuffix("expert_up")

        def made(name: str, einsum: str, operands: tuple[str, ...], **more: Any) -> Op:
            return Op(f"{prefix}{name}", einsum, sizes, operands, count=up.count, block=up.block, **more)

        def mask(i: int) -> Op:
            names = (f"mask{i}", f"mask{i + 1}")
            return made(f"mask{i}", "t z -> t z", names, reduce="none", bits=dict.fromkeys(names, _FP32))

        if self.dense:
            before = [mask(i) for i in range(1, choices + 3)]
            before.append(made("to_places", "t z, t d -> z d", ("mask", "x", "sent")))
            after = made("from_places", "t z, z d -> t d", ("mask", "made", "y"))
        else:
            before = [made("to_places", "z d -> z d", ("x", "sent"), map="copy", reduce="none")]
            moved: dict[tuple[str, ...], Any] = {("t", "z"): places}
            after = made("from_places", "z d -> t d", ("made", "y"), domain=moved)
        return [
            *before,
            made("expert_up", "a c d, a u d f -> a c u f", ("sent", "expert_w_up", "up"), roles=_WEIGHTED),
            made("expert_act", "a c u f -> a c f", ("up", "hidden"), map=act.map, reduce=act.reduce),
            made("expert_down", "a c f, a f d -> a c d", ("hidden", "expert_w_down", "made"), roles=_WEIGHTED),
            after,
        ]


@dataclass(frozen=True)
class MoeDispatch(Technique):
    """See the module's text."""

    name: ClassVar[str] = "moe-dispatch"
    layer: ClassVar[str] = "moe"
    paper: ClassVar[Citation] = Citation(
        "GShard: scaling giant models with conditional computation and automatic sharding", "arXiv:2006.16668"
    )
    effect: ClassVar[str] = "experts have places, to which tokens are brought by products with a dense mask, or sorted"
    costs: ClassVar[str] = "tokens beyond the places are dropped; dense: work that grows with the square of the tokens"
    first: ClassVar[str] = "kernel"

    kernel: Annotated[str, "dense: products with a mask; sorted: rows copied by index"] = "dense"
    capacity: Annotated[
        float, Quantity("1", "places of an expert over its even share of the tokens", ge=0.01, le=1000)
    ] = 1.0

    def problems(self) -> list[Problem]:
        """A way that is none."""
        known = ["dense", "sorted"]
        return [] if self.kernel in known else [Problem(self.name, unknown("kernel", self.kernel, known))]

    def applies(self, scenario: Any) -> list[Problem]:
        """A model without experts."""
        return without_experts(self.name, scenario)

    @property
    def step_effect(self) -> Places:
        """Experts with places."""
        return Places(self.kernel == "dense", self.capacity)
