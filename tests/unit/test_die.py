"""Cost and carbon of silicon beside the worked examples and tables that they come from."""

from __future__ import annotations

import numpy as np
import pytest

from steelyard.errors import InputError
from steelyard.machine.die import die_yield, dies_per_wafer, in_service, silicon


def test_dies_and_yields_of_the_textbook() -> None:
    """Patterson and Hennessy, 1.6: 640 dies of 1 cm2, 270 of 2.25 cm2; yields of 66, 40 % (0.031 a cm2, N = 13.5)."""
    assert dies_per_wafer(1e-4) == pytest.approx(640, abs=0.5)
    assert dies_per_wafer(2.25e-4) == pytest.approx(270, abs=0.5)
    # there defects are of each of N layers, here of all
    assert die_yield(np.array([1e-4, 2.25e-4]), 310 * 13.5, 13.5) == pytest.approx([0.66, 0.40], abs=0.005)


def test_a_small_die_at_7_nm_yields_what_was_said() -> None:
    """74 mm2 at 0.09 defects a cm2: 93.5 % was reported of the eight-core chiplets of Zen 2."""
    assert silicon(74e-6, 7).die_yield == pytest.approx(0.935, abs=0.003)


def test_carbon_of_an_area_is_that_of_the_tables() -> None:
    """ACT at 7 nm in Taiwan: 583 g x 2.15 kWh + 275 g + 500 g a cm2, over the yield."""
    one = silicon(1e-4, 7)
    assert (one.carbon_kg - 0.15) * one.die_yield == pytest.approx(0.583 * 2.15 + 0.275 + 0.5)
    assert silicon(1e-4, 7, grid_kg_per_kwh=0.028).carbon_kg < one.carbon_kg


def test_large_silicon_is_cheaper_in_pieces_and_small_silicon_whole() -> None:
    """As Chiplet actuary finds: 800 mm2 at 5 nm gain by four dies; 20 mm2 lose."""
    area = np.array([800e-6, 20e-6])
    whole, parts = silicon(area, 5), silicon(area, 5, dies=4)
    assert parts.usd[0] < 0.75 * whole.usd[0]
    assert parts.usd[1] > whole.usd[1]
    assert np.all(parts.die_yield > whole.die_yield)


def test_what_is_no_die_is_refused_by_field() -> None:
    with pytest.raises(InputError, match=r"nm: expected a number above 0[\s\S]*bond_yield: expected a share"):
        silicon(1e-4, 0.0, bond_yield=1.5)
    with pytest.raises(InputError, match=r"no die of 7\.5e\+04 mm2"):
        silicon(0.075, 7)
    with pytest.raises(InputError, match="wafer: unknown figure of a die"):
        silicon(1e-4, 7, wafer=3.0)


def test_a_small_chip_emits_most_before_it_runs_and_a_large_one_after() -> None:
    small = in_service(silicon(2e-6, 28), 1e-3, 5, usd_per_kwh=0.1, kg_per_kwh=0.4)
    large = in_service(silicon(814e-6, 5), 500.0, 5, usd_per_kwh=0.1, kg_per_kwh=0.4, pue=1.2)
    assert small.made_carbon_share > 0.9
    assert large.made_carbon_share < 0.01
    assert large.kwh == pytest.approx(0.5 * 5 * 8766 * 1.2)
    assert large.usd == pytest.approx(silicon(814e-6, 5).usd + large.kwh * 0.1)
    with pytest.raises(InputError, match=r"years: expected[\s\S]*pue: expected at least 1, got 0.5"):
        in_service(silicon(2e-6, 28), 1.0, -1, usd_per_kwh=0.1, kg_per_kwh=0.4, pue=0.5)
