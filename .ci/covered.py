"""Branches of the core packages that the fast tests take, printed and not falling.

``python .ci/covered.py FILE.json`` reads what ``coverage json`` wrote and compares it with ``coverage.json`` beside
this file; ``--write`` keeps the present figures. Functions that numba compiles are left out: coverage does not see
them run.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

KEPT = Path(__file__).with_name("coverage.json")
CORE = ("cost", "estimation", "traffic", "deployment", "machine", "scenario", "search", "simulation", "workload")
#: Percentage points a figure may fall: examples that Hypothesis draws differ between Pythons.
SLACK = 1.0
#: Modules of compiled functions.
COMPILED = ("simulation/kernel/", "cost/step_eval.py", "cost/jit.py")


def shares(report: Path) -> dict[str, float]:
    """Package to the share of its lines and branches that ran, in %."""
    sums = {package: [0, 0] for package in CORE}
    for name, file in json.loads(report.read_text(encoding="utf-8"))["files"].items():
        inside = Path(name).as_posix().partition("src/steelyard/")[2]
        package = inside.partition("/")[0]
        if package in sums and not inside.startswith(COMPILED):
            total = file["summary"]
            sums[package][0] += total["covered_lines"] + total["covered_branches"]
            sums[package][1] += total["num_statements"] + total["num_branches"]
    return {package: round(100 * ran / all_, 1) for package, (ran, all_) in sums.items() if all_}


def main(words: list[str]) -> int:
    """Print the figures; 1 when one fell."""
    now = shares(Path(words[0]))
    if "--write" in words:
        KEPT.write_text(json.dumps(now, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    before = json.loads(KEPT.read_text(encoding="utf-8"))
    fallen = [package for package in CORE if now.get(package, 0.0) < before[package] - SLACK]
    for package in CORE:
        print(f"{package:<12} {now.get(package, 0.0):5.1f} %, kept {before[package]:5.1f} %")
    if fallen:
        print("fell:", ", ".join(fallen), "- test what was added, or keep the new figures with --write and say why")
    return 1 if fallen else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
