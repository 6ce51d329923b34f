"""What the catalogues hold, as rows."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from steelyard.errors import InputError, UnknownName, normalise, show, suggest
from steelyard.report.entry import reason
from steelyard.report.plain import plain
from steelyard.scenario.fields import PRICE
from steelyard.units import format_quantity

if TYPE_CHECKING:
    from steelyard.machine.component import Machine

__all__ = ["heading", "kinds", "rows", "rows_with_origins", "shown", "text"]

#: Heading and unit of the columns that need them, for people.
_COLUMNS = {
    "memory_bytes": ("memory", "B"),
    "bandwidth_bytes_per_s": ("bandwidth", "B/s"),
    "dense_16bit_ops_per_s": ("16 bit", "OP/s"),
    "dense_8bit_ops_per_s": ("8 bit", "OP/s"),
    "tdp_w": ("TDP", "W"),
    "host_w": ("host", "W"),
    "latency_s": ("latency", "s"),
    PRICE: ("USD/h", "USD/h"),
    "step_s": ("step", "s"),
    "request_s": ("request", "s"),
    "stored_bits": ("stored bits", ""),
    "max_batched_tokens": ("step tokens", ""),
    "memory_frac": ("memory", ""),
    "provider_class": ("class", ""),
}
#: Figures of a machine's row.
_MACHINE = (*list(_COLUMNS)[:5], "released", "guesses", "source")
#: Columns that may wrap.
_FOLDED = ("title", "also", "source", "math", "parameters", "effect", "verbs")
#: Lists whose sources are too long for a terminal (``steelyard show`` has them), and are not searched.
_WORDY = ("engines", "machines", "models", "networks")


def rows(kind: str, filter_text: str = "") -> list[dict[str, Any]]:
    """Every entry of a kind in which ``filter_text`` occurs (case and punctuation forgiven), SI units.

    Raises:
        UnknownName: nothing matches.
    """
    return rows_with_origins(kind, filter_text)[0]


def rows_with_origins(kind: str, filter_text: str = "") -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """The same rows; and of each by column the source of a figure with its date, or why it is a guess (``guess: ``).

    Raises:
        UnknownName: nothing matches.
    """
    found, told = _found(kind, filter_text), []
    for row in found:
        dated = ", ".join(str(row[n]) for n in ("source", "date") if row.get(n))
        if dated and row.get("released"):
            dated += f"; released {row['released']}"
        if row.get("guess") is True:
            dated = f"guess: {dated}"
        figures = [n for n, v in row.items() if isinstance(v, int | float) and not isinstance(v, bool)]
        published = {n: dated for n in figures if dated and n != "guesses"}
        told.append(published | {n: f"guess: {why}" for n, why in row.get("_guess", {}).items()})
    return [plain({k: v for k, v in row.items() if not k.startswith("_")}) for row in found], told


def _found(kind: str, filter_text: str) -> list[dict[str, Any]]:
    if kind not in _LISTS:
        raise _no_kind(kind)
    everything = list(_LISTS[kind]())
    key = normalise(filter_text) or filter_text.strip()
    unsearched = ("source",) if kind in _WORDY else ()
    found = [
        row
        for row in everything
        if key in normalise(" ".join(v for n, v in row.items() if isinstance(v, str) and n not in unsearched))
    ]
    if not found and filter_text:
        named = [str(next(iter(r.values()))) for r in everything]
        one = {"policies": "policy"}.get(kind, kind.removesuffix("s"))
        near = suggest(filter_text, named, kind=one)
        others = [] if near else _elsewhere(filter_text, kind)
        hint = f"; {' and '.join(others)} knows it" if others else ""
        raise UnknownName(one, filter_text, named, hint=f"no {kind} match{hint}")
    return found


def _no_kind(kind: str) -> InputError:
    """What to say of a kind that there is not: its nearest name, or the kinds that hold an entry of this name."""
    known = kinds()
    near = suggest(kind, known, 1, kind="listed")
    found = [] if near else _elsewhere(kind)
    words = f"did you mean {near[0]!r}?" if near else f"did you mean `{found[0]}`?" if found else ""
    return InputError(
        f"expected one of {', '.join(known)}, got {show(kind)}" + (f"; {words}" if words else ""), field="kind"
    )


def _elsewhere(name: str, kind: str = "") -> list[str]:
    """``steelyard ls KIND NAME`` of the kinds, but for ``kind``, that hold something so called."""
    from steelyard.report.entry import kinds_of

    plural = {"policy": "policies"}
    found = [plural.get(k, f"{k}s") for k in kinds_of(name)]
    return [shlex.join(["steelyard", "ls", k, name]) for k in found if k in _LISTS and k != kind]


def text(kind: str, found: Sequence[Mapping[str, Any]], width: int | None = None) -> str:
    """The rows for a terminal."""
    from steelyard.report.paper import columns, kept, left_out, needed, render

    if not found:
        return f"no {kind}"
    names = [n for n in found[0] if n != "source" or kind not in _WORDY]
    heads = {n: _COLUMNS.get(n, (n, ""))[0] for n in names}
    numeric = [
        heads[n] for n in names if any(isinstance(r[n], int | float) and not isinstance(r[n], bool) for r in found)
    ]
    cells = [[shown(n, r[n]) for n in names] for r in found]
    every = [*heads.values()]
    places = kept(every, cells, width, every[:0:-1], fold=_FOLDED)
    table = columns([every[i] for i in places], [[row[i] for i in places] for row in cells], numeric, _FOLDED)
    return render([table, *left_out(every, places)], width, piped=max(120, needed(every, cells, _FOLDED)))


def kinds() -> tuple[str, ...]:
    """What is listed: ``models``, ``machines``, ..."""
    return tuple(kind for kind in _LISTS if kind != "kinds")


def heading(name: str) -> str:
    """The heading of a column for people."""
    return _COLUMNS.get(name, (name.replace("_", " "), ""))[0]


def shown(name: str, value: Any) -> str:
    """A figure of a column for people, with its unit."""
    if value is None or value == "":
        return ""
    if isinstance(value, bool):
        return "yes" if value else ""
    _, unit = _COLUMNS.get(name, ("", ""))
    if unit:
        return format_quantity(float(value), unit) if value else ""
    if name in ("parameters", "active", "macs") and not isinstance(value, str):
        return f"{value / 1e9:,.4g} B" if value >= 1e9 else f"{value / 1e6:,.4g} M"
    if isinstance(value, float):
        return f"{value:,.6g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _models() -> list[dict[str, Any]]:
    from steelyard.workload.catalogue import find_model, model_names

    found = []
    for name in model_names():
        try:
            entry = find_model(name)
        except InputError:  # `broken_models` says why
            continue
        row = {
            "name": name,
            "parameters": entry.parameters,
            "active": entry.active_parameters or None,
            "context": entry.context or None,
        }
        row |= {"type": str(entry.config.get("model_type", "")), "released": entry.released}
        row["source"] = "; ".join(x for x in (entry.parameters_source, entry.source) if x)
        found.append({**row, "_aliases": " ".join((*entry.aliases, *entry.same_as))})
    return found


def _machines() -> list[dict[str, Any]]:
    from steelyard.machine.catalogue import find_machine, machine_names

    found = []
    for name in machine_names():
        try:
            m = find_machine(name)
        except InputError as error:
            found.append({"name": name, "title": f"cannot be read: {error}", "kind": "", **dict.fromkeys(_MACHINE)})
            continue
        peaks = [(f, p) for c in m.compute for f, p in c.peak.items()]
        wide = max((p for f, p in peaks if f in ("bf16", "fp16")), default=None)
        narrow = max((p for f, p in peaks if f in ("fp8", "int8")), default=None)
        row = {"name": name, "title": m.title, "kind": m.kind, "memory_bytes": m.root.capacity_bytes}
        row |= {"bandwidth_bytes_per_s": m.root.bandwidth_bytes_per_s, "dense_16bit_ops_per_s": wide}
        row |= {"dense_8bit_ops_per_s": narrow, "tdp_w": m.tdp_w or None}
        row |= {"released": m.released, "guesses": len(m.guess), "source": "; ".join(m.sources.values())}
        more = f"{m.vendor} {m.family} {' '.join(m.aliases)}"
        found.append({**row, "_more": more, "_guess": _guessed(m, {"16": wide, "8": narrow})})
    return found


def _guessed(m: Machine, peaks: Mapping[str, float | None]) -> dict[str, str]:
    """Why figures of a machine's row are guesses, by column."""
    root = f"memory.{m.root.name}"
    paths = {"memory_bytes": [f"{root}.capacity_bytes"], "bandwidth_bytes_per_s": [f"{root}.bandwidth_bytes_per_s"]}
    paths["tdp_w"] = ["tdp_w"]
    for bits, peak in peaks.items():
        paths[f"dense_{bits}bit_ops_per_s"] = [
            f"compute.{c.name}.peak.{f}" for c in m.compute for f, p in c.peak.items() if p == peak
        ]
    return {n: why for n, of in paths.items() for path in of if (why := reason(m.guess, path))}


def _formats() -> Iterator[dict[str, Any]]:
    from steelyard.deployment.formats import formats

    for f in formats().values():
        also = {"math": ", ".join(f.math), "also": ", ".join(f.aliases), "title": f.title}
        yield {"name": f.name, "bits": f.bits, "stored_bits": round(f.stored_bits, 4), **also}


#: Limits of an engine, and the heads of their columns.
_SIZES = {"block_tokens": "block", "max_batched_tokens": "max_batched_tokens", "max_sequences": "sequences"}


def _engines() -> Iterator[dict[str, Any]]:
    from steelyard.deployment.engine import engines

    for e in engines().values():
        sizes = {column: getattr(e, name) for name, column in _SIZES.items()}
        first = _fields(e, "name", "title", "version", "released", "memory_frac")
        last = _fields(e, "step_s", "request_s", "source")
        guessed = {_SIZES.get(n, n): "not published" for n in e.guess}
        yield {**first, **sizes, **last, "guesses": len(e.guess), "_guess": guessed}


def _networks() -> Iterator[dict[str, Any]]:
    from steelyard.machine.catalogue import networks

    for n in networks().values():
        figures = _fields(n, "name", "title", "kind", "bandwidth_bytes_per_s", "latency_s", "switched")
        guessed = dict.fromkeys(n.guess, "not published")
        yield {**figures, "guesses": len(n.guess), "source": n.source, "_guess": guessed}


def _nodes() -> Iterator[dict[str, Any]]:
    from steelyard.machine.catalogue import nodes

    for n in nodes().values():
        yield {**_fields(n, "name", "machine", "devices", "peer", "network"), "host_w": n.host_w or None}


def _systems() -> Iterator[dict[str, Any]]:
    from steelyard.machine.catalogue import find_machine, systems

    for s in systems().values():
        row = _fields(s, "name", "machine", "devices")
        row |= {"node": s.node or find_machine(s.machine).node, PRICE: s.usd_per_hour or None}
        yield {**row, "also": ", ".join(s.aliases), "source": s.source, "_title": s.title}


def _prices() -> Iterator[dict[str, Any]]:
    from steelyard.machine.catalogue import prices

    for p in sorted(prices(), key=lambda p: (p.machine, p.provider_class, p.date)):
        yield _fields(p, "machine", "usd_per_hour", "provider_class", "date", "guess", "source")


def _techniques() -> Iterator[dict[str, Any]]:
    from steelyard.techniques._registry import TECHNIQUES

    for cls in map(TECHNIQUES.get, TECHNIQUES):
        keys = ", ".join(p.key for p in cls.parameters())
        named = {**_fields(cls, "name", "layer"), "verbs": cls.about()["verbs"], "parameters": keys}
        yield {**named, "effect": cls.effect, "source": cls.paper.source}


def _fields(entry: Any, *names: str) -> dict[str, Any]:
    return {name: getattr(entry, name) for name in names}


def _policies() -> Iterator[dict[str, Any]]:
    from steelyard.simulation.policies import POLICIES

    for name in POLICIES:
        yield {"name": name, "title": (POLICIES.get(name).__doc__ or "").partition("\n")[0]}


def _recipes() -> Iterator[dict[str, Any]]:
    from steelyard.scenario.recipes import recipes

    for r in recipes().values():
        yield {**_fields(r, "name", "title", "released", "engine", "version", "lengths"), "also": ", ".join(r.aliases)}


def _oplists() -> Iterator[dict[str, Any]]:
    from steelyard.workload.oplist import PREFIX, op_lists

    for one in op_lists().values():
        sizes = ", ".join(f"{name}={value:g}" for name, value in one.sizes.items())
        yield {"name": PREFIX + one.name, "title": one.title, "ops": len(one.op), "sizes": sizes, "source": one.source}


def _nets() -> Iterator[dict[str, Any]]:
    from steelyard.workload.nets import find_net, net_names

    for name in net_names():
        entry = find_net(name)
        size = "x".join(map(str, entry.size))
        yield {
            "name": name,
            "macs": entry.macs,
            "parameters": entry.parameters,
            "size": size,
            "family": entry.family or "kept graph",
            "also": ", ".join(entry.aliases),
            "source": entry.source,
        }


def _runtimes() -> Iterator[dict[str, Any]]:
    from steelyard.deployment.runtime import runtimes

    for r in runtimes().values():
        measured = dict.fromkeys(m for reach in r.reach for m in reach.measured)
        yield {
            **_fields(r, "name", "title", "precision", "layout"),
            "fuses": r.fuses,
            "measured": ", ".join(measured),
            "also": ", ".join(r.aliases),
        }


def _pipelines() -> Iterator[dict[str, Any]]:
    from steelyard.workload.pipelines import pipelines

    for p in pipelines().values():
        size = "x".join(map(str, p.size)) + (f", {p.frames} frames" if p.frames else "")
        phases = ", ".join(dict.fromkeys(phase.name for phase in p.phase))
        yield {
            **_fields(p, "name", "title", "steps"),
            "size": size,
            "phases": phases,
            "also": ", ".join(p.aliases),
            "source": p.source,
        }


def _frameworks() -> Iterator[dict[str, Any]]:
    from steelyard.deployment.frameworks import frameworks

    for f in frameworks().values():
        own = ("name", "title", "version", "released", "attention", "zero", "dispatcher")
        yield {**_fields(f, *own), "also": ", ".join(f.aliases), "source": f.source}


def _optimizers() -> Iterator[dict[str, Any]]:
    from steelyard.deployment.optimizers import optimizers

    for o in optimizers().values():
        yield {**_fields(o, "name", "title", "state_bytes", "master"), "also": ", ".join(o.aliases), "source": o.source}


def _failures() -> Iterator[dict[str, Any]]:
    from steelyard.deployment.failures import failing_clusters

    for name, c in failing_clusters().items():
        yield {"name": name, "failures": c.failures.source}


def _hosted() -> Iterator[dict[str, Any]]:
    from steelyard.search.against import hosted_prices

    for model, found in hosted_prices().items():
        for p in found:
            yield {"model": model, **_fields(p, "provider", "prompt", "answer", "date", "guess")}


def _kinds() -> Iterator[dict[str, Any]]:
    for kind in _LISTS:
        if kind != "kinds":
            yield {"kind": kind, "entries": _count(kind), "command": f"steelyard ls {kind}"}


def _count(kind: str) -> int:
    """Entries of a kind."""
    from steelyard.machine.catalogue import machine_names
    from steelyard.workload.catalogue import model_names

    light = {"models": model_names, "machines": machine_names}
    return len(light[kind]()) if kind in light else sum(1 for _ in _LISTS[kind]())


_LISTS: Mapping[str, Callable[[], Iterable[dict[str, Any]]]] = {
    "models": _models,
    "machines": _machines,
    "formats": _formats,
    "engines": _engines,
    "networks": _networks,
    "nodes": _nodes,
    "systems": _systems,
    "prices": _prices,
    "policies": _policies,
    "techniques": _techniques,
    "recipes": _recipes,
    "nets": _nets,
    "pipelines": _pipelines,
    "runtimes": _runtimes,
    "frameworks": _frameworks,
    "optimizers": _optimizers,
    "failures": _failures,
    "oplists": _oplists,
    "hosted": _hosted,
    "kinds": _kinds,
}
