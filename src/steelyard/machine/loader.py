"""Reading machine files. Parses data only: TOML, JSON or YAML, with a size limit, all problems at once."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from steelyard.documents import build, read_document
from steelyard.machine.component import Machine

__all__ = ["load_machine", "machine_from_dict"]


def load_machine(path: str | Path) -> Machine:
    """Read one machine from a TOML, JSON or YAML file.

    Raises:
        InputError: the file cannot be read, or fields are missing, unknown or out of bounds (all listed at once).
    """
    return _cached(Path(path).resolve())


@cache
def _cached(path: Path) -> Machine:
    return machine_from_dict(read_document(path), str(path.name))


def machine_from_dict(data: Mapping[str, Any], where: str = "machine") -> Machine:
    """Build a machine from plain data, reporting every problem with its field path.

    The fields of the machine may stand at the top or in a ``machine`` table beside ``sources`` and ``guess``.
    """
    if isinstance(data.get("machine"), Mapping):
        fields = {k: v for k, v in data.items() if k != "machine"}
        data = {**data["machine"], **fields}
    return build(Machine, data, where)
