"""Patches of a picture on several devices, each step exchanging what attention needs of the others.

``P`` devices hold ``rows / P`` rows each of the latent picture; with ``guidance_split`` half of them take the second
pass of guidance (arXiv:2402.19481). Layers work on the device's own rows; self-attention has keys of its own patch and
of a share ``neighbours`` of the others, so that a device receives, for every self-attention layer of width ``d``,

    bytes = 2 (P - 1) neighbours tokens/P d 2 B

as an all-gather over the links between devices. Beyond the first ``warmup`` steps keys are those of the step before
(stale), and exchanges run beside the kernels: a step takes ``max(kernels, exchange)``; in warmup steps, and with
``synchronous``, ``kernels + exchange``. DistriFusion: ``neighbours = 1``; PCPP (arXiv:2412.02962) takes parts of the
patches beside it. Borders of convolutions and means of group norms are a few rows and numbers: left out. Text encoder
and decoder run on one device. Weights lie on every device.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import Annotated, Any, ClassVar

import numpy as np

from steelyard.errors import Problem
from steelyard.techniques._base import Citation
from steelyard.techniques.diffusion_steps import DENOISERS, OnDenoiser, denoisers, with_denoisers
from steelyard.units import Quantity
from steelyard.workload.pipelines import Phase
from steelyard.workload.shared_tokens import PATCHES, gathered, self_attentions

__all__ = ["PatchParallel"]


@dataclass(frozen=True)
class PatchParallel(OnDenoiser):
    """All devices of the question work on one picture."""

    name: ClassVar[str] = "patch-parallel"
    layer: ClassVar[str] = "parallel"
    paper: ClassVar[Citation] = Citation(
        "DistriFusion: distributed parallel inference for high-resolution diffusion models", "arXiv:2402.19481"
    )
    effect: ClassVar[str] = "a picture's rows are split over devices, which exchange keys and values of attention"
    costs: ClassVar[str] = "weights on every device; keys of the step before; with fewer neighbours detail"
    first: ClassVar[str] = "neighbours"
    refuses: ClassVar[tuple[str, ...]] = ("cp",)

    neighbours: Annotated[
        float, Quantity("1", "share of the other patches' keys that a device attends to", ge=0, le=1)
    ] = 1.0
    warmup: Annotated[int, Quantity("1", "first steps, which wait for the exchange", ge=0, le=1000)] = 4
    synchronous: Annotated[bool, "every step waits for its exchange"] = False
    guidance_split: Annotated[bool, "the two passes of guidance run on two halves of the devices"] = True

    def network_problems(self, scenario: Any) -> list[Problem]:
        """See :class:`Technique`: it needs several devices and rows to split."""
        found = super().network_problems(scenario)
        if found:
            return found
        if scenario.cluster.count < 2:
            return [Problem(self.name, "expected several devices, such as a100_sxm:4")]
        if any("rows" not in p.sizes for p in denoisers(scenario)):
            return [Problem(self.name, f"the denoiser of {scenario.name} has no rows to split")]
        rows = int(min(p.sizes["rows"] for p in denoisers(scenario)))
        if scenario.cluster.count > rows:
            return [Problem(self.name, f"expected at most {rows} devices, a row of the latent picture to each")]
        return []

    def network(self, scenario: Any) -> Any:
        """See :class:`Technique`: phases of a patch."""
        steps = max(sum(p.repeats for p in denoisers(scenario)), 1.0)
        exposed = 1.0 if self.synchronous else min(1.0, self.warmup / steps)
        return with_denoisers(scenario, lambda p: self._split(p, scenario.cluster.count, exposed), DENOISERS)

    def _split(self, p: Phase, devices: int, exposed: float) -> Phase:
        halves = 2 if self.guidance_split and p.items >= 2 and devices % 2 == 0 else 1
        patches = devices // halves
        rows = ceil(p.sizes["rows"] / patches)
        graph = gathered(p.graph)
        sizes = {**p.sizes, "rows": rows, PATCHES: 1.0 + (patches - 1) * self.neighbours}
        own = {**graph.symbols, **p.sizes, "rows": rows, PATCHES: 1, "batch": 1}
        layers = self_attentions(p.graph)
        kept = 2.0 * sum(float(np.max(graph.elements(i, own))) for n in layers for i in n.inputs[1:3])
        return replace(
            p,
            graph=graph,
            items=p.items / halves,
            sizes=sizes,
            devices=devices,
            exchange_bytes=kept * patches * self.neighbours if patches > 1 else 0.0,
            exchanges=len(layers),
            among=patches,
            exposed=exposed,
        )
