"""Towers: the encoders of images and sound beside a language model, and how many tokens it reads of each.

A :class:`Tower` says what is loaded (``parameters``), what runs for an image (``encoder``, ``stem``, ``projector``),
and by its ``rule`` into which patches an image is cut and how many tokens the language model reads then. The rules
restate what the image processors of published models do; their sources stand in
:mod:`steelyard.workload.families.towers`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from steelyard.workload.shapes import Shapes

__all__ = ["Native", "Overlapping", "Quarters", "Read", "Rule", "Sound", "Square", "Tiles", "Tower"]


@dataclass(frozen=True, slots=True)
class Read:
    """What a tower reads of one image or one sound, and what the language model reads after it."""

    sequences: tuple[tuple[int, int], ...]
    """``(how many, positions of each)``: tiles attend to themselves only; class tokens are counted."""
    tokens: int
    """That the language model reads, line breaks and begin and end marks included."""
    beside: int = 0
    """Tokens that some of its layers attend to beside the prompt, in which one mark stands for them."""

    @property
    def tiles(self) -> int:
        """Sequences that can be read apart from each other."""
        return sum(count for count, _ in self.sequences)

    @property
    def handed(self) -> int:
        """Tokens that come out of the tower."""
        return self.beside or self.tokens


@dataclass(frozen=True, slots=True)
class Square:
    """Every image is made one square of ``positions`` patches (class token included), read as ``tokens``."""

    positions: int
    tokens: int

    def read(self, height: int, width: int) -> Read:
        """What is read of an image of any size."""
        return Read(((1, self.positions),), self.tokens)


@dataclass(frozen=True, slots=True)
class Tiles:
    """An image is cut into square tiles, of ``positions`` patches (class token included) and ``tokens`` tokens each."""

    edge: int
    """Of a tile in pixels."""
    positions: int
    tokens: int
    most: int
    """Tiles of an image at most."""
    choice: str = "aspect"
    """How the grid is chosen: the nearest ``aspect`` ratio, the least scaling that ``fits``, the most pixels kept with
    the least ``waste``, the ``widest`` of the image's shape, tiles of the image enlarged to ``cut`` it (``longest``
    pixels), or as many as its ``area``."""
    grids: tuple[tuple[int, int], ...] = ()
    """``(rows, columns)`` that may be chosen; empty: all of up to ``most`` tiles."""
    least: int = 1
    longest: int = 0
    """Of ``cut``: pixels the longest edge is brought to."""
    overview: bool = True
    """The whole image is one more tile when it was cut."""
    always: bool = False
    """So it is when it was not cut."""
    unpadded: bool = False
    """Tokens of padding are dropped, and each row of tokens ends with one more."""
    kept: int = 0
    """Of these tokens those of so many tiles are kept at most; 0 = all."""
    tile_tokens: int = 0
    """Tokens around each tile."""
    row_tokens: int = 0
    """Tokens after each row of tiles."""
    more_tokens: int = 0
    """Tokens around the image."""
    whole: tuple[int, int] = (0, 0)
    """Positions and tokens of the overview, where they are not those of a tile."""
    uncut: bool = False
    """An image no larger than a tile is not cut: only its overview is read."""
    together: int = 0
    """Tiles attend to each other, filled up to ``most`` of them with positions of each a multiple of this; what comes
    out of those that are no filling stands beside the prompt. 0: they do not."""

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of tiles, without the overview."""
        if self.choice == "cut":
            longest = max(height, width)
            tall, wide = (self.longest * side / longest for side in (height, width))
            rows, columns = (max(1, math.ceil(round(side / self.edge, 6))) for side in (tall, wide))
            return (rows, columns) if rows * columns > 1 else (1, 1)
        if self.choice == "widest":
            columns = 1
            while (columns + 1) * math.ceil((columns + 1) * height / width) <= self.most:
                columns += 1
            return min(self.most, math.ceil(columns * height / width)), columns
        if self.choice == "area":
            wanted = min(math.ceil(height * width / self.edge**2), self.most)
            if wanted <= 1:
                return 1, 1
            near = [x for n in (wanted - 1, wanted, wanted + 1) if 1 < n <= self.most for x in _factors(n)]
            ratio = math.log(width / height)
            return min(near, key=lambda x: abs(ratio - math.log(x[1] / x[0])))
        grids = self.grids or tuple(sorted(self._all(), key=lambda x: (x[0] * x[1], x[1], x[0])))
        return {"aspect": self._nearest, "fits": self._fitting, "waste": self._fullest}[self.choice](
            grids, height, width
        )

    def _all(self) -> Iterator[tuple[int, int]]:
        for rows in range(1, self.most + 1):
            for columns in range(1, self.most // rows + 1):
                if rows * columns >= self.least:
                    yield rows, columns

    def _nearest(self, grids: tuple[tuple[int, int], ...], height: int, width: int) -> tuple[int, int]:
        best, off = grids[0], math.inf
        for rows, columns in grids:
            difference = abs(width / height - columns / rows)
            larger = difference == off and 2 * height * width > self.edge**2 * rows * columns
            if difference < off or larger:
                best, off = (rows, columns), difference
        return best

    def _fitting(self, grids: tuple[tuple[int, int], ...], height: int, width: int) -> tuple[int, int]:
        def key(grid: tuple[int, int]) -> tuple[bool, float, int]:
            scale = min(grid[0] * self.edge / height, grid[1] * self.edge / width)
            return scale < 1, scale if scale >= 1 else -scale, grid[0] * grid[1]

        return min(grids, key=key)

    def _fullest(self, grids: tuple[tuple[int, int], ...], height: int, width: int) -> tuple[int, int]:
        def key(grid: tuple[int, int]) -> tuple[int, int]:
            tall, wide = grid[0] * self.edge, grid[1] * self.edge
            scale = min(tall / height, wide / width)
            kept = min(int(height * scale) * int(width * scale), height * width)
            return -kept, tall * wide - kept

        return min(grids, key=key)

    def read(self, height: int, width: int) -> Read:
        """What is read of an image of this size in pixels."""
        rows, columns = self.grid(height, width)
        if self.uncut and max(height, width) <= self.edge:
            rows = columns = 0
        cut = rows * columns
        if self.together:
            filled = -(-self.positions // self.together) * self.together
            return Read(((1, self.most * filled),), 1, cut * self.positions)
        tiles = cut + int(self.always or (self.overview and cut > 1))
        tokens = tiles * (self.tokens + self.tile_tokens) + self.more_tokens
        if cut > 1 or self.choice != "cut":
            tokens += rows * self.row_tokens
        if self.unpadded:
            side = math.isqrt(self.tokens)
            tall, wide = rows * side, columns * side
            if width / height > wide / tall:
                tall -= 2 * ((tall - int(round(height * wide / width, 7))) // 2)
            else:
                wide -= 2 * ((wide - int(round(width * tall / height, 7))) // 2)
            ratio = math.sqrt(tall * wide / (self.kept * side * side)) if self.kept else 0.0
            if ratio > 1.1:
                tall, wide = int(tall // ratio), int(wide // ratio)
            tokens += tall * (wide + 1) - cut * self.tokens
        if any(self.whole):
            sequences = ((1, self.whole[0]), (cut, self.positions))
            return Read(sequences if cut else sequences[:1], tokens - self.tokens + self.whole[1])
        return Read(((tiles, self.positions),), tokens)


@dataclass(frozen=True, slots=True)
class Overlapping:
    """The whole image as one tile, and tiles of it that reach into their neighbours; tokens are pooled over the seams.

    Each of the two grids of tokens ends its rows with one more and has two around it.
    """

    edge: int
    """Of a tile in pixels."""
    patch: int
    merge: int
    most: int
    """Tiles of an image at most, without the whole one."""
    margin: int
    """Patches of a tile that its neighbours on two sides hold as well."""

    def read(self, height: int, width: int) -> Read:
        """What is read of an image of this size in pixels."""
        margin, side = self.margin * self.patch, self.edge // self.patch
        inside = side - self.margin
        tiles = Tiles(inside * self.patch, 0, 0, self.most, "fits")
        small = min(height, width) < margin
        rows, columns = (1, 1) if small else tiles.grid(max(1, height - margin), max(1, width - margin))
        tall, wide = (-(-(n * inside + self.margin) // self.merge) for n in (rows, columns))
        whole = -(-side // self.merge)
        return Read(((rows * columns + 1, side * side),), tall * (wide + 1) + whole * (whole + 1) + 4)


@dataclass(frozen=True, slots=True)
class Quarters:
    """The image and its four quarters, each within its limits and filled up to the largest of the five."""

    patch: int
    tokens: int
    """Of each of the five, between marks that neighbours share."""
    shortest: int
    """Pixels of a side at least."""
    longest: int

    def read(self, height: int, width: int) -> Read:
        """What is read of an image of this size in pixels."""
        halves = [(max(1, n // 2), n - n // 2) for n in (height, width)]
        sizes = [self._size(*x) for x in ((height, width), *((a, b) for a in halves[0] for b in halves[1]))]
        tall, wide = (max(size[i] for size in sizes) // self.patch for i in (0, 1))
        return Read(((5, tall * wide),), 5 * (self.tokens + 1) + 1)

    def _size(self, height: int, width: int) -> tuple[int, int]:
        longest, ratio = self.longest, width / height
        if width >= height > 0 and width > longest:
            height, width = int(longest / ratio), longest
        elif height > width and height > longest:
            height, width = longest, int(longest * ratio)
        return max(height, self.shortest), max(width, self.shortest)


@dataclass(frozen=True, slots=True)
class Native:
    """An image keeps its size, within limits; sides become multiples of ``patch * merge`` pixels.

    The limits are on pixels, on patches or on the longest edge, and hold together; ``rounding`` is how a side within
    them becomes a multiple. A side beyond the limit of pixels is always rounded down, one below it up.
    """

    patch: int
    merge: int = 1
    min_pixels: int = 0
    max_pixels: int = 0
    """0 = no limit."""
    max_edge: int = 0
    rounding: str = "nearest"
    """``nearest``, ``up`` (a side is filled up), ``down``, or ``shape``: of the whole numbers beside both sides those
    nearest to the image's shape."""
    whole: bool = False
    """An image with a side below one multiple is enlarged first."""
    fill: bool = False
    """Smaller images are enlarged to ``max_pixels``."""
    row_tokens: int = 0
    """Tokens after each row (a line break)."""
    more_tokens: int = 0
    """Tokens around the image."""
    beyond: Tiles | None = None
    """How an image of more than twice ``max_pixels`` is read instead."""

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width in pixels as the tower reads them."""
        unit = self.patch * self.merge
        if self.rounding == "shape":
            tall, wide = self._shape(height / unit, width / unit)
            return tall * unit, wide * unit
        if self.whole and min(height, width) < unit:
            larger = unit / min(height, width)
            height, width = int(height * larger), int(width * larger)
        scale, area, rounding = 1.0, float(height) * width, _ROUNDINGS[self.rounding]
        if self.max_edge:
            scale = min(scale, self.max_edge / max(height, width))
        if self.fill:
            scale = math.sqrt(self.max_pixels / area)
        elif self.rounding == "up" and self.max_pixels:
            scale = min(scale, math.sqrt(self.max_pixels / area))
        sides = [max(1, rounding(side * scale / unit)) for side in (height, width)]
        pixels = sides[0] * sides[1] * unit * unit
        if self.max_pixels and pixels > self.max_pixels and self.rounding == "nearest":
            scale = math.sqrt(self.max_pixels / area)
            sides = [max(1, math.floor(side * scale / unit)) for side in (height, width)]
        elif pixels < self.min_pixels:
            scale = math.sqrt(self.min_pixels / area)
            sides = [math.ceil(side * scale / unit) for side in (height, width)]
        if self.max_pixels:  # the long side of a strip, whose short side cannot become less than one
            most = max(1, self.max_pixels // (unit * unit) // min(sides))
            sides = [min(side, most) if side == max(sides) else side for side in sides]
        return sides[0] * unit, sides[1] * unit

    def _shape(self, tall: float, wide: float) -> tuple[int, int]:
        """Rows and columns of multiples; among equal shapes the one that a set of the four lists first."""
        most, ratio = self.max_pixels // (self.patch * self.merge) ** 2, wide / tall
        wanted = tall / wide
        if tall * wide > most:
            tall = math.sqrt(most / ratio)
            wide = tall * ratio
        near = {(a, b) for a in (math.floor(tall), math.ceil(tall)) for b in (math.floor(wide), math.ceil(wide))}
        held = [(a, b) for a, b in near if a >= 1 and b >= 1 and a * b <= most]
        if not held:
            return max(1, round(tall)), max(1, round(wide))
        return min(held, key=lambda x: abs(x[0] / x[1] - wanted))

    def read(self, height: int, width: int) -> Read:
        """What is read of an image of this size in pixels."""
        unit = self.patch * self.merge
        if self.beyond is not None:
            pixels = max(1, round(height / unit)) * max(1, round(width / unit)) * unit * unit
            if pixels > 2 * self.max_pixels:
                return self.beyond.read(height, width)
        tall, wide = self.size(height, width)
        rows, columns = tall // unit, wide // unit
        tokens = rows * (columns + self.row_tokens) + self.more_tokens
        return Read(((1, rows * columns * self.merge**2),), tokens)


@dataclass(frozen=True, slots=True)
class Sound:
    """A sound becomes ``positions_per_s`` positions and ``tokens_per_s`` tokens."""

    positions_per_s: float
    tokens_per_s: float
    chunk_s: float = 0.0
    """Seconds a sound is filled up to a multiple of; 0 = as long as it is."""
    longest_s: float = 0.0
    """Seconds read at most; 0 = all."""
    silent: bool = False
    """What a chunk is filled up with becomes no tokens."""
    halvings: int = 0
    """Of the hundred frames of each second alone, and of those of the rest, every other one is kept so many times,
    rounded up: positions and tokens."""

    def read_s(self, seconds: float) -> Read:
        """What is read of a sound of so many seconds."""
        seconds = min(seconds, self.longest_s) if self.longest_s else seconds
        if self.halvings:
            whole, rest = divmod(max(1, math.ceil(round(seconds * _FRAMES, 6))), _FRAMES)
            tokens = whole * -(-_FRAMES // 2**self.halvings) - (-rest // 2**self.halvings)
            return Read(((1, tokens),), tokens)
        if self.chunk_s:
            chunks = max(1, math.ceil(seconds / self.chunk_s))
            each = round(self.chunk_s * self.positions_per_s)
            heard = seconds if self.silent else chunks * self.chunk_s
            return Read(((chunks, each),), max(1, round(heard * self.tokens_per_s)))
        return Read(((1, max(1, math.ceil(seconds * self.positions_per_s))),), math.ceil(seconds * self.tokens_per_s))


#: Frames of a second of sound before any is dropped.
_FRAMES = 100
#: What is read of an image, and of a sound.
Rule = Square | Native | Tiles | Overlapping | Quarters | Sound


@dataclass(frozen=True)
class Tower:
    """One encoder of a multimodal model with what joins it to the language model."""

    name: str
    """As answers call it: ``vision tower``, ``audio tower``."""
    kind: str
    """``vision`` or ``audio``."""
    parameters: int
    """All that is loaded: layers, stem, tables, projector."""
    encoder: Shapes | None = None
    """Its layers, without head or table; None: only its weights are described."""
    rule: Rule | None = None
    """None: not described, or it reads what another tower reads."""
    stem: tuple[tuple[int, int], ...] = ()
    """Products per position before the layers: ``(inner, outer)``."""
    projector: tuple[tuple[float, int, int], ...] = ()
    """Products after the layers: ``(rows per token that the language model reads, inner, outer)``."""
    format: str = "bf16"
    """Number format its weights are loaded in."""
    bits: float = 16.0
    """Stored bits per parameter."""
    sharded: bool = True
    """Engines split its weights over the devices of tensor parallelism, as long as they divide its heads."""
    asked: bool = False
    """Something is shown to it: it is loaded also where it is a file of its own."""
    before: tuple[tuple[Tower, Read], ...] = ()
    """Towers whose output it reads, and what they read: where one that is asked reads an image."""

    def bytes_on(self, devices: int = 1) -> float:
        """Weight bytes on one of the devices of tensor parallelism."""
        heads = self.encoder.heads if self.encoder is not None else 0
        split = devices if self.sharded and heads and heads % devices == 0 else 1
        return self.parameters * self.bits / 8 / split


def _up(x: float) -> int:
    return math.ceil(round(x, 9))


def _down(x: float) -> int:
    return math.floor(x)


_ROUNDINGS: Mapping[str, Callable[[float], int]] = {"nearest": round, "up": _up, "down": _down}


def _factors(n: int) -> Iterator[tuple[int, int]]:
    for rows in range(1, n + 1):
        if n % rows == 0:
            yield rows, n // rows
