"""Published rows of streaming engines on FPGAs, typed by hand.

Sources: mlcommons/tiny_results_v0.7, open/hls4ml-finn/results/pynq-z2 and arty-a7-100t (single-stream inferences per
second at 100 MHz; hls4ml_config.yml, accuracy_power.yml: reuse factors); Xilinx/finn-examples, build/bnn-pynq and
build/kws: folding_config; abstracts of Umuroglu et al., FINN, FPGA 2017 (arXiv:1612.07119) and of Aarrestad et al.,
2021 (arXiv:2101.05108), at 200 MHz; Vitis AI Library user guide (UG1354) 2.5 and model zoo 1.2: the ZCU104.
"""

from __future__ import annotations

import pytest

import steelyard as sy
from steelyard.cost.net_lower import lower_net
from steelyard.cost.net_stream import Engine, stream_of, streamed
from steelyard.deployment.runtime import find_runtime, precision_named
from steelyard.errors import InputError
from steelyard.machine.catalogue import find_machine
from steelyard.machine.fabric import Fabric
from steelyard.workload.nets import load_net

CNV = "16x3,32x32,16x32,16x32,4x32,1x32,1x4,1x8,5x1"
KWS = "32x10,32x8,32x8,1x8"
AD = "144,144,8,144,144,144"
#: Network, board, precision, runtime, folding, inferences a second one at a time, and error at most.
MLPERF_TINY = (
    ("finn_cnv", "pynq-z2", "w1a1", "finn", CNV, 661.473, 0.1),
    ("finn_cnv", "arty-a7-100t", "w1a1", "finn", CNV, 659.069, 0.1),
    ("finn_kws", "pynq-z2", "w3a3", "finn", KWS, 57268, 0.05),
    ("finn_kws", "arty-a7-100t", "w3a3", "finn", KWS, 30151.8, 0.05),  # gave the soft processor's part
    ("hls4ml_rn07", "pynq-z2", "int8", "hls4ml", "16384", 36.596, 0.1),
    ("hls4ml_rn07", "arty-a7-100t", "int8", "hls4ml", "16384", 30.139, 0.25),
    ("hls4ml_ad08", "arty-a7-100t", "int16", "hls4ml", AD, 30685.7, 0.1),
    ("hls4ml_ad08", "pynq-z2", "int16", "hls4ml", AD, 53365.4, 0.1),  # both gave the cycles of a word
)


def _engines(name: str, **sets: object) -> tuple[Engine, ...]:
    graph, precision = load_net(name, sets=sets), precision_named("w1a1")
    kernels = lower_net(graph, {"batch": 1}, find_runtime("finn"), precision)
    fabric = find_machine("alveo_u250").fabric
    assert fabric is not None
    return stream_of(graph, kernels, precision, fabric)[0].engines


@pytest.mark.parametrize(("network", "on", "precision", "runtime", "folding", "rate", "error"), MLPERF_TINY)
def test_published_foldings_on_two_boards(
    network: str, on: str, precision: str, runtime: str, folding: str, rate: float, error: float
) -> None:
    found = sy.estimate(network, on=on, precision=precision, runtime=runtime, folding=folding)
    assert found.latency_s * rate == pytest.approx(1, rel=error)  # type: ignore[union-attr]


def test_a_convolutional_network_of_hls4ml_takes_a_cycle_a_pixel() -> None:
    found = sy.estimate("hls4ml_svhn", on="virtex_vu9p", runtime="hls4ml", folding="1")
    assert found.latency_s == pytest.approx(5e-6, rel=0.06)  # type: ignore[union-attr]
    stream = found.prices[0].stream  # type: ignore[union-attr]
    assert stream is not None and stream.interval == 32 * 32
    assert "only if synthesis leaves" in " ".join(found.ledger.assumptions)  # 13,552 products, 6,840 DSP blocks


def test_what_a_folding_cannot_be() -> None:
    found = sy.estimate("jet_tagger", on="pynq-z2", runtime="hls4ml", folding="8")
    assert not found.fits and "DSP blocks of 220" in " ".join(found.too_much)  # type: ignore[union-attr]
    for said, what in (
        ("5x", "expected a reuse factor"),
        ("1,2x00,1,1", "expected a reuse factor"),
        ("1,1", "one for each of 4 layers"),
        ("3x2,1,1,1", "PE 3 of layer 1"),
    ):
        with pytest.raises(InputError, match=what):
            sy.estimate("finn_sfc", on="pynq-z2", precision="w1a1", folding=said)
    with pytest.raises(InputError, match="only of engines of an FPGA, which finn, hls4ml make"):
        sy.estimate("resnet50", on="rtx_3090", folding="8")


def test_latencies_of_the_paper_follow_from_its_rates() -> None:
    precision = precision_named("w1a1")
    for name, rate, latency_s in (("finn_sfc", 12.3e6, 0.31e-6), ("finn_cnv", 21906, 283e-6)):
        found = streamed(_engines(name), Fabric(1e9, 1e5, 1e5), precision, least=200e6 / rate)
        assert found.interval <= 200e6 / rate
        assert found.latency / 200e6 == pytest.approx(latency_s, rel=0.25)


def test_the_public_verb_folds_a_network_into_a_device() -> None:
    small = sy.estimate("finn_cnv", on="zynq_7z020", precision="w1a1", batch=1)
    many = sy.estimate("finn_cnv", on="zynq_7z020", precision="w1a1", batch=1001)
    stream = small.prices[0].stream  # type: ignore[union-attr]
    fabric = find_machine("zynq_7z020").fabric
    assert stream is not None and fabric is not None
    assert stream.luts <= fabric.luts * fabric.usable and stream.blocks <= fabric.blocks and small.fits
    assert many.latency_s - small.latency_s == pytest.approx(1000 * stream.interval / 100e6)  # type: ignore[union-attr]
    with pytest.raises(InputError, match=r"need .* block RAMs of 18 Kb where they come nearest"):
        sy.estimate("resnet50", on="zynq_7z020", precision="w1a1")
    with pytest.raises(InputError, match="finn does not run on stm32f746"):
        sy.estimate("finn_cnv", on="stm32f746", runtime="finn")


#: Side of the image and images a second of both engines (Vitis AI 1.2's table; the last, of 2.5's, was not fitted).
ENGINES = (
    ("resnet18", 224, 411.1),
    ("mobilenetv2_100", 224, 520.8),
    ("mobilenetv1_050", 160, 1941.7),
    ("squeezenet1_1", 227, 943.6),
    ("efficientnet_es", 224, 249),
)


@pytest.mark.parametrize(("network", "side", "rate"), ENGINES)
def test_an_array_for_all_layers(network: str, side: int, rate: float) -> None:
    found = sy.estimate(network, on="dpu_b4096", size=str(side))
    assert found.latency_s == pytest.approx(2 / rate, rel=0.25)  # type: ignore[union-attr]  # of each of two engines
