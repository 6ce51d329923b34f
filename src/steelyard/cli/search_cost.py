"""``steelyard search cost``: what a search of networks costs itself."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated

from cyclopts import Parameter

from steelyard.cli.help import FIRST, RUN, option
from steelyard.cli.output import Output, Paged
from steelyard.cli.searched import searched


@Parameter(name="*")
@dataclass(frozen=True)
class Ways:
    """How candidates are rated."""

    shared: Annotated[
        str,
        option(
            "phases of shared weights, EPOCHS:NETWORKS of every step, EPOCHS:largest, or EPOCHS:NAME of a network with "
            "every choice (default: as many epochs as a candidate, one network a step)",
            topic=FIRST,
        ),
    ] = ""
    teacher: Annotated[str, option("network that shared weights learn from: largest, or a name", topic=FIRST)] = ""
    rungs: Annotated[
        str,
        option("divides candidates after every rung, or CANDIDATES:EPOCHS of each (default: 3)", topic=FIRST),
    ] = "3"
    rated: Annotated[str, option("samples that rate a candidate (default: 10000)", topic=FIRST)] = "10000"
    last: Annotated[int, option("networks trained once shared weights chose them (default: 1)", topic=FIRST)] = 1


@Parameter(name="*")
@dataclass(frozen=True)
class Training:
    """How they are trained, as for train."""

    gbs: Annotated[str, option("samples of a step, as for train", topic=RUN)] = ""
    samples: Annotated[str, option("of a pass over the data (default: the images of ImageNet-1k)", topic=RUN)] = ""
    precision: Annotated[str, option("arithmetic, as for train", topic=RUN)] = ""
    set: Annotated[str, option("of the network and its runtime, as for train: size=192", topic=RUN)] = ""
    failures: Annotated[str, option("as for train (default: none)", topic=RUN)] = ""
    price: Annotated[str, option("rent of a device and hour in USD, as for train", topic=RUN)] = ""
    power_price: Annotated[str, option("USD of a kWh beyond the rent, as for train", topic=RUN)] = ""
    carbon: Annotated[str, option("g CO2 of a kWh, as for train", topic=RUN)] = ""


def search_cost(
    *,
    space: Annotated[str, option("nb201, fbnet, ofa, or a TOML file of your own", topic=FIRST)],
    on: Annotated[str, option("devices that train, as for train", topic=FIRST)],
    candidates: Annotated[int, option("networks that are compared (default: 1000)", topic=FIRST)] = 1000,
    epochs: Annotated[float, option("passes over the data of a whole training (default: 100)", topic=FIRST)] = 100.0,
    ways: Ways = Ways(),
    training: Training = Training(),
    page: Paged = Paged(),  # noqa: B008
    output: Output = Output(),  # noqa: B008
) -> None:
    """Weigh a search of networks itself: device-days, energy and money of three ways to rate candidates.

    Every candidate is trained; or in rungs, after each of which the best go on; or one network with shared weights is.

    A pass over the data costs what `train` says of a network of the space's mean step. How many epochs each way needs
    you say; which finds the better network is not weighed.

        steelyard search cost --space ofa --on v100_sxm_16gb:32 --gbs 2048 --epochs 180 --shared 180:largest,120:1
    """
    from steelyard.exploration.search_cost import search_cost as search
    from steelyard.scenario.fields import PRICE

    said = {PRICE if n == "price" else n: v for n, v in asdict(training).items() if v != ""}
    words = {**asdict(ways), **said}
    find = lambda progress: search(space, on=on, candidates=candidates, epochs=epochs, **words)  # noqa: E731
    searched("cost", output, page, find)
