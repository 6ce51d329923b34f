"""Every language model type of transformers: read with the parameters that transformers builds, or refused in words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from steelyard.errors import InputError
from steelyard.workload import Step
from steelyard.workload.families import read_config
from tests.transformers_types.count import COUNTED, EXCUSED
from tests.transformers_types.years import YEARS, YOUNG

TABLE: dict[str, dict[str, Any]] = json.loads(COUNTED.read_text())
TOLERANCE = 0.001


@pytest.mark.parametrize("name", TABLE["read"])
def test_parameters_are_those_transformers_builds(name: str) -> None:
    """Few layers of the class default, counted on the meta device; only the keys that the answer depends on."""
    entry = TABLE["read"][name]
    assert read_config(entry["config"]).parameters() == pytest.approx(entry["parameters"], rel=TOLERANCE)


@pytest.mark.parametrize("name", TABLE["read"])
def test_every_step_holds_the_same_weights(name: str) -> None:
    """A prefill and a decode of every type, whatever blocks it has, and a decode that costs something."""
    model = read_config(TABLE["read"][name]["config"])
    graphs = [model.graph(Step(2, 8, 64, first=True)), model.graph(Step(3, 1, 50, first=model.encodes))]
    assert len({round(float(graph.weight_elements())) for graph in graphs}) == 1
    assert float(graphs[1].flops()) > 0


def test_at_least_95_of_100_young_types_are_read() -> None:
    """Young: written in 2023 or later (:mod:`years`)."""
    assert set(YEARS) == {name for rows in TABLE.values() for name in rows}
    young = {name for name, year in YEARS.items() if year >= YOUNG}
    refused = young & set(TABLE["refused"])
    assert len(young) >= 250
    assert len(refused) <= 0.05 * len(young)


@pytest.mark.parametrize("name", ["blt", "diffusion_gemma_text", "xlnet"])
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
