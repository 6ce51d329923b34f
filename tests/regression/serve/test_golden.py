"""Golden traces: each folder is a case, ``case.json`` the question and ``golden.csv`` every event it led to.

``python -m tests.regression.serve.test_golden`` writes the golden files anew; read the difference before keeping it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")

from steelyard.cost.step_table import constant_tables
from steelyard.traffic.trace import Trace
from tests.serving import config, run

HERE = Path(__file__).parent
CASES = sorted(p.parent.name for p in HERE.glob("*/case.json"))


def events(name: str) -> list[tuple[float, str, Any]]:
    """Every event of a case in order of time: steps with their tokens, arrivals, first tokens, ends."""
    case = json.loads((HERE / name / "case.json").read_text())
    arrays = {k: np.asarray(v) if isinstance(v, list) else v for k, v in case["trace"].items()}
    played = run(
        Trace(**arrays),
        config(case["scheduler"], **case["flags"]),
        tables=constant_tables(*case["step_s"]),
        **case["run"],
    )
    found: list[tuple[float, str, Any]] = []
    for step in played.log:
        shape = f"{step['prefill']}+{step['decode']} tokens, {step['blocks']} blocks, {step['waiting']} waiting"
        found.append((float(step["start"]), "step", shape))
    for i, q in enumerate(played.requests):
        for what in ("arrived_at", "scheduled_at", "first_at", "last_at"):
            found.append((float(q[what]), what.removesuffix("_at"), i))
        found.append((float(q["last_at"]), "summary", f"{i}: {q['preemptions']} preemptions, {q['cached']} cached"))
    return sorted(found, key=lambda e: (round(e[0], 9), e[1], str(e[2])))


def written(name: str) -> str:
    """The golden file's text."""
    return "".join(f"{time:.9f},{what},{detail}\n" for time, what, detail in events(name))


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    assert written(name) == (HERE / name / "golden.csv").read_text()


def test_there_are_cases() -> None:
    assert len(CASES) >= 7


if __name__ == "__main__":
    for case in CASES:
        (HERE / case / "golden.csv").write_text(written(case))
        print(case, len(events(case)), "events")
