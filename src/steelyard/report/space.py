"""Architectures of a searched space: as JSON (``steelyard.space/1``), CSV columns, and a report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard.report.paper import bullets, columns, figure, render, span, styled
from steelyard.report.plain import plain
from steelyard.units import format_quantity as q

if TYPE_CHECKING:
    from steelyard.estimation.space import SpaceEstimate

__all__ = ["SCHEMA", "csv_columns", "parts", "report", "summary", "to_dict"]

SCHEMA = "steelyard.space/1"
#: Architectures shown at each end.
_SHOWN = 3


def csv_columns(found: SpaceEstimate) -> dict[str, list[Any]]:
    """A column for each figure; empty where it is not known."""
    n, nothing = len(found), [""] * len(found)

    def known(values: Any) -> list[Any]:
        return nothing if values is None else np.asarray(values).tolist()

    return {
        "architecture": found.architectures,
        "machine": [_device(found)] * n,
        "batch": [found.scenario.batch] * n,
        "latency_s": known(found.latency_s),
        "latency_s_low": known(found.low_s),
        "latency_s_high": known(found.high_s),
        "throughput_per_s": known(found.throughput_per_s),
        "energy_j_per_item": known(found.energy_j_per_item),
        "usd_per_million_items": known(found.usd_per_million_items),
        "limit_s": known(found.limit_s),
        "macs": known(found.macs),
        "parameters": known(found.parameters),
    }


def _device(found: SpaceEstimate) -> str:
    s = found.scenario
    return s.network.cluster.machine.name if s.network else s.device.name if s.device else ""


def to_dict(found: SpaceEstimate) -> dict[str, Any]:
    """The answer as ``steelyard.space/1``: a list for each figure, in the order of ``architectures``."""
    from steelyard.estimation.space import provenance_of

    s, lists = found.scenario, csv_columns(found)
    del lists["machine"], lists["batch"]
    architectures = lists.pop("architecture")
    return plain(  # type: ignore[no-any-return]
        {
            "schema": SCHEMA,
            "space": s.space.name,
            "machine": _device(found),
            "batch": s.batch,
            "measured_networks": len(s.device.timed) if s.device else 0,
            "architectures": architectures,
            **{name: None if values and values[0] == "" else values for name, values in lists.items()},
            "sources": dict(found.ledger.sources),
            "assumptions": list(found.ledger.assumptions),
            "provenance": provenance_of(s),
        }
    )


def summary(found: SpaceEstimate) -> str:
    """One line for a Python prompt."""
    low, high = q(float(found.latency_s.min()), "s"), q(float(found.latency_s.max()), "s")
    return f"<SpaceEstimate of {len(found):,} of {found.scenario.space.name} on {_device(found)}: {low} - {high}>"


def report(found: SpaceEstimate, width: int | None = None) -> str:
    """The answer as text."""
    return render(parts(found), width)


def parts(found: SpaceEstimate) -> list[Any]:
    """The report as renderables: the fastest and the slowest."""
    s, time = found.scenario, found.latency_s
    order = np.argsort(time, kind="stable")
    shown = order if len(order) <= 2 * _SHOWN else np.concatenate([order[:_SHOWN], order[-_SHOWN:]])
    rows = [
        [
            q(float(time[i]), "s"),
            span(float(found.low_s[i]), float(found.high_s[i])),
            figure(float(found.throughput_per_s[i])),
            s.space.spell(s.codes[i].tolist()),
        ]
        for i in shown
    ]
    if len(order) > 2 * _SHOWN:
        rows.insert(_SHOWN, ["...", "", "", f"{len(order) - 2 * _SHOWN:,} between; --csv has all"])
    how = f"from {len(s.device.timed)} networks measured on it" if s.device else "priced"
    if s.network and not s.device:
        how = f"{s.network.runtime.title}, {s.network.precision.name}, {s.network.layout}"
    title = s.network.cluster.title if s.network else _device(found)
    numeric = ["latency", "80% interval", "items/s"]
    least, middle, most = (q(float(x), "s") for x in np.quantile(time, [0.0, 0.5, 1.0]))
    spread = [styled(f"latency {least} to {most}, median {middle}")]
    return [
        styled(
            (f"{len(time):,} networks of {s.space.title}" if len(time) > 1 else s.space.title, "bold"),
            " on ",
            (title, "bold"),
        ),
        styled(f"{how}; batch {s.batch:,}"),
        "",
        *([*spread, ""] if len(time) > 1 else []),
        columns([*numeric, "architecture"], rows, numeric, fold=["architecture"]),
        "",
        *bullets("assumed", found.ledger.assumptions),
        *bullets("sources", [f"{what}: {source}" for what, source in list(found.ledger.sources.items())[:6]]),
    ]
