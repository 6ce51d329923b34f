"""Names of whole systems mean all their devices."""

from __future__ import annotations

import dataclasses

import pytest

import steelyard as sy
from steelyard.errors import InputError
from steelyard.machine.catalogue import find_machine, find_system, find_whole, nodes, systems
from steelyard.machine.cluster import asks_again, parse_cluster
from steelyard.report import entry, listing, text


@pytest.mark.parametrize(
    ("name", "devices", "means"),
    [
        ("dgx_h100", "h100_sxm:8", "dgx_h100: 8 x h100_sxm"),
        ("DGX H200", "h200_sxm:8", "dgx_h200: 8 x h200_sxm"),
        ("dgx_h100:2", "h100_sxm:16", "2 x dgx_h100: 16 x h100_sxm"),
        ("hgx_h100", "h100_sxm:8", "hgx_h100: 8 x h100_sxm"),
        ("gb200_nvl72", "gb200:72", "gb200_nvl72: 72 x gb200"),
        ("GB200 NVL72", "gb200:72", "gb200_nvl72: 72 x gb200"),
        ("mi300x platform", "mi300x:8", "mi300x_platform: 8 x mi300x"),
        ("p5.48xlarge", "h100_sxm:8", "p5.48xlarge: 8 x h100_sxm"),
        ("ml.g6e.12xlarge", "l40s:4", "g6e.12xlarge: 4 x l40s"),
        ("p4d.24xlarge", "a100_sxm_40gb:8", "p4d.24xlarge: 8 x a100_sxm_40gb"),
        ("g5.xlarge", "a10g", "g5.xlarge: 1 x a10g"),
        ("a3-highgpu-8g", "h100_sxm:8", "a3-highgpu-8g: 8 x h100_sxm"),
        ("a4", "b200_sxm:8", "a4-highgpu-8g: 8 x b200_sxm"),
        ("Standard_ND96isr_H100_v5", "h100_sxm:8", "nd96isr_h100_v5: 8 x h100_sxm"),
        ("ND H100 v5", "h100_sxm:8", "nd96isr_h100_v5: 8 x h100_sxm"),
        ("BM.GPU.H100.8", "h100_sxm:8", "bm.gpu.h100.8: 8 x h100_sxm"),
        ("trn2_ultra", "aws_trainium2:64", "trn2_ultra: 64 x aws_trainium2"),
        ("tpu-v5e-8", "tpu_v5e:8", "ct5lp-hightpu-8t: 8 x tpu_v5e"),
        ("v5p-8", "tpu_v5p:4", "ct5p-hightpu-4t: 4 x tpu_v5p"),  # v5p counts cores, two per chip
        ("h100_sxm:8", "h100_sxm:8", ""),
        ("h100", "h100_sxm", ""),
    ],
)
def test_a_system_is_all_its_devices(name: str, devices: str, means: str) -> None:
    found = parse_cluster(name)
    assert (str(found), found.meaning) == (devices, means)


def test_every_system_can_be_asked_for_again() -> None:
    for name in (*systems(), *nodes()):
        whole, found = find_whole(name), parse_cluster(name)
        assert found.count == whole.devices and whole.source, name
        assert parse_cluster(asks_again(found)) == found, name
    assert parse_cluster("dgx_2").per_node == 16
    with pytest.raises(InputError, match="did you mean 'dgx_h100'"):
        parse_cluster("dgx_h10")
    with pytest.raises(InputError, match="at most"):
        parse_cluster("dgx_h100:9000000")


def test_a_rack_holds_replicas_where_one_has_room() -> None:
    whole = sy.estimate("llama-3.1-8b", on="gb200_nvl72", batch=72)
    assert (whole.scenario.plan.tp, whole.scenario.plan.pp, whole.scenario.plan.dp) == (8, 1, 9)  # 9 stages
    assert any("9 replicas share the requests" in line for line in whole.ledger.assumptions)
    assert sy.estimate("llama-3.1-8b", on="gb200_nvl72", pp=9).scenario.plan.dp == 1
    assert sy.estimate("llama-3.1-405b", on="gh200:2").scenario.plan.dp == 1  # nodes of one device


def test_answers_say_what_the_system_is_and_what_it_costs() -> None:
    asked = sy.estimate("llama-3.1-8b", on="p5.48xlarge", tp=8)
    assert "p5.48xlarge: 8 x h100_sxm" in asked.ledger.assumptions
    assert asked.price.usd_per_hour == pytest.approx(55.04 / 8)
    assert "8 x NVIDIA H100 SXM5 80GB (p5.48xlarge)" in text.report(asked).splitlines()[0]
    plain = sy.estimate("llama-3.1-8b", on="h100_sxm:8", tp=8)
    assert asked.tpot_s == plain.tpot_s and not plain.scenario.cluster.meaning


def test_a_plan_takes_at_most_the_system() -> None:
    question = {"rate": 2, "isl": 300, "osl": 20, "ttft": "2s", "requests": 100}
    assert sy.plan("llama-3.1-8b", on="dgx_h100", **question).question.max_gpus == 8  # type: ignore[arg-type]


def test_systems_are_listed_and_shown() -> None:
    rows = {row["name"]: row for row in listing.rows("systems")}
    assert rows["p5.48xlarge"]["usd_per_hour"] == 55.04 and rows["p5.48xlarge"]["node"] == "hgx_h100"
    assert entry.find("dgx_h100").kind == entry.find("gb200_nvl72").kind == "system"
    assert entry.find("hgx_h100").kind == "node" and entry.find("h100").kind == "machine"
    assert find_machine("DGX-H100").name == find_system("dgx-h100").machine == "h100_sxm"
    assert {f.name for f in dataclasses.fields(find_system("dgx_h100"))} >= {"machine", "devices", "source"}


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("Tesla P40", 25, 60),
        ("gtx 1080 ti", 30, 70),
        ("MI50 32GB", 40, 110),
        ("3090 Ti", 80, 150),
        ("Arc A770", 20, 90),
        ("RTX 4090 Laptop", 50, 105),
    ],
)
def test_cards_of_hobbyists_write_as_fast_as_people_see(name: str, least: float, most: float) -> None:
    answer = sy.estimate("llama-3.1-8b", on=name, engine="llamacpp", weights="q4_k_m", isl=512, osl=64)
    assert least < 1 / answer.tpot_s < most
