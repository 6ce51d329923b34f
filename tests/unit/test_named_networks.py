"""Networks and pipelines by name: parameters and work as published, phases of those that have several."""

from __future__ import annotations

import pytest

import steelyard as sy
from steelyard.errors import InputError
from steelyard.estimation.network import NetEstimate
from steelyard.workload.catalogue import load_model
from steelyard.workload.nets import find_net, load_net
from steelyard.workload.pipelines import find_pipeline, phases_of

#: Learned numbers, counted by the source that the row of each names.
PARAMETERS = {
    "gcn_cora": 23_063,
    "gat_cora": 92_373,
    "gcn_arxiv": 110_120,
    "sage_arxiv": 218_664,
    "gin_molhiv": 1_885_206,
    "whisper_tiny_encoder": 8_208_384,
    "whisper_tiny_decoder": 29_552_256,
    "whisper_base_encoder": 20_590_592,
    "whisper_base_decoder": 52_003_328,
    "whisper_small_encoder": 88_154_112,
    "whisper_small_decoder": 153_580_800,
    "fastspeech2_text": 35_914_499,
    "fastspeech2_frames": 34_347_760,
    "vits_text": 6_299_904 + 1_317_168,
    "vits_flow": 7_102_080,
    "vits_sound": 14_327_424,
    "encodec_encoder": 7_425_792,
    "encodec_decoder": 7_426_018,
    "xlstm_7b_net": 6_865_424_896,
    "dit_pixart_alpha": 611_349_152,
}
#: As a paper prints them, to its last digit: learned numbers, and multiply-accumulates where it has them.
PRINTED = {
    "lowformer_b0": (14.1e6, 0.05e6, 944e6, 0.5e6),
    "lowformer_b1": (17.9e6, 0.05e6, 1410e6, 5e6),
    "lowformer_b15": (33.9e6, 0.1e6, 2573e6, 1e6),
    "lowformer_b2": (45.0e6, 0.05e6, 3689e6, 1e6),
    "lowformer_b3": (57.1e6, 0.05e6, 6098e6, 1e6),
    "hifigan_v1": (13.92e6, 0.01e6, 0, 0),
    "hifigan_v2": (0.92e6, 0.01e6, 0, 0),
    "hifigan_v3": (1.46e6, 0.01e6, 0, 0),
    "dit_xl_2": (675e6, 0.5e6, 118.6e9, 0.05e9),
}


def answered(name: str, **words: object) -> NetEstimate:
    found = sy.estimate(name, "h100_sxm", **words)  # type: ignore[arg-type]
    assert isinstance(found, NetEstimate)
    return found


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_the_published(name: str) -> None:
    net = load_net(name)
    assert net.parameters == PARAMETERS[name]
    assert float(net.macs()) == pytest.approx(find_net(name).macs, rel=1e-3)
    assert not list(net.unknown())


@pytest.mark.parametrize("name", PRINTED)
def test_counts_are_those_a_paper_prints(name: str) -> None:
    parameters, near, macs, nearly = PRINTED[name]
    net = load_net(name)
    assert net.parameters == pytest.approx(parameters, abs=near)
    assert not macs or float(net.macs()) == pytest.approx(macs, abs=nearly)
    assert not list(net.unknown())


def test_pixart_is_built_as_its_library_runs_it() -> None:
    built = load_net("dit_pixart_alpha", sets={"text": 300, "told": False})
    (traced,) = (p.graph for p in phases_of("pixart-sigma") if p.name == "denoise")
    assert built.parameters == traced.parameters
    for rows, columns in ((64, 64), (32, 96)):
        sizes = {"batch": 2, "rows": rows, "columns": columns}
        assert float(built.macs(sizes)) == float(traced.macs(sizes))


def test_graphs_grow_with_their_nodes_and_edges() -> None:
    def moved(size: str) -> float:
        net = load_net("gcn_cora", size=size)
        return sum(float(net.elements(n.outputs[0], {"batch": 1})) for n in net.nodes if n.op == "gather")

    assert moved("2708x10556") == (2708 + 10556) * (16 + 7)
    assert load_net("gcn_cora", size="100x500").macs() == load_net("gcn_cora", size="100x9000").macs()
    one, ten = answered("gin_molhiv"), answered("gin_molhiv", batch=10)
    assert ten.macs == pytest.approx(one.macs) and ten.throughput_per_s > 5 * one.throughput_per_s
    with pytest.raises(InputError, match="nodes and edges of a graph"):
        load_net("gcn_cora", size=(1, 2, 3))


def test_whisper_listens_once_for_each_window_and_writes_token_by_token() -> None:
    encode, prompt, write = phases_of("net:whisper-small")
    assert encode.repeats == prompt.repeats == 1 and write.repeats == 112
    answer = answered("net:whisper-small", steps=112)
    assert answer.parameters == 241_734_912  # both sides, the decoder's once
    assert load_model("whisper-small").transformer.parameters() == pytest.approx(answer.parameters, rel=1e-3)
    # read by hand: keys and values of 1,500 frames in twelve layers, at the first pass alone
    of_sound = 12 * 2 * 1500 * 768 * 768
    assert float(prompt.graph.macs()) - 4 * float(write.graph.macs()) == pytest.approx(of_sound, rel=0.02)
    long = phases_of("whisper-small", size="31", steps=50)
    assert [p.repeats for p in long] == [2, 2, 100]
    with pytest.raises(InputError, match="whole number of seconds of sound"):
        phases_of("whisper-small", size="30x30")


def test_speech_is_made_of_text_then_frames_then_sound() -> None:
    for name, phases in (("fastspeech2", ["text", "frames", "sound"]), ("vits", ["text", "flow", "sound"])):
        short, long = answered(name, size="100"), answered(name, size="400")
        assert [p.name for p in short.phases] == phases
        assert long.macs > 3.9 * short.macs and long.parameters == short.parameters
        with pytest.raises(InputError, match="has no steps"):
            answered(name, steps=3)
    assert answered("fastspeech2").parameters == 70_262_259 + 13_926_017
    assert answered("encodec").parameters == 14_851_810


def test_few_step_models_run_their_denoiser_without_guidance() -> None:
    usual, turbo = phases_of("sd-3.5-large"), phases_of("stabilityai/stable-diffusion-3.5-large-turbo")
    assert find_pipeline("sd-3.5-turbo").steps == 4
    for a, b in zip(usual, turbo, strict=True):
        assert a.graph.name == b.graph.name and b.items == 1
    assert {p.name: p.repeats for p in turbo}["denoise"] == 4
    for name in ("sdxl-turbo", "sd-turbo"):
        assert {p.name: p.repeats for p in phases_of(name)}["denoise"] == 1
    with pytest.raises(InputError, match="only steps of a diffusion pipeline are shared"):
        sy.estimate("vits", "h100_sxm:2", cp=2)
