"""Decoders that embed or score: one pass, no head, no cache; and models named in issues that had no name here."""

from __future__ import annotations

from typing import Any

import pytest

import steelyard as sy
from steelyard.errors import InputError
from steelyard.workload.catalogue import load_model
from steelyard.workload.families import read_config
from steelyard.workload.transformer import Transformer

SMALL: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "max_position_embeddings": 512,
}


def read(**more: Any) -> Transformer:
    model = read_config({**SMALL, **more})
    assert isinstance(model, Transformer)
    return model


@pytest.mark.parametrize(
    "more",
    [
        {"architectures": ["LlamaModel"]},
        {"architectures": ["LlamaForSequenceClassification"]},
        {"architectures": ["LlamaForCausalLM"], "is_causal": False},
        {"use_bidirectional_attention": True},
    ],
)
def test_configs_that_embed(more: dict[str, Any]) -> None:
    model, generates = read(**more), read(architectures=["LlamaForCausalLM"])
    assert generates.causal and not model.causal and not model.head and float(model.kv_elements(100)) == 0.0
    assert generates.parameters() - model.parameters() == 1000 * 256
    both = "is_causal" in more or "use_bidirectional_attention" in more
    assert all(x.attention is not None and x.attention.causal != both for x in model.layers)
    assert read(architectures=["GPT2LMHeadModel"]).causal and read(architectures=["ChatGLMModel"]).causal


@pytest.mark.parametrize("name", ["e5-mistral", "alibaba-nlp/gte-qwen2-7b-instruct", "qwen3-embedding-0.6b"])
def test_embedders_answer_once(name: str) -> None:
    found = sy.estimate(name, "h100_sxm", batch=8, isl=512)
    assert found.memory.kv_cache == 0 and found.scenario.osl == 1
    with pytest.raises(InputError, match="does not generate"):
        sy.simulate(name, "h100_sxm", rate="1/s")


def test_an_embedder_takes_as_long_as_the_prompt_of_its_decoder() -> None:
    embeds = sy.estimate("e5-mistral", "h100_sxm", isl=2048).ttft_s
    generates = sy.estimate("mistralai/Mistral-7B-v0.1", "h100_sxm", isl=2048, osl=1).ttft_s
    assert float(embeds) == pytest.approx(float(generates), rel=0.1)


@pytest.mark.parametrize(
    "name",
    [
        "nvidia/Llama-3_3-Nemotron-Super-49B-v1",
        "nvidia/Llama-3_3-Nemotron-Super-49B-v1_5",
        "mistralai/Voxtral-Mini-3B-2507",
        "microsoft/BitNet-b1.58-2B-4T",
        "microsoft/Phi-4-multimodal-instruct",
        "meta-llama/Llama-Guard-3-8B",
        "meta-llama/Llama-Guard-4-12B",
    ],
)
def test_names_of_issues(name: str) -> None:
    model = load_model(name)
    assert model.entry is not None and model.transformer.parameters() == model.entry.parameters


def test_a_searched_llama_keeps_caches_in_49_of_80_layers() -> None:
    model = load_model("nemotron-super-49b").transformer
    assert isinstance(model, Transformer) and model.depth == 80
    assert model.kv_elements_per_token == 49 * 2 * 8 * 128
