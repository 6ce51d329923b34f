"""Towers of multimodal models: their parameters, their memory, the tokens of an image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from steelyard import estimate
from steelyard.cost.memory import weight_parts
from steelyard.deployment.plan import Plan
from steelyard.errors import InputError
from steelyard.workload.catalogue import find_model, load_model, model_names
from steelyard.workload.families import read_config
from steelyard.workload.tower import Native, Read, Sound, Square, Tiles, Tower
from steelyard.workload.tower_ops import tower_graph
from tests.weights import write_safetensors

TEXT = {
    "model_type": "qwen3",
    "vocab_size": 1000,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
}


def whole(kind: str, vision: Any, **more: Any) -> Any:
    """A small language model with a tower."""
    return read_config({"model_type": kind, "text_config": TEXT, "vision_config": vision, **more})


TOWERS = [n for n in model_names() if {"vision_config", "img_processor"} & find_model(n).config.keys()]
#: Their files hold more: a layer that guesses tokens, projections of layers that read the cache of others.
MORE = ("multi-token", "audio")


@pytest.mark.parametrize("name", [n for n in TOWERS if not any(x in find_model(n).parameters_source for x in MORE)])
def test_language_model_and_towers_are_the_published_total(name: str) -> None:
    model = load_model(name)
    assert model.entry is not None and model.transformer.towers
    total = model.transformer.parameters() + sum(t.parameters for t in model.transformer.towers)
    published = model.entry.checkpoint_parameters
    assert not published or total == pytest.approx(published, rel=0.001)


@pytest.mark.parametrize(
    ("name", "beside"),
    [
        ("qwen3.5-0.8b", 100_592_896),
        ("qwen3.5-9b", 9_409_813_744 - 8_953_803_264),  # the total of a copy without the guessing layer
        ("qwen3.5-397b-a17b", 456_010_480),
        ("gemma-4-e2b", 168_544_256 + 307_182_368),
        ("gemma-3n-e4b", 983_281_504),
        ("step-3.7-flash", 201_365_316_160 - 199_384_301_376),  # less Step 3.5, the same without a tower
    ],
)
def test_towers_beside_a_guessing_layer(name: str, beside: int) -> None:
    assert sum(t.parameters for t in load_model(name).transformer.towers) == beside


SIZES = [(1024, 1024), (336, 336), (1000, 2000), (3000, 400)]
RULES: dict[str, tuple[Any, list[int]]] = {
    "Qwen2.5-VL: one token per 28 x 28 pixels": (Native(14, 2, 3136, 12_845_056), [1369, 144, 2556, 1498]),
    "Gemma 3": (Square(4096, 256), [256] * 4),
    "LLaVA 1.5": (Square(577, 576), [576] * 4),
    "Pixtral 12B: rows end with a break": (
        Native(16, max_edge=1024, rounding="up", row_tokens=1),
        [4160, 462, 2080, 640],
    ),
    "InternVL: 256 per tile and an overview": (Tiles(448, 1025, 256, 12), [2560, 256, 2304, 2304]),
    "Llama 4: 144 per tile and an overview": (
        Tiles(336, 577, 144, 16, "fits", tile_tokens=1, more_tokens=-1),
        [2464, 144, 2319, 2464],
    ),
}


#: Tokens of 1024 x 1024 pixels by the rule of the catalogue's entry.
KNOWN = {
    "aya-vision-8b": 1690,  # a grid of 3 x 3 tiles of 364 pixels and an overview, 169 each
    "gemma-4-31b": 256,  # 280 at most
    "internvl3.5-8b": 2560,
    "kimi-k2.5": 1369,
    "llama-4-scout": 2464,
    "deepseek-ocr": 693,  # a page of 16 rows of 16 and a break, 20 rows of 20 and a break of four tiles, and one more
    "deepseek-vl2-tiny": 2017,  # nine tiles of 14 x 14 and an overview, rows ended
    "lfm2-vl-1.6b": 1280,  # four tiles of 512 pixels and an overview
    "llava-1.5-7b": 576,
    "llava-1.6-mistral-7b": 2928,  # 24 x 24 of the overview, 48 rows of 48 and a break
    "llava-onevision-7b": 7371,  # 81 rows of 81 and a break, 27 x 27 of the overview
    "minicpm-v": 448,  # six slices and an overview
    "mistral-small-3.1": 1406,  # 37 rows of 37 and a break
    "paligemma-3b": 256,
    "phi-3.5-vision": 757,  # (2 x 2 + 1) x 144 and 37 breaks
    "qwen2.5-vl-7b": 1369,
    "qwen3-vl-8b": 1024,
}


def test_tokens_of_the_catalogues_models() -> None:
    rules = {name: next(t.rule for t in load_model(name).transformer.towers if t.kind == "vision") for name in KNOWN}
    assert {name: rule.read(1024, 1024).tokens for name, rule in rules.items()} == KNOWN


@pytest.mark.parametrize("name", RULES)
def test_tokens_of_an_image(name: str) -> None:
    rule, tokens = RULES[name]
    assert [rule.read(*size).tokens for size in SIZES] == tokens


def test_tokens_of_a_sound() -> None:
    """Qwen3-Omni: 13 of each second, what is left halved three times; Qwen2-Audio fills half a minute up unheard."""

    def published(frames: int) -> int:
        left = frames % 100
        for _ in range(3):
            left = (left - 1) // 2 + 1
        return left + 13 * (frames // 100)

    (rule,) = (t.rule for t in load_model("qwen3-omni-30b").transformer.towers if t.kind == "audio")
    assert isinstance(rule, Sound) and rule.read_s(30).tokens == 390
    assert all(rule.read_s(n / 100).tokens == published(n) for n in range(1, 400))
    spoken = Sound(50, 25, 30.0, 30.0, silent=True)
    assert [spoken.read_s(x) for x in (10, 60)] == [Read(((1, 1500),), 250), Read(((1, 1500),), 750)]
    assert Sound(50, 12.5, 30.0).read_s(10) == Read(((1, 1500),), 375)  # Voxtral: silence is read as well


def test_memory_has_the_tower_as_a_part_of_its_own() -> None:
    """Unquantised, split over the devices that share its heads, on every stage."""
    model = load_model("gemma-3-27b").transformer
    (tower,) = model.towers
    assert tower.parameters == 423_060_336
    one = weight_parts(model, Plan(weights="fp8").resolved("bf16"))
    assert one["vision tower"] == 2 * tower.parameters
    split = weight_parts(model, Plan(weights="fp8", tp=8, pp=2).resolved("bf16"))
    assert split["vision tower"] == 2 * tower.parameters / 8
    bare = weight_parts(model, Plan(weights="fp8").resolved("bf16"), exact=30e9)
    assert sum(bare.values()) == pytest.approx(30e9)
    document = estimate("gemma-3-27b", on="h100_sxm").to_dict()
    assert document["memory_parts_bytes"]["weights"]["vision tower"] == 2 * tower.parameters
    assert document["parameters"]["towers"] == {"vision tower": tower.parameters}
    assert document["parameters"]["total"] == 27_432_406_640


def test_a_gguf_leaves_the_tower_out() -> None:
    """It is a file of its own."""
    answer = estimate("gemma-3-27b", on="rtx_5090", engine="llamacpp", weights="q4_k_m")
    assert "vision tower" not in answer.to_dict()["memory_parts_bytes"]["weights"]
    assert any(note.startswith("vision tower 0.423 B, a GGUF file of its own") for note in answer.ledger.assumptions)
    shown = {"engine": "llamacpp", "weights": "q4_k_m", "images": "1x896x896"}
    for asked in (estimate("gemma-3-27b", on="h100_sxm"), estimate("gemma-3-27b", on="rtx_5090", **shown)):
        assert asked.to_dict()["memory_parts_bytes"]["weights"]["vision tower"] == 2 * 423_060_336
        assert "vision tower 0.423 B, loaded in bf16" in asked.ledger.assumptions


@pytest.mark.parametrize(("name", "file_gb"), [("gemma3:4b", 3.3), ("ministral-3:8b", 6.0)])
def test_ollama_loads_the_tower_with_the_model(name: str, file_gb: float) -> None:
    """Sizes of Ollama's library, to the two digits it prints."""
    weights = estimate(name, "rtx_4060").to_dict()["memory_parts_bytes"]["weights"]
    assert sum(weights.values()) / 1e9 == pytest.approx(file_gb, abs=0.06)
    assert weights["vision tower"] > 0.8e9


def test_windows_cost_less_than_whole_attention() -> None:
    """Qwen2.5-VL: most layers look at windows of 8 x 8 patches."""
    sizes = {"hidden_size": 1280, "depth": 32, "fullatt_block_indexes": [7, 15, 23, 31]}
    (windowed,) = whole("qwen2_5_vl", sizes).towers
    (full,) = whole("qwen2_5_vl", {**sizes, "fullatt_block_indexes": list(range(32))}).towers
    assert windowed.parameters == full.parameters
    read = windowed.rule.read(1024, 1024)
    assert read == Read(((1, 4 * 1369),), 1369)
    pairs = 28 * 5476 * (5476 - 64) * 2 * 2 * 1280
    ours = float(tower_graph(full, read).matmul_flops()) - float(tower_graph(windowed, read).matmul_flops())
    assert ours == pytest.approx(pairs, rel=1e-6)


def test_what_is_not_described_is_said() -> None:
    model = whole("some_vl", {"hidden_size": 64})
    assert not model.towers
    assert any("not counted" in note and "vision_config" in note for note in model.notes)


@pytest.mark.parametrize(
    ("vision", "more", "said"),
    [
        ({"hidden_size": "wide"}, {}, "vision_config.hidden_size: expected a whole number"),
        ({"patch_size": 2**20}, {}, "vision_config.patch_size: expected a whole number from 1 to 1024"),
        ({"image_size": 3}, {}, "vision_config.image_size: expected at least one patch of 14 pixels"),
        ({"num_attention_heads": 7}, {}, "vision_config.hidden_size: 1024 does not divide by num_attention_heads = 7"),
        ({}, {"max_dynamic_patch": 10**9}, "max_dynamic_patch: expected a whole number from 0 to 256"),
    ],
)
def test_wrong_sizes_are_named_by_their_path(vision: Any, more: Any, said: str) -> None:
    with pytest.raises(InputError) as caught:
        whole("internvl", vision, **more)
    assert str(caught.value).startswith(said)


def test_towers_whose_sizes_no_config_states() -> None:
    """Phi-4-multimodal names its towers alone; the same as transformers' own type, which states them."""
    layers = {"image_embd_layer": {"crop_size": 448}, "audio_embd_layer": {"compression_rate": 8}}
    phi = dict(find_model("microsoft/Phi-4-mini-instruct").config)
    vision, audio = read_config({**phi, "model_type": "phi4mm", "embd_layer": layers}).towers
    assert vision.parameters + audio.parameters == 907_982_272
    assert vision.rule.read(1024, 1024).tokens == 9 * 256 + 48 + 1 + 272
    assert audio.rule.read_s(8.0).tokens == 100


def test_a_tower_of_weights_alone_has_no_ops() -> None:
    with pytest.raises(InputError, match="only the weights"):
        tower_graph(Tower("vision tower", "vision", 10), Read(((1, 1),), 1))


@pytest.mark.parametrize(
    ("quant", "stored", "bits"),
    [
        (None, "bf16", 16),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "bf16", 16),
        ({"quant_method": "fp8", "modules_to_not_convert": ["visual"]}, "bf16", 16),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "nf4", 4.5),
        (
            {"quant_method": "bitsandbytes", "load_in_4bit": True, "llm_int8_skip_modules": ["vision_tower"]},
            "bf16",
            16,
        ),
    ],
)
def test_quantisers_leave_towers_unless_they_take_everything(quant: Any, stored: str, bits: float) -> None:
    (tower,) = whole("qwen2_5_vl", {"hidden_size": 64, "num_heads": 4}, quantization_config=quant).towers
    assert (tower.format, tower.bits) == (stored, pytest.approx(bits))


def test_files_say_how_a_tower_is_stored(tmp_path: Path) -> None:
    """Half a byte per parameter, and none where the files have no tower."""
    config = {"model_type": "gemma3", "text_config": TEXT, "vision_config": {"vision_use_head": False}}
    language = [("model.language_model.layers.0.mlp.up_proj.weight", (512, 256), "BF16")]
    (tower,) = read_config(config).towers
    for packed, found in (([("vision_tower.blocks.0.weight", (tower.parameters // 2,), "U8")], 4.0), ([], None)):
        (tmp_path / "config.json").write_text(json.dumps(config))
        write_safetensors(tmp_path / "model.safetensors", [*language, *packed])
        towers = load_model(tmp_path).transformer.towers
        assert [t.bits for t in towers] == ([] if found is None else [pytest.approx(found, rel=1e-6)])


@pytest.mark.parametrize(
    ("kind", "vision", "wanted"),
    [  # positions and tokens of 1080 x 1920, 100 x 100 and 20 x 700 pixels, as the image processors cut them
        ("molmo2", {}, [(6561, 1203), (1458, 424), (1458, 424)]),
        ("video_llama_3", {"patch_size": 14}, [(5035, 5035), (49, 49), (50, 50)]),
        ("cosmos3_edge", {}, [(8160, 2040), (256, 64), (384, 96)]),
        ("muse_glimmer", {}, [(10764, 2693), (64, 18), (100, 27)]),
        ("muse_spark", {}, [(10764, 2693), (64, 18), (100, 27)]),
        ("idefics2", {"patch_size": 14}, [(13650, 326), (3645, 326), (6750, 326)]),
        ("inkling2", {}, [(5184, 1296), (36, 9), (72, 18)]),
    ],
)
def test_images_of_kinds_that_had_no_rule(kind: str, vision: dict[str, Any], wanted: list[tuple[int, int]]) -> None:
    (tower,) = whole(kind, vision).towers
    reads = [tower.rule.read(*size) for size in ((1080, 1920), (100, 100), (20, 700))]
    assert [(sum(n * each for n, each in read.sequences), read.tokens) for read in reads] == wanted
    assert tower_graph(tower, reads[0]).flops() > 1e12


def test_most_layers_of_muse_attend_inside_windows() -> None:
    (full,), (most,) = (
        whole("muse_glimmer", {"layer_types": [kind] * 50}).towers for kind in ("full_attention", "window_attention")
    )
    (usual,) = whole("muse_glimmer", {}).towers
    read = usual.rule.read(1080, 1920)
    least, middle, all_ = (tower_graph(t, read).flops() for t in (most, usual, full))
    assert (middle - least) / (all_ - least) == pytest.approx(12 / 50)


def test_encoders_of_sound_that_are_not_described_are_said() -> None:
    model = read_config({"model_type": "granite_speech", "text_config": TEXT, "encoder_config": {"num_layers": 10}})
    assert any("not counted" in note and "encoder_config of" in note for note in model.notes)
