"""``steelyard search network``: the networks of a space that score best within limits of time."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import Annotated

from cyclopts import Parameter

from steelyard.cli.help import FIRST, RUN, option
from steelyard.cli.output import Output, Paged
from steelyard.cli.searched import searched


@Parameter(name="*")
@dataclass(frozen=True)
class Wanted:
    """What is searched for."""

    space: Annotated[str, option("nb201, fbnet, ofa, or a TOML file of your own", topic=FIRST)]
    on: Annotated[str, option("devices, separated by commas: machines, or devices known by few networks", topic=FIRST)]
    latency: Annotated[str, option("limit of a pass: 5ms, or DEVICE:5ms,DEVICE:8ms", topic=FIRST)] = ""
    score: Annotated[
        str,
        option(
            "CSV of architecture,score; FILE.py:FUNCTION or MODULE:FUNCTION; or a proxy: entropy, macs", topic=FIRST
        ),
    ] = "entropy"
    macs: Annotated[str, option("multiply-accumulates at most", topic=FIRST)] = ""
    parameters: Annotated[str, option("parameters at most", topic=FIRST)] = ""
    memory: Annotated[str, option("of microcontrollers: activations at once at most: 256KiB", topic=FIRST)] = ""
    sure: Annotated[str, option("probability of keeping the limits of time: 0.9", topic=FIRST)] = ""
    batch: Annotated[str, option("items of a pass", topic=FIRST)] = ""
    runtime: Annotated[str, option("runtime, as for estimate", topic=FIRST)] = ""
    precision: Annotated[str, option("arithmetic, as for estimate", topic=FIRST)] = ""
    size: Annotated[str, option("size of the image, as for estimate", topic=FIRST)] = ""


@Parameter(name="*")
@dataclass(frozen=True)
class Effort:
    """How it is looked for."""

    solver: Annotated[
        str, option("auto, evolution, annealing, bandit, halving, random, tpe, nsga2, nsga3, a plug-in", topic=RUN)
    ] = "auto"
    budget: Annotated[int, option("networks a solver may try (default: 5000)", topic=RUN)] = 5000
    seed: Annotated[int, option("of the solver (default: 0)", topic=RUN)] = 0
    executor: Annotated[
        str, option("who calls a score FILE.py:FUNCTION: serial, process:4, ray (default: serial)", topic=RUN)
    ] = ""
    log: Annotated[str, option("file that keeps what was tried; one that is there is gone on from", topic=RUN)] = ""


def search_network(
    *,
    wanted: Wanted,
    effort: Effort = Effort(),
    page: Paged = Paged(),  # noqa: B008
    output: Output = Output(),  # noqa: B008
) -> None:
    """Find the networks of a space that score best within limits of time on one or several devices.

    The front is exact where all can be listed or where score and time add up over the choices; elsewhere a solver
    looks for it. How good a network is, you say: a table, a function of your own, or a proxy, which is no accuracy.
    """
    from steelyard.exploration.networks import search_network as search

    said = {name: value for name, value in asdict(wanted).items() if value != ""}
    find = partial(search, **said, **asdict(effort))
    searched("network", output, page, lambda progress: find(progress=progress), "networks")
