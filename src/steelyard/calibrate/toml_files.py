"""Writing catalogue files: TOML text of plain tables, and files that are whole or not there."""

from __future__ import annotations

import math
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steelyard.errors import InputError, show
from steelyard.folders import catalogue_folders, user_folder
from steelyard.writing import may_not_write, not_written

__all__ = ["check_folder", "check_name", "document", "merged", "write_files"]

DIGITS = 5


def document(data: Mapping[str, Any], comments: Sequence[str] = ()) -> str:
    """A TOML file: comments, then tables; numbers keep five digits.

    Raises:
        InputError: a number is not finite.
    """
    import tomli_w

    return "".join(f"# {c}\n" for c in comments) + tomli_w.dumps(_rounded(data))


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(v) for v in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InputError(f"a fitted figure is {value}; nothing was written", field="calibrate")
        return float(f"{value:.{DIGITS}g}")
    return value


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
        WriteError: the disk is full or fails; the same.
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
        raise not_written(folder, error, "out", how="write to") from error
    return [target for _, target in staged]


def check_folder(folder: Path) -> None:
    """Refuse a folder that cannot be written to, before minutes are spent on what would go there.

    Raises:
        InputError: it is a file, or neither it nor the first of its parents that exists can be written to.
        WriteError: that is on a disk mounted to be read.
    """
    found = next(p for p in (folder, *folder.absolute().parents) if os.access(p, os.F_OK))
    if not found.is_dir():
        raise InputError(f"cannot write to {show(str(folder))}", field="out")
    if not os.access(found, os.W_OK | os.X_OK):
        raise not_written(folder, may_not_write(found), "out", how="write to")


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
