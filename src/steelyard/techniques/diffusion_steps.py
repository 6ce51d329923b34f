"""Fewer evaluations of a diffusion model's denoiser: few steps, guidance in part of them, reuse, streams of frames.

A picture takes ``steps x items`` evaluations of the denoiser, two items under classifier-free guidance
(arXiv:2207.12598), beside text encoder and decoder. With ``s`` steps, a share ``g`` of them guided and a share ``r`` of
the denoiser's work reused from the step before:

    evaluations = s (1 + g) (1 - r)

``few-steps`` (consistency and distilled models, arXiv:2303.01469): ``s`` as given and no guidance. ``guidance``
(Adaptive Guidance, arXiv:2312.12487): ``g``. ``step-cache`` (DeepCache, arXiv:2312.00858; TeaCache, T-GATE, PAB and
kin): every ``interval``-th step runs whole, of the others a share ``kept`` of the work, so that
``r = (1 - 1/interval) (1 - kept)``; features that are kept lie in memory, one tensor per cached place. ``frame-cache``
(Ca2-VDM, arXiv:2411.16375; Continual Inference Networks, arXiv:2204.03418): of a clip only the frames that are new are
computed, those of earlier clips are read from a cache: ``r = cached / frames``, in layers and in attention alike, whose
queries are new and whose keys are all. ``stream-batch`` (StreamDiffusion, arXiv:2312.12491): the steps of successive
frames of a stream run as one batch, so that one pass puts out a frame: ``t(batch x evaluations)`` in place of
``evaluations x t(batch)``; of frames that are like the one before a share ``skip`` is not computed.
``latent-optimisation`` (Attend-and-Excite, arXiv:2301.13826; DITTO, arXiv:2401.12179): ``iterations`` of a gradient
through ``inner`` evaluations each, a backward pass to inputs taking ``backward`` forward ones. ``denoiser-pruning``
(LD-Pruner, arXiv:2404.11936): a share ``work`` of the denoiser is left.

Shares of work are shares of time: where the host's launches bound a pass, what is skipped takes its launches with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

from steelyard.errors import Problem
from steelyard.techniques._base import Citation, Technique
from steelyard.techniques.network_passes import NetTechnique, with_phases
from steelyard.units import Quantity
from steelyard.workload.pipelines import Phase, find_pipeline

__all__ = [
    "DenoiserPruning",
    "FewSteps",
    "FrameCache",
    "Guidance",
    "LatentOptimisation",
    "OnDenoiser",
    "StepCache",
    "StreamBatch",
    "denoisers",
    "with_denoisers",
]

#: Names of the phases that evaluate the denoiser: for the answer, and for gradients of it.
DENOISERS = DENOISE, OPTIMISE = "denoise", "optimise"


def denoisers(scenario: Any) -> list[Phase]:
    """The phases of a question that evaluate the denoiser for its picture."""
    return [p for p in scenario.phases if p.name == DENOISE]


def with_denoisers(scenario: Any, change: Callable[[Phase], Phase], names: tuple[str, ...] = (DENOISE,)) -> Any:
    """The question with its phases of those names changed."""
    return with_phases(scenario, lambda p: change(p) if p.name in names else p)


@dataclass(frozen=True)
class OnDenoiser(NetTechnique):
    """A technique of diffusion pipelines."""

    layer: ClassVar[str] = "decoding"

    def network_problems(self, scenario: Any) -> list[Problem]:
        """See :class:`Technique`: it needs a denoiser."""
        if denoisers(scenario):
            return []
        words = f"{scenario.name} has no denoising steps: expected a diffusion pipeline, such as sdxl or flux.1-dev"
        return [Problem(self.name, words)]


def _guided(technique: Technique, scenario: Any) -> list[Problem]:
    """Why guidance cannot be left out: there is none."""
    if all(p.items < 2 for p in denoisers(scenario)):
        return [Problem(technique.name, f"{scenario.name} runs without a second pass for guidance")]
    return []


@dataclass(frozen=True)
class FewSteps(OnDenoiser):
    """A model distilled to few steps, guidance included."""

    name: ClassVar[str] = "few-steps"
    slot: ClassVar[str] = "guidance"
    paper: ClassVar[Citation] = Citation("Consistency models", "arXiv:2303.01469")
    effect: ClassVar[str] = "the denoiser runs a few times, without a second pass for guidance"
    costs: ClassVar[str] = "distillation, and detail of pictures"
    first: ClassVar[str] = "steps"
    refuses: ClassVar[tuple[str, ...]] = ("steps",)

    steps: Annotated[int, Quantity("1", "evaluations of the denoiser", ge=1, le=1000)] = 4

    def network(self, scenario: Any) -> Any:
        """See :class:`Technique`: fewer runs, and one item in place of two."""
        share = self.steps / find_pipeline(scenario.name).steps
        return with_denoisers(scenario, lambda p: replace(p, repeats=p.repeats * share, items=max(1.0, p.items / 2)))


@dataclass(frozen=True)
class Guidance(OnDenoiser):
    """Classifier-free guidance in a share of the steps."""

    name: ClassVar[str] = "guidance"
    slot: ClassVar[str] = "guidance"
    paper: ClassVar[Citation] = Citation(
        "Adaptive Guidance: training-free acceleration of conditional diffusion models", "arXiv:2312.12487"
    )
    effect: ClassVar[str] = "the second pass for guidance is left out of a share of the steps"
    costs: ClassVar[str] = "little quality where guided and plain predictions agree; 0 needs a distilled model"
    first: ClassVar[str] = "share"

    share: Annotated[float, Quantity("1", "share of the steps that are guided", ge=0, le=1)] = 0.5

    def network_problems(self, scenario: Any) -> list[Problem]:
        """See :class:`Technique`."""
        return super().network_problems(scenario) or _guided(self, scenario)

    def network(self, scenario: Any) -> Any:
        """See :class:`Technique`: steps in two groups."""
        phases: list[Phase] = []
        for p in scenario.phases:
            groups = [(self.share, p.items), (1.0 - self.share, p.items / 2)] if p.name == DENOISE else [(1.0, p.items)]
            phases += [replace(p, repeats=p.repeats * share, items=items) for share, items in groups if share]
        return replace(scenario, phases=tuple(phases))


@dataclass(frozen=True)
class StepCache(OnDenoiser):
    """Features of a step that later ones reuse."""

    name: ClassVar[str] = "step-cache"
    paper: ClassVar[Citation] = Citation("DeepCache: accelerating diffusion models for free", "arXiv:2312.00858")
    effect: ClassVar[str] = "steps between whole ones reuse features and run a share of the denoiser"
    costs: ClassVar[str] = "quality as fewer steps run whole; memory for the features kept"
    first: ClassVar[str] = "interval"

    interval: Annotated[float, Quantity("1", "one step of so many runs whole", ge=1, le=1000)] = 3.0
    kept: Annotated[float, Quantity("1", "share of the denoiser's work that the other steps run", ge=0, le=1)] = 0.0

    def network(self, scenario: Any) -> Any:
        """See :class:`Technique`: steps count by the work they run."""
        share = (1.0 + (self.interval - 1.0) * self.kept) / self.interval
        return with_denoisers(scenario, lambda p: replace(p, repeats=p.repeats * share))


@dataclass(frozen=True)
class FrameCache(NetTechnique):
    """Frames of earlier clips whose features are kept."""

    name: ClassVar[str] = "frame-cache"
    layer: ClassVar[str] = "kvcache"
    paper: ClassVar[Citation] = Citation(
        "Ca2-VDM: efficient autoregressive video diffusion model with causal generation and cache sharing",
        "arXiv:2411.16375",
    )
    effect: ClassVar[str] = "of a clip only new frames are computed, the features of earlier ones are kept"
    costs: ClassVar[str] = "attention over time is causal; memory for the features of frames kept"
    first: ClassVar[str] = "cached"

    cached: Annotated[
        float, Quantity("1", "share of a clip's frames that were computed for earlier ones", ge=0, le=0.999)
    ] = 0.5

    def network_problems(self, scenario: Any) -> list[Problem]:
        """See :class:`Technique`: frames are a third axis of the network's input."""
        videos = any(map(_over_time, scenario.phases))
        return [] if videos else [Problem(self.name, f"{scenario.name} takes no clips of frames")]

    def network(self, scenario: Any) -> Any:
        """See :class:`Technique`: work in proportion to new frames."""
        new = 1.0 - self.cached
        return with_phases(scenario, lambda p: replace(p, repeats=p.repeats * new) if _over_time(p) else p)


def _over_time(phase: Phase) -> bool:
    """Whether a network takes clips: it is told of frames, or convolves over frames, height and width."""
    convs = (n for n in phase.graph.nodes if n.op == "conv")
    return "frames" in phase.sizes or any(len(n.facts.get("kernel", ())) == 3 for n in convs)


@dataclass(frozen=True)
class StreamBatch(OnDenoiser):
    """Steps of successive frames of a stream as one batch."""

    name: ClassVar[str] = "stream-batch"
    slot: ClassVar[str] = "guidance"
    paper: ClassVar[Citation] = Citation(
        "StreamDiffusion: a pipeline-level solution for real-time interactive generation", "arXiv:2312.12491"
    )
    effect: ClassVar[str] = "steps of successive frames run as one batch, one pass puts out a frame"
    costs: ClassVar[str] = "a frame is late by as many frames as there are steps; memory of the batch"
    first: ClassVar[str] = "guidance"

    guidance: Annotated[str, "second passes of a frame: full (one a step), once, none"] = "full"
    skip: Annotated[
        float, Quantity("1", "share of frames that are like the one before and not computed", ge=0, le=0.999)
    ] = 0.0

    def problems(self) -> list[Problem]:
        """See :class:`Technique`."""
        if self.guidance in ("full", "once", "none"):
            return []
        return [Problem(self.name, f"expected full, once or none for guidance, got {self.guidance!r:.60}")]

    def network_problems(self, scenario: Any) -> list[Problem]:
        """See :class:`Technique`."""
        return super().network_problems(scenario) or (_guided(self, scenario) if self.guidance != "full" else [])

    def network(self, scenario: Any) -> Any:
        """See :class:`Technique`: evaluations as items of one pass; a stream encodes its text once."""

        def batched(p: Phase) -> Phase:
            if p.name != DENOISE:
                return replace(p, repeats=0.0 if p.name == "text" else p.repeats * (1.0 - self.skip))
            steps = p.repeats
            more = {"full": steps * (p.items - 1.0), "once": p.items - 1.0, "none": 0.0}[self.guidance]
            return replace(p, items=steps + more, repeats=1.0 - self.skip)

        return with_phases(scenario, batched)

    def conflict(self, other: Technique) -> str:
        """See :class:`Technique`: a batch of steps has no step to reuse, and no gradients."""
        if other.name in ("step-cache", "latent-optimisation"):
            return "steps of a stream run together, none after another"
        return ""


@dataclass(frozen=True)
class LatentOptimisation(OnDenoiser):
    """Gradients through the denoiser while it samples."""

    name: ClassVar[str] = "latent-optimisation"
    paper: ClassVar[Citation] = Citation(
        "DITTO: Diffusion inference-time T-optimization for music generation", "arXiv:2401.12179"
    )
    effect: ClassVar[str] = "latents or prompts are optimised by gradients through the denoiser"
    costs: ClassVar[str] = "time, and memory for what the backward pass needs"
    first: ClassVar[str] = "iterations"

    iterations: Annotated[int, Quantity("1", "gradient steps of a picture", ge=1, le=100_000)] = 25
    inner: Annotated[int, Quantity("1", "evaluations that one gradient goes through", ge=1, le=1000)] = 1
    backward: Annotated[
        float, Quantity("1", "forward passes that a backward pass takes; 2 with recomputation", gt=0, le=4)
    ] = 1.0

    def network(self, scenario: Any) -> Any:
        """See :class:`Technique`: a phase of gradients before the answer's."""
        first = denoisers(scenario)[0]
        repeats = self.iterations * self.inner * (1.0 + self.backward)
        gradients = replace(first, name=OPTIMISE, repeats=repeats, items=1.0)
        at = scenario.phases.index(first)
        return replace(scenario, phases=(*scenario.phases[:at], gradients, *scenario.phases[at:]))


@dataclass(frozen=True)
class DenoiserPruning(OnDenoiser):
    """Operators of the denoiser that are taken out, once or by what a prompt needs."""

    name: ClassVar[str] = "denoiser-pruning"
    layer: ClassVar[str] = "format"
    paper: ClassVar[Citation] = Citation(
        "LD-Pruner: efficient pruning of latent diffusion models using task-agnostic insights", "arXiv:2404.11936"
    )
    effect: ClassVar[str] = "the denoiser runs a share of its work; prompts may be sent to variants of several shares"
    costs: ClassVar[str] = "training after the cut; quality as more is cut; memory for each variant"
    first: ClassVar[str] = "work"

    work: Annotated[
        float, Quantity("1", "share of the denoiser's work that is left, mean over prompts", gt=0, le=1)
    ] = 0.7

    def network(self, scenario: Any) -> Any:
        """See :class:`Technique`: a step is a share of one."""
        return with_denoisers(scenario, lambda p: replace(p, repeats=p.repeats * self.work), DENOISERS)
