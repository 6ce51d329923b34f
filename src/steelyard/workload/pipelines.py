"""Pipelines of several networks, one after another and over and over: text encoders, a denoiser, a decoder; an encoder
of sound and a decoder that writes token by token.

A row of ``catalogue/pipelines/*.toml`` names its phases, each a network of the catalogue with open sizes, how often it
runs (once, at every step, for every tile of a video), how many of it run at once for an item (2 under classifier-free
guidance) and how many pixels a row or column of it stands for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from math import ceil
from typing import Annotated, Any, Literal

from steelyard.documents import build_file
from steelyard.errors import InputError, Problem, UnknownName, normalise, raise_all, show
from steelyard.folders import catalogue_files
from steelyard.units import Quantity
from steelyard.workload.nets import OWN, is_net, kept_net, load_net
from steelyard.workload.shared_tokens import PATCHES, ROWS, SharedTokens, gathered, shared_tokens
from steelyard.workload.shared_width import SHARE, cut_by_width
from steelyard.workload.tensor_graph import TensorGraph

__all__ = [
    "Phase",
    "Pipeline",
    "PipelinePhase",
    "by_width",
    "find_pipeline",
    "is_pipeline",
    "over_devices",
    "phases_of",
    "pipelines",
]

#: Most pixels of a side and most frames.
_MOST = 16384
#: Longest sequence, of what its pipeline counts.
_LONGEST = 100_000
#: Host time of a pixel that is put out, s: copied, scaled and rounded by one thread of NumPy (14 ms for 1024 x 1024 on
#: a server's core).
PIXEL_S = 1.4e-8


@dataclass(frozen=True, eq=False)
class Phase:
    """A graph that runs ``repeats`` times with ``items`` of its batch for each item of the question's."""

    name: str
    graph: TensorGraph
    repeats: float = 1.0
    items: float = 1.0
    sizes: Mapping[str, float] = field(default_factory=dict)
    devices: int = 1
    """Devices that work on it together, ``among`` of them exchanging with each other."""
    among: int = 1
    exchange_bytes: float = 0.0
    """What they gather of each other in a run, for each item of its batch, in so many ``exchanges``."""
    exchanges: int = 0
    collective: str = "all_gather"
    exposed: float = 1.0
    """Share of the runs that wait for exchanges; in others they run beside the kernels."""
    after_s: float = 0.0
    """Host time of an item after it, one item after another."""
    stepped: bool = False
    """Whether it runs at every step."""
    shared: SharedTokens | None = None
    """What devices exchange that share its tokens."""


@dataclass(frozen=True, slots=True)
class PipelinePhase:
    """One network of a pipeline."""

    __pydantic_config__ = {"extra": "forbid"}

    name: Annotated[str, "what answers call it: text, denoise, decode"]
    graph: Annotated[str, "a network or a kept graph of the catalogue"]
    each: Annotated[Literal["pass", "step", "tile"], "how often it runs"] = "pass"
    tokens: Annotated[int, Quantity("1", "tokens of a text; 0: the usual ones of its network", ge=0, le=100000)] = 0
    per: Annotated[float, Quantity("1", "tokens or frames of its network for one of the length asked for", ge=0)] = 0.0
    grown: Annotated[float, Quantity("1", "tokens more for each step: 0.5 of a cache that fills", ge=0)] = 0.0
    config: Annotated[Mapping[str, Any], "parameters of its family, where others than its network's"] = field(
        default_factory=dict
    )
    tile: Annotated[
        tuple[float, ...],
        "frames, height and width in pixels, or the length, that a tile puts out; none: all of them",
    ] = ()
    items: Annotated[float, Quantity("1", "of its batch for each item asked for; 2 under guidance", gt=0, le=64)] = 1.0
    unit: Annotated[float, Quantity("1", "pixels a row or column stands for; 0: it has none", ge=0, le=1024)] = 0.0
    frame: Annotated[float, Quantity("1", "frames of the video one of its frames stands for; 0: none", ge=0, le=64)] = (
        0.0
    )


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A published pipeline."""

    __pydantic_config__ = {"extra": "forbid"}

    name: str
    title: str
    phase: tuple[PipelinePhase, ...]
    source: str
    size: Annotated[tuple[int, ...], "usual height and width in pixels, or a length of what ``counts`` says"] = (
        1024,
        1024,
    )
    counts: Annotated[str, "what the length is of, as tokens of a text; none: it makes pictures"] = ""
    steps: Annotated[int, Quantity("1", "usual denoising steps, or tokens that are written", ge=1, le=10000)] = 50
    frames: Annotated[int, Quantity("1", "usual frames of a video; 0: images", ge=0, le=100000)] = 0
    aliases: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class _File:
    __pydantic_config__ = {"extra": "forbid"}

    pipeline: tuple[Pipeline, ...] = ()


@cache
def pipelines() -> Mapping[str, Pipeline]:
    """Every pipeline by name; the user's come first. Raises :class:`InputError` where a file is wrong."""
    found: dict[str, Pipeline] = {}
    for path in catalogue_files("pipelines"):
        for one in build_file(_File, path).pipeline:
            found.setdefault(one.name, one)
    return found


@cache
def _spellings() -> Mapping[str, str]:
    return {normalise(n): p.name for p in pipelines().values() for n in (*p.aliases, p.name)}


def is_pipeline(name: str) -> bool:
    """Whether a name is a pipeline's; ``net:`` stands before one that a served model has too."""
    return normalise(name.removeprefix(OWN)) in _spellings()


def find_pipeline(name: str) -> Pipeline:
    """The pipeline of this name or alias. Raises :class:`UnknownName`."""
    if not is_pipeline(name):
        raise UnknownName("pipeline", name, pipelines())
    return pipelines()[_spellings()[normalise(name.removeprefix(OWN))]]


def phases_of(
    name: str, *, size: str = "", steps: int | None = None, sets: Mapping[str, Any] | None = None
) -> tuple[Phase, ...]:
    """The phases of a pipeline for one size of picture.

    Args:
        name: of the pipeline.
        size: height and width in pixels, ``1024x1024``, or a length; default: the usual one.
        steps: denoising steps, or tokens that are written; default: the usual ones.
        sets: ``frames`` of a video.

    Raises:
        UnknownName: no such pipeline.
        InputError: a size or value is wrong.
    """
    one = find_pipeline(name)
    values = dict(sets or {})
    if steps is not None and not any(phase.each == "step" for phase in one.phase):
        raise InputError(f"{one.name} has no steps", field="steps")
    if one.counts:
        raise_all([Problem(f"set.{n}", f"{one.name} has no such size; it has --size and --steps") for n in values])
        return tuple(_phases_of_length(one, _length(size, one), steps or one.steps))
    height, width = _pixels(size, one)
    frames = _frames(values.pop("frames", one.frames), one)
    raise_all([Problem(f"set.{n}", f"{one.name} has no such size; it has frames, --size and --steps") for n in values])
    return tuple(_phases(one, height, width, frames, steps or one.steps))


def _phases(one: Pipeline, height: int, width: int, frames: int, steps: int) -> Iterator[Phase]:
    for phase in one.phase:
        graph = _network(phase.graph, phase.tokens)
        sizes: dict[str, float] = {}
        runs = {"pass": 1.0, "step": float(steps), "tile": 1.0}[phase.each]
        for side, tile in zip((frames, height, width), phase.tile, strict=False):
            runs *= max(1.0, side / tile)
        if phase.unit:
            sizes = {"rows": max(1, round(height / phase.unit)), "columns": max(1, round(width / phase.unit))}
        if phase.frame:
            sizes["frames"] = 1 + round((frames - 1) / phase.frame)
        items = phase.items
        if frames and phase.unit and not phase.frame and not phase.tile:  # a decoder of pictures takes frame by frame
            items *= frames
        after = PIXEL_S * height * width * max(1, frames) if phase.name == "decode" else 0.0
        yield Phase(phase.name, graph, runs, items, sizes, after_s=after, stepped=phase.each == "step")


def _phases_of_length(one: Pipeline, length: int, steps: int) -> Iterator[Phase]:
    """Phases of a pipeline over a sequence: ``tokens + per length + grown steps`` of each network's own."""
    for phase in one.phase:
        rows = round(phase.tokens + phase.per * length + phase.grown * steps)
        graph = load_net(phase.graph, size=max(1, rows), sets=phase.config)
        runs = {"pass": 1.0, "step": float(steps), "tile": 1.0}[phase.each]
        runs *= max(1, ceil(length / phase.tile[0])) if phase.tile else 1
        yield Phase(phase.name, graph, runs, phase.items)


def over_devices(phase: Phase, devices: int, ring: int = 1) -> Phase:
    """The phase with the tokens of each item shared by devices, ``ring`` of which pass keys and values around.

    A phase whose network has no open rows stays as it is: one device runs it.
    """
    if ROWS not in phase.sizes:
        return phase
    sizes = {**phase.sizes, ROWS: phase.sizes[ROWS] / devices, PATCHES: devices}
    exchanged = shared_tokens(phase.graph, sizes, devices // ring, ring)
    return replace(phase, graph=gathered(phase.graph), sizes=sizes, devices=devices, shared=exchanged)


def by_width(phase: Phase, devices: int) -> Phase:
    """The phase with its layers cut by their width over devices, which add up what pairs of layers put out."""
    if ROWS not in phase.sizes:
        return phase
    graph, summed = cut_by_width(phase.graph, devices)
    sizes = {**phase.sizes, SHARE: 1.0 / devices}
    given = {**graph.symbols, **sizes, "batch": 1}
    return replace(
        phase,
        graph=graph,
        sizes=sizes,
        devices=devices,
        among=devices,
        exchange_bytes=2.0 * sum(float(graph.elements(i, given)) for i in summed),
        exchanges=len(summed),
        collective="all_reduce",
    )


def _network(name: str, tokens: int) -> TensorGraph:
    """A network that a phase names. Raises :class:`InputError`."""
    return load_net(name, size=tokens or None) if is_net(name) else kept_net(name)


def _pixels(size: str, one: Pipeline) -> tuple[int, int]:
    if not size:
        return one.size[0], one.size[-1]
    parts = [p.strip() for p in str(size).lower().split("x")]
    if not 1 <= len(parts) <= 2 or not all(p.isdecimal() and 16 <= int(p) <= _MOST for p in parts):
        raise InputError(f"expected pixels of at least 16, such as 1024x768, got {show(size)}", field="size")
    return int(parts[0]), int(parts[-1])


def _length(size: str, one: Pipeline) -> int:
    given = str(size).strip() or str(one.size[0])
    if not given.isdecimal() or not 1 <= int(given) <= _LONGEST:
        raise InputError(
            f"expected a whole number of {one.counts}, up to {_LONGEST:,}, such as {one.size[0]}; got {show(size)}",
            field="size",
        )
    return int(given)


def _frames(value: Any, one: Pipeline) -> int:
    if not one.frames and value not in (0, "0"):
        raise InputError(f"{one.name} makes images, without frames", field="set.frames")
    if not str(value).isdecimal() or not int(value) <= _MOST:
        raise InputError(f"expected a whole number of frames, got {show(value)}", field="set.frames")
    return int(value)
