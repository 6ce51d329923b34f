"""A search of chips: its points, its front, its prices beside those of one chip, its refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from steelyard.cli.main import main
from steelyard.cost.energy import static_power_w
from steelyard.cost.net_price import price_net
from steelyard.deployment.runtime import find_runtime, precision_named
from steelyard.errors import DoesNotFit, InputError
from steelyard.estimation.estimate import estimate
from steelyard.machine.catalogue import find_machine
from steelyard.machine.die import in_service, silicon
from steelyard.machine.process import chip_area_m2, memory_area_m2, multiply_j, sram_j_per_byte
from steelyard.pareto import front_of
from steelyard.search.chip import ChipPoint, ChipSearch, search_chip
from steelyard.search.chip_mix import Service, read_mix
from steelyard.search.chip_price import price_chips
from steelyard.search.chip_space import read_space
from steelyard.search.chip_work import read_work
from steelyard.workload.nets import load_net

BASE = """
[machine]
name = "npu"
title = "an NPU of one array"
kind = "npu"
vendor = "own"
family = "own"
launch = "array"
idle_w = 0.05
process_nm = 28

[[machine.compute]]
name = "array"
kind = "matrix"
units = 1
rows = 16
columns = 16
dataflow = "weight_stationary"
overlaps = true
clock_hz = "800MHz"
peak = { int8 = "409.6GOP/s" }
inside = "registers"

[[machine.memory]]
name = "dram"
kind = "lpddr4"
capacity_bytes = "1GiB"
bandwidth_bytes_per_s = "8GB/s"
energy_j_per_byte = 40e-12

[[machine.memory]]
name = "buffer"
kind = "sram"
inside = "dram"
capacity_bytes = "256KiB"
bandwidth_bytes_per_s = "64GB/s"

[[machine.memory]]
name = "registers"
kind = "registers"
inside = "buffer"
copies = 256
capacity_bytes = "16KiB"
bandwidth_bytes_per_s = "10TB/s"
"""
SPACE = """
base = "npu.toml"

[choose]
compute.array.rows = [16, 32]
"compute.array.dataflow" = ["weight_stationary", "output_stationary"]
memory.dram.bandwidth_bytes_per_s = ["4GB/s", "16GB/s"]
process_nm = [28, 7]

[[when]]
field = "compute.array.dataflow"
values = ["output_stationary"]
choose = { "memory.buffer.capacity_bytes" = ["64KiB", "1MiB"] }
"""


@pytest.fixture
def space(tmp_path: Path) -> Path:
    (tmp_path / "npu.toml").write_text(BASE)
    path = tmp_path / "space.toml"
    path.write_text(SPACE)
    return path


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> ChipSearch:
    folder = tmp_path_factory.mktemp("space")
    (folder / "npu.toml").write_text(BASE)
    (folder / "space.toml").write_text(SPACE)
    return search_chip(folder / "space.toml", ["resnet18", "bert-base"], context=128)


def test_fields_of_some_values_are_chosen_there_alone(space: Path) -> None:
    read = read_space(space)
    chosen = [read.chosen(c) for c in read.codes]
    assert len(read) == 2 * 2 * 2 + 2 * 2 * 2 * 2 == len({str(c) for c in chosen})
    assert all(
        ("memory.buffer.capacity_bytes" in c) == (c["compute.array.dataflow"] == "output_stationary") for c in chosen
    )


def test_a_machine_of_a_point_is_whole(space: Path) -> None:
    read = read_space(space)
    chip = read.machine(read.codes[-1])
    assert chip.compute[0].peak["int8"] == 2 * chip.compute[0].rows * 16 * 800e6
    assert chip.level("registers").copies == chip.compute[0].rows * 16
    assert chip.level("registers").capacity_bytes / chip.level("registers").copies == 64
    assert chip.process_nm == 7


def test_the_front_is_that_of_every_pair() -> None:
    values = np.random.default_rng(1).integers(0, 12, (400, 3)).astype(float)
    worse = (values[:, None] >= values[None]).all(axis=2) & (values[:, None] > values[None]).any(axis=2)
    best = {tuple(v) for v in values[~worse.any(axis=1)]}
    found = values[front_of(values)]
    assert {tuple(v) for v in found} == best
    assert len(found) == len(best)


def test_a_large_front_is_that_of_a_sweep() -> None:
    normal = np.abs(np.random.default_rng(2).normal(size=(3000, 3)))
    sphere = 1.0 - normal / np.linalg.norm(normal, axis=1, keepdims=True)  # none beats another
    found = front_of(np.vstack([sphere + 0.01, sphere, sphere[:50]]))
    assert sorted(found) == list(range(3000, 6000))


def test_the_chip_for_the_worst_workload_is_nearest_to_the_best_of_each(found: ChipSearch) -> None:
    def products(point: ChipPoint) -> np.ndarray:
        return np.array([point.latency_s[n] * point.energy_j[n] for n in found.work.names])

    least = np.min([products(p) for p in found.front], axis=0)
    worst = {name: (products(p) / least).max() for name, p in found.best.items()}
    assert worst["worst"] == min(worst.values())


def test_every_chip_is_searched_and_costs_what_an_estimate_of_it_says(found: ChipSearch) -> None:
    """An estimate tries more mappings: it is no worse, and not far better."""
    assert found.points == found.feasible == 24
    net, runtime, int8 = load_net("resnet18"), find_runtime("mapper"), precision_named("int8")
    for point in (found.best["latency"], found.best["area"]):
        chip = found.space.machine(point.codes)
        alone = price_net(net, {"batch": np.array([1.0])}, chip, runtime, int8)
        ours = point.latency_s["resnet18"] * point.energy_j["resnet18"]
        assert 0.75 * ours < float(alone.time_s[0] * alone.energy_j[0]) < 1.02 * ours
        assert point.area_m2 == pytest.approx(chip_area_m2(chip))
        assert 0 < point.utilisation["resnet18"] <= 1


@pytest.mark.parametrize(
    ("old", "new"),
    [("overlaps = true", "overlaps = true\nserial_bits = 2\ncell_bits = 4"), ("units = 1", "units = 4")],
)
def test_arrays_of_bits_and_several_arrays_cost_what_an_estimate_says(
    space: Path, tmp_path: Path, old: str, new: str
) -> None:
    (tmp_path / "npu.toml").write_text(BASE.replace(old, new).replace("copies = 256", "copies = 1024"))
    found = search_chip(space, ["resnet18"])
    point, runtime = found.best["area"], find_runtime("mapper")
    chip = found.space.machine(point.codes)
    alone = price_net(load_net("resnet18"), {"batch": np.array([1.0])}, chip, runtime, precision_named("int8"))
    assert point.latency_s["resnet18"] == pytest.approx(float(alone.time_s[0]), rel=0.05)
    assert point.energy_j["resnet18"] == pytest.approx(float(alone.energy_j[0]), rel=0.1)


def test_years_of_service_cost_silicon_and_electricity(space: Path) -> None:
    words = {"passes": "resnet18:3", "front": "usd,carbon", "years": 2, "rate": 5, "power_price": 0.2, "carbon": 300}
    found = search_chip(space, ["resnet18", "googlenet"], **words)
    every = [p for chip in found.space.codes for p in found.front if p.codes == tuple(chip)]
    static = static_power_w(found.space.base)
    for p in every:
        together = [3 * x["resnet18"] + x["googlenet"] for x in (p.latency_s, p.energy_j)]
        assert p.service_w == pytest.approx(static + 5 * (together[1] - static * together[0]), rel=1e-9)
        made = silicon(p.area_m2, p.chosen["process_nm"])
        spent = in_service(made, p.service_w, 2, usd_per_kwh=0.2, kg_per_kwh=0.3)
        assert (p.service_usd, p.service_kg) == pytest.approx((spent.usd, spent.carbon_kg), rel=1e-9)
        assert 5 * together[0] <= 1.0
    assert found.best["usd"].service_usd == min(p.service_usd for p in every) == found.front[0].service_usd
    assert found.best["carbon"].service_kg == min(p.service_kg for p in every if p.service_kg)
    with pytest.raises(DoesNotFit, match=r"a mix is at least .* \(limit 100 µs\)"):
        search_chip(space, ["resnet18"], years=2, rate=1e4)
    assert found.to_dict()["service"]["years"] == 2
    assert found.provenance["inputs"]["passes"] == [3.0, 1.0]


def test_silicon_in_several_dies_is_paid_by_their_yield(tmp_path: Path) -> None:
    """Large dies are lost to defects, and each bond costs a share of the package."""
    (tmp_path / "npu.toml").write_text(BASE)
    path = tmp_path / "space.toml"
    some = "base = 'npu.toml'\n[choose]\ncompute.array.units = [4]\ncompute.array.rows = [512]\n"
    some += "compute.array.columns = [512]\ndies = [1, 4]\n"
    path.write_text(some)
    found = search_chip(path, ["resnet18"], front="usd,latency")
    (one,) = found.front
    assert one.chosen["dies"] == 4
    assert one.silicon_usd == pytest.approx(float(silicon(one.area_m2, 28, 4).usd), rel=1e-9)
    assert one.silicon_usd < 0.7 * float(silicon(one.area_m2, 28).usd)
    assert found.space.machine(one.codes).dies == 4
    path.write_text(some.replace("[4]\n", "[2]\n", 1))
    with pytest.raises(InputError, match=r"dies: expected dies that divide compute.array.units, got 4 dies of 2"):
        read_space(path)


def test_workloads_become_one_figure_by_sum_worst_or_quantile(found: ChipSearch, space: Path) -> None:
    times = np.array([[1.0, 8.0, 30.0], [2.0, 4.0, 40.0], [3.0, 4.0, 20.0]])
    every = np.arange(3)

    def one(over: str, passes: str = "") -> list[float]:
        return read_mix(("a", "b", "c"), passes, over, "", Service()).one(times, every).tolist()

    assert one("mix", "a:10") == [48.0, 64.0, 54.0]
    assert one("worst") == [2.0, 2.0, 3.0]
    assert one("p60") == [1.5, 2.0, 1.0]
    assert one("p60", "a:8") == [1.0, 2.0, 3.0]
    robust = search_chip(space, ["resnet18", "bert-base"], context=128, over="worst", front="latency")
    least = {n: min(p.latency_s[n] for p in (*found.front, *robust.front)) for n in found.work.names}
    worst = {p.codes: max(p.latency_s[n] / least[n] for n in least) for p in (*found.front, *robust.front)}
    assert worst[robust.front[0].codes] == min(worst.values())
    assert robust.front_size >= 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--front", "latency,energ"], "--front: unknown figure of a chip 'energ'; did you mean 'energy'"),
        (["--passes", "resnet1:3"], "--passes: unknown workload 'resnet1'; did you mean 'resnet18'"),
        (["--over", "p100"], "--over: expected mix, worst, or a quantile such as p90, got 'p100'"),
        (["--years", "3"], "--rate: expected a number above 0: years need passes a second"),
        (["--front", "carbon", "--years", "3", "--rate", "1"], "--carbon: expected the g of CO2 of a kWh"),
    ],
)
def test_wrong_words_of_a_mix_are_refused(
    space: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["search", "chip", "--space", str(space), "--workloads", "resnet18", *words]) == 2
    assert message in capsys.readouterr().err


def test_more_of_everything_is_fastest_and_nothing_on_the_front_is_beaten(found: ChipSearch) -> None:
    assert found.best["latency"].chosen["compute.array.rows"] == 32
    assert found.best["latency"].chosen["memory.dram.bandwidth_bytes_per_s"] == 16e9
    assert found.best["area"].chosen["process_nm"] == 7
    times = [sum(p.latency_s.values()) for p in found.front]
    assert times == sorted(times)
    assert found.front_size == len(found.front)


def test_a_search_goes_on_where_it_was_stopped(space: Path, tmp_path: Path) -> None:
    whole = search_chip(space, ["resnet18"], state=tmp_path / "state")
    files = sorted((tmp_path / "state").rglob("*.npz"))
    assert whole.nests > 0
    again = search_chip(space, ["resnet18"], state=tmp_path / "state")
    assert again.nests == 0
    assert again.to_dict() == whole.to_dict()
    shape = np.load(files[0])["cycles"].shape
    for damage in (b"cut short", b"PK\x03\x04 cut short", None):
        if damage:
            files[0].write_bytes(damage)
        else:
            np.savez(files[0], cycles=np.full(shape, np.nan), energy=np.ones(shape))
        mended = search_chip(space, ["resnet18"], state=tmp_path / "state")
        assert mended.nests > 0
        assert mended.to_dict() == whole.to_dict()
    assert sorted((tmp_path / "state").rglob("*.npz")) == files


def test_no_chip_is_faster_than_its_multipliers_and_one_larger_than_a_wafer_is_no_die(space: Path) -> None:
    space.write_text(SPACE.replace("[16, 32]", "[16, 1e9]").replace('["4GB/s", "16GB/s"]', "[1, 1e17]"))
    found = search_chip(space, ["resnet18"])
    for p in found.front:
        assert 0.0 < p.utilisation["resnet18"] <= 1.0
        assert np.isfinite(p.silicon_usd) == (p.chosen["compute.array.rows"] == 16)
    assert found.to_dict()["front"][0]["silicon_usd"] is None


def test_limits_leave_less_and_what_none_keeps_is_said(space: Path) -> None:
    some = search_chip(space, ["resnet18"], area_m2=0.6e-6)
    assert 0 < some.feasible < some.points
    assert all(p.area_m2 <= 0.6e-6 for p in some.front)
    with pytest.raises(DoesNotFit, match="no chip of 24 is that small"):
        search_chip(space, ["resnet18"], area_m2=1e-9)
    with pytest.raises(DoesNotFit, match="keeps the limits"):
        search_chip(space, ["resnet18"], power_w=1e-3)


def test_limits_are_quantities_and_wrong_words_are_told_at_once(space: Path) -> None:
    text = search_chip(space, "resnet18", area_m2="0.6mm2")
    assert text.to_dict() == search_chip(space, ["resnet18"], area_m2=0.6e-6).to_dict()
    with pytest.raises(InputError) as error:
        search_chip(space, ["resnet18"], area_m2="25kg", power_w=-1.0, latency_s=float("nan"), batch=0, context=-1)
    assert {p.field for p in error.value.problems} == {"area_m2", "power_w", "latency_s", "batch", "context"}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("compute.array.rows", "compute.array.row", r"choose\.compute\.array\.row: unknown field of a chip .*rows"),
        ("[16, 32]", "[16, 0]", "expected a whole number from 1 to .*, got 0"),
        ("[16, 32]", "[16, 2.5]", "expected a whole number from 1 to .*, got 2.5"),
        ('"weight_stationary", "out', '"weight", "out', "unknown dataflow 'weight'"),
        ('"4GB/s"', "1e-300", "bandwidth_bytes_per_s: expected a number from 1 to .*, got 1e-300"),
        ("[28, 7]", "[28, 0.001]", "process_nm: expected a number from 1 to 500, got 0.001"),
        ("[28, 7]", '[28]\nmemory.buffer.copy_bytes = ["1KiB"]', "one of this and memory.buffer.capacity_bytes"),
        ('"4GB/s"', '"4GB"', "expected a number in B/s, got '4GB'"),
        ('field = "compute.array.dataflow"', 'field = "process"', r"when\[0\]\.field: unknown chosen field"),
        ('values = ["output_stationary"]', 'values = ["flexible"]', "'flexible' is no value of compute.array.dataflow"),
        ('base = "npu.toml"', 'base = "h100_sxm"', "h100_sxm has no array with rows"),
        ('base = "npu.toml"', 'most = 20\nbase = "npu.toml"', "at most 20 points, got 24; compute.array.rows has most"),
    ],
)
def test_wrong_spaces_are_refused_by_field(space: Path, old: str, new: str, message: str) -> None:
    space.write_text(SPACE.replace(old, new))
    with pytest.raises(InputError, match=message):
        read_space(space)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["search", "ship"], "unknown search 'ship'"),
        (["search", "chip"], "error: --space: required option is missing"),
        (
            ["search", "chip", "--space", "x.toml", "--workloads", "resnet18", "--area", "25kg"],
            "--area: expected a number in m2",
        ),
        (
            ["search", "chip", "--space", "x.toml", "--workloads", "resnet18", "--area", "25"],
            "--area: expected an area with its unit, such as 25mm2",
        ),
        (["search", "chip", "--space", "SPACE", "--workloads", "resnet1"], "error: --workloads: "),
        (["search", "chip", "--space", "SPACE", "--workloads", "mixtral-8x7b"], "has experts, whose layers are not"),
        (["search", "chip", "--space", "SPACE", "--workloads", "llama-3.2-1b:sleep"], "unknown step 'sleep'"),
        (["search", "chip", "--space", "SPACE", "--workloads", "resnet18:2"], "in a mix: --passes resnet18:2"),
        (["search", "chip", "--space", "SPACE", "--workloads", "resnet18:decode"], "is a network, which has no step"),
    ],
)
def test_wrong_words_are_refused(
    space: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(space) if w == "SPACE" else w for w in words]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said


def test_the_command_line_writes_json_and_the_best_machine(
    space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = tmp_path / "best.toml"
    words = ["search", "chip", "--space", str(space), "--workloads", "resnet18", "--area", "2mm2", "--quiet"]
    assert main([*words, "--json", "--best", str(best)]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["schema"] == "steelyard.search/1"
    assert answer["limits"] == {"area_m2": pytest.approx(2e-6)}
    assert main(["estimate", "resnet18", "--on", str(best), "--json", "--quiet"]) == 0
    alone = json.loads(capsys.readouterr().out)
    assert alone["latency_s"] == pytest.approx(answer["best"]["product"]["latency_s"]["resnet18"], rel=0.25)
    assert main([*words]) == 0
    assert "front of time, energy and area" in capsys.readouterr().out


def test_tables_are_met_at_their_processes() -> None:
    assert multiply_j("int8", 45) == pytest.approx(0.3e-12)
    assert multiply_j("int8", 7) == pytest.approx(0.1e-12)
    assert 0.1e-12 < multiply_j("int8", 16) < 0.3e-12
    assert float(sram_j_per_byte(32768, 45)) == pytest.approx(2.5e-12)
    assert float(sram_j_per_byte(1048576, 7)) == pytest.approx(1.75e-12)
    assert float(memory_area_m2(2.0**20, 28)) < float(memory_area_m2(2.0**20, 65))


def test_no_memory_draws_more_in_a_newer_process_and_none_less_when_it_is_larger() -> None:
    energies = np.array([sram_j_per_byte(2.0 ** np.arange(6, 26), nm) for nm in (3, 5, 7, 16, 28, 45, 65)])
    assert (np.diff(energies, axis=0) > 0).all()
    assert (np.diff(energies, axis=1) > 0).all()


def test_arrays_in_memory_take_the_area_of_their_cells(tmp_path: Path) -> None:
    """187 kB/mm2 in 22 nm: A. Kneip et al., IMAGINE, arXiv:2412.19750, whose macro has 1,152 x 256 cells of a bit."""
    macro = BASE.replace("rows = 16", "rows = 1152").replace("columns = 16", "columns = 256").replace("28", "22")
    macro = macro.replace("clock_hz", "serial_bits = 1\ncell_bits = 1\nclock_hz", 1)
    (tmp_path / "npu.toml").write_text(macro)
    one = find_machine(str(tmp_path / "npu.toml"))
    own = chip_area_m2(one) - sum(float(memory_area_m2(m.capacity_bytes, 22, m.copies)) for m in one.memory[1:])
    assert 1152 * 256 / 8 / own == pytest.approx(187e3 / 1e-6, rel=0.05)
    path = tmp_path / "space.toml"
    path.write_text("base = 'npu.toml'\n[choose]\ncompute.array.units = [1, 2]\n")
    found = search_chip(path, ["resnet18"], front="area,latency")
    assert found.best["area"].area_m2 == pytest.approx(chip_area_m2(one), rel=1e-9)


def test_chips_that_skip_zeros_and_their_networks_are_searched(tmp_path: Path) -> None:
    """Skipping saves time, gating energy alone; a search says what an estimate with the same zeros says."""
    lines = BASE.replace(
        'bandwidth_bytes_per_s = "64GB/s"',
        'bandwidth_bytes_per_s = "64GB/s"\nnetwork = "mesh"\nnodes = 256\nlink_energy_j_per_byte = 1e-13',
    )
    (tmp_path / "npu.toml").write_text(lines)
    choose = (
        '"compute.array.rows" = [16, 32]\n"compute.array.gates" = ["", "both"]\n"compute.array.skips" = ["", "both"]'
    )
    text = f'base = "npu.toml"\nweight_density = 0.4\nmap_density = 0.5\n[choose]\n{choose}'
    (tmp_path / "space.toml").write_text(text)
    space = read_space(tmp_path / "space.toml")
    chips = price_chips(space, {"int8": read_work(["resnet18"], precision_named("int8"))})
    time, energy = (x[:, 0].reshape(2, 2, 2) for x in (chips.time_s, chips.energy_j))
    assert np.all(time[:, :, 1] < 0.7 * time[:, :, 0])
    assert np.all(energy[:, 1, 0] < energy[:, 0, 0])
    np.testing.assert_allclose(time[:, 1, 1], time[:, 0, 1])
    products = (chips.time_s * chips.energy_j)[:, 0]
    best = space.machine(chips.codes[products.argmin()])
    assert best.level("buffer").nodes == best.compute[0].multipliers
    alone = estimate("resnet18", on=best, techniques=["activation-zeros:0.5", "network-pruning:weights,keep=0.4"])
    assert 0.75 * products.min() < alone.latency_s * alone.energy_j_per_item < 1.05 * products.min()
    (tmp_path / "space.toml").write_text(text.replace('skips" = ["", "both"]', 'skips" = ["input"]'))
    with pytest.raises(InputError, match=r"unknown skips 'input'; did you mean 'inputs'"):
        read_space(tmp_path / "space.toml")
