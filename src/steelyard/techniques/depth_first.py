"""Layers run depth first on an array, tile by tile through several of them, so that maps between them stay on chip.

The memory that holds inputs and outputs, or the one on chip that ``buffer`` gives the size of, keeps of every map what
the windows of the next tile need again (:mod:`steelyard.cost.array_fused`): a window of ``k`` rows at step ``s`` leaves
``k - s`` rows. Outside move the first input, the last output and the weights, these once a tile where they have no room
beside the lines. Stacks are chosen for the fewest bytes outside and taken where they are better by what the compiler
maps for.

Papers: M. Alwani et al., Fused-layer CNN accelerators, MICRO 2016, whose 362 kB for the first five convolutions of
VGGNet-E and 3.6 MB an image come out (tests/unit/test_array_fused.py). Valid for convolutions, pools and pointwise ops.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

from steelyard.cost.array_unroll import MAPPED
from steelyard.errors import InputError, Problem
from steelyard.machine.component import Machine
from steelyard.techniques._base import Citation
from steelyard.techniques.network_passes import NetTechnique
from steelyard.techniques.refusals import refused_by
from steelyard.units import Quantity

__all__ = ["DepthFirst"]


@dataclass(frozen=True)
class DepthFirst(NetTechnique):
    """See the module's text."""

    name: ClassVar[str] = "depth-first"
    layer: ClassVar[str] = "device"
    paper: ClassVar[Citation] = Citation("Fused-layer CNN accelerators", "doi:10.1109/MICRO.2016.7783725")
    effect: ClassVar[str] = "layers run tile by tile through several on an array: maps between them stay on chip"
    costs: ClassVar[str] = "lines of every map on chip; weights come again for each tile where they have no room"
    first: ClassVar[str] = "buffer_bytes"
    keys: ClassVar[dict[str, str]] = {"buffer": "buffer_bytes"}

    buffer_bytes: Annotated[
        float, Quantity("B", "of the memory on chip that holds lines and tiles; 0: as it is", ge=0, le=1e15)
    ] = 0.0

    def network_problems(self, scenario: Any) -> list[Problem]:
        """See :class:`OnNetworks`: the machine has no array with a memory of inputs and outputs on chip."""
        return refused_by(self.name, lambda: self.fusing(scenario.cluster.machine))

    def network(self, scenario: Any) -> Any:
        """See :class:`OnNetworks`."""
        return replace(scenario, cluster=replace(scenario.cluster, machine=self.fusing(scenario.cluster.machine)))

    def fusing(self, machine: Machine) -> Machine:
        """The chip whose layers may run depth first. Raises :class:`InputError`: it cannot."""
        engine = next((c for c in machine.compute if c.dataflow in MAPPED and c.rows and c.columns), None)
        path = machine.path(engine)[:-1] if engine is not None else ()
        level = next((m for m in reversed(path) if not m.holds or {"inputs", "outputs"} <= set(m.holds)), None)
        if level is None:
            words = (
                f"{machine.name} has no array with a memory of inputs and outputs on chip, as tpu_v1 and eyeriss have"
            )
            raise InputError(words, field=self.name)
        other = replace(level, fuses=True)
        if self.buffer_bytes:
            area = level.area_m2 * self.buffer_bytes / level.capacity_bytes
            other = replace(other, capacity_bytes=self.buffer_bytes, area_m2=area)
        return machine.but(memory=tuple(other if m.name == level.name else m for m in machine.memory), file="")
