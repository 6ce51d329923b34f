"""Two things of one kind side by side: machines, models, formats, engines, saved estimates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steelyard._display import Result
from steelyard.errors import InputError, complete
from steelyard.report.entry import Entry, Kind, facts, find, shown
from steelyard.report.paper import PREFIXED
from steelyard.scenario.answers import figures_of
from steelyard.traffic.trace import LENGTHS

if TYPE_CHECKING:
    from steelyard.estimation.estimate import Estimate
    from steelyard.estimation.network import NetEstimate
    from steelyard.scenario.scenario import Scenario

__all__ = ["Comparison", "cells", "compare", "text", "to_dict"]

#: Figures of saved estimates that are compared, in order.
_COMPARED = (
    f"machine.name machine.count engine batch {' '.join(LENGTHS)} plan.weights plan.kv fits memory_bytes.total "
    "memory_bytes.capacity largest_batch ttft_s tpot_s e2e_s tokens_per_s tokens_per_s_per_device energy_j_per_token "
    "usd_per_million_tokens limit.ttft_s limit.tpot_s bound.prefill bound.decode"
)
_ESTIMATE = tuple(_COMPARED.split())
#: The same of networks and pipelines.
_OF_NETWORKS = (
    "machine.name machine.count runtime precision batch fits parameters macs weight_bytes peak_memory_bytes "
    "capacity_bytes latency_s throughput_per_s energy_j_per_item usd_per_million_items limit.latency_s bound"
)
_NETWORK = tuple(_OF_NETWORKS.split())
#: Units of figures by the end of their names, where no other table says them.
_ENDINGS = {
    "_bytes_per_s": "B/s",
    "_ops_per_s": "OP/s",
    "_per_s": "",
    "_bytes": "B",
    "_j_per_item": "J",
    "_usd_per_hour": "USD/h",
    "_usd": "USD",
    "_w": "W",
    "_s": "s",
}


@dataclass(frozen=True, repr=False)
class Comparison(Result):
    """Fields of two entries, in order: ``(field, a, b)``."""

    kind: Kind
    names: tuple[str, str]
    lines: tuple[tuple[str, Any, Any], ...]

    def rows(self) -> list[dict[str, Any]]:
        """One row per field; ``ratio`` is b over a where both are numbers."""
        return [{"field": f, "a": a, "b": b, "ratio": _ratio(a, b)} for f, a, b in self.lines]


@complete
def compare(
    a: str | Estimate | NetEstimate | Scenario, b: str | Estimate | NetEstimate | Scenario, kind: Kind | None = None
) -> Comparison:
    """Line up the fields of two things of one kind.

    Args:
        a, b: names in a catalogue, paths, estimates, or scenarios (which are estimated).
        kind: look names up only among these.

    Raises:
        InputError: a name is unknown or means several things, or the two are of different kinds.
    """
    first, second = _entry(a, "a", kind), _entry(b, "b", kind)
    if first.kind != second.kind:
        left_name, right_name = (g if isinstance(g, str) else e.name for g, e in ((a, first), (b, second)))
        names = f"{left_name!r} is a {first.kind} and {right_name!r} a {second.kind}"
        raise InputError(f"{names}; compare two of one kind", field="compare")
    left, right = (_figures(e) for e in (first, second))
    order = list(dict.fromkeys((*left, *right)))
    lines = tuple((name, left.get(name), right.get(name)) for name in order if name != "name")
    name = a if isinstance(a, str) and a == b else first.name
    return Comparison(first.kind, (name, second.name), lines)


def _entry(given: Any, field: str, kind: Kind | None) -> Entry:
    """What stands on one side of a comparison."""
    from steelyard.estimation.estimate import Estimate, estimate
    from steelyard.estimation.network import NetEstimate
    from steelyard.scenario.scenario import Scenario

    if isinstance(given, str):
        return find(given, kind)
    if isinstance(given, Scenario):
        given = estimate(given)
    if isinstance(given, Estimate):
        return Entry("estimate", f"{given.scenario.model.name} on {given.scenario.cluster}", given.to_dict())
    if isinstance(given, NetEstimate):
        return Entry("estimate", given.scenario.name, given.to_dict())
    raise InputError(f"expected a name, an estimate or a scenario, got {given!r:.80}", field=field)


def _figures(entry: Entry) -> dict[str, Any]:
    found = facts(entry)
    if entry.kind == "estimate":
        return {name: found.get(name) for name in (_NETWORK if "ttft_s" not in found else _ESTIMATE)}
    if entry.kind == "machine":
        return _machine(entry.value)
    skipped = ("aliases", "also_called", "notes", "source", "parameters_source", "confidence", "note")
    return {k: v for k, v in found.items() if k not in skipped and not k.startswith("note[")}


def _machine(m: Any) -> dict[str, Any]:
    """Figures of a machine under names that two makers share."""
    found: dict[str, Any] = {"title": m.title, "kind": m.kind, "family": m.family, "released": m.released}
    for kind in ("matrix", "vector"):
        for engine in m.engines(kind):
            for fmt, peak in engine.peak.items():
                name = f"{kind}.{fmt}_ops_per_s"
                found[name] = max(peak, found.get(name, 0.0))
    root, cache = m.root, m.cache
    found |= {"memory.capacity_bytes": root.capacity_bytes, "memory.bandwidth_bytes_per_s": root.bandwidth_bytes_per_s}
    if cache is not None:
        found |= {
            "cache.capacity_bytes": cache.capacity_bytes,
            "cache.bandwidth_bytes_per_s": cache.bandwidth_bytes_per_s,
        }
    for role in ("peer", "host", "network"):
        links = m.links(role)
        if links:
            found[f"{role}.bandwidth_bytes_per_s"] = links[0].bandwidth_bytes_per_s
    found |= {
        "devices_per_node": m.devices_per_node,
        "tdp_w": m.tdp_w or None,
        "idle_w": m.idle_w or None,
        "capex_usd": m.capex_usd or None,
    }
    from steelyard.machine.catalogue import price_of

    price = price_of(m.name)
    found["rent_usd_per_hour"] = price.usd_per_hour if price else None
    best = max((p for c in m.compute for f, p in c.peak.items() if f in ("bf16", "fp16")), default=None)
    found["flop_per_byte_16bit"] = best / root.bandwidth_bytes_per_s if best else None
    found["guesses"] = len(m.guess)
    return found


def _ratio(a: Any, b: Any) -> float | None:
    numbers = all(isinstance(x, int | float) and not isinstance(x, bool) for x in (a, b))
    return b / a if numbers and a else None


def to_dict(found: Comparison) -> dict[str, Any]:
    """``steelyard.compare/1``."""
    from steelyard.report.plain import plain

    names = {"a": found.names[0], "b": found.names[1]}
    return plain({"schema": "steelyard.compare/1", "kind": found.kind, **names, "rows": found.rows()})  # type: ignore[no-any-return]


def text(found: Comparison, width: int | None = None) -> str:
    """The two side by side, with the ratio b / a where both are numbers."""
    from steelyard.report.paper import render

    return render(parts(found), width, piped=100)


def summary(found: Comparison) -> str:
    """One line for a Python prompt."""
    return f"<Comparison of {found.names[0]} and {found.names[1]}: {len(found.lines)} fields>"


def cells(found: Comparison) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of the table of both."""
    a, b = found.names if found.names[0] != found.names[1] else (f"{found.names[0]} (a)", f"{found.names[1]} (b)")
    rows = []
    for row in found.rows():
        unit, ratio = _unit(row["field"]), row["ratio"]
        given = [row["field"], shown(row["a"], unit), shown(row["b"], unit)]
        rows.append([*given, "" if ratio is None else f"{ratio:.3g}"])
    return ["", a, b, "b / a"], rows


def parts(found: Comparison) -> list[Any]:
    """The table as a renderable."""
    from steelyard.report.paper import columns

    heads, rows = cells(found)
    return [columns(heads, rows, ("b / a",), fold=heads[1:3])]


def _unit(name: str) -> str:
    """The unit a figure is written with, empty for none."""
    units = {f.path: f.unit for f in figures_of("estimate") if f.path in _ESTIMATE}
    if name in units:
        return units[name] if units[name] in PREFIXED else ""
    return next((unit for end, unit in _ENDINGS.items() if name.endswith(end)), "")
