"""Another array in the same chip: its shape, its dataflow, its clock, the buffer above it and the memory outside.

Of the first matrix engine that has rows, columns and a dataflow (:mod:`steelyard.cost.array_mapping`). Peaks follow
``rows columns clock``; levels with a copy for each multiplier grow with their number, and their bytes a second with the
clock. ``buffer`` is the outermost memory on chip. Energy and area of what a machine file does not state follow from
``nm`` (docs/methods/chips.md). Loops of every layer are mapped anew.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, cast

from steelyard.cost.array_unroll import MAPPED
from steelyard.errors import InputError, Problem, UnknownName
from steelyard.machine.component import Machine, Memory
from steelyard.techniques._base import Citation
from steelyard.techniques.network_passes import NetTechnique
from steelyard.techniques.refusals import refused_by
from steelyard.units import Quantity

__all__ = ["ChipArray"]


@dataclass(frozen=True)
class ChipArray(NetTechnique):
    """See the module's text; what is not given stays."""

    name: ClassVar[str] = "chip-array"
    layer: ClassVar[str] = "device"
    paper: ClassVar[Citation] = Citation(
        "Timeloop: a systematic approach to DNN accelerator evaluation", "doi:10.1109/ISPASS.2019.00042"
    )
    effect: ClassVar[str] = "the chip has an array of another shape, dataflow or clock, another buffer or memory"
    first: ClassVar[str] = "flow"
    keys: ClassVar[dict[str, str]] = {"clock": "clock_hz", "buffer": "buffer_bytes", "memory": "memory_bytes_per_s"}

    flow: Annotated[str, "weight_stationary, output_stationary, row_stationary or flexible; empty: as it is"] = ""
    rows: Annotated[int, Quantity("1", "of multipliers; 0: as it is", ge=0, le=65536)] = 0
    columns: Annotated[int, Quantity("1", "of multipliers; 0: as it is", ge=0, le=65536)] = 0
    clock_hz: Annotated[float, Quantity("Hz", "of the array; 0: as it is", ge=0, le=1e12)] = 0.0
    buffer_bytes: Annotated[float, Quantity("B", "of the outermost memory on chip; 0: as it is", ge=0, le=1e15)] = 0.0
    memory_bytes_per_s: Annotated[float, Quantity("B/s", "of the memory outside; 0: as it is", ge=0, le=1e16)] = 0.0

    keeps: Annotated[bool, "what a layer puts out stays in that memory for the next where it fits"] = False

    def problems(self) -> list[Problem]:
        """Nothing is changed, or an unknown dataflow."""
        if self.flow and self.flow not in MAPPED:
            return [Problem(self.name, UnknownName("dataflow", self.flow, MAPPED).message)]
        given = (
            self.flow,
            self.rows,
            self.columns,
            self.clock_hz,
            self.buffer_bytes,
            self.memory_bytes_per_s,
            self.keeps,
        )
        fields = "flow, rows, columns, clock, buffer, memory or keeps"
        return [] if any(given) else [Problem(self.name, f"nothing is changed: give {fields}")]

    def network_problems(self, scenario: Any) -> list[Problem]:
        """See :class:`OnNetworks`: the machine has no array."""
        return refused_by(self.name, lambda: self.array(scenario.cluster.machine))

    def network(self, scenario: Any) -> Any:
        """See :class:`OnNetworks`."""
        machine = self.array(scenario.cluster.machine)
        return replace(scenario, cluster=replace(scenario.cluster, machine=machine))

    def array(self, machine: Machine) -> Machine:
        """The chip with another array. Raises :class:`InputError`: it has none."""
        engine = next((c for c in machine.compute if c.dataflow and c.rows and c.columns and c.clock_hz), None)
        if engine is None:
            raise InputError(f"{machine.name} has no array with rows, columns, dataflow and clock", field=self.name)
        other = replace(
            engine,
            dataflow=cast(Any, self.flow) or engine.dataflow,
            rows=self.rows or engine.rows,
            columns=self.columns or engine.columns,
            clock_hz=self.clock_hz or engine.clock_hz,
        )
        much = other.multipliers / engine.multipliers
        rate = much * other.clock_hz / engine.clock_hz
        other = replace(other, peak={f: p * rate for f, p in engine.peak.items()}, area_m2=engine.area_m2 * much)
        path = machine.path(engine)
        buffer = path[-2].name if len(path) > 1 else ""

        def changed(level: Memory) -> Memory:
            if level.name == machine.root.name and self.memory_bytes_per_s:
                return replace(level, bandwidth_bytes_per_s=self.memory_bytes_per_s)
            if level.network and level.nodes == engine.multipliers:
                level = replace(level, nodes=other.multipliers)
            if level.copies > 1 and level.copies == engine.multipliers:
                level = replace(
                    level,
                    copies=level.copies * much,
                    capacity_bytes=level.capacity_bytes * much,
                    bandwidth_bytes_per_s=level.bandwidth_bytes_per_s * rate,
                    write_bandwidth_bytes_per_s=level.write_bandwidth_bytes_per_s * rate,
                    area_m2=level.area_m2 * much,
                )
            if level.name == buffer and self.buffer_bytes:
                area = level.area_m2 * self.buffer_bytes / level.capacity_bytes
                level = replace(level, capacity_bytes=self.buffer_bytes, area_m2=area)
            if level.name == buffer and self.keeps:
                level = replace(level, keeps=True)
            return level

        compute = tuple(other if c.name == engine.name else c for c in machine.compute)
        return machine.but(compute=compute, memory=tuple(changed(m) for m in machine.memory), file="")
