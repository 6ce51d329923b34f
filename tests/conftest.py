"""Shared fixtures: where the measured tables are, and a machine and model to ask about."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder that holds ``truth/`` and ``peers/``; the test is skipped when it is absent."""
    folder = Path(os.environ.get("STEELYARD_DATA", ROOT.parent / "shared"))
    if not (folder / "truth").is_dir():
        pytest.skip(f"measured tables not found at {folder} (set STEELYARD_DATA)")
    return folder
