"""Bits, channels and devices of every layer: exact against enumeration, priced as an estimate prices the whole."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest

import steelyard as sy
from steelyard.cli.main import main
from steelyard.errors import DoesNotFit, InputError
from steelyard.exploration.allocation import Allocation
from steelyard.exploration.bits import search_bits
from steelyard.exploration.placement import search_placement
from steelyard.exploration.prune import search_prune
from steelyard.workload.channels import with_open_channels
from steelyard.workload.nets import load_net

pytest.importorskip("highspy")

ON = "rk3588"


def exact(found: Allocation) -> None:
    """Every point of a front is the least goal of all allocations that keep its limits."""
    task = found.task
    codes = np.array(list(product(*map(range, task.sizes))))
    able = np.ones(len(codes), dtype=bool)
    for group in task.groups:
        able &= True if group.valid is None else group.valid[group.features(codes) - group.offset]
    for name, limit in found.limits.items():
        able &= task.measures[name].of(task, codes) <= limit
    goal, axis = (task.measures[n].of(task, codes[able]) for n in (found.goal, found.axis))
    assert found.best.figures[found.goal] == pytest.approx(goal.min(), rel=1e-5)
    for p in found.front:
        room = axis <= p.figures[found.axis] * (1 + 1e-6)
        assert p.figures[found.goal] <= goal[room].min() * (1 + 1e-5)
    assert min(p.figures[found.axis] for p in found.front) == pytest.approx(axis.min(), rel=1e-5)


@pytest.fixture(scope="module")
def bits() -> Allocation:
    return search_bits("alexnet", on=ON, bits="w4a8,8,16", latency="9ms", points=5)


def test_bits_are_the_best_of_all_and_one_width_is_the_estimate(bits: Allocation) -> None:
    exact(bits)
    one = sy.estimate("alexnet", on=ON, precision="int8")
    assert bits.alike["w8a8"].figures["latency_s"] == pytest.approx(one.latency_s, rel=1e-9)
    assert bits.alike["w8a8"].figures["energy_j"] == pytest.approx(one.energy_j_per_item, rel=1e-6)
    assert bits.alike["w8a8"].figures["memory_bytes"] == pytest.approx(one.weight_bytes, rel=1e-3)
    assert bits.alike["w4a8"].figures["memory_bytes"] < 0.52 * bits.alike["w8a8"].figures["memory_bytes"]
    assert bits.best.figures["latency_s"] <= 9e-3
    assert bits.task.proxy


def test_bits_take_the_users_losses(bits: Allocation, tmp_path: Path) -> None:
    layers = bits.task.names
    table = tmp_path / "mine.csv"
    rows = [
        f"{n},{b},{v}" for i, n in enumerate(layers) for b, v in (("w4a8", i), ("8", 0)) if (n, b) != (layers[2], "8")
    ]
    table.write_text("layer,bits,loss\n" + "\n".join(rows) + "\n")
    found = search_bits("alexnet", on=ON, bits="w4a8,8,16", sensitivity=str(table), memory="40MB", points=3)
    exact(found)
    assert all(p.chosen[layers[2]] == "w4a8" for p in found.front)
    assert "w16a16" not in found.best.chosen.values()
    assert not found.task.proxy
    table.write_text(f"layer,bits,loss\n{layers[0]},4,x\nnone,8,1\n")
    with pytest.raises(InputError) as error:
        search_bits("alexnet", on=ON, sensitivity=str(table))
    assert "expected a number as loss" in str(error.value)
    assert "unknown layer 'none'" in str(error.value)
    one = layers[0]
    for rows, said in (
        ("", "no rows below the header"),
        (f"{one},8,1\n{one},w8a8,2\n", "w8a8 is given twice"),
        (f"{one},8bit,1\n", "expected bits such as 8"),
    ):
        table.write_text(f"layer,bits,loss\n{rows}")
        with pytest.raises(InputError, match=said):
            search_bits("alexnet", on=ON, sensitivity=str(table))
    for rows, said in ((f"{one},50%,1\n", "expected a share above 0"), (f"{one},1,1\n{one},1.0,2\n", "a share twice")):
        table.write_text(f"layer,keep,loss\n{rows}")
        with pytest.raises(InputError, match=said):
            search_prune("alexnet", on=ON, sensitivity=str(table))


def test_channels_are_the_best_of_all_and_all_of_them_the_estimate() -> None:
    found = search_prune("alexnet", on=ON, keep="1,0.6,0.3", latency="5ms", points=4)
    exact(found)
    one = sy.estimate("alexnet", on=ON)
    assert found.alike["1"].figures["latency_s"] == pytest.approx(one.latency_s, rel=1e-9)
    assert found.alike["1"].figures["macs"] == one.macs
    assert found.alike["1"].figures["parameters"] == one.parameters


def test_a_pruned_network_costs_as_the_same_network_built_narrow() -> None:
    """MobileNet at half its width, built so by its family, and with its open channels at half."""
    whole, half = load_net("mobilenetv1_100"), load_net("mobilenetv1_100", sets={"width": 0.5, "head": 0})
    graph, groups = with_open_channels(whole)
    assert graph.macs() == whole.macs()
    assert graph.parameters == whole.parameters
    sizes = {g.symbol: g.channels // 2 for g in groups}
    assert float(graph.macs(sizes)) == pytest.approx(float(half.macs()), rel=1e-12)


def test_what_is_added_or_mixed_keeps_its_channels() -> None:
    graph, groups = with_open_channels(load_net("resnet18"))
    together = [g for g in groups if len(g.makers) > 2]
    assert {g.channels for g in together} == {64, 128, 256, 512}
    assert len(groups) == 12  # four shortcuts, and the middle of eight blocks
    assert not with_open_channels(load_net("resnext50_32x4d"))[1] or all(
        "groups" not in n.facts or n.facts["groups"] == 1
        for g in with_open_channels(load_net("resnext50_32x4d"))[1]
        for n in g.makers
    )
    assert set(graph.symbols) == {"batch", *(g.symbol for g in groups)}


@pytest.mark.parametrize(("model", "on"), [("resnet18", "rtx_3090"), ("mobilenet_v2", "snapdragon_8_gen_2")])
def test_one_choice_for_all_is_the_estimate_where_the_host_or_the_rated_power_binds(model: str, on: str) -> None:
    whole, narrow = sy.estimate(model, on=on), sy.estimate(model, on=on, precision="int8")
    found = [
        (search_bits(model, on=on, bits="8,16", points=1).alike["w8a8"], narrow),
        (search_prune(model, on=on, keep="1,0.5", points=1).alike["1"], whole),
        (search_placement(model, on=f"{on},raspberry_pi_5", points=1).alike[on], whole),
    ]
    for point, one in found:
        assert point.figures["latency_s"] == pytest.approx(one.latency_s, rel=1e-9)
        assert point.figures["energy_j"] == pytest.approx(one.energy_j_per_item, rel=1e-9)


@pytest.mark.parametrize("goal", ["latency", "throughput"])
def test_placements_are_the_best_of_all(goal: str) -> None:
    found = search_placement("alexnet", on="rk3588,raspberry_pi_5", goal=goal, link="1GB/s", points=4)
    exact(found)
    for device in ("rk3588", "raspberry_pi_5"):
        one = sy.estimate("alexnet", on=device)
        assert found.alike[device].figures["latency_s"] == pytest.approx(one.latency_s, rel=1e-9)
        assert found.alike[device].figures["energy_j"] == pytest.approx(one.energy_j_per_item, rel=0.02)
        assert any(name.startswith(f"{device}.") for name in found.task.ledger.guesses), "guesses of every device"
    if goal == "throughput":
        order = ["rk3588", "raspberry_pi_5"]
        places = [order.index(c) for c in found.best.chosen.values()]
        assert places == sorted(places)
        assert found.best.figures["period_s"] <= min(p.figures["period_s"] for p in found.alike.values())


def test_a_pipeline_of_like_devices_is_shared_out() -> None:
    found = search_placement("resnet18", on="raspberry_pi_5:2", goal="throughput", link="1GB/s", points=1)
    alone = found.alike["raspberry_pi_5#1"].figures["period_s"]
    assert 0.5 * alone < found.best.figures["period_s"] < 0.65 * alone
    assert found.best.figures["latency_s"] > found.alike["raspberry_pi_5#1"].figures["latency_s"]


def test_limits_that_nothing_keeps_are_json_too(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(DoesNotFit, match=r"latency is at least .* \(limit 1\.00 µs\)"):
        search_bits("alexnet", on=ON, latency="1us")
    with pytest.raises(DoesNotFit, match=r"latency is at least .*; nearest change that fits: latency"):
        search_placement("alexnet", on=f"{ON},jetson_orin_nano", latency="1us")
    words = ["search", "bits", "alexnet", "--on", ON, "--latency", "1us", "--json"]
    assert main(words) == 3
    said = json.loads(capsys.readouterr().out)
    assert (said["schema"], said["kind"], said["fits"], said["front"]) == ("steelyard.search/1", "bits", False, [])
    assert said["change"].startswith("latency ")
    with pytest.raises(DoesNotFit, match=r"macs is at least"):
        search_prune("alexnet", on=ON, macs=1)
    out = tmp_path / "none.json"
    assert (
        main(["search", "network", "--space", "nb201", "--on", "rtx_3090", "--latency", "1us", "--out", str(out)]) == 3
    )
    assert json.loads(out.read_text())["fits"] is False


def test_the_command_line_has_every_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "bits.html"
    words = ["search", "bits", "alexnet", "--on", ON, "--bits", "4,8", "--points", "3"]
    assert main([*words, "--json", "--html", str(page)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["exact"] is True
    assert set(found["best"]["chosen"]) == set(found["layers"])
    assert 'data-figure="layers"' in page.read_text()
    assert main([*words, "--csv"]) == 0
    assert capsys.readouterr().out.splitlines()[0].startswith("loss,latency_s,energy_j")
    assert main(["search", "prune", "alexnet", "--on", ON, "--points", "2"]) == 0
    assert "share of channels kept" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("bits alexnet --on rk3588 --bits 7", "expected bits such as 4 or w4a8"),
        ("bits alexnet --on rk3588 --front tme", "unknown figure"),
        ("bits alexnet --on rk3588 --sensitivity noises", "did you mean 'noise'"),
        ("bits llama-3.1-8b --on rk3588", "expected a network"),
        ("bits alexnet --on rk3588 --points 900", "1 to 50 points"),
        ("bits alexnet --on rk3588 --bits 32", "w32a32"),
        ("prune alexnet --on rk3588 --keep 2", "shares above 0"),
        ("prune alexnet --on rk3588 --step 0", "1 to 1,024"),
        ("placement alexnet --on rk3588", "two to 8 different devices"),
        ("placement alexnet --on rk3588,rk3562 --goal speed", "latency or throughput"),
        ("placement alexnet --on rk3588,rk3562 --link 0GB/s", "above 0"),
        ("placement alexnet --on rk3588,rk35", "unknown machine"),
    ],
)
def test_wrong_words_are_told(words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", *words.split()]) == 2
    assert said in capsys.readouterr().err


def test_words_of_a_wrong_type_are_named() -> None:
    for ask, said in (
        (lambda: sy.search_network(space="nb201", on=5), "on: expected text or a list, got 5"),
        (lambda: sy.search_predictor({"a": 1.0}, space="nb201", devices=5), "devices: expected text, got 5"),
        (lambda: search_bits("alexnet", on=ON, front=5), "front: expected text, got 5"),
        (lambda: search_prune("alexnet", on=ON, keep=None), "keep: expected text or a list, got None"),
    ):
        with pytest.raises(InputError, match=said):
            ask()


@pytest.mark.parametrize(("model", "on"), [("mlperf-tiny-ic", "artix_7a100t"), ("resnet18", "rk3588")])
def test_arithmetic_is_a_part_of_the_energy(model: str, on: str) -> None:
    found = sy.estimate(model, on=on, precision="w1a1" if on != ON else "int8")
    assert 0 < found.arithmetic_j_per_item < found.energy_j_per_item
    assert any("rk3588_single_core" in x for x in found.ledger.assumptions) == (on == ON)
