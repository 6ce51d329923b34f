"""A machine as a tree of components.

A GPU, a systolic array, an in-memory-compute bank, a phone NPU and a CPU differ in their tree, not in their class:

* :class:`Memory` levels nest by ``inside``: the root is the level that holds the model (HBM, DRAM, SRAM of a
  wafer), each further level is nearer to the arithmetic;
* a :class:`Compute` engine sits ``inside`` the memory level it reads, so its data crosses every level from
  there up to the root. A bank-level processing-in-memory unit is a Compute inside the banks;
* a :class:`Link` leads out of the machine.

Numbers are SI. A figure that its maker never published is listed in ``guess`` with the reason it was chosen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from steelyard.errors import InputError, Problem, UnknownName, complete, printable, raise_all, show
from steelyard.machine.classes import cores, kinds
from steelyard.machine.fabric import Fabric
from steelyard.units import Quantity, format_quantity

__all__ = ["Action", "Compute", "Link", "Machine", "Memory"]

_STRICT = {"extra": "forbid"}
#: What zeros may be left out of.
Operands = Literal["", "weights", "inputs", "both"]


@dataclass(frozen=True, slots=True)
class Action:
    """What a component can do once: ``throughput_per_s`` of it, after ``latency_s``, at ``energy_j`` each."""

    throughput_per_s: float
    latency_s: float = 0.0
    energy_j: float = 0.0


@dataclass(frozen=True, slots=True)
class Compute:
    """An arithmetic engine: tensor cores, a vector unit, a systolic array, an in-memory unit."""

    __pydantic_config__ = _STRICT

    name: str
    kind: Literal["matrix", "vector", "scalar"]
    units: Annotated[float, Quantity("1", "copies that share the work (SMs, CUs, cores, banks)", ge=1, le=1e9)]
    peak: Mapping[str, Annotated[float, Quantity("OP/s", "dense peak of all units, per format (1 MAC = 2 OP)", gt=0)]]
    inside: Annotated[str, "the memory level it reads from; empty for the innermost one"] = ""
    clock_hz: Annotated[float, Quantity("Hz", "clock at which the peak is stated", ge=0)] = 0.0
    sparse_peak: Mapping[str, Annotated[float, Quantity("OP/s", "peak with the maker's structured sparsity", gt=0)]] = (
        field(default_factory=dict)
    )
    energy_j_per_op: Mapping[str, Annotated[float, Quantity("J/OP", "energy of one operation", ge=0)]] = field(
        default_factory=dict
    )
    exp_per_clock: Annotated[
        float, Quantity("1", "exponentials per clock and unit; 0 = the usual rate of the class", ge=0)
    ] = 0.0
    rows: Annotated[float, Quantity("1", "rows of an array of multipliers, 0 when it is not one", ge=0, le=1e5)] = 0
    columns: Annotated[
        float, Quantity("1", "columns of an array of multipliers, 0 when it is not one", ge=0, le=1e5)
    ] = 0
    depth: Annotated[
        float, Quantity("1", "multipliers of an element of the array, whose products are added", ge=1, le=1e4)
    ] = 1
    dataflow: Annotated[
        Literal["", "weight_stationary", "output_stationary", "row_stationary", "flexible"],
        "how an array is mapped, its units being equal arrays; empty: it is none",
    ] = ""
    overlaps: Annotated[
        bool, "a systolic array loads what stays while it computes; else closed forms say its cycles"
    ] = False
    sum_bits: Annotated[float, Quantity("bit", "width of partial sums that leave an array", ge=1, le=64)] = 32
    maps_for: Annotated[
        Literal["both", "time", "energy"], "what its compiler chooses loops for: least time, energy or their product"
    ] = "both"
    serial_bits: Annotated[
        float, Quantity("bit", "of an input that an array takes a cycle, bit-serial or in memory; 0 = all", ge=0, le=64)
    ] = 0
    cell_bits: Annotated[
        float, Quantity("bit", "of a weight that a column of an in-memory array holds; 0 = all", ge=0, le=64)
    ] = 0
    carry_columns: Annotated[
        float, Quantity("1", "columns of an in-memory array beside those of a weight, for its carries", ge=0, le=64)
    ] = 0
    serial_weight_bits: Annotated[
        float, Quantity("bit", "of a weight that an array or a unit of look-ups takes a cycle; 0 = all", ge=0, le=64)
    ] = 0
    converter_bits: Annotated[
        float,
        Quantity("bit", "of the converter of a column of an analogue array; 0 = sums are exact", ge=0, le=64),
    ] = 0
    gates: Annotated[Operands, "zeros of these operands of an array draw no energy of arithmetic"] = ""
    skips: Annotated[Operands, "zeros of these operands take no cycle of an array either"] = ""
    settles: Annotated[
        Literal["output", "layer"], "where multipliers that skip wait for the slowest: after each output or a layer"
    ] = "output"
    queue: Annotated[
        float, Quantity("1", "operands that wait at each multiplier that skips, so that they drift apart", ge=0, le=1e6)
    ] = 0
    core: Annotated[str, "the processor core that it is (`classes/*.toml`), where instructions are counted"] = ""
    area_m2: Annotated[
        float, Quantity("m2", "silicon of all its multipliers; 0 = by the process and their number", ge=0)
    ] = 0.0

    def turns(self, input_bits: float, weight_bits: float) -> float:
        """Cycles that an array takes for a product of an input and a weight of so many bits."""
        inputs = -(-input_bits // self.serial_bits) if self.serial_bits else 1.0
        weights = -(-weight_bits // self.serial_weight_bits) if self.serial_weight_bits else 1.0
        return float(inputs * weights)

    def weights_wide(self, weight_bits: float, columns: Any) -> Any:
        """Weights of so many bits beside each other in so many columns, which may be an array."""
        if not self.cell_bits:
            return columns
        return columns // (-(-weight_bits // self.cell_bits) + self.carry_columns)

    @property
    def multipliers(self) -> float:
        """All of them; 0 when it is no array."""
        return self.units * self.rows * self.columns * self.depth

    def action(self, fmt: str) -> Action:
        """One operation in format ``fmt``."""
        return Action(self.peak[fmt], 0.0, self.energy_j_per_op.get(fmt, 0.0))


@dataclass(frozen=True, slots=True)
class Memory:
    """A memory level. The root (``inside == ""``) holds weights, KV cache and activations."""

    __pydantic_config__ = _STRICT

    name: str
    capacity_bytes: Annotated[float, Quantity("B", "capacity of all copies of the level", gt=0)]
    bandwidth_bytes_per_s: Annotated[float, Quantity("B/s", "peak read bandwidth of all copies", gt=0)]
    kind: str = ""
    inside: Annotated[str, "the next level outwards; empty for the root"] = ""
    write_bandwidth_bytes_per_s: Annotated[
        float, Quantity("B/s", "peak write bandwidth; 0 = same bus as reads", ge=0)
    ] = 0.0
    latency_s: Annotated[float, Quantity("s", "load-to-use latency", ge=0)] = 0.0
    energy_j_per_byte: Annotated[float, Quantity("J/B", "energy to move one byte out of the level", ge=0)] = 0.0
    write_energy_j_per_byte: Annotated[
        float, Quantity("J/B", "energy to move one byte into the level; 0 = as out of it", ge=0)
    ] = 0.0
    copies: Annotated[
        float, Quantity("1", "equal parts that hold each other's data not, such as one per multiplier", ge=1, le=1e9)
    ] = 1
    holds: Annotated[
        tuple[Literal["weights", "inputs", "outputs"], ...], "what an array's mapper keeps there; none said: all"
    ] = ()
    buffers: Annotated[
        float, Quantity("1", "tiles of a tensor that have room in it: 2 = one to use and one to fill", ge=1, le=2)
    ] = 2
    waits: Annotated[bool, "an array stands still while the level is filled"] = False
    whole: Annotated[bool, "inputs that have room are all here before an array starts; else those used first"] = False
    keeps: Annotated[bool, "what a layer of a network puts out stays here for the next where both fit"] = False
    fuses: Annotated[
        bool, "layers run depth first through it, tile by tile, where that is better: it holds what windows need again"
    ] = False
    packs: Annotated[
        tuple[Literal["weights", "inputs", "outputs"], ...], "what lies here without its zeros, where that is less"
    ] = ()
    run_bits: Annotated[
        float, Quantity("bit", "before each value that is packed, of the zeros before it; 0 = a bitmap", ge=0, le=32)
    ] = 0
    network: Annotated[
        Literal["", "bus", "mesh", "tree"], "network on chip to what lies inside; empty: its energy is the memory's"
    ] = ""
    nodes: Annotated[
        float, Quantity("1", "arrays, multipliers or chiplets that the network leads to", ge=1, le=1e9)
    ] = 1
    ports: Annotated[float, Quantity("1", "links by which bytes enter the network", ge=1, le=1e6)] = 1
    link_bandwidth_bytes_per_s: Annotated[
        float, Quantity("B/s", "of a link of the network, one way; 0 = never binds", ge=0)
    ] = 0.0
    link_energy_j_per_byte: Annotated[float, Quantity("J/B", "energy of a byte over a link with its router", ge=0)] = (
        0.0
    )
    multicast: Annotated[bool, "a value is sent once to all nodes that want it; else once to each"] = True
    area_m2: Annotated[float, Quantity("m2", "silicon of all copies; 0 = by the process and capacity", ge=0)] = 0.0

    def action(self, name: str = "read") -> Action:
        """Moving one byte: ``read`` or ``write``."""
        bandwidth = self.bandwidth_bytes_per_s
        if name == "write" and self.write_bandwidth_bytes_per_s:
            bandwidth = self.write_bandwidth_bytes_per_s
        return Action(bandwidth, self.latency_s, self.energy_j_per_byte)


@dataclass(frozen=True, slots=True)
class Link:
    """A way out of the machine: NVLink, PCIe, Infinity Fabric, ICI, a network card."""

    __pydantic_config__ = _STRICT

    name: str
    network: Annotated[str, "the catalogue network it speaks (nvlink4, pcie5, infinity_fabric3, ...)"]
    bandwidth_bytes_per_s: Annotated[float, Quantity("B/s", "all lanes together, one direction", gt=0)]
    role: Annotated[
        Literal["peer", "host", "network"], "peer: other devices of the node; host: the CPU; network: other nodes"
    ] = "peer"
    latency_s: Annotated[float, Quantity("s", "one hop, device to device; 0 = the network's", ge=0)] = 0.0
    peer_access: Annotated[bool, "devices read each other's memory; else transfers go through the host's"] = True

    def action(self) -> Action:
        """Sending one byte."""
        return Action(self.bandwidth_bytes_per_s, self.latency_s, 0.0)


@complete
@dataclass(frozen=True, slots=True)
class Machine:
    """One device: its components, power, price class, sources and guesses."""

    __pydantic_config__ = _STRICT

    name: str
    title: str
    kind: Annotated[str, "what it is: gpu, cpu, tpu, ... (`classes/*.toml`)"]
    vendor: str
    family: Annotated[str, "architecture; a machine without measurements borrows its family's parameters"]
    compute: tuple[Compute, ...]
    memory: tuple[Memory, ...]
    link: tuple[Link, ...] = ()
    fabric: Annotated[Fabric | None, "of an FPGA: what designs are made of"] = None
    aliases: tuple[str, ...] = ()
    released: str = ""
    tdp_w: Annotated[float, Quantity("W", "rated power of the device (board or package)", ge=0)] = 0.0
    idle_w: Annotated[float, Quantity("W", "power when idle", ge=0)] = 0.0
    process_nm: Annotated[
        float,
        Quantity("nm", "process, for energies and areas that are not stated; 0 = unknown", ge=0, le=500),
    ] = 0.0
    dies: Annotated[
        float, Quantity("1", "equal dies of its package; their links are the memory above the arrays", ge=1, le=1000)
    ] = 1.0
    power_limit_w: Annotated[
        float, Quantity("W", "limit set on it, as by nvidia-smi -pl; 0 = its rated power", ge=0)
    ] = 0.0
    reserved_bytes: Annotated[float, Quantity("B", "memory the driver and runtime keep for themselves", ge=0)] = 0.0
    devices_per_node: Annotated[float, Quantity("1", "devices of the usual node", ge=1)] = 1
    node: Annotated[str, "the usual node in the catalogue; empty when it stands alone"] = ""
    launch: Annotated[str, "software stack work reaches it by: cuda, hip, tpu, metal, ... (`classes/*.toml`)"] = ""
    capex_usd: Annotated[float, Quantity("USD", "list or street price of the device, 0 = unknown", ge=0)] = 0.0
    sources: Mapping[str, str] = field(default_factory=dict)
    guess: Mapping[str, str] = field(default_factory=dict)
    notes: str = ""
    file: Annotated[str, "the file it was read from; empty for those of a catalogue, filled on reading"] = field(
        default="", compare=False
    )

    @property
    def most_w(self) -> float:
        """Most power it draws: as rated, or the limit set below that."""
        return min(self.power_limit_w or self.tdp_w, self.tdp_w)

    def __post_init__(self) -> None:
        problems = list(self._problems())
        raise_all(problems)

    def _problems(self) -> Iterator[Problem]:
        if self.kind not in kinds():
            yield Problem("kind", str(UnknownName("kind of machine", self.kind, kinds())))
        if not self.name.strip() or self.name != printable(self.name) or len(self.name) > 100:
            yield Problem("name", f"expected one line of at most 100 printable characters, got {show(self.name)}")
        names = [c.name for c in self.compute] + [m.name for m in self.memory] + [x.name for x in self.link]
        for name in sorted({n for n in names if names.count(n) > 1}):
            yield Problem("name", f"component {name!r} appears more than once")
        for name in dict.fromkeys(names):
            if not name.strip() or name != printable(name) or len(name) > 100:
                yield Problem("name", f"expected components of one line of at most 100 characters, got {show(name)}")
        if not self.compute:
            yield Problem("compute", "a machine needs at least one compute engine")
        for compute in self.compute:
            if compute.core and compute.core not in cores():
                yield Problem(f"compute.{compute.name}.core", str(UnknownName("core", compute.core, cores())))
            if not compute.peak:
                yield Problem(f"compute.{compute.name}.peak", "expected the peak of at least one number format")
        if self.dies != 1.0 and not any(c.units % self.dies == 0 for c in self.compute):
            yield Problem("dies", f"expected a number that divides the units of an engine, got {self.dies:g}")
        yield from self._idle_fields()
        levels = {m.name for m in self.memory}
        roots = [m.name for m in self.memory if not m.inside]
        if len(roots) != 1:
            yield Problem("memory", f"exactly one level must have no 'inside' (the root), found {roots or 'none'}")
        elif self.reserved_bytes and not self.reserved_bytes < self.root.capacity_bytes:
            root = self.root
            words = f"expected less than the {format_quantity(root.capacity_bytes, 'B')} of {root.name}"
            yield Problem("reserved_bytes", f"{words}, got {format_quantity(self.reserved_bytes, 'B')}")
        inside = [(f"memory.{m.name}", m.inside) for m in self.memory]
        inside += [(f"compute.{c.name}", c.inside) for c in self.compute]
        for path, parent in inside:
            if parent and parent not in levels:
                yield Problem(f"{path}.inside", str(UnknownName("memory level", parent, levels)))
        for memory in self.memory:
            seen, level = set(), memory
            while level.inside and level.inside in levels and level.name not in seen:
                seen.add(level.name)
                level = self.level(level.inside)
            if level.name in seen:
                yield Problem(f"memory.{memory.name}.inside", "levels nest in a circle")
                break

    def _idle_fields(self) -> Iterator[Problem]:
        """Fields of arrays and levels that say nothing without another one."""
        for c in self.compute:
            for name in ("gates", "skips", "converter_bits", "serial_weight_bits"):
                if getattr(c, name) and not (c.rows and c.columns):
                    yield Problem(f"compute.{c.name}.{name}", "expected an array, with rows and columns")
            if not c.skips and (c.queue or c.settles != "output"):
                name = "queue" if c.queue else "settles"
                yield Problem(
                    f"compute.{c.name}.{name}", "expected skips: multipliers wait for each other if they skip"
                )
        for m in self.memory:
            if m.inside and m.holds and set(m.packs) - set(m.holds):
                words = f"expected what the level holds ({', '.join(m.holds)}), got {', '.join(m.packs)}"
                yield Problem(f"memory.{m.name}.packs", words)
            for name in ("nodes", "ports", "link_bandwidth_bytes_per_s", "link_energy_j_per_byte", "multicast"):
                if not m.network and getattr(m, name) != Memory.__dataclass_fields__[name].default:
                    yield Problem(f"memory.{m.name}.{name}", "expected a network: bus, mesh or tree")

    @property
    def root(self) -> Memory:
        """The outermost memory level: the one that must hold the model."""
        return next(m for m in self.memory if not m.inside)

    def level(self, name: str) -> Memory:
        """The memory level called ``name``. Raises :class:`UnknownName`."""
        for memory in self.memory:
            if memory.name == name:
                return memory
        raise UnknownName("memory level", name, (m.name for m in self.memory))

    def engine(self, name: str) -> Compute:
        """The compute engine called ``name``. Raises :class:`UnknownName`."""
        for compute in self.compute:
            if compute.name == name:
                return compute
        raise UnknownName("compute engine", name, (c.name for c in self.compute))

    def path(self, compute: Compute) -> tuple[Memory, ...]:
        """The levels between ``compute`` and the root, innermost first; data crosses each of them."""
        level = self.level(compute.inside) if compute.inside else self._innermost()
        levels = [level]
        while level.inside:
            level = self.level(level.inside)
            levels.append(level)
        return tuple(levels)

    def _innermost(self) -> Memory:
        parents = {m.inside for m in self.memory}
        level = self.root
        while level.name in parents:
            level = next(m for m in self.memory if m.inside == level.name)
        return level

    def engines(self, kind: str) -> tuple[Compute, ...]:
        """The compute engines of one kind, fastest first."""
        found = [c for c in self.compute if c.kind == kind]
        return tuple(sorted(found, key=lambda c: -max(c.peak.values())))

    @property
    def apart(self) -> Memory | None:
        """Where activations lie when the root holds weights alone, as flash does; None: they share the root."""
        if self.root.holds != ("weights",):
            return None
        return next((m for m in self.memory if "outputs" in m.holds), None)

    @property
    def cache(self) -> Memory | None:
        """The largest level inside the root that all units share (L2, Infinity Cache, SLC), if any."""
        inner = [m for m in self.memory if m.inside == self.root.name]
        return max(inner, key=lambda m: m.capacity_bytes) if inner else None

    @property
    def usable_bytes(self) -> float:
        """Root capacity less what driver and runtime reserve."""
        return self.root.capacity_bytes - self.reserved_bytes

    def links(self, role: str) -> tuple[Link, ...]:
        """The links of one role (``peer``, ``host``, ``network``), fastest first."""
        return tuple(sorted((x for x in self.link if x.role == role), key=lambda x: -x.bandwidth_bytes_per_s))

    def actions(self) -> Iterator[tuple[str, Action]]:
        """Every action of the machine as ``("component.action", Action)``: what validation and docs walk over."""
        for compute in self.compute:
            for fmt in compute.peak:
                yield f"{compute.name}.{fmt}", compute.action(fmt)
        for memory in self.memory:
            yield f"{memory.name}.read", memory.action("read")
            yield f"{memory.name}.write", memory.action("write")
        for link in self.link:
            yield f"{link.name}.send", link.action()

    def confidence(self, path: str) -> str:
        """``guess`` when the figure at ``path`` (``memory.hbm.latency_s``) was never published, else ``published``."""
        return "guess" if any(path == p or path.startswith(p + ".") for p in self.guess) else "published"

    def but(self, **changes: object) -> Machine:
        """A copy with some fields replaced, for what-if questions.

        Raises:
            InputError: a field does not exist.
        """
        known = self.__dataclass_fields__
        for name in changes:
            if name not in known:
                raise InputError(str(UnknownName("machine field", name, known)), field=name)
        return replace(self, **changes)  # type: ignore[arg-type]
