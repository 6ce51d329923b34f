"""Cards of one host: how many stand together, and what lies between them."""

from __future__ import annotations

import pytest

from steelyard import estimate
from steelyard.errors import InputError
from steelyard.machine.catalogue import find_network
from steelyard.machine.cluster import parse_cluster


@pytest.mark.parametrize(
    ("text", "nodes", "peer", "gigabytes_per_s"),
    [
        ("rtx_4090:2", 1, "pcie4", 31.5),  # cards whose file states no node stand in one host
        ("radeon_ai_pro_r9700:4", 1, "pcie5", 63.0),
        ("rtx_5090:12", 2, "pcie5", 63.0),
        ("rtx_3090:2", 1, "nvlink3_bridge", 56.25),  # a bridge joins two
        ("rtx_3090:4", 1, "pcie4", 31.5),
        ("a6000:4", 1, "pcie4", 31.5),
        ("h100_nvl:2", 1, "nvlink4_bridge", 300.0),
        ("h100_nvl:4", 1, "pcie5", 63.0),
        ("h200_nvl:4", 1, "nvlink4_bridge_4", 450.0),
        ("h100_sxm:8", 1, "nvlink4", 450.0),
        ("dgx_spark:2", 2, None, 0.0),  # a computer of its own
    ],
)
def test_cards_stand_together_up_to_a_host_and_bridges_join_few(
    text: str, nodes: int, peer: str | None, gigabytes_per_s: float
) -> None:
    found = parse_cluster(text)
    assert found.node_count == nodes
    assert (found.peer and found.peer.name) == peer
    assert found.peer_bandwidth_bytes_per_s == pytest.approx(gigabytes_per_s * 1e9)


def test_two_cards_of_a_desk_do_not_speak_infiniband() -> None:
    def prompt_s(machine: str) -> float:
        return float(estimate("llama-3.1-8b", machine, weights="awq", isl=4096, osl=8, engine="vllm").ttft_s)

    assert find_network("infiniband_ndr").bandwidth_bytes_per_s > parse_cluster("rtx_3060:4").peer_bandwidth_bytes_per_s
    assert prompt_s("rtx_3090:2") < prompt_s("rtx_3090:4") * 2


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("2x3090", "rtx_3090:2"),
        ("8 x H100", "h100_sxm:8"),
        ("2 x NVIDIA GeForce RTX 3090", "rtx_3090:2"),  # as titles say it
        ("rtx3090x2", "rtx_3090:2"),
        ("H100 \u00d78", "h100_sxm:8"),
        ("2x dgx_h100", "h100_sxm:16"),
        ("1x5090 + 1x3090", "rtx_5090+rtx_3090"),
        ("mi300x", "mi300x"),
        ("7950x", "ryzen_9_7950x"),
    ],
)
def test_a_count_before_or_after_the_name(text: str, means: str) -> None:
    assert str(parse_cluster(text)) == means


@pytest.mark.parametrize(("text", "named"), [("2xfoo", "'foo'"), ("rtx 9999", "'rtx 9999'"), ("0xh100", "got 0")])
def test_a_count_of_nothing_known(text: str, named: str) -> None:
    with pytest.raises(InputError, match=named):
        parse_cluster(text)


@pytest.mark.parametrize(
    ("text", "name", "usable_gib"),
    [
        ("M4 Pro 24GB", "m4_pro", 18.0),  # Metal keeps a quarter
        ("m4 16gb", "m4", 12.0),
        ("MacBook Pro M3 Max 36GB", "m3_max", 27.0),
        ("raspberry pi 5 8gb", "raspberry_pi_5", 7.5),
        ("2080 ti 22gb", "rtx_2080_ti", 21.5),  # twice its memory
        ("A100 80GB SXM", "a100_sxm", 79.5),
        ("A100 PCIe 40GB", "a100_pcie_40gb", 39.5),
        ("V100 16GB", "v100_sxm_16gb", 15.3),
        ("GH200 480GB", "gh200", 95.1),  # its usual name: 480 GB beside the GPU
        ("NVIDIA H100 80GB HBM3", "h100_sxm", 79.1),
    ],
)
def test_as_much_memory_as_the_name_says(text: str, name: str, usable_gib: float) -> None:
    machine = parse_cluster(text).machine
    assert machine.name == name
    assert machine.usable_bytes / 2**30 == pytest.approx(usable_gib, abs=0.06)


def test_another_size_than_the_catalogues_is_said_and_of_a_card_not_guessed() -> None:
    assert any("'m4_pro'" in said for said in estimate("qwen3-8b", "M4 Pro 24GB").ledger.assumptions)
    with pytest.raises(InputError, match=r"rtx_3060 has 12\.0 GiB; one with 8GB is not known"):
        parse_cluster("RTX 3060 8GB")


def test_a_plan_reads_counts_as_the_others_do() -> None:
    from steelyard.search.api import read_question

    asked = read_question({"model": "llama-3.1-8b", "on": "4xH100", "rate": "2/s"}).task.question
    assert (asked.machines, asked.max_gpus) == (("h100_sxm",), 4)


def test_computers_sold_to_be_joined_split_every_layer() -> None:
    """Two DGX Sparks run tensor parallel by default; single-card nodes of a cluster run one stage after another."""
    for on, engine, degrees in (
        ("dgx_spark:2", "vllm", (2, 1)),
        ("dgx_spark:2", "llamacpp", (1, 2)),
        ("gh200:2", "", (1, 2)),
    ):
        plan = estimate("llama-3.1-8b", on, engine=engine).scenario.plan
        assert (plan.tp, plan.pp) == degrees
