"""Rows left out of a fit are answered by scales that never saw them."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("steelyard_validation")

from steelyard_validation.training_folds import Row, left_out


def _rows(model: str, times: float, share: float = 1.0) -> list[Row]:
    """Steps whose elementwise part takes ``times`` as long as answered."""
    parts = [{"gemm": 1.0, "elementwise": x} for x in (0.1, 0.5, 1.0, 2.0)]
    return [Row(model, model, p["gemm"] + times * p["elementwise"], p, share) for p in parts]


def test_a_model_left_out_gets_the_scale_of_the_others() -> None:
    alike = left_out([*_rows("a", 2.0), *_rows("b", 2.0)], ("elementwise",), "model")
    assert np.abs(alike).max() < 0.02
    rows = [*_rows("a", 2.0), *_rows("b", 1.0)]
    errors = left_out(rows, ("elementwise",), "model")
    assert (errors[:4] < 0.0).all()  # priced by b, whose elementwise work is half as slow
    assert errors[4:] == pytest.approx([r.parts_s["elementwise"] / r.measured_s for r in rows[4:]], abs=0.05)


def test_a_machine_left_out_loses_what_was_fitted_to_it() -> None:
    rows = [*_rows("a", 1.0), *_rows("b", 1.0, share=0.5)]
    errors = left_out(rows, ("elementwise",), "machine")
    assert errors[:4].min() < 0.05
    expected = [-0.5 / r.measured_s for r in rows[4:]]
    assert errors[4:] == pytest.approx(expected, abs=0.25)
    assert (errors[4:] < 0.02).all()
