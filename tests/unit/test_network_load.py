"""The most a network serves where items arrive at random, and the reader of results of whole systems."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pandas")

from steelyard.errors import InputError
from steelyard.estimation.network_load import busiest, load_of
from steelyard.measurements.reader import Ask
from steelyard.scenario.network import NetScenario, read_net_scenario
from steelyard.scenario.words import Problems
from steelyard_validation.fits import servers
from steelyard_validation.readers import mlperf_vision

POWERS = [2.0**i for i in range(11)]


def question(**words: object) -> NetScenario:
    asked = {"model": "resnet50", "on": "l4", "runtime": "tensorrt", "precision": "int8", **words}
    return read_net_scenario(asked, Problems())


def test_a_queue_that_is_never_empty_takes_the_batch_that_serves_most() -> None:
    free = busiest(question(), POWERS)
    assert free.load == 1.0
    alone = [busiest(question(), [b]).items_per_s for b in POWERS]
    assert free.items_per_s == pytest.approx(max(alone))
    low, high = free.interval
    assert low < free.items_per_s < high


def test_a_limit_takes_batches_of_which_two_passes_fit_and_leaves_room() -> None:
    free, tight = (busiest(question(), POWERS, s) for s in (inf, 2e-3))
    assert 2 * tight.estimate.latency_s <= 2e-3
    assert tight.items_per_s < free.items_per_s and tight.load < 1.0
    wider = busiest(question(), POWERS, 1.0)
    assert tight.items_per_s < wider.items_per_s <= free.items_per_s
    with pytest.raises(InputError, match="do not fit into 1e-06 s"):
        busiest(question(), POWERS, 1e-6)


def test_the_load_leaves_99_of_100_within_what_can_be_served() -> None:
    for capacity in (5.0, 100.0, 1e4):
        mean = load_of(capacity) * capacity
        assert mean + 2.33 * mean**0.5 == pytest.approx(capacity)
    assert load_of(inf) == 1.0 and load_of(10.0) < load_of(1000.0)


HEADER = (
    "version,division,submitter,system,benchmark,scenario,valid,samples_per_s,completed_samples_per_s,"
    "scheduled_samples_per_s,mean_latency_ns,accelerator,accel_per_node,nodes,cpu,framework"
)
ROWS = (
    "v4.1,closed,A,L4x2_TRT,resnet50,Offline,True,20000,,,,NVIDIA L4,2,1,x,TensorRT 10",
    "v4.1,closed,A,L4x2_TRT,resnet50,Server,True,,18000,,,NVIDIA L4,2,1,x,TensorRT 10",
    "v4.1,closed,A,L4x2_TRT,resnet50,SingleStream,True,,,,400000,NVIDIA L4,2,1,x,TensorRT 10",
    "v4.1,closed,A,2S-EMR,dlrm-v2-99.9,Offline,True,9000,,,,,0,1,INTEL(R) XEON(R) PLATINUM 8592+,PyTorch",
    "v4.1,closed,A,H200x8_TRT_MaxQ,bert-99,Offline,True,60000,,,,NVIDIA H200-SXM-141GB,8,1,x,TensorRT 10",
    "v4.1,open,A,L4_TRT,resnet50,Offline,True,20000,,,,NVIDIA L4,2,1,x,TensorRT 10",
    "v4.1,closed,A,L4_TRT,llama2-70b-99,Offline,True,2,,,,NVIDIA L4,2,1,x,TensorRT 10",
)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "mlperf_inference" / "v4.1_results.csv"
    path.parent.mkdir()
    path.write_text("\n".join((HEADER, *ROWS)))
    return path


def test_rows_are_read_as_they_were_asked(table: Path) -> None:
    rows = mlperf_vision.questions(table)
    assert [(r.machine, r.count, r.scenario) for r in rows] == [
        ("l4", 2, "offline"),
        ("l4", 2, "server"),
        ("l4", 2, "singlestream"),
        ("xeon_8592", 2, "offline"),
        ("h200_sxm", 8, "offline"),
    ]
    assert [r.precision for r in rows] == ["int8", "int8", "int8", "int8", "fp8"]
    assert replace(rows[3], machine="h100_sxm").precision == "fp16"  # the stricter accuracy, on a GPU
    assert rows[2].measured == pytest.approx(4e-4)


def test_systems_are_answered_by_the_rules(table: Path) -> None:
    rates, times = mlperf_vision.read(table.parent, Ask("mlperf_inference"))
    offline, server, dlrm, held = rates.predicted
    assert server < offline == pytest.approx(2 * busiest(question(), POWERS).items_per_s, rel=0.05)
    assert 1e3 < dlrm < 1e5 and held != held
    assert list(rates.why)[-1] == "held to a power that is not stated"
    assert times.predicted[0] == pytest.approx(busiest(question(), [1.0]).estimate.latency_s)
    assert (rates.low <= rates.predicted)[:3].all() and (rates.predicted <= rates.high)[:3].all()


def test_rows_of_the_usual_factors_give_them_back(table: Path) -> None:
    task = servers.TASKS["tensorrt"]
    (table.parent.parent / "mobile_readme_tables").mkdir()
    phones = table.parent.parent / "mobile_readme_tables" / "phone_jetson_latency.csv"
    phones.write_text(
        "model,device,runtime,precision,resolution,batch,metric,value\n"
        "EfficientViT-B1,Jetson AGX Orin,TensorRT fp16,fp16,224x224,1.0,latency_ms,1.5\n"
    )
    rows = servers._rows(table.parent.parent, task)
    assert {(r.network, r.machine) for r in rows} >= {("resnet50", "l4"), ("efficientvit_b1", "jetson_agx_orin")}
    names = servers._names(task)
    usual = np.array([servers.USUAL[n.partition("@")[0]] for n in names] + [1.0])
    found = servers._fit(task, [replace(r, time_s=r.predicted(usual)) for r in rows])
    assert found == pytest.approx(usual, rel=0.02)
