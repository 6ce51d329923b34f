"""Speculative decoding of a static batch: what a token of an answer takes when steps guess and verify.

    T_token = (T_verify(k + 1) + T_guess + verify_s) / E(k),   E = expected tokens of a step

``T_verify`` is a step of ``k + 1`` tokens per sequence (a tree: its nodes and the root) whose attention reads a cache
once; ``T_guess`` the passes of the guesser. With several ``k`` to choose from, the fastest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from steelyard.cost.cost import BOUNDS
from steelyard.cost.step import Replica, StepFigures
from steelyard.techniques.guessers import Draft, guessing_cluster
from steelyard.workload.op import Array

__all__ = ["Guessing", "answering", "one_after_another", "times"]


@dataclass(frozen=True, eq=False)
class Guessing:
    """How a batch guesses."""

    draft: Draft | None
    """None: guesses are free."""
    passes: int
    """How guesses are made: 1 one pass of the draft per token, 2 one pass for all, 3 free."""
    lengths: Mapping[int, float]
    """Expected tokens of a step by its guesses."""
    nodes: int = 0
    """Tokens of a tree beside the root; 0: a chain."""
    wait_s: float = 0.0
    """Of a step that verifies, beside its kernels."""


def answering(replica: Replica, guessing: Guessing, batch: Array, context: Array, step: StepFigures) -> StepFigures:
    """Figures per token of an answer.

    Args:
        replica: what prices the model's steps.
        guessing: how guesses are made.
        batch, context: as of ``Technique.answering``.
        step: a decode without guesses.
    """
    found = None
    for guesses, length in guessing.lengths.items():
        parts = [step] if guesses == 0 else list(_parts(replica, guessing, guesses, batch, context))
        wait_s = guessing.wait_s if guesses else 0.0
        made = one_after_another(parts, length, wait_s)
        found = made if found is None else _faster(found, made)
    assert found is not None
    return found


def _parts(replica: Replica, how: Guessing, guesses: int, batch: Array, context: Array) -> Iterable[StepFigures]:
    """The verifying step and the guesser's passes."""
    yield replica.verifies(batch, context, (how.nodes or guesses) + 1)
    if how.draft is None:
        return
    engine = replace(replica.engine, step_s=replica.engine.guess_s, step_s_per_sequence=0.0, moved=_still(replica))
    small = Replica(how.draft.model, how.draft.plan, guessing_cluster(how.draft, replica.cluster), engine)
    yield small.verifies(batch, context, how.draft.block)
    if how.passes == 1 and guesses > 1:
        yield times(small.verifies(batch, context, 1), guesses - 1)


def _still(replica: Replica) -> Any:
    """No anchor of a measured run: it is of the model's own steps."""
    return type(replica.engine.moved)()


def times(step: StepFigures, count: float) -> StepFigures:
    """A step so many times, or its part of one."""
    scaled = {name: getattr(step, name) * count for name in ("time_s", "limit_s", "energy_j")}
    return replace(step, **scaled)


def one_after_another(parts: list[StepFigures], length: float = 1.0, wait_s: float = 0.0) -> StepFigures:
    """Steps one after another, per token where they give ``length``; ``wait_s`` beside."""
    total = sum(p.time_s for p in parts) + wait_s
    busy = {name: np.asarray(sum(p.time_s * p.shares[name] for p in parts) / total) for name in BOUNDS}
    busy["overhead"] = busy["overhead"] + wait_s / total
    return StepFigures(
        time_s=np.asarray(total / length),
        limit_s=np.asarray(sum(p.limit_s for p in parts) / length),
        energy_j=np.asarray(sum(p.energy_j for p in parts) / length),
        spread=np.asarray(sum(p.time_s * p.spread for p in parts) / total),
        shares=busy,
        sources={k: v for p in reversed(parts) for k, v in p.sources.items()},
    )


def _faster(one: StepFigures, other: StepFigures) -> StepFigures:
    """Of two ways the faster, scenario by scenario."""
    first = one.time_s <= other.time_s
    figures = {
        name: np.where(first, getattr(one, name), getattr(other, name))
        for name in ("time_s", "limit_s", "energy_j", "spread")
    }
    shares = {name: np.where(first, one.shares[name], other.shares[name]) for name in BOUNDS}
    return StepFigures(**figures, shares=shares, sources={**other.sources, **one.sources})
