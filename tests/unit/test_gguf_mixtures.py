"""Sizes of GGUF files as llama.cpp's quantiser writes them, against published ones."""

from __future__ import annotations

import pytest

import steelyard as sy
from steelyard.cost.memory import weight_bytes
from steelyard.deployment.formats import find_format
from steelyard.deployment.mixtures import MIXTURES
from steelyard.deployment.plan import Plan
from steelyard.errors import InputError
from steelyard.workload.catalogue import find_model, load_model, model_names

#: Bits per weight of Llama 3.1 8B. Source: README of the quantize tool of llama.cpp. IQ4_XS and IQ4_NL were made there
#: without an importance matrix, as nobody publishes them.
LLAMA_8B = {
    "IQ1_S": 2.0042,
    "IQ1_M": 2.1460,
    "IQ2_XXS": 2.3824,
    "IQ2_XS": 2.5882,
    "IQ2_S": 2.7403,
    "IQ2_M": 2.9294,
    "IQ3_XXS": 3.2548,
    "IQ3_XS": 3.4977,
    "IQ3_S": 3.6606,
    "IQ3_M": 3.7628,
    "Q2_K_S": 2.9697,
    "Q2_K": 3.1593,
    "Q3_K_S": 3.6429,
    "Q3_K_L": 4.2979,
    "Q4_K_S": 4.6672,
    "Q4_K_M": 4.8944,
    "Q5_K_S": 5.5704,
    "Q5_K_M": 5.7036,
    "Q6_K": 6.5633,
    "Q8_0": 8.5008,
}
#: Size in GB of Llama 3.1 70B (Nemotron). Source: model card of the files of bartowski.
LLAMA_70B = {
    "Q8_0": 74.98,
    "Q6_K": 57.89,
    "Q5_K_L": 50.60,
    "Q5_K_M": 49.95,
    "Q5_K_S": 48.66,
    "Q4_K_L": 43.30,
    "Q4_K_M": 42.52,
    "Q4_K_S": 40.35,
    "Q4_0": 40.12,
    "Q3_K_XL": 38.06,
    "IQ4_XS": 37.90,
    "Q3_K_L": 37.14,
    "Q3_K_M": 34.27,
    "IQ3_M": 31.94,
    "Q3_K_S": 30.91,
}
#: Size in GB of further files: experts, latent attention, tied embeddings, rows that fill no block of 256. Source: the
#: cards of bartowski, TheBloke, Unsloth and ggml-org.
OTHERS = {
    ("llama-2-7b", "Q4_K_M"): 4.08,
    ("llama-2-7b", "Q5_K_M"): 4.78,
    ("llama-2-13b", "Q4_K_M"): 7.87,
    ("llama-2-70b", "Q4_K_M"): 41.42,
    ("mistral-7b-v0.1", "Q4_K_M"): 4.37,
    ("mixtral-8x7b", "Q4_K_M"): 28.45,
    ("mixtral-8x7b", "Q3_K_M"): 22.55,
    ("mixtral-8x7b", "Q8_0"): 49.62,
    ("qwen2.5-7b", "Q4_K_M"): 4.68,
    ("qwen2.5-72b", "Q4_K_M"): 47.42,
    ("qwen3-8b", "Q4_K_M"): 5.03,
    ("qwen3-32b", "Q4_K_M"): 19.76,
    ("qwen3-30b-a3b", "Q4_K_M"): 18.56,
    ("qwen3-30b-a3b", "Q6_K"): 25.09,
    ("qwen3-235b-a22b", "Q4_K_M"): 142.2,
    ("gemma-2-9b", "Q4_K_M"): 5.76,
    ("gemma-2-27b", "Q4_K_M"): 16.65,
    ("gemma-3-27b", "Q4_K_M"): 16.5,
    ("phi-4", "Q4_K_M"): 9.05,
    ("deepseek-v3", "Q4_K_M"): 404.0,
    ("deepseek-v3", "Q8_0"): 713.0,
    ("gpt-oss-20b", "MXFP4_MOE"): 12.10,
}


def size(model: str, mixture: str) -> float:
    """Bytes of the weights of a catalogue model in a mixture."""
    shapes = load_model(model).transformer
    return weight_bytes(shapes, Plan(weights=mixture).resolved(shapes))


def test_bits_per_weight_of_an_8b() -> None:
    found = {name: size("llama-3.1-8b", name) * 8 / 8_030_261_248 for name in LLAMA_8B}
    assert found == pytest.approx(LLAMA_8B, rel=0.001)


def test_sizes_of_a_70b() -> None:
    """Its values get five bits where others get three or four."""
    found = {name: size("llama-3.1-70b", name) / 1e9 for name in LLAMA_70B}
    assert found == pytest.approx(LLAMA_70B, rel=0.002)


def test_sizes_of_other_models() -> None:
    found = {key: size(*key) / 1e9 for key in OTHERS}
    assert found == pytest.approx(OTHERS, rel=0.005)


def test_every_mixture_is_a_format() -> None:
    for name in MIXTURES:
        assert find_format(name).gguf or name == "mxfp4_moe"
        assert size("qwen3-0.6b", name) > 0


def test_stated_bits() -> None:
    """``NAME@BITS`` keeps the kind of format and counts the bits."""
    found = find_format("int4@4.65")
    assert (found.base, found.stored_bits, found.activations) == ("int4", pytest.approx(4.65), "fp16")
    assert find_format("q4_k@4.83").gguf
    assert find_format("int4@4.15625").name == "int4"
    for wrong in ("int4@", "int4@x", "int4@0", "int4@1e9", "int4@nan"):
        with pytest.raises(InputError, match=r"0\.5 to 64 bits"):
            find_format(wrong)


def test_weights_asked_for_as_they_are_published() -> None:
    """``fp8`` of a model published in fp8 with a scale per block means that; other formats mean themselves."""
    deepseek = load_model("deepseek-v3").transformer
    assert Plan(weights="fp8").resolved(deepseek) == Plan().resolved(deepseek)
    assert Plan(weights="fp8").resolved("bf16").weights == "fp8"
    assert Plan(weights="int8").resolved("int8_weight_only").weights == "int8"


def test_llamacpp_reads_gguf_files_of_models_published_otherwise() -> None:
    """gpt-oss-20b in llama.cpp is the 12.1 GB file with attention in q8_0, not the 13.8 GB of the published one."""
    answer = sy.estimate("gpt-oss-20b", on="dgx_spark", engine="llamacpp", isl=128, osl=8)
    assert answer.memory.weights / 1e9 == pytest.approx(12.1, rel=0.005)
    assert sy.estimate("gpt-oss-20b", on="dgx_spark", engine="vllm", isl=128, osl=8).memory.weights > 13.7e9


def test_every_kind_of_model_has_a_size() -> None:
    """One of each type: decoders beside the layers (CSM) have products of their own."""
    kinds = {str(find_model(name).config.get("model_type")): name for name in model_names()}
    assert kinds["csm"] == "sesame/csm-1b"
    for name in kinds.values():
        model = load_model(name).transformer
        size = weight_bytes(model, Plan(weights="q4_k_m").resolved(model))
        assert 0.5 < float(size) / model.parameters() < 2.1, name
