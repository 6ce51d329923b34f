"""This computer: random-weight transformer and CNN blocks, sizes not measured, predicted after ``calibrate --here``.

Slow (some three minutes) and about the computer it runs on, so only with STEELYARD_HERE=1; the same check is
``steelyard calibrate --here`` followed by ``steelyard calibrate --here --check``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("scipy")

TARGET_MEDIAN_APE = 12.0

pytestmark = pytest.mark.skipif(
    os.environ.get("STEELYARD_HERE") != "1", reason="measures this computer for three minutes; set STEELYARD_HERE=1"
)


def run(*words: str, catalogue: Path) -> dict[str, object]:
    command = [sys.executable, "-m", "steelyard.cli.main", "calibrate", "--here", *words, "--json"]
    environment = {**os.environ, "STEELYARD_CATALOGUE": str(catalogue)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def test_blocks_of_other_sizes_are_predicted(tmp_path: Path) -> None:
    measured = run(catalogue=tmp_path)
    assert float(str(measured["seconds"])) < 120.0
    checked = run("--check", catalogue=tmp_path)
    assert float(str(checked["median_ape"])) <= TARGET_MEDIAN_APE
