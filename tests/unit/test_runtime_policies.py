"""Policies that look at the running state do what their papers say, and a user may write one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")

from steelyard.errors import InputError
from steelyard.simulation.arrays import Played
from steelyard.simulation.policies import ordered
from steelyard.testing.policies import PolicyContract, traffic
from steelyard.traffic.trace import Trace
from tests.serving import config, run


def _heavy_tail(n: int = 300) -> Trace:
    """Most outputs short, one in ten very long; an engine of eight slots falls behind."""
    rng = np.random.default_rng(1)
    osl = np.where(rng.random(n) < 0.1, 800, 20)
    return Trace(np.cumsum(rng.exponential(0.08, n)), rng.integers(20, 60, n), osl)


def _times(played: Played, which: Any = slice(None)) -> float:
    q = played.requests[which]
    return float(np.mean(q["last_at"] - q["arrived_at"]))


def test_feedback_queue_spares_short_requests_the_long_ones() -> None:
    """FastServe, figures 7 to 9: shorter mean completion than first come, first served, less head-of-line blocking."""
    trace, engine = _heavy_tail(), config(max_num_seqs=8)
    first, feedback = run(trace, engine), run(trace, engine, policy="mlfq")
    short = trace.osl == 20
    assert feedback.totals["preemptions"] > 0 == first.totals["preemptions"]
    assert _times(feedback, short) < 0.5 * _times(first, short)
    assert _times(feedback) < _times(first)
    assert (feedback.requests["status"] == 0).all()


def test_fair_share_protects_a_light_client() -> None:
    """VTC, figure 3: a client that floods the engine waits by itself; the other is served as if alone."""
    light = np.arange(0.0, 20.0, 0.5)
    arrived = np.concatenate([np.zeros(400), light])
    order = np.argsort(arrived, kind="stable")
    session = np.concatenate([np.zeros(400, dtype=int), np.ones(light.size, dtype=int)])[order]
    n = arrived.size
    trace = Trace(arrived[order], np.full(n, 100), np.full(n, 50), session=session)
    engine = config(max_num_seqs=8)
    first, fair = run(trace, engine), run(trace, engine, policy="fair")
    assert _times(fair, session == 1) < 0.2 * _times(first, session == 1)
    assert fair.totals["makespan_s"] == pytest.approx(first.totals["makespan_s"], rel=0.05), "work is conserved"


def test_fair_share_lets_no_client_save_up() -> None:
    """VTC, section 4.1: a client that was away is lifted to those that are there, and does not shut them out."""
    early, late = np.zeros(100), np.full(100, 10.0)
    session = np.repeat([0, 1], 100)
    trace = Trace(np.concatenate([early, late]), np.full(200, 100), np.full(200, 50), session=session)
    played = run(trace, config(max_num_seqs=4), policy="fair")
    done = np.sort(played.requests["last_at"][session == 0])
    after = done[done > 10.5]
    assert np.diff(after).max() < 10.0, "the first client goes on while the second one catches up"


def test_chunks_keep_the_time_per_output_token() -> None:
    """Steps in which somebody decodes end within the limit; prompts take longer for it."""
    rng = np.random.default_rng(2)
    trace = Trace(np.arange(60) * 0.2, rng.integers(2000, 6000, 60), np.full(60, 60))
    first = run(trace)
    order = ordered("slo-chunk", trace, {"tpot_s": 0.03})
    chunked = run(trace, policy=order)  # type: ignore[arg-type]
    for played, kept in ((first, False), (chunked, True)):
        decoding = played.log[played.log["decode"] > 0]
        assert (decoding["duration"].max() <= 0.03 + 1e-9) == kept
    waits = [float(np.mean(p.requests["first_at"] - p.requests["arrived_at"])) for p in (first, chunked)]
    assert waits[1] > waits[0]


class Patient:
    """Nobody is admitted before the second second."""

    name = "patient"

    def keys(self, trace: Trace) -> Any:
        return np.zeros(len(trace))

    @staticmethod
    def _admit(view: Any, request: int, replica: int, worker: int, now: float) -> int:
        return 1 if now >= view.params[0] else 0

    def state(self, trace: Trace, slo: Any) -> dict[str, Any]:
        return {"params": (2.0,)}


Patient.rules = {"admit": Patient._admit}  # type: ignore[attr-defined]


def test_a_policy_of_ones_own() -> None:
    trace = Trace(np.arange(40) * 0.1, np.full(40, 10), np.full(40, 5))
    played = run(trace, policy=Patient)  # type: ignore[arg-type]
    assert played.requests["scheduled_at"].min() >= 2.0
    assert (played.requests["status"] == 0).all()


def test_rules_are_checked() -> None:
    trace = traffic(0)
    wrong = type("Wrong", (), {"name": "wrong", "keys": Patient.keys, "rules": {"admitt": len, "step": 3}})
    with pytest.raises(InputError) as error:
        ordered(wrong, trace)
    assert len(error.value.problems) == 2 and "did you mean 'admit'" in str(error.value)
    broken = type("Broken", (), {"name": "broken", "keys": Patient.keys, "rules": {"admit": lambda *a: a.nothing}})
    with pytest.raises(InputError, match="cannot be compiled"):
        run(trace, policy=broken)  # type: ignore[arg-type]


class TestFeedback(PolicyContract):
    @pytest.fixture
    def policy(self) -> str:
        return "mlfq"


class TestFair(PolicyContract):
    @pytest.fixture
    def policy(self) -> str:
        return "fair"


class TestSloChunk(PolicyContract):
    @pytest.fixture
    def policy(self) -> str:
        return "slo-chunk"


def test_the_same_trace_again_and_again() -> None:
    trace = replace(_heavy_tail(60), session=np.arange(60) % 3, priority=np.arange(60) % 4)
    for name in ("mlfq", "fair", "slo-chunk", "priority-preempt"):
        assert run(trace, policy=name).requests.tobytes() == run(trace, policy=name).requests.tobytes()
