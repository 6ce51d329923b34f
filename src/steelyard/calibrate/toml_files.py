"""Writing catalogue files: TOML text from plain tables, and files that are whole or not there."""

from __future__ import annotations

import math
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from steelyard.errors import InputError
from steelyard.folders import catalogue_folders, user_folder

__all__ = ["check_folder", "check_name", "document", "merged", "write_files"]

DIGITS = 5
_BARE = re.compile(r"^[A-Za-z0-9_-]+$")


def document(data: Mapping[str, Any], comments: Sequence[str] = ()) -> str:
    """A TOML file: comments, then tables; lists of tables become arrays of tables, numbers keep five digits."""
    lines = [f"# {c}" for c in comments]
    lines += list(_table(data, ()))
    return "\n".join(lines).rstrip("\n") + "\n"


def _table(data: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    plain = {k: v for k, v in data.items() if not _nested(v)}
    if path and (plain or not data):
        yield ""
        yield f"[{'.'.join(_key(p) for p in path)}]"
    for key, value in plain.items():
        yield f"{_key(key)} = {_value(value)}"
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from _table(value, (*path, key))
        elif _nested(value):
            for item in value:
                yield ""
                yield f"[[{'.'.join(_key(p) for p in (*path, key))}]]"
                for name, inner in item.items():
                    yield f"{_key(name)} = {_value(inner)}"


def _nested(value: Any) -> bool:
    return isinstance(value, Mapping) or (
        isinstance(value, (list, tuple)) and bool(value) and isinstance(value[0], Mapping)
    )


def _key(name: str) -> str:
    return name if _BARE.match(name) else _value(name)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + "".join(c if c >= " " and c != "\x7f" else f"\\u{ord(c):04x}" for c in escaped) + '"'
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_value(v) for v in value) + "]"
    if isinstance(value, int):
        return str(value)
    number = float(value)
    if not math.isfinite(number):
        raise InputError(f"a fitted figure is {number}; nothing was written", field="calibrate")
    text = f"{number:.{DIGITS}g}"
    return text if any(c in text for c in ".e") else text + ".0"


def merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Sections of ``old`` with those of ``new`` in their place: parameters fitted before stay unless fitted again."""
    whole = dict(old)
    for key, value in new.items():
        before = whole.get(key)
        replaced = key in ("parameters", "residual", "provenance") or not isinstance(value, Mapping)
        whole[key] = value if replaced or not isinstance(before, Mapping) else merged(before, value)
    return whole


def write_files(folder: Path, files: Mapping[str, str]) -> list[Path]:
    """Write texts below a folder: all are written beside their targets first, then renamed into place.

    Args:
        folder: created when missing.
        files: relative path to text.

    Raises:
        InputError: the folder cannot be written to; no target was touched.
    """
    staged: list[tuple[str, Path]] = []
    try:
        for name, text in files.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
            staged.append((temporary, target))
            with os.fdopen(handle, "w", encoding="utf-8") as out:
                out.write(text)
            Path(temporary).chmod(0o644)
        for temporary, target in staged:
            Path(temporary).replace(target)
    except OSError as error:
        for temporary, _ in staged:
            Path(temporary).unlink(missing_ok=True)
        raise InputError(f"cannot write to {str(folder)!r}: {error.strerror or error}", field="out") from error
    return [target for _, target in staged]


def check_folder(folder: Path) -> None:
    """Refuse a folder that cannot be written to, before minutes are spent on what would go there.

    Raises:
        InputError: it is a file, or neither it nor the first of its parents that exists can be written to.
    """
    found = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not found.is_dir() or not os.access(found, os.W_OK | os.X_OK):
        raise InputError(f"cannot write to {str(folder)!r}", field="out")


def check_name(name: str, field: str) -> None:
    """Refuse a name a machine file cannot have, or that a catalogue machine has.

    Raises:
        InputError: characters that are no lower-case letters, digits or ``_``, or a taken name.
    """
    if not re.fullmatch(r"[a-z0-9_]{1,64}", name):
        raise InputError(f"expected lower-case letters, digits and '_', got {name!r}", field=field)
    shipped = [f for f in catalogue_folders() if f != user_folder()]
    if any((folder / "machines" / f"{name}.toml").is_file() for folder in shipped):
        raise InputError(f"{name!r} is a machine of the catalogue; choose another name", field=field)
