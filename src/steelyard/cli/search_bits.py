"""``steelyard search bits``: widths of weights and activations of every layer of a network."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated

from cyclopts import Parameter

from steelyard.cli.help import FIRST, RUN, option
from steelyard.cli.output import Output, Paged
from steelyard.cli.searched import searched


@Parameter(name="*")
@dataclass(frozen=True)
class Run:
    """How the network is run, as for estimate."""

    batch: Annotated[str, option("items of a pass", topic=FIRST)] = ""
    runtime: Annotated[str, option("runtime, as for estimate", topic=FIRST)] = ""
    precision: Annotated[str, option("arithmetic of what is not chosen, as for estimate", topic=FIRST)] = ""
    size: Annotated[str, option("size of the image, as for estimate", topic=FIRST)] = ""


@Parameter(name="*")
@dataclass(frozen=True)
class Limits:
    """What the choice must keep."""

    latency: Annotated[str, option("most time of a pass, such as 5ms", topic=FIRST)] = ""
    energy: Annotated[str, option("most energy of a pass, such as 5mJ", topic=FIRST)] = ""


@Parameter(name="*")
@dataclass(frozen=True)
class Front:
    """The front."""

    front: Annotated[
        str, option("figure over which it is found (default: the first limited, or latency)", topic=RUN)
    ] = ""
    points: Annotated[int, option("points, about (default: 12)", topic=RUN)] = 12


def search_bits(
    model: Annotated[str, option("the network, as for estimate", topic=FIRST)],
    *,
    on: Annotated[str, option("the machine", topic=FIRST)],
    bits: Annotated[str, option("what a layer may have: 4 or w4a8, separated by commas", topic=FIRST)] = "4,8,w8a16",
    sensitivity: Annotated[
        str, option("CSV of layer,bits,loss, or the proxy noise, which is no accuracy", topic=FIRST)
    ] = "noise",
    limits: Limits = Limits(),
    memory: Annotated[str, option("most bytes of all weights, such as 4MB", topic=FIRST)] = "",
    run: Run = Run(),
    front: Front = Front(),
    page: Paged = Paged(),  # noqa: B008
    output: Output = Output(),  # noqa: B008
) -> None:
    """Find the bits of every layer's weights and activations that lose least within limits.

    What is lost you say, by layer and bits; time, energy and memory are those of an estimate. Every answer is the
    exact optimum at its limits, or says how far from it it may be.
    """
    from steelyard.exploration.bits import search_bits as search

    words = {
        **asdict(limits),
        **asdict(run),
        **asdict(front),
        "memory": memory,
        "bits": bits,
        "sensitivity": sensitivity,
    }
    searched("bits", output, page, lambda progress: search(model, on=on, **words, progress=progress))
