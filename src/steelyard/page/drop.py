"""Files dropped on the page: read by the library's own readers, kept in a folder of the session alone.

The server works in that folder, so that the name of a dropped file is its path, and nothing outside it is read.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steelyard.errors import InputError, bounded, show

__all__ = ["KINDS", "MAX_FILES", "MAX_TOTAL", "keep_dropped"]

#: Endings of files that are taken, and the field they are for.
KINDS: Mapping[str, str] = {
    **dict.fromkeys((".gguf", ".safetensors", ".onnx"), "model"),
    **dict.fromkeys((".toml", ".yaml", ".yml"), "on"),
    **dict.fromkeys((".csv", ".jsonl"), "trace"),
    ".json": "",  # the config of a model, a machine, a graph or a log, as its content says
}
#: Files and bytes of a session at most.
MAX_FILES, MAX_TOTAL = 64, 512 * 2**20
#: Largest size that a file of which the beginning was sent may claim, bytes.
_MAX_CLAIMED = 2**45


def keep_dropped(folder: Path | None, name: str, data: bytes, whole: int = 0) -> dict[str, Any]:
    """Keep a dropped file, once a reader has taken it.

    Args:
        folder: of the session.
        name: as the file is called; only its letters and its ending are used.
        data: its content, or the beginning of it: the header of GGUF and safetensors says all that is asked.
        whole: the size of the whole file, bytes; 0: ``data`` is all.

    Returns:
        ``{"field": "model", "name": "config-3f2a91.json", "what": "..."}``: the field it is for and its name there.

    Raises:
        InputError: no folder, too many files, an ending that is not taken, or no reader takes it.
    """
    if folder is None:
        raise InputError("there is no folder to write to, so no files are taken", field="file")
    ending = os.path.splitext(name)[1].lower()  # noqa: PTH122 - a name, not a path
    if ending not in KINDS:
        raise InputError(f"expected a file that ends in {', '.join(KINDS)}, got {show(name)}", field="file")
    if not data:
        raise InputError(f"{show(name)} is empty", field="file")
    there = [p.stat().st_size for p in folder.iterdir() if p.is_file()]
    if len(there) >= MAX_FILES or sum(min(size, 64 * 2**20) for size in there) + len(data) > MAX_TOTAL:
        raise InputError(f"at most {MAX_FILES} files and {MAX_TOTAL // 2**20} MiB are kept in a session", field="file")
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", name[: -len(ending)].rpartition("/")[2])[-60:].strip("-.") or "file"
    path = folder / f"{stem}-{hashlib.sha256(data + str(whole).encode()).hexdigest()[:6]}{ending}"
    try:
        if not path.exists():
            path.write_bytes(data)
            if whole > len(data) and ending in (".gguf", ".safetensors"):
                os.truncate(path, min(whole, _MAX_CLAIMED))  # a hole: the sizes in the header are checked against it
    except OSError as error:
        path.unlink(missing_ok=True)
        size = f"{max(whole, len(data)):,} bytes"
        raise InputError(f"{show(name)}: {size} cannot be kept here: {error.strerror}", field="file") from None
    try:
        field, what = _read(path, KINDS[ending])
    except InputError as error:
        path.unlink(missing_ok=True)
        said = error.problems[0].message.replace(show(str(path)), show(path.name)).replace(str(path), path.name)
        raise InputError(bounded(f"{show(name)}: {said}"), field="file") from None
    return {"field": field, "name": path.name, "what": what}


def _read(path: Path, field: str) -> tuple[str, str]:
    """The field a file is for, and what it holds, by the readers of the library. Raises :class:`InputError`."""
    from steelyard.report.entry import find
    from steelyard.scenario.network import asks_net

    if field == "trace":
        from steelyard.traffic.readers import read_trace

        return field, f"{len(read_trace(path)):,} requests"
    found = find(str(path))
    if found.kind == "machine":
        return "on", found.value.title or found.value.name
    if found.kind in ("model", "net") or asks_net({"model": str(path)}):
        return "model", found.name
    raise InputError("expected the config of a model, a machine, a graph or a trace", field="file")
