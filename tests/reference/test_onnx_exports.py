"""Twelve networks through ONNX against their traces: equal multiply-accumulates at every batch, and parameters.

They are exported from PyTorch with the batch open and, again, at a fixed batch. The exporter folds batch
normalisations into convolutions, so of those only the bias is left; it folds tables of Swin into the masks they make.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

NEEDED = ("torch", "timm", "transformers", "onnx", "onnxscript")
pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(
        any(find_spec(n) is None for n in NEEDED), reason="needs torch and onnx, and timm, transformers and onnxscript"
    ),
]


def _timm(name: str) -> Callable[[], Any]:
    def build() -> Any:
        import timm

        return timm.create_model(name, pretrained=False)

    return build


def _lstm() -> Any:
    from torch import nn

    class Net(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(1000, 64)
            self.steps = nn.LSTM(64, 128, 2, batch_first=True, bidirectional=True)
            self.head = nn.Linear(256, 10)

        def forward(self, x: Any) -> Any:
            return self.head(self.steps(self.words(x))[0][:, -1])

    return Net()


def _unet() -> Any:
    import torch
    from torch import nn

    def block(i: int, o: int) -> Any:
        twice = [[nn.Conv2d(n, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU()] for n in (i, o)]
        return nn.Sequential(*twice[0], *twice[1])

    class Net(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.down, self.deep = block(3, 16), block(16, 32)
            self.pool, self.up = nn.MaxPool2d(2), nn.ConvTranspose2d(32, 16, 2, 2)
            self.out, self.head = block(32, 16), nn.Conv2d(16, 2, 1)

        def forward(self, x: Any) -> Any:
            a = self.down(x)
            return self.head(self.out(torch.cat([self.up(self.deep(self.pool(a))), a], 1)))

    return Net()


def _bert() -> Any:
    from torch import nn
    from transformers import BertConfig, BertModel

    class Net(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            sizes = {"hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024, "vocab_size": 1000}
            self.model = BertModel(BertConfig(num_hidden_layers=4, **sizes), add_pooling_layer=False)

        def forward(self, x: Any) -> Any:
            return self.model(x).last_hidden_state

    return Net()


#: Networks, and the shape of one item of their input.
NETS: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    **{
        n: (_timm(n), (3, 224, 224))
        for n in ("resnet50", "mobilenetv2_100", "mobilenetv3_large_100", "efficientnet_b0", "vgg16", "densenet121")
    },
    **{n: (_timm(n), (3, 224, 224)) for n in ("convnext_tiny", "vit_base_patch16_224", "swin_tiny_patch4_window7_224")},
    "lstm": (_lstm, (16,)),
    "unet": (_unet, (3, 64, 64)),
    "bert": (_bert, (16,)),
}


@pytest.mark.parametrize("name", NETS)
def test_totals_through_onnx_are_those_of_the_trace(name: str, tmp_path: Path) -> None:
    import torch

    from steelyard.workload.ingest.onnx import read_onnx
    from steelyard.workload.ingest.torch_trace import trace_module

    build, item = NETS[name]
    kind = torch.float32 if len(item) == 3 else torch.int64

    def on_meta() -> Any:
        with torch.device("meta"):
            return build().eval()

    traced = trace_module(on_meta, lambda b: (torch.zeros(b, *item, dtype=kind, device="meta"),), name)
    module = build().eval()
    for parameter in module.parameters():  # the exporter merges weights that are equal
        parameter.data.normal_(0, 0.02)
    for key, buffer in module.named_buffers():
        if "running" in key:
            buffer.uniform_(0.5, 1.0)
    x = torch.zeros(2, *item, dtype=kind)
    for shapes in (({0: torch.export.Dim("batch")},), None):
        path = tmp_path / "net.onnx"
        torch.onnx.export(module, (x,), path, dynamo=True, dynamic_shapes=shapes, external_data=False, verbose=False)
        graph = read_onnx(path)
        batches = (1, 2, 7) if graph.symbols else (2,)
        for batch in batches:
            scale = {"batch": batch}
            assert graph.macs(scale) == traced.macs(scale if graph.symbols else {"batch": 2})
        assert not list(graph.unknown())
        norms = sum(m.num_features for m in module.modules() if isinstance(m, torch.nn.BatchNorm2d))
        assert traced.parameters - 2 * norms <= graph.parameters <= traced.parameters * 1.02
        if name in ("resnet50", "mobilenetv2_100", "unet"):
            assert graph.parameters == traced.parameters - norms
        if name in ("vgg16", "lstm", "bert"):
            assert abs(graph.parameters - traced.parameters) <= 1024  # states that begin at nought are in the file
