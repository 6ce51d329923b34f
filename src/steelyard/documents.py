"""The door for files: TOML, JSON or YAML, read safely, checked against a frozen dataclass.

Nothing here executes what it reads. Only regular files are read, and no more of them than the limit and one byte;
YAML is loaded with the safe loader and without aliases (the "billion laughs" need them).
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import stat
import tomllib
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, Literal, TextIO, TypeVar

from steelyard.errors import InputError, Problem, show, suggest
from steelyard.units import Quantity

__all__ = [
    "MAX_BYTES",
    "build",
    "build_file",
    "is_file",
    "is_folder",
    "named",
    "no_file",
    "open_file",
    "open_lines",
    "parse",
    "parse_document",
    "read_bytes",
    "read_document",
    "read_text",
    "refuse_binary",
]

#: Largest description file read, in bytes. Model configs and machine files are a few kilobytes.
MAX_BYTES = 8 * 2**20
#: The same of YAML, whose parser is slow, and the deepest nesting of any of them.
MAX_YAML, MAX_DEPTH = 2**20, 100
#: Longest line of files that are read line by line, bytes: those of at most this are read, those of twice this refused.
MAX_LINE = 2**20

T = TypeVar("T")


def is_file(path: str | Path) -> bool:
    """Whether a regular file is there; a name that no file system accepts is none."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: str | Path) -> bool:
    """Whether a folder is there; a name that no file system accepts is none."""
    return os.path.isdir(path)  # noqa: PTH112 - Path.is_dir raises for such names


def no_file(path: str | Path, field: str, hint: str = "") -> InputError:
    """The error where :func:`is_file` says no: a folder, a pipe or a device is there, or nothing (``hint`` follows)."""
    shown = show(str(path))
    if is_folder(path):
        return InputError(f"expected a file, got the folder {shown}", field=field)
    if os.path.exists(path):  # noqa: PTH110 - Path.exists raises for names no file system accepts
        return InputError(f"{shown} is no regular file (a pipe, a device or a socket)", field=field)
    return InputError(f"no file at {shown}{hint}", field=field)


@contextmanager
def open_file(path: str | Path, max_bytes: int = MAX_BYTES, field: str = "file") -> Iterator[BinaryIO]:
    """A regular file opened to be read: no folder, pipe, device or socket, and none above ``max_bytes``.

    Raises:
        InputError: one clear line that names the file. Reading past ``max_bytes`` is left to :func:`read_bytes`.
    """
    shown = show(str(path))
    try:
        number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
        with os.fdopen(number, "rb") as stream:
            found = os.fstat(number)
            if not stat.S_ISREG(found.st_mode):
                raise no_file(path, field)
            if found.st_size > max_bytes:
                raise InputError(
                    f"{shown} has {found.st_size / 2**20:,.0f} MiB; at most {max_bytes / 2**20:,.0f} MiB are read",
                    field=field,
                )
            yield stream
    except FileNotFoundError:
        raise InputError(f"no file at {shown}", field=field) from None
    except IsADirectoryError:
        raise no_file(path, field) from None
    except OSError as error:
        raise InputError(f"cannot read {shown}: {error.strerror or error}", field=field) from error
    except ValueError as error:
        if isinstance(error, InputError) or ("null" not in str(error) and not isinstance(error, UnicodeEncodeError)):
            raise
        raise InputError(f"{shown} is not the path of a file", field=field) from None


def read_bytes(path: str | Path, max_bytes: int = MAX_BYTES, field: str = "file") -> bytes:
    """The content of a regular file of at most ``max_bytes``, whatever size it claims. Raises :class:`InputError`."""
    with open_file(path, max_bytes, field) as stream:
        data = stream.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise InputError(f"{show(str(path))} goes on; at most {max_bytes / 2**20:,.0f} MiB are read", field=field)
    return data


@contextmanager
def open_lines(
    path: str | Path, most: int, max_bytes: int = MAX_BYTES, field: str = "file", *, errors: str = "strict"
) -> Iterator[TextIO]:
    """A regular file of text opened to be read line by line; ends of lines stay as they are.

    Args:
        path: the file.
        most: lines at most.
        max_bytes: of the whole file; a line may have :data:`MAX_LINE` of them.
        field: for the error.
        errors: what becomes of bytes that are no UTF-8, as for :func:`open`.

    Raises:
        InputError: as :func:`open_file`, and too many or too long lines.
    """
    shown = show(Path(path).name)
    with open_file(path, max_bytes, field) as raw:
        lines = size = 0
        while part := raw.read(MAX_LINE):
            found = part.count(b"\n")
            lines, size = lines + found, size + len(part)
            if lines > most:
                raise InputError(f"{shown} has more than {most:,} lines; cut it down", field=field)
            if size > max_bytes or (not found and len(part) == MAX_LINE):
                words = f"goes on; at most {max_bytes / 2**20:,.0f} MiB are read" if found else "has too long a line"
                raise InputError(f"{shown} {words}", field=field)
        raw.seek(0)
        yield io.TextIOWrapper(raw, encoding="utf-8-sig", errors=errors, newline="")


#: How files begin that are no UTF-8 text, and what they are.
_PACKED = (
    (b"\x1f\x8b", "gzip"),
    (b"PK\x03\x04", "zip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\xfd7zXZ", "xz"),
    (b"BZh", "bzip2"),
)
_WIDE = (b"\xff\xfe", b"\xfe\xff")


def refuse_binary(head: bytes, path: str | Path, field: str = "file") -> None:
    """Refuse what cannot be text by how it begins, and say what it is. Raises :class:`InputError`."""
    name = show(str(path))
    for begins, kind in _PACKED:
        if head.startswith(begins):
            raise InputError(f"{name} is packed ({kind}); unpack it first", field=field)
    if head.startswith(_WIDE):
        raise InputError(f"{name} is UTF-16; save it as UTF-8", field=field)
    if b"\0" in head:
        raise InputError(f"{name} is not a text file (it holds NUL bytes)", field=field)


def read_text(path: str | Path, max_bytes: int = MAX_BYTES, field: str = "file") -> str:
    """The text of a regular file, refused when it is a folder, missing, too large or not UTF-8.

    Raises:
        InputError: one clear line that names the file.
    """
    data = read_bytes(path, max_bytes, field)
    refuse_binary(data, path, field)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{show(str(path))} is not a text file (UTF-8 expected)", field=field) from None


def read_document(path: str | Path) -> dict[str, Any]:
    """A table read from a ``.toml``, ``.json``, ``.yaml`` or ``.yml`` file.

    Raises:
        InputError: unreadable, malformed, nested too deeply, a key twice, or not a table at the top.
    """
    yaml = Path(path).suffix.lower() in (".yaml", ".yml")
    return parse_document(read_text(path, MAX_YAML if yaml else MAX_BYTES), Path(path).name)


def parse_document(text: str, name: str) -> dict[str, Any]:
    """The table that a text holds, in the form that the ending of ``name`` says; the name is also put before errors.

    Raises:
        InputError: malformed, nested too deeply, a key twice, or not a table at the top.
    """
    suffix = Path(name).suffix.lower()
    kind: Literal["JSON", "TOML", "YAML"] = (
        "TOML" if suffix == ".toml" else "YAML" if suffix in (".yaml", ".yml") else "JSON"
    )
    try:
        data: Any = parse(text, kind)
    except InputError as error:
        raise error.at(name) from error
    if not isinstance(data, dict):
        raise InputError(f"expected a table of fields, got {type(data).__name__}", field=name)
    return data


def parse(text: str, kind: Literal["JSON", "TOML", "YAML"]) -> Any:
    """The data in a text. Raises :class:`InputError`: malformed, nested too deeply, a key twice, a number too long."""
    try:
        if kind == "TOML":
            _refuse_dots(text)
            data: Any = tomllib.loads(text)
        elif kind == "YAML":
            data = _yaml(text)
        else:
            data = json.loads(text, object_pairs_hook=_no_key_twice)
    except InputError:
        raise
    except RecursionError:
        raise InputError(f"malformed {kind}: nested too deeply") from None
    except ValueError as error:  # JSONDecodeError and TOMLDecodeError are ValueErrors
        raise InputError(f"malformed {kind}: {error}") from error
    _refuse_leaves(data)
    return data


def _refuse_dots(text: str) -> None:
    """Refuse dotted keys deeper than :data:`MAX_DEPTH`: the time and memory to parse one grow as its square."""
    for number, line in enumerate(text.splitlines(), 1):
        if line.count(".") > MAX_DEPTH and any(p.count(".") > MAX_DEPTH for p in re.split("[,={]", line)):
            raise InputError(f"malformed TOML: line {number:,}: nested more than {MAX_DEPTH} deep")


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(k for k, _ in pairs if k in seen or seen.add(k))  # type: ignore[func-returns-value]
        raise InputError(f"the key {show(twice)} is given twice")
    return found


def _refuse_leaves(data: Any) -> None:
    """Refuse nesting beyond :data:`MAX_DEPTH`, keys that are no text, and whole numbers beyond every float."""
    stack: list[tuple[Any, str, int]] = [(data, "", 0)]
    while stack:
        value, path, depth = stack.pop()
        if isinstance(value, dict | list):
            if depth > MAX_DEPTH:
                raise InputError(f"nested more than {MAX_DEPTH} deep", field=path)
            if isinstance(value, dict):
                for key in value:
                    if not isinstance(key, str):
                        raise InputError(f"expected text as a key, got {show(key)}", field=path)
            items = value.items() if isinstance(value, dict) else enumerate(value)
            stack += [
                (v, f"{path}.{k}" if path else str(k), depth + 1)
                for k, v in items
                if isinstance(v, dict | list) or (type(v) is int and v.bit_length() > 1023)
            ]
        elif type(value) is int and value.bit_length() > 1023:
            raise InputError("expected a number, got one beyond every float", field=path)


def _yaml(text: str) -> Any:
    import yaml

    class Plain(yaml.SafeLoader):
        # on, off, yes and no are text, as in YAML 1.2: `on` is the field of a study
        yaml_implicit_resolvers = {
            first: [(tag, form) for tag, form in ways if tag != "tag:yaml.org,2002:bool" or first in "tTfF"]
            for first, ways in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.events.AliasEvent):
                raise InputError("YAML aliases are not accepted")
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [k.value for k, _ in node.value if isinstance(k, yaml.ScalarNode)]
            _no_key_twice([(k, None) for k in keys])
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(text, Loader=Plain)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    except (AttributeError, KeyError, TypeError, IndexError, OverflowError) as error:  # of a tag that does not fit
        raise ValueError(f"a tag does not fit its value ({type(error).__name__})") from error


def named(path: Path) -> str:
    """How messages name a file of a catalogue: ours by its name, somebody's own by its whole path."""
    return path.name if Path(__file__).parent in path.parents else str(path)


def build_file(cls: type[T], path: Path, mend: Callable[[dict[str, Any]], dict[str, Any]] = dict) -> T:
    """A file of a catalogue as the frozen dataclass ``cls``.

    Args:
        cls: as for :func:`build`.
        path: of the file.
        mend: changes its data before.

    Raises:
        InputError: as :func:`build`; the problems name the file as :func:`named` does.
    """
    return build(cls, mend(parse_document(read_text(path), named(path))), named(path))


@cache
def _adapter(cls: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(cls)


def build(cls: type[T], data: Mapping[str, Any], where: str = "") -> T:
    """Build the frozen dataclass ``cls`` from plain data, all problems reported at once with their paths.

    Good data is built straight from the dataclass's own description; data with any problem goes through pydantic,
    which knows how to list them all (and costs a quarter of a second to import, so only then).

    Args:
        cls: a dataclass whose numeric fields carry a :class:`~steelyard.units.Quantity`.
        data: plain dicts, lists, strings and numbers.
        where: prefix of the field paths in errors, such as the file name.

    Raises:
        InputError: with one :class:`~steelyard.errors.Problem` per wrong field; unknown fields get a did-you-mean.
    """
    try:
        return _plain(cls, data)  # type: ignore[no-any-return]
    except (InputError, TypeError, ValueError, KeyError, OverflowError):
        return _checked(cls, data, where)


@cache
def _description(cls: Any) -> tuple[dict[str, Any], frozenset[str]]:
    """Type of every field, and the fields without a default."""
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = [f for f in dataclasses.fields(cls) if f.init]
    missing = dataclasses.MISSING
    required = {f.name for f in fields if f.default is missing and f.default_factory is missing}
    return {f.name: hints[f.name] for f in fields}, frozenset(required)


def _plain(kind: Any, value: Any) -> Any:
    """``value`` as ``kind``; any error at all means "ask pydantic"."""
    origin = typing.get_origin(kind)
    if dataclasses.is_dataclass(kind):
        described: Any = kind
        hints, required = _description(described)
        if not isinstance(value, Mapping) or not required <= value.keys() <= hints.keys():
            raise TypeError
        return described(**{k: _plain(hints[k], v) for k, v in value.items()})
    if origin is typing.Annotated:
        inner, *notes = typing.get_args(kind)
        quantity = next((n for n in notes if isinstance(n, Quantity)), None)
        if quantity is None:
            return _plain(inner, value)
        if not isinstance(value, str | int | float):
            raise TypeError
        return int(quantity.parse(value)) if inner is int else quantity.parse(value)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise TypeError
        return tuple(_plain(typing.get_args(kind)[0], v) for v in value)
    if origin is Mapping:
        if not isinstance(value, Mapping):
            raise TypeError
        each = typing.get_args(kind)[1]
        return {k: _plain(each, v) for k, v in value.items()}
    if origin is typing.Literal:
        if value not in typing.get_args(kind):
            raise ValueError
        return value
    if kind in (str, bool, int, float) and type(value) is kind:
        return value
    if kind is float and type(value) is int:
        return float(value)
    if kind is typing.Any:
        return value
    raise TypeError


def _checked(cls: type[T], data: Mapping[str, Any], where: str) -> T:
    from pydantic import ValidationError

    checked: Any = cls
    try:
        return _adapter(checked).validate_python(dict(data))  # type: ignore[no-any-return]
    except ValidationError as error:
        problems = []
        for item in error.errors(include_url=False):
            path = ""
            for part in item["loc"]:
                path += f"[{part}]" if isinstance(part, int) else (f".{part}" if path else str(part))
            message = item["msg"].removeprefix("Value error, ")
            if item["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
                message = "unknown field"
                near = suggest(str(item["loc"][-1]), _fields_at(cls, item["loc"][:-1]))
                message += f"; did you mean {near[0]!r}?" if near else ""
            elif item["type"] in ("missing", "missing_argument"):
                message = "required field is missing"
            else:
                message = _in_our_words(item, message)
            problems.append(Problem(": ".join(part for part in (where, path) if part), message))
        raise InputError(problems[0].message, field=problems[0].field, problems=problems) from None
    except InputError as error:
        raise (error.at(where) if where else error) from None


#: What pydantic expected, by the beginning of its name for the error.
_KINDS = {
    "string": "text",
    "float": "a number",
    "int": "a whole number",
    "bool": "true or false",
    "list": "a list",
    "tuple": "a list",
    "dict": "a table",
    "mapping": "a table",
    "dataclass": "a table",
}


def _in_our_words(item: Any, message: str) -> str:
    """What pydantic says of a value, as every other message says it."""
    value, kind = item["input"], item["type"]
    if kind == "literal_error":
        choices = re.findall("'([^']*)'", item["ctx"]["expected"])
        near = suggest(value, choices, 1) if isinstance(value, str) else []
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"expected one of {', '.join(c or 'nothing' for c in choices)}, got {show(value)}{hint}"
    if not message.startswith("Input should be"):
        return message
    expected = _KINDS.get(kind.partition("_")[0])
    return f"expected {expected}, got {show(value)}" if expected else message


def _fields_at(cls: type[Any], loc: tuple[Any, ...]) -> list[str]:
    current: Any = cls
    for part in loc:
        if isinstance(part, int) or not dataclasses.is_dataclass(current):
            continue
        hint = typing.get_type_hints(current, include_extras=False).get(str(part))
        for inner in (hint, *typing.get_args(hint)):
            if dataclasses.is_dataclass(inner):
                current = inner
    return [f.name for f in dataclasses.fields(current)] if dataclasses.is_dataclass(current) else []
