"""The metadata of a GGUF file by the keys of its architecture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from steelyard.errors import InputError
from steelyard.workload.ingest.gguf import GgufHeader, Length

__all__ = ["BY_SHAPE", "MOST_LAYERS", "LayersDiffer", "Metadata"]

#: Far above every published model; bounds what is done for each layer.
MOST_LAYERS = 10_000

#: Architectures whose layers differ, as the shapes of their tensors say.
BY_SHAPE = ("gemma3n", "gemma4")


class LayersDiffer(InputError):
    """Layers of an architecture differ in a way that its metadata is not read for: its tensors are."""


@dataclass(frozen=True)
class Metadata:
    """Metadata of one architecture, by the key after its prefix."""

    header: GgufHeader
    arch: str

    def get(self, key: str, default: Any = None) -> Any:
        return self.header.metadata.get(f"{self.arch}.{key}", default)

    def number(self, key: str) -> int | None:
        """A whole number; an array gives its largest entry when all non-zero entries agree, else a problem.

        None where the layers of an architecture are read from the shapes of its tensors (:data:`BY_SHAPE`).
        """
        value = self.get(key)
        if isinstance(value, tuple):
            distinct = {x for x in value if x}
            if len(distinct) > 1 and self.arch in BY_SHAPE:
                return None
            if len(distinct) > 1:
                raise LayersDiffer(
                    f"layers differ in {key} ({sorted(distinct)}); not known here", field=f"{self.arch}.{key}"
                )
            return int(distinct.pop()) if distinct else 0
        return value if isinstance(value, int) and not isinstance(value, Length) else None

    def per_layer(self, key: str) -> tuple[int, ...]:
        """A number for each layer; empty where there is one for all."""
        value = self.get(key)
        return tuple(int(x) for x in value if isinstance(x, int)) if isinstance(value, tuple) else ()

    def names(self, layer: int) -> set[str]:
        """What tensors a layer holds, without the layer."""
        return self._held.get(str(layer), set())

    @cached_property
    def _held(self) -> Mapping[str, set[str]]:
        found: dict[str, set[str]] = {}
        for tensor in self.header.tensors:
            block, layer, name = (*tensor.name.split(".", 2), "", "")[:3]
            if block == "blk":
                found.setdefault(layer, set()).add(name)
        return found

    @property
    def depth(self) -> int:
        """Layers. Raises :class:`InputError` above :data:`MOST_LAYERS`."""
        depth = self.number("block_count") or 0
        if not 0 <= depth <= MOST_LAYERS:
            raise InputError(
                f"expected at most {MOST_LAYERS:,} layers, got {depth:,}", field=f"{self.arch}.block_count"
            )
        return depth

    def has(self, *suffixes: str) -> bool:
        """Whether the first layers hold a tensor with one of these endings."""
        return any(t.name.startswith("blk.") and t.name.endswith(suffixes) for t in self.header.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return next((t.shape for t in self.header.tensors if t.name == name), ())
