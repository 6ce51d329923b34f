"""What runs networks where no system does: a library of kernels of a core, a maker of engines of an FPGA.

They are data of a runtime (``[runtime.library]`` and ``streaming`` of ``catalogue/runtimes``). Counts are those of the
library's source: loads, stores, multiply-accumulates, shuffles of bytes, additions and branches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from steelyard.units import Quantity

__all__ = ["Library", "Loop", "Streaming"]


@dataclass(frozen=True, slots=True)
class Loop:
    """A kernel: instructions of its loops, and the buffers it needs."""

    __pydantic_config__ = {"extra": "forbid"}

    of: Annotated[tuple[str, ...], "kernel classes it is; empty: all that no earlier loop is"] = ()
    windows: Annotated[tuple[int, ...], "sides of windows it is for; empty: any"] = ()
    outputs: Annotated[float, Quantity("1", "outputs of a pixel in a turn of its inner loop", ge=1)] = 1.0
    pixels: Annotated[float, Quantity("1", "pixels, or rows, in a turn", ge=1)] = 1.0
    depth: Annotated[float, Quantity("1", "products that are added in a turn", ge=1)] = 1.0
    by_point: Annotated[bool, "products of a turn are of one point of the window"] = False
    paired: Annotated[bool, "its loads and sums depend on no other: a core that issues two takes them in pairs"] = False
    turn: Annotated[float, Quantity("1", "instructions of a turn", ge=0)] = 0.0
    gathered: Annotated[float, Quantity("1", "instructions of an element that is copied before (im2col)", ge=0)] = 0.0
    output: Annotated[float, Quantity("1", "instructions of an output: rescaled, clamped, stored", ge=0)] = 0.0
    input: Annotated[float, Quantity("1", "instructions of an input", ge=0)] = 0.0
    weight: Annotated[float, Quantity("1", "instructions of a weight once a pass, as sums of offsets", ge=0)] = 0.0
    column_bytes: Annotated[float, Quantity("B", "buffer of an element that a pixel's outputs need", ge=0)] = 0.0
    plane_bytes: Annotated[float, Quantity("B", "buffer of an element of one channel with its border", ge=0)] = 0.0
    weight_bytes: Annotated[float, Quantity("B", "buffer of a weight that is copied to SRAM", ge=0)] = 0.0


@dataclass(frozen=True, slots=True)
class Library:
    """Its kernels, the first that fits being taken, and how it lays out memory."""

    __pydantic_config__ = {"extra": "forbid"}

    loops: Annotated[tuple[Loop, ...], "its kernels"]
    slower: Annotated[float, Quantity("1", "times the cycles of what is counted, as an older release", gt=0)] = 1.0
    planner: Annotated[
        Literal["live", "greedy"], "places of tensors: as many bytes as live at once, or by size, the largest first"
    ] = "live"
    depthwise_in_place: Annotated[bool, "a depthwise convolution writes over its input"] = False
    buffers_beside: Annotated[bool, "buffers of kernels have memory of their own, beside that of tensors"] = False
    pad: Annotated[
        float, Quantity("1", "instructions of an element of a map with its border, made by an op; 0: no such op", ge=0)
    ] = 0.0
    arena_channel_bytes: Annotated[float, Quantity("B", "kept in SRAM for each output channel", ge=0)] = 0.0
    arena_node_bytes: Annotated[float, Quantity("B", "kept in SRAM for each op", ge=0)] = 0.0
    arena_bytes: Annotated[float, Quantity("B", "kept in SRAM whatever runs", ge=0)] = 0.0
    channel_bytes: Annotated[float, Quantity("B", "stored for each output channel: bias, multiplier", ge=0)] = 0.0
    node_bytes: Annotated[float, Quantity("B", "stored for each op that is no part of another", ge=0)] = 0.0
    code_bytes: Annotated[float, Quantity("B", "code of library and program", ge=0)] = 0.0


@dataclass(frozen=True, slots=True)
class Streaming:
    """How an engine is made for every layer of a network on an FPGA."""

    __pydantic_config__ = {"extra": "forbid"}

    reuse: Annotated[
        bool, "a multiplier's share is one number: all outputs at once, or one product of each output at a time"
    ] = False
    logic_bits: Annotated[
        float, Quantity("1", "bits of a weight up to which products are made of look-up tables", ge=0)
    ] = 4.0
    fill: Annotated[float, Quantity("1", "cycles of a pixel through an engine beside its adders", ge=0)] = 0.0
    levels: Annotated[float, Quantity("1", "levels of adders in a cycle; 0: not counted", ge=0)] = 0.0
    reads: Annotated[bool, "a pixel of the input that makes no output takes a cycle too"] = False
    word: Annotated[
        float,
        Quantity("1", "cycles of an element of inputs and outputs, where a board's processor starts passes", ge=0),
    ] = 0.0
