"""What was found in the tensors of a model nobody described: what is priced as what, and what was not understood."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["LIMIT", "UNKNOWN", "Row", "Structure"]

#: Largest share of the weights that may be not understood without being asked for.
LIMIT = 0.02
#: The part of the weights that was not understood.
UNKNOWN = "not understood"


@dataclass(frozen=True, slots=True)
class Row:
    """One part of a model."""

    part: str
    tensors: int
    parameters: int
    bytes: int
    examples: tuple[str, ...]
    """Names of some of its tensors, ``*`` for numbers of layers and experts."""
    priced_as: str
    """In words."""


@dataclass(frozen=True, slots=True)
class Structure:
    """Every tensor of the files, by the part it was placed in, largest first."""

    rows: tuple[Row, ...]
    layer_bytes: tuple[int, ...] = ()
    """Bytes of each layer, in order."""

    @property
    def parameters(self) -> int:
        """Parameters of all parts."""
        return sum(row.parameters for row in self.rows)

    @property
    def unknown(self) -> float:
        """Share of the parameters that was not understood."""
        missed = sum(row.parameters for row in self.rows if row.part == UNKNOWN)
        return missed / self.parameters if self.parameters else 0.0

    def to_dict(self) -> Mapping[str, Any]:
        """The table as plain values."""
        rows = [
            {
                "part": row.part,
                "tensors": row.tensors,
                "parameters": row.parameters,
                "bytes": row.bytes,
                "examples": list(row.examples),
                "priced_as": row.priced_as,
            }
            for row in self.rows
        ]
        return {"parts": rows, "not_understood_share": self.unknown, "layer_bytes": list(self.layer_bytes)}

    def lines(self) -> list[str]:
        """One line for each part."""
        whole = self.parameters or 1
        sizes: dict[int, int] = {}
        for size in self.layer_bytes:
            sizes[size] = sizes.get(size, 0) + 1
        common = sorted(sizes.items(), key=lambda x: -x[0] * x[1])[:4]
        layers = ", ".join(f"{count} of {size / 1e9:.4g} GB" for size, count in common)
        more = f" and {len(sizes) - 4} other sizes" if len(sizes) > 4 else ""
        return [*([f"layers: {layers}{more}"] if layers else [])] + [
            f"{row.part}: {row.parameters / 1e9:.4g} B parameters, {row.parameters / whole:.1%}"
            f" ({', '.join(row.examples)}){f': {row.priced_as}' if row.priced_as else ''}"
            for row in self.rows
        ]
