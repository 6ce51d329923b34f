"""The door for files: TOML, JSON or YAML, read safely, checked against a frozen dataclass.

Nothing here executes what it reads; files above :data:`MAX_BYTES` are refused before they are opened, YAML is
loaded with the safe loader and without aliases (the "billion laughs" need them).
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
import typing
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from steelyard.errors import InputError, Problem, suggest
from steelyard.units import Quantity

__all__ = ["MAX_BYTES", "build", "read_document", "read_text"]

#: Largest description file read, in bytes. Model configs and machine files are a few kilobytes.
MAX_BYTES = 8 * 2**20

T = TypeVar("T")


def read_text(path: str | Path, max_bytes: int = MAX_BYTES) -> str:
    """The text of a file, refused when it is a folder, missing, too large or not UTF-8.

    Raises:
        InputError: one clear line that names the file.
    """
    file = Path(path)
    if file.is_dir():
        raise InputError(f"expected a file, got the folder {str(path)!r}", field="file")
    try:
        size = file.stat().st_size
        if size > max_bytes:
            raise InputError(
                f"{str(path)!r} has {size / 2**20:,.0f} MiB; at most {max_bytes / 2**20:.0f} MiB are read",
                field="file",
            )
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"no file at {str(path)!r}", field="file") from None
    except UnicodeDecodeError:
        raise InputError(f"{str(path)!r} is not a text file (UTF-8 expected)", field="file") from None
    except OSError as error:
        raise InputError(f"cannot read {str(path)!r}: {error.strerror or error}", field="file") from error


def read_document(path: str | Path) -> dict[str, Any]:
    """A table read from a ``.toml``, ``.json``, ``.yaml`` or ``.yml`` file.

    Raises:
        InputError: unreadable, malformed, or not a table at the top.
    """
    text, name = read_text(path), Path(path).name
    suffix = Path(path).suffix.lower()
    try:
        if suffix == ".toml":
            data: Any = tomllib.loads(text)
        elif suffix in (".yaml", ".yml"):
            data = _yaml(text)
        else:
            data = json.loads(text)
    except (ValueError, RecursionError) as error:  # JSONDecodeError and TOMLDecodeError are ValueErrors
        if isinstance(error, InputError):
            raise error.at(name) from error
        kind = {".toml": "TOML", ".yaml": "YAML", ".yml": "YAML"}.get(suffix, "JSON")
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InputError(f"malformed {kind}: {reason}", field=name) from error
    if not isinstance(data, dict):
        raise InputError(f"expected a table of fields, got {type(data).__name__}", field=name)
    return data


def _yaml(text: str) -> Any:
    import yaml

    class NoAlias(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.events.AliasEvent):
                raise InputError("YAML aliases are not accepted")
            return super().compose_node(parent, index)

    try:
        return yaml.load(text, Loader=NoAlias)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error


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
    except (InputError, TypeError, ValueError, KeyError):
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
            problems.append(Problem(f"{where}: {path}" if where else path, message))
        raise InputError(problems[0].message, field=problems[0].field, problems=problems) from None
    except InputError as error:
        raise (error.at(where) if where else error) from None


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
