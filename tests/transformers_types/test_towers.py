"""Towers of transformers' multimodal models: the parameters that it builds."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.transformers_types.towers import COUNTED, built, towers

TABLE: dict[str, dict[str, Any]] = json.loads(COUNTED.read_text())


@pytest.mark.parametrize("name", TABLE)
def test_towers_are_those_transformers_builds(name: str) -> None:
    """Class defaults, counted on the meta device; only the keys that the answer depends on."""
    assert towers(TABLE[name]["config"]) == TABLE[name]["parameters"]


def test_towers_of_the_installed_transformers() -> None:
    pytest.importorskip("torch", reason="counting needs torch")
    pytest.importorskip("transformers", reason="counting needs transformers")
    from tests.transformers_types.count import small, types

    off = []
    for name, model_class in types().items():
        if name in TABLE:
            config = small(name)
            ours, theirs = towers(json.loads(json.dumps(config.to_dict(), default=str))), built(config, model_class)
            if ours != theirs:
                off.append(f"{name}: {ours} against {theirs}")
    assert off == []
