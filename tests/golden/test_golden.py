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


def test_a_changed_number_is_found_and_a_last_digit_is_not() -> None:
    old = {"expected.json": '{"a": [{"b": 2.0}, "x"]}', "expected.csv": "n,s\n2.0,x\n", "expected.txt": "1\n2\n3\n"}
    near = {name: content.replace("2.0", "2.0000000002") for name, content in old.items()}
    assert not compare(old, near)
    far = {
        "expected.json": old["expected.json"].replace("2.0", "2.1"),
        "expected.csv": "n,s\n2.0,y\n",
        "expected.txt": "1\n3\n",
    }
    found = [(d.file, d.field, d.old, d.new, d.relative) for d in compare(old, far)]
    assert found == [
        ("expected.csv", "[0].s", "x", "y", ""),
        ("expected.json", "a[0].b", 2.0, 2.1, "+5%"),
        ("expected.txt", "line 2", "2", "(absent)", ""),
    ]
