"""Speculative decoding among the planner's choices."""

from __future__ import annotations

import pytest

pytest.importorskip("numba")

from steelyard.deployment.plan_file import deployment_text, read_deployment
from steelyard.errors import InputError
from steelyard.search.answer import Answer
from steelyard.search.api import plan as advise


def asked(tpot: str, speculate: str = "", **more: object) -> Answer:
    return advise(
        "llama-3.1-8b",
        "h100_sxm",
        rate="1/s",
        isl=500,
        osl=300,
        ttft="p99:2s",
        tpot=tpot,
        mode="aggregated",
        requests=300,
        speculate=speculate,
        **more,  # type: ignore[arg-type]
    )


def test_a_good_draft_holds_a_tight_promise_with_fewer_devices() -> None:
    without, with_draft = asked("p95:5ms"), asked("p95:5ms", "draft:llama-3.2-1b,k=4,accept=0.9")
    assert without.winner is not None and with_draft.winner is not None
    assert with_draft.winner.devices < without.winner.devices
    assert with_draft.winner.tpot_s <= 5e-3
    assert with_draft.winner.deployment.pools[0].speculate.startswith("draft:")
    assert with_draft.runners_up[0].devices == without.winner.devices


def test_guesses_that_are_never_right_change_nothing() -> None:
    without, poor = asked("p95:20ms"), asked("p95:20ms", "ngram:k=3,accept=0")
    assert without.winner is not None and poor.winner is not None
    assert poor.winner.rent_usd_per_hour == without.winner.rent_usd_per_hour
    assert poor.winner.deployment == without.winner.deployment
    assert any("saves no rent" in text for text in poor.why)


def test_the_way_is_kept_in_the_plan_file(tmp_path: object) -> None:
    answer = asked("p95:5ms", "draft:llama-3.2-1b,k=4,accept=0.9")
    assert answer.winner is not None
    path = tmp_path / "plan.toml"  # type: ignore[operator]
    path.write_text(deployment_text(answer.winner.deployment))
    assert read_deployment(path).deployment == answer.winner.deployment


def test_what_cannot_be_launched_is_refused() -> None:
    with pytest.raises(InputError, match="checkpoint of heads"):
        asked("p95:20ms", "eagle:k=4")
    with pytest.raises(InputError, match="vllm only"):
        asked("p95:20ms", "ngram:k=3", engine="sglang")
    with pytest.raises(InputError, match="by rent"):
        asked("p95:20ms", "ngram:k=3", objective="energy")
