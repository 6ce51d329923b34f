"""What requests show, in words: ``2x1024x1024`` (images, height x width), ``1080p``, ``2x30s`` (sounds)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from steelyard.errors import InputError, Problem, raise_all, show, suggest
from steelyard.scenario.words import Problems
from steelyard.units import parse_quantity
from steelyard.workload.catalogue import Model, find_model, load_model, model_names
from steelyard.workload.reading import Seen, Shown, seen_by

if TYPE_CHECKING:
    from steelyard.traffic.trace import Trace

__all__ = ["numbers", "parse_audio", "parse_images", "read_shown", "with_shown"]

#: Most images or sounds of one size in a request, sizes, pixels of a side, and seconds of a sound.
MOST, SIZES, LONGEST_SIDE, LONGEST_S = 10_000, 100, 100_000, 100_000.0
_COUNT = r"(?:(?P<count>\d+(?:\.\d+)?|\.\d+)x)?"
_IMAGE = re.compile(_COUNT + r"(?:(?P<height>\d{1,9})x(?P<width>\d{1,9})|(?P<lines>\d{3,4})p)")
_SOUND = re.compile(_COUNT + r"(?P<length>[^x]+)")
_IMAGES = "images as HEIGHTxWIDTH in pixels or NUMBERxHEIGHTxWIDTH, such as 2x1024x1024 or 1080p"
_SOUNDS = "sounds as a length or NUMBERxLENGTH, such as 30s or 2x30s"


def parse_images(text: str) -> tuple[Shown, ...]:
    """Images of a request; several sizes are separated by commas. Raises :class:`InputError`."""
    found, problems = [], []
    for part, match in _parts(text, _IMAGE, "images"):
        if match is None:
            problems.append(Problem("images", f"expected {_IMAGES}; got {show(part)}"))
            continue
        height, width = (int(x) for x in (match["height"] or match["lines"], match["width"] or 0))
        size = (height, width) if match["width"] else (height, round(height * 16 / 9))
        if not all(1 <= side <= LONGEST_SIDE for side in size):
            words = f"expected sides of 1 to {LONGEST_SIDE:,} pixels, got {show(part)}"
            problems.append(Problem("images", words))
            continue
        found.append(Shown(_count(match["count"], "images", problems), size))
    raise_all(problems)
    return tuple(found)


def parse_audio(text: str) -> tuple[Shown, ...]:
    """Sounds of a request; several lengths are separated by commas. Raises :class:`InputError`."""
    found, problems = [], []
    for part, match in _parts(text, _SOUND, "audio"):
        try:
            seconds = math.nan if match is None else parse_quantity(match["length"], "s", "audio")
        except InputError:
            seconds = math.nan
        if match is None or not 0 < seconds <= LONGEST_S:
            problems.append(Problem("audio", f"expected {_SOUNDS} (up to {LONGEST_S:,.0f} s); got {show(part)}"))
            continue
        found.append(Shown(_count(match["count"], "audio", problems), (seconds,)))
    raise_all(problems)
    return tuple(found)


def read_shown(verb: str, values: Mapping[str, Any], model: Model) -> tuple[Seen, ...]:
    """What a model reads of the images and sounds of a question.

    Raises:
        InputError: they cannot be read, the model has no tower for them, or a static batch has a part of one.
    """
    problems = Problems()
    shown = [
        *(problems.read(parse_images, values.get("images") or "") or ()),
        *(problems.read(parse_audio, values.get("audio") or "") or ()),
    ]
    for one in shown:
        if not any(tower.kind == one.kind for tower in model.transformer.towers):
            problems.add([Problem(one.field, f"{model.name} has no tower for {one.field}{_beside(model, one)}")])
        elif verb == "estimate" and one.count != int(one.count):
            words = f"a static batch shows whole numbers, got {one.words}; simulate takes the mean of a mixture"
            problems.add([Problem(one.field, words)])
    problems.done()
    return seen_by(model.transformer, shown)


def _beside(model: Model, one: Shown) -> str:
    """Where a tower would be, and models of the catalogue that have one."""
    if model.transformer.encodes:
        return ": it has an encoder, which reads its source in every request without being asked"
    if model.engine:  # GGUF
        return ": in GGUF it is a file of its own (mmproj), which is not read; ask by the model's name"
    known = [name for name in model_names() if _has(find_model(name).config, one.kind)]
    near = list(islice((n for n in dict.fromkeys([*suggest(model.name, known, 3), *known]) if _reads(n, one.kind)), 3))
    return f"; models that have one: {', '.join(near)}" if near else ""


def _reads(name: str, kind: str) -> bool:
    """Whether what a tower of a model reads is described."""
    return any(t.kind == kind and t.rule is not None for t in load_model(name).transformer.towers)


def _has(config: Mapping[str, Any], kind: str) -> bool:
    """Whether a config describes a tower of a kind."""
    keys = {"vision": ("vision_config", "visual"), "audio": ("audio_config",)}[kind]
    inner = (x for key, x in config.items() if key.endswith("_config") and isinstance(x, Mapping))
    return any(config.get(key) for key in keys) or any(_has(x, kind) for x in inner)


def _parts(text: str, pattern: re.Pattern[str], field: str) -> list[tuple[str, re.Match[str] | None]]:
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    if len(parts) > SIZES:
        raise InputError(f"expected at most {SIZES} sizes, got {len(parts):,}", field=field)
    return [(p, pattern.fullmatch(re.sub(r"\s*[x×*]\s*", "x", p.lower()))) for p in parts]


def _count(text: str | None, field: str, problems: list[Problem]) -> float:
    count = 1.0 if text is None else float(text)
    if not 0 < count <= MOST:
        problems.append(Problem(field, f"expected more than 0 and at most {MOST:,} of one size, got {show(text)}"))
    return count


def numbers(seen: Sequence[Seen], trace: Trace) -> Iterator[NDArray[np.float64]]:
    """How many of each size every request of a trace shows, ``[n]`` for one size after another.

    Means that are whole numbers are shown by every request. Of others each request has drawn, once for all sizes, so
    that their sum differs by less than one: of ``0.3`` and ``0.7`` every request shows one of the two.
    """
    draws = (np.zeros(len(trace)) if trace.shown is None else trace.shown) + 1e-9
    end, before = 0.0, np.floor(draws)
    for one in seen:
        end += one.shown.count
        upto = np.floor(end + draws)
        yield upto - before
        before = upto


def with_shown(trace: Trace, seen: Sequence[Seen], seed: int) -> Trace:
    """The trace with the tokens of what is shown in its prompts. A cached prefix holds none of them."""
    if not seen:
        return trace
    if any(s.shown.count % 1 for s in seen):
        trace = replace(trace, shown=np.random.default_rng([seed, 1]).random(len(trace)))
    tokens = np.zeros(len(trace), dtype=np.int64)
    for one, count in zip(seen, numbers(seen, trace), strict=True):
        tokens += (one.tokens * count).astype(np.int64)
    words = ", ".join(f"{s.shown.words} ({s.tokens:,} tokens each)" for s in seen)
    note = f"beside {trace.isl.mean():,.0f} tokens of text on average each request shows {words}"
    note += ", what was shown before it in a conversation not counted" if trace.session is not None else ""
    said: dict[str, str] = {}
    for s in seen:
        said[s.shown.field] = ",".join(x.shown.text for x in seen if x.shown.field == s.shown.field)
    return trace.longer(tokens, note, said)
