"""The machine catalogue as data: every file loads, names resolve to one machine, figures are in a sane order."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import steelyard
from steelyard.errors import normalise
from steelyard.machine import Machine, load_machine
from steelyard.units import parse_quantity

CATALOGUE = Path(steelyard.__file__).parent / "catalogue"
FILES = sorted((CATALOGUE / "machines").glob("*.toml"))

FORMATS = {"fp64", "fp32", "tf32", "bf16", "fp16", "fp8", "int8", "fp6", "fp4", "int4", "int16", "binary"}
LAUNCHES = {"array", "cuda", "hip", "tpu", "gaudi", "sycl", "metal", "cpu", "npu", "dataflow", "fpga"}
NETWORK_KINDS = {"nvlink", "pcie", "infinity_fabric", "ici", "ethernet", "infiniband", "tcp", "other"}
PRICE_CLASSES = {"hyperscaler_on_demand", "neocloud_on_demand", "marketplace", "reserved_1y"}
#: Formats without fp8 arithmetic before these architectures.
NO_FP8 = {"maxwell", "pascal", "volta", "turing", "ampere", "ampere_graphics", "cdna1", "cdna2", "rdna3", "apple_gpu"}
NO_FP4 = NO_FP8 | {"ada", "hopper", "cdna3", "rdna4"}


def _table(folder: str, key: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for path in sorted((CATALOGUE / folder).glob("*.toml")):
        with path.open("rb") as file:
            rows += tomllib.load(file)[key]
    return rows


MACHINES: dict[str, Machine] = {path.stem: load_machine(path) for path in FILES}
NETWORKS = {row["name"]: row for row in _table("networks", "network")}
NODES = {row["name"]: row for row in _table("nodes", "node")}
PRICES = _table("prices", "price")


@pytest.fixture(params=sorted(MACHINES))
def machine(request: pytest.FixtureRequest) -> Machine:
    return MACHINES[request.param]


def test_catalogue_size() -> None:
    assert len(MACHINES) >= 75


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_file_is_named_for_the_machine_and_opens_with_its_sources(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert MACHINES[path.stem].name == path.stem
    assert text.startswith("# ")
    assert text.index("\n[sources]\n") < text.index("\n[guess]\n") < text.index("\n[machine]\n")


def test_sources_say_where_figures_come_from(machine: Machine) -> None:
    assert machine.sources
    assert all(len(text) > 10 for text in machine.sources.values())


def test_enumerations(machine: Machine) -> None:
    assert machine.launch in LAUNCHES
    assert machine.family == machine.family.lower()
    assert re.fullmatch(r"\d{4}-\d{2}", machine.released)
    for engine in machine.compute:
        assert set(engine.peak) <= FORMATS
        assert set(engine.sparse_peak) <= set(engine.peak)
        assert set(engine.energy_j_per_op) == set(engine.peak)


def test_aliases_are_unique() -> None:
    owner: dict[str, str] = {}
    for name, machine in MACHINES.items():
        for key in {normalise(text) for text in (name, machine.title, *machine.aliases)}:
            assert key, name
            assert owner.setdefault(key, name) == name, f"{key!r} belongs to {owner[key]} and to {name}"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("H100", "h100_sxm"),
        ("NVIDIA H100 80GB HBM3", "h100_sxm"),
        ("DGX-H100", "h100_sxm"),
        ("a100-80g", "a100_sxm"),
        ("NVIDIA A100-SXM4-80GB", "a100_sxm"),
        ("NVIDIA_A100-PCIE-40GB", "a100_pcie_40gb"),
        ("NVIDIA_A100_80GB_PCIe", "a100_pcie"),
        ("rtx4090", "rtx_4090"),
        ("NVIDIA GeForce RTX 4090", "rtx_4090"),
        ("RTX-4090", "rtx_4090"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "rtx_4090_laptop"),
        ("RTX 5080 Mobile", "rtx_5080_laptop"),
        ("RTXPRO6000", "rtx_pro_6000"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "rtx_pro_6000"),
        ("Tesla_P100-PCIE-16GB", "p100_pcie"),
        ("Tesla V100-PCIE-32GB", "v100_pcie"),
        ("Tesla T4", "t4"),
        ("AMD_Instinct_MI210", "mi210"),
        ("AMD Instinct MI300X", "mi300x"),
        ("NVIDIA B200", "b200_sxm"),
        ("TPU v6e (Trillium)", "tpu_v6e"),
        ("Intel(R) Arc(TM) Pro B60 Graphics", "arc_b60"),
        ("CPU-i9-10940X", "i9_10940x"),
        ("Snapdragon 8 Elite QRD", "snapdragon_8_elite"),
        ("M3 Max 30c", "m3_max_30c"),
        ("HAILO10H", "hailo10h"),
        ("Jetson AGX Orin", "jetson_agx_orin"),
        ("Ryzen AI 9 HX", "ryzen_ai_9_hx_370"),
    ],
)
def test_names_as_drivers_clouds_and_shops_write_them(text: str, name: str) -> None:
    owner = {normalise(t): m.name for m in MACHINES.values() for t in (m.name, m.title, *m.aliases)}
    assert owner[normalise(text)] == name


def _paths(machine: Machine) -> Iterator[str]:
    """Every path a guess may name: fields of the machine and of its components, and formats of a peak."""
    for field in machine.__dataclass_fields__:
        yield field
    for group in ("compute", "memory", "link"):
        for part in getattr(machine, group):
            for field in part.__dataclass_fields__:
                yield f"{group}.{part.name}.{field}"
                value = getattr(part, field)
                if isinstance(value, Mapping):
                    yield from (f"{group}.{part.name}.{field}.{key}" for key in value)


def test_every_guess_names_a_figure_and_a_reason(machine: Machine) -> None:
    unknown = set(machine.guess) - set(_paths(machine))
    assert not unknown, f"guess paths that name nothing: {sorted(unknown)}"
    assert all(len(reason) > 5 for reason in machine.guess.values())


def test_unpublished_figures_are_marked(machine: Machine) -> None:
    """Energies and unloaded latencies are published for no machine here, so each must be marked as a guess."""
    for memory in machine.memory:
        for field in ("latency_s", "energy_j_per_byte"):
            if getattr(memory, field):
                assert machine.confidence(f"memory.{memory.name}.{field}") == "guess"
    for engine in machine.compute:
        if engine.energy_j_per_op:
            assert machine.confidence(f"compute.{engine.name}.energy_j_per_op") == "guess"
    if machine.idle_w:
        assert machine.confidence("idle_w") == "guess" or "idle" in " ".join(machine.sources.values()).lower()


def test_peaks_are_in_order(machine: Machine) -> None:
    for engine in machine.compute:
        peak = engine.peak
        for narrow, wide in (
            ("fp8", "bf16"),
            ("fp8", "fp16"),
            ("fp4", "fp8"),
            ("int4", "int8"),
            ("fp6", "fp8"),
            ("bf16", "tf32"),
            ("fp16", "tf32"),
            ("tf32", "fp32"),
            ("fp32", "fp64"),
        ):
            if narrow in peak and wide in peak and not (narrow == "fp32" and engine.kind == "matrix"):
                assert peak[narrow] >= 0.999 * peak[wide], f"{machine.name} {engine.name}: {narrow} below {wide}"
        for fmt, sparse in engine.sparse_peak.items():
            assert peak[fmt] < sparse <= 8 * peak[fmt], f"{machine.name} {engine.name}: sparse {fmt}"
    if machine.family in NO_FP8:
        assert not any("fp8" in engine.peak for engine in machine.compute)
    if machine.family in NO_FP4:
        assert not any("fp4" in engine.peak for engine in machine.compute)


def test_systolic_arrays_make_their_peak(machine: Machine) -> None:
    """A systolic array does rows x columns MACs per clock: units, size, clock and peak must agree."""
    for engine in machine.compute:
        if machine.family == "tpu" and engine.rows:
            made = 2 * engine.units * engine.rows * engine.columns * engine.clock_hz
            assert made == pytest.approx(engine.peak["bf16"], rel=0.01)


def test_levels_get_faster_and_cheaper_inwards(machine: Machine) -> None:
    for memory in machine.memory:
        if memory.inside:
            outer = machine.level(memory.inside)
            where = f"{machine.name}: {memory.name} inside {outer.name}"
            if machine.kind == "pim" and outer is machine.root:
                continue  # the bus of banks that multiply
            assert memory.bandwidth_bytes_per_s >= outer.bandwidth_bytes_per_s, where
            assert memory.energy_j_per_byte <= outer.energy_j_per_byte, where
            assert memory.latency_s <= outer.latency_s, where


def test_power_and_memory_are_sane(machine: Machine) -> None:
    assert 0 < machine.idle_w < machine.tdp_w
    assert 0 < machine.usable_bytes <= machine.root.capacity_bytes
    assert machine.root.kind
    half = 0.5 * machine.root.bandwidth_bytes_per_s * machine.root.energy_j_per_byte
    assert half < machine.tdp_w, "memory at half its bandwidth alone passes the TDP"
    for engine in machine.compute:
        for fmt, energy in engine.energy_j_per_op.items():
            assert energy > 0
            # A rate that only a short burst reaches may draw more than the TDP, but not by an order of magnitude.
            assert energy * engine.peak[fmt] < 4 * machine.tdp_w, f"{engine.name} {fmt}"


def test_links_and_nodes_exist(machine: Machine) -> None:
    for link in machine.link:
        assert link.network in NETWORKS, link.network
        # A link is one or more ports of its network: never more than a few times the entry, never a thousandth.
        ratio = link.bandwidth_bytes_per_s / NETWORKS[link.network]["bandwidth_bytes_per_s"]
        assert 0.01 < ratio <= 13
    if machine.node:
        assert machine.node in NODES


def test_networks() -> None:
    rows = _table("networks", "network")
    assert len({row["name"] for row in rows}) == len(rows)
    for row in rows:
        assert row["kind"] in NETWORK_KINDS, row["name"]
        assert row["title"]
        assert row["source"]
        assert row["bandwidth_bytes_per_s"] > 0
        assert 0 < row["latency_s"] < 1e-3
        assert 0 < row["energy_j_per_byte"] < 1e-9
        assert isinstance(row["switched"], bool)
        assert isinstance(row["multicast"], bool)
        assert set(row["guess"]) <= set(row)


def test_nodes() -> None:
    rows = _table("nodes", "node")
    assert len({row["name"] for row in rows}) == len(rows)
    for row in rows:
        assert row["machine"] in MACHINES, row["name"]
        assert row["peer"] in NETWORKS, row["name"]
        assert row["network"] in NETWORKS, row["name"]
        assert row["devices"] >= 1
        assert row["network_bandwidth_bytes_per_s"] > 0
        assert row["host_w"] > 0
        assert row["source"]
        assert set(row["guess"]) <= set(row)
        links = MACHINES[row["machine"]].link
        assert row["peer"] in {link.network for link in links} or row["peer"] == "nvlink2_switch", row["name"]
    for name, machine in MACHINES.items():
        if machine.node:
            node = NODES[machine.node]
            owner = MACHINES[node["machine"]]
            assert owner.family == machine.family, f"{name} stands in a node of {owner.name}"


def test_prices() -> None:
    seen = set()
    for row in PRICES:
        assert row["machine"] in MACHINES, row["machine"]
        assert row["class"] in PRICE_CLASSES
        assert re.fullmatch(r"20\d\d-(0[1-9]|1[0-2])", row["date"])
        assert len(row["source"]) > 5
        assert 0.05 < parse_quantity(row["usd_per_hour"], "USD/h") < 100
        assert isinstance(row.get("guess", False), bool)
        assert set(row) <= {"machine", "usd_per_hour", "class", "date", "source", "guess"}
        key = (row["machine"], row["class"], row["date"], row["source"])
        assert key not in seen
        seen.add(key)


def test_data_centre_machines_have_a_price() -> None:
    priced = {row["machine"] for row in PRICES}
    for name in (
        *("v100_sxm_16gb", "t4", "a100_sxm", "a100_sxm_40gb", "a10g", "l4", "l40s", "h100_sxm", "h100_pcie"),
        *("h100_nvl", "h200_sxm", "gh200", "b200_sxm", "gb200", "b300_sxm", "rtx_pro_6000", "rtx_4090", "mi300x"),
        *("mi325x", "mi355x", "tpu_v4", "tpu_v5e", "tpu_v5p", "tpu_v6e", "tpu_v7", "gaudi2", "gaudi3"),
    ):
        assert name in priced, name
