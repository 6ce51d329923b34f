"""The family shown in the guide works as printed, and passes the contract with the test printed beside it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "add-a-model.md"

_space: dict[str, Any] = {"__name__": __name__}
for _block in re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL):
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
