"""Cards of one host: how many stand together, and what lies between them."""

from __future__ import annotations

import pytest

from steelyard import estimate
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
