"""The pieces of one module of a layer, and what a module is read as."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from steelyard.workload.shapes import Attention, Mixer
from steelyard.workload.structure.keys import Keys
from steelyard.workload.structure.pieces import Piece

__all__ = ["Group", "Mixing", "Module"]

#: What a module was read as, its part of the model, and the pieces it explains.
Mixing = tuple[Attention | Mixer, str, list[Piece]]
#: Pieces by role.
Group = Mapping[str, Sequence[Piece]]


class Module:
    """The pieces of one module, by role."""

    def __init__(self, group: Group, hidden: int, keys: Keys) -> None:
        self.group, self.hidden, self.keys = group, hidden, keys

    def has(self, *roles: str) -> bool:
        """Whether there is a piece of one of these roles."""
        return any(self.group.get(role) for role in roles)

    def pieces(self, *roles: str, biases: bool = True) -> list[Piece]:
        """The pieces of these roles."""
        return [p for role in roles for p in self.group.get(role, ()) if biases or p.ending != "bias"]

    def elements(self, *roles: str) -> int:
        """Elements of the weights of these roles together."""
        return sum(p.elements for p in self.pieces(*roles, biases=False))

    def rows(self, *roles: str, width: int = 0) -> int:
        """Outputs of the matrices of these roles together, 0 where they do not read ``width``."""
        rows, rest = divmod(self.elements(*roles), width or self.hidden)
        return 0 if rest else rows

    def biased(self, *roles: str) -> bool:
        """Whether one of these roles has a bias."""
        return any(p.ending == "bias" for p in self.pieces(*roles))
