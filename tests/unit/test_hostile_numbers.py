"""Numbers no machine has are refused by name."""

from __future__ import annotations

import pytest

import steelyard
from steelyard.errors import InputError
from steelyard.machine.catalogue import find_machine


@pytest.mark.parametrize("count", ["99999999999999999999", "9" * 5000, "-1", "0"])
def test_the_number_of_devices_is_bounded(count: str) -> None:
    with pytest.raises(InputError, match=r"at (most|least)") as caught:
        steelyard.estimate("llama-3.1-8b", on=f"h100_sxm:{count}")
    assert len(str(caught.value)) < 250


def test_an_engine_without_a_peak_is_named() -> None:
    machine = find_machine("l40s")
    bare = machine.compute[0].__class__(name="tensor", kind="matrix", units=1, peak={})
    with pytest.raises(InputError, match=r"compute\.tensor\.peak"):
        machine.but(compute=(bare,))
