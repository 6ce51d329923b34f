"""What of a network lies in memory together: widths of autocast, copies, what training keeps, indices of 32 bits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pandas")

import steelyard as sy
from steelyard.cli.main import main
from steelyard.cost.net_memory import alive_bytes, past_index
from steelyard.deployment.runtime import find_runtime, precision_named
from steelyard.estimation.network import NetEstimate
from steelyard.measurements.reader import Ask
from steelyard.workload.networks.builder import Builder
from steelyard.workload.tensor_graph import TensorGraph
from steelyard_validation.readers import timm_tables

EAGER, COMPILE = (replace(find_runtime(n), beside=0.0) for n in ("eager", "compile"))


def small(wide: bool = False) -> TensorGraph:
    """Two products of 8 rows of 64 with a normalisation or a ReLU between them."""
    net = Builder("small")
    x = net.linear(net.input((8, 64)), 64, bias=False)
    x = net.layer_norm(x) if wide else net.node("relu", (x,), (8, 64))
    return net.graph(net.linear(x, 64, bias=False))


def test_autocast_keeps_normalisations_wide_and_copies_them_for_products() -> None:
    amp, half = precision_named("amp"), precision_named("fp16")
    n = 8 * 64
    # input of 32 bits, its copy and the result of the first product in 16
    assert float(alive_bytes(small(), {}, EAGER, half)) == pytest.approx(2 * n * 3)
    assert float(alive_bytes(small(), {}, EAGER, amp)) == pytest.approx(n * (4 + 2 + 2))
    # with the input, which its caller holds: the wide normalisation, its copy, and the second product's result
    assert float(alive_bytes(small(wide=True), {}, EAGER, amp)) == pytest.approx(n * (4 + 4 + 2 + 2))
    joined = float(alive_bytes(small(), {}, COMPILE, half))
    assert joined <= float(alive_bytes(small(), {}, EAGER, half))
    assert float(alive_bytes(small(), {}, replace(EAGER, beside=0.5), half)) == pytest.approx(1.5 * 2 * n * 3)


def test_training_keeps_what_the_backward_pass_reads() -> None:
    half, n = precision_named("fp16"), 8 * 64
    # operands of both products; the second is what the ReLU puts out
    assert float(alive_bytes(small(), {}, EAGER, half, train=True)) == 2 * n * 2
    # and the input of the normalisation
    assert float(alive_bytes(small(wide=True), {}, EAGER, half, train=True)) == 2 * n * 3
    amp = precision_named("amp")
    # the copies of the input and of the normalised rows, and what was normalised, all of 16 bits
    assert float(alive_bytes(small(wide=True), {}, EAGER, amp, train=True)) == 2 * n * 3


def test_compiled_depthwise_convolutions_reach_fewer_than_two_to_the_31_elements(
    capsys: pytest.CaptureFixture[str],
) -> None:
    net = Builder("small")
    graph = net.graph(net.conv(net.image(64, 64), 64, 3, pad=1, groups=64))
    batches = np.array([1.0, 2.0**31 / (64 * 64 * 64) - 1.0, 2.0**31 / (64 * 64 * 64)])
    assert past_index(graph, {"batch": batches}, COMPILE).tolist() == [False, False, True]
    assert not past_index(graph, {"batch": batches}, EAGER).any()
    most = [sy.estimate("mobilenetv2_100", "h100_sxm", batch=b, runtime="compile") for b in (1024, 4096)]
    assert all(isinstance(e, NetEstimate) for e in most)
    assert [e.fits for e in most] == [True, False]  # type: ignore[union-attr]
    assert most[1].peak_memory_bytes < most[1].capacity_bytes  # type: ignore[union-attr]
    asked = ["estimate", "mobilenetv2_100", "--on", "h100_sxm", "--batch", "4096", "--runtime", "compile"]
    assert main(asked) == 3
    assert "fewer than 2^31 elements in kernels of depthwise" in capsys.readouterr().err
    assert main([*asked, "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["fits"] is False


def test_the_batch_that_ran_is_asked_of_families_that_were_never_fitted(tmp_path: Path) -> None:
    header = "hardware,precision,layout,torch,compile,model,step_time_ms,batch_size,img_size\n"
    rows = [f"RTX-4090,amp,nchw,291,eager,{m},100,{b},224" for m, b in (("convnext_tiny", 768), ("resnet50", 1024))]
    (tmp_path / "infer_rtx4090.csv").write_text(header + "\n".join(rows) + "\n")
    found = {c.phase: c for c in timm_tables.read(tmp_path, Ask("timm_benchmarks"))}
    one = found["fits infer eager nchw"]
    assert one.metric == "batch" and one.family.tolist() == ["convnext"] and one.split.tolist() == ["left-out"]
    assert one.measured.tolist() == [768.0] and float(one.predicted[0]) in (768.0, 512.0)
    assert len(found["infer eager nchw"].measured) == 2
