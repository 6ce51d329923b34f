"""Networks by name: the one door from what a user writes to a graph of tensors.

``resnet50`` (a row of a catalogue's folder ``nets``, built by a family without any framework), a kept graph of a
catalogue's folder ``graphs``, ``timm:NAME`` and the prefixes of other libraries that are installed
(:mod:`steelyard.workload.ingest.libraries`), ``nb201:ARCHITECTURE`` and the prefixes of other spaces that are searched
(:mod:`steelyard.workload.networks.search_space`), a graph in a ``.json`` file, a model in an ``.onnx`` file. Nothing is
downloaded, no weights are read, nothing in a file is executed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Annotated, Any

from steelyard.documents import build, build_file, is_file, named, open_file, parse_document, read_text
from steelyard.errors import InputError, Problem, UnknownName, complete, normalise, raise_all, show
from steelyard.folders import catalogue_files, catalogue_folders
from steelyard.units import Quantity
from steelyard.workload.extent import stated
from steelyard.workload.networks._base import NETWORKS
from steelyard.workload.networks.builder import Builder
from steelyard.workload.networks.search_space import Space, space_of
from steelyard.workload.networks.space_file import Template
from steelyard.workload.tensor_graph import TensorGraph

__all__ = [
    "OWN",
    "NetEntry",
    "NetSummary",
    "check_nets",
    "find_net",
    "is_net",
    "kept_net",
    "load_net",
    "net_names",
    "net_spellings",
    "summarise_net",
]

#: Prefixes that name a library's own networks.
LIBRARIES: tuple[str, ...] = ("timm", "torchvision", "transformers", "diffusers")
#: Prefix of a network of the catalogue whose name a model has that is served: ``net:bert_base``.
OWN = "net:"
#: Endings of files that hold a graph.
_FILES = (".json", ".json.gz", ".onnx")


@dataclass(frozen=True, slots=True)
class NetEntry:
    """A named network: a family with parameters, or a kept graph of the same name where no family is stated."""

    __pydantic_config__ = {"extra": "forbid"}

    name: str
    family: Annotated[str, "what builds it; none: a kept graph"] = ""
    config: Annotated[Mapping[str, Any], "parameters of the family"] = field(default_factory=dict)
    size: Annotated[tuple[int, ...], "usual input: height and width, or tokens or frames"] = (224, 224)
    macs: Annotated[float, Quantity("1", "multiply-accumulates of one item at that size", ge=0)] = 0.0
    parameters: Annotated[float, Quantity("1", "learned numbers", ge=0)] = 0.0
    same: Annotated[bool, "made with TensorFlow's borders, which no op of its own lays"] = False
    source: str = ""
    aliases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        raise_all(list(self._problems()))

    def _problems(self) -> Iterator[Problem]:
        if not 1 <= len(self.size) <= 4 or not all(1 <= s <= 2**24 for s in self.size):
            yield Problem("size", f"expected one to four sides, got {show(self.size)}")
        if self.family and normalise(self.family) not in {normalise(n) for n in NETWORKS}:
            yield Problem("family", UnknownName("network family", self.family, NETWORKS).message)


@dataclass(frozen=True, slots=True)
class _File:
    """One file of the folder."""

    __pydantic_config__ = {"extra": "forbid"}

    net: tuple[NetEntry, ...] = ()


@cache
def _entries() -> Mapping[str, NetEntry]:
    """Every named network; the user's come before ours. Raises :class:`InputError` where a file is wrong."""
    found: dict[str, NetEntry] = {}
    for path in catalogue_files("nets"):
        for entry in build_file(_File, path).net:
            found.setdefault(entry.name, entry)
    return found


#: A row of a file, its name and its aliases, found as text: a lookup parses one row and no more.
_ROW = re.compile(r"^\[\[net\]\][ \t]*(?:#.*)?$", re.MULTILINE)
_NAME = re.compile(r"""^name\s*=\s*["']([^"'\n]+)["']""", re.MULTILINE)
_ALIASES = re.compile(r"^aliases\s*=\s*\[(.*?)\]", re.MULTILINE | re.DOTALL)
_QUOTED = re.compile(r"""["']([^"'\n]*)["']""")


@cache
def _places() -> Mapping[str, tuple[Path, str]]:
    """Names and aliases without case and punctuation -> the file and the text of the row; the user's come first."""
    names: dict[str, tuple[Path, str]] = {}
    aliases: dict[str, tuple[Path, str]] = {}
    for path in catalogue_files("nets"):
        for row in _ROW.split(read_text(path))[1:]:
            if name := _NAME.search(row):
                names.setdefault(normalise(name[1]), (path, row))
            for alias in _said_also(row):
                aliases.setdefault(normalise(alias), (path, row))
    return {**aliases, **names}


def _said_also(row: str) -> list[str]:
    """The aliases in the text of a row."""
    also = _ALIASES.search(row)
    return _QUOTED.findall(also[1]) if also else []


@cache
def _entry(key: str) -> NetEntry:
    """The row that a spelling means. Raises :class:`InputError` where it is wrong."""
    path, row = _places()[key]
    return build(_File, parse_document(f"[[net]]\n{row}", named(path)), named(path)).net[0]


def net_names() -> list[str]:
    """Every named network, sorted."""
    return sorted(_entries())


def net_spellings() -> list[str]:
    """Names and aliases of every named network as written."""
    known = (n for _, row in _places().values() for n in (*_NAME.findall(row)[:1], *_said_also(row)))
    return list(dict.fromkeys(known))


def is_net(given: str) -> bool:
    """Whether a name or path means a network here: a catalogue's name, a library's prefix, a graph's or ONNX file."""
    return (
        (given.partition(":")[0] in LIBRARIES and ":" in given)
        or space_of(given) is not None
        or normalise(given.removeprefix(OWN)) in _places()
        or (given.lower().endswith(_FILES) and _is_graph(given))
    )


def _is_graph(path: str) -> bool:
    """Whether a file holds a graph; configs of language models are JSON too."""
    if path.lower().endswith((".onnx", ".json.gz")):
        return True
    if not is_file(path):
        return False
    with open_file(path, field="model") as file:
        return b'"steelyard.graph/' in file.read(400)


def check_nets() -> None:
    """Read every row of every file, which a lookup does not. Raises :class:`InputError` where one is wrong."""
    _entries()


def find_net(name: str) -> NetEntry:
    """The row of a named network; case and punctuation are forgiven.

    Raises:
        UnknownName: with the nearest known names.
    """
    if (key := normalise(name.removeprefix(OWN))) in _places():
        return _entry(key)
    raise UnknownName("network", name, net_spellings())


@dataclass(frozen=True)
class NetSummary:
    """What ``steelyard show`` says of a network: its totals for one item, and how often it has each op."""

    name: str
    source: str
    family: str
    graph: TensorGraph

    def about(self) -> dict[str, Any]:
        """Figures by name, plain values."""
        graph, ops = self.graph, Counter(n.op for n in self.graph.nodes)
        given = [graph.tensors[i].shape for i in graph.inputs]
        return {
            "family": self.family,
            "input": "; ".join("x".join(str(stated(d)) for d in shape) for shape in given),
            "symbols": ", ".join(f"{name}={usual}" for name, usual in graph.symbols.items()),
            "macs": float(graph.macs()),
            "macs_as_fvcore_counts": float(graph.macs(counted_as="fvcore")),
            "parameters": graph.parameters,
            "activations": float(graph.activations()),
            "weights_bytes": graph.weight_bytes(),
            "peak_activations_bytes": float(graph.peak_bytes()),
            "nodes": len(graph),
            "ops": ", ".join(f"{op} {count}" for op, count in ops.most_common()),
            "unknown_ops": ", ".join(sorted({n.op.removeprefix("unknown:") for n in graph.unknown()})),
        }


def summarise_net(given: str) -> NetSummary:
    """A network's totals. Raises as :func:`load_net`."""
    graph = load_net(given)
    entry = find_net(given) if normalise(given.removeprefix(OWN)) in _places() else None
    return NetSummary(graph.name, graph.source, entry.family or "kept graph" if entry else "", graph)


@complete
def load_net(
    given: str | Path, *, size: int | str | Iterable[int] | None = None, sets: Mapping[str, Any] | None = None
) -> TensorGraph:
    """A network as a graph of tensors.

    Args:
        given: a name of the catalogue (``net:NAME`` where a served model has it too), ``timm:NAME`` (or
            ``torchvision:``, ``transformers:``, ``diffusers:``), ``nb201:ARCHITECTURE`` (or ``fbnet:``, ``ofa:``), or a
            file ``.onnx``, ``.json`` or ``.json.gz``.
        size: of its input where it is not the usual one: ``288``, ``"384x640"``, ``(384, 640)``; tokens of a sequence.
        sets: values of open sizes (``batch``, ``tokens``) and of the family's parameters (``width``, ``classes``).

    Raises:
        UnknownName: no such network.
        InputError: a file, a size or a value is wrong.
    """
    if not isinstance(given, str | Path) or not str(given):
        raise InputError(f"expected a name or a path, got {show(given)}", field="model")
    sides = _sides(size)
    values = dict(sets or {})
    name = str(given)
    library, colon, rest = name.partition(":")
    if colon and library in LIBRARIES:
        from steelyard.workload.ingest.libraries import installed, library_net

        known = rest.partition(".")[0]  # a tag of weights changes no shape
        if library in ("timm", "torchvision") and not installed(library) and is_net(known):
            return _named(find_net(known), sides, values)
        return _with(library_net(library, rest, sides), values)
    if (found := space_of(name)) is not None:
        space, architecture = found
        code = space.read(architecture)
        if space.input_of(code) and sides:
            raise InputError(f"{space.name} chooses the size of its input itself", field="size")
        graph = _named(_entry_of(space), sides or space.input_of(code), {**values, **space.sets(code)})
        return replace(graph, name=f"{space.name}:{architecture.strip()}")
    if isinstance(given, Path) or name.lower().endswith(_FILES):
        return _read(Path(given).expanduser(), sides, values)
    entry = find_net(name)
    return _named(entry, sides, values)


def _entry_of(space: Space) -> NetEntry:
    """The network whose parameters a space chooses."""
    if not isinstance(space, Template):
        return find_net(space.net)
    return NetEntry(space.name, space.family, space.config, space.usual, source=space.source)


def _read(path: Path, sides: tuple[int, ...], values: dict[str, Any]) -> TensorGraph:
    if not is_file(path):
        raise InputError(f"no file at {show(str(path))}", field="model")
    if sides:
        raise InputError(
            "the sizes of a file are its own; open ones are set by name, as --set height=320", field="size"
        )
    if path.suffix.lower() == ".onnx":
        from steelyard.workload.ingest.onnx import read_onnx

        return read_onnx(path, values)
    from steelyard.workload.ingest.kept_graph import read_graph

    return _with(read_graph(path), values)


def _named(entry: NetEntry, sides: tuple[int, ...], values: dict[str, Any]) -> TensorGraph:
    if len(sides) == 1:
        sides *= len(entry.size)
    if not entry.family:
        if sides and sides != entry.size:
            raise InputError(
                f"{entry.name} is kept at {_said(entry.size)}; another size needs its library, as timm:{entry.name}",
                field="size",
            )
        return _with(kept_net(entry.name), values)
    known = _parameters(entry.family)
    own = {k: _value(values.pop(k)) for k in list(values) if k in known}
    parameters = _frozen({**entry.config, **own})
    graph = _built(entry.name, entry.family, entry.source, sides or entry.size, parameters)
    return _with(_same(graph) if entry.same else graph, values, known)


def _same(graph: TensorGraph) -> TensorGraph:
    """The graph with the mark of TensorFlow's borders at its convolutions."""
    marked = (replace(n, facts={**n.facts, "same": True}) if n.op == "conv" else n for n in graph.nodes)
    return replace(graph, nodes=tuple(marked))


def _parameters(family: str) -> list[str]:
    kind: Any = NETWORKS.get(family)
    return [f.name for f in fields(kind)]


@lru_cache(maxsize=64)
def _built(
    name: str, family_name: str, source: str, sides: tuple[int, ...], parameters: tuple[tuple[str, Any], ...]
) -> TensorGraph:
    kind = NETWORKS.get(family_name)
    known = _parameters(family_name)
    wrong = [k for k, _ in parameters if k not in known]
    raise_all([Problem(f"{name}.config", UnknownName("parameter", k, known).message) for k in wrong])
    family = build(kind, {k: list(v) if isinstance(v, tuple) else v for k, v in parameters}, name)
    net = Builder(name, source=source)
    try:
        made = family.build(net, sides)
    except InputError as error:
        if error.field and error.field.endswith(".toml"):  # of a catalogue's file, not of these sizes
            raise
        raise InputError(
            f"{name} at {_said(sides)}: {error.problems[0].message}", field=error.field or "size"
        ) from None
    except (ValueError, TypeError, IndexError, ZeroDivisionError, KeyError):
        raise InputError(
            f"{name} at {_said(sides)}: these sizes and parameters make no network", field="model"
        ) from None
    return net.graph(*((made,) if isinstance(made, int) else made))


@lru_cache(maxsize=64)
def kept_net(name: str) -> TensorGraph:
    """The kept graph of this name, of a catalogue's folder ``graphs``. Raises :class:`InputError`."""
    from steelyard.workload.ingest.kept_graph import read_graph

    for folder in catalogue_folders():
        path = folder / "graphs" / f"{name}.json.gz"
        if path.is_file():
            return replace(read_graph(path), name=name)
    raise InputError(f"the catalogue has no graph of {name}", field="model")


def _with(graph: TensorGraph, values: Mapping[str, Any], more: Iterable[str] = ()) -> TensorGraph:
    """The graph with other usual values of its symbols. Raises :class:`InputError` for a name it does not have."""
    problems, symbols = [], dict(graph.symbols)
    for name, value in values.items():
        if name not in symbols:
            unknown = UnknownName("size", str(name), [*symbols, *more])
            problems.append(Problem(f"set.{str(name)[:40]}", f"{graph.name}: {unknown.message}"))
        elif not re.fullmatch(r"\d{1,9}", str(value)) or int(value) < 1:
            problems.append(Problem(f"set.{name}", f"expected a whole number of at least 1, got {show(value)}"))
        else:
            symbols[name] = int(value)
    raise_all(problems)
    return replace(graph, symbols=symbols) if values else graph


def _sides(size: int | str | Iterable[int] | None) -> tuple[int, ...]:
    if size is None:
        return ()
    parts = re.split("[x, ]+", size.strip().lower()) if isinstance(size, str) else size
    found = [parts] if isinstance(parts, int) else list(parts) if isinstance(parts, Iterable) else [None]
    if not 1 <= len(found) <= 4 or not all(re.fullmatch(r"\d{1,8}", str(p)) and int(str(p)) >= 1 for p in found):
        raise InputError(f"expected a size such as 224 or 384x640, got {show(size)}", field="size")
    return tuple(int(str(p)) for p in found)


def _value(value: Any) -> Any:
    """A parameter from a command line: ``3,4,6,3`` and ``3-4-6-3`` are lists, ``true`` a truth, ``8`` a number."""
    if not isinstance(value, str):
        return value
    if "," in value and not value.startswith("|"):
        return [_value(part.strip()) for part in value.strip("[]()").split(",") if part.strip()]
    if re.fullmatch(r"\d{1,4}(-\d{1,4})+", value):
        return [int(part) for part in value.split("-")]
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    for number in (int, float):
        try:
            return number(value[:40])
        except ValueError:
            pass
    return value


def _frozen(parameters: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    def fixed(value: Any) -> Any:
        return tuple(fixed(v) for v in value) if isinstance(value, list | tuple) else value

    made = tuple(sorted((k, fixed(v)) for k, v in parameters.items()))
    try:
        hash(made)
    except TypeError:
        raise InputError("expected numbers, text and lists of them as parameters", field="set") from None
    return made


def _said(sides: Iterable[int]) -> str:
    return "x".join(map(str, sides))
