"""Every block of code on the pages runs, and says what the page shows."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from tests.docs import blocks


@pytest.mark.parametrize("page", blocks.pages())
def test_page(page: str, tmp_path: Path) -> None:
    """``python -m tests.docs.blocks`` writes pages anew whose numbers have changed on purpose."""
    pytest.importorskip("numba")
    session = blocks.run(page, tmp_path)
    for block in session.left_out:
        warnings.warn(f"not run: {block}", blocks.NotRun, stacklevel=1)
    assert not session.problems, "\n".join(map(str, session.problems))
    assert session.ran or session.left_out


def test_a_changed_number_is_found_and_written() -> None:
    shown = ("fits  14.3 GiB", "...", "TTFT  519 ms  p99 1.00 s", "rate  3 per s (...)")
    said = ["fits  14.3 GiB", "another line", "TTFT   525 ms  p99 1.01 s", "rate  3 per s (of 4)", ""]
    found = list(blocks.compare(shown, said))
    assert [line for line, _ in found] == [2]  # 1.00 and 1.01 differ by one of the last digit, 519 and 525 do not
    assert blocks.fresh(shown, said) == ["fits  14.3 GiB", "...", "TTFT   525 ms  p99 1.01 s", "rate  3 per s (...)"]


def test_lines_beyond_the_shown_are_found() -> None:
    assert [line for line, _ in blocks.compare(("a",), ["a", "b"])] == [0]
    assert not list(blocks.compare(("a", "..."), ["a", "b"]))
    assert list(blocks.compare(("a", "c"), ["a", "b"]))
