"""An explanation as JSON (``steelyard.explain/1``), as rows, and as a report: kernels, memory, energy, sources."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from steelyard.report.paper import bullet, bullets, columns, kept, render, styled
from steelyard.report.plain import plain
from steelyard.traffic.trace import LENGTHS
from steelyard.units import format_quantity as q

if TYPE_CHECKING:
    from steelyard.estimation.explanation import Explanation

__all__ = ["SCHEMA", "flat_rows", "parts", "summary", "text", "to_dict"]

SCHEMA = "steelyard.explain/1"

#: What the source of a cost model's parameters means.
_SOURCE_WORDS = {
    "fitted": "fitted to measurements of this machine",
    "borrowed": "borrowed from measurements of its family or of machines in general",
    "default": "no measurements: physical defaults",
}


def to_dict(found: Explanation) -> dict[str, Any]:
    """``steelyard.explain/1``: the kernels of both phases, and the formulas of memory and energy."""
    from steelyard.estimation.estimate import provenance

    estimate = found.estimate
    s = estimate.scenario
    document = {
        "schema": SCHEMA,
        "model": s.transformer.name,
        "on": str(s.cluster),
        "batch": s.batch,
        **{name: getattr(s, name) for name in LENGTHS},
        "prefill": _phase(found, "prefill"),
        "decode": _phase(found, "decode"),
        "prefill_steps": found.prefill_steps,
        "memory": found.memory,
        **({"structure": s.model.structure.to_dict()} if s.model.structure else {}),
        "energy": found.energy,
        "sources": estimate.ledger.sources,
        "guesses": estimate.ledger.guesses,
        "provenance": provenance(s),
    }
    return plain(document)  # type: ignore[no-any-return]


def flat_rows(found: Explanation) -> list[dict[str, Any]]:
    """One CSV row per kernel and phase."""
    return [
        plain({"phase": name, **{k: " ; ".join(v) if isinstance(v, list) else v for k, v in row.items()}})
        for name, rows in found.kernels.items()
        for row in rows
    ]


def _phase(found: Explanation, name: str) -> dict[str, Any]:
    phase = getattr(found.estimate, name)
    return {
        "time_s": phase.time_s,
        "limit_s": phase.limit_s,
        "tokens": phase.program.tokens,
        "kernels": found.kernels[name],
    }


def summary(found: Explanation) -> str:
    """One line for a Python prompt."""
    s = found.estimate.scenario
    return (
        f"<Explanation of {s.transformer.name} on {s.cluster}: {len(found.kernels['decode'])} kernels in a decode step>"
    )


def text(found: Explanation, width: int | None = None) -> str:
    """The explanation for a terminal."""
    return render(parts(found, width), width)


def parts(found: Explanation, width: int | None = None) -> list[Any]:
    """The report as renderables, from the scenario to the guesses."""
    e, s = found.estimate, found.estimate.scenario
    of = f", one of {found.prefill_steps}" if found.prefill_steps > 1 else ""
    title = f"{s.transformer.name} on {s.cluster}, {s.engine.title}, batch {s.batch}, {s.prompt} + {s.osl} tokens"
    made: list[Any] = [
        styled((title, "bold")),
        "Work, bytes and time are totals over all copies of a kernel on one device.",
    ]
    shown = [f"{s.tower.name.capitalize()}, {s.shown.words} of each request" for s in e.scenario.seen]
    encodes = [x for x in found.kernels if x.startswith("encode")]
    for name, words, phase in (
        *zip(encodes, shown, e.encodes, strict=True),
        ("prefill", f"Prefill step of {float(e.prefill.program.tokens):,.0f} tokens{of}", e.prefill),
        ("decode", f"Decode step of {s.replica_batch:,} sequences", e.decode),
    ):
        total = f"{words}: {q(phase.time_s, 's')}, limit {q(phase.limit_s, 's')}"
        made += ["", styled((total, "bold")), _table(found.kernels[name], width), *map(_about, found.kernels[name])]
    sizes = [f"{name}: {q(float(x['bytes']), 'B')} = {x['formula']}" for name, x in found.memory.items()]
    joules = found.energy
    static = f"static {joules['static_w']:,.0f} W, TDP {joules['tdp_w']:,.0f} W"
    batch = f"whole batch {q(joules['devices_j'], 'J')} + hosts {q(joules['hosts_j'], 'J')}"
    step = f"decode step {q(joules['decode_step_j_per_device'], 'J')} per device ({static}); {batch}"
    used = sorted({k.source.partition(":")[0] for phase in (e.prefill, e.decode) for k in phase.cost})
    for heading, texts in (
        ("Weights, as read from the tensors of the files", s.model.structure.lines() if s.model.structure else []),
        ("Memory of the fullest device", sizes),
        ("Energy", [joules["formula"], f"{step} = {q(joules['j_per_token'], 'J')} per token"]),
        ("Parameters", [f"{word}: {_SOURCE_WORDS.get(word, 'from the model itself')}" for word in used]),
        ("Guesses (figures nobody published)", [f"{path}: {reason}" for path, reason in e.ledger.guesses.items()]),
    ):
        made += ["", *bullets(heading, texts)] if texts else []
    return made


#: Columns of the table of kernels: heading, and what makes a cell.
_COLUMNS: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "kernel": lambda k: styled((k["kernel"], "bold")),
    "count": lambda k: f"{k['count']:.0f}",
    "FLOP": lambda k: _si(k.get("flops")),
    "bytes": lambda k: _si(k.get("bytes")),
    "FLOP/B": lambda k: _intensity(k.get("intensity_flop_per_byte")),
    "time": lambda k: q(k["time_s"], "s"),
    "share": lambda k: f"{k['share']:.1%}",
    "util": lambda k: "" if k.get("utilisation") is None else f"{k['utilisation']:.0%}",
    "bound": lambda k: k["bound"],
}


#: Columns that narrow terminals go without, first to go first.
_OPTIONAL = ("FLOP/B", "bytes", "count", "FLOP")


def _table(kernels: Sequence[Mapping[str, Any]], width: int | None) -> Any:
    names = list(_COLUMNS)
    rows = [[cell(k) for cell in _COLUMNS.values()] for k in kernels]
    shown = kept(names, rows, width, _OPTIONAL, gap=1)
    numeric, folded = names[1:-1], ("kernel",) if width is None else ()
    return columns([names[i] for i in shown], [[row[i] for i in shown] for row in rows], numeric, folded, gap=1)


def _about(k: Mapping[str, Any]) -> Any:
    """A kernel's formula, engine, formats and source."""
    where = ""
    if k.get("engine"):
        stored = f", weights {k['weights_in']}" if k["weights_in"] else ""
        where = f" [{k['engine']}, {k['computed_in']}{stored}]"
    einsum = f" ({'; '.join(k['einsum'])})" if k.get("einsum") and len(k["einsum"]) == 1 else ""
    source = f" {k['source']}" if k.get("source") else ""
    return bullet(styled((k["kernel"], "bold"), f": {k['formula']}{einsum}{where}{source}"))


def _intensity(value: float | None) -> str:
    return "" if not value else f"{value:,.3g}" if value < 1000 else f"{value:,.0f}"


def _si(value: float | None) -> str:
    return q(value, "x").removesuffix("x").replace(" ", "") if value else ""
