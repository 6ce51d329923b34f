"""kill -9 at random moments of a sweep: the finished store equals an uninterrupted run, and nothing is priced twice.

A short form by default; STEELYARD_KILL=full kills a sweep of 2,000 points ten times.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("duckdb", reason="needs the store extra")

from steelyard.studies.points import expand_study
from steelyard.studies.store_results import Store
from steelyard.studies.study import read_study

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")

FULL = os.environ.get("STEELYARD_KILL") == "full"
KILLS, BATCHES = (10, 25) if FULL else (2, 4)

STUDY = """
name = "killed"
kind = "estimate"
fixed = {{model = "llama-3.1-8b", osl = 128}}
[grid]
on = "h100_sxm:8, l40s:8"
tp = "1,2,4,8"
isl = "1-10"
kv = "fp8, bf16, int8, fp16, int4"
batch = "1-{batches}"
"""

#: Commits as often as it can, so that kills meet commits.
RUN = """
import json, sys
from steelyard.studies import sweep as sweeps
from steelyard.studies.study import read_study
from steelyard.studies.store_results import Store
sweeps.COMMIT_SHARE = 1.0
done = sweeps.sweep(read_study(sys.argv[1]), Store(sys.argv[2]), jobs=2, resume=True, commit_every_s=0.02,
                    progress=lambda p: print("going", flush=True) if p.done else None)
print(json.dumps({"priced": done.priced, "reused": done.reused, "scenarios": done.scenarios}))
"""


def _start(study: Path, store: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(study), str(store)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _finish(study: Path, store: Path) -> dict[str, int]:
    out, err = (run := _start(study, store)).communicate(timeout=300)
    assert run.returncode == 0, err
    return json.loads(out.splitlines()[-1])


def _exported(study: Path, store: Path) -> tuple[bytes, bytes]:
    files = store.with_suffix(".csv"), store.with_suffix(".parquet")
    for file in files:
        Store(store).export(Store(store).study("killed"), file)
    return files[0].read_bytes(), files[1].read_bytes()


def test_killed_sweeps_lose_and_repeat_nothing(tmp_path: Path) -> None:
    study = tmp_path / "killed.toml"
    study.write_text(STUDY.format(batches=BATCHES), encoding="utf-8")
    points = expand_study(read_study(study))
    assert len(points) == 2 * 4 * 10 * 5 * BATCHES
    whole = tmp_path / "whole.duckdb"
    started = time.monotonic()
    assert _finish(study, whole) == {"priced": len(points), "reused": 0, "scenarios": len(points)}
    took_s = time.monotonic() - started
    expected = _exported(study, whole)
    rng = random.Random(20260101)
    partly = 0
    for trial in range(KILLS):
        store = tmp_path / f"killed{trial}.duckdb"
        run = _start(study, store)
        assert run.stdout is not None
        if trial % 2:
            run.stdout.readline()  # the first answer is there: kill while it is pricing and committing
            time.sleep(rng.uniform(0.0, 0.6 * took_s))
        else:
            time.sleep(rng.uniform(0.05, took_s))
        run.kill()
        run.wait()
        run.stdout.close()
        there = Store(store).known("estimate", [p.hash for p in points])  # whenever it was killed: nothing, or a store
        partly += 0 < len(there) < len(points)
        done = _finish(study, store)
        assert done == {"priced": len(points) - len(there), "reused": len(there), "scenarios": len(points)}
        assert _exported(study, store) == expected
    assert partly  # at least one kill left a part behind
