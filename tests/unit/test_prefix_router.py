"""The prefix-aware router, every decision checked against a plain reconstruction."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from steelyard.errors import InputError
from steelyard.simulation.arrays import Played
from steelyard.traffic.trace import Trace
from tests.serving import config, run, simulate

BLOCK = 16


def conversations(seed: int, sessions: int = 24, turns: int = 5, shared: int = 1, open_loop: bool = False) -> Trace:
    """Conversations whose prompts grow turn by turn; those of a kind begin with the same ``shared`` blocks."""
    rng = np.random.default_rng(seed)
    begins = np.cumsum(rng.exponential(0.3, sessions))
    rows = [(begins[s] + 2.0 * k, s, k) for k in range(turns) for s in range(sessions)]
    rows.sort()
    at = {(s, k): i for i, (_, s, k) in enumerate(rows)}
    hashes = [
        [1_000_000 + s % 3 for _ in range(shared)] + [1000 * s + b for b in range(4 * (k + 1))] for _, s, k in rows
    ]
    lengths = np.array([len(h) for h in hashes])
    more: dict[str, Any] = {}
    if not open_loop:
        before = [[at[s, k - 1]] if k else [] for _, s, k in rows]
        more = {
            "after": np.array([i for b in before for i in b]),
            "after_offsets": np.concatenate([[0], np.cumsum([len(b) for b in before])]),
            "delay_s": rng.exponential(1.0, len(rows)),
        }
    return Trace(
        np.array([r[0] for r in rows]),
        lengths * BLOCK + 5,
        rng.integers(1, 40, len(rows)),
        session=np.array([r[1] for r in rows]),
        prefix_hashes=np.concatenate(hashes),
        prefix_offsets=np.concatenate([[0], np.cumsum(lengths)]),
        prefix_block_tokens=BLOCK,
        **more,
    )


def expected_replica(trace: Trace, played: Played, i: int, replicas: int) -> tuple[int, int]:
    """``(replica, cached blocks)`` from what had happened when request ``i`` arrived, with a cache that never fills."""
    assert trace.prefix_hashes is not None and trace.prefix_offsets is not None
    q = played.requests
    now = q["arrived_at"][i]
    earlier = [j for j in range(len(trace)) if q["arrived_at"][j] < now]

    def prompt(j: int) -> list[int]:
        assert trace.prefix_hashes is not None and trace.prefix_offsets is not None
        return list(trace.prefix_hashes[trace.prefix_offsets[j] : trace.prefix_offsets[j + 1]])

    mine = prompt(i)
    best = []
    for r in range(replicas):
        there = [j for j in earlier if q["replica"][j] == r]
        load = sum(q["last_at"][j] > now for j in there)
        longest = 0
        for j in there:
            if q["first_at"][j] <= now:
                same = [a == b for a, b in zip(mine, prompt(j), strict=False)]
                longest = max(longest, same.index(False) if False in same else len(same))
        best.append((-longest, load, r))
    return min(best)[2], -min(best)[0]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("open_loop", [False, True])
def test_every_request_goes_where_its_longest_prefix_is(seed: int, open_loop: bool) -> None:
    trace = conversations(seed, open_loop=open_loop)
    played = run(trace, config(), router="prefix", replicas=4)
    q = played.requests
    assert (q["status"] == 0).all()
    assert np.unique(q["arrived_at"]).size == len(trace)  # else the order of arrivals would be told by nothing
    found = [expected_replica(trace, played, i, 4) for i in range(len(trace))]
    assert [r for r, _ in found] == q["replica"].tolist()
    assert sum(blocks > 0 for _, blocks in found) > len(trace) // 2


@pytest.mark.parametrize("seed", range(3))
def test_conversations_keep_their_cache(seed: int) -> None:
    trace = conversations(seed, shared=0)
    cached = {
        router: run(trace, config(), router=router, replicas=4).totals["cached_tokens"]
        for router in ("prefix", "session", "least-loaded", "round-robin")
    }
    assert cached["prefix"] == cached["session"] > 1.5 * max(cached["least-loaded"], cached["round-robin"])


def test_without_a_cached_prefix_it_is_the_least_loaded_router() -> None:
    trace = conversations(0, turns=1, shared=0)
    ours, theirs = (run(trace, config(), router=name, replicas=3).requests for name in ("prefix", "least-loaded"))
    assert ours.tobytes() == theirs.tobytes()


def test_a_small_cache_is_conserved_and_repeats() -> None:
    trace = conversations(1)
    first, second = (run(trace, config(), blocks=60, router="prefix", replicas=3) for _ in range(2))
    assert first.totals["evicted_units"] > 0
    assert (first.requests["status"] == 0).all()
    assert (first.pools["free"] + first.pools["evictable"] == 60).all()
    assert first.requests.tobytes() == second.requests.tobytes()


def test_it_needs_hashes_and_a_cache() -> None:
    bare = Trace(np.zeros(2), [10, 10], [2, 2])
    with pytest.raises(InputError, match="router: the trace has no prefix hashes"):
        simulate("llama-3.1-8b", "h100_sxm:2", bare, dp=2, router="prefix")
    with pytest.raises(InputError, match="router: the prefix router needs an engine that caches prefixes"):
        simulate(
            "llama-3.1-8b",
            "h100_sxm:2",
            conversations(0),
            dp=2,
            router="prefix",
            flags={"enable_prefix_caching": False},
        )
    found = simulate("llama-3.1-8b", "h100_sxm:2", conversations(0), dp=2, router="prefix")
    assert found.summary()["completed"] == 120
