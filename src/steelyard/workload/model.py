"""A model that was loaded, and the catalogue entry it may come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from steelyard.workload.protocol import Workload, restated

if TYPE_CHECKING:
    from steelyard.workload.structure.found import Structure

__all__ = ["Model", "ModelEntry"]


@dataclass(frozen=True)
class ModelEntry:
    """One catalogue entry: facts about a published model, and its config.

    ``parameters`` is the total of the language path; ``parameters_source`` says where it is from and whether it was
    rounded. ``active_parameters`` (0 = dense) is what the publisher states, with or without embeddings as it chose.
    """

    id: str
    parameters: int
    config: Mapping[str, Any]
    same_as: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    parameters_source: str = ""
    checkpoint_parameters: int = 0
    """Elements in the published files when they hold more than the language path (vision tower, scales); 0 = same."""
    active_parameters: int = 0
    active_parameters_source: str = ""
    kv_bytes: int = 0
    """Bytes of cache of one sequence of ``kv_tokens`` tokens in 16 bits that the publisher states, 0 = not stated."""
    kv_tokens: int = 1
    kv_source: str = ""
    context: int = 0
    """Longest context in tokens the publisher states, 0 = not stated."""
    released: str = ""
    source: str = ""
    confidence: str = ""
    note: str = ""
    stored: Mapping[str, str] = field(default_factory=dict)
    """Format of the weights of those of ``same_as`` that are published in another than the config says, by name."""

    @property
    def exact(self) -> bool:
        """Whether the total is a count and not a rounded figure of a model card."""
        return bool(self.parameters) and self.parameters % 1_000_000 != 0 and "assumed" not in self.parameters_source


@dataclass(frozen=True)
class Model:
    """A model ready to be planned: its normal form, and what its files say about storage.

    ``weight_bytes`` is exact when it was read from a header, None when there was none to read. ``tensor_bytes`` splits
    it by number format.
    """

    name: str
    transformer: Workload
    source: str
    weight_bytes: int | None = None
    tensor_bytes: Mapping[str, int] = field(default_factory=dict)
    engine: str = ""
    """The engine whose form the files have (GGUF: ``llamacpp``); empty: any."""
    method: str = ""
    """How the weights were quantised, as the ``quant_method`` of the config says; empty: not, or not said."""
    entry: ModelEntry | None = None
    asked: str = ""
    """The name that was asked for, where it says more than the entry's; it asks for the same again."""
    structure: Structure | None = None
    """What each tensor was read as, where nobody described the type of the model."""

    @property
    def without_towers(self) -> Model:
        """The language model alone: what is loaded where others read images and sounds."""
        towers = self.transformer.towers
        if not towers:
            return self
        exact = self.weight_bytes
        left = None if exact is None else max(0, exact - round(sum(tower.bytes_on() for tower in towers)))
        return replace(self, transformer=restated(self.transformer, towers=()), weight_bytes=left)

    def __repr__(self) -> str:
        total = self.transformer.parameters()
        stored = "" if self.weight_bytes is None else f", {self.weight_bytes / 1e9:.2f} GB of weights"
        return f"<Model {self.name}: {total / 1e9:.2f} B parameters, {self.transformer.native_weights}{stored}>"
