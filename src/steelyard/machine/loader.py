"""Reading machine files. Parses data only: TOML, JSON or YAML, with a size limit, all problems at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from steelyard.documents import build, named, parse_document, read_text
from steelyard.errors import InputError, complete, show
from steelyard.machine.component import Machine
from steelyard.provenance import content_hash

__all__ = [
    "file_source",
    "is_machine_text",
    "load_machine",
    "machine_dict",
    "machine_from_dict",
    "machine_from_text",
    "machine_text",
]


@complete
def load_machine(path: str | Path) -> Machine:
    """Read one machine from a TOML, JSON or YAML file; a file that has changed gives the machine as it is now.

    Raises:
        InputError: the file cannot be read, or fields are missing, unknown or out of bounds (all listed at once).
    """
    if not isinstance(path, str | Path):
        raise InputError(f"expected the path of a machine file, got {show(path)}", field="machine")
    return _built(read_text(path), Path(path).name, str(path))


def load_catalogued(path: str | Path) -> Machine:
    """The same for a file of a catalogue, which is known by its name. Raises :class:`InputError`."""
    return _built(read_text(path), named(Path(path)))


@lru_cache(maxsize=1024)
def _built(text: str, name: str, file: str = "") -> Machine:
    return replace(machine_from_dict(parse_document(text, name), name), file=file)


def machine_from_dict(data: Mapping[str, Any], where: str = "machine") -> Machine:
    """Build a machine from plain data, reporting every problem with its field path.

    The fields of the machine may stand at the top or in a ``machine`` table beside ``sources`` and ``guess``.
    """
    if isinstance(data.get("machine"), Mapping):
        fields = {k: v for k, v in data.items() if k != "machine"}
        data = {**data["machine"], **fields}
    return build(Machine, data, where)


def is_machine_text(text: str) -> bool:
    """Whether this is a description in TOML itself, not a name or a path: it has lines, and says ``name = ...``."""
    return "\n" in text and "=" in text


def machine_from_text(text: str) -> Machine:
    """The machine of a description in TOML. Raises :class:`InputError` with every problem."""
    return _built(text, "machine.toml")


def machine_dict(machine: Machine) -> dict[str, Any]:
    """The whole description as plain values in SI units, without what has its default.

    :func:`machine_from_dict` reads it back.
    """
    found = _plain(machine)
    found.pop("file", None)
    return found  # type: ignore[no-any-return]


def machine_text(machine: Machine) -> str:
    """The same as TOML, read back to an equal machine."""
    import tomli_w

    return tomli_w.dumps({"machine": machine_dict(machine)})


def file_source(machine: Machine) -> str:
    """Where a machine of one's own is from, with the hash of its description, for the sources of an answer."""
    return f"file {machine.file}, description {content_hash(machine_dict(machine))}"


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        given = {f.name: getattr(value, f.name) for f in fields(value) if not _is_default(value, f)}
        return {name: _plain(v) for name, v in given.items()}
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, tuple | list) else value


def _is_default(value: Any, field: Any) -> bool:
    default = field.default if field.default_factory is MISSING else field.default_factory()
    return default is not MISSING and bool(getattr(value, field.name) == default)
