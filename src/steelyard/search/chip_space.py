"""A space of chips: a machine file, fields of it with the values to try, and fields that only some values have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any, get_args

import numpy as np
from numpy.typing import NDArray

from steelyard.choices import LARGEST, Choices, When, flattened, read_choices
from steelyard.cost.array_unroll import MAPPED
from steelyard.cost.net_effect import Density
from steelyard.deployment.runtime import precision_named
from steelyard.documents import build, parse_document, read_text
from steelyard.errors import InputError, Problem, UnknownName, raise_all, show
from steelyard.machine.catalogue import find_machine
from steelyard.machine.component import Compute, Machine, Memory, Operands
from steelyard.techniques._base import relabelled
from steelyard.units import Quantity, parse_quantity

__all__ = ["MOST_CHIPS", "ChipSpace", "read_space"]

#: Most points of a space: their figures take some 400 bytes each.
MOST_CHIPS = 5_000_000
#: What can be chosen of a component, with its unit; ``copy_bytes``: the capacity of each copy of a level.
_COMPUTE = {"rows": "1", "columns": "1", "depth": "1", "units": "1", "clock_hz": "Hz", "dataflow": "", "overlaps": ""}
_COMPUTE |= {"gates": "", "skips": ""}
_MEMORY = {
    "capacity_bytes": "B",
    "copy_bytes": "B",
    "bandwidth_bytes_per_s": "B/s",
    "write_bandwidth_bytes_per_s": "B/s",
    "link_bandwidth_bytes_per_s": "B/s",
}
#: Fields that are words, with those there are.
_WORDS: Mapping[str, tuple[str, ...]] = {"dataflow": MAPPED, **dict.fromkeys(("gates", "skips"), get_args(Operands))}
#: Feature sizes that figures of processes are carried to, nm.
_PROCESS_NM = (1.0, 500.0)


@dataclass(frozen=True, slots=True)
class _File:
    __pydantic_config__ = {"extra": "forbid"}

    base: Annotated[str, "machine file, beside this one, or machine of the catalogue"]
    choose: Annotated[Mapping[str, Any], "fields of the machine with the values to try"]
    name: str = ""
    precision: Annotated[str, "number format of networks"] = "int8"
    most: Annotated[float, Quantity("1", "most points", ge=1, le=MOST_CHIPS)] = MOST_CHIPS
    weight_density: Annotated[float, Quantity("1", "share of the weights that is not zero", gt=0, le=1)] = 1.0
    map_density: Annotated[float, Quantity("1", "share of the values between layers that is not zero", gt=0, le=1)] = (
        1.0
    )
    when: tuple[When, ...] = field(default=())


@dataclass(frozen=True, eq=False)
class ChipSpace:
    """Points are rows of places in ``values``; -1: the field does not belong to the point and is as in the base."""

    name: str
    base: Machine
    engine: Compute
    precision: str
    fields: tuple[str, ...]
    values: tuple[tuple[Any, ...], ...]
    needs: tuple[tuple[int, tuple[int, ...]] | None, ...]
    """Of each field the one that it depends on, with the places of its values; None: always chosen."""
    zeros: tuple[float, float] = (1.0, 1.0)
    """Shares of the weights and of the values between layers that are not zero."""

    def density(self, weighted: bool, image: bool) -> Density:
        """What is not zero in a layer that has weights, and one that sees what the network is given."""
        weights, maps = self.zeros
        return Density(weights if weighted else 1.0, 1.0 if image else maps, maps)

    @property
    def choices(self) -> Choices:
        """The fields with their values."""
        return Choices(self.fields, self.values, self.needs)

    @property
    def formats(self) -> tuple[str, ...]:
        """Number formats that points have."""
        return self.values[self.fields.index("precision")] if "precision" in self.fields else (self.precision,)

    @cached_property
    def codes(self) -> NDArray[np.int16]:
        """Every point, ``[points, fields]``."""
        return self.choices.listed()

    def __len__(self) -> int:
        return len(self.codes)

    def column(self, name: str, base: Any, codes: NDArray[np.int16]) -> NDArray[Any]:
        """Values of a field over points; of the base where it is not chosen."""
        if name not in self.fields:
            return np.full(len(codes), base)
        i = self.fields.index(name)
        return np.array([*self.values[i], base])[codes[:, i]]

    def chosen(self, codes: Sequence[int] | NDArray[np.int16]) -> dict[str, Any]:
        """What one point chooses."""
        return self.choices.chosen(codes)

    def machine(self, codes: Sequence[int] | NDArray[np.int16]) -> Machine:
        """The machine of one point."""
        said = self.chosen(codes)
        own = {n.removeprefix(f"compute.{self.engine.name}."): v for n, v in said.items() if n.startswith("compute.")}
        engine = replace(self.engine, **own)
        much = engine.multipliers / self.engine.multipliers
        rate = much * engine.clock_hz / self.engine.clock_hz
        engine = replace(engine, peak={f: p * rate for f, p in engine.peak.items()}, area_m2=engine.area_m2 * much)
        memory = []
        for level in self.base.memory:
            more = much if follows(level, self.engine) else 1.0
            changed = {k: said[n] for k in _MEMORY if (n := f"memory.{level.name}.{k}") in said}
            copies = level.copies * more
            if "copy_bytes" in changed:
                changed["capacity_bytes"] = changed.pop("copy_bytes") * copies
            else:
                changed.setdefault("capacity_bytes", level.capacity_bytes * more)
            faster = rate if more != 1.0 or follows(level, self.engine) else 1.0
            changed["nodes"] = nodes_of(level, self.engine, engine.multipliers)
            for name in ("bandwidth_bytes_per_s", "write_bandwidth_bytes_per_s"):
                changed.setdefault(name, getattr(level, name) * faster)
            area = level.area_m2 * changed["capacity_bytes"] / level.capacity_bytes
            memory.append(replace(level, copies=copies, area_m2=area, **changed))
        compute = tuple(engine if c.name == engine.name else c for c in self.base.compute)
        return self.base.but(
            name=self.name,
            title=f"a chip of {self.name}",
            aliases=(),
            file="",
            compute=compute,
            memory=tuple(memory),
            process_nm=said.get("process_nm", self.base.process_nm),
            dies=said.get("dies", self.base.dies),
        )


def follows(level: Memory, engine: Compute) -> bool:
    """Whether a level has a copy for each multiplier, and so grows with their number."""
    return level.copies > 1 and level.copies == engine.multipliers


def nodes_of(level: Memory, engine: Compute, multipliers: float) -> float:
    """Nodes of a level's network where the array has so many multipliers: one for each if the base has."""
    return multipliers if level.network and level.nodes == engine.multipliers else level.nodes


def read_space(path: str | Path) -> ChipSpace:
    """Read the file of a space.

    Raises:
        InputError: the file cannot be read; fields that no chip has; values of another kind; too many points.
    """
    where = Path(path).name
    file = build(_File, flattened(parse_document(read_text(path, field="space"), where)), where)
    beside = Path(path).parent / file.base
    try:
        base = find_machine(str(beside) if file.base.lower().endswith((".toml", ".json", ".yaml")) else file.base)
    except InputError as error:
        raise relabelled(relabelled(error, "machine", "base"), "file", "base") from None
    engine = next((c for c in base.compute if c.dataflow and c.rows and c.columns and c.clock_hz), None)
    if engine is None:
        raise InputError(f"{base.name} has no array with rows, columns, dataflow and clock", field="base")
    chosen = read_choices(file.choose, file.when, partial(_value, base, engine))
    both = [n for n in chosen.fields if n.endswith(".copy_bytes") and _whole(n) in chosen.fields]
    raise_all([Problem(f"{where}.choose.{n}", f"expected one of this and {_whole(n)}, not both") for n in both])
    found = ChipSpace(
        *(file.name or Path(path).stem, base, engine, file.precision), chosen.fields, chosen.values, chosen.needs,
        (file.weight_density, file.map_density),
    )  # fmt: skip
    most = min(file.most, MOST_CHIPS)
    if chosen.count > LARGEST or len(found) > most:
        widest = max(zip(chosen.fields, chosen.values, strict=True), key=lambda pair: len(pair[1]))
        words = f"expected at most {most:,.0f} points, got {chosen.count:,.0f}"
        raise InputError(f"{words}; {widest[0]} has most values, {len(widest[1]):,}", field=f"{where}.choose")
    if "dies" in chosen.fields:
        units = found.column(f"compute.{engine.name}.units", engine.units, found.codes).astype(np.float64)
        dies = found.column("dies", base.dies, found.codes).astype(np.float64)
        if (units % dies).any():
            words = f"expected dies that divide compute.{engine.name}.units, got {dies[units % dies > 0][0]:g}"
            words += f" dies of {units[units % dies > 0][0]:g}; [[when]] chooses them for some units alone"
            raise InputError(words, field=f"{where}.choose.dies")
    return found


def _whole(name: str) -> str:
    """The field of the capacity of all copies of a level."""
    return f"{name.removesuffix('copy_bytes')}capacity_bytes"


def _value(base: Machine, engine: Compute, name: str, value: Any, at: str) -> Any:
    """A value of a field, as the machine takes it. Raises :class:`InputError`."""
    known = {f"compute.{engine.name}.{f}": unit for f, unit in _COMPUTE.items()}
    known |= {f"memory.{m.name}.{f}": unit for m in base.memory for f, unit in _MEMORY.items()}
    known |= {"process_nm": "nm", "precision": "", "dies": "1"}
    if name not in known:
        raise InputError(UnknownName("field of a chip", name, known).message, field=at)
    if name == "precision":
        return precision_named(str(value)).name
    own = name.rpartition(".")[2]
    if own in _WORDS:
        if value not in _WORDS[own]:
            raise InputError(UnknownName(own, str(value), [w for w in _WORDS[own] if w]).message, field=at)
        return value
    if name.endswith(".overlaps"):
        if not isinstance(value, bool):
            raise InputError(f"expected true or false, got {show(str(value))}", field=at)
        return value
    number, whole = parse_quantity(value, known[name], at), known[name] == "1"
    low, high = _PROCESS_NM if name == "process_nm" else (1.0, 1e18)
    if not low <= number <= high or (whole and number != int(number)):
        words = f"expected a {'whole ' if whole else ''}number from {low:g} to {high:g}"
        raise InputError(f"{words}, got {number:g}", field=at)
    return number
