"""Two processes that keep machine code of one function at once leave both, each under its own name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("numba")
pytest.importorskip("fcntl")

FUNCTION = """
from steelyard.cost.jit import njit

@njit
def double(x):
    return x * 2
"""
#: Numba's index is read by both before either writes it, unless one of them waits for the other.
RACE = """
import sys, time
from pathlib import Path
from numba.core.caching import IndexDataCacheFile
from kept_function import double

me, other = sys.argv[1:]
read, index, data = (getattr(IndexDataCacheFile, "_" + n) for n in ("load_index", "save_index", "save_data"))

def load_index(self):
    found = read(self)
    if sys._getframe(1).f_code.co_name == "save":
        Path(me).touch()
        for _ in range(60):
            if not Path(other).exists():
                time.sleep(0.05)
    return found

def save_index(self, overloads):
    time.sleep(0.5 if me == "whole" else 0)
    index(self, overloads)

def save_data(self, name, code):
    time.sleep(1 if me == "whole" else 2)
    data(self, name, code)

IndexDataCacheFile._load_index = load_index
IndexDataCacheFile._save_index = save_index
IndexDataCacheFile._save_data = save_data
double(3 if me == "whole" else 2.5)
"""
AFTER = "from kept_function import double; print(double(3), double(2.5))"


def test_two_processes_keep_code_at_once(tmp_path: Path) -> None:
    (tmp_path / "kept_function.py").write_text(FUNCTION)
    env = {k: v for k, v in os.environ.items() if not k.startswith("NUMBA")}
    env |= {"NUMBA_CACHE_DIR": str(tmp_path / "kept"), "PYTHONPATH": str(tmp_path)}

    def started(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", *arguments], env=env, cwd=tmp_path, stdout=subprocess.PIPE, text=True
        )

    both = [started(RACE, "whole", "real"), started(RACE, "real", "whole")]
    assert [p.wait(100) for p in both] == [0, 0]
    assert started(AFTER).communicate(timeout=100)[0].split() == ["6", "5.0"]
    assert len(list((tmp_path / "kept").rglob("*.nbc"))) == 2
