"""An estimate of a network: as JSON (``steelyard.estimate/2``), a flat row, a report, and its kernels by module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from steelyard.machine.process import chip_area_m2
from steelyard.report.paper import (
    TIMES,
    Line,
    bullets,
    columns,
    figure,
    fitting,
    grid,
    lines_table,
    render,
    span,
    spare_text,
    styled,
)
from steelyard.report.plain import ESTIMATE, plain
from steelyard.units import format_quantity as q
from steelyard.units import parameters_text, power_text

if TYPE_CHECKING:
    from steelyard.estimation.network import NetEstimate

__all__ = [
    "flat",
    "kernels_of",
    "parts",
    "parts_explained",
    "rate_lines",
    "report",
    "summary",
    "time_rows",
    "title",
    "to_dict",
]

#: Classes of kernels shown one by one before the rest is summed.
_SHOWN = 24


def to_dict(found: NetEstimate) -> dict[str, Any]:
    """The answer in the form ``steelyard.estimate/2``: SI units, nothing that is not finite."""
    from steelyard.estimation.network import provenance_of

    s = found.scenario
    machine = s.cluster.machine
    return plain(  # type: ignore[no-any-return]
        {
            "schema": ESTIMATE,
            "model": s.name,
            "machine": {"name": machine.name, "title": machine.title, "count": s.cluster.count},
            "runtime": s.runtime.name,
            "precision": s.precision.name,
            "layout": s.layout,
            "batch": s.batch,
            "fits": found.fits,
            "latency_s": found.latency_s,
            "throughput_per_s": found.throughput_per_s,
            "energy_j_per_item": found.energy_j_per_item,
            "arithmetic_j_per_item": found.arithmetic_j_per_item,
            "usd_per_million_items": found.usd_per_million_items,
            "utilisation": found.utilisation,
            "area_m2": chip_area_m2(machine) or None,
            "peak_memory_bytes": found.peak_memory_bytes,
            "activation_bytes": found.activation_bytes,
            "weight_bytes": found.weight_bytes,
            "capacity_bytes": found.capacity_bytes,
            "storage_capacity_bytes": found.storage_capacity_bytes or None,
            "macs": found.macs,
            "activations": found.activations,
            "parameters": found.parameters,
            "phases": [
                {
                    "name": p.name,
                    "repeats": p.repeats,
                    "time_s": p.time_s,
                    "limit_s": p.limit_s,
                    "bound": p.bound,
                    "exchange_s": p.exchange_s,
                }
                for p in found.phases
            ],
            "unknown_ops": [{"op": u.op, "count": u.count, "bytes_frac": u.bytes_frac} for u in found.unknown_ops],
            "limit": {"latency_s": found.limit_s},
            "interval": {name: list(ends) for name, ends in found.interval.items()},
            "bound": found.bound,
            "assumptions": found.ledger.assumptions,
            "sources": found.ledger.sources,
            "guesses": found.ledger.guesses,
            "provenance": provenance_of(s),
        }
    )


def flat(found: NetEstimate) -> dict[str, Any]:
    """The answer as one row of text and numbers."""
    s = found.scenario
    low, high = found.interval["latency_s"]
    return plain(  # type: ignore[no-any-return]
        {
            "model": s.name,
            "machine": s.cluster.machine.name,
            "count": s.cluster.count,
            "runtime": s.runtime.name,
            "precision": s.precision.name,
            "layout": s.layout,
            "batch": s.batch,
            "fits": found.fits,
            "latency_s": found.latency_s,
            "latency_s_low": low,
            "latency_s_high": high,
            "throughput_per_s": found.throughput_per_s,
            "energy_j_per_item": found.energy_j_per_item,
            "usd_per_million_items": found.usd_per_million_items,
            "peak_memory_bytes": found.peak_memory_bytes,
            "macs": found.macs,
            "parameters": found.parameters,
            "bound": found.bound,
        }
    )


def summary(found: NetEstimate) -> str:
    """One line for a Python prompt."""
    s = found.scenario
    return (
        f"<NetEstimate of {s.name} on {s.cluster}, {s.runtime.name}, batch {s.batch}: "
        f"{q(found.latency_s, 's')}, {figure(found.throughput_per_s)} per s>"
    )


def report(found: NetEstimate, width: int | None = None) -> str:
    """The whole answer as text."""
    return render(parts(found), width)


def _unknown(found: NetEstimate) -> list[Any]:
    """Ops that the table does not have."""
    texts = [f"{u.op}: {u.count} of them, {u.bytes_frac:.1%} of the bytes" for u in found.unknown_ops]
    return bullets("ops that are not known, priced as traffic", texts)


def title(found: NetEstimate) -> list[Any]:
    """Network and machine, runtime and batch."""
    s = found.scenario
    return [
        styled((s.name, "bold"), " on ", (s.cluster.title, "bold")),
        styled(f"{s.runtime.title}, {s.precision.name}, {s.layout}; batch {s.batch:,}"),
    ]


def _chip(found: NetEstimate) -> list[Line]:
    """What a chip of arrays is and does, or what a design takes of an FPGA."""
    stream, fabric = found.prices[0].stream, found.scenario.cluster.machine.fabric
    if stream is not None and fabric is not None:
        parts = (
            ("LUTs", stream.luts, fabric.luts),
            ("DSPs", stream.dsps, fabric.dsps),
            ("BRAM", stream.blocks, fabric.blocks),
        )
        takes = ", ".join(f"{a / b:.0%} of the {n}" for n, a, b in parts if b)
        return [Line("fabric", f"{takes}; an item every {stream.interval:,.0f} cycles")]
    if found.utilisation is None:
        return []
    area = chip_area_m2(found.scenario.cluster.machine)
    words = f"{found.utilisation:.0%} of its multipliers work" + (f", {q(area, 'm2')}" if area else "")
    return [Line("chip", words), *_stacks(found)]


def _stacks(found: NetEstimate) -> list[Line]:
    """Layers that a chip runs depth first."""
    said = []
    for phase, price in zip(found.scenario.phases, found.prices, strict=True):
        for stack in price.array.stacks if price.array is not None else ():
            before, inside = (
                sum(n.kind.group == "product" for n in phase.graph.nodes[a:b])
                for a, b in ((0, stack.first), (stack.first, stack.last))
            )
            tiles = f"{stack.rows} x {stack.columns} tiles, {q(stack.lines_bytes, 'B')} of lines"
            how = tiles if stack.rows > 1 else "whole maps on chip"
            said.append(Line("depth first", f"products {before + 1} to {before + inside}: {how}"))
    fuses = any(price.array is not None and price.array.chip.fuses >= 0 for price in found.prices)
    return said or [Line("depth first", "no layers: one by one is as good for each")] * fuses


def parts(found: NetEstimate) -> list[Any]:
    """The report as renderables."""
    machine = found.scenario.cluster.machine
    where = f" {machine.apart.name}" if machine.apart else ""
    verdict = [fitting(found.fits, found.peak_memory_bytes, found.capacity_bytes, where)]
    if found.storage_capacity_bytes:
        used, spare = q(found.weight_bytes, "B"), spare_text(found.storage_capacity_bytes - found.weight_bytes)
        stored = q(found.storage_capacity_bytes, "B")
        verdict.append(styled(f"      {used} of {stored} {machine.root.name}, {spare}"))
    table = grid("left", "right", "right", "right", "left")
    table.add_row(*(styled((x, "bold")) for x in TIMES))
    for i, (label, value, *rest) in enumerate(time_rows(found)):
        table.add_row(label, value if i else styled((value, "bold")), *rest)
    guesses = [f"{path}: {reason}" for path, reason in found.ledger.guesses.items() if path.startswith("runtime.")]
    sources = [f"{what}: {source}" for what, source in list(found.ledger.sources.items())[:6]]
    return [
        *title(found),
        "",
        *verdict,
        "",
        table,
        "",
        lines_table(rate_lines(found)),
        "",
        *_unknown(found),
        *bullets("assumed", found.ledger.assumptions),
        *bullets("guessed", guesses),
        *bullets("sources", sources),
    ]


def time_rows(found: NetEstimate) -> list[list[str]]:
    """The latency and its phases, a row each: name, predicted, 80 % interval, limit, what bounds it."""
    low, high = found.interval["latency_s"]
    rows = [["latency", q(found.latency_s, "s"), span(low, high), q(found.limit_s, "s"), found.bound]]
    for phase in found.phases if len(found.phases) > 1 else ():
        times = f", {phase.repeats:g} times" if phase.repeats > 1 else ""
        rows.append([f"  {phase.name}{times}", q(phase.time_s, "s"), "", q(phase.limit_s, "s"), phase.bound])
    return rows


def rate_lines(found: NetEstimate) -> list[Line]:
    """Throughput, energy, money and work."""
    money = "no price known; give one with --price"
    if found.usd_per_million_items is not None:
        money = f"{q(found.usd_per_million_items, 'USD')} per million items"
    watts = found.energy_j_per_item * found.throughput_per_s / found.scenario.cluster.count
    return [
        Line("throughput", f"{figure(found.throughput_per_s)} items/s"),
        Line("energy", f"{q(found.energy_j_per_item, 'J')} per item ({power_text(watts)} per device)"),
        *_chip(found),
        Line("money", money),
        Line("work", f"{q(found.macs, 'MAC')} per item, {parameters_text(found.parameters)} parameters"),
    ]


def kernels_of(found: NetEstimate) -> list[dict[str, Any]]:
    """Every kernel of a pass of every phase: op, class, module, operations, bytes, time, limit and what bounds it."""
    from steelyard.cost.net_price import by_arithmetic

    rows = []
    for phase, priced in zip(found.phases, found.prices, strict=True):
        k, column = priced.kernels, min(found.column, priced.kernel_s.shape[1] - 1)
        arithmetic = by_arithmetic(k, priced.site)[:, column]
        for i in range(len(k)):
            rows.append(
                {
                    "phase": phase.name,
                    "repeats": phase.repeats,
                    "name": k.names[i] if k.names[i] not in ("", k.ops[i]) else f"{k.ops[i]}#{i + 1}",
                    "op": k.ops[i],
                    "class": k.classes[i],
                    "flops": float(k.flops[i, column]),
                    "bytes": float(k.bytes[i, column]),
                    "time_s": float(priced.kernel_s[i, column]),
                    "limit_s": float(priced.limit_s[i, column]),
                    "bound": "compute" if arithmetic[i] else "memory",
                }
            )
            if priced.array is not None and not priced.array.stacks:
                levels = zip(priced.array.chip.path, priced.array.moved[i, column], strict=True)
                rows[-1]["level_bytes"] = {level.name: float(moved) for level, moved in levels}
                if (nest := priced.array.nests[i]) is not None:
                    rows[-1] |= {"spread": dict(nest.spread), "tile": dict(nest.tile)}
    return rows


def _levels(rows: Sequence[dict[str, Any]]) -> list[Any]:
    """What every memory of a chip reads and writes in a pass, the outermost first."""
    found: dict[str, float] = {}
    for row in rows:
        for name, moved in reversed(row.get("level_bytes", {}).items()):
            found[name] = found.get(name, 0.0) + moved * row["repeats"]
    if not found:
        return []
    words = ", ".join(f"{name} {q(moved, 'B')}" for name, moved in found.items())
    return [lines_table([Line("moved", f"{words}, read and written")]), ""]


def _by_class(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Classes of kernels by the time they take."""
    found: dict[str, list[float]] = {}
    for row in rows:
        sums = found.setdefault(row["class"], [0, 0.0, 0.0, 0.0, 0.0])
        for j, value in enumerate((1, row["flops"], row["bytes"], row["time_s"], row["limit_s"])):
            sums[j] += value * (row["repeats"] if j else 1)
    total = sum(sums[3] for sums in found.values()) or 1.0
    ranked = sorted(found.items(), key=lambda item: -item[1][3])
    return [
        [name, f"{n:,.0f}", q(flops, "FLOP"), q(size, "B"), q(time, "s"), f"{time / total:.0%}", q(limit, "s")]
        for name, (n, flops, size, time, limit) in ranked
    ]


def parts_explained(found: NetEstimate) -> list[Any]:
    """Kernels by class and the dearest ones of a pass."""
    rows = kernels_of(found)
    head = ["class", "kernels", "work", "bytes", "time", "share", "limit"]
    dear = sorted(rows, key=lambda r: -r["time_s"])[:_SHOWN]
    cells = [
        [
            r["name"] or r["op"],
            r["op"],
            r["class"],
            q(r["bytes"], "B"),
            q(r["time_s"], "s"),
            q(r["limit_s"], "s"),
            r["bound"],
        ]
        for r in dear
    ]
    return [
        *title(found),
        "",
        styled(("kernels by class", "bold")),
        columns(head, _by_class(rows), numeric=head[1:]),
        "",
        *_levels(rows),
        styled((f"the {len(dear)} that take longest of {len(rows):,}", "bold")),
        columns(
            ["module", "op", "class", "bytes", "time", "limit", "bound"],
            cells,
            numeric=["bytes", "time", "limit"],
            fold=["module"],
        ),
        "",
        *_unknown(found),
        *bullets("guesses", [f"{path}: {reason}" for path, reason in found.ledger.guesses.items()]),
    ]


def explained_dict(found: NetEstimate) -> dict[str, Any]:
    """``steelyard.explain/1`` of a network: every kernel of a pass."""
    document = to_dict(found)
    return plain({**document, "schema": "steelyard.explain/1", "kernels": kernels_of(found)})  # type: ignore[no-any-return]


def table(found: Sequence[NetEstimate], width: int | None = None) -> str:
    """Several answers as a table."""
    flats = [flat(f) for f in found]
    several = {name for name in ("machine", "batch") if len({row[name] for row in flats}) > 1}
    head = [
        *(n for n in ("machine", "batch") if n in several),
        "latency",
        "80% interval",
        "items/s",
        "J/item",
        "memory",
        "",
    ]
    rows = []
    for f, row in zip(found, flats, strict=True):
        cells = [f"{row[n]:,}" if n == "batch" else str(row[n]) for n in ("machine", "batch") if n in several]
        low, high = f.interval["latency_s"]
        cells += [q(f.latency_s, "s"), span(low, high), figure(f.throughput_per_s), figure(f.energy_j_per_item)]
        rows.append([*cells, q(f.peak_memory_bytes, "B"), "" if f.fits else "does not fit"])
    first = found[0]
    numeric = ["batch", "latency", "80% interval", "items/s", "J/item", "memory"]
    return render(
        [*title(first)[: 1 if "batch" in several or "machine" in several else 2], columns(head, rows, numeric)], width
    )


def shortfall(found: NetEstimate) -> str:
    """How much memory is short, in words, or that a kernel cannot reach all elements."""
    if found.past_index:
        runtime = found.scenario.runtime
        return f"{runtime.title} reaches fewer than 2^31 elements in kernels of {', '.join(runtime.indexed)}"
    if found.too_much:
        return f"its engines take {' and '.join(found.too_much)}"
    used, capacity = found.peak_memory_bytes, found.capacity_bytes
    if found.storage_capacity_bytes and used <= capacity:
        used, capacity = found.weight_bytes, found.storage_capacity_bytes
    return f"{q(used, 'B')} of {q(capacity, 'B')}, {q(used - capacity, 'B')} short"
