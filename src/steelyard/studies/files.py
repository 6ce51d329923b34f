"""Files that values of a study name: where they lie, and what is in them."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from steelyard.documents import is_file, open_file
from steelyard.machine.loader import is_machine_text

__all__ = ["by_content", "files_of", "located"]

#: Fields of text in which several names may stand, separated by commas.
_SEVERAL = ("on",)


@lru_cache(maxsize=4096)
def _file_digest(path: str, size: int, changed_ns: int) -> str:
    digest = hashlib.sha256()
    with open_file(path, sys.maxsize) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def files_of(folder: str, value: Any) -> list[Path]:
    """Files a value may name: ``FILE``, ``FILE#NAME``, ``file:FILE``, ``FILE.py:CLASS``, or the name of a trace; those
    of a model where it names a folder of one.
    """
    if not isinstance(value, str) or not value or is_machine_text(value):
        return []
    import os

    from steelyard.traffic.readers import NAMED

    bare = value.removeprefix("file:").partition("#")[0]
    candidates = [bare, bare.rpartition(":")[0]]
    data = os.environ.get("STEELYARD_DATA", "")
    candidates += [f"{data}/{p.partition('#')[0]}" for p in NAMED.get(value, ()) if data]
    found = [path for text in candidates if text and is_file(path := Path(folder, text))]
    return found[:1] or _of_model(Path(folder, bare))


def _of_model(folder: Path) -> list[Path]:
    """The files of a folder that holds a model; none otherwise."""
    try:
        if not is_file(folder / "config.json"):
            return sorted(folder.glob("*.gguf")) if folder.is_dir() else []
        return sorted(p for p in folder.iterdir() if p.suffix == ".json" and p.is_file())
    except (OSError, ValueError):
        return []


def by_content(folder: str, value: Any) -> Any:
    """A value for the hash: the contents of the files it names in place of their paths."""
    found = files_of(folder, value)
    if not found and isinstance(value, str) and "," in value and not is_machine_text(value):
        parts = [by_content(folder, part.strip()) for part in value.split(",")]
        return value if all(isinstance(part, str) for part in parts) else parts
    if not found:
        return value
    stats = [path.stat() for path in found]
    digests = [_file_digest(str(p), s.st_size, s.st_mtime_ns) for p, s in zip(found, stats, strict=True)]
    return [str(value).replace(str(found[0]), "").rpartition("/")[2], *digests]


def located(folder: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with relative paths of files as seen from the current folder."""
    if folder in ("", "."):
        return dict(values)
    found = dict(values)
    for name, value in values.items():
        if isinstance(value, str) and not is_machine_text(value):
            found[name] = _located(folder, value)
            if name in _SEVERAL and "," in value and found[name] == value:
                found[name] = ",".join(_located(folder, part.strip()) for part in value.split(","))
    return found


def _located(folder: str, value: str) -> str:
    kept = value.removeprefix("file:")
    if any(c in kept for c in "/.") and not Path(value).is_absolute() and files_of(folder, value):
        return value[: len(value) - len(kept)] + str(Path(folder, kept))
    return value
