"""The contract of a predictor, as tests an author runs.

Subclass :class:`PredictorContract` in a test module and give it a predictor::

    class TestMyPredictor(PredictorContract):
        @pytest.fixture
        def predictor(self):
            return MyPredictor
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from steelyard.exploration.predictors import Context
from steelyard.interval import Z80
from steelyard.workload.networks.search_space import find_space

__all__ = ["PredictorContract"]


class PredictorContract:
    """What must hold for every predictor."""

    @pytest.fixture
    def predictor(self) -> Any:
        """The predictor's class; override this."""
        raise NotImplementedError("override the predictor fixture")

    @pytest.fixture(params=["nb201", "fbnet"])
    def context(self, request: pytest.FixtureRequest) -> Context:
        """A space, and a machine the device is like."""
        return Context(find_space(request.param), 1, "rtx_3090")

    def _measured(self, context: Context, n: int) -> tuple[Any, Any]:
        codes = context.space.draw(n, seed=4)
        weights = np.random.default_rng(0).gamma(2.0, 1e-4, len(context.space.features))
        return codes, 1e-3 + context.space.counts(codes) @ weights

    def test_times_are_above_zero_and_spreads_are_numbers(self, predictor: Any, context: Context) -> None:
        """For every architecture."""
        codes, seconds = self._measured(context, 10)
        made = predictor(context)
        made.fit(codes, seconds)
        times, spreads = made.predict(context.space.draw(50, seed=9))
        assert times.shape == spreads.shape == (50,)
        assert (times > 0).all() and np.isfinite(times).all()
        assert (spreads >= 0).all() and np.isfinite(spreads).all()

    def test_a_device_twice_as_slow_is_predicted_so(self, predictor: Any, context: Context) -> None:
        """Units do not matter."""
        codes, seconds = self._measured(context, 10)
        others = context.space.draw(20, seed=9)
        found = []
        for scale in (1.0, 2.0):
            made = predictor(context)
            made.fit(codes, scale * seconds)
            found.append(made.predict(others)[0])
        assert np.allclose(found[1], 2.0 * found[0], rtol=1e-6)

    def test_it_learns(self, predictor: Any, context: Context) -> None:
        """Within a factor of two of networks like those it was told, in the median."""
        codes, seconds = self._measured(context, 60)
        made = predictor(context)
        made.fit(codes[:40], seconds[:40])
        times, _ = made.predict(codes[40:])
        assert np.median(np.abs(np.log(times / seconds[40:]))) < np.log(2.0)

    def test_its_interval_holds_networks_it_was_not_told(self, predictor: Any, context: Context) -> None:
        """Of 200 others, measured with the same scatter of 10 %, more than half lie in the 80 % interval."""
        codes, seconds = self._measured(context, 220)
        seconds = seconds * np.exp(0.1 * np.random.default_rng(1).standard_normal(len(seconds)))
        made = predictor(context)
        made.fit(codes[:20], seconds[:20])
        times, spreads = made.predict(codes[20:])
        assert np.mean(np.abs(np.log(times / seconds[20:])) < Z80 * spreads) > 0.5
