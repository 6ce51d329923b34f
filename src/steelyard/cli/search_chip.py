"""``steelyard search chip``: which of many chips runs given workloads best."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from cyclopts import Parameter

from steelyard.cli.help import FIRST, RUN, option
from steelyard.cli.options import Wrong, processes
from steelyard.cli.output import Output, Paged
from steelyard.cli.progress import status
from steelyard.cli.searched import answered, told
from steelyard.errors import Problem
from steelyard.units import parse_quantity


@Parameter(name="*")
@dataclass(frozen=True)
class Limits:
    """What a chip must keep."""

    area: Annotated[str, option("most silicon, such as 25mm2", topic=FIRST)] = ""
    power: Annotated[str, option("most mean power of a workload, such as 2W", topic=FIRST)] = ""
    latency: Annotated[str, option("most time of a pass of every workload, such as 10ms", topic=FIRST)] = ""

    def read(self, problems: Wrong) -> tuple[float, float, float]:
        """Area in m2, power in W, time in s; infinite where none is given."""
        given = (("area", self.area, "m2"), ("power", self.power, "W"), ("latency", self.latency, "s"))
        area, power, latency = (_limit(name, text, unit, problems) for name, text, unit in given)
        return area, power, latency


@Parameter(name="*")
@dataclass(frozen=True)
class Serving:
    """What is made small, and the years of a chip."""

    front: Annotated[
        str, option("front of: latency, energy, area, power, usd, carbon (default: the first three)", topic=FIRST)
    ] = ""
    passes: Annotated[str, option("of each workload in the mix, resnet50:10,bert-base:1", topic=FIRST)] = ""
    over: Annotated[
        str,
        option("workloads as one figure: mix, or worst or p90 of multiples of the least (default: mix)", topic=FIRST),
    ] = ""
    years: Annotated[str, option("in service: money and carbon with its electricity", topic=FIRST)] = ""
    rate: Annotated[str, option("mixes a second in service, such as 20/s", topic=FIRST)] = ""
    power_price: Annotated[str, option("USD of a kWh (default: 0.1)", topic=FIRST)] = ""
    carbon: Annotated[str, option("g CO2 of a kWh", topic=FIRST)] = ""


@Parameter(name="*")
@dataclass(frozen=True)
class Networks:
    """How networks of a space are chosen, where a workload is one."""

    score: Annotated[
        str,
        option(
            "of networks of a space: as search network's, or FORMAT:SCORE,FORMAT:SCORE (default: entropy)", topic=FIRST
        ),
    ] = ""
    solver: Annotated[str, option("of networks with chips, as search network's (default: auto)", topic=RUN)] = "auto"
    budget: Annotated[int, option("pairs a solver may try (default: 5000)", topic=RUN)] = 5000
    seed: Annotated[int, option("of the solver (default: 0)", topic=RUN)] = 0
    log: Annotated[str, option("file that keeps what a solver tried; one that is there is gone on from", topic=RUN)] = (
        ""
    )


@Parameter(name="*")
@dataclass(frozen=True)
class Pricing:
    """How chips are priced."""

    state: Annotated[str, option("folder that keeps what is priced; a search that was stopped goes on", topic=RUN)] = ""
    jobs: Annotated[int, option("threads; 0: as many as there are cores", topic=RUN)] = 0


def search_chip(
    *,
    space: Annotated[
        str, option("file of the space: a base machine, fields of it with the values to try", topic=FIRST)
    ] = "",
    workloads: Annotated[
        str,
        option(
            "networks and models, NAME[:prefill|decode], separated by commas; one may be a space of networks",
            topic=FIRST,
        ),
    ] = "",
    limits: Limits = Limits(),
    serving: Serving = Serving(),
    networks: Networks = Networks(),
    batch: Annotated[int, option("items of a pass (default: 1)", topic=FIRST)] = 1,
    context: Annotated[
        int, option("tokens of a prompt, or in the cache of a decode (default: 512)", topic=FIRST)
    ] = 512,
    best: Annotated[
        str,
        option("write the chip of least time x energy (of the best score) as a machine to this TOML file", topic=RUN),
    ] = "",
    pricing: Pricing = Pricing(),
    page: Paged = Paged(),  # noqa: B008
    output: Output = Output(),  # noqa: B008
    problems: Wrong,
) -> None:
    """Search a space of chips: every point priced on workloads, limits, and the front of time, energy and area.

    Or of what --front names: money and carbon are of making the silicon and, with --years, of its electricity.

    The space is a TOML file: a base machine whose array has a dataflow, and fields of it with the values to try (see
    docs/guide/search-chip.md). Each workload runs alone; times and energies are of a pass. Where a workload is a space
    of networks (nb201, fbnet, ofa, mine.toml), the front is of networks on chips, with the score beside the rest:

        steelyard search chip --space npu.toml --workloads mine.toml --score scores.csv --latency 2ms
    """
    from steelyard.exploration.codesign import is_space, search_codesign
    from steelyard.search.chip import search_chip as search
    from steelyard.writing import check_target, write_text

    problems.read(output.check)
    problems.read(page.check)
    if not space:
        problems.add([Problem("space", "required option is missing (file of the space)")])
    if not workloads.strip(" ,"):
        problems.add([Problem("workloads", "required option is missing, such as resnet50,bert-base")])
    area_m2, power_w, latency_s = limits.read(problems)
    for name, number in (("batch", batch), ("context", context)):
        if not 1 <= number <= 1_000_000:
            problems.add([Problem(name, f"expected 1 to 1,000,000, got {number:,}")])
    names = workloads.split(",")
    several = any(is_space(name) for name in names)
    if not several and networks != Networks():
        said = next(
            n for n in ("score", "solver", "budget", "seed", "log") if getattr(networks, n) != getattr(Networks, n)
        )
        words = "expected a space of networks among the workloads, such as nb201 or mine.toml"
        problems.add([Problem(said, words)])
    if several and serving.over:
        problems.add([Problem("over", "is for given workloads, not for a space of networks")])
    if best:
        problems.read(check_target, best, "best")
    threads = problems.read(processes, pricing.jobs)
    problems.done()
    assert threads is not None
    with told("chip", output), status(output.quiet, "pricing chips") as say:
        asked: dict[str, Any] = {
            "area_m2": area_m2,
            "power_w": power_w,
            "latency_s": latency_s,
            "batch": batch,
            "context": context,
            **{name: value for name, value in asdict(serving).items() if value != ""},
            "jobs": threads,
            "state": pricing.state,
            "watch": lambda done, of: say(f"{done} of {of} arrays with their memories"),
        }
        found: Any
        if several:
            more = {**asdict(networks), "score": networks.score or "entropy"}
            tell = lambda done, of: say(f"{done:,} of {of:,} pairs")  # noqa: E731
            found = search_codesign(space, names, progress=tell, **asked, **more)
        else:
            found = search(space, names, **asked)
    if best:
        from steelyard.machine.loader import machine_text

        point = found.best["score"].chip if several else found.best["product"]
        chip = found.space.machine(point.codes)
        write_text(best, machine_text(chip), "best")
    answered(found, output, page)


def _limit(name: str, text: str, unit: str, problems: Wrong) -> float:
    """A limit, which is above zero."""
    if unit == "m2" and re.fullmatch(r"\s*[\d._]+\s*", text):
        problems.add([Problem(name, f"expected an area with its unit, such as {text.strip()}mm2, got {text!r}")])
        return math.inf
    value = problems.read(parse_quantity, text, unit, name) if text else None
    if value is not None and not value > 0:
        problems.add([Problem(name, f"expected a limit above 0, got {value:g}")])
    return math.inf if value is None else value
