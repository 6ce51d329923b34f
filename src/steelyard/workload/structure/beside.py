"""Towers of pictures and sound that stand in a model's files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from steelyard.errors import InputError
from steelyard.workload.families._native import outside
from steelyard.workload.families.towers import read_towers
from steelyard.workload.ingest.safetensors import TensorInfo
from steelyard.workload.structure.names import beside, place_of
from steelyard.workload.tower import Tower

__all__ = ["described_towers", "tower_of"]

_SOUND = re.compile(r"audio|speech|sound|talker|wav")
#: A tower that a config describes is that of the files when their parameters are so near.
_NEAR = 0.2


def tower_of(tensors: Iterable[TensorInfo]) -> Tower | None:
    """All towers that some tensors are, as one whose weights alone are known; None where there is none."""
    found = [t for t in tensors if beside(t.name) and place_of(t.name).kind == "tower"]
    elements = sum(t.elements for t in found)
    return _tower(elements, sum(t.bytes for t in found), (t.name for t in found)) if elements else None


def _tower(elements: int, size: int, names: Iterable[str]) -> Tower:
    kind = "audio" if all(_SOUND.search(name) for name in names) else "vision"
    return Tower(f"{kind} tower", kind, elements, bits=8 * size / elements)


def described_towers(
    config: Mapping[str, Any], hidden: int, elements: int, size: int, names: Iterable[str]
) -> tuple[Tower, ...]:
    """The towers of a model nobody described: as its config describes them, where the files hold as many parameters.

    Args:
        config: the whole config.
        hidden: width of the language model.
        elements: parameters of all towers in the files.
        size: their bytes.
        names: of their tensors.
    """
    if not elements:
        return ()
    with suppress(InputError):
        found, _ = read_towers(config, hidden, outside(config))
        if found and abs(sum(t.parameters for t in found) / elements - 1) < _NEAR:
            exact = elements / sum(t.parameters for t in found)
            return tuple(replace(t, parameters=round(t.parameters * exact)) for t in found)
    return (_tower(elements, size, names),)
