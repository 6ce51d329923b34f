"""Networks by name: the builder, families, the catalogue, the door and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from steelyard.errors import InputError, UnknownName
from steelyard.workload.extent import extent
from steelyard.workload.ingest.kept_graph import packed
from steelyard.workload.nets import find_net, is_net, load_net, net_names
from steelyard.workload.networks.builder import Builder
from steelyard.workload.networks.sizes import divided, plus, slid, times
from steelyard.workload.networks.values import symbol

B = extent({("batch",): 1})


def test_open_sizes_add_multiply_and_divide_where_that_is_whole() -> None:
    size = plus(times(B, 196), B)
    assert size == times(B, 197) and divided(times(size, 64), size) == 64 and divided(times(B, 12), 4) == times(B, 3)
    assert slid(224, 7, 2, 6, 1) == 112 and slid(112, 3, 2, 0, 1, up=True) == 56 and slid(7, 3, 1, 2, 1) == 7
    assert slid(times(symbol("frames"), 2), 3, 2, 2, 1) == symbol("frames")
    for wrong in (lambda: divided(7, 2), lambda: divided(B, plus(B, 1)), lambda: slid(2, 7, 1, 0, 1)):
        with pytest.raises(InputError, match="size"):
            wrong()


def test_layers_infer_sizes_and_alias_what_pytorch_does_in_place() -> None:
    net = Builder("small")
    x = net.image(3, 32)
    y = net.relu(net.norm(net.conv(x, 16, 3, 2)))
    z = net.max_pool(net.deconv(y, 8, 4, 2, 1), 3, 2, 1)
    out = net.linear(net.flatten(net.mean(z)), 10)
    graph = net.graph(out)
    assert [str(s) for s in net.shape(z)] == ["1*batch", "8", "16", "16"]
    assert graph.storage(y) == y - 3 and graph.tensors[y].of == y - 3  # two small outputs of the norm between
    assert graph.macs() == 16 * 16 * 16 * 27 + 16 * 16 * 16 * 8 * 16 + 80
    assert graph.parameters == 432 + 32 + (16 * 8 * 16 + 8) + 90
    assert graph.symbols == {"batch": 1} and [n.op for n in graph.nodes][-1] == "linear"


@pytest.mark.parametrize("name", net_names())
def test_every_named_network_has_the_totals_its_row_states(name: str) -> None:
    row = find_net(name)
    graph = load_net(name)
    assert float(graph.macs()) == pytest.approx(row.macs, rel=0.005), "macs"
    assert graph.parameters == pytest.approx(row.parameters, rel=0.005), "parameters"
    assert row.source and not list(graph.unknown())


def test_the_door_says_what_it_knows(tmp_path: Path) -> None:
    assert load_net("ResNet-50").name == "resnet50" and is_net("resnet_50") and not is_net("llama-3.1-8b")
    assert load_net("resnet50", size="320x640").macs() > 3 * load_net("resnet50").macs()
    assert load_net("resnet50", sets={"batch": "8", "classes": 10}).symbols["batch"] == 8
    path = tmp_path / "own.json.gz"
    path.write_bytes(packed(load_net("resnet18", size=64)))
    assert load_net(path).macs() == load_net("resnet18", size=64).macs() and is_net(str(path))
    with pytest.raises(UnknownName, match="resnet50"):
        load_net("resnet5O")
    for wrong, said in (
        (lambda: load_net("resnet50", size="big"), "size: expected a size such as 224"),
        (lambda: load_net("resnet50", size=0), "size"),
        (lambda: load_net("resnet50", sets={"batchs": 3}), "did you mean 'batch'"),
        (lambda: load_net("resnet50", sets={"batch": 0}), "at least 1"),
        (lambda: load_net("resnet50", sets={"depths": [1, 2]}), "make no network"),
        (lambda: load_net("resnet50", sets={"depths": "a"}), "depths"),
        (lambda: load_net("resnet50", sets={"depths": [10**9, 1, 1, 1]}), "at most 100,000 nodes"),
        (lambda: load_net("timm:"), "timm"),
        (lambda: load_net(tmp_path / "none.onnx"), "no file"),
        (lambda: load_net(""), "expected a name"),
    ):
        with pytest.raises(InputError, match=said):
            wrong()
