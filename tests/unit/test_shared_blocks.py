"""Blocks that are stored once and used again, layers that are held and not run, products beside the blocks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from steelyard.deployment.plan import Plan
from steelyard.deployment.sharding import shard
from steelyard.errors import InputError
from steelyard.workload import Step
from steelyard.workload.families import read_config
from steelyard.workload.protocol import not_served
from steelyard.workload.transformer import Transformer, transformer_of

SMALL: Mapping[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 1000,
}


LOOPED: Mapping[str, Any] = {
    "model_type": "inkling2_loop_text",
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "loop_layer_index_start": 1,
    "loop_layer_index_end": 9999,
}


def read(model_type: str, **fields: Any) -> Transformer:
    return transformer_of(read_config({"model_type": model_type, **SMALL, **fields}), "this test")


def zamba2(kinds: list[str], **fields: Any) -> Transformer:
    return read("zamba2", num_hidden_layers=len(kinds), layers_block_type=kinds, **fields)


def test_a_shared_block_is_stored_once_and_used_every_time() -> None:
    once, thrice = (zamba2(["mamba"] * (6 - n) + ["hybrid"] * n, adapter_rank=8) for n in (1, 3))
    # each further use brings its output product and the corrections of the feed-forward, not the block
    assert thrice.parameters() - once.parameters() == 2 * (64 * 64 + 64 * 8 + 8 * 2 * 128)
    # keys and values of 4 heads of 32, whose queries read hidden state and embedding together
    assert [m.kv_elements_per_token for m in (once, thrice)] == [2 * 4 * 32, 3 * 2 * 4 * 32]
    attention = 128 * 3 * 128 + 128 * 64
    feed_forward = 3 * 64 * 128
    more = sum(
        float(sum(op.macs() * op.count for op in m.graph(Step.decode(1, 1)) if op.name.startswith("layer"))) * sign
        for m, sign in ((thrice, 1), (once, -1))
    )
    scores = 2 * 4 * 32
    adapters = 64 * 64 + 64 * 8 + 8 * 2 * 128
    assert more == pytest.approx(2 * (attention + feed_forward + scores + adapters))


def test_two_shared_blocks_take_turns() -> None:
    kinds = ["hybrid"] * 4
    one, two = (zamba2(kinds, num_mem_blocks=n) for n in (1, 2))
    block = 128 * 3 * 128 + 128 * 64 + 3 * 64 * 128 + 2 * 64 + 64  # with the norms of both inputs and of the MLP
    assert two.parameters() - one.parameters() == block
    assert two.kv_elements_per_token == one.kv_elements_per_token


def test_layers_that_attend_to_an_image_are_held_and_not_run() -> None:
    without, held = (
        read("mllama_text_model", num_hidden_layers=n, cross_attention_layers=x) for n, x in ((4, []), (5, [2]))
    )
    assert held.graph(Step.decode(1, 9)).flops() == without.graph(Step.decode(1, 9)).flops()
    assert held.kv_elements_per_token == without.kv_elements_per_token
    one = 4 * 64 * 64 + 3 * 64 * 128 + 2 * 64 + 2 * 16 + 2
    assert held.parameters() - without.parameters() == one
    assert "1 layers attend to images: loaded, and run where one is shown" in held.notes


def test_routed_heads_store_every_expert_and_run_those_chosen() -> None:
    fields = {"kv_channels": 16, "num_hidden_layers": 1, "num_experts_per_tok": 2}
    few, many = (read("jetmoe", num_local_experts=n, **fields) for n in (4, 8))
    expert = 2 * 64 * 64 + 3 * 64 * 128  # queries and outputs of four heads, and the feed-forward
    assert many.parameters() - few.parameters() == 4 * (expert + 2 * 64)  # and a row of both routers
    assert many.active_parameters() - few.active_parameters() == 4 * 2 * 64
    assert few.kv_elements_per_token == 2 * 4 * 16


def test_a_merged_decoder_reads_the_source_with_its_own_projections() -> None:
    part = {**SMALL, "head_dim": 16, "num_hidden_layers": 2, "sliding_window": 8}
    apart, merged = (
        transformer_of(read_config({"model_type": name, "encoder": part, "decoder": part}), "this test")
        for name in ("t5gemma", "t5gemma2")
    )
    # apart: attention of its own over the source, two more norms, a second table; merged: norms of queries and keys
    cross = 2 * (4 * 64 * 64 + 2 * 64)
    assert apart.parameters() - merged.parameters() == cross + 1000 * 64 - 2 * 2 * 2 * 16
    names = {op.name for op in merged.graph(Step.prefill(1, 32))}
    assert "layer0.cross_kv" in names
    assert "layer0.cross_q" not in names


def test_gates_per_head_are_split_as_heads_are() -> None:
    fields = {
        "num_hidden_layers": 1,
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 8,
        "v_head_dim": 8,
        "num_experts": 4,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "index_n_heads": 2,
        "index_head_dim": 8,
        "index_topk": 16,
    }
    model = read("axk2", **fields)
    gate = next(op for op in model.graph(Step.decode(1, 9)) if op.name.endswith(".gate"))
    assert gate.macs() == 32 * 4 * 8
    assert shard(gate, Plan(tp=2)).macs() == 32 * 2 * 8
    narrow = next(op for op in model.graph(Step.decode(1, 9)) if op.name.endswith("norm_gate_down"))
    assert shard(narrow, Plan(tp=2)).macs() == narrow.macs()


def test_a_drafter_reads_the_caches_of_another_model() -> None:
    text = {**SMALL, "head_dim": 16, "global_head_dim": 16, "num_hidden_layers": 2, "sliding_window": 8}
    draft = read_config({"model_type": "gemma4_assistant", "text_config": text, "backbone_hidden_size": 96})
    assert draft.kv_elements_per_token == 0
    names = [op.name.partition(".")[2] for op in draft.graph(Step.decode(1, 9))]
    assert {"from_model", "to_model"} <= set(names)
    assert "drafts for another model" in not_served(draft)


def test_convolutions_beside_the_blocks_keep_their_last_tokens() -> None:
    model = read(
        "zaya", num_hidden_layers=3, num_experts=4, moe_intermediate_size=32, num_experts_per_tok=1, head_dim=16
    )
    # two convolutions of two taps over queries and keys of 4 + 4 heads of 16, in 16 bit
    assert model.state_bytes == 3 * 2 * (4 + 4) * 16 * 2


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"model_type": "zamba2", "layers_block_type": ["hybrid"], "num_hidden_layers": 2}, "layers_block_type"),
        ({"model_type": "mllama_text_model", "num_hidden_layers": 1, "cross_attention_layers": [0]}, "cross_attention"),
        (
            {"model_type": "jetmoe", "kv_channels": 8, "num_local_experts": 2, "num_experts_per_tok": 4},
            "experts_per_tok",
        ),
        ({"model_type": "t5gemma", "encoder": [], "decoder": {}}, "encoder"),
        ({**LOOPED, "loop_num_passes": 999, "num_hidden_layers": 9999}, "loop_num_passes"),
        ({"model_type": "dia", "decoder_config": {}, "encoder_config": {}}, "decoder_config.hidden_size"),
        ({"model_type": "canary", "decoder_config": {"vocab_size": "many"}}, "decoder_config.vocab_size"),
    ],
)
def test_wrong_parts_are_refused_by_name(config: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        read_config({**SMALL, "num_hidden_layers": 2, **config})
    assert any(field in p.field for p in caught.value.problems)
