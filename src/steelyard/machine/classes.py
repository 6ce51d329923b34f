"""Classes of machines as data: kinds, software stacks and architecture families (``catalogue/classes/*.toml``).

No code tests for a vendor or a family by name: it asks what follows from the class, so that a new one is a table in
somebody's catalogue.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import Annotated, Literal, TypeVar

from steelyard.documents import build_file
from steelyard.folders import catalogue_files
from steelyard.units import Quantity

__all__ = ["Core", "Family", "Kind", "Stack", "cores", "families", "family_named", "kinds", "stack_named", "stacks"]

_STRICT = {"extra": "forbid"}

#: Grouped products of experts where a family names none: Triton; for 4-bit floats the kernels made for them.
EXPERT_KERNELS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"": ("triton",), "w4a16_mxfp4": ("mxfp4_triton", "marlin")}
)


@dataclass(frozen=True, slots=True)
class Kind:
    """What a machine is."""

    __pydantic_config__ = _STRICT

    name: str
    title: str = ""
    units_counted: Annotated[bool, "its units are like an SM or a core; otherwise fewer and larger ones"] = False
    clocked: Annotated[bool, "draws a share of its rated power whatever runs; otherwise only what its actions take"] = (
        True
    )
    operand_energy: Annotated[
        float,
        Quantity("1", "energy of an operation with its operands' way to the matrix engine, over its own", ge=1),
    ] = 1.0
    engine: Annotated[str, "the serving engine people usually run there; empty = vLLM"] = ""
    serves: Annotated[bool, "a plan on any machine takes those of it that a price is known for"] = False
    hosted: Annotated[bool, "has an operating system; otherwise only what is made for its family runs there"] = True


@dataclass(frozen=True, slots=True)
class Stack:
    """How work reaches a device: CUDA, HIP, Metal, ..."""

    __pydantic_config__ = _STRICT

    name: str
    launch_s: Annotated[float, Quantity("s", "host time to launch a kernel without a captured graph", ge=0)] = 0.0
    sustained_frac: Annotated[
        float, Quantity("1", "of a kernel benchmark's matrix rate that a running model sustains", gt=0, le=1)
    ] = 1.0
    streams: Annotated[bool, "operators of a whole graph may follow each other on chip"] = False
    engine_kernels: Annotated[bool, "serving engines bring their own attention and all-reduce kernels"] = False
    indexed_products: Annotated[
        bool, "experts that few rows meet are dense products with an index of the expert before the row"
    ] = False
    expert_exchange: Annotated[bool, "routed tokens are exchanged by DeepEP over switched links"] = False
    engine: Annotated[str, "the serving engine people usually run there; empty = by kind"] = ""


@dataclass(frozen=True, slots=True)
class Family:
    """An architecture."""

    __pydantic_config__ = _STRICT

    name: str
    copy_engine: Annotated[Literal["async", "mma_sync", "other"], "how its matrix engines are fed"] = "other"
    unit_ops_per_clock: Annotated[
        float,
        "dense 16-bit operations a unit's matrix engine does in a clock in the family's fastest part; 0 = not known",
    ] = 0.0
    any_layout: Annotated[
        bool, "multiplies operands of 8 bits however they lie; otherwise training keeps weights transposed as well"
    ] = False
    above_rated: Annotated[
        float, Quantity("1", "clock of boards whose matrix peak is capped, over the rated boost clock", ge=1)
    ] = 1.0
    expert_kernels: Annotated[
        Mapping[str, tuple[str, ...]], "grouped products tried first, by format of the calibration sections"
    ] = field(default_factory=lambda: EXPERT_KERNELS)
    expert_formats: Annotated[
        Mapping[str, str], "formats of experts that run the kernels of another format, by the calibration sections"
    ] = field(default_factory=dict)
    expert_exchange: Annotated[
        Literal["", "blackwell"], "parameters of the exchange of routed tokens; empty = the first measured"
    ] = ""
    all_reduce_since: Annotated[
        str, "year and month from which engines' releases bring their all-reduce kernels, where the stack says none do"
    ] = ""
    engine: Annotated[str, "the serving engine people usually run there; empty = by stack and kind"] = ""


@dataclass(frozen=True, slots=True)
class Core:
    """A processor core whose time is that of the instructions it is given."""

    __pydantic_config__ = _STRICT

    name: str
    title: str = ""
    cycles_per_instruction: Annotated[
        float, Quantity("1", "mean of inner loops of products, with waits for memory", gt=0, le=100)
    ] = 1.0
    cycles_per_paired: Annotated[
        float, Quantity("1", "of loops whose loads and sums depend on no other; 0: the same", ge=0, le=100)
    ] = 0.0
    source: str = ""


@dataclass(frozen=True, slots=True)
class _ClassFile:
    __pydantic_config__ = _STRICT

    kind: tuple[Kind, ...] = ()
    stack: tuple[Stack, ...] = ()
    family: tuple[Family, ...] = ()
    core: tuple[Core, ...] = ()


_Class = TypeVar("_Class", Kind, Stack, Family, Core)


@cache
def _files() -> tuple[_ClassFile, ...]:
    return tuple(build_file(_ClassFile, path) for path in catalogue_files("classes"))


def _by_name(found: tuple[_Class, ...]) -> Mapping[str, _Class]:
    """By name; of two of one name the one of the catalogue that is searched first."""
    return {c.name: c for c in reversed(found)}


@cache
def kinds() -> Mapping[str, Kind]:
    """Every kind of machine."""
    return _by_name(tuple(k for file in _files() for k in file.kind))


@cache
def stacks() -> Mapping[str, Stack]:
    """Every software stack."""
    return _by_name(tuple(s for file in _files() for s in file.stack))


@cache
def cores() -> Mapping[str, Core]:
    """Every processor core whose instructions are counted."""
    return _by_name(tuple(c for file in _files() for c in file.core))


@cache
def families() -> Mapping[str, Family]:
    """Every family with facts of its own."""
    return _by_name(tuple(f for file in _files() for f in file.family))


@cache
def stack_named(name: str) -> Stack:
    """The stack of that name; one that is in no catalogue has the defaults."""
    return stacks().get(name) or Stack(name)


@cache
def family_named(name: str) -> Family:
    """The family of that name; one that is in no catalogue has the defaults."""
    return families().get(name) or Family(name)
