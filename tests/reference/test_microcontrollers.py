"""Published rows of microcontrollers, typed by hand: latency, SRAM and flash as the public verb answers them.

Sources: README.md of mit-han-lab/tinyengine at 022fc11 (tables of December 2022: latency, SRAM, flash on an STM32H743;
its kB are KiB); README.md of mit-han-lab/tinyml (mcunet), tables "Comparison on STM32F746", "Int8 models" and "under
different latency constraints"; results.txt of mlcommons/tiny_results_v1.0, closed/OctoML/results/microtvm_cmsis_nn;
README.md of espressif/esp-tflite-micro (person detection at 240 MHz; its arena without scratch); abstracts of PULP-NN
(Garofalo et al., 2020) and DORY (Burrello et al., 2021).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from statistics import mean, median

import numpy as np
import pytest

import steelyard as sy
from steelyard.cost.net_cycles import held_parts
from steelyard.errors import DoesNotFit
from steelyard.estimation.network import NetEstimate
from steelyard.estimation.network_remedy import network_remedy
from steelyard.report.figures import figures_of

# network, then milliseconds, KiB of SRAM and KiB of flash with TFLite Micro, CMSIS-NN and TinyEngine
H743 = {
    "mcunet_vww0": ((587, 163, 627), (53, 163, 646), (27, 59, 453)),
    "mcunet_vww1": ((1120, 220, 718), (97, 220, 736), (51, 92, 521)),
    "mcunet_vww2": ((5310, 385, 1016), (478, 390, 1034), (234, 174, 741)),
    "mcunet_in0": ((586, 161, 1072), (51, 161, 1090), (25, 49, 842)),
    "mcunet_in1": ((1227, 219, 937), (103, 219, 956), (56, 96, 727)),
    "mcunet_in2": ((6463, 460, 1084), (642, 469, 1102), (280, 215, 830)),
    "mcunet_in3": ((7821, 493, 1091), (770, 493, 1106), (336, 260, 835)),
    "mcunet_in4": (None, None, (463, 416, 1825)),
    "mobilenetv2_035_tiny": (None, None, (124, 295, 839)),
    "proxylessnas_030_tiny": ((3801, 453, 1065), (380, 453, 1075), (176, 259, 842)),
}
# TinyEngine of the paper, 2020: machine, network, milliseconds
PAPER = (
    ("stm32f746", "mobilenetv2_035_tiny", 393),
    ("stm32f746", "proxylessnas_030_tiny", 572),
    ("stm32f746", "mcunet_in3", 1075),
    ("stm32f746", "mcunet_in1", 197),
    ("stm32f746", "mcunet_in0", 92),
    ("stm32f412", "mcunet_in2", 3535),
    ("stm32h743", "mcunet_in4", 617),
)
# inferences per second, and uJ each where measured, with CMSIS-NN under microTVM
TINY = {
    "stm32l4r5": {
        "tiny_resnet8": (2.566, 20236),
        "tiny_ds_cnn": (9.997, 5230),
        "tiny_mobilenet": (3.347, 15531),
        "tiny_autoencoder": (116.207, 443),
    },
    "nrf5340": {
        "tiny_resnet8": (3.163, 0),
        "tiny_ds_cnn": (13.143, 0),
        "tiny_mobilenet": (4.310, 0),
        "tiny_autoencoder": (159.579, 0),
    },
}
RUNTIMES = ("tflm", "cmsis_nn", "tinyengine")


@cache
def _asked(network: str, machine: str, runtime: str) -> NetEstimate:
    found = sy.estimate(network, on=machine, runtime=runtime)
    assert isinstance(found, NetEstimate)
    return found


def _rows(column: int, runtimes: tuple[str, ...] = RUNTIMES) -> list[float]:
    """Predicted over published of one column of the table of an STM32H743."""
    ratios = []
    for network, rows in H743.items():
        for runtime, row in zip(RUNTIMES, rows, strict=True):
            if row is None or runtime not in runtimes:
                continue
            one = _asked(network, "stm32h743", runtime)
            says = (one.latency_s * 1e3, one.peak_memory_bytes / 1024, one.weight_bytes / 1024)
            ratios.append(says[column] / row[column])
    return ratios


def test_latencies_of_three_libraries_on_a_cortex_m7() -> None:
    assert max(abs(r - 1) for r in _rows(0)) < 0.1
    assert median(abs(r - 1) for r in _rows(0)) < 0.04


def test_peaks_of_sram() -> None:
    assert max(abs(r - 1) for r in _rows(1)) < 0.01
    person = sy.estimate("tiny_mobilenet", on="esp32_s3", set="channels=1")
    assert person.peak_memory_bytes / 1024 == pytest.approx(81, rel=0.02)  # type: ignore[union-attr]  # not fitted


def test_memory_at_every_op_and_what_would_fit() -> None:
    for runtime, remedy in (("cmsis_nn", "--runtime tinyengine"), ("tinyengine", "")):
        found = _asked("mcunet_in3", "stm32f746", runtime)
        (held,) = [f for f in figures_of(found) if f.name == "held"]
        assert max(b for _, b in held.rows) == found.peak_memory_bytes
        assert found.fits == (not remedy)
        assert found.fits or network_remedy(found) == remedy
    assert network_remedy(_asked("mobilenetv2_035_tiny", "stm32f412", "tinyengine")) == "--with patch-inference:2"
    assert network_remedy(_asked("mcunet_in4", "stm32f746", "tinyengine")).startswith("none")


SPACE = """
family = "mobile"
config = { stem = 16, head = 0, classes = 10 }
size = [96, 96]
stage = [
  { row = "ds 8" },
  { row = "mb 16 k{kernel} s2 x{expand}", choose = { kernel = [3, 7], expand = [3, 6] } },
  { row = "mb {channels} s2 x{expand} n2", choose = { channels = [24, 40], expand = [3, 6] } },
]
"""


@pytest.mark.parametrize("runtime", ["tinyengine", "cmsis_nn"])
def test_a_search_weighs_the_memory_that_an_estimate_says(runtime: str, tmp_path: Path) -> None:
    (tmp_path / "space.toml").write_text(SPACE)
    space = str(tmp_path / "space.toml")
    asked = {"on": "stm32f746", "runtime": runtime, "score": "macs"}
    found = sy.search_network(space, **asked)
    assert found.peak_memory_bytes is not None
    for architecture, held in zip(found.architectures, found.peak_memory_bytes, strict=True):
        one = sy.estimate(f"{space}:{architecture}", on="stm32f746", runtime=runtime)
        assert one.peak_memory_bytes == held  # type: ignore[union-attr]
    limit = float(np.median(found.peak_memory_bytes))
    fewer = sy.search_network(space, memory=limit, **asked)
    assert fewer.peak_memory_bytes is not None and fewer.peak_memory_bytes.max() <= limit
    assert found.peak_memory_bytes.max() > limit and fewer.score[0] < found.score[0]
    with pytest.raises(DoesNotFit, match="memory on stm32f746 is at least"):
        sy.search_network(space, memory="1KiB", **asked)


def test_parts_of_the_first_stage() -> None:
    whole = sy.estimate("mobilenetv2_100", on="stm32h743", runtime="tinyengine")
    parts = sy.estimate("mobilenetv2_100", on="stm32h743", runtime="tinyengine", techniques="patch-inference:4")
    assert isinstance(whole, NetEstimate) and isinstance(parts, NetEstimate)
    tensors = [
        held_parts(e.scenario.phases[0].graph, {"batch": 1}, e.scenario.runtime, e.scenario.precision).tensors.max()
        for e in (whole, parts)
    ]
    assert tensors[0] / 1024 == 1372  # Lin et al., MCUNetV2, 2021, figure 1
    assert tensors[1] / 1024 == pytest.approx(172, rel=0.15)  # without the residual beside what is written


def test_flash() -> None:
    assert max(abs(r - 1) for r in _rows(2)) < 0.01


def test_the_engine_of_the_paper_on_three_machines() -> None:
    ratios = [_asked(n, m, "tinyengine_2020").latency_s * 1e3 / ms for m, n, ms in PAPER]
    assert max(abs(r - 1) for r in ratios) < 0.23


def test_mlperf_tiny_on_two_cores() -> None:
    for machine, rows in TINY.items():
        found = {n: _asked(n, machine, "cmsis_nn") for n in rows}
        assert all(abs(found[n].latency_s * rate - 1) < 0.09 for n, (rate, _) in rows.items())
        energies = [found[n].energy_j_per_item * 1e6 / uj for n, (_, uj) in rows.items() if uj]
        assert not energies or 0.95 < mean(energies) < 1.05


def test_the_network_of_the_first_paper_on_cmsis_nn() -> None:
    assert _asked("cifar10_cmsis", "stm32f746", "cmsis_nn").latency_s == pytest.approx(0.0991, rel=0.05)


def test_person_detection_on_an_esp32_s3() -> None:
    found = sy.estimate("tiny_mobilenet", on="esp32_s3", set="channels=1")
    assert isinstance(found, NetEstimate)
    assert found.latency_s == pytest.approx(0.054, rel=0.2)  # kernels' ticks alone were taken, no network's


def test_a_cluster_of_eight_cores() -> None:
    whole = sy.estimate("mobilenetv1_100", on="gap8", size=128)
    assert isinstance(whole, NetEstimate)
    assert whole.latency_s * 4.3 == pytest.approx(1, rel=0.1)
    assert whole.energy_j_per_item / 186e6 == pytest.approx(63e-12, rel=0.1)
    cycles = _asked("cifar10_cmsis", "gap8", "pulp_nn").latency_s * 100e6
    fewer = [_asked("cifar10_cmsis", m, "cmsis_nn").latency_s * hz / cycles for m, hz in _CORES]
    assert fewer == pytest.approx([30, 19.6], rel=0.15)


_CORES = (("stm32l4r5", 120e6), ("stm32h743", 480e6))
