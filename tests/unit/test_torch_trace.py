"""Traces of torch modules: counts, open sizes, ops that a library does whole; skipped where torch is not installed."""

from __future__ import annotations

from typing import Any

import pytest

import steelyard as sy
from steelyard.errors import InputError

torch = pytest.importorskip("torch", reason="needs the torch extra")


def meta(make: Any) -> Any:
    def build() -> Any:
        with torch.device("meta"):
            return make().eval()

    return build


def test_a_traced_convolution_counts_as_pytorch_counts() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    from steelyard.workload.ingest.torch_trace import trace_module

    def make() -> Any:
        return torch.nn.Sequential(
            torch.nn.Conv2d(3, 16, 3, stride=2, padding=1), torch.nn.BatchNorm2d(16), torch.nn.ReLU(inplace=True),
            torch.nn.Conv2d(16, 16, 3, padding=1, groups=16), torch.nn.ConvTranspose2d(16, 8, 2, stride=2),
            torch.nn.Flatten(), torch.nn.Linear(8 * 32 * 32, 10),
        )  # fmt: skip

    graph = trace_module(meta(make), lambda b: (torch.empty(b, 3, 32, 32, device="meta"),), "net")
    with FlopCounterMode(display=False) as counter:
        make().eval()(torch.zeros(5, 3, 32, 32))
    assert 2 * graph.macs({"batch": 5}) == counter.get_total_flops()
    assert graph.parameters == sum(p.numel() for p in make().parameters())


def test_attention_and_recurrences_are_one_node() -> None:
    from steelyard.workload.ingest.torch_trace import trace_open

    class Net(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.read = torch.nn.LSTM(8, 16, num_layers=2, bidirectional=True, batch_first=True)
            self.attend = torch.nn.MultiheadAttention(32, 4, batch_first=True)

        def forward(self, x: Any) -> Any:
            x = self.read(x)[0]
            return self.attend(x, x, x, need_weights=False)[0]

    graph = trace_open(
        meta(Net),
        lambda s: (torch.empty(s["batch"], s["frames"], 8, device="meta"),),
        {"batch": (2, 3), "frames": (5, 9)},
        "net",
    )
    ops = [n.op for n in graph.nodes]
    assert ops.count("recurrent") == 1 and ops.count("attention") == 1
    recurrent = next(n for n in graph.nodes if n.op == "recurrent")
    assert recurrent.facts == {"layers": 2, "hidden": 16, "gates": 4, "directions": 2, "batch_first": 1}
    lstm = 7 * 11 * 2 * 4 * 16 * ((8 + 16) + (32 + 16))
    attention = 7 * (11 * 32 * 96 + 2 * 11 * 11 * 32 + 11 * 32 * 32)
    assert graph.macs({"batch": 7, "frames": 11}) == lstm + attention


def test_a_module_of_a_program_is_answered_and_what_needs_values_is_refused() -> None:
    net = torch.nn.Linear(128, 64)
    found = sy.estimate(net, "rtx_4090", inputs=(torch.zeros(4, 128),), batch=16)
    assert found.to_dict()["macs"] == 128 * 64 and found.parameters == 128 * 64 + 64
    with pytest.raises(InputError, match="inputs"):
        sy.estimate(net, "rtx_4090")

    class Wants(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, x: Any) -> Any:
            return x[: int(x.sum())]

    with pytest.raises(InputError, match="without values"):
        sy.estimate(Wants(), "rtx_4090", inputs=(torch.zeros(4, 8),))
