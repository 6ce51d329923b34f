"""Every answer of the command line is as it was; ``make regold`` after a change that is meant."""

from __future__ import annotations

import pytest

from tests.golden.golden import cases, compare, missing, run, stored, table


@pytest.mark.parametrize("case", cases())
def test_the_answer_is_as_stored(case: str) -> None:
    if package := missing(case):
        pytest.skip(f"needs {package}")
    differences = compare(stored(case), run(case))
    assert not differences, f"\n{table({case: differences})}\nmake regold ARGS={case} when this is meant"
