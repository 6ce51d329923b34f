"""``steelyard search prune``: how many channels every layer of a network keeps."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated

from cyclopts import Parameter

from steelyard.cli.help import FIRST, RUN, option
from steelyard.cli.output import Output, Paged
from steelyard.cli.search_bits import Front, Limits, Run
from steelyard.cli.searched import searched


@Parameter(name="*")
@dataclass(frozen=True)
class Counts:
    """Limits of what is counted."""

    macs: Annotated[str, option("multiply-accumulates of a pass at most", topic=FIRST)] = ""
    parameters: Annotated[str, option("parameters at most", topic=FIRST)] = ""


def search_prune(
    model: Annotated[str, option("the network, as for estimate", topic=FIRST)],
    *,
    on: Annotated[str, option("the machine", topic=FIRST)],
    keep: Annotated[str, option("shares of its channels that a layer may keep", topic=FIRST)] = "1,0.75,0.5,0.25",
    sensitivity: Annotated[
        str, option("CSV of layer,keep,loss, or the proxy width, which is no accuracy", topic=FIRST)
    ] = "width",
    limits: Limits = Limits(),  # noqa: B008
    counts: Counts = Counts(),
    run: Run = Run(),  # noqa: B008
    step: Annotated[int, option("channels are kept in multiples of it (default: 8)", topic=RUN)] = 8,
    front: Front = Front(),  # noqa: B008
    page: Paged = Paged(),  # noqa: B008
    output: Output = Output(),  # noqa: B008
) -> None:
    """Find how many channels every layer keeps so that least is lost within limits.

    What is lost you say, by layer and share; layers whose outputs are added keep the same. Every answer is the exact
    optimum at its limits, or says how far from it it may be.
    """
    from steelyard.exploration.prune import search_prune as search

    words = {**asdict(limits), **asdict(counts), **asdict(run), **asdict(front)}
    words |= {"keep": keep, "step": step, "sensitivity": sensitivity}
    searched("prune", output, page, lambda progress: search(model, on=on, **words, progress=progress))
