"""The contract of a space of networks, as tests an author runs: of a file, or of one that code makes.

Subclass :class:`SpaceContract` in a test module and give it a space::

    class TestMySpace(SpaceContract):
        @pytest.fixture
        def space(self):
            return find_space("mine.toml")
"""

from __future__ import annotations

import numpy as np
import pytest

from steelyard.estimation.estimate import estimate
from steelyard.estimation.space import answer_space, space_prices
from steelyard.scenario.space import SpaceScenario, read_space_scenario
from steelyard.scenario.words import Problems
from steelyard.workload.networks.search_space import Space

__all__ = ["SpaceContract"]


class SpaceContract:
    """What must hold for every space."""

    #: How far a sum of choices may be from the price of the network alone, relative.
    NEAR = 0.01
    #: Networks that are weighed alone.
    ALONE = 4

    @pytest.fixture
    def space(self) -> Space:
        """The space; override this."""
        raise NotImplementedError("override the space fixture")

    @pytest.fixture
    def machine(self) -> str:
        """A machine it is priced on."""
        return "rtx_3090"

    def _asked(self, space: Space, machine: str) -> SpaceScenario:
        return read_space_scenario({"model": f"{space.prefix}:{space.example}", "on": machine}, Problems())

    def test_an_architecture_is_read_as_it_is_spelt(self, space: Space) -> None:
        """And its text is the same again."""
        codes = space.draw(50, seed=2)
        names = [space.spell(code) for code in codes.tolist()]
        assert np.array_equal(space.settled(space.codes(names)), space.settled(codes))
        assert [space.spell(code) for code in space.codes(names).tolist()] == names

    def test_any_choices_can_be_settled(self, space: Space) -> None:
        """Whatever a solver proposes is a network, and one that is settled stays as it is."""
        rng = np.random.default_rng(3)
        codes = space.settled(rng.integers(0, np.array(space.sizes), (50, len(space.sizes))))
        assert np.array_equal(space.settled(codes), codes)
        assert np.isfinite(space.counts(codes)).all()

    def test_its_networks_cost_the_sum_of_their_choices(self, space: Space, machine: str) -> None:
        """As a search prices them, beside an estimate of each alone."""
        asked = self._asked(space, machine)
        codes = space.settled(space.draw(self.ALONE, seed=4))
        asked = SpaceScenario(space, codes, "", None, asked.network, asked.batch, asked.words)
        found = answer_space(asked, space_prices(asked))
        alone = [estimate(f"{space.prefix}:{space.spell(code)}", on=machine) for code in codes.tolist()]
        assert found.latency_s == pytest.approx([one.latency_s for one in alone], rel=self.NEAR)
        assert found.macs == pytest.approx([one.macs for one in alone], rel=1e-9)
        assert found.parameters == pytest.approx([one.parameters for one in alone], rel=1e-9)
