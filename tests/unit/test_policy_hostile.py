"""A policy of somebody's file may do anything: what it raises, ``sys.exit`` too, ends in one line and exit code 2."""

from __future__ import annotations

from pathlib import Path

import pytest

from steelyard.cli.main import main
from steelyard.errors import InputError
from steelyard.simulation.policies import find_policy, ordered
from steelyard.testing.policies import traffic

BODIES = {
    "exit on import": "import sys\nsys.exit(0)",
    "exit in init": "import sys\nclass P:\n name='p'\n def __init__(self): sys.exit(0)\n def keys(self, t): return 1",
    "exit in keys": "import sys\nclass P:\n name='p'\n def keys(self, t): sys.exit(0)",
    "name raises": "class P:\n @property\n def name(self): raise ValueError('x')\n def keys(self, t): return t.isl",
    "name exits": "class P:\n @property\n def name(self): raise SystemExit\n def keys(self, t): return t.isl",
    "keys raises when looked up": "class P:\n name='p'\n @property\n def keys(self): 1/0",
    "from_arrival raises": "class P:\n name='p'\n def keys(self, t): return t.isl\n"
    " @property\n def from_arrival(self): 1/0",
    "from_arrival is an array": "class P:\n name='p'\n def keys(self, t): return t.isl\n from_arrival = "
    "__import__('numpy').zeros(3)",
    "rules raise": "class P:\n name='p'\n def keys(self, t): return t.isl\n @property\n def rules(self): 1/0",
    "state exits": "def f(view, request, replica, worker, now):\n return 1\nclass P:\n name='p'\n rules={'admit': f}\n"
    " def keys(self, t): return t.isl\n def state(self, t, slo): raise SystemExit(0)",
    "its own kind of end": "class E(BaseException): pass\nclass P:\n name='p'\n def keys(self, t): raise E",
    "an error without words": "class E(Exception):\n def __str__(self): 1/0\n"
    "class P:\n name='p'\n def keys(self, t): raise E",
    "numbers that raise": "class A:\n def __array__(self, *a, **k): raise SystemExit\nclass P:\n name='p'\n"
    " def keys(self, t): return A()",
    "endless recursion": "class P:\n name='p'\n def keys(self, t): return self.keys(t)",
    "no memory": "class P:\n name='p'\n def keys(self, t): raise MemoryError",
}  # fmt: skip


@pytest.mark.parametrize("what", BODIES)
def test_what_a_policy_raises_is_one_problem(what: str, tmp_path: Path) -> None:
    (tmp_path / "pol.py").write_text(BODIES[what])
    with pytest.raises(InputError) as caught:
        ordered(f"{tmp_path / 'pol.py'}:P", traffic(0))
    assert [p.field for p in caught.value.problems] == ["policy"]


def test_ctrl_c_in_a_policy_stays_ctrl_c(tmp_path: Path) -> None:
    (tmp_path / "pol.py").write_text("class P:\n name='p'\n def keys(self, t): raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        ordered(f"{tmp_path / 'pol.py'}:P", traffic(0))


def test_paths_that_are_none() -> None:
    for text in ("x" * 10_000 + ".py:P", "\0.py:P", "~nobody-of-this-name/p.py:P", "/dev/zero.py:P", ".py:P", "p.py"):
        with pytest.raises(InputError):
            find_policy(text)


def test_the_command_line_ends_with_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pol.py").write_text(BODIES["exit in keys"])
    asked = ["simulate", "llama-3.1-8b", "--on", "h100_sxm", "--rate", "1/s", "--requests", "5", "--policy"]
    assert main([*asked, f"{tmp_path / 'pol.py'}:P"]) == 2
    found = capsys.readouterr()
    assert found.out == "" and "SystemExit" in found.err and found.err.count("\n") == 1
