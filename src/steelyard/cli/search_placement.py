"""``steelyard search placement``: which device or unit runs each layer of a network."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from steelyard.cli.help import FIRST, RUN, option
from steelyard.cli.output import Output, Paged
from steelyard.cli.search_bits import Run
from steelyard.cli.searched import searched


def search_placement(
    model: Annotated[str, option("the network, as for estimate", topic=FIRST)],
    *,
    on: Annotated[str, option("devices, NAME[@RUNTIME][:COUNT], separated by commas", topic=FIRST)],
    goal: Annotated[str, option("latency, or throughput of a pipeline in the order of --on", topic=FIRST)] = "latency",
    link: Annotated[str, option("bandwidth between devices, such as 8GB/s", topic=FIRST)] = "",
    link_latency: Annotated[str, option("time before the first byte arrives, such as 20us", topic=FIRST)] = "",
    latency: Annotated[str, option("most time of one item, such as 5ms", topic=FIRST)] = "",
    energy: Annotated[str, option("most energy of one item, such as 5mJ", topic=FIRST)] = "",
    run: Run = Run(),  # noqa: B008
    points: Annotated[int, option("points of the front of goal and energy, about (default: 12)", topic=RUN)] = 12,
    page: Paged = Paged(),  # noqa: B008
    output: Output = Output(),  # noqa: B008
) -> None:
    """Find the device of every layer: least time of an item, or the fastest pipeline, over the energy.

    Copies between devices and the memory of each count. Every answer is the exact optimum at its limits, or says how
    far from it it may be.
    """
    from steelyard.exploration.placement import search_placement as search

    words = {**asdict(run), "goal": goal, "link": link, "link_latency": link_latency}
    words |= {"latency": latency, "energy": energy, "points": points}
    searched("placement", output, page, lambda progress: search(model, on=on, **words, progress=progress))
