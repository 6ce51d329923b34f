"""The family shown in the guide works as printed, and passes the contract with the test printed beside it."""

from __future__ import annotations

from typing import Any

from tests.guides import python_blocks

_space: dict[str, Any] = {"__name__": __name__}
for _block in python_blocks("add-a-model"):
    exec(_block, _space)  # our own page

TestMyFamily = _space["TestMyFamily"]


def test_it_can_be_registered_for_the_process() -> None:
    """``FAMILIES.add`` makes it readable by its model type."""
    from steelyard.workload.families import FAMILIES, read_config

    config = {
        "model_type": "my_type_of_the_guide",
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "vocab_size": 1000,
    }
    FAMILIES.add("my_type_of_the_guide", _space["my_family"])
    attention, mlp = 4 * 256 * 256 + 2 * 32, 2 * 256 * 512
    assert read_config(config).parameters() == 1000 * 256 + 4 * (attention + mlp + 256) + 256


def test_a_row_is_a_family() -> None:
    """The row of the guide reads experts, a dense first layer and a window in three of four layers."""
    config = {
        "hidden_size": 256,
        "intermediate_size": 512,
        "moe_intermediate_size": 64,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "vocab_size": 1000,
    }
    model = _space["my_row"](config)
    dense, experts = 3 * 256 * 512, 8 * 3 * 256 * 64 + 256 * 8 + 8
    attention = 4 * 256 * 256 + 2 * 32 + 2 * 256
    assert model.parameters() == 2 * 1000 * 256 + 4 * attention + dense + 3 * experts + 256
    assert float(model.kv_elements(10_000)) == 2 * 256 * (3 * 4096 + 10_000)
