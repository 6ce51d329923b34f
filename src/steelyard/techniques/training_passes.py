"""What a step of training leaves out: the backward pass, gradients between layers, tokens, pairs of attention.

``zeroth-order`` (MeZO, arXiv:2305.17333; ZO2, arXiv:2503.12668)
    Two forward passes with weights moved both ways, none backward, nothing that waits: ``step = 2 f``. With ``apart``
    the two run on two devices, a pass each. With ``stream`` layers come from the host's memory, one ahead:
    a layer takes ``max(passes f, 2 W / bandwidth)`` and two layers are held. ``optimizer = "mezo"`` alone is the plain
    form, and with it no state of an optimizer is held here either.
``layer-local`` (Mono-Forward, Forward-Forward)
    Of networks of plain products: inside a layer of attention gradients would go back too. Every layer learns from a
    loss of its own: gradients of weights, none of what it read; its values do not wait for those above. What the
    layers' own heads take is not priced.
``token-dropping`` (random-LTD, arXiv:2211.11586; LeMo)
    Of a layer's tokens a share is computed and kept; pairs of attention fall with its square. The first and the last
    layer see all in the papers; here every layer drops.
``sparse-attention``
    Of the pairs of attention a share is computed, forward and backward; what layers keep stays.
``critic`` (PPO)
    A second model of the same size is trained beside the first, on the same devices: twice the layers and states.
    Answers, rewards and frozen copies are not in the step.
``distillation`` (Hinton et al., arXiv:1503.02531)
    A frozen teacher with the same vocabulary scores the tokens that the model learns from: a forward pass of ``size``
    times the model's, layer by layer on the same stages, and its weights in 16 bits, cut as the model's are. Its scores
    lie beside the model's and are compared with them, ``step = (1 + size) f + b``; its operations count in
    the MFU. What ZeRO 3 gathers of it hides behind its own products. Of trainings of all weights.

Times and bytes are those of the step without, times these shares: kernels that become short are priced as their long
selves, so shares below a twentieth or so are too fast.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import numpy as np

from steelyard.errors import Problem
from steelyard.techniques._base import Citation, Technique
from steelyard.techniques._training import OfTraining
from steelyard.units import Quantity

__all__ = ["Critic", "Distillation", "LayerLocal", "SparseAttention", "TokenDropping", "ZerothOrder"]


@dataclass(frozen=True)
class ZerothOrder(OfTraining, Technique):
    """See the module's text."""

    name: ClassVar[str] = "zeroth-order"
    effect: ClassVar[str] = "two forward passes in place of one each way; nothing waits for a backward pass"
    costs: ClassVar[str] = "many more steps"
    paper: ClassVar[Citation] = Citation("Fine-tuning language models with just forward passes", "arXiv:2305.17333")

    apart: Annotated[bool, "the two passes run on two devices"] = False
    stream_bytes_per_s: Annotated[
        float, Quantity("byte/s", "layers come from the host's memory at this rate; 0: all are there", ge=0, le=1e15)
    ] = 0.0
    keys: ClassVar[dict[str, str]] = {"stream": "stream_bytes_per_s"}

    def training_parts(self, parts: Any, plan: Any) -> Any:
        """See :class:`OnTraining`."""
        from steelyard.training.layers import twice_forward

        def forward_only(kind: Any, held: float) -> Any:
            if plan.optimizer.gradient:  # without, a step is two forward passes already
                kind = twice_forward(kind)
            passes = {} if self.apart else dict(kind.forward)
            if held < 1.0:
                computed = kind.forward_s() * (1.0 if self.apart else 2.0)
                moved = 2.0 * (kind.weights + kind.expert_weights) / self.stream_bytes_per_s
                passes["elementwise"] = passes.get("elementwise", 0.0) + np.maximum(moved - computed, 0.0)
            return replace(
                kind,
                backward=passes,
                flops=kind.flops * (0.5 if self.apart else 1.0),
                weights=kind.weights * held,
                expert_weights=kind.expert_weights * held,
            )

        depth = sum(kind.count for kind in parts.layers)
        held = min(1.0, 2.0 / depth) if self.stream_bytes_per_s else 1.0
        return replace(
            parts,
            layers=[forward_only(kind, held) for kind in parts.layers],
            first=forward_only(parts.first, 1.0),
            last=forward_only(parts.last, 1.0),
        )


@dataclass(frozen=True)
class LayerLocal(OfTraining, Technique):
    """See the module's text."""

    name: ClassVar[str] = "layer-local"
    effect: ClassVar[str] = "layers learn from losses of their own: no gradient goes back through them"
    costs: ClassVar[str] = "accuracy of deep networks; a head for every layer"
    paper: ClassVar[Citation] = Citation(
        "Mono-Forward: backpropagation-free algorithm for efficient neural network training", "arXiv:2501.09238"
    )

    def training_parts(self, parts: Any, plan: Any) -> Any:
        """See :class:`OnTraining`."""

        def local(kind: Any) -> Any:
            flops = kind.flops * 2.0 / 3.0  # of the three passes that a step counts
            return replace(kind, backward={"gemm": kind.wgrad}, again=0.0, again_flops=0.0, flops=flops)

        depth = sum(kind.count for kind in parts.layers)
        waits = [replace(local(kind), kept_bytes=kind.kept_bytes / depth) for kind in parts.layers]
        return replace(parts, layers=waits, first=local(parts.first))


@dataclass(frozen=True)
class TokenDropping(OfTraining, Technique):
    """See the module's text."""

    name: ClassVar[str] = "token-dropping"
    effect: ClassVar[str] = "layers compute and keep a share of their tokens"
    costs: ClassVar[str] = "which tokens are needed is guessed or learnt"
    paper: ClassVar[Citation] = Citation(
        "Random-LTD: random and layerwise token dropping brings efficient training for large-scale transformers",
        "arXiv:2211.11586",
    )
    first: ClassVar[str] = "share"

    share: Annotated[float, Quantity("1", "of a layer's tokens that are computed", gt=0, le=1)] = 0.5

    def training_parts(self, parts: Any, plan: Any) -> Any:
        """See :class:`OnTraining`."""

        def factor(part: str) -> float:
            return self.share**2 if part == "attention" else self.share

        def fewer(kind: Any) -> Any:
            return replace(
                kind.scaled(factor),
                **{
                    name: getattr(kind, name) * self.share
                    for name in ("again", "again_flops", "wgrad", "kept_bytes", "again_bytes", "widest_bytes", "flops")
                },
            )

        return replace(parts, layers=[fewer(kind) for kind in parts.layers])


@dataclass(frozen=True)
class SparseAttention(OfTraining, Technique):
    """See the module's text."""

    name: ClassVar[str] = "sparse-attention"
    effect: ClassVar[str] = "a share of the pairs of attention is computed, both ways"
    paper: ClassVar[Citation] = Citation(
        "Efficient LLM training and serving with heterogeneous context sharding among attention heads",
        "arXiv:2407.17678",
    )
    first: ClassVar[str] = "share"

    share: Annotated[float, Quantity("1", "of the pairs of a causal sequence", gt=0, le=1)]

    def training_parts(self, parts: Any, plan: Any) -> Any:
        """See :class:`OnTraining`."""

        def factor(part: str) -> float:
            return self.share if part == "attention" else 1.0

        def sparse(kind: Any) -> Any:
            fewer = kind.scaled(factor)
            left = fewer.forward_s() / np.maximum(kind.forward_s(), 1e-30)
            return replace(fewer, flops=kind.flops * left, again=kind.again * left, again_flops=kind.again_flops * left)

        return replace(parts, layers=[sparse(kind) for kind in parts.layers])


@dataclass(frozen=True)
class Critic(OfTraining, Technique):
    """See the module's text."""

    name: ClassVar[str] = "critic"
    effect: ClassVar[str] = "a value model of the same size is trained beside the model"
    paper: ClassVar[Citation] = Citation("Proximal policy optimization algorithms", "arXiv:1707.06347")

    def training_problems(self, scenario: Any) -> list[Problem]:
        """See :class:`OnTraining`."""
        if scenario.plan.pp > 1:
            return [Problem(self.name, "both models lie on all devices: give --pp 1")]
        return super().training_problems(scenario)

    def training(self, scenario: Any) -> Any:
        """See :class:`OnTraining`: stages that are still open are one."""
        left = tuple(name for name in scenario.open if name != "pp")
        return replace(scenario, words={**scenario.words, "pp": 1}, open=left)

    def training_parts(self, parts: Any, plan: Any) -> Any:
        """See :class:`OnTraining`."""
        layers = [replace(kind, count=2.0 * kind.count, kept_bytes=kind.kept_bytes / 2.0) for kind in parts.layers]
        return replace(parts, layers=layers)


@dataclass(frozen=True)
class Distillation(OfTraining, Technique):
    """See the module's text."""

    name: ClassVar[str] = "distillation"
    effect: ClassVar[str] = "a frozen teacher scores every token beside the model"
    costs: ClassVar[str] = "a forward pass and the weights of the teacher"
    paper: ClassVar[Citation] = Citation("Distilling the knowledge in a neural network", "arXiv:1503.02531")
    first: ClassVar[str] = "size"

    size: Annotated[float, Quantity("1", "weights of the teacher over those of the model", gt=0, le=1e4)]

    def training_problems(self, scenario: Any) -> list[Problem]:
        """See :class:`OnTraining`."""
        if scenario.plan.task not in ("pretrain", "sft"):
            return [Problem(self.name, f"expected --task pretrain or sft, got {scenario.plan.task}")]
        return super().training_problems(scenario)

    def training(self, scenario: Any) -> Any:
        """See :class:`OnTraining`."""
        plan = scenario.plan
        return replace(scenario, plan=replace(plan, references=plan.references + self.size))

    def training_parts(self, parts: Any, plan: Any) -> Any:
        """See :class:`OnTraining`."""

        def taught(kind: Any) -> Any:
            longer = {part: time * (1.0 + self.size) for part, time in kind.forward.items()}
            return replace(kind, forward=longer, flops=kind.flops * (1.0 + self.size / 3.0))

        layers = [taught(kind) for kind in parts.layers]
        return replace(parts, layers=layers, last=taught(parts.last), logits=2.0 * parts.logits)
