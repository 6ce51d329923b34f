"""The page as a folder that opens from disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from steelyard.writing import check_target

__all__ = ["export_pages"]


def export_pages(folder: Path, addresses: Sequence[str] = ()) -> int:
    """Write every screen as it starts, and further addresses.

    Args:
        folder: made where it is not there.
        addresses: ``estimate?model=llama-3.1-8b&on=h100_sxm``.

    Returns:
        how many files were written.
    """
    check_target(folder, "export", folder=True)
    return 0
