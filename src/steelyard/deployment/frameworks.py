"""What trains a model: Megatron-core, FSDP, torchtitan, DeepSpeed, MaxText, Transformers, by version.

A framework is data (``catalogue/frameworks/*.toml``): which attention kernel it runs, how much of its communication is
left uncovered by work, what its host needs for a layer, what memory it holds beside the tensors of the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Annotated, Any, Literal

import numpy as np

from steelyard.documents import build, build_file
from steelyard.errors import InputError, Problem, UnknownName, normalise
from steelyard.folders import catalogue_files
from steelyard.interval import Z80, quantile
from steelyard.units import Quantity, parse_quantity

__all__ = ["Framework", "find_framework", "frameworks", "restated_facts"]

Share = Annotated[float, Quantity("1", "share from 0 to 1", ge=0, le=1)]


@dataclass(frozen=True, slots=True)
class Framework:
    """One framework of one time, and what it does by itself."""

    __pydantic_config__ = {"extra": "forbid"}

    name: str
    title: str
    version: str = ""
    released: str = ""
    aliases: tuple[str, ...] = ()
    source: str = ""
    attention: Annotated[str, "its attention kernel: flash, cudnn, triton, unfused, naive"] = "flash"
    sequence_parallel: Annotated[bool, "what tensor parallelism does not split is split along tokens"] = True
    zero: Annotated[int, Quantity("1", "stage of ZeRO it uses when none is said; 3 = FSDP", ge=0, le=3)] = 1
    zeros: Annotated[tuple[int, ...], "stages of ZeRO that its plans may have; empty: the one it uses"] = ()
    zero_alone: Annotated[bool, "of ZeRO 2 and 3: without pipeline stages"] = False
    zero_beside_tp: Annotated[int, Quantity("1", "stage of ZeRO it has beside tensor parallelism", ge=0, le=3)] = 3
    zero_doubt: Annotated[
        float, Quantity("1", "steps of ZeRO 2 and 3 as measured over as answered: chosen where faster by more", ge=1)
    ] = 1.0
    context: Annotated[
        tuple[str, ...],
        "how its context-parallel ranks share attention: ring, heads (Ulysses), mixed; the first is usual",
    ] = ("ring",)
    offloads: Annotated[tuple[str, ...], "what its plans may move to the host's memory, as --offload reads it"] = ()
    degrees: Annotated[
        tuple[Literal["tp", "pp", "ep"], ...],
        "degrees that its usual launcher has: others are not tried where nothing is said",
    ] = ("tp", "pp", "ep")
    recompute: Annotated[str, "what it computes again when nothing is said"] = "none"
    recomputes: Annotated[
        tuple[str, ...], "what its plans may compute again: modules, layers (so many of each chunk), full"
    ] = ("full",)
    reshard: Annotated[bool, "of ZeRO 3: gathers parameters again for the backward pass"] = True
    narrow_weights: Annotated[bool, "weights of products in 8 bits are kept in that format alone"] = False
    adapted: Annotated[Literal["all", "attention", "qkv"], "products with adapters: all, attention, or qkv"] = "all"
    dropout: Annotated[bool, "drops values of what a block adds: a mask of a byte each waits"] = False
    stage_whole: Annotated[
        bool, "of ZeRO 2 and 3 under a pipeline: a stage keeps parameters and gradients whole between micro-batches"
    ] = False
    products_share: Annotated[
        Mapping[str, Annotated[float, Quantity("1", "of today's rate", gt=0)]],
        "rate of products that the libraries of its time reach, by family of machines, of today's",
    ] = field(default_factory=dict)
    elementwise_passes: Annotated[
        float, Quantity("1", "traffic of elementwise work over that of fused kernels", ge=0)
    ] = 1.0
    routed_passes: Annotated[float, Quantity("1", "the same of rows routed to experts", ge=0)] = 1.0
    scan_times: Annotated[float, Quantity("1", "time of scans and convolutions over an engine's kernels", ge=0)] = 1.0
    loss_bytes: Annotated[float, Quantity("byte", "traffic of the loss per logit, forward and backward", ge=0)] = 18.0
    logit_bytes: Annotated[float, Quantity("byte", "held of a logit at the peak", ge=0)] = 6.0
    fused_loss: Annotated[bool, "offers head and loss in one kernel over parts of the tokens: --loss fused"] = False
    tp_exposed: Annotated[
        float,
        Quantity("1", "time of tensor-parallel traffic that no work covers, of what links alone take", ge=0, le=3),
    ] = 1.0
    cp_exposed: Share = 0.3
    cp_attention: Annotated[float, Quantity("1", "time of attention cut in a ring over its share", ge=1)] = 1.0
    ep_exposed: Annotated[float, Quantity("1", "the same of the exchange of experts' tokens", ge=0, le=3)] = 1.0
    dp_exposed: Share = 0.3
    """Of what goes over data-parallel ranks at the end of a step."""
    host_s: Annotated[float, Quantity("s", "host time of a layer's forward pass, dense", ge=0)] = 0.0
    host_moe_s: Annotated[float, Quantity("s", "the same of a layer with experts", ge=0)] = 0.0
    graph_host_s: Annotated[float, Quantity("s", "the same where layers are captured graphs", ge=0)] = 0.0
    step_host_s: Annotated[
        float, Quantity("s", "host time between two steps: the batch, the update's launches, what is logged", ge=0)
    ] = 0.0
    graph: Annotated[bool, "layers are captured graphs"] = False
    dispatcher: Annotated[Literal["alltoall", "deepep", "hybridep", "allgather"], "how tokens reach experts"] = (
        "alltoall"
    )
    gradient_bits: Annotated[float, Quantity("1", "width of accumulated gradients", ge=8, le=32)] = 32.0
    reserved_frac: Annotated[float, Quantity("1", "memory an allocator holds over what is allocated", ge=1)] = 1.0
    context_bytes: Annotated[float, Quantity("byte", "driver and libraries, outside the allocator", ge=0)] = 0.6e9
    communicator_bytes: Annotated[
        float, Quantity("byte", "of communicators between several devices, outside the allocator", ge=0)
    ] = 1.4e9
    buffer_bytes: Annotated[float, Quantity("byte", "workspaces inside the allocator", ge=0)] = 0.5e9
    spread: Annotated[float, Quantity("1", "factor within which 80 % of step times lie", ge=1)] = 1.3
    memory_spread: Annotated[float, Quantity("1", "the same of memory", ge=1)] = 1.15
    guess: tuple[str, ...] = ()
    """Facts that nobody published."""

    @property
    def called(self) -> str:
        """Its name with the version."""
        return f"{self.title} {self.version}".strip()

    def memory_margin(self, chance: float) -> float:
        """Memory to be had over what is predicted, so that it is enough with a chance.

        ``memory_spread ^ (z(chance) / 1.2816)``, 1 up to a chance of a half; no unit.
        """
        return float(self.memory_spread ** (quantile(chance) / Z80))

    def outside_bytes(self, devices: Any) -> Any:
        """Of a device's memory, what driver, libraries and, between several devices, communicators take."""
        return self.context_bytes + self.communicator_bytes * (np.asarray(devices) > 1)

    def usual_zero(self, tp: int) -> int:
        """The stage of ZeRO it uses when none is said."""
        return min(self.zero, self.zero_beside_tp) if tp > 1 else self.zero

    def lacks(self, degrees: Mapping[str, int]) -> tuple[str, ...]:
        """Of degrees above 1 those that it does not have."""
        has = {*self.degrees, *(("cp",) if self.context else ())}
        return tuple(name for name, degree in degrees.items() if degree > 1 and name not in has)


@dataclass(frozen=True, slots=True)
class _File:
    __pydantic_config__ = {"extra": "forbid"}

    framework: tuple[Framework, ...] = field(default_factory=tuple)


@cache
def frameworks() -> Mapping[str, Framework]:
    """Every framework by name; the user's come first. Raises :class:`InputError` where a file is wrong."""
    found: dict[str, Framework] = {}
    for path in catalogue_files("frameworks"):
        for one in build_file(_File, path).framework:
            found.setdefault(one.name, one)
    return found


def find_framework(name: str) -> Framework:
    """The framework of this name. Raises :class:`UnknownName`."""
    wanted = normalise(name)
    for one in frameworks().values():
        if wanted in {normalise(n) for n in (one.name, *one.aliases)}:
            return one
    raise UnknownName("framework", name, frameworks(), hint="`steelyard ls frameworks` lists all")


#: Fields of a framework that describe it rather than what it does.
_TITLES = frozenset(
    {
        "name",
        "title",
        "version",
        "released",
        "aliases",
        "source",
        "guess",
        "recomputes",
        "zeros",
        "context",
        "offloads",
        "degrees",
    }
)


def restated_facts(framework: Framework, stated: Mapping[str, Any]) -> Framework:
    """The framework with facts that a user states, ``{"graph": "true", "attention": "cudnn"}``.

    Raises:
        InputError: no such fact, or no value of its type.
    """
    known = {f.name: getattr(framework, f.name) for f in fields(Framework) if f.name not in _TITLES}
    changed: dict[str, Any] = {}
    for name, text in stated.items():
        key = name.replace("-", "_")
        if key not in known:
            hint = "known: " + ", ".join(known)
            raise InputError(UnknownName("fact of a framework", name, known, hint=hint).message, field="set")
        changed[key] = _value(key, str(text), known[key])
    left = tuple(name for name in framework.guess if name not in changed)
    made = replace(framework, **changed, guess=left)
    plain = {f.name: getattr(made, f.name) for f in fields(Framework)}
    try:
        return build(Framework, plain)
    except InputError as error:
        told = [Problem(f"set.{p.field}", p.message) for p in error.problems]
        raise InputError(told[0].message, field=told[0].field, problems=told) from None


def _value(name: str, text: str, like: Any) -> Any:
    if isinstance(like, bool):
        if text.lower() in ("true", "yes", "on", "1"):
            return True
        if text.lower() in ("false", "no", "off", "0"):
            return False
        raise InputError(f"expected true or false, got {text!r}", field=f"set.{name}")
    if isinstance(like, float | int):
        unit = (
            "s"
            if name.endswith("_s")
            else "B"
            if name in ("context_bytes", "communicator_bytes", "buffer_bytes")
            else "1"
        )
        value = parse_quantity(text, unit, f"set.{name}") if unit != "1" else _number(name, text)
        return int(value) if isinstance(like, int) else float(value)
    return text


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"expected a number, got {text!r}", field=f"set.{name}") from None
