"""Published rows of streaming engines on FPGAs, typed by hand.

Sources: mlcommons/tiny_results_v0.7, open/hls4ml-finn/results/pynq-z2 (CNV-W1A1, KWS-W3A3: single-stream inferences per
second at 100 MHz); Xilinx/finn-examples, build/bnn-pynq and build/kws: folding_config; abstract of Umuroglu et al.,
FINN, FPGA 2017 (arXiv:1612.07119), at 200 MHz; Vitis AI Library user guide (UG1354) 2.5, table of the ZCU104.
"""

from __future__ import annotations

import pytest

import steelyard as sy
from steelyard.cost.net_lower import lower_net
from steelyard.cost.net_stream import Engine, Folding, folded, stream_of, streamed
from steelyard.deployment.runtime import find_runtime, precision_named
from steelyard.errors import InputError
from steelyard.machine.catalogue import find_machine
from steelyard.machine.fabric import Fabric
from steelyard.workload.nets import load_net

CNV = ((16, 3), (32, 32), (16, 32), (16, 32), (4, 32), (1, 32), (1, 4), (1, 8), (5, 1))
KWS = ((32, 10), (32, 8), (32, 8), (1, 8))


def _engines(name: str, **sets: object) -> tuple[Engine, ...]:
    graph, precision = load_net(name, sets=sets), precision_named("w1a1")
    kernels = lower_net(graph, {"batch": 1}, find_runtime("finn"), precision)
    fabric = find_machine("alveo_u250").fabric
    assert fabric is not None
    return stream_of(graph, kernels, precision, fabric)[0].engines


def test_cnv_with_its_published_folding() -> None:
    _, interval, latency = folded(_engines("finn_cnv"), [Folding(*f) for f in CNV])
    assert interval == 32768  # of its second linear layer
    assert latency / 100e6 == pytest.approx(1 / 661.473, rel=0.12)


def test_a_perceptron_for_key_words_with_its_published_folding() -> None:
    layers = [Engine(256, 490, 1, 1, 0), Engine(256, 256, 1, 1, 0), Engine(256, 256, 1, 1, 0), Engine(12, 256, 1, 1, 0)]
    _, _, latency = folded(layers, [Folding(*f) for f in KWS])
    assert latency == 392 + 256 + 256 + 384
    assert latency / 100e6 == pytest.approx(1 / 57268, rel=0.27)  # without what the processor does for each


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
    with pytest.raises(InputError, match=r"it needs .* block RAMs of 18 Kb at least"):
        sy.estimate("resnet50", on="zynq_7z020", precision="w1a1")
    with pytest.raises(InputError, match="finn does not run on stm32f746"):
        sy.estimate("finn_cnv", on="stm32f746", runtime="finn")


def test_an_array_for_all_layers_is_faster_than_published_by_a_quarter() -> None:
    found = sy.estimate("resnet18", on="dpu_b4096")
    assert found.latency_s == pytest.approx(2 / 437.1, rel=0.25)  # type: ignore[union-attr]  # of each of two engines
