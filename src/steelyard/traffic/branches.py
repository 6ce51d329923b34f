"""Several answers to one prompt: best-of-n and beam search as sequences that share the prompt's cache.

The first branch of a request computes the prompt; the others begin when a prefix of it is there, and find it in the
cache. A request is answered when its last branch is.

Best-of-n: ``n`` answers drawn independently; lengths differ when they are drawn anew. Beam search: ``n`` beams of equal
length that fork and die all the time; as all live beams share what came before their fork, the cache they hold
together is taken to be that of ``n`` separate answers (an upper limit: Kwon et al., SOSP 2023, measure 37-55 % less).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from steelyard.errors import InputError
from steelyard.traffic.arrivals import MAX_REQUESTS, check_blocks
from steelyard.traffic.trace import Floats, Integers, Trace, gather

__all__ = ["Branches", "best_of", "group_times"]

#: Tokens of a hashed block of a prompt that has no hashes of its own: the engines' own block.
BLOCK_TOKENS = 16


@dataclass(frozen=True, eq=False)
class Branches:
    """A trace of branches and which request each belongs to."""

    trace: Trace
    group: Integers
    """``[branches]``: the request in the trace that was branched."""
    width: int


def best_of(
    trace: Trace, width: int, *, beam: bool = False, lengths: Integers | None = None, block_tokens: int = BLOCK_TOKENS
) -> Branches:
    """``width`` branches of every request.

    Args:
        trace: requests that arrive by themselves.
        width: answers per request.
        beam: beams stop together: all have the request's length.
        lengths: ``[n, width]`` answers' lengths; None = each is that of a request drawn from the trace, the first the
            request's own (independent answers to one prompt vary less than that: a wide estimate).
        block_tokens: of the prompts' blocks when the trace has no hashes: set it to the engine's.

    Returns:
        ``width`` rows per request; the first computes the prompt, the others begin with its first token.

    Raises:
        InputError: a width below 1, a closed loop or requests that wait for others.
    """
    field = "beam" if beam else "best_of"
    if width < 1:
        raise InputError(f"expected at least 1, got {width}", field=field)
    if len(trace) * width > MAX_REQUESTS:
        words = f"{len(trace):,} requests of {width:,} answers are more than {MAX_REQUESTS:,}"
        raise InputError(words, field=field)
    if trace.closed:
        raise InputError("only requests that arrive by themselves can be branched: give a rate", field=field)
    n = len(trace)
    group = np.repeat(np.arange(n), width)
    if beam or width == 1:
        osl = trace.osl[group]
    elif lengths is not None:
        osl = np.asarray(lengths, dtype=np.int64).reshape(-1)
    else:
        drawn = trace.osl[np.random.default_rng(0).integers(0, n, (n, width))]
        drawn[:, 0] = trace.osl
        osl = drawn.reshape(-1)
    own = block_tokens if trace.prefix_hashes is None else trace.prefix_block_tokens
    check_blocks(float(np.sum(trace.isl // own, dtype=np.float64)) * width, field)
    hashes, offsets, block = _hashes(trace, block_tokens)
    hashes, offsets = gather(hashes, offsets, group)
    later = np.arange(n * width) % width > 0
    word = "beams" if beam else "answers"
    made = replace(
        trace.rows(group),
        osl=osl,
        prefix_hashes=hashes,
        prefix_offsets=offsets,
        prefix_block_tokens=block,
        branches=width,
        after=np.arange(n * width)[later] // width * width,
        after_offsets=np.concatenate([[0], np.cumsum(later)]),
        name=f"{trace.name}, {width} {word} each",
        notes=(*trace.notes, f"{width} {word} per request share its prompt"),
    )
    return Branches(made, group, width)


def _hashes(trace: Trace, block_tokens: int) -> tuple[Integers, Integers, int]:
    """The trace's own prefix hashes, or one identity per block of every prompt."""
    if trace.prefix_hashes is not None and trace.prefix_offsets is not None:
        return trace.prefix_hashes, trace.prefix_offsets, trace.prefix_block_tokens
    full = trace.isl // block_tokens
    offsets = np.concatenate([[0], np.cumsum(full)]).astype(np.int64)
    return np.arange(offsets[-1], dtype=np.int64), offsets, block_tokens


def group_times(width: int, arrived_at: Floats, ttft_s: Floats, e2e_s: Floats) -> Mapping[str, Floats]:
    """Per request: ``ttft_s`` of its first token, ``e2e_s`` of the last token of all branches; NaN if one is missing.

    Args:
        width: branches per request.
        arrived_at, ttft_s, e2e_s: ``[branches]`` s, group after group; each counts from its own arrival.
    """
    arrived, first, last = (np.asarray(x, dtype=np.float64).reshape(-1, width) for x in (arrived_at, ttft_s, e2e_s))
    began = arrived[:, 0]
    return {"ttft_s": first[:, 0], "e2e_s": (arrived + last).max(axis=1) - began}
