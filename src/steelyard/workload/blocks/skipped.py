"""Blocks of a layer that part of the tokens skip: early exits, skipped layers, routing by depth and width.

Of ``T`` tokens of a step each skips a block with probability ``s``. The block runs with ``1 - s^T``, and then for
``T (1 - s) / (1 - s^T)`` tokens on average; where the batch is not regrouped, for all ``T``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from steelyard.workload.op import Array, Op
from steelyard.workload.shapes import Skip
from steelyard.workload.step import Step

__all__ = ["answering", "often", "some"]


def answering(step: Step) -> NDArray[np.bool_]:
    """Whether the new tokens are of an answer."""
    return np.asarray(((np.asarray(step.new) <= 1) | step.guesses) & (not step.first))


def some(step: Step, share: float, skip: Skip) -> tuple[Step, Array]:
    """The step for the tokens that do not skip a block, and how often the block runs at all.

    Args:
        step: of all tokens.
        share: of the tokens that skip.
        skip: what else is said of it.
    """
    new, batch = (np.asarray(x, dtype=np.float64) for x in (step.new, step.batch))
    answer = answering(step)
    share = min(share, 1.0 - 1e-9)  # a block that no token needs runs almost never, for one
    runs = np.asarray(1.0 - share ** np.maximum(step.tokens, 1.0))
    if skip.answers:
        runs = np.where(answer, runs, 1.0)
    if skip.union:
        return step, runs
    left = np.where(answer | (not skip.answers), (1.0 - share) / np.maximum(runs, 1e-12), 1.0)
    prompts = np.where(answer | skip.answers, 1.0, left)
    answers = np.where(answer, left, 1.0)
    shared = step.expert_tokens
    if shared is not None:
        shared = np.asarray(shared, dtype=np.float64) * prompts * answers
    kept = np.asarray(step.context, dtype=np.float64)
    if skip.absent:  # its own positions are few, those of others are fewer by the same share
        kept = np.where(answer, kept * (1.0 - share), kept * prompts)
    return replace(step, batch=batch * answers, new=new * prompts, context=kept, expert_tokens=shared), runs


def often(ops: Iterator[Op], runs: Array) -> Iterator[Op]:
    """Ops that run so often of the times that a step has them."""
    for op in ops:
        yield replace(op, facts={**op.facts, "runs": runs})
