"""A decoder traced from its module and one read from its config are the same work: FLOPs, weights, cache."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import steelyard as sy
from steelyard.estimation.network import NetEstimate
from steelyard.workload import Step
from steelyard.workload.families import read_config
from steelyard.workload.transformer import Transformer

pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(
        find_spec("torch") is None or find_spec("transformers") is None, reason="needs torch and transformers"
    ),
]

BATCH, TOKENS = 2, 96
SMALL: Mapping[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
}
#: Grouped heads, biases, normed heads, wide heads and tied words, learned places, layers beside each other.
FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "llama": SMALL,
    "qwen2": SMALL,
    "qwen3": {**SMALL, "head_dim": 64},
    "gemma": {**SMALL, "head_dim": 64},
    "gpt2": {"n_embd": 256, "n_layer": 3, "n_head": 8, "n_positions": 256, "vocab_size": 1000},
    "gpt_neox": {k: v for k, v in SMALL.items() if k != "num_key_value_heads"},
    "olmo2": SMALL,
}


def _module(model_type: str) -> tuple[Any, tuple[Any, ...], Mapping[str, Any]]:
    """The module without weights, what it is given, and its config; it answers logits, then keys and values."""
    import torch
    import transformers

    config = transformers.AutoConfig.for_model(model_type, **FAMILIES[model_type])
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config).eval()

    class Decoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: Any, places: Any, mask: Any) -> list[Any]:
            found = self.model(ids, position_ids=places, attention_mask=mask, use_cache=True)
            return [
                found.logits,
                *(kept for layer in found.past_key_values.layers for kept in (layer.keys, layer.values)),
            ]

    ids = torch.ones((BATCH, TOKENS), dtype=torch.long, device="meta")
    mask = torch.zeros((BATCH, 1, TOKENS, TOKENS), device="meta")
    return Decoder(), (ids, torch.zeros_like(ids), mask), config.to_dict() | {"model_type": model_type}


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_module_and_a_config_are_one_decoder(model_type: str, tmp_path: Path) -> None:
    module, inputs, config = _module(model_type)
    traced = sy.estimate(module, "h100_sxm", inputs=inputs, precision="bf16", batch=BATCH)
    assert isinstance(traced, NetEstimate)
    (phase,) = traced.scenario.phases
    served = read_config(config)
    assert isinstance(served, Transformer)
    graph = served.graph(Step.prefill(BATCH, TOKENS, logits=BATCH * TOKENS), absorb=False)
    macs = sum(float(op.macs(dense=True)) * float(op.count) for op in graph)
    assert traced.macs * BATCH == pytest.approx(macs, rel=1e-3)
    assert traced.parameters == served.parameters()
    kept = sum(float(phase.graph.elements(i, {"batch": BATCH})) for i in phase.graph.outputs[1:])
    assert kept == pytest.approx(BATCH * float(served.kv_elements(TOKENS)))
    (tmp_path / "config.json").write_text(json.dumps(config, default=str))
    answered = sy.estimate(str(tmp_path), "h100_sxm", batch=BATCH, isl=TOKENS - 1, osl=1, weights="bf16", kv="bf16")
    assert isinstance(answered, sy.Estimate)
    assert traced.weight_bytes == pytest.approx(answered.memory.weights, rel=1e-3)
    assert 2 * kept == pytest.approx(answered.memory.kv_cache)
