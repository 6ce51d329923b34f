"""Measuring this computer: what it is, from captured files; fits and files from a made-up session; timing."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from steelyard.calibrate.measure.graphs import kernel_of
from steelyard.calibrate.measure.host import Cache, Host, linux_host, macos_host
from steelyard.calibrate.measure.plan import Case, cases, stream_cases
from steelyard.calibrate.measure.session import Measured, Session, quiet_threads
from steelyard.calibrate.measure.timing import Timed, Timer, interleaved
from steelyard.cost import cpu
from steelyard.cost.models import PricingContext
from steelyard.cost.site import site_of
from steelyard.deployment.engine import default_engine
from steelyard.machine.catalogue import find_machine
from steelyard.machine.cluster import cluster_of

pytest.importorskip("scipy")


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def caches(cpu_number: int, shared: str) -> dict[str, str]:
    base = f"sys/devices/system/cpu/cpu{cpu_number}/cache"
    levels = [("1", "Data", "48K", str(cpu_number)), ("1", "Instruction", "32K", str(cpu_number))]
    levels += [("2", "Unified", "1024K", str(cpu_number)), ("3", "Unified", "32768K", shared)]
    found: dict[str, str] = {}
    for i, (level, kind, size, served) in enumerate(levels):
        found |= {
            f"{base}/index{i}/level": level,
            f"{base}/index{i}/type": kind,
            f"{base}/index{i}/size": size,
            f"{base}/index{i}/shared_cpu_list": served,
        }
    return found


def test_an_x86_linux_host(tmp_path: Path) -> None:
    block = "processor\t: {n}\nvendor_id\t: GenuineIntel\nmodel name\t: Example CPU\ncpu MHz\t\t: 2500.0\n"
    block += "physical id\t: 0\ncore id\t\t: {core}\n"
    files = {"proc/cpuinfo": "\n".join(block.format(n=n, core=n // 2) for n in range(4))}
    files |= {"proc/meminfo": "MemTotal:       16000000 kB\n"}
    for n in range(4):
        files |= caches(n, "0-3")
    host = linux_host(write(tmp_path, files), "x86_64")
    assert (host.title, host.vendor, host.family, host.cores) == ("Example CPU", "Intel", "x86", 2)
    assert host.clock_hz == 2.5e9
    assert host.memory_bytes == 16e6 * 1024
    assert [c.level for c in host.caches] == [1, 2, 3]
    assert host.last_level_bytes == 32 * 2**20
    assert linux_host(tmp_path, "x86_64", {0}).cores == 1


def test_an_arm_linux_host_in_a_container(tmp_path: Path) -> None:
    files = {
        "proc/cpuinfo": "\n".join(f"processor\t: {n}\nCPU implementer\t: 0x41\n" for n in range(8)),
        "sys/fs/cgroup/cpu.max": "300000 100000",
        "sys/firmware/devicetree/base/model": "Example Board\x00",
    }
    host = linux_host(write(tmp_path, files), "aarch64")
    assert (host.title, host.vendor, host.family, host.cores) == ("Example Board", "Arm", "arm_cpu", 3)
    assert host.caches == ()
    assert host.last_level_bytes > 0


def test_a_host_that_says_nothing(tmp_path: Path) -> None:
    host = linux_host(tmp_path, "riscv64")
    assert host.cores == 1
    assert host.memory_bytes > 0


@pytest.mark.parametrize(("machine", "family", "vendor"), [("arm64", "arm_cpu", "Apple"), ("x86_64", "x86", "Intel")])
def test_a_mac(machine: str, family: str, vendor: str) -> None:
    known = {
        "machdep.cpu.brand_string": "Example Mac",
        "hw.physicalcpu": "10",
        "hw.memsize": str(32 * 2**30),
        "hw.l2cachesize": "4194304",
    }
    if machine == "arm64":
        known |= {
            "hw.perflevel0.physicalcpu": "8",
            "hw.perflevel0.l2cachesize": "16777216",
            "hw.perflevel0.cpusperl2": "4",
        }
    host = macos_host(lambda name: known.get(name, ""), machine)
    assert (host.title, host.family, host.vendor) == ("Example Mac", family, vendor)
    assert host.cores == (8 if machine == "arm64" else 10)
    assert host.last_level_bytes == (2 * 2**24 if machine == "arm64" else 10 * 2**22)


def test_busy_cores_are_left_to_others() -> None:
    def host(load: float) -> Host:
        return Host("x", "y", "x86", "Linux", 8, 2e9, 1e9, (), load)

    assert [quiet_threads(host(x)) for x in (0.1, 3.2, 20.0)] == [8, 5, 1]


def test_timing_keeps_the_undisturbed_rounds() -> None:
    now = [0.0]
    counted: Iterator[int] = iter(range(10_000))

    def call() -> None:
        now[0] += 1e-3 * (20.0 if next(counted) % 3 == 0 else 1.0)

    found = interleaved([call, call], Timer(lambda: now[0], lambda: None), budget_s=5.0, rounds=9)
    assert [f.time_s for f in found] == pytest.approx([1e-3, 1e-3])
    assert all(f.rounds == 9 for f in found)


@pytest.mark.parametrize("case", cases(("fp32", "bf16"), quick=True)[::5], ids=str)
def test_every_case_is_an_op_of_its_kind(case: Case) -> None:
    kernel = kernel_of(case, find_machine("epyc_9755"))
    wanted = {"gemm": "gemm", "conv": "gemm", "vector": "vector", "prefill": "attention", "decode": "attention"}[
        case.op
    ]
    assert kernel.kind == wanted
    variant = cpu.variant_of(kernel)
    assert variant.startswith("chain_") if wanted == "vector" else case.op in variant or variant == "batched"
    work = cpu.kernel_work(kernel)
    assert all(np.all(np.asarray(v) >= 0) for v in work.values())


def made_up_session() -> Session:
    """A session of a computer that behaves exactly as the model says, with 2 % noise."""
    host = Host("Made up", "Nobody", "x86", "Linux", 2, 3e9, 16e9, (Cache(2, 2e6, 2), Cache(3, 32e6, 1)))
    rng = np.random.default_rng(0)
    machine = find_machine("epyc_9755")
    site = site_of(machine, "vector", "fp32")
    rows = []
    for case in cases(("fp32",)):
        kernel = kernel_of(case, machine)
        parameters = {"gemm": cpu.CpuProduct(), "attention": cpu.CpuAttention(), "vector": cpu.CpuChain()}[kernel.kind]
        scaled = cpu.time_s(kernel.kind, cpu.kernel_work(kernel), site, parameters)
        rows.append(Measured(case, Timed(float(scaled) * float(np.exp(rng.normal(0, 0.02))), 0.01, 9)))
    rates = {"read": site.dram_bytes_per_s, "copy": site.dram_bytes_per_s / 2, "triad": site.dram_bytes_per_s / 3}
    streams = [Measured(c, Timed(c.shape["bytes"] / rates[c.detail], 0.0, 9)) for c in stream_cases(32e6, 16e9)]
    return Session(host, "made up", "cpu", "Made up", 2, ("fp32",), tuple(rows), tuple(streams), 1.0, {})


def test_a_session_becomes_a_machine_and_its_calibration(tmp_path: Path) -> None:
    from steelyard.calibrate.here import write_here

    found, paths = write_here(made_up_session(), "made_up", str(tmp_path))
    machine = find_machine(str(tmp_path / "machines" / "made_up.toml"))
    assert machine == found.machine
    assert machine.kind == "cpu"
    assert [m.name for m in machine.memory] == ["dram", "l3", "l2"]
    assert "compute.cores.peak" in machine.guess
    table = tomllib.loads((tmp_path / "calibration" / "made_up" / "cpu.toml").read_text())
    for variant in ("gemm", "conv", "conv_1x1", "batched", "prefill", "decode"):
        assert table[variant]["fp32"]["residual"]["median_ape"] < 10.0, variant
        assert table[variant]["fp32"]["provenance"]["kind"] == "fitted"
    assert table["chain_norm"]["parameters"]["launch_s"] > 0
    assert len(paths) == 2
    assert not [p for p in tmp_path.rglob("*") if p.name.startswith(".")]


def test_a_measured_cpu_prices_with_its_own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from steelyard.calibrate.here import write_here
    from steelyard.cost import parameters

    found, _ = write_here(made_up_session(), "made_up", str(tmp_path))
    table = tomllib.loads((tmp_path / "calibration" / "made_up" / "cpu.toml").read_text())
    monkeypatch.setattr(cpu, "calibration_table", lambda folder, op: table if folder == "made_up" else {})
    monkeypatch.setattr(parameters, "calibration_table", lambda folder, op: table if folder == "made_up" else {})
    parameters.calibrated.cache_clear()
    assert cpu.measured_cpu("made_up")
    assert not cpu.measured_cpu("epyc_9755")
    session = made_up_session()
    ratios = []
    for row in session.rows:
        kernel = kernel_of(row.case, found.machine)
        site = site_of(found.machine, kernel.engine, kernel.compute)
        model = {"gemm": cpu.gemm, "attention": cpu.attention, "vector": cpu.vector}[kernel.kind]
        used = model(kernel, PricingContext(cluster_of(found.machine), default_engine(found.machine), site))
        assert used.source == "fitted: made_up"
        ratios.append(abs(float(used.time_s) / row.time_s - 1.0))
    parameters.calibrated.cache_clear()
    assert np.median(ratios) < 0.05


def test_numpy_runs_what_it_can() -> None:
    from steelyard.calibrate.measure.kernels_numpy import Kernels

    kernels = Kernels(2**22)
    made = {case.op: kernels.call(case) for case in cases(("fp32",)) if case.shape.get("m", 1) <= 8}
    assert made["conv"] is None
    assert made["prefill"] is None
    for op in ("gemm", "vector"):
        call = made[op]
        assert call is not None
        assert np.all(np.isfinite(np.asarray(call())))


def test_torch_runs_every_kind_and_the_blocks_match_their_graphs() -> None:
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    from steelyard.calibrate.measure.blocks import blocks
    from steelyard.calibrate.measure.kernels_torch import Kernels

    kernels = Kernels(torch.device("cpu"), 2**22, 1)
    small = {(c.op, c.detail): c for c in cases(("fp32",)) if c.shape.get("m", 1) <= 8 and c.shape.get("rows", 1) <= 16}
    for case in small.values():
        kernels.call(case)()
    made = [b for b in blocks(("fp32",), 1e6) if "context 100" in b.name or "CNN" in b.name][:4]
    for block in made:
        with FlopCounterMode(display=False) as counter:
            block.make()()
        fused = block.graph.where(lambda op: op.fuse.endswith(".attention"))  # not counted on the CPU
        matmul = float(block.graph.matmul_flops(dense=True) - fused.matmul_flops(dense=True))
        assert counter.get_total_flops() == pytest.approx(matmul, rel=0.02), block.name


def test_an_unknown_gpu_is_refused() -> None:
    from dataclasses import replace

    from steelyard.calibrate.here_gpu import gpu_sections
    from steelyard.errors import InputError

    with pytest.raises(InputError, match="--samples"):
        gpu_sections(replace(made_up_session(), device="cuda", device_title="Nobody's GPU 7"))
