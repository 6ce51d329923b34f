"""Collectives: exact forms, limits, monotonicity, library choice, and accuracy where the measurements are at hand."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import numpy as np
import pytest

import steelyard as sy
from steelyard.cost.collective import (
    LIBRARIES,
    OPERATIONS,
    CollectiveParameters,
    ExchangeParameters,
    Fabric,
    LinkKind,
    collective_limit_s,
    collective_time_s,
    expert_exchange_time_s,
    ring_steps,
    wire_bytes,
)
from steelyard.cost.op_models import fabrics, link_parameters, through_host
from steelyard.errors import InputError
from steelyard.machine.cluster import parse_cluster

CATALOGUE = Path(sy.__file__).parent / "catalogue"
NVLINK = Fabric("nvlink4", 450e9, multicast=True)
PLAIN = Fabric("nvlink3", 300e9)
PCIE = Fabric("pcie4", 32e9, switched=False, kind="pcie")
SIZES = 2.0 ** np.arange(10, 31)
DEFAULT = CollectiveParameters()


def test_ring_all_reduce_is_exact_where_it_applies() -> None:
    """With perfect links, no launch and no latency the ring all-reduce takes 2(n-1)/n * S / B."""
    perfect = CollectiveParameters(
        launch_s=0.0, step_s=1e-15, simple_fixed_s=0.0, simple_efficiency=1.0, local_step_frac=0.0, blend=1.0
    )
    for n in (2, 4, 8):
        time = collective_time_s("all_reduce", 2.0**28, n, fabric=PLAIN, parameters=perfect)
        assert time == pytest.approx(2.0 * (n - 1) / n * 2.0**28 / 300e9, rel=1e-6)


def test_ring_steps_and_wire_bytes() -> None:
    assert ring_steps("all_reduce", 8) == 14
    assert ring_steps("all_gather", 8) == 7
    assert wire_bytes("all_reduce", 800.0, 8) == pytest.approx(1400.0)
    assert wire_bytes("reduce_scatter", 800.0, 8) == pytest.approx(700.0)
    assert wire_bytes("send", 800.0, 2) == pytest.approx(800.0)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("fabric", [NVLINK, PLAIN, PCIE], ids=lambda f: f.name)
@pytest.mark.parametrize("library", list(LIBRARIES))
def test_never_below_the_limit_and_grows_with_size(operation: str, fabric: Fabric, library: str) -> None:
    for n in (2, 4, 8):
        time = collective_time_s(operation, SIZES, n, fabric=fabric, parameters=DEFAULT, library=library)
        limit = collective_limit_s(operation, SIZES, n, fabric=fabric)
        assert np.all(time >= limit)
        # a library may switch to a slower kernel at a fixed size, never by more than its second stage
        assert np.all(np.diff(time) > -1.5e-5)


def test_one_device_moves_nothing() -> None:
    assert collective_time_s("all_reduce", 1e9, 1, fabric=NVLINK, parameters=DEFAULT) == 0.0


def test_sizes_and_devices_broadcast() -> None:
    time = collective_time_s("all_gather", SIZES[:, None], np.array([2, 4, 8]), fabric=NVLINK, parameters=DEFAULT)
    assert time.shape == (len(SIZES), 3)
    assert np.all(np.diff(time[0]) > 0)


def test_one_shot_beats_the_ring_for_small_messages_and_hands_over_for_large() -> None:
    small = [
        float(collective_time_s("all_reduce", 16384.0, 8, fabric=NVLINK, parameters=DEFAULT, library=name))
        for name in ("vllm", "nccl")
    ]
    assert small[0] < 0.6 * small[1]
    large = [
        float(collective_time_s("all_reduce", 2.0**30, 8, fabric=NVLINK, parameters=DEFAULT, library=name))
        for name in ("sglang", "nccl")
    ]
    assert large[0] == pytest.approx(large[1])


def test_peers_behind_pcie_use_nccl_beyond_two_devices() -> None:
    names = ("vllm_0.14", "nccl")
    four = [
        float(collective_time_s("all_reduce", 65536.0, 4, fabric=PCIE, parameters=DEFAULT, library=x)) for x in names
    ]
    assert four[0] == four[1]


def test_switch_reduction_helps_eight_devices_only() -> None:
    no_switch = Fabric("nvlink4", 450e9)
    for n, faster in ((4, False), (8, True)):
        with_nvls = collective_time_s("all_reduce", 2.0**30, n, fabric=NVLINK, parameters=DEFAULT)
        without = collective_time_s("all_reduce", 2.0**30, n, fabric=no_switch, parameters=DEFAULT)
        assert (with_nvls < without) == faster


def test_mesh_without_a_switch_uses_one_link_per_pair() -> None:
    mesh = Fabric("xgmi", 448e9, switched=False, kind="infinity_fabric")
    two, eight = (float(collective_time_s("all_gather", 2.0**30, n, fabric=mesh, parameters=DEFAULT)) for n in (2, 8))
    assert two > 3.0 * eight


def test_across_nodes_costs_more_and_respects_the_network() -> None:
    network = Fabric("infiniband", 50e9, kind="infiniband")
    one = collective_time_s("all_reduce", SIZES, 8, fabric=NVLINK, parameters=DEFAULT)
    for operation in OPERATIONS:
        time = collective_time_s(operation, SIZES, 16, fabric=NVLINK, parameters=DEFAULT, inter=network)
        limit = collective_limit_s(operation, SIZES, 16, fabric=NVLINK, inter=network)
        assert np.all(time >= limit)
    two = collective_time_s("all_reduce", SIZES, 16, fabric=NVLINK, parameters=DEFAULT, inter=network)
    assert np.all(two > one)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="operation"):
        collective_time_s("gossip", 1.0, 2, fabric=NVLINK, parameters=DEFAULT)
    with pytest.raises(ValueError, match="library"):
        collective_time_s("all_reduce", 1.0, 2, fabric=NVLINK, parameters=DEFAULT, library="smoke")


def test_expert_exchange_sends_once_per_device_or_once_per_expert() -> None:
    def cost(low_latency: bool, topk: int) -> float:
        return float(
            expert_exchange_time_s(
                "dispatch",
                8192,
                7168,
                topk,
                256,
                8,
                bits=8.25,
                fabric=NVLINK,
                parameters=ExchangeParameters(),
                low_latency=low_latency,
            )
        )

    # sixteen experts live on few more of the eight devices than eight experts do
    assert cost(False, 16) < 1.4 * cost(False, 8)
    assert cost(True, 16) > 1.8 * cost(True, 8)


@pytest.mark.parametrize("path", sorted(CATALOGUE.glob("calibration/*/collective.toml")), ids=lambda p: p.parent.name)
def test_catalogue_files_hold_valid_parameters(path: Path) -> None:
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    sections = [table] if "parameters" in table else list(table.values())
    for section in sections:
        parameters = CollectiveParameters(**section["parameters"])
        for name in ("simple_efficiency", "ll_efficiency", "nvls_efficiency", "custom_efficiency"):
            assert 0.0 < getattr(parameters, name) <= 1.0
        assert section["residual"]["log_std"] > 0


def test_fitted_machines_meet_the_target_on_sizes_left_out() -> None:
    data = Path(os.environ.get("STEELYARD_DATA", "../shared"))
    if not (data / "truth" / "aic_ops" / "comm_all_systems.parquet").is_file():
        pytest.skip("no measured collectives at STEELYARD_DATA")
    pytest.importorskip("pandas")
    from steelyard.calibrate.tasks import collective_task
    from steelyard.machine.catalogue import find_machine
    from steelyard.measurements.kernel_tables import collective_rows, collective_rows_of

    table = collective_rows(data / "truth" / "aic_ops" / "comm_all_systems.parquet")
    for machine in ("a100_sxm", "h100_sxm", "h200_sxm", "b200_sxm", "l40s"):
        path = CATALOGUE / "calibration" / machine / "collective.toml"
        parameters = CollectiveParameters(**tomllib.loads(path.read_text(encoding="utf-8"))["parameters"])
        task = collective_task(find_machine(machine), collective_rows_of(table, machine))
        errors = task.errors(parameters, np.flatnonzero(~task.rows["fitted"]))
        assert errors.mean_ape < 15.0, machine


def test_the_catalogue_states_the_facts_the_code_uses() -> None:
    table = tomllib.loads((CATALOGUE / "kernels" / "collective.toml").read_text(encoding="utf-8"))
    for name in ("nccl", "vllm", "vllm_0.14", "sglang", "sglang_0.5.10", "trtllm"):
        stated, used = table[name], LIBRARIES[name]
        assert stated["custom"] == used.custom
        assert stated.get("launch_ratio", 1.0) == used.launch_ratio
        assert stated.get("custom_bytes", 0.0) == used.custom_bytes
        one_shot = stated.get("one_shot_bytes")
        assert (None if one_shot is None else tuple(float(x) for x in one_shot)) == used.one_shot_bytes
        for key, default in (("two_shot", True), ("multimem", False), ("nvls", True)):
            assert stated.get(key, default) == getattr(used, key), (name, key)


def test_a_question_names_the_network_between_nodes() -> None:
    asked = {"model": "llama-3.1-70b", "on": "h100_sxm:16", "tp": 16, "batch": 8}
    usual = sy.estimate(**asked)
    fast, slow = (sy.estimate(**asked, network=n) for n in ("infiniband_ndr", "ethernet_10"))
    assert fast.tpot_s == usual.tpot_s < slow.tpot_s / 2
    assert any("2 nodes joined by 10 GbE, TCP, 156 MB/s a device" in a for a in slow.to_dict()["assumptions"])
    half = sy.estimate(**asked, network="infiniband_ndr:200GB/s")
    assert usual.ttft_s < half.ttft_s
    assert sy.estimate(**slow.to_dict()["provenance"]["inputs"]).tpot_s == slow.tpot_s
    with pytest.raises(InputError, match="joins nodes, and 8 of h100_sxm stand in one"):
        sy.estimate("llama-3.1-8b", "h100_sxm:8", network="roce_400")
    with pytest.raises(InputError, match="roce_400"):
        sy.estimate("llama-3.1-8b", "h100_sxm:16", network="rocee_400")


@pytest.mark.parametrize("operation", ["all_reduce", "all_gather", "reduce_scatter", "all_to_all"])
def test_a_ring_over_nodes_passes_through_every_device(operation: str) -> None:
    inside, outside = Fabric("pcie", 12e9, kind="pcie"), Fabric("wire", 1e9 / 8, 2e-6, kind="infiniband")
    size = 4e9
    time = collective_time_s(
        operation, size, 16, fabric=inside, inter=outside, parameters=CollectiveParameters(), devices_per_node=8
    )
    carried = size * 8 * 0.5 if operation == "all_to_all" else wire_bytes(operation, size, 16)
    assert time == pytest.approx(carried / 0.8e9, rel=0.1)


def test_sockets_of_a_node_share_a_queue() -> None:
    def small(kind: LinkKind, devices: int, per_node: int) -> float:
        wire = Fabric("wire", 1e9, 100e-6, kind=kind)
        inside = Fabric("pcie", 12e9, kind="pcie")
        return float(
            collective_time_s(
                "all_to_all",
                1024,
                devices,
                fabric=inside,
                inter=wire,
                parameters=CollectiveParameters(),
                devices_per_node=per_node,
            )
        )

    assert small("tcp", 8, 4) > 2 * small("infiniband", 8, 4)
    assert small("tcp", 2, 1) == small("infiniband", 2, 1)


def test_cards_without_peer_access_copy_through_the_host() -> None:
    direct, staged = parse_cluster("rtx_pro_6000:4"), parse_cluster("rtx_5090:4")
    assert (through_host(direct), through_host(staged)) == (False, True)
    bridged = parse_cluster("rtx_3090:2")
    assert fabrics(bridged)[0].kind == "nvlink" and not through_host(bridged)
    one, other = (link_parameters(c, "pcie") for c in (direct, staged))
    assert one.source != other.source
    size = 64e6
    times = [
        collective_time_s("all_reduce", size, 4, fabric=fabrics(c)[0], parameters=link_parameters(c, "pcie").parameters)
        for c in (direct, staged)
    ]
    assert times[1] > 1.5 * times[0]
