"""Weights outside the device, copied there when a step needs them (FlexGen, DeepSpeed, Superpipeline; ExpertFlow).

``weight-streaming``: a share ``resident`` of the layers stays on the device. The others are copied over the link to the
host, or from a disk at ``rate``, at every step, into buffers of ``window`` layers; a share ``overlap`` of the copying
runs while others compute:

    A = bytes needed / rate,  C = time of what computes
    T = max(C, overlap A) + (1 - overlap) A

``expert-cache``: a share ``cached`` of the experts is on the device, the most popular or those a predictor expects. Of
the choices of one token a share ``hit`` is found there; a step of ``T`` tokens, ``k`` choices each among ``E`` experts,
copies those that are not there, each once:

    missed(T) = (1 - cached) E (1 - (1 - k (1 - hit) / ((1 - cached) E))^T)

Without ``hit`` it follows from the popularity of experts (``--skew``; balanced: ``hit = cached``). Copies are bound by
the device's link (80 % of its rate, a guess) or by ``rate``. Weights needed only in part, as neurons that a predictor
names (PowerInfer), are ``needed`` < 1; scattered, they are copied in pieces of ``piece`` bytes, each a request:

    rate' = piece / (wait_s + piece / rate)

``wait_s`` of UFS 4.0: 4 KB at random come at 0.85 to 1 GB/s and 512 KB at 3.5 GB/s (measured in section 2 of
PowerInfer-2, arXiv:2406.06282), which is 3 us a request.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import numpy as np

from steelyard.cost.cost import Cost, KernelCost
from steelyard.cost.effect import Effect, at_time, each_kernel, shown_s, total_s
from steelyard.cost.host_memory import THERE
from steelyard.cost.kernel import Kernel, Program
from steelyard.cost.step import Replica
from steelyard.deployment.offload import EVERY, Offload, parse_offload
from steelyard.errors import Problem
from steelyard.machine.component import Machine
from steelyard.machine.host import find_host, usual_host
from steelyard.techniques._base import Citation, Technique
from steelyard.techniques.refusals import refused_by
from steelyard.units import Quantity

__all__ = ["ExpertCache", "WeightStreaming"]

#: s: a read request to flash beside its bytes, those of a queue shared out.
UFS_WAIT_S = 3e-6
_PIECE = Quantity("B", "scattered weights are copied in pieces of so many; 0 = whole kernels at once", ge=0, le=1e12)
_WAIT = Quantity("s", "time of a piece beside its bytes", ge=0, le=1)
#: Bytes of a disk: as many as weights need.
DISK_BYTES = 1e17


@dataclass(frozen=True)
class Copied(Effect):
    """Weights that are copied in a step, under what computes."""

    rate_bytes_per_s: float
    overlap: float
    fetched_frac: float = 1.0

    def lowered(self, program: Program, replica: Replica) -> Program:
        """Kernels with what is copied of their weights."""

        def copied(kernel: Kernel) -> Kernel:
            if kernel.hosted is None:
                return kernel
            part = replace(
                kernel.hosted, rate_bytes_per_s=self.rate_bytes_per_s, fetched_frac=self.fetched(kernel, replica)
            )
            return replace(kernel, hosted=part)

        return each_kernel(program, copied)

    def fetched(self, kernel: Kernel, replica: Replica) -> Any:
        """Of the weights that lie elsewhere and a step needs, the share that is copied."""
        return self.fetched_frac

    def priced(self, cost: Cost, program: Program, replica: Replica) -> Cost:
        """Copies with the time that shows."""
        layers = [k for k in cost.kernels if k.kernel.in_layers]
        if not self.overlap or not layers or program.step is None:
            return cost
        copying = total_s(replace(k, time_s=k.network_s) for k in layers if _copies(k))
        if not np.any(copying):
            return self._under_rest(cost, layers, program, replica)
        shows = shown_s(copying, total_s(layers) - copying, self.overlap) / np.maximum(copying, 1e-30)
        kernels = []
        for k in cost.kernels:
            if _copies(k):
                time_s = k.time_s - k.network_s * (1.0 - shows)
                k = replace(at_time(k, time_s), network_s=k.network_s * shows)
            kernels.append(k)
        return replace(cost, kernels=tuple(kernels))

    def _under_rest(self, cost: Cost, layers: list[KernelCost], program: Program, replica: Replica) -> Cost:
        """Kernels that are priced apart from what is copied, attention's: what they add to a step."""
        assert program.step is not None
        lowered = self.lowered(replica.plain.lower(program.step, program.absorb), replica)
        rest = lowered.without({k.kernel.name for k in layers})
        beside = [k for k in replica.plain.cost(rest).kernels if k.kernel.in_layers]
        copying = total_s(replace(k, time_s=k.network_s) for k in beside if _copies(k))
        if not np.any(copying):
            return cost
        computing, more_s = total_s(beside) - copying, total_s(layers)
        hidden = shown_s(copying, computing, self.overlap) - shown_s(copying, computing + more_s, self.overlap)
        left = np.clip(1.0 - hidden / np.maximum(more_s, 1e-30), 1e-6, 1.0)
        kernels = (at_time(k, k.time_s * left) if k.kernel.in_layers else k for k in cost.kernels)
        return replace(cost, kernels=tuple(kernels))


def _copies(k: KernelCost) -> bool:
    return k.kernel.name.endswith(THERE)


@dataclass(frozen=True)
class Streamed(Copied):
    """Layers whose buffers are on the device but whose weights are not."""

    resident: float = 0.0

    def fetched(self, kernel: Kernel, replica: Replica) -> Any:
        """Buffered layers are copied too, though their room counts as the device's."""
        assert kernel.hosted is not None
        return self.fetched_frac * (1.0 - self.resident) / max(kernel.hosted.share, 1e-9)


@dataclass(frozen=True)
class MissedExperts(Copied):
    """Experts that are copied when a token chooses them."""

    cached: float = 0.0
    hit: float | None = None
    distinct_frac: float = 1.0

    def fetched(self, kernel: Kernel, replica: Replica) -> Any:
        """Experts missed over those that the copies of the kernel would read in all."""
        op = next((op for op in kernel.ops if "e" in op.ranks and op.domain), None)
        if op is None or kernel.hosted is None:
            return 1.0
        tokens = np.asarray(op.size("t"), dtype=np.float64)
        experts = float(np.max(np.asarray(op.size("e"))))
        chosen = np.asarray(next(iter(op.domain.values()))) / np.maximum(tokens, 1e-9)
        visited = np.asarray(op.visited.get("e", experts), dtype=np.float64)
        elsewhere = (1.0 - self.cached) * experts
        hit = popular(round(experts), self.cached, replica.skew) if self.hit is None else self.hit
        chance = np.minimum(chosen * (1.0 - hit) / elsewhere, 1.0 - 1e-12)
        missed = elsewhere * -np.expm1(tokens * np.log1p(-chance)) * self.distinct_frac
        return missed / np.maximum(visited, 1e-9) / kernel.hosted.share


#: Stands for the disk beside a device whose memory is the host's, such as a phone's: only its size counts.
_BESIDE_DISK = "ddr4-3200x2"


def _host(scenario: Any, disk: bool) -> Machine:
    """Where the weights lie. Raises :class:`InputError`."""
    machine = scenario.cluster.machine
    shared = _BESIDE_DISK if disk and not machine.links("host") else ""
    host = find_host(scenario.words.get("host") or shared or usual_host(machine))
    if not disk:
        return host
    root = replace(host.root, capacity_bytes=DISK_BYTES)
    return replace(host, memory=tuple(root if m.name == root.name else m for m in host.memory))


def _refused(name: str, scenario: Any, disk: bool) -> list[Problem]:
    """Why weights cannot lie elsewhere."""
    if scenario.cluster.unlike:
        return [Problem(name, "priced for one kind of device, not for several")]
    return refused_by(name, lambda: _host(scenario, disk))


def _placed(scenario: Any, asked: Offload, disk: bool) -> Any:
    """The scenario with weights elsewhere."""
    where = _host(scenario, disk)
    asked = replace(asked, cache=parse_offload(scenario.plan.offload).cache)
    plan = replace(scenario.plan, offload=str(asked))
    return replace(scenario, plan=plan, cluster=replace(scenario.cluster, host=where))


@dataclass(frozen=True)
class _Elsewhere(Technique):
    """What both have in common."""

    layer: ClassVar[str] = "memory"
    refuses: ClassVar[tuple[str, ...]] = ("offload",)
    slot: ClassVar[str] = "weights elsewhere"
    unplanned: ClassVar[str] = "deployments with weights outside the devices are not sought"

    def _without_rate(self, disk: bool, rate_bytes_per_s: float, piece_bytes: float) -> list[Problem]:
        if rate_bytes_per_s or not (disk or piece_bytes):
            return []
        return [Problem(self.name, "expected rate=7GB/s of the disk" if disk else "expected rate=7GB/s beside piece")]

    def conflict(self, other: Technique) -> str:
        """Pools of their own."""
        return "weights outside the device are priced for one pool" if other.slot == "deployment" else ""


def piece_rate(rate_bytes_per_s: float, piece_bytes: float, wait_s: float) -> float:
    """Bytes per second of copies in pieces, each of which takes ``wait_s`` beside its bytes."""
    return piece_bytes / (wait_s + piece_bytes / rate_bytes_per_s) if piece_bytes else rate_bytes_per_s


@dataclass(frozen=True)
class WeightStreaming(_Elsewhere):
    """Layers copied to the device at every step."""

    name: ClassVar[str] = "weight-streaming"
    paper: ClassVar[Citation] = Citation(
        "DeepSpeed Inference: enabling efficient inference of transformer models at unprecedented scale",
        "arXiv:2207.00032",
    )
    effect: ClassVar[str] = "layers lie in host memory or on disk and are copied to the device while others compute"
    costs: ClassVar[str] = "host memory or a disk; nothing in accuracy"
    first: ClassVar[str] = "resident"
    keys: ClassVar[Mapping[str, str]] = {
        "rate": "rate_bytes_per_s",
        "overlap": "overlap_frac",
        "piece": "piece_bytes",
    }

    resident: Annotated[float, Quantity("1", "share of the layers that stays on the device", ge=0, le=1)] = 0.0
    rate_bytes_per_s: Annotated[
        float, Quantity("B/s", "rate of the copies; 0 = 80 % of the device's link to the host", ge=0, le=1e15)
    ] = 0.0
    overlap_frac: Annotated[float, Quantity("1", "share of the copies that runs while others compute", ge=0, le=1)] = (
        1.0
    )
    window: Annotated[int, Quantity("1", "layers that buffers on the device hold", ge=1, le=10_000)] = 2
    needed: Annotated[float, Quantity("1", "share of the weights elsewhere that a step needs", gt=0, le=1)] = 1.0
    disk: Annotated[bool, "they lie on disk, so that host memory need not hold them; give its rate"] = False
    piece_bytes: Annotated[float, _PIECE] = 0.0
    wait_s: Annotated[float, _WAIT] = UFS_WAIT_S

    def problems(self) -> list[Problem]:
        """A disk without a rate."""
        return self._without_rate(self.disk, self.rate_bytes_per_s, self.piece_bytes)

    def applies(self, scenario: Any) -> list[Problem]:
        """Nothing lies elsewhere, or nothing can."""
        return _refused(self.name, scenario, self.disk)

    def _layers(self, depth: int) -> tuple[int, int]:
        """Layers that stay, and those with room on the device."""
        stay = min(round(self.resident * depth), depth)
        return stay, min(stay + self.window, depth - 1) if stay < depth else depth

    def scenario(self, scenario: Any) -> Any:
        """Layers in host memory: the output head counts as one more that stays."""
        depth = scenario.transformer.depth
        stay, room = self._layers(depth)
        if stay >= depth:
            return scenario
        return _placed(scenario, Offload(resident=room + 1, use="streamed"), self.disk)

    @property
    def step_effect(self) -> Streamed:
        """Copies under computing."""
        rate = piece_rate(self.rate_bytes_per_s, self.piece_bytes, self.wait_s)
        return Streamed(rate, self.overlap_frac, self.needed, self.resident)


@dataclass(frozen=True)
class ExpertCache(_Elsewhere):
    """Experts in host memory, some of them kept on the device."""

    name: ClassVar[str] = "expert-cache"
    layer: ClassVar[str] = "moe"
    paper: ClassVar[Citation] = Citation(
        "ExpertFlow: optimized expert activation and token allocation for efficient mixture-of-experts inference",
        "arXiv:2410.17954",
    )
    effect: ClassVar[str] = "a share of the experts is on the device, others are copied from the host when chosen"
    costs: ClassVar[str] = "host memory; nothing in accuracy"
    first: ClassVar[str] = "cached"
    keys: ClassVar[Mapping[str, str]] = {
        "rate": "rate_bytes_per_s",
        "overlap": "overlap_frac",
        "regroup": "distinct_frac",
        "piece": "piece_bytes",
    }

    cached: Annotated[float, Quantity("1", "share of the experts that the device holds", ge=0, le=0.99)]
    hit: Annotated[float | None, Quantity("1", "share of a token's experts found there", ge=0, le=1)] = None
    overlap_frac: Annotated[float, Quantity("1", "share of the copies that a prefetch starts in time", ge=0, le=1)] = (
        0.0
    )
    distinct_frac: Annotated[
        float, Quantity("1", "experts that a step of regrouped tokens chooses, over those of any step", gt=0, le=1)
    ] = 1.0
    rate_bytes_per_s: Annotated[
        float, Quantity("B/s", "rate of the copies; 0 = 80 % of the device's link to the host", ge=0, le=1e15)
    ] = 0.0
    disk: Annotated[bool, "they lie on disk, so that host memory need not hold them; give its rate"] = False
    piece_bytes: Annotated[float, _PIECE] = 0.0
    wait_s: Annotated[float, _WAIT] = UFS_WAIT_S

    def problems(self) -> list[Problem]:
        """A disk without a rate."""
        return self._without_rate(self.disk, self.rate_bytes_per_s, self.piece_bytes)

    def applies(self, scenario: Any) -> list[Problem]:
        """A model without experts."""
        if not scenario.transformer.experts:
            return [Problem(self.name, f"{scenario.transformer.name} has no experts")]
        return _refused(self.name, scenario, self.disk)

    def scenario(self, scenario: Any) -> Any:
        """As many experts in host memory as the device does not hold, said as whole layers of them."""
        model = scenario.transformer
        dense = _dense_first(model)
        first = dense + round((1.0 - self.cached) * (model.depth - dense))
        asked = Offload(experts=EVERY if first >= model.depth else max(first, dense + 1), use="streamed")
        return _placed(scenario, asked, self.disk)

    @property
    def step_effect(self) -> MissedExperts:
        """Copies of what is missed."""
        rate = piece_rate(self.rate_bytes_per_s, self.piece_bytes, self.wait_s)
        return MissedExperts(rate, self.overlap_frac, 1.0, self.cached, self.hit, distinct_frac=self.distinct_frac)


def _dense_first(model: Any) -> int:
    """Layers without experts before the first with some."""
    count = 0
    for layer in getattr(model, "layers", ()):
        if layer.feed_forward is not None and layer.feed_forward.is_moe:
            break
        count += layer.count
    return count


def popular(experts: int, share: float, exponent: float) -> float:
    """Share of the choices that falls on the most popular ``share`` of the experts, ``p_i ~ i^-exponent``."""
    weights = np.arange(1, experts + 1, dtype=np.float64) ** -max(exponent, 0.0)
    whole = int(share * experts)
    return float((weights[:whole].sum() + (share * experts - whole) * weights[min(whole, experts - 1)]) / weights.sum())
