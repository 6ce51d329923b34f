"""What runs a network that is not served: PyTorch eager or compiled, TensorRT, ONNX Runtime, a phone's or an NPU's own.

A runtime is data (``catalogue/runtimes/*.toml``): which ops it joins into one kernel, how it keeps numbers, what a
launch costs, and the share of the machine's limits that its kernels of a class reach.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Annotated, Literal

from steelyard.deployment.library import Library, Streaming
from steelyard.documents import build_file
from steelyard.errors import InputError, Problem, UnknownName, normalise, raise_all
from steelyard.folders import catalogue_files
from steelyard.machine.classes import kinds
from steelyard.machine.component import Machine
from steelyard.units import Quantity

__all__ = [
    "PRECISIONS",
    "TILE",
    "OwnReach",
    "Precision",
    "Reach",
    "Runtime",
    "check_runs",
    "check_trains",
    "find_runtime",
    "planned_in_groups",
    "precision_named",
    "runtimes",
    "usual_runtime",
]

#: Rows, columns and depth that products are filled up to on GPUs.
TILE: tuple[float, float, float] = (64.0, 64.0, 32.0)


#: Bits of a format of which products are; those that are not named here have 16.
_WIDTHS: Mapping[str, float] = {
    "fp32": 32.0,
    "tf32": 32.0,
    "int8": 8.0,
    "fp8": 8.0,
    "int4": 4.0,
    "int3": 3.0,
    "int2": 2.0,
    "binary": 1.0,
}


@dataclass(frozen=True, slots=True)
class Precision:
    """How numbers are kept and multiplied."""

    name: str
    weights: str
    activations: str
    cast: bool = False
    """Weights are kept in 32 bits and cast at every pass, as autocast does; normalisations and softmax stay wide."""

    between: float = 0.0
    """Width in bits of what lies between products; 0: that of activations."""

    kept: float = 0.0
    """Width in bits of a weight in memory; 0: that of its format."""

    @property
    def bits(self) -> float:
        """Width of an activation between two products."""
        return self.between or _WIDTHS.get(self.activations, 16.0)

    @property
    def stored_bits(self) -> float:
        """Width of a weight in memory."""
        return self.kept or (32.0 if self.cast else _WIDTHS.get(self.weights, 16.0))


PRECISIONS: Mapping[str, Precision] = {
    p.name: p
    for p in (
        Precision("fp32", "fp32", "fp32"),
        Precision("tf32", "tf32", "tf32"),
        Precision("fp16", "fp16", "fp16"),
        Precision("bf16", "bf16", "bf16"),
        Precision("amp", "fp16", "fp16", cast=True),
        Precision("amp-bf16", "bf16", "bf16", cast=True),
        Precision("int8", "int8", "int8"),
        Precision("int16", "int16", "int16"),
        Precision("w8a16", "int8", "fp16"),
        Precision("fp8", "fp8", "fp8"),
        Precision("w4a4", "int4", "int4"),
        Precision("w3a3", "int3", "int3"),
        Precision("w2a2", "int2", "int2"),
        Precision("w1a1", "binary", "binary"),
    )
}


def precision_named(name: str) -> Precision:
    """The precision of this name. Raises :class:`UnknownName`."""
    for known, one in PRECISIONS.items():
        if normalise(known) == normalise(name):
            return one
    raise UnknownName("precision", name, PRECISIONS)


@dataclass(frozen=True, slots=True)
class Reach:
    """How many times a kernel class takes what its limits allow, on machines of a kind of stack."""

    __pydantic_config__ = {"extra": "forbid"}

    stacks: Annotated[tuple[str, ...], "stacks of machines it was measured on (cuda, cpu, ...)"]
    times: Annotated[
        Mapping[str, Annotated[float, Quantity("1", "time over the limit, by class and term", ge=0)]],
        "such as conv.compute = 1.2, pointwise.traffic = 1.1",
    ]
    kernel_s: Annotated[float, Quantity("s", "of every kernel on the device, however small", ge=0)] = 0.0
    host_s: Annotated[
        float, Quantity("s", "host time of a kernel; a step takes the longer of host and device", ge=0)
    ] = 0.0
    step_s: Annotated[float, Quantity("s", "of every pass", ge=0)] = 0.0
    scale: Annotated[
        Mapping[str, tuple[float, float, float]],
        "of one machine: its arithmetic, traffic and times per kernel and pass, where its data sheet does not say them",
    ] = field(default_factory=dict)
    terms: Annotated[Literal["", "classes", "groups"], "what its factors are of; empty: as the runtime's"] = ""
    layout: Annotated[Literal["", "nchw", "nhwc"], "order of images it was measured with; empty = any"] = ""
    precisions: Annotated[tuple[str, ...], "precisions it was measured in; empty: any"] = ()
    train: Annotated[bool, "of training steps"] = False
    phased: Annotated[bool, "fitted to pipelines of phases alone: another network is as uncertain as a machine"] = False
    block: Annotated[float, Quantity("1", "channels of an image lie in memory in whole groups of so many", ge=1)] = 1.0
    machines: Annotated[tuple[str, ...], "machines or families it is of; empty: all of the stacks"] = ()
    measured: Annotated[tuple[str, ...], "machines whose times it was fitted to"] = ()
    spread: Annotated[float, Quantity("1", "factor within which 80 % of times lie, networks left out", ge=1)] = 1.5
    spread_elsewhere: Annotated[float, Quantity("1", "the same on a machine that was not measured", ge=1)] = 2.0
    source: str = ""


@dataclass(frozen=True, slots=True)
class Runtime:
    """One way to run networks."""

    __pydantic_config__ = {"extra": "forbid"}

    name: str
    title: str
    fuses: Annotated[
        Literal["nothing", "pointwise", "epilogue"],
        "what becomes one kernel: no two ops; chains of pointwise ops; those, and what follows a product with it",
    ]
    reach: tuple[Reach, ...] = field(default_factory=tuple)
    joins: Annotated[tuple[str, ...], "pointwise ops that can follow a product in its kernel; none: all"] = ()
    folds_norm: Annotated[bool, "batch normalisations become part of the product before them"] = False
    attention: Annotated[
        Literal["fused", "four", "parts"],
        "one kernel, or products and a softmax through memory; four: one kernel where operands have four axes",
    ] = "fused"
    tile: Annotated[tuple[float, float, float], "rows, columns and depth that products are filled up to"] = TILE
    layout: Annotated[Literal["nchw", "nhwc"], "usual order of images"] = "nchw"
    channels: Annotated[bool, "a convolution fills a tile's depth with channels of one point of its window"] = False
    precision: Annotated[str, "usual precision"] = "fp16"
    as_stored: Annotated[bool, "a file runs in its own element types, where no maker's compiler takes it over"] = False
    trains: Annotated[bool, "it runs steps of training too"] = False
    terms: Annotated[
        Literal["classes", "groups", "loops", "cycles", "stream"],
        "what its time is a sum of: kernel classes, groups where a compiler plans all, loops mapped onto an array, or "
        "cycles of the instructions of a core, or engines of an FPGA that work as a stream",
    ] = "classes"
    library: Annotated[Library | None, "its kernels for a core whose instructions are counted"] = None
    streaming: Annotated[Streaming | None, "how it makes engines of an FPGA"] = None
    keeps_network: Annotated[bool, "a network stays on chip where it fits, and is loaded in parts where not"] = False
    kernel_bytes: Annotated[
        float, Quantity("byte", "on-chip memory of a kernel beside its weights, of a network that stays", ge=0)
    ] = 0.0
    splits: Annotated[tuple[str, ...], "kernel classes that need a network to be loaded in parts"] = ()
    beside: Annotated[
        float, Quantity("1", "share of the peak of activations that allocators and workspaces hold beside it", ge=0)
    ] = 0.1
    indexed: Annotated[tuple[str, ...], "classes of products that reach fewer than 2^31 elements"] = ()
    elsewhere: Annotated[tuple[str, ...], "ops that it hands to the CPU (conv3d: a convolution over frames)"] = ()
    families: Annotated[tuple[str, ...], "families of machines whose usual runtime it is"] = ()
    stacks: Annotated[tuple[str, ...], "stacks of machines whose usual runtime it is, where a family has none"] = ()
    runs_on: Annotated[
        tuple[str, ...], "stacks and families of machines it runs on besides; none of the three: any"
    ] = ()
    aliases: tuple[str, ...] = ()
    source: str = ""

    def runs(self, machine: Machine) -> bool:
        """Whether it runs on a machine: its family is named, or its stack and it has an operating system."""
        if machine.family in (*self.families, *self.runs_on):
            return True
        hosted = kinds()[machine.kind].hosted
        named = (*self.stacks, *self.runs_on)
        return hosted and (machine.launch in named or not (self.families or named))

    def reach_on(
        self, machine: str, family: str, stack: str, layout: str, train: bool = False, precision: str = ""
    ) -> Reach | None:
        """What it reaches on a machine: measured there, on its family, on its stack with this layout, or on any."""

        def fit(one: Reach) -> tuple[bool, ...]:
            exact = precision in one.precisions
            own = (machine in one.machines, family in one.machines, stack in one.stacks)
            ways = (exact, not one.precisions, one.layout == layout, not one.layout)
            return (any(own[:2]), one.train == train, exact or not one.precisions, *own, *ways)

        able = [r for r in self.reach if not r.machines or machine in r.machines or family in r.machines]
        return max(able, key=fit, default=None)

    def __post_init__(self) -> None:
        raise_all(list(self._problems()))

    def _problems(self) -> Iterator[Problem]:
        if self.precision not in PRECISIONS:
            yield Problem("precision", UnknownName("precision", self.precision, PRECISIONS).message)
        if (self.terms == "cycles") != (self.library is not None):
            yield Problem("library", "expected the kernels of a library with terms = 'cycles', and only there")
        if (self.terms == "stream") != (self.streaming is not None):
            yield Problem("streaming", "expected how engines are made with terms = 'stream', and only there")


@dataclass(frozen=True, slots=True)
class _File:
    __pydantic_config__ = {"extra": "forbid"}

    runtime: tuple[Runtime, ...] = ()


@dataclass(frozen=True, slots=True)
class OwnReach:
    """What a runtime reaches on a machine, measured by a user: a file of a catalogue's folder ``reach``."""

    __pydantic_config__ = {"extra": "forbid"}

    runtime: str
    reach: Reach


@dataclass(frozen=True, slots=True)
class _ReachFile:
    __pydantic_config__ = {"extra": "forbid"}

    reach: tuple[OwnReach, ...] = ()


@cache
def runtimes() -> Mapping[str, Runtime]:
    """Every runtime by name; the user's come first. Raises :class:`InputError` where a file is wrong."""
    found: dict[str, Runtime] = {}
    for path in catalogue_files("runtimes"):
        for one in build_file(_File, path).runtime:
            found.setdefault(one.name, one)
    for path in reversed(list(catalogue_files("reach"))):
        for own in build_file(_ReachFile, path).reach:
            if own.runtime in found:
                known = found[own.runtime]
                found[own.runtime] = replace(known, reach=(own.reach, *known.reach))
    return found


def find_runtime(name: str) -> Runtime:
    """The runtime of this name. Raises :class:`UnknownName`."""
    wanted = normalise(name)
    for one in runtimes().values():
        if wanted in {normalise(n) for n in (one.name, *one.aliases)}:
            return one
    raise UnknownName("runtime", name, runtimes(), hint="`steelyard ls runtimes` lists all")


def check_runs(runtime: Runtime, machine: Machine) -> None:
    """Raises :class:`InputError` where a runtime does not run on a machine, with those that do."""
    if runtime.runs(machine):
        return
    usual = usual_runtime(machine).name
    others = ", ".join(r.name for r in runtimes().values() if r.runs(machine) and r.name != usual)
    there = f"{usual}{f' (usual), {others}' if others else ''}"
    raise InputError(f"{runtime.name} does not run on {machine.name}, which runs {there}", field="runtime")


def check_trains(runtime: Runtime, machine: Machine) -> None:
    """Raises :class:`InputError` where a runtime runs no steps of training, with those that do there."""
    if runtime.trains:
        return
    able = ", ".join(r.name for r in runtimes().values() if r.trains and r.runs(machine))
    there = f"on {machine.name} {able} do"
    if not able:
        there = f"nothing that runs on {machine.name} does: it has forward kernels alone"
    raise InputError(f"{runtime.name} runs no steps of training; {there}", field="train")


def planned_in_groups(runtime: Runtime, reach: Reach) -> bool:
    """Whether the factors are of groups of work, as of compilers that plan a whole network."""
    return bool(reach.times) and (reach.terms or runtime.terms) == "groups"


def usual_runtime(machine: Machine, onnx: bool = False) -> Runtime:
    """What people usually run a network with on a machine; ``onnx``: one that is in a file."""
    every = runtimes().values()
    made_for = next((r for r in every if machine.family in r.families), None)
    if onnx:
        exchanged = find_runtime("onnxruntime")
        known = made_for is None or any(machine.family in reach.machines for reach in exchanged.reach)
        if known and exchanged.runs(machine):
            return exchanged
    return made_for or next((r for r in every if machine.launch in r.stacks), None) or find_runtime("eager")
