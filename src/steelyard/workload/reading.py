"""Images and sounds of a request as a model with towers reads them: the tokens they become, the work that takes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from steelyard.errors import InputError
from steelyard.workload.fixed import FixedGraph
from steelyard.workload.graph import Graph
from steelyard.workload.protocol import Workload, restated
from steelyard.workload.step import Step
from steelyard.workload.tower import Read, Sound, Tower
from steelyard.workload.tower_ops import tower_graph
from steelyard.workload.transformer import Transformer

__all__ = ["Reading", "Seen", "Shown", "loaded_for", "seen_by"]


@dataclass(frozen=True, slots=True)
class Shown:
    """Images or sounds of one size that a request brings."""

    count: float
    """Per request; a mean where requests differ."""
    size: tuple[float, ...]
    """Height and width of an image in pixels; length of a sound in s."""

    @property
    def kind(self) -> str:
        """The kind of tower that reads it."""
        return "vision" if len(self.size) == 2 else "audio"

    @property
    def field(self) -> str:
        """The field of a question that says it."""
        return "images" if self.kind == "vision" else "audio"

    @property
    def text(self) -> str:
        """As it is given: ``2x1024x1024``, ``1x30s``."""
        size = f"{self.size[0]:g}s" if self.kind == "audio" else "x".join(f"{side:g}" for side in self.size)
        return f"{self.count:g}x{size}"

    @property
    def words(self) -> str:
        """``2 x 1024x1024``, ``30 s``."""
        size = f"{self.size[0]:g} s" if self.kind == "audio" else "x".join(f"{side:g}" for side in self.size)
        return size if self.count == 1 else f"{self.count:g} x {size}"


@dataclass(frozen=True, eq=False)
class Seen:
    """What is shown, the tower that reads it, and what it reads of one."""

    shown: Shown
    tower: Tower
    read: Read

    @property
    def tokens(self) -> int:
        """Of one image or sound, as the language model reads them."""
        return self.read.tokens

    @property
    def positions(self) -> int:
        """Patches or frames of one image or sound that the tower reads."""
        reads = (self.read, *(read for _, read in self.tower.before))
        return max(sum(count * each for count, each in read.sequences) for read in reads)


def loaded_for(model: Workload, seen: Sequence[Seen]) -> Workload:
    """The model whose towers are loaded because something is shown to them, with the tokens beside its prompts."""
    if not seen:
        return model
    asked = {s.tower.name for s in seen}
    towers = tuple(replace(t, asked=t.name in asked) for t in model.towers)
    beside = math.ceil(sum(s.read.beside * s.shown.count for s in seen))
    return restated(model, towers=towers, **({"image_tokens": beside} if beside else {}))


def seen_by(model: Workload, shown: Sequence[Shown]) -> tuple[Seen, ...]:
    """What a model's towers read of images and sounds.

    Raises:
        InputError: it has no tower for them, or one of which only the weights are described.
    """
    found = []
    for one in shown:
        towers = [t for t in model.towers if t.kind == one.kind]
        if not towers:
            raise InputError(f"{model.name} reads no {one.field}", field=one.field)
        described = [t for t in towers if t.rule is not None and t.encoder is not None]
        if not described:
            words = f"of the {towers[0].name} of {model.name} only the weights are described, not what it reads"
            raise InputError(words, field=one.field)
        *firsts, (tower, read) = ((t, _read(t, one)) for t in described)
        tower = replace(tower, before=tuple(firsts))
        if read.beside and isinstance(model, Transformer):
            tower = replace(tower, projector=(*tower.projector, *_keys(model)))
        found.append(Seen(one, tower, read))
    return tuple(found)


def _read(tower: Tower, one: Shown) -> Read:
    """What a tower reads of one image or sound."""
    rule = tower.rule
    assert rule is not None
    return rule.read_s(one.size[0]) if isinstance(rule, Sound) else rule.read(int(one.size[0]), int(one.size[1]))


def _keys(model: Transformer) -> Iterator[tuple[float, int, int]]:
    """Products of a tower's output that make the keys and values that layers attend to."""
    for layer in model.image_layers:
        if layer.cross is not None:
            yield float(layer.count), model.hidden, 2 * layer.cross.kv_heads * layer.cross.head_dim


@dataclass(frozen=True, eq=False)
class Reading(FixedGraph):
    """A tower at work on images of one size: a workload whose sequences are images (or sounds)."""

    seen: Seen | None = None

    @classmethod
    def of(cls, seen: Seen) -> Reading:
        """The work of one image; :meth:`graph` writes that of so many."""
        tower, encoder = seen.tower, seen.tower.encoder
        assert encoder is not None
        return cls(
            name=tower.name,
            ops=tower_graph(tower, seen.read).ops,
            native_weights=tower.format,
            depth=encoder.depth,
            hidden=encoder.hidden,
            peak_elements=Transformer.widest_elements(encoder),  # type: ignore[arg-type]
            seen=seen,
        )

    def graph(self, step: Step, absorb: bool | None = None) -> Graph:
        """The ops for as many images as the step has sequences."""
        assert self.seen is not None
        return tower_graph(self.seen.tower, self.seen.read, step.batch)
