"""Weights in blocks of few bits on small cores: unpacking them takes longer than reading them."""

from __future__ import annotations

import pytest

import steelyard as sy


def rate(machine: str, weights: str) -> float:
    return 1.0 / float(sy.estimate("llama-2-7b", machine, weights=weights, engine="llamacpp", isl=64, osl=64).tpot_s)


def test_two_bits_are_no_faster_than_four_on_a_small_board_and_are_on_a_desktop() -> None:
    """Two bits were 1.5 times as fast as four there; measured 0.8 times (llama.cpp, Raspberry Pi 5)."""
    assert rate("raspberry_pi_5", "q2_k") < 1.05 * rate("raspberry_pi_5", "q4_0")
    assert rate("ryzen_9_7950x", "q2_k") > 1.35 * rate("ryzen_9_7950x", "q4_0")


def test_the_time_is_that_of_the_vector_units() -> None:
    # four cores of 16 operations a clock at 2.4 GHz, 6.6 of 6.7 billion weights in blocks, 7.4 operations each
    assert rate("raspberry_pi_5", "q2_k") == pytest.approx(4 * 16 * 2.4e9 / (7.4 * 6.6e9), rel=0.05)


def test_whole_numbers_formats_of_others_are_not_unpacked() -> None:
    assert rate("raspberry_pi_5", "ternary") > 2 * rate("raspberry_pi_5", "q2_k")
