"""Types that a family describes, read once more by their tensors alone: they come to the same."""

from __future__ import annotations

import statistics

import pytest

pytest.importorskip("torch", reason="the tensors of a type are those of torch modules")
pytest.importorskip("transformers", reason="the tensors of a type are those of transformers")

from tests.transformers_types.structure import FIGURES, compared

#: Types of every kind: dense, experts, latent attention, indexers, windows, state spaces, delta nets, towers.
_SOME = """
    afmoe apertus bamba bloom cohere2 deepseek_v2 deepseek_v3 deepseek_v32 dots1 ernie4_5_moe exaone4
    falcon_h1 gemma2 gemma3_text glm4_moe glm4_moe_lite glm5_next glm_moe_dsa gpt2 gpt_neox gpt_oss
    granitemoehybrid hunyuan_v1_moe jamba kimi_linear laguna lfm2 llama llama4_text llava mamba mamba2
    minicpm3 minimax minimax_m2 mistral3 mixtral nemotron_h olmo2 olmo_hybrid phi3 phimoe qwen2_moe
    qwen3 qwen3_moe qwen3_next qwen3_vl smollm3 stablelm starcoder2 step3p7 youtu
"""


def test_types_of_every_kind() -> None:
    """At least forty of them; the median off by nothing, none by more than one part in a hundred."""
    rows = dict(compared(_SOME.split()))
    refused = {name: row for name, row in rows.items() if isinstance(row, str)}
    assert refused == {}
    assert len(rows) >= 40
    for figure in FIGURES:
        off = {name: abs(row[figure]) for name, row in rows.items() if not isinstance(row, str)}
        assert statistics.median(off.values()) < 1e-9
        if figure != "KV":
            assert max(off.values()) < 0.01, max(off, key=lambda name: off[name])
    # windows whose layers no key names: the cache is an upper bound
    assert min(row["KV"] for row in rows.values() if not isinstance(row, str)) > -1e-9
