"""Work that depends on the item: a light network that looks first, and exits on the way.

``glance``: a light network runs for every item, and the question's own for a share ``s`` of them, at its own size
(a part of the image, a model for what the scene needs):

    t = t(light) + s t(whole)

``network-exit``: a share ``p`` of the items leaves after a share ``a`` of the work, where a classifier of ``head`` of
the work looks at all that come by:

    work = p a + (1 - p) + head

``stepwise``: a small network runs ``times`` times for every item, each time with what the time before gave (a context
model that codes place after place): ``t = t(whole) + times t(small)``.

Shares of work are shares of time. Items of a batch leave on their own, as when what stays is batched anew; a batch that
waits for its last item takes ``p`` = 0.

Papers: joint autoregressive and hierarchical priors (arXiv:1809.02736) code place after place. AdaFocus V2
(arXiv:2112.14238) glances at frames and looks closely at a patch of few; CARMA (ISLPED 2023) chooses sensors and
networks by the scene; BranchyNet (arXiv:1709.01686) has exits. What share stays is a property of inputs and
threshold, given by the user.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

from steelyard.errors import Problem
from steelyard.techniques._base import Citation
from steelyard.techniques.network_passes import NetTechnique, with_phases
from steelyard.techniques.refusals import refused_by
from steelyard.units import Quantity
from steelyard.workload.nets import load_net
from steelyard.workload.pipelines import Phase
from steelyard.workload.tensor_graph import TensorGraph

__all__ = ["Glance", "NetworkExit", "Stepwise"]


def _net(name: str, size: int) -> TensorGraph:
    """A network by name at a side, 0: its usual one. Raises :class:`InputError`."""
    return load_net(name, size=str(size) if size else None)


def _trained(technique: NetTechnique, scenario: Any) -> list[Problem]:
    """Why it is not of training: all items run whole there."""
    return [Problem(technique.name, "of inference: in training every item runs whole")] * bool(
        scenario.words.get("train")
    )


@dataclass(frozen=True)
class Glance(NetTechnique):
    """A light network that looks first."""

    name: ClassVar[str] = "glance"
    layer: ClassVar[str] = "decoding"
    paper: ClassVar[Citation] = Citation(
        "AdaFocus V2: end-to-end training of spatial dynamic networks for video recognition", "arXiv:2112.14238"
    )
    effect: ClassVar[str] = "a light network runs for every item, the network itself for a share of them"
    costs: ClassVar[str] = "accuracy where the light network is wrong; its weights in memory"
    first: ClassVar[str] = "net"

    net: Annotated[str, "the light network, a name of `steelyard ls nets`"] = "mobilenetv2_100"
    size: Annotated[int, Quantity("1", "side of the image it sees; 0: its usual one", ge=0, le=16384)] = 0
    share: Annotated[float, Quantity("1", "share of the items that the network itself runs for", ge=0, le=1)] = 0.5

    def network_problems(self, scenario: Any) -> list[Problem]:
        """See :class:`Technique`."""
        return refused_by(self.name, lambda: _net(self.net, self.size)) or _trained(self, scenario)

    def network(self, scenario: Any) -> Any:
        """See :class:`Technique`: a phase before, and fewer runs of the others."""
        found = with_phases(scenario, lambda p: replace(p, repeats=p.repeats * self.share))
        return replace(found, phases=(Phase("glance", _net(self.net, self.size)), *found.phases))


@dataclass(frozen=True)
class Stepwise(NetTechnique):
    """A small network that runs step after step."""

    name: ClassVar[str] = "stepwise"
    layer: ClassVar[str] = "decoding"
    paper: ClassVar[Citation] = Citation(
        "Joint autoregressive and hierarchical priors for learned image compression", "arXiv:1809.02736"
    )
    effect: ClassVar[str] = "a small network runs for every item many times, one after another"
    costs: ClassVar[str] = "time of its launches; what it gains is rate or quality"
    first: ClassVar[str] = "times"

    times: Annotated[int, Quantity("1", "runs for an item, such as the places of an image", ge=1, le=10_000_000)] = 1024
    net: Annotated[str, "the small network, a name of `steelyard ls nets`"] = "codec_context"
    size: Annotated[int, Quantity("1", "its input: a side or tokens; 0: the usual one", ge=0, le=16384)] = 0

    def network_problems(self, scenario: Any) -> list[Problem]:
        """See :class:`Technique`."""
        return refused_by(self.name, lambda: _net(self.net, self.size)) or _trained(self, scenario)

    def network(self, scenario: Any) -> Any:
        """See :class:`Technique`: a phase behind."""
        steps = Phase("steps", _net(self.net, self.size), float(self.times))
        return replace(scenario, phases=(*scenario.phases, steps))


@dataclass(frozen=True)
class NetworkExit(NetTechnique):
    """Items that leave a network on the way."""

    name: ClassVar[str] = "network-exit"
    layer: ClassVar[str] = "decoding"
    paper: ClassVar[Citation] = Citation(
        "BranchyNet: fast inference via early exiting from deep neural networks", "arXiv:1709.01686"
    )
    effect: ClassVar[str] = "a share of the items leaves a network after a part of its layers"
    costs: ClassVar[str] = "accuracy, by the threshold; classifiers to train"
    first: ClassVar[str] = "leaves"

    leaves: Annotated[float, Quantity("1", "share of the items that leave early", ge=0, le=1)] = 0.5
    at: Annotated[float, Quantity("1", "share of the work after which they leave, on average", gt=0, le=1)] = 0.5
    head: Annotated[float, Quantity("1", "work of the classifiers on the way over the whole", ge=0, le=1)] = 0.01

    def network_problems(self, scenario: Any) -> list[Problem]:
        """See :class:`Technique`."""
        return _trained(self, scenario)

    def network(self, scenario: Any) -> Any:
        """See :class:`Technique`: a pass is a share of one."""
        share = self.leaves * self.at + (1.0 - self.leaves) + self.head
        return with_phases(scenario, lambda p: replace(p, repeats=p.repeats * share))
