"""Train: a layout of a training run weighed: step, memory of every stage, pipeline, MFU, money, failures."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any
from urllib.parse import urlencode

from steelyard.errors import InputError
from steelyard.page.screen import Screen, Shown, Tell
from steelyard.page.trained import LAYOUT, layout_of, sides_of, view_of
from steelyard.report.figures import figures_of
from steelyard.scenario.fields import fields_of

__all__ = ["SCREEN"]

#: Devices that a curve goes up to, times those of the layout.
_MORE = 4


def ask(words: Mapping[str, Any], tell: Tell) -> Shown:
    """The training of one question."""
    import steelyard as sy
    from steelyard.report import train as report

    found = sy.train(**words)
    view = view_of(found)
    if found.cost is not None and found.rewarded is None:
        plan, cluster = found.scenario.plan, found.scenario.cluster
        known = fields_of("plan_training")
        same = {n: v for n, v in words.items() if n in known and n not in LAYOUT}
        same |= {"on": cluster.machine.name if ":" in str(words["on"]) else words["on"], "gbs": plan.gbs}
        asked = {**same, **layout_of(plan, "plan_training"), "max_gpus": _MORE * cluster.count, "objective": "time"}
        view["trace"] = "perfetto.json"
        view["curve"] = f"/train_plan?{urlencode(asked, doseq=True)}"
    drawn = [f.to_dict() for f in figures_of(found)]
    files: dict[str, str] = {}
    with suppress(InputError):  # of networks and of several kinds of devices nothing is launched
        files = report.files(found) if found.fits else {}
    return Shown(report.to_dict(found), [report.flat(found)], drawn, view, files)


def trace(words: Mapping[str, Any]) -> str:
    """The passes of a step as a Chrome trace."""
    import steelyard as sy
    from steelyard.report.train_picture import trace_lines

    return "".join(trace_lines(sy.train(**words)))


SCREEN = Screen(
    name="train",
    title="Train",
    says="What a training step and a run cost in one layout: time, memory of every stage, energy, money, failures.",
    ask=ask,
    verb="train",
    usual="model on framework precision optimizer gbs seq mbs tp pp dp ep zero recompute tokens failures by",
    start={
        "model": "llama-3.1-70b",
        "on": "h100_sxm:256",
        "gbs": "512",
        "tp": "4",
        "pp": "4",
        "mbs": "1",
        "tokens": "1T",
        "failures": "llama3",
    },
    sides=partial(sides_of, "train"),
    made={"perfetto.json": trace},
)
