"""``steelyard search predictor``: how well a device is known from a few measured networks, and what to measure next."""

from __future__ import annotations

from typing import Annotated, Any

from steelyard.cli.help import FIRST, option
from steelyard.cli.output import Output, Paged
from steelyard.cli.searched import searched


def search_predictor(
    *,
    measured: Annotated[str, option("CSV of architecture,seconds (or latency_ms)", topic=FIRST)],
    space: Annotated[str, option("nb201, fbnet, ofa, or a TOML file of your own", topic=FIRST)],
    like: Annotated[str, option("machine of the catalogue that the device is, or is like", topic=FIRST)] = "",
    runtime: Annotated[str, option("its runtime, as for estimate", topic=FIRST)] = "",
    batch: Annotated[int, option("items of a pass (default: 1)", topic=FIRST)] = 1,
    predictors: Annotated[str, option("names separated by commas (default: all)", topic=FIRST)] = "",
    devices: Annotated[
        str, option("CSV of other devices: architecture, and a column of seconds of each", topic=FIRST)
    ] = "",
    predict: Annotated[str, option("CSV of architectures whose times are asked for", topic=FIRST)] = "",
    page: Paged = Paged(),  # noqa: B008
    output: Output = Output(),  # noqa: B008
) -> None:
    """Compare predictors of a device on a few measured networks, each predicted from the others.

    The list of what to measure next names the networks that would tell most. `calibrate --networks` keeps the device.
    """
    from steelyard.exploration.predictors import search_predictor as search

    words: dict[str, Any] = {"space": space, "like": like, "batch": batch, "predictors": predictors, "runtime": runtime}
    words |= {"devices": devices, "predict": predict}
    searched("predictor", output, page, lambda progress: search(measured, **words))
