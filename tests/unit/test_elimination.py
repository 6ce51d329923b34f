"""Places eliminated one by one: the least of all choices within limits, or a bound that no choice is below."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import pytest

from steelyard.choices import Group
from steelyard.exploration import elimination
from steelyard.exploration.additive import Sum
from steelyard.exploration.elimination import Found, least_by_elimination


@dataclass(frozen=True)
class Made:
    sizes: tuple[int, ...]
    groups: tuple[Group, ...]


def chain(seed: int) -> tuple[Made, list[Sum], np.ndarray]:
    """Eight places, each alone, with the one before, and two with others; some combinations are not allowed."""
    rng = np.random.default_rng(seed)
    sizes = tuple(int(n) for n in rng.integers(2, 4, 8))
    scopes = [(i,) for i in range(8)] + [(i - 1, i) for i in range(1, 8)] + [(5, 1, 3), (7, 0)]
    groups, offset = [], 0
    for places in scopes:
        own = tuple(sizes[p] for p in places)
        valid = rng.random(int(np.prod(own))) > 0.1 if len(places) > 1 else None
        groups.append(Group(places, own, offset, valid))
        offset += int(np.prod(own))
    made = Made(sizes, tuple(groups))
    codes = np.array(list(product(*map(range, sizes))))
    able = np.ones(len(codes), dtype=bool)
    for g in groups:
        able &= True if g.valid is None else g.valid[g.features(codes) - g.offset]
    return made, [Sum(float(rng.random()), rng.normal(size=offset)) for _ in range(2)], codes[able]


@pytest.mark.parametrize("seed", range(6))
def test_it_is_the_least_of_all_choices_or_says_how_far_it_may_be(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made, (goal, cost), codes = chain(seed)
    goals, costs = goal.of(made, codes), cost.of(made, codes)
    for level in np.quantile(costs, (0.0, 0.02, 0.3, 1.0)):
        least = float(goals[costs <= level + 1e-9].min())
        found = least_by_elimination(made, [goal], [(cost, float(level) + 1e-9), (cost, 99.0)], 1e-6)
        assert isinstance(found, Found)
        assert found.goal == pytest.approx(least, abs=1e-6)
        assert found.bound == pytest.approx(least, abs=1e-6)
        assert float(cost.of(made, found.codes[None])[0]) <= level + 2e-9
        with monkeypatch.context() as few:
            few.setattr(elimination, "MOST", (1,))
            some = least_by_elimination(made, [goal], [(cost, float(level) + 1e-9)], 1e-6)
        assert isinstance(some, Found)
        assert some.bound - 1e-6 <= least <= some.goal + 1e-9
    assert least_by_elimination(made, [goal], [(cost, float(costs.min()) - 0.01)], 1e-6) is None
    assert least_by_elimination(made, [goal], [(goal, float(goals.min()) - 0.01)], 1e-6) is None


def test_what_another_limit_implies_does_not_bind_and_two_that_bind_are_for_programs() -> None:
    made, (goal, cost), codes = chain(1)
    costs = cost.of(made, codes)
    wider = Sum(cost.shared - 1.0, cost.choices.copy())
    limit = float(np.quantile(costs, 0.1))
    alone, both = (
        least_by_elimination(made, [goal], limits, 1e-6)
        for limits in ([(cost, limit)], [(cost, limit), (wider, limit)])
    )
    assert isinstance(alone, Found)
    assert isinstance(both, Found)
    assert alone.goal == both.goal
    other = Sum(0.0, -cost.choices)
    assert least_by_elimination(made, [goal], [(cost, limit), (other, 0.0)], 1e-6) is False
