"""Every language model type of transformers: read with the parameters that transformers builds, or refused in words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from steelyard.errors import InputError
from steelyard.workload.families import read_config
from tests.transformers_types.count import COUNTED, EXCUSED

TABLE: dict[str, dict[str, Any]] = json.loads(COUNTED.read_text())
TOLERANCE = 0.001


@pytest.mark.parametrize("name", TABLE["read"])
def test_parameters_are_those_transformers_builds(name: str) -> None:
    """Few layers of the class default, counted on the meta device; only the keys that the answer depends on."""
    entry = TABLE["read"][name]
    assert read_config(entry["config"]).parameters() == pytest.approx(entry["parameters"], rel=TOLERANCE)


def test_most_types_are_read() -> None:
    assert len(TABLE["read"]) >= 220


@pytest.mark.parametrize("name", ["gemma4_unified_assistant", "jetmoe", "xlnet"])
def test_what_is_known_and_not_read_says_why(name: str) -> None:
    with pytest.raises(InputError, match="is not read: "):
        read_config({"model_type": name})


def test_counts_of_the_installed_transformers() -> None:
    """The same against transformers itself, every type it has now."""
    pytest.importorskip("torch", reason="counting needs torch")
    pytest.importorskip("transformers", reason="counting needs transformers")
    from tests.transformers_types.count import count, small, types

    off = []
    for name, model_class in types().items():
        if name in EXCUSED or name not in TABLE["read"]:
            continue
        config = small(name)
        ours = read_config(json.loads(json.dumps(config.to_dict(), default=str))).parameters()
        theirs = count(config, model_class)
        if abs(ours / theirs - 1) > TOLERANCE:
            off.append(f"{name}: {ours} against {theirs}")
    assert off == []
