"""Number formats: how wide a number is stored, and what the machine really computes in."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Annotated

from steelyard.documents import build_file
from steelyard.errors import InputError, UnknownName, normalise, show
from steelyard.machine.component import Compute, Machine
from steelyard.units import Quantity

__all__ = [
    "Format",
    "FormatFile",
    "compute_with",
    "computes",
    "find_format",
    "formats",
    "widened",
    "widening",
    "widest",
]


@dataclass(frozen=True, slots=True)
class Format:
    """One number format."""

    __pydantic_config__ = {"extra": "forbid"}

    name: str
    bits: Annotated[float, Quantity("1", "bits per element, without shared scales", gt=0)]
    title: str = ""
    group: Annotated[float, Quantity("1", "elements that share one set of scales", ge=1)] = 1
    scale_bits: Annotated[float, Quantity("1", "bits of scales and zero points per group", ge=0)] = 0
    math: tuple[str, ...] = ()
    activations: Annotated[str, "default format of activations when weights have this one; empty = this one"] = ""
    aliases: tuple[str, ...] = ()
    gguf: bool = False
    whole: Annotated[bool, "embedding and output head are stored in it too"] = False
    guess: str = ""
    notes: str = ""

    @property
    def stored_bits(self) -> float:
        """Bits one element takes in memory: ``bits + scale_bits / group``."""
        return self.bits + self.scale_bits / self.group

    @property
    def base(self) -> str:
        """The name without stated bits: what kernels are known by."""
        return self.name.partition("@")[0]

    def stored_in(self, bits: float) -> Format:
        """This format with ``bits`` per element in memory, scales included (an average over tensors that differ)."""
        if abs(bits - self.stored_bits) < 0.0005 * bits:
            return self
        width = min(self.bits, bits)
        name = f"{self.base}@{bits:.4g}"
        return replace(self, name=name, bits=width, group=1, scale_bits=bits - width, aliases=(), notes="")


@dataclass(frozen=True, slots=True)
class FormatFile:
    """The content of a formats file."""

    __pydantic_config__ = {"extra": "forbid"}

    format: tuple[Format, ...] = field(default=())


@cache
def formats() -> Mapping[str, Format]:
    """Every known format by name."""
    path = Path(__file__).parent.parent / "catalogue" / "formats" / "formats.toml"
    return {f.name: f for f in build_file(FormatFile, path).format}


@cache
def find_format(name: str) -> Format:
    """The format called ``name``; aliases, case and dashes are forgiven.

    ``NAME@BITS`` is the format with so many bits per element in memory, scales included: ``int4@4.65``.

    Raises:
        UnknownName: with the nearest known formats.
        InputError: what follows the ``@`` is no number of bits.
    """
    base, at, stated = name.partition("@")
    known = formats()
    key = normalise(base)
    for entry in known.values():
        if key in (normalise(entry.name), *(normalise(a) for a in entry.aliases)):
            return entry.stored_in(_stated(stated)) if at else entry
    means = {n: f.name for f in known.values() for n in (f.name, *f.aliases)}
    raise UnknownName("format", base, means, hint="`steelyard ls formats` lists all", means=means)


def _stated(text: str) -> float:
    with suppress(ValueError):
        if 0.5 <= float(text) <= 64:
            return float(text)
    raise InputError(f"expected 0.5 to 64 bits per element after the @, got {show(text)}", field="format")


#: What an engine falls back to when it has none of a format's own: wider formats hold every narrower value.
_WIDER = ("fp8", "int8", "fp16", "bf16", "tf32", "fp32", "fp64")


def compute_with(machine: Machine, weights: Format, activations: Format, kind: str = "matrix") -> tuple[Compute, str]:
    """The engine and format in which a product of ``weights`` and ``activations`` is really computed.

    Both operands are brought to the wider of the two formats: 4-bit weights with 16-bit activations run 16-bit
    arithmetic after dequantisation. A format the machine lacks falls back to the next wider one it has.

    Args:
        machine: where it runs.
        weights: format of the weights (or of the second operand).
        activations: format of the activations.
        kind: preferred kind of engine, ``matrix`` or ``vector``.

    Raises:
        InputError: the machine computes in no format at least as wide.
    """
    wider = activations if activations.bits >= weights.bits else weights
    if weights.gguf or activations.gguf:
        wider = find_format("fp16")
    wanted = list(wider.math)
    least = wider.bits
    engines = machine.engines(kind) or machine.engines("matrix") or machine.engines("vector")
    engines = engines + tuple(c for c in machine.compute if c not in engines and c.kind != "scalar")
    for fmt in (*wanted, *(f for f in _WIDER if _width(f) >= least)):
        for engine in engines:
            if fmt in engine.peak:
                return engine, fmt
    have = sorted({f for c in machine.compute for f in c.peak})
    raise InputError(
        f"{machine.name} cannot compute in {wider.name} or anything wider; it has {', '.join(have)}", field="formats"
    )


def computes(machine: Machine, fmt: Format) -> bool:
    """Whether a machine multiplies numbers of this format without widening them; of 16 bits or more, always."""
    return fmt.bits >= 16 or fmt.gguf or any(name in engine.peak for engine in machine.compute for name in fmt.math)


def widened(machine: Machine, activations: Format) -> Format:
    """What activations are kept in where the machine has no arithmetic for their format: 16 bits, where it has that."""
    if computes(machine, activations):
        return activations
    have = {name for engine in machine.compute for name in engine.peak}
    named = next((name for name in ("bf16", "fp16") if name in have), "bf16" if have & {"tf32", "fp32"} else "")
    return find_format(named) if named else activations


def widening(machine: Machine, weights: Format, activations: Format) -> tuple[str, ...]:
    """Remarks on formats: weights narrower than the machine can multiply, though their format means it to; a guess."""
    if weights.guess:
        return (f"{weights.name}: {weights.guess}",)
    meant = find_format(weights.activations or weights.base)
    if meant.name == activations.name or computes(machine, meant) or meant.bits >= activations.bits:
        return ()
    _, computed = compute_with(machine, weights, activations)
    return (
        f"{machine.name} multiplies no {meant.base}: {weights.base} weights are widened, products run in {computed}",
    )


def widest(machine: Machine) -> tuple[Compute, str]:
    """The engine and format for elementwise work: fp32 on a vector engine, else the widest the machine has."""
    engines = machine.engines("vector") + machine.engines("scalar") + machine.engines("matrix")
    for fmt in ("fp32", "bf16", "fp16", "int8"):
        for engine in engines:
            if fmt in engine.peak:
                return engine, fmt
    engine = engines[0]
    return engine, next(iter(engine.peak))


def _width(fmt: str) -> float:
    return {"fp8": 8, "int8": 8, "fp16": 16, "bf16": 16, "tf32": 19, "fp32": 32, "fp64": 64}[fmt]
