"""Networks by name: the builder, families, the catalogue, the door and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from steelyard.errors import InputError, UnknownName, normalise
from steelyard.folders import catalogue_folders
from steelyard.workload import nets
from steelyard.workload.extent import extent
from steelyard.workload.ingest.kept_graph import packed
from steelyard.workload.nets import find_net, is_net, load_net, net_names
from steelyard.workload.networks import values
from steelyard.workload.networks._base import NETWORKS
from steelyard.workload.networks.builder import Builder
from steelyard.workload.networks.sizes import divided, plus, slid, times
from steelyard.workload.networks.values import symbol
from tests.guides import python_blocks

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


def test_layers_under_one_name_share_their_weights() -> None:
    net = Builder("shared")
    x = net.image(8, 16)
    for _ in range(3):
        with net.sharing("layer"):
            x = net.norm(net.conv(x, 8, 3, bias=True))
    graph = net.graph(x)
    assert graph.parameters == 8 * 8 * 9 + 8 + 16 and graph.macs() == 3 * 16 * 16 * 8 * 8 * 9


@pytest.mark.parametrize("name", net_names())
def test_every_named_network_has_the_totals_its_row_states(name: str) -> None:
    row = find_net(name)
    graph = load_net(name)
    assert float(graph.macs()) == pytest.approx(row.macs, rel=0.005), "macs"
    assert graph.parameters == pytest.approx(row.parameters, rel=0.005), "parameters"
    assert row.source and not list(graph.unknown()) and graph.outputs
    assert all(d >= 0 for t in graph.tensors for d in t.shape if isinstance(d, int))


#: Multiply-accumulates in millions and parameters in millions as the papers and the libraries' pages print them.
PUBLISHED = {
    "alexnet": (714, 61.1),
    "vgg16": (15470, 138.4),
    "vgg19_bn": (19632, 143.7),
    "resnet18": (1814, 11.69),
    "resnet50": (4089, 25.56),
    "resnet152": (11514, 60.19),
    "resnext50_32x4d": (4230, 25.03),
    "wide_resnet50_2": (11398, 68.88),
    "seresnet50": (4090, 28.09),
    "densenet121": (2834, 7.98),
    "densenet161": (7728, 28.68),
    "googlenet": (1498, 6.62),
    "inception_v3": (5713, 23.83),
    "squeezenet1_0": (819, 1.25),
    "squeezenet1_1": (349, 1.24),
    "mobilenetv1_100": (569, 4.23),
    "mobilenetv1_025": (41, 0.47),
    "mobilenetv2_100": (301, 3.50),
    "mobilenetv2_140": (582, 6.11),
    "mobilenetv3_large_100": (217, 5.48),
    "mobilenetv3_small_100": (56.5, 2.54),
    "mobilenetv4_conv_small": (186, 3.77),
    "mnasnet_100": (314, 4.38),
    "semnasnet_100": (312, 3.89),
    "fbnetc_100": (385, 5.57),
    "proxylessnas_mobile": (320, 4.08),
    "proxylessnas_gpu": (465, 7.12),
    "shufflenet_v2_x1_0": (145, 2.28),
    "shufflenet_v2_x2_0": (583, 7.39),
    "efficientnet_b0": (386, 5.29),
    "efficientnet_b4": (4394, 19.34),
    "efficientnet_b7": (37746, 66.35),
    "efficientnetv2_s": (8366, 21.46),
    "regnetx_032": (3177, 15.30),
    "regnety_160": (15912, 83.59),
    "convnext_tiny": (4456, 28.59),
    "convnext_base": (15355, 88.59),
    "repvgg_a0": (1513, 9.11),
    "vit_base_patch16_224": (17564, 86.57),
    "deit_small_patch16_224": (4599, 22.05),
    "deit_base_distilled_patch16_224": (17657, 87.34),
    "swin_tiny_patch4_window7_224": (4491, 28.29),
    "bert_base": (11174, 109.48),
    "distilbert": (5587, 66.36),
    "yolov3": (32930, 61.95),
    "yolov5s": (8215, 7.235),
    "yolov5x": (102725, 86.75),
    "yolov8n": (4370, 3.157),
    "yolov8x": (128900, 68.23),
    "yolo11n": (3270, 2.624),
    "yolov8n_seg": (6000, 3.40997),
    "yolov8n_pose": (4590, 3.29547),
    "yolov5s_seg": (13180, 7.62),
    "yolox_s": (13345, 8.968),
    "retinanet_resnet50_fpn": (96880, 34.068),
    "fasterrcnn_resnet50_fpn": (91170, 41.808),
    "albert_base_v2": (11187, 11.6836),
    "unet_3d": (477299, 31.19),
    "yolov7": (52256, 36.93),
    "yolov7_tiny": (6850, 6.227),
    "yolov3_tiny": (2783, 8.85),
    "ssd_mobilenet_v1": (1237, 6.82),
    "resnet50_v1": (3858, 25.56),
    "resnet_v1_50": (3483, 25.56),
    "efficientnet_lite4": (2553, 13.01),
    "dncnn3": (102631, 0.667),
    "sesr_m5": (3115, 0.01362),
    "espcn_x2": (793, 0.02128),
    "clip_vit_b_16": (17563, 86.19),
    "clip_vit_b_text": (2980, 63.43),
    "unet": (192686, 31.0377),
    "pvt_v2_b0": (566, 3.667),
    "levit_128s": (305, 7.777),
    "levit_256": (1127, 18.89),
    "mobilevit_s": (2001, 5.579),
    "mobilevit_xxs": (407, 1.272),
    "pvt_v2_b5": (11717, 81.96),
    "yolo11x": (97635, 56.97),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_families_build_what_was_published(name: str) -> None:
    graph = load_net(name)
    macs, parameters = PUBLISHED[name]
    assert float(graph.macs()) / 1e6 == pytest.approx(macs, rel=0.005)
    assert graph.parameters / 1e6 == pytest.approx(parameters, rel=0.005)


#: Edges of node 3 of a cell whose first two nodes are of 3x3 convolutions -> totals in millions.
CELLS = {
    "nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2": (220.12, 1.531546),
    "skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2": (184.73, 1.288506),
}


@pytest.mark.parametrize("last", CELLS)
def test_cells_of_nas_bench_201_have_its_published_totals(last: str) -> None:
    cell = f"|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|{last}|"
    graph = load_net("nasbench201", sets={"cell": cell})
    macs, parameters = CELLS[last]
    assert float(graph.macs()) / 1e6 == pytest.approx(macs, abs=0.01) and graph.parameters / 1e6 == parameters


def test_spaces_take_choices_as_their_papers_write_them() -> None:
    skipped = "8-8-1-8-4-8-8-8-7-4-1-4-7-3-2-7-3-2-4-2-4-5"
    assert load_net("fbnet_space", sets={"ops": skipped}).macs() < load_net("fbnet_space").macs()
    small = {"depths": [2] * 5, "kernels": [3] * 20, "expansions": [3] * 20}
    assert load_net("ofa_mobilenet_v3", sets=small).macs() < load_net("ofa_mobilenet_v3").macs() / 3
    for name, sets, said in (
        ("nasbench201", {"cell": "|nor_conv_5x5~0|"}, "unknown operation"),
        ("nasbench201", {"cell": "|none~4|"}, "before 1"),
        ("fbnet_space", {"ops": "1-2-3"}, "22 numbers"),
        ("ofa_mobilenet_v3", {"depths": "9,1,1,1,1"}, "1 to 4"),
        ("mobilenetv2_100", {"stages": ["xx 3"]}, "expected a row such as"),
        ("mobilenetv2_100", {"stages": ["mb 24 q3"]}, "expected words such as"),
    ):
        with pytest.raises(InputError, match=said):
            load_net(name, sets=sets)


def test_a_wrong_row_of_the_user_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nets").mkdir()
    rows = ('name = "wrong"\nfamily = "resnett"', 'name = "odd"\nfamily = "resnet"\nconfig = { deph = 3 }')
    good = 'name = "mine"\nfamily = "resnet"\nconfig = { depths = [1, 1, 1, 1] }\naliases = ["My Net"]'
    (tmp_path / "nets/own.toml").write_text("".join(f"[[net]]\n{row}\n" for row in (*rows, good)))
    monkeypatch.setenv("STEELYARD_CATALOGUE", str(tmp_path))
    caches = (catalogue_folders, nets._places, nets._entry, nets._entries, nets._built)
    for one in caches:
        one.cache_clear()
    try:
        assert load_net("my net").macs() < load_net("resnet18").macs() and is_net("mine")
        for name, said in (("wrong", "did you mean 'resnet'"), ("odd", "did you mean 'depths'"), ("nine", "'mine'")):
            with pytest.raises(InputError, match=said):
                load_net(name)
    finally:
        for one in caches:
            one.cache_clear()


def test_no_two_networks_answer_to_one_name() -> None:
    from steelyard.workload.catalogue import model_names

    said = [normalise(a) for name in net_names() for a in {name, *find_net(name).aliases}]
    assert len(said) >= 300 and {n for n in said if said.count(n) > 1} == set()
    assert not {normalise(n) for n in model_names()} & set(said)


def test_the_door_says_what_it_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(values, "MOST_NODES", 500)
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
        (lambda: load_net("resnet50", sets={"depths": [10**9, 1, 1, 1]}), "at most 500 nodes"),
        (lambda: load_net("timm:"), "timm"),
        (lambda: load_net("poolformer_s12", size=256), "kept at 224x224"),
        (lambda: load_net("resnet50", sets={"deph": 3}), "did you mean 'depths'"),
        (lambda: load_net(tmp_path / "none.onnx"), "no file"),
        (lambda: load_net(""), "expected a name"),
    ):
        with pytest.raises(InputError, match=said):
            wrong()


def test_the_family_of_the_guide_is_a_network() -> None:
    code = next(block for block in python_blocks("add-a-network") if "class TwoLayers" in block)
    space: dict[str, Any] = {}
    exec(code, space)
    with NETWORKS.during("two_layers_of_the_guide", space["TwoLayers"]):
        net = Builder("guide")
        graph = net.graph(NETWORKS.get("two_layers_of_the_guide")().build(net, (32, 32)))
    assert graph.macs() == 16 * 16 * 16 * 27 + 160 and graph.parameters == 432 + 32 + 170


def test_a_supernet_computes_every_choice_and_a_part_of_the_channels_less() -> None:
    cells, part = load_net("darts_supernet"), load_net("darts_supernet", sets={"parts": "4"})
    # 1,930,618 of the published super-network, whose normalisations have neither scale nor offset
    plain = cells.parameters - sum(
        2 * cells.tensors[n.outputs[0]].shape[1] for n in cells.nodes if n.op == "batch_norm"
    )
    assert plain == pytest.approx(1_930_618, rel=0.03)
    assert part.macs() < cells.macs() / 3
    assert load_net("fbnet_supernet").macs() > 3 * load_net("fbnet_space").macs()
    with pytest.raises(InputError, match="no 3 parts"):
        load_net("darts_supernet", sets={"parts": "3"})


def test_layers_of_once_for_all_are_left_out_at_the_end_of_a_stage_alone() -> None:
    from steelyard.workload.networks.search_space import SPACES

    assert SPACES["ofa"].size == (9 + 9**2 + 9**3 + 9**4) ** 5
    assert SPACES["nb201"].size == 15_625
