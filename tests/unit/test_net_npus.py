"""Networks on phones and NPUs: what their runtimes join, keep on chip and hand on, and a device's own scales."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import steelyard as sy
from steelyard import estimate, folders
from steelyard.calibrate.networks import GROUP_TERMS, own_scales
from steelyard.calibrate.own_reach import fit_own_reach, reach_file, read_networks
from steelyard.cli.main import main
from steelyard.cost.net_groups import SHARES, elsewhere, group_terms, share_of, stays_on_chip
from steelyard.cost.net_kernels import NetKernels
from steelyard.cost.net_lower import lower_net
from steelyard.cost.net_terms import net_site
from steelyard.deployment.runtime import find_runtime, precision_named, runtimes, usual_runtime
from steelyard.errors import InputError
from steelyard.estimation.network import NetEstimate
from steelyard.machine.catalogue import find_machine, machine_names
from steelyard.report.network import shortfall
from steelyard.workload.nets import load_net
from steelyard.workload.networks.builder import Builder


def _asked(model: str, on: str, runtime: str, batch: int = 1) -> NetEstimate:
    answer = estimate(model, on=on, runtime=runtime, batch=batch)
    assert isinstance(answer, NetEstimate)
    return answer


def _lowered(channels: int, act: str, runtime: str, precision: str = "fp16") -> NetKernels:
    """The kernels of a convolution to 32 channels and what follows it."""
    net = Builder("small")
    y = net.conv(net.image(channels, 32), 32, 3, pad=1, bias=False)
    graph = net.graph(net.act(y, act) if act else y)
    return lower_net(graph, {"batch": np.array([1.0])}, find_runtime(runtime), precision_named(precision))


def test_what_follows_a_product() -> None:
    """ReLU is part of the convolution before it, SiLU is a kernel of the vector unit."""
    assert _lowered(32, "relu", "qnn").classes == ("conv",)
    assert _lowered(32, "silu", "qnn").classes == ("conv", "fused")


def test_channels_fill_the_tile_at_every_point() -> None:
    """A first layer of three channels costs Rockchip's engine what one of 32 would."""
    assert float(_lowered(3, "", "rknn", "int8").padded[0, 0]) == 2 * 1024 * 32 * 32 * 9
    assert float(_lowered(3, "", "qnn").padded[0, 0]) == 2 * 1024 * 32 * 32


def test_attention_is_products_and_a_softmax_there() -> None:
    graph = load_net("vit_tiny")
    one = lower_net(graph, {"batch": np.array([1.0])}, find_runtime("compile"), precision_named("fp16"))
    parts = lower_net(graph, {"batch": np.array([1.0])}, find_runtime("coreml"), precision_named("fp16"))
    assert one.classes.count("attention") == 12
    assert (parts.classes.count("attention"), parts.classes.count("matmul")) == (0, 24)
    scores = 3 * 197 * 197 * 2.0
    first = parts.classes.index("matmul")
    assert float(parts.written[first, 0]) == scores
    assert float(parts.flops[parts.index("matmul")].sum()) == pytest.approx(
        float(one.flops[one.index("attention")].sum())
    )


def test_a_network_that_fits_is_not_loaded() -> None:
    """ResNet-50 stays on a Hailo-8 and is cut into parts on a Hailo-8L; a batch saves time only there."""
    runtime, precision = find_runtime("hailo"), precision_named("int8")
    kernels = lower_net(load_net("resnet50"), {"batch": np.array([1.0])}, runtime, precision)
    whole, parts = (net_site(find_machine(m), precision) for m in ("hailo8", "hailo8l"))
    assert stays_on_chip(kernels, whole, runtime)
    assert not stays_on_chip(kernels, parts, runtime)
    assert float(group_terms(kernels, whole, runtime)["load.weights"].sum()) == 0
    rate = {m: [_asked("resnet50", m, "hailo", b).throughput_per_s for b in (1, 8)] for m in ("hailo8", "hailo8l")}
    assert rate["hailo8"][1] < 1.25 * rate["hailo8"][0]
    assert rate["hailo8l"][1] > 2 * rate["hailo8l"][0]


def test_channels_lie_in_whole_blocks_and_a_function_of_eight_bits_is_a_table() -> None:
    net = Builder("small")
    graph = net.graph(net.act(net.conv(net.image(3, 32), 40, 3, pad=1), "silu"))
    runtime, sizes = find_runtime("qnn"), {"batch": np.array([1.0])}
    plain, blocks = (lower_net(graph, sizes, runtime, precision_named("fp16"), block=b) for b in (1, 32))
    conv, silu = 0, 1
    assert blocks.read[conv, 0] == 32 / 3 * plain.read[conv, 0] == 2 * 32 * 32 * 32
    assert blocks.written[silu, 0] == 64 / 40 * plain.written[silu, 0] == 2 * 64 * 32 * 32
    assert (blocks.weights == plain.weights).all() and (blocks.flops == plain.flops).all()
    eight = lower_net(graph, sizes, runtime, precision_named("int8"))
    assert eight.flops[silu, 0] == 40 * 32 * 32 < plain.flops[silu, 0]


def test_runtimes_of_machines() -> None:
    assert usual_runtime(find_machine("snapdragon_8_elite")).name == "qnn"
    assert usual_runtime(find_machine("rk3588")).name == "rknn"
    assert _asked("mobilenet_v2", "iphone 12", "").scenario.runtime.name == "coreml"


@pytest.mark.parametrize(
    ("runtime", "machine", "instead"),
    [
        ("coreml", "rtx_4090", "eager (usual), onnxruntime, compile"),
        ("qnn", "h100_sxm", "eager (usual)"),
        ("tensorrt", "coral_edge_tpu", "edgetpu (usual), tflite"),
        ("tensorrt", "mi300x", "eager (usual)"),
        ("openvino", "rtx_4090", "eager (usual)"),
        ("eager", "hailo8", "hailo"),
        ("onnxruntime", "stm32h743", "cmsis_nn (usual), tflm, tinyengine, tinyengine_2020, tvm"),
    ],
)
def test_a_runtime_that_does_not_run_on_a_machine_is_refused_with_those_that_do(
    runtime: str, machine: str, instead: str
) -> None:
    with pytest.raises(InputError) as told:
        estimate("mobilenet_v2", on=machine, runtime=runtime)
    assert str(told.value).startswith(f"runtime: {runtime} does not run on {machine}, which runs {instead}")


def test_every_machine_has_a_usual_runtime_that_runs_there() -> None:
    for name in machine_names():
        machine = find_machine(name)
        assert usual_runtime(machine).runs(machine), name
        assert usual_runtime(machine, onnx=True).runs(machine), name


def test_a_network_on_unlike_devices_is_refused() -> None:
    with pytest.raises(InputError, match=r"on: a network runs on devices of one kind; .* --on h100_sxm,l40s"):
        estimate("resnet50", on="h100_sxm:2+l40s")


def test_ops_that_run_elsewhere_are_said() -> None:
    assert elsewhere(load_net("r3d_18"), find_runtime("tflite")) == ("conv3d",)
    assert elsewhere(load_net("resnet18"), find_runtime("tflite")) == ()
    answer = _asked("r3d_18", "snapdragon_8_gen_3", "tflite")
    assert any("conv3d run on the CPU" in str(g) for g in answer.ledger.guesses.values())


@pytest.mark.parametrize("machine", ["hailo8", "coral_edge_tpu", "rk3588", "snapdragon_8_elite"])
def test_an_op_that_is_not_known_takes_its_bytes_and_is_said(machine: str) -> None:
    net = Builder("one")
    x = net.conv(net.image(3, 224), 64, 3)
    plain, warp = net.graph(x), net.add_node("unknown:acme.Warp", [x], [net.value(net.shape(x))], {})
    without, warped = (estimate(graph, on=machine) for graph in (plain, net.graph(warp)))
    assert isinstance(without, NetEstimate) and isinstance(warped, NetEstimate)
    passed = 2 * 64 * 224 * 224 * warped.scenario.precision.bits / 8
    site = warped.prices[0].site
    assert warped.latency_s - without.latency_s > 0.9 * passed / site.dram_bytes_per_s
    (said,) = warped.unknown_ops
    assert said.op == "acme.Warp" and said.bytes_frac > 0.4


def test_a_machine_that_was_not_measured_is_less_certain() -> None:
    def width(machine: str) -> float:
        low, high = _asked("resnet50", machine, "qnn").interval["latency_s"]
        return high / low

    assert width("snapdragon_8_elite_gen_5") > width("snapdragon_8_elite")


def test_scales_of_a_device_are_found_from_ten_networks() -> None:
    """A device whose arithmetic takes twice and memory four times as long as shared factors say."""
    rng = np.random.default_rng(1)
    parts = rng.lognormal(0, 1, (10, len(GROUP_TERMS)))
    share = np.array([share_of(n) for n in GROUP_TERMS])
    true = np.array([2.0, 4.0, 3.0])
    found = own_scales(parts, parts @ true[share], pull=0.01)
    assert found == pytest.approx(true, rel=0.05)
    assert len(found) == len(SHARES)


def test_scales_multiply_their_terms() -> None:
    runtime = find_runtime("qnn")
    machine = "snapdragon_8_gen_3"
    before = _asked("resnet50", machine, "qnn").latency_s
    reach = runtime.reach_on(machine, "hexagon", "npu", "nchw", precision="fp16")
    assert reach is not None
    a, b, c = reach.scale[machine]
    doubled = replace(reach, scale={machine: (2 * a, 2 * b, 2 * c)})
    from steelyard.cost.net_price import price_net

    price = price_net(
        load_net("resnet50"),
        {"batch": np.array([1.0])},
        find_machine(machine),
        replace(runtime, reach=(doubled,)),
        precision_named("fp16"),
    )
    assert float(price.time_s[0]) == pytest.approx(2 * before)


def test_a_device_that_takes_twice_as_long_is_calibrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks measured on a device give its scales; their file answers what was not measured."""
    machine = find_machine("apple_a15")
    names = ("resnet18", "mobilenet_v2", "googlenet", "densenet121")
    before = {n: _asked(n, machine.name, "coreml").latency_s for n in (*names, "resnet50")}
    table = tmp_path / "mine.csv"
    table.write_text("network,latency_s\n" + "".join(f"{n},{2 * before[n]}\n" for n in names))
    fit = fit_own_reach(read_networks(table), machine, find_runtime("coreml"), precision_named("fp16"))
    assert fit.after < 5 < fit.before
    assert fit.reach.scale[machine.name] == pytest.approx((2, 2, 2), rel=0.1)
    (tmp_path / "own" / "reach").mkdir(parents=True)
    (tmp_path / "own" / "reach" / "mine.toml").write_text(reach_file(fit, find_runtime("coreml")))
    monkeypatch.setenv("STEELYARD_CATALOGUE", str(tmp_path / "own"))
    caches = (folders.catalogue_folders, runtimes)
    try:
        for cached in caches:
            cached.cache_clear()
        assert _asked("resnet50", machine.name, "coreml").latency_s == pytest.approx(2 * before["resnet50"], rel=0.1)
    finally:
        monkeypatch.delenv("STEELYARD_CATALOGUE")
        for cached in caches:
            cached.cache_clear()
    table.write_text("network,latency_s,batch\nresnet18,fast,1\nresnet34,1,0\nresnet50,1,1\n")
    with pytest.raises(InputError, match="line 2: latency_s: expected a positive number, got 'fast'") as told:
        read_networks(table)
    assert "line 3: batch" in str(told.value)
    table.write_text("network,latency_s\nresnet18,1e-12\nresnet34,1e6\nresnet50,1\nresnet34,1\n")
    with pytest.raises(InputError, match=r"expected a pass of 1 us to 1 h, got 1\.00 ps") as told:
        read_networks(table)
    assert "line 3: latency_s" in str(told.value) and "line 5: resnet34 is in line 3 already" in str(told.value)
    table.write_text("network,latency_s\nresnet18,3.1\nresnet34,0.004\nresnet50,0.003\n")
    with pytest.raises(InputError, match=r"networks: resnet18: 3\.10 s where about .* is predicted on apple_a15"):
        fit_own_reach(read_networks(table), machine, find_runtime("coreml"), precision_named("fp16"))
    table.write_text("network,time\n" + 3 * "resnet18,1\n")
    with pytest.raises(InputError, match="column 'latency_s' is missing; expected network, latency_s or"):
        read_networks(table)


def test_the_command_line_calibrates_a_runtime_without_factors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine and runtime nobody measured, networks that take ten times the limits are answered so."""
    names = ("resnet18", "mobilenet_v2", "googlenet", "densenet121")
    words: dict[str, Any] = {"on": "raspberry_pi_5", "runtime": "tvm", "precision": "fp32"}
    plain = {n: sy.estimate(n, **words).latency_s for n in (*names, "resnet50")}
    table, own = tmp_path / "mine.csv", tmp_path / "own"
    table.write_text("network,latency_ms\n" + "".join(f"{n},{5e3 * plain[n]}\n" for n in names))
    command = ["calibrate", "--networks", str(table), "--runtime", "tvm", "--on", words["on"], "--out", str(own)]
    assert main([*command, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["precision"] == "fp32" and said["left_out_mean_ape"] < 10 < said["before_mean_ape"]
    assert [r["network"] for r in said["rows"]] == list(names)
    monkeypatch.setenv("STEELYARD_CATALOGUE", str(own))
    caches = (folders.catalogue_folders, runtimes)
    for cached in caches:
        cached.cache_clear()
    try:
        found = sy.estimate("resnet50", **words)
    finally:
        monkeypatch.delenv("STEELYARD_CATALOGUE")
        for cached in caches:
            cached.cache_clear()
    assert found.latency_s == pytest.approx(5 * plain["resnet50"], rel=0.1)
    table.write_text("network,latency_ms\nresnet18,90\nresnet34,90\nresnetx,90\n")
    assert main(command) == 2
    assert "--networks: resnetx: unknown network" in capsys.readouterr().err


def test_a_file_is_run_by_onnx_runtime_but_on_chips_whose_makers_compile() -> None:
    usual = {
        m: usual_runtime(find_machine(m), onnx=True).name
        for m in ("rtx_4090", "xeon_8592", "snapdragon_8_elite", "hailo8l", "rk3588", "apple_a15")
    }
    assert list(usual.values()) == ["onnxruntime"] * 3 + ["hailo", "rknn", "coreml"]
    assert usual_runtime(find_machine("rtx_4090")).name == "eager"


def test_microcontrollers_run_small_networks_and_say_what_does_not_fit() -> None:
    small = estimate("mobilenetv2_100", on="stm32h743", size="96", set="width=0.35")
    assert isinstance(small, NetEstimate)
    assert small.scenario.runtime.name == "cmsis_nn" and small.scenario.precision.name == "int8" and small.fits
    assert small.latency_s > 2 * small.macs / 1.92e9  # two products a cycle are what the multiplier allows
    large = estimate("resnet50", on="stm32f746")
    assert isinstance(large, NetEstimate) and not large.fits
    stored = replace(small, weight_bytes=3e6)
    assert small.storage_capacity_bytes == 2 * 2**20 and not stored.fits
    assert "of 2.00 MiB" in shortfall(stored) and "of 320 KiB" in shortfall(large)
    with pytest.raises(InputError, match="cmsis_nn does not run on rtx_4090"):
        estimate("resnet50", on="rtx_4090", runtime="cmsis_nn")


def test_an_edge_tpu_sends_what_does_not_stay_on_chip_over_its_bus() -> None:
    stays, goes = (_asked(n, "coral_edge_tpu", "edgetpu") for n in ("mobilenetv2_100", "vgg16"))
    assert stays.latency_s < 5e-3
    assert goes.latency_s > goes.weight_bytes / 0.5e9
    assert usual_runtime(find_machine("coral_edge_tpu")).name == "edgetpu"
