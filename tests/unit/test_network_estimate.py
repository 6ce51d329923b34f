"""Estimates of networks: the question, kernels of runtimes, prices, memory, and what is refused."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import steelyard as sy
from steelyard.cli.main import main
from steelyard.cost.net_lower import lower_net
from steelyard.cost.net_price import price_net
from steelyard.deployment.runtime import Runtime, find_runtime, precision_named, runtimes
from steelyard.errors import InputError
from steelyard.estimation.network import NetEstimate
from steelyard.machine.catalogue import find_machine
from steelyard.workload.ingest.kept_graph import read_graph
from steelyard.workload.nets import load_net
from steelyard.workload.networks.builder import Builder
from steelyard.workload.networks.values import symbol


def asked(*names: Any, **words: Any) -> NetEstimate:
    found = sy.estimate(*names, **words)
    assert isinstance(found, NetEstimate)
    return found


def test_a_network_by_name_has_every_figure_and_its_limit_holds() -> None:
    found = asked("resnet50", "rtx_4090", batch=32, runtime="compile", precision="amp")
    data = found.to_dict()
    assert data["schema"] == "steelyard.estimate/2" and data["unknown_ops"] == []
    assert data["macs"] == pytest.approx(4.089e9, rel=0.01) and data["parameters"] == 25_557_032
    low, high = data["interval"]["latency_s"]
    assert data["limit"]["latency_s"] <= low <= data["latency_s"] <= high
    assert data["throughput_per_s"] == pytest.approx(32 / data["latency_s"])
    assert data["phases"][0]["time_s"] == data["latency_s"] and data["fits"]
    assert data["usd_per_million_items"] > 0 < data["energy_j_per_item"]
    again = sy.estimate(**data["provenance"]["inputs"])
    assert again.to_dict() == data


def test_more_images_take_longer_and_more_devices_answer_more() -> None:
    one, two, four = (asked("resnet50", "rtx_3090", batch=b) for b in (1, 32, 256))
    assert one.latency_s < two.latency_s < four.latency_s
    assert one.peak_memory_bytes < two.peak_memory_bytes < four.peak_memory_bytes
    both = asked("resnet50", "rtx_3090:2", batch=32)
    assert both.throughput_per_s == pytest.approx(2 * two.throughput_per_s) and both.latency_s == two.latency_s
    huge = asked("resnet50", "rtx_3090", batch=100_000)
    assert not huge.fits


def test_what_a_runtime_joins_is_no_traffic() -> None:
    net, amp, plain = load_net("resnet50"), precision_named("amp"), precision_named("fp16")
    sizes = {"batch": np.array([1.0, 64.0])}
    kernels = {
        (fuses, p.name): lower_net(net, sizes, Runtime("r", "r", fuses), p)  # type: ignore[arg-type]
        for fuses in ("nothing", "pointwise", "epilogue")
        for p in (amp, plain)
    }
    for p in ("amp", "fp16"):
        by = [kernels[f, p] for f in ("nothing", "pointwise", "epilogue")]
        assert len(by[0]) > len(by[1]) > len(by[2])
        assert all((a.bytes.sum(axis=0) > b.bytes.sum(axis=0)).all() for a, b in itertools.pairwise(by))
    macs = 2 * load_net("resnet50").macs({"batch": np.array([1.0, 64.0])})
    products = [c in ("conv", "conv1x1", "linear") for c in kernels["epilogue", "fp16"].classes]
    assert kernels["epilogue", "fp16"].flops[products].sum(axis=0) == pytest.approx(macs)
    assert len(kernels["epilogue", "fp16"]) <= 60  # 53 convolutions, the classifier, pools
    assert kernels["nothing", "amp"].classes.count("weight_cast") == 55  # 54 weights and the bias of the classifier


def test_prices_are_never_below_the_limits_and_grow_with_slower_machines() -> None:
    net, eager = load_net("mobilenet_v2"), find_runtime("eager")
    sizes = {"batch": np.array([256.0])}
    slow, fast = (
        price_net(net, sizes, find_machine(m), eager, precision_named("amp")) for m in ("rtx_3090", "rtx_4090")
    )
    assert (slow.kernel_s >= slow.limit_s).all() and slow.time_s > fast.time_s
    assert "depthwise" in slow.kernels.classes


def test_every_runtime_of_the_catalogue_says_where_its_factors_are_from() -> None:
    for runtime in runtimes().values():
        for reach in runtime.reach:
            assert reach.source and reach.stacks, runtime.name
            assert reach.times or runtime.terms in ("loops", "cycles", "stream"), runtime.name


@pytest.mark.parametrize(
    ("words", "field"),
    [
        ({"runtime": "eagre"}, "runtime"),
        ({"precision": "fp17"}, "precision"),
        ({"layout": "chwn"}, "layout"),
        ({"isl": 100}, "isl"),
        ({"size": "0x0"}, "size"),
        ({"set": "tokens"}, "set"),
        ({"set": "tokenz=3"}, "set"),
        ({"batch": 0}, "batch"),
        ({"inputs": (1,)}, "inputs"),
        ({"made_up": 1}, "made_up"),
    ],
)
def test_wrong_words_are_refused_by_their_field(words: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        sy.estimate("resnet50", "rtx_4090", **words)
    assert any(p.field.partition(".")[0] == field for p in caught.value.problems), caught.value.problems


def test_words_of_networks_are_refused_of_a_model_that_is_served() -> None:
    with pytest.raises(InputError, match="runtime"):
        sy.estimate("llama-3.1-8b", "h100_sxm", runtime="eager")


def test_an_explained_array_says_what_each_memory_moves(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "alexnet", "--on", "eyeriss", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["kernels"]
    last = rows[-1]
    assert last["op"] == "linear"  # weights used once: all of them come from outside, filled up to the array's width
    assert last["bytes"] <= last["level_bytes"]["dram"] <= 1.05 * last["bytes"]
    assert rows[0]["spread"]["rows"] <= 14  # row stationary: rows of outputs over the columns of 12 x 14 elements
    assert 1 <= np.prod([*rows[0]["spread"].values()]) <= 12 * 14
    assert set(rows[0]["tile"]) == {"inputs", "outputs", "rows"}
    for row in rows:
        if row["class"] == "conv":  # a value is used again inside: fewer bytes outside
            assert row["level_bytes"]["dram"] < row["level_bytes"]["buffer"] < 4 * row["flops"]
    assert main(["explain", "alexnet", "--on", "eyeriss"]) == 0
    assert "moved  dram " in capsys.readouterr().out


def test_the_command_line_answers_networks(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["estimate", "resnet50", "--on", "rtx_4090,rtx_3090", "--batch", "1,8", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert [(e["machine"]["name"], e["batch"]) for e in data["estimates"]] == [
        *(("rtx_4090", b) for b in (1, 8)),
        *(("rtx_3090", b) for b in (1, 8)),
    ]
    assert main(["explain", "resnet50", "--on", "rtx_4090", "--json"]) == 0
    kernels = json.loads(capsys.readouterr().out)["kernels"]
    assert {k["class"] for k in kernels} > {"conv", "conv1x1", "batch_norm"}
    assert main(["estimate", "resnet50", "--on", "rtx_4090", "--batch", "100000"]) == 3
    assert "does not fit" in capsys.readouterr().err
    assert main(["estimate", "resnet50", "--on", "rtx_4090"]) == 0
    assert "resnet50 on NVIDIA GeForce RTX 4090" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["yolov8n", "hrnet_w18", "deeplabv3_resnet50"])
def test_steps_nobody_measured_cost_no_second_each(name: str) -> None:
    assert asked(name, "rtx_4090", batch=8).latency_s < 0.2


def test_a_name_of_timm_is_the_catalogues_where_timm_is_not_installed() -> None:
    from steelyard.workload.ingest.libraries import installed

    if installed("timm"):
        pytest.skip("timm is installed, and answers itself")
    assert load_net("timm:resnet50.a1_in1k").parameters == load_net("resnet50").parameters
    with pytest.raises(InputError, match="needs"):
        load_net("timm:no_such_network")


def test_runtimes_and_pipelines_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    for kind, known in (("runtimes", "tensorrt"), ("pipelines", "flux.1-dev")):
        assert main(["ls", kind, "--json"]) == 0
        assert known in [row["name"] for row in json.loads(capsys.readouterr().out)["rows"]]


def test_a_resize_goes_over_images_and_channels_where_channels_come_first() -> None:
    def steps(layout: str, tokens: bool) -> float:
        net = Builder("resized")
        if tokens:
            x = net.linear(net.input((symbol("batch"), 49, 8)), 64)
            x = net.view(net.transpose(x), symbol("batch"), 64, 7, 7)
        else:
            x = net.relu(net.conv(net.image(3, (7, 7)), 64, 3))
        graph = net.graph(net.resize(x, 14, 14, mode="bilinear"))
        kernels = lower_net(graph, {"batch": 8}, find_runtime("eager"), precision_named("fp32"), layout)
        return float(kernels.serial[kernels.index("resize")].sum())

    assert steps("nchw", tokens=False) == 8 * 64  # a thread for a pixel
    assert steps("nhwc", tokens=False) == steps("nchw", tokens=True) == 1  # channels lie side by side
    words = {"batch": 64, "precision": "amp"}
    slow, fast = (asked("efficientformerv2_s0", "rtx_4090", runtime=r, **words) for r in ("eager", "compile"))
    assert slow.latency_s > 5 * fast.latency_s  # a compiled network has no such kernel


def test_attention_of_five_axes_is_products_and_a_softmax_in_pytorch() -> None:
    def classes(runtime: str, *more: int) -> set[str]:
        net = Builder("attended")
        q, k, v = (net.input((symbol("batch"), 4, *more, 16, 8)) for _ in range(3))
        graph = net.graph(net.attention(q, k, v))
        return set(lower_net(graph, {"batch": 2}, find_runtime(runtime), precision_named("fp16")).classes)

    assert classes("eager") == classes("compile") == classes("tensorrt", 9) == {"attention"}
    assert classes("eager", 9) == classes("compile", 9) == {"matmul", "softmax"}  # NesT's blocks are a fifth axis


def test_a_name_that_a_served_model_has_is_reached_by_a_prefix(capsys: pytest.CaptureFixture[str]) -> None:
    found = asked("net:bert_base", "h100_sxm", runtime="tensorrt")
    assert found.scenario.name == "bert_base" and found.macs == pytest.approx(11.17e9, rel=0.01)
    for words in ({"runtime": "tensorrt"}, {"size": "178"}):
        with pytest.raises(InputError, match="as a network it is net:bert_base") as told:
            sy.estimate("bert_base", "h100_sxm", **words)
        assert [p.field for p in told.value.problems] == list(words)
    assert main(["estimate", "bert_base", "--on", "h100_sxm", "--runtime", "compile"]) == 2
    assert "--runtime: only of networks (resnet50, model.onnx), and bert_base is served" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"llama-3.1-8b is served token by token$"):
        sy.estimate("llama-3.1-8b", "h100_sxm", runtime="eager")


@pytest.mark.parametrize(
    ("folder", "text", "model", "said"),
    [
        ("nets", "garbage [[[", "my_net", "mine.toml: malformed TOML"),
        ("nets", '[[net]]\nname = "my_net"\nfamily = "resnat"\n', "my_net", "did you mean 'resnet'"),
        ("ops", "x[", "resnet50", "mine.toml: malformed TOML"),
        ("runtimes", '[[runtime]]\nname = "mine"\n', "resnet50", "mine.toml: "),
    ],
)
def test_a_broken_file_of_the_users_is_named_with_its_folder(
    folder: str, text: str, model: str, said: str, tmp_path: Path
) -> None:
    path = tmp_path / folder / "mine.toml"
    path.parent.mkdir()
    path.write_text(text)
    words = [sys.executable, "-m", "steelyard", "estimate", model, "--on", "l4"]
    ran = subprocess.run(
        words, env={**os.environ, "STEELYARD_CATALOGUE": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 2
    assert f"{folder}/" in ran.stderr and said in ran.stderr


def test_a_graph_is_read_from_regular_files_only(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "graph.json.gz")
    with pytest.raises(InputError, match="no regular file"):
        read_graph(tmp_path / "graph.json.gz")


@pytest.mark.parametrize(
    ("on", "words", "said"),
    [
        ("hailo8l", {}, "nothing that runs on hailo8l does"),
        ("stm32f746", {}, "nothing that runs on stm32f746 does"),
        ("rtx_4090", {"runtime": "tensorrt"}, "on rtx_4090 eager, compile do"),
    ],
)
def test_what_only_infers_trains_nothing(on: str, words: dict[str, str], said: str) -> None:
    with pytest.raises(InputError, match=f"runs no steps of training; {said}"):
        sy.estimate("resnet18", on, train=True, **words)
    assert sy.estimate("resnet18", "rtx_4090", train=True, batch=8).latency_s > 0
