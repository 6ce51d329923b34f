"""One entry of a catalogue, whatever it is: found by name, shown with its sources and guesses."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from steelyard.documents import is_folder, read_document
from steelyard.errors import InputError, UnknownName
from steelyard.units import Quantity, format_quantity

__all__ = ["Entry", "Kind", "facts", "find", "kinds_of", "reason", "shown", "text", "to_dict", "unit_of", "units_of"]

Kind = Literal[
    "machine",
    "model",
    "format",
    "engine",
    "network",
    "node",
    "system",
    "technique",
    "policy",
    "recipe",
    "net",
    "estimate",
]


@dataclass(frozen=True)
class Entry:
    """Something named: its kind, its name and the thing itself (a dict for a saved estimate)."""

    kind: Kind
    name: str
    value: Any


def find(name: str, kind: Kind | None = None) -> Entry:
    """What a name means.

    Args:
        name: a catalogue name or alias, or a path (``.toml``: a machine; ``.json``: a model config, a machine or a
            saved estimate; GGUF, safetensors or a folder: a model).
        kind: look only among these.

    Raises:
        UnknownName: no catalogue knows it.
        InputError: it means several things, or its file cannot be read.
    """
    if not name.strip():
        raise InputError("expected a name or a path", field="name")
    if kind is not None:
        if kind not in get_args(Kind):
            raise UnknownName("kind", str(kind), get_args(Kind))
        return _load(kind, name)
    path = _kind_of_path(name)
    if path is not None:
        return _load(path, name)
    found: list[Entry] = []
    known: dict[str, str] = {}
    for each in _LOADERS:
        if each == "machine" and ":" in name and "\n" not in name:  # a tag of a model: one machine has no count
            continue
        try:
            found.append(_load(each, name))
        except UnknownName as error:
            known |= {near: f"{near} ({each})" for near in error.nearest}
    if systems := [e for e in found if e.kind == "system"]:  # a machine's alias or a node may mean the same box
        return systems[0]
    if not found:
        raise UnknownName("name", name, known, hint="see `steelyard ls`", means=known)
    if len(found) > 1:
        kinds = [f"a {e.kind}" for e in found]
        choices = " or ".join(f"--kind {e.kind}" for e in found)
        raise InputError(f"{name!r} names {', '.join(kinds[:-1])} and {kinds[-1]}; say {choices}", field="name")
    return found[0]


def kinds_of(name: str) -> list[Kind]:
    """The kinds that have something of this name."""
    found: list[Kind] = []
    for each in _LOADERS:
        try:
            _load(each, name)
        except InputError:
            continue
        found.append(each)
    return found


def _kind_of_path(name: str) -> Kind | None:
    path = Path(name).expanduser()
    suffix = path.suffix.lower()
    if suffix in (".toml", ".yaml", ".yml"):
        return "machine"
    if suffix in (".gguf", ".safetensors") or is_folder(path):
        return "model"
    if suffix == ".onnx" or name.lower().endswith(".json.gz"):
        return "net"
    if suffix == ".json":
        data = read_document(path)
        if str(data.get("schema", "")).startswith("steelyard.graph"):
            return "net"
        if str(data.get("schema", "")).startswith("steelyard.estimate"):
            return "estimate"
        return "machine" if "compute" in data or "machine" in data else "model"
    return None


#: What loads an entry of a kind by its name.
_LOADERS: Mapping[Kind, str] = {
    "machine": "steelyard.machine.catalogue:find_machine",
    "model": "steelyard.workload.catalogue:load_model",
    "format": "steelyard.deployment.formats:find_format",
    "engine": "steelyard.deployment.engine:find_engine",
    "network": "steelyard.machine.catalogue:find_network",
    "node": "steelyard.machine.catalogue:find_node",
    "system": "steelyard.machine.catalogue:find_system",
    "technique": "steelyard.techniques._registry:find_technique",
    "policy": "steelyard.simulation.policies:registered_policy",
    "recipe": "steelyard.scenario.recipes:find_recipe",
    "net": "steelyard.workload.nets:summarise_net",
}


def _load(kind: Kind, name: str) -> Entry:
    if kind == "estimate":
        value = _estimate(name)
        return Entry(kind, str(value.get("model", name)), value)
    module, _, function = _LOADERS[kind].partition(":")
    loaded = getattr(import_module(module), function)(name)
    return Entry(kind, loaded.name, loaded)


def _estimate(name: str) -> Any:
    data = read_document(name)
    if data.get("schema") not in ("steelyard.estimate/1", "steelyard.estimate/2"):
        raise InputError(
            f"expected a saved estimate of one scenario (steelyard.estimate/2), got {data.get('schema')!r}", field=name
        )
    return data


def facts(entry: Entry) -> dict[str, Any]:
    """The entry's figures by field path, as plain values in SI units."""
    if entry.kind == "estimate":
        return dict(_flatten(entry.value))
    if entry.kind in ("technique", "recipe", "net"):
        return dict(entry.value.about())
    if entry.kind == "policy":
        cls = type(entry.value)
        return {"order": (cls.__doc__ or "").partition("\n")[0], "class": f"{cls.__module__}:{cls.__name__}"}
    if entry.kind == "model":
        return _model_facts(entry.value)
    found = {path: value for path, value, _ in _walk(entry.value)}
    if entry.kind == "format":
        found["stored_bits"] = entry.value.stored_bits
    return found


def units_of(entry: Entry) -> dict[str, str]:
    """The unit of every figure that is described with one, by field path."""
    if entry.kind in ("model", "technique", "policy", "recipe", "net", "estimate"):
        return {}
    return {path: unit for path, _, unit in _walk(entry.value)}


def unit_of(path: str, units: Mapping[str, str]) -> str:
    """The unit of one figure; by its name where it has no description."""
    return units.get(path, "B" if path.endswith("_bytes") else "")


def _flatten(data: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(data, Mapping):
        for key, value in data.items():
            yield from _flatten(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, data


def _model_facts(model: Any) -> dict[str, Any]:
    from steelyard.workload.transformer import Transformer

    t, entry = model.transformer, model.entry
    found: dict[str, Any] = {
        "name": model.name,
        "model_type": t.model_type,
        "parameters": t.parameters(),
        **{f"{tower.name}_parameters".replace(" ", "_"): tower.parameters for tower in t.towers},
        "active_parameters": t.active_parameters(),
        "layers": t.depth,
        "hidden": t.hidden,
        "vocab": t.vocab,
        "max_context": t.max_context,
        "native_weights": t.native_weights,
    }
    shapes = t if isinstance(t, Transformer) else None
    if shapes is not None:
        found["tied_embeddings"] = shapes.tied
        found["kv_bytes_per_token_16bit"] = shapes.kv_elements_per_token * 2
    if model.weight_bytes is not None:
        found["weight_bytes"] = model.weight_bytes
    for i, layer in enumerate(shapes.layers if shapes is not None else ()):
        found[f"layers[{i}]"] = _layer(layer)
    for i, line in enumerate(model.structure.lines() if model.structure is not None else ()):
        found[f"tensors[{i}]"] = line
    if entry is not None:
        found["published_parameters"] = entry.parameters
        if entry.kv_bytes:
            found["published_kv_bytes"] = f"{entry.kv_bytes:,} of {entry.kv_tokens:,} token(s): {entry.kv_source}"
        for name in ("parameters_source", "released", "confidence", "note"):
            if getattr(entry, name):
                found[name] = getattr(entry, name)
        if entry.aliases or entry.same_as:
            found["also_called"] = ", ".join((*entry.aliases, *entry.same_as))
    for i, note in enumerate(t.notes):
        found[f"note[{i}]"] = note
    found["source"] = model.source
    return found


def _layer(layer: Any) -> str:
    a, f, words = layer.attention, layer.feed_forward, []
    if a is not None and a.is_mla:
        words.append(f"latent attention: {a.heads} heads, rank {a.kv_rank} + {a.rope_dim} rotary")
    elif a is not None:
        kind = f", window {a.window}" if a.window else f", chunk {a.chunk}" if a.chunk else ""
        if a.blocks:
            kind += f", {a.blocks.picked} picked blocks of {a.blocks.size}"
        words.append(f"attention: {a.heads} heads, {a.kv_heads} KV heads of {a.head_dim}{kind}")
    if (mixer := layer.mixer) is not None:
        kind = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(mixer).__name__)
        words.append(f"{kind}: a state of {sum(n for n, _ in mixer.state):,} numbers")
    if layer.cross is not None:
        words.append(f"cross-attention: {layer.cross.heads} heads")
    if f is not None and f.is_moe:
        shared = f", shared {f.shared_intermediate}" if f.shared_intermediate else ""
        words.append(f"{f.experts} experts of {f.intermediate}, top {f.top_k}{shared}")
    elif f is not None:
        words.append(f"{'gated ' if f.gated else ''}MLP {f.intermediate} ({f.activation})")
    return f"{layer.count} x " + "; ".join(words)


def _walk(value: Any, path: str = "") -> Iterator[tuple[str, Any, str]]:
    """``(field path, plain value, unit)`` of every field that says something."""
    if is_dataclass(value) and not isinstance(value, type):
        hints = get_type_hints(type(value), include_extras=True)
        for f in fields(value):
            if path == "" and f.name in ("sources", "guess", "source"):
                continue
            if path and f.name == "name":  # the path says it
                continue
            where = f"{path}.{f.name}" if path else f.name
            yield from _walk_field(getattr(value, f.name), where, _unit(hints.get(f.name)))


def _walk_field(value: Any, path: str, unit: str) -> Iterator[tuple[str, Any, str]]:
    if value is None or value in ("", ()) or (not isinstance(value, bool) and value == 0):
        return
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _walk_field(item, f"{path}.{key}", unit)
    elif isinstance(value, tuple):
        for item in value:
            if not is_dataclass(item):
                yield path, ", ".join(str(x) for x in value), ""
                return
            yield from _walk(item, f"{path}.{getattr(item, 'name', '')}")
    elif is_dataclass(value):
        yield from _walk(value, path)
    else:
        yield path, value, unit


def _unit(hint: Any) -> str:
    """The unit in a field's annotation, also inside ``Mapping[str, Annotated[...]]``."""
    for item in (hint, *get_args(hint)):
        if hasattr(item, "__metadata__"):
            for note in item.__metadata__:
                if isinstance(note, Quantity):
                    return note.unit
    return ""


def to_dict(entry: Entry) -> dict[str, Any]:
    """``steelyard.entry/1``: the figures by field path, sources and guesses."""
    from steelyard.report.plain import plain

    document = {"schema": "steelyard.entry/1", "kind": entry.kind, "name": entry.name, "facts": facts(entry)}
    document |= {"sources": _sources(entry), "guesses": _guesses(entry)}
    return plain(document)  # type: ignore[no-any-return]


def _sources(entry: Entry) -> dict[str, str]:
    if entry.kind == "technique":
        return {"paper": str(entry.value.paper)}
    found = _said(entry, "sources")
    source = getattr(entry.value, "source", "")
    return found if isinstance(found, dict) else {entry.name: source} if source else {}


def _guesses(entry: Entry) -> dict[str, str]:
    found = _said(entry, "guesses" if entry.kind == "estimate" else "guess")
    if isinstance(found, str) and found:
        return {"format": found}
    return found if isinstance(found, dict) else dict.fromkeys(found or (), "not published")


def reason(guesses: Mapping[str, str], path: str) -> str:
    """Why the figure at a path is a guess: what is said of it, or of what it is part of; empty: it was published."""
    return next((why for p, why in guesses.items() if path == p or path.startswith(f"{p}.")), "")


def _said(entry: Entry, name: str) -> Any:
    """What an entry says of its sources or guesses: a dict where it says it by field."""
    if entry.kind == "estimate":
        return dict(entry.value.get(name, {}))
    found = getattr(entry.value, name, None)
    return dict(found) if isinstance(found, Mapping) else found


def text(entry: Entry, width: int | None = None) -> str:
    """The entry for a terminal; a figure nobody published is marked ``guess``."""
    from steelyard.report.paper import bullets, grid, render, styled

    guesses = _guesses(entry)
    if entry.kind == "estimate":
        rest = {k: v for k, v in entry.value.items() if k not in ("sources", "guesses", "provenance")}
        return json.dumps(rest, indent=1)
    title = getattr(entry.value, "title", "")
    table = grid("left", "left", "left")
    units = units_of(entry)
    for path, value in facts(entry).items():
        if path in ("name", "title"):
            continue
        unit = unit_of(path, units)
        marked = "guess" if reason(guesses, path) else ""
        table.add_row(f"  {path}", styled(shown(value, unit, 10)), styled((marked, "yellow")))
    made: list[Any] = [styled((f"{entry.kind} {entry.name}", "bold"), f"  {title}" if title else ""), "", table]
    for heading, found in (("sources", _sources(entry)), ("guesses", guesses)):
        made += ["", *bullets(heading, [f"{name}: {words}" for name, words in found.items()])] if found else []
    return render(made, width, piped=100)


def shown(value: Any, unit: str = "", digits: int = 6) -> str:
    """A figure for people, a number with its unit: ``80 GiB``, ``yes``, ``-``."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        if unit and unit != "1":
            return format_quantity(float(value), unit, 4)
        return f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}g}"
    return str(value)
