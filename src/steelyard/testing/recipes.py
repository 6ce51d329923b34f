"""The contract of a recipe, as tests its author runs.

Subclass :class:`RecipeContract` in a test module and give it a recipe::

    class TestMine(RecipeContract):
        @pytest.fixture
        def recipe(self):
            return find_recipe("mine.toml")
"""

from __future__ import annotations

from typing import Any

import pytest

from steelyard.deployment.engine import default_engine, find_engine
from steelyard.deployment.engine_config import engine_config
from steelyard.deployment.plan import DEGREES
from steelyard.machine.catalogue import find_machine
from steelyard.scenario.fields import GROUPS, fields_of
from steelyard.scenario.recipes import Recipe
from steelyard.scenario.words import read_value

__all__ = ["RecipeContract"]

#: Questions that cases may be about: a machine of each family, a dense model, experts, latent attention.
NAMES = ("family", "machine", "experts", "latent", "weights", *DEGREES[:3:2], *GROUPS["batch"][1:], "concurrency")
QUESTIONS = tuple(
    dict(zip(NAMES, (*where, *what, *load), strict=True))
    for where in (("hopper", "h100_sxm"), ("hopper", "h200_sxm"), ("blackwell", "b200_sxm"))
    for what in (
        (False, False, "fp8", 4, 1),
        (True, False, "mxfp4", 1, 1),
        (True, True, "nvfp4", 8, 1),
        (True, True, "fp8_block", 1, 8),
    )
    for load in ((1024, 1024, 1), (8192, 1024, 64))
)


class RecipeContract:
    """What must hold for every recipe."""

    @pytest.fixture
    def recipe(self) -> Any:
        """The recipe under test; override this."""
        raise NotImplementedError("override the recipe fixture")

    def test_it_says_where_it_comes_from(self, recipe: Recipe) -> None:
        assert recipe.title.strip() and recipe.source.strip()

    def test_what_is_guessed_is_set(self, recipe: Recipe) -> None:
        every = {"lengths", *recipe.words, *recipe.flags}
        every |= {name for case in recipe.case for name in (*case.words, *case.flags)}
        assert set(recipe.guess) <= every

    def test_its_values_can_be_said_to_simulate(self, recipe: Recipe) -> None:
        for facts in QUESTIONS:
            words, flags = recipe.said(facts)
            for name, value in words.items():
                read_value(fields_of("simulate")[name], value)
            machine = find_machine(str(facts["machine"]))
            engine_config(find_engine(recipe.engine) if recipe.engine else default_engine(machine), machine, flags)

    def test_what_is_not_known_leaves_the_engine_its_own(self, recipe: Recipe) -> None:
        words, flags = recipe.said({})
        assert not [value for value in (*words.values(), *flags.values()) if str(value).startswith("=")]
