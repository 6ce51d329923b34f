"""The contract suite of readers of measured tables (the prose is ``steelyard.measurements.reader``).

class TestMyReader(ReaderContract):
    reader = staticmethod(my_package.read)
    source = "my_folder"

    @pytest.fixture
    def folder(self, tmp_path): ...   # a small copy of the folder, or the real one
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import ClassVar

import numpy as np

from steelyard.measurements.reader import SPLITS, Ask, Comparison, Reader

__all__ = ["ReaderContract"]

_COLUMNS = ("machine", "family", "measured", "predicted", "low", "high", "roofline", "split", "why")


class ReaderContract:
    """What every reader must do. Subclasses give ``reader``, ``source`` and the fixture ``folder``."""

    reader: ClassVar[Reader]
    source: ClassVar[str]

    def read(self, folder: Path, **asked: object) -> list[Comparison]:
        """All comparisons of a folder."""
        return list(type(self).reader(folder, Ask(self.source, **asked)))  # type: ignore[arg-type]

    def test_columns_have_one_length_and_known_labels(self, folder: Path) -> None:
        """Columns agree; labels are known; a row is predicted or says why not; the interval holds the prediction."""
        found = self.read(folder)
        assert sum(len(c) for c in found) > 0
        for c in found:
            assert c.source == self.source
            assert {getattr(c, name).shape for name in _COLUMNS} == {(len(c),)}
            assert set(c.split.tolist()) <= set(SPLITS)
            answered = np.isfinite(c.predicted)
            assert np.all((c.why == "") == answered)
            assert np.all(c.predicted[answered] > 0)
            stated = answered & np.isfinite(c.low) & np.isfinite(c.high)
            assert np.all(c.low[stated] <= c.predicted[stated] * (1 + 1e-9))
            assert np.all(c.high[stated] >= c.predicted[stated] * (1 - 1e-9))

    def test_a_sample_is_part_of_the_whole_and_repeats(self, folder: Path) -> None:
        """The same seed draws the same rows, each with the answer and label it has in the whole."""
        first, again = (self.read(folder, sample=5) for _ in range(2))
        assert [c.measured.tolist() for c in first] == [c.measured.tolist() for c in again]
        whole: set[tuple[object, ...]] = set()
        for c in self.read(folder):
            whole |= _keys(c)
        for c in first:
            assert _keys(c) <= whole

    def test_other_machines_are_left_out(self, folder: Path) -> None:
        """``machine`` filters rows."""
        names = {name for c in self.read(folder) for name in np.unique(c.machine).tolist()}
        one = sorted(names)[0]
        assert {n for c in self.read(folder, machine=one) for n in np.unique(c.machine).tolist()} == {one}

    def test_a_broken_file_costs_only_itself(self, folder: Path, tmp_path: Path) -> None:
        """A table that cannot be read becomes a warning and rows without an answer."""
        copy = tmp_path / "broken" / self.source
        shutil.copytree(folder, copy)
        ask = Ask(self.source)
        whole = list(type(self).reader(folder, ask))
        victim = copy / sorted(ask.opened)[0]
        victim.chmod(0o644)
        victim.write_bytes(b"not a table")
        ask = Ask(self.source)
        left = list(type(self).reader(copy, ask))
        assert ask.warnings
        assert any(np.isnan(c.predicted).all() for c in left)
        assert len(ask.opened) == 1 or sum(np.isfinite(c.predicted).sum() for c in left) > 0 or not whole


def _keys(c: Comparison) -> set[tuple[object, ...]]:
    predicted = np.where(np.isfinite(c.predicted), np.round(np.nan_to_num(c.predicted), 12), -1.0)
    return set(
        zip(
            c.machine.tolist(),
            c.family.tolist(),
            c.measured.tolist(),
            predicted.tolist(),
            c.split.tolist(),
            strict=True,
        )
    )
