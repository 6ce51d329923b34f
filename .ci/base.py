"""Every verb of a base install, without one extra: an answer, or one clear line; never a traceback.

Runs in the environment whose Python runs it, away from the source tree.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

COMMAND = str(Path(sys.executable).with_name("steelyard"))
STUDY = """name = "batches"
kind = "estimate"
[fixed]
model = "llama-3.1-8b"
on = "h100_sxm"
[grid]
batch = [1, 2]
"""
LOAD = ("--rate", "2/s", "--isl", "200", "--osl", "20")
FEW = ("--rate", "2/s", "--isl", "200", "--osl", "4", "--requests", "100")
#: Words, and whether the base install answers them: None where it may also say in one line what is missing.
COMMANDS: tuple[tuple[tuple[str, ...], bool | None], ...] = (
    (("version",), True),
    (("ls", "machines"), True),
    (("ls", "models", "llama"), True),
    (("show", "h100_sxm"), True),
    (("show", "llama-3.1-8b"), True),
    (("compare", "h100_sxm", "mi300x"), True),
    (("estimate", "llama-3.1-8b", "--on", "h100_sxm"), True),
    (("estimate", "llama-3.1-8b", "--on", "h100_sxm", "--batch", "1-4*2", "--json"), True),
    (("explain", "llama-3.1-8b", "--on", "h100_sxm"), True),
    (("simulate", "llama-3.1-8b", "--on", "h100_sxm", *LOAD, "--requests", "20"), None),
    (("plan", "llama-3.1-8b", "--on", "h100_sxm", *FEW, "--ttft", "p99:2s"), None),
    (("study", "study.toml", "--dry-run"), None),
    (("study", "study.toml"), None),
    (("report", "batches"), None),
    (("calibrate", "--here", "--quick"), None),
    (("validate",), None),
    (("serve", "--export", "page"), True),
    (("serve", "--no-browser", "--port", "0"), None),
    (("estimate", "no-such-model", "--on", "h100_sxm"), False),
)
PYTHON = """
import steelyard as sy
from steelyard.errors import SteelyardError
assert sy.estimate("llama-3.1-8b", "h100_sxm").fits
for ask in (
    lambda: sy.simulate("llama-3.1-8b", "h100_sxm", rate=2.0, requests=20),
    lambda: sy.plan("llama-3.1-8b", "h100_sxm", rate=2.0, isl=200, osl=4, requests=100, ttft="p99:2s"),
    lambda: sy.study("study.toml"),
):
    try:
        ask()
    except SteelyardError as error:
        assert "\\n" not in str(error), error
"""


def wrong(words: tuple[str, ...], answered: bool | None, folder: str) -> str:
    """What is wrong with what a command did; empty when nothing is."""
    made = subprocess.run(
        words, capture_output=True, text=True, timeout=300, cwd=folder, env={**os.environ, "XDG_CACHE_HOME": folder}
    )
    last = made.stderr.strip().splitlines()[-1:] or [""]
    print(f"{made.returncode}  {' '.join(words[1:])[:90]}  {last[0][:110]}", flush=True)
    if "Traceback" in made.stderr + made.stdout:
        return "a traceback:\n" + made.stderr[-2000:]
    if made.returncode == 0:
        return "it was answered" if answered is False else ""
    if answered or made.returncode not in (2, 3):
        return f"code {made.returncode}: {made.stderr[-500:]}"
    return "" if "error:" in made.stderr else f"no line that begins with error: {made.stderr[-500:]}"


def main() -> int:
    """Run all of them; 1 when one went wrong."""
    faults = []
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "study.toml").write_text(STUDY, encoding="utf-8")
        for words, answered in COMMANDS:
            fault = wrong((COMMAND, *words), answered, folder)
            faults += [f"steelyard {' '.join(words)}: {fault}"] if fault else []
        fault = wrong((sys.executable, "-c", PYTHON), True, folder)
        faults += [f"from Python: {fault}"] if fault else []
    print("\n".join(faults) or "every verb answers or says in one line what is missing")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
