"""Blocks that no type of transformers has: picked blocks (NSA, MoBA), long convolutions, both kinds of xLSTM.

Parameters are added up here module by module, as the published code builds them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from steelyard.errors import InputError
from steelyard.workload.blocks.picked import finished_blocks, picked_pairs
from steelyard.workload.families import read_config
from steelyard.workload.protocol import Workload
from steelyard.workload.step import Step

SIZES: dict[str, Any] = {"hidden_size": 256, "num_hidden_layers": 3, "vocab_size": 1000, "intermediate_size": 512}
OUTSIDE = 2 * 1000 * 256 + 256  # table, head, last norm
MLP_AND_NORMS = 3 * 256 * 512 + 2 * 256


def _model(kind: str, **keys: Any) -> Workload:
    return read_config({"model_type": kind, **SIZES, **keys})


def test_nsa() -> None:
    """Gates for three branches; the cache also holds a mean key and value of every block."""
    model = _model("nsa", num_heads=8, num_kv_heads=2, head_dim=32, block_size=16, block_counts=4, window_size=64)
    layer = 256 * (8 + 2 * 2) * 32 + 256 * 3 * 8 + 8 * 32 * 256 + MLP_AND_NORMS
    assert model.parameters() == OUTSIDE + 3 * layer
    assert float(model.kv_elements(1000)) == 3 * 1000 * (2 * 2 * 32) * (1 + 1 / 16)


@pytest.mark.parametrize("gated", [True, False])
def test_moba(gated: bool) -> None:
    """A norm of the outputs' heads, and a gate of low rank unless it is switched off; the cache has mean keys."""
    model = _model("moba", num_heads=8, num_kv_heads=4, moba_chunk_size=32, use_output_gate=gated, qk_norm=True)
    gate = 256 * 32 + 32 * 256 if gated else 0
    layer = 256 * (8 + 2 * 4) * 32 + 2 * 32 + 32 + gate + 256 * 256 + MLP_AND_NORMS
    assert model.parameters() == OUTSIDE + 3 * layer
    assert float(model.kv_elements(64)) == 3 * 64 * (2 * 4 * 32 + 4 * 32 / 32)


def test_work_stops_growing_with_the_context() -> None:
    """A decode step reads the picked blocks and a few means, not the whole cache."""
    keys = {"num_heads": 8, "num_kv_heads": 2, "head_dim": 32}
    model, dense = _model("nsa", **keys), read_config({"model_type": "llama", **SIZES, "num_attention_heads": 8})
    bits = {"weight": 0, "table": 0, "activation": 0, "kv": 16, "state": 0}

    def read(found: Workload, context: int) -> float:
        return float(found.graph(Step.decode(1, context)).bytes(bits))

    grown = read(model, 100_000) - read(model, 10_000)
    assert grown == pytest.approx(3 * 90_000 / 64 * (2 * 2 * 32) * 2, rel=0.01)  # the means alone
    assert grown < 0.1 * (read(dense, 100_000) - read(dense, 10_000))


@pytest.mark.parametrize("picked", [1, 3, 100])
def test_pairs_by_counting(picked: int) -> None:
    lengths = np.arange(0, 200)
    seen = [i % 16 + 1 + 16 * min(i // 16, picked - 1) for i in range(200)]
    whole = [(i + 1) // 16 for i in range(200)]
    assert picked_pairs(lengths, 16, picked).tolist() == [sum(seen[:n]) for n in lengths]
    assert finished_blocks(lengths, 16).tolist() == [sum(whole[:n]) for n in lengths]


def test_minicpm_says_that_all_tokens_are_attended_to() -> None:
    plain = _model("minicpm", num_attention_heads=8)
    sparse = _model("minicpm", num_attention_heads=8, sparse_config={"block_size": 64, "topk": 64})
    assert sparse.parameters() == plain.parameters()
    assert any("sparse_config" in note for note in sparse.notes)
    assert not plain.notes


def test_stripedhyena() -> None:
    """Projections with biases, a short filter over three streams, complex poles and residues, a direct path."""
    keys = {"num_layers": 3, "attn_layer_idxs": [1], "num_attention_heads": 8, "proj_groups": 4, "state_size": 2}
    model = _model("stripedhyena", **keys, inner_mlp_size=512, qkv_proj_bias=False, mha_out_proj_bias=False)
    d = 256
    hyena = 3 * d * d + 3 * d + 3 * d * 3 + 3 * d + 2 * (d * 2 * 2) + d + d * d + d
    attention = d * (8 + 2 * 2) * 32 + d * d
    assert model.parameters() == OUTSIDE + 2 * hyena + attention + 3 * MLP_AND_NORMS
    assert model.state_bytes == 2 * (d * 2 * 8 + 3 * d * 2 * 2)  # complex64 modes, two taps of three streams


STACK: dict[str, Any] = {
    "model_type": "xlstm",
    "vocab_size": 1000,
    "embedding_dim": 128,
    "num_blocks": 4,
    "slstm_at": [1],
    "mlstm_block": {"mlstm": {"num_heads": 4, "conv1d_kernel_size": 4, "qkv_proj_blocksize": 4}},
    "slstm_block": {"slstm": {"num_heads": 4, "conv1d_kernel_size": 4}, "feedforward": {"proj_factor": 1.3}},
}


def test_xlstm_of_both_kinds() -> None:
    """mLSTM blocks work at twice the width without a feed-forward; an sLSTM block mixes its outputs head by head."""
    d, i, head = 128, 256, 32
    matrix = d + d * 2 * i + 3 * i * 4 + 5 * i + (3 * i * 4 + 4) * 2 + 2 * i + i * d
    scalar = d + 5 * d + 4 * d * head + 4 * d * head + 4 * d + d
    scalar += d + 3 * d * 192  # 1.3 x 128, rounded up to a multiple of 64
    model = read_config(STACK)
    assert model.parameters() == 2 * 1000 * d + d + 3 * matrix + scalar
    states = 3 * ((4 * (64 * 64 + 64 + 1)) * 4 + 3 * i * 2) + 4 * d * 4 + 3 * d * 2
    assert model.state_bytes == states
    alone = read_config({**STACK, "slstm_at": "all", "slstm_block": {**STACK["slstm_block"], "feedforward": None}})
    assert alone.parameters() == 2 * 1000 * d + d + 4 * (scalar - d - 3 * d * 192)


def test_scalar_memory_runs_token_by_token() -> None:
    op = next(op for op in read_config(STACK).graph(Step.prefill(2, 300)) if op.name.endswith(".mix"))
    assert float(op.steps()) == 300


@pytest.mark.parametrize(
    ("keys", "field"),
    [
        ({"slstm_at": [4]}, "slstm_at"),
        ({"slstm_at": "some"}, "slstm_at"),
        ({"mlstm_block": {"mlstm": {"num_heads": 7}}}, "mlstm_block.num_heads"),
        ({"slstm_block": {"slstm": {"num_heads": 7}}}, "slstm_block.num_heads"),
        ({"slstm_block": {"slstm": {}, "feedforward": {"proj_factor": "x"}}}, "slstm_block.feedforward.proj_factor"),
        ({"mlstm_block": 3, "slstm_block": [1]}, "slstm_block"),
    ],
)
def test_wrong_stacks_name_the_field(keys: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        read_config({**STACK, **keys})
    assert field in [p.field for p in caught.value.problems]
