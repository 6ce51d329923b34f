"""A compiled function and all it calls are one piece of machine code, each function in it once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from steelyard.cost.jit import apart, compile_rule, compiled_here, njit, njit_inline, njit_inner

numba = pytest.importorskip("numba")
pytestmark = pytest.mark.skipif(not compiled_here(), reason="nothing is compiled here")

#: A type with a long name, as those of the kernel's arrays are.
WIDE = np.dtype([(f"a_field_with_a_name_{k}", "f8") for k in range(100)])


@njit_inner
def twice(x: Any, records: Any) -> Any:
    apart()
    return 2 * x + records[0].a_field_with_a_name_0


@njit_inline
def four_times(x: Any, records: Any) -> Any:
    return twice(twice(x, records), records)


@njit_inner
def of_nothing_known(x: Any, records: Any) -> Any:
    return twice(x, records).there_is_no_such_attribute


def first(x: Any, records: Any) -> Any:
    return four_times(x, records) + twice(x, records)


def second(x: Any, records: Any) -> Any:
    return twice(x, records) - four_times(x, records)


def wrong(x: Any, records: Any) -> Any:
    return four_times(x, records) + of_nothing_known(x, records)


def rule(x: Any, records: Any) -> Any:
    return four_times(x, records)


@pytest.fixture
def whole(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Any]:
    from steelyard.cost import kept_code

    monkeypatch.setattr(kept_code, "place", lambda: kept_code.Place(tmp_path, ""))
    return njit


def test_parts_go_into_every_whole_that_calls_them(whole: Callable[[Any], Any], tmp_path: Any) -> None:
    records = np.zeros(1, dtype=WIDE)
    one, other, broken = whole(first), whole(second), whole(wrong)
    assert one(3.0, records) == 18
    with pytest.raises(numba.TypingError, match="there_is_no_such_attribute"):
        broken(3, records)
    assert other(3, records) == -6
    assert other(3.5, records) == -7.0
    signature = numba.float64(numba.float64, numba.typeof(records))
    made = compile_rule(rule, signature).overloads[signature.args]
    assert made.library.get_pointer_to_function(made.fndesc.llvm_cfunc_wrapper_name)
    assert not twice.overloads and not four_times.overloads, "what is in one piece is not known outside it"
    names = [f.name for f in one.overloads[one.signatures[0]].library.get_defined_functions()]
    assert max(map(len, names)) < 400, "names spell out the types of the arguments"
    assert sum("twice" in name for name in names) == 1
    assert sum("four_times" in name for name in names) == 0, "what is put into its callers is not kept beside them"
    again = whole(first)
    assert again(3.0, records) == 18
    assert sum(again.stats.cache_hits.values()) == 1
    assert max(path.stat().st_size for path in tmp_path.glob("*.nbc")) < 100_000


def test_a_part_is_compiled_alone_for_others(whole: Callable[[Any], Any]) -> None:
    records = np.zeros(1, dtype=WIDE)
    alone = numba.njit(lambda x, r: twice(x, r))
    assert alone(3.0, records) == 6
    assert whole(first)(3, records) == 18
    assert numba.njit(lambda x, r: twice(x, r) + 1)(3, records) == 7
