"""The model catalogue: named models, found by forgiving names, and the one door that loads a model from anywhere.

A catalogue is a package with ``models/*.toml``, announced by an entry point in the group ``steelyard.catalogues``.
A file holds ``[[model]]`` tables; to find one, the ids and aliases are scanned as text and only the table that was
asked for is parsed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any

from steelyard.documents import parse, read_text
from steelyard.errors import InputError, Problem, UnknownName, complete, normalise, printable, raise_all, show
from steelyard.folders import catalogue_files
from steelyard.workload.families import read_config
from steelyard.workload.ingest.hf import load_path
from steelyard.workload.model import Model, ModelEntry
from steelyard.workload.protocol import restated
from steelyard.workload.published import Published, readings

__all__ = ["Model", "ModelEntry", "broken_models", "find_model", "load_model", "model_names"]


#: Endings that name a tuned copy of the same shapes; forgiven when the name without them is known.
_ENDINGS = ("instruct", "chat", "base", "it", "pt", "hf", "thinking")

#: Ending of a model published in several formats, each a repository of its own: the one in 16 bits is listed.
_WIDE = re.compile(r"[-_.]BF16$", re.I)

#: A name of which only the beginning is given has so many characters at least, and ends in a size.
_SHORTEST = 5

_TABLE = re.compile(r"^\[\[model\]\][ \t]*(?:#.*)?$", re.MULTILINE)
_ID = re.compile(r'^id\s*=\s*["\']([^"\'\n]+)["\']', re.MULTILINE)
_NAMES = re.compile(r"^(same_as|aliases)\s*=\s*\[(.*?)\]", re.MULTILINE | re.DOTALL)
_SIZE = re.compile(r"(\d)\.(\d+b)", re.IGNORECASE)
_QUOTED = re.compile(r'"([^"\n]*)"|\'([^\'\n]*)\'')


@dataclass(frozen=True)
class _Place:
    """Where one entry stands: file and the text span of its table."""

    id: str
    file: Path
    start: int
    end: int


def model_names() -> list[str]:
    """The id of every catalogue model, sorted."""
    return sorted(_index()[1], key=str.lower)


def broken_models() -> list[str]:
    """What of the catalogues cannot be read, one line for each file and each entry; it stops no other model."""
    lines = list(_scan()[1])
    for place in _index()[1].values():
        try:
            _entry(place)
        except InputError as error:
            lines.append(str(error))
    return lines


def find_model(name: str) -> ModelEntry:
    """The catalogue entry a name means.

    Case, dashes and dots, the organisation, and endings such as ``-Instruct`` are forgiven.

    Raises:
        UnknownName: with the nearest known names.
    """
    return _entry(_locate(name))


@complete
def load_model(name_or_path: str | Path, *, generic: bool = False) -> Model:
    """Load a model from the catalogue or from files. Nothing is downloaded and nothing in the files is executed.

    Args:
        name_or_path: a catalogue name; a folder with ``config.json``, ``*.safetensors`` (their headers are read) or
            ``*.gguf``; a config file; a ``.gguf`` or ``.safetensors`` file.
        generic: answer for a ``model_type`` nobody described whatever of its tensors is not understood; without
            tensors it is read as a Llama-like decoder.

    Raises:
        UnknownName: no such catalogue entry, or no such model family.
        InputError: a file is missing, malformed, too large or of another kind.
    """
    if not isinstance(name_or_path, str | Path):
        raise InputError(f"expected a name or a path, got {name_or_path!r:.80}", field="model")
    if isinstance(name_or_path, str) and name_or_path.startswith("ops:"):
        from steelyard.workload.oplist import load_op_list

        return load_op_list(name_or_path)
    found = _as_path(name_or_path)
    if found is not None:
        return load_path(found, generic=generic)
    name = str(name_or_path)
    entry, said = _meant(name)
    try:
        transformer = read_config(entry.config, name=entry.id, generic=generic)
    except InputError as error:
        raise _inside(error, entry.id) from None
    engine = said.engine if said is not None else ""
    if said is not None and (said.weights or engine):
        weights = _stored(said, transformer.native_weights)
        means = ", ".join(x for x in (said.note, f"for {engine}" if engine else "") if x)
        stored = f"its weights in {weights}" if weights else "the weights as published"
        note = f"{printable(name)[:80]}: taken as {entry.id} with {stored}{f' ({means})' if means else ''}"
        transformer = restated(transformer, notes=(*transformer.notes, note))
        if weights:  # MLX quantises the ends of a model too, ExLlama the head
            ends = {"mlx": {"embedding": weights, "head": weights}, "exllamav3": {"head": "int6@6"}}.get(engine, {})
            transformer = restated(transformer, native_weights=weights, native_formats=tuple(ends.items()))
    elif not _says(name, entry.id):
        weights = next((form for known, form in entry.stored.items() if _keys(known)[1] in _keys(name)), "")
        note = f"{printable(name)[:80]}: taken as {entry.id}{f' with its weights in {weights}' if weights else ''}"
        transformer = restated(transformer, notes=(*transformer.notes, note))
        if weights:
            transformer = restated(transformer, native_weights=weights, native_formats=())
    asked = "" if said is None and _says(name, entry.id) else name
    method = _METHOD.search(name) if said is not None else None
    stated = entry.config.get("quantization_config")
    how = method[1] if method else str(stated.get("quant_method") or "") if isinstance(stated, Mapping) else ""
    return Model(entry.id, transformer, entry.source, engine=engine, method=how.lower(), entry=entry, asked=asked)


#: What names of quantised copies say of how it was done.
_METHOD = re.compile(r"[-_.](awq|gptq|hqq|aqlm|eetq)(?![a-z])", re.I)


#: Engines that run GGUF files.
_GGUF = ("llamacpp", "ollama")


def _stored(said: Published, native: str) -> str:
    """The format of the weights that a name says; GGUF files of a model published in MXFP4 keep that."""
    if said.engine not in _GGUF:
        return said.weights
    return "mxfp4_moe" if native == "mxfp4" else said.weights or "q4_k_m"


def _says(name: str, entry_id: str) -> bool:
    """Whether a name is that of the entry itself, not of a copy of its shapes (``qwen3.6``) or of a whole series."""
    asked, own = (_keys(_WIDE.sub("", text)) for text in (name, entry_id))
    return any(mine.endswith(key) for mine in own for key in asked)


def _meant(name: str) -> tuple[ModelEntry, Published | None]:
    """The entry a name means, and what else the name says. Raises :class:`UnknownName`."""
    if ":" not in name.removeprefix("https:").removeprefix("http:"):  # with a tag the name says more than the model
        with suppress(UnknownName):
            return find_model(name), None
    tried = list(readings(name))
    for said in tried:
        with suppress(UnknownName):
            return _entry(_locate(said.model, begun=said.engine in _GGUF)), said
    last = tried[0].model if tried and not name.startswith("net:") else name
    with suppress(UnknownName):
        return find_model(last), None
    raise _unknown(last)


def _as_path(given: str | Path) -> Path | None:
    """The path meant, or None when the text is a catalogue name."""
    text = str(given)
    try:
        path = Path(given).expanduser()
    except RuntimeError:  # "~user" of nobody
        raise InputError(f"no home folder for {text!r}", field="model") from None
    looks = isinstance(given, Path) or text.startswith((".", "/", "~")) or text.endswith(("/", "\\"))
    looks = looks or path.suffix.lower() in (
        ".json",
        ".gguf",
        ".safetensors",
        ".yaml",
        ".yml",
        ".toml",
        ".bin",
        ".pt",
        ".pth",
    )
    if looks:
        return path
    try:
        holds = path.is_dir() and (path / "config.json").exists()
        holds = holds or (path.is_dir() and any(any(path.glob(kind)) for kind in ("*.gguf", "*.safetensors")))
        if holds or path.is_file():
            return path
        if path.is_dir() and not _known(text):
            return path
    except (OSError, ValueError):  # a name no file system accepts
        return None
    return None


def _known(name: str) -> bool:
    try:
        _locate(name)
    except UnknownName:
        return False
    return True


def _key(name: str) -> str:
    """The lookup key of a name; a plus sign is a word ("Command R+"), and the point of a size counts (1.3B, 13B)."""
    return normalise(_SIZE.sub(r"\1point\2", name.replace("+", "plus")))


def _keys(name: str) -> list[str]:
    """Lookup keys of a name, strictest first: whole, without organisation, without one ending, without two."""
    organisation, slash, short = name.rpartition("/")
    key = _key(short)
    keys = [_key(organisation) + key if slash else key, key]
    for _ in range(2):  # "-chat-hf" has two
        ending = next((e for e in _ENDINGS if key.endswith(e) and len(key) > len(e)), "")
        if not ending:
            break
        key = key.removesuffix(ending)
        keys.append(key)
    return keys


def _locate(name: str, *, begun: bool = False) -> _Place:
    """Where the entry of a name stands; ``begun``: the beginning of one entry's names is enough (``qwen3-30b``)."""
    keys, places = _index()
    for key in _keys(name):
        if key in keys:
            return places[keys[key]]
    if begun and len(key := _keys(name)[-1]) >= _SHORTEST and key[-1] in "bm":
        ids = {owner for known, owner in keys.items() if known.startswith(key)}
        if len(ids) == 1:
            return places[ids.pop()]
    raise UnknownName("model", name, [*places, *(n for n in _spoken() if "/" not in n)], hint=_hint())


def _hint() -> str:
    """Where all models are listed, and which of the user's files could not be read."""
    hint = "`steelyard ls models` lists all; the path of a config.json, a folder or a GGUF file works too"
    return "; ".join((hint, *(f"not read: {line}" for line in _scan()[1][:2])))


def _unknown(name: str) -> UnknownName:
    """The error of a name that is no model's, with the nearest of models, networks and pipelines."""
    from steelyard.workload.nets import is_net, net_spellings
    from steelyard.workload.pipelines import is_pipeline, pipelines

    if is_net(f"net:{name.removeprefix('net:')}") or is_pipeline(name):
        return UnknownName("model", name, [], hint="it is a network, which `steelyard estimate` and `explain` take")
    known = [*_index()[1], *(n for n in _spoken() if "/" not in n), *net_spellings()]
    known += [n for one in pipelines().values() for n in (one.name, *one.aliases) if "/" not in n]
    return UnknownName("model", name, known, hint=_hint())


@cache
def _spoken() -> tuple[str, ...]:
    """Ids, copies and aliases as written."""
    return tuple(name for _, _, names in _scan()[0] for name in names)


@cache
def _scan() -> tuple[tuple[tuple[_Place, int, tuple[str, ...]], ...], tuple[str, ...]]:
    """Every entry of every catalogue: its place, its rank in the search, and its names; and what cannot be read."""
    found: list[tuple[_Place, int, tuple[str, ...]]] = []
    broken: list[str] = []
    for file in catalogue_files("models"):
        try:
            text = read_text(file)
        except InputError as error:
            broken.append(error.message)
            continue
        starts = [m.start() for m in _TABLE.finditer(text)]
        for start, end in pairwise([*starts, len(text)]):
            head = text[start : (text.find("[model.config]", start, end) + 1 or end + 1) - 1]
            match = _ID.search(head)
            if match is None:
                line = text.count("\n", 0, start) + 1
                broken.append(f"{show(str(file))}: the [[model]] of line {line} has no id")
                continue
            names = [match.group(1)]
            for group in _NAMES.finditer(head):
                names += [a or b for a, b in _QUOTED.findall(group.group(2))]
            found.append((_Place(match.group(1), file, start, end), len(found), tuple(names)))
        if not starts:
            broken.append(f"{show(str(file))}: holds no [[model]]")
    return tuple(found), tuple(broken)


@cache
def _index() -> tuple[dict[str, str], dict[str, _Place]]:
    """``(lookup key -> id, id -> place)``; ids win over copies and aliases, and those over shortened names."""
    keys: dict[str, str] = {}
    places: dict[str, _Place] = {}
    ranks: tuple[dict[str, str], ...] = ({}, {}, {})  # whole names, without organisation, without endings
    for place, _, names in _scan()[0]:
        places.setdefault(place.id, place)
        for i, name in enumerate(names):
            found = _keys(name)
            if i == 0:
                keys.setdefault(found[0], place.id)
            for rank, key in zip((0, 1, 2, 2), found, strict=False):
                ranks[rank].setdefault(key, place.id)
            wide = _WIDE.sub("", name)
            for key in _keys(wide) if wide != name else ():
                ranks[2].setdefault(key, place.id)
    for table in ranks:
        for key, owner in table.items():
            keys.setdefault(key, owner)
    return keys, places


@cache
def _entry(place: _Place) -> ModelEntry:
    text, where = read_text(place.file), f"{place.file.name}: {place.id}"
    try:
        tables = parse(text[place.start : place.end], "TOML").get("model")
    except InputError as error:
        raise error.at(where) from error
    data: dict[str, Any] = tables[0] if isinstance(tables, list) and tables and isinstance(tables[0], dict) else {}
    problems = []
    for name, (kind, wanted, needed) in _ENTRY.items():
        value: Any = data.get(name)
        texts = not isinstance(value, list) or all(isinstance(v, str) for v in value)
        if (needed or value is not None) and (not isinstance(value, kind) or isinstance(value, bool) or not texts):
            problems.append(Problem(f"{where}.{name}", f"expected {wanted}, got {show(value)}"))
        elif kind is int and value is not None and not 0 <= data[name] <= _MOST:
            problems.append(Problem(f"{where}.{name}", f"expected at most {_MOST:g} and at least 0, got {show(value)}"))
    raise_all(problems)
    header = re.search(r"^# Sources?: *(.+)$", text, re.MULTILINE)

    def words(name: str) -> str:
        return str(data.get(name) or "")

    return ModelEntry(
        id=data["id"],
        parameters=data["parameters"],
        config=MappingProxyType(data["config"]),
        same_as=tuple(data.get("same_as") or ()),
        aliases=tuple(data.get("aliases") or ()),
        parameters_source=words("parameters_source"),
        checkpoint_parameters=int(data.get("checkpoint_parameters") or 0),
        active_parameters=int(data.get("active_parameters") or 0),
        active_parameters_source=words("active_parameters_source"),
        kv_bytes=int(data.get("kv_bytes") or 0),
        kv_tokens=int(data.get("kv_tokens") or 1),
        kv_source=words("kv_source"),
        context=int(data.get("context") or 0),
        released=words("released"),
        source=words("source") or (header.group(1).strip() if header else place.file.name),
        confidence=words("confidence"),
        note=words("note"),
        stored=MappingProxyType(dict(data.get("stored") or {})),
    )


#: Fields of an entry that are more than words about it: type, in words, and whether it must be there.
_ENTRY: Mapping[str, tuple[type, str, bool]] = {
    "id": (str, "text", True),
    "parameters": (int, "a whole number", True),
    "config": (dict, "a table", True),
    "stored": (dict, "a table", False),
    "same_as": (list, "a list of names", False),
    "aliases": (list, "a list of names", False),
    **dict.fromkeys(
        ("checkpoint_parameters", "active_parameters", "context", "kv_bytes", "kv_tokens"),
        (int, "a whole number", False),
    ),
}
#: Most parameters, and longest context, tokens.
_MOST = 10**18


def _inside(error: InputError, where: str) -> InputError:
    if isinstance(error, UnknownName):
        return error
    moved = [Problem(f"{where}: {p.field}" if p.field else where, p.message) for p in error.problems]
    return InputError(moved[0].message, field=moved[0].field, problems=moved)
