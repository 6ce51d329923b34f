"""What every model family must satisfy. Subclass :class:`ModelFamilyContract`, fill in two fixtures, run pytest.

The smallest use::

    class TestMyFamily(ModelFamilyContract):
        @pytest.fixture
        def family(self):
            return my_package.my_family

        @pytest.fixture
        def config(self):
            return {"model_type": "my_type", "hidden_size": 256, ...}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from steelyard.errors import InputError
from steelyard.workload.families import Family
from steelyard.workload.transformer import Step, Transformer, transformer_of

__all__ = ["ModelFamilyContract"]


class ModelFamilyContract:
    """The contract of ``steelyard.workload.families._base`` as tests.

    Fixtures to fill in: ``family`` (the callable), ``config`` (a small valid config). ``depth_key`` names the key with
    the number of layers, ``required`` keys whose absence must be reported (default: the depth key).
    """

    @pytest.fixture
    def family(self) -> Family:
        """The family under test."""
        raise NotImplementedError

    @pytest.fixture
    def config(self) -> Mapping[str, Any]:
        """A small valid config."""
        raise NotImplementedError

    @pytest.fixture
    def depth_key(self) -> str:
        """The key that holds the number of layers."""
        return "num_hidden_layers"

    @pytest.fixture
    def required(self, depth_key: str) -> tuple[str, ...]:
        """Keys that have no default."""
        return (depth_key,)

    @pytest.fixture
    def model(self, family: Family, config: Mapping[str, Any]) -> Transformer:
        """The model read from ``config``."""
        return transformer_of(family(config), "the contract of a model family")

    def test_counts_are_positive_whole_numbers(self, model: Transformer) -> None:
        """Total >= active > 0, and active without embeddings is no more than with them."""
        assert model.depth > 0
        assert model.parameters() >= model.active_parameters() >= model.active_parameters(embedding=False) > 0

    def test_same_config_same_model(self, family: Family, config: Mapping[str, Any], model: Transformer) -> None:
        """Reading is pure, and the config is left as it was."""
        before = repr(config)
        again = family(config)
        assert repr(config) == before
        assert repr(again) == repr(model)

    def test_more_tokens_never_cost_less(self, model: Transformer) -> None:
        """FLOPs and bytes grow with tokens, batch and context."""
        tokens = np.array([1.0, 2.0, 7.0, 64.0, 333.0, 1024.0])
        bits = {"weight": 16, "table": 16, "activation": 16, "kv": 16, "state": 32}
        for graph in (
            model.graph(Step.prefill(2, tokens), absorb=False),
            model.graph(Step.decode(tokens, 100)),
            model.graph(Step.decode(4, tokens)),
        ):
            for quantity in (graph.flops(), graph.matmul_flops(), graph.bytes(bits)):
                steps = np.diff(np.broadcast_to(quantity, tokens.shape))
                assert np.all(np.isfinite(steps))
                assert np.all(steps >= -1e-9 * np.max(quantity))

    def test_more_layers_cost_more(
        self, family: Family, config: Mapping[str, Any], depth_key: str, model: Transformer
    ) -> None:
        """Twice the layers: more parameters, more FLOPs, no smaller cache."""
        lists = {k: [*v, *v] for k, v in config.items() if isinstance(v, list) and len(v) == config[depth_key]}
        deeper = family({**config, **lists, depth_key: 2 * config[depth_key]})
        step = Step.prefill(2, 128)
        assert deeper.depth == 2 * model.depth
        assert deeper.parameters() > model.parameters()
        assert deeper.graph(step).flops() > model.graph(step).flops()
        assert deeper.kv_elements(128) >= model.kv_elements(128)

    def test_cache_never_shrinks_with_context(self, model: Transformer) -> None:
        """Cache elements grow with context, at most by the elements of one token per token."""
        context = np.arange(1.0, 3000.0, 37.0)
        kept = np.broadcast_to(model.kv_elements(context), context.shape)
        assert np.all(np.diff(kept) >= 0)
        least = float(np.min(kept)) if model.encodes else 0.0  # what an encoder left stays
        assert np.all(kept <= model.kv_elements_per_token * context + least + 1e-6)
        assert (model.kv_elements_per_token > 0) == (model.causal and any(x.attention for x in model.layers))

    def test_prefill_and_decode_hold_the_same_weights(self, model: Transformer) -> None:
        """Every way to write the graph stores the same parameters."""
        graphs = [
            model.graph(replace(step, first=model.encodes or step.first), absorb=absorb)
            for step, absorb in ((Step.decode(3, 50), None), (Step.prefill(2, 64), None), (Step(2, 8, 64), True))
        ]
        assert len({round(float(np.max(g.weight_elements()))) for g in graphs}) == 1

    def test_dense_counts_are_upper_bounds(self, model: Transformer) -> None:
        """Work that masks and routing save is never negative."""
        graph = model.graph(Step.prefill(2, 200))
        assert graph.macs() <= graph.macs(dense=True) * (1 + 1e-12)

    def test_unknown_keys_are_ignored(self, family: Family, config: Mapping[str, Any], model: Transformer) -> None:
        """A config carries much that does not change its shapes."""
        assert repr(family({**config, "_a_key_nobody_knows": {"x": [1]}, "use_cache": True})) == repr(model)

    def test_missing_keys_are_listed(
        self, family: Family, config: Mapping[str, Any], required: tuple[str, ...]
    ) -> None:
        """All missing keys come in one error."""
        with pytest.raises(InputError) as caught:
            family({k: v for k, v in config.items() if k not in required})
        assert {p.field for p in caught.value.problems} >= set(required)

    @pytest.mark.parametrize("value", [0, -3, "many", 1.5, True, [], 2**60])
    def test_wrong_sizes_are_refused(
        self, family: Family, config: Mapping[str, Any], depth_key: str, value: object
    ) -> None:
        """A size is a whole number of at least 1 and of a sane magnitude."""
        with pytest.raises(InputError) as caught:
            family({**config, depth_key: value})
        assert depth_key in {p.field for p in caught.value.problems}
