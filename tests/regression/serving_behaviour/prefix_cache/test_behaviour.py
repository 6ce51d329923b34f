"""What a prefix cache gains on Mooncake's conversation trace.

**Paper**: Qin et al., *Mooncake: Trading More Storage for Less Computation*, FAST 2025: with LRU the share of blocks
found grows with the capacity up to what the trace allows, caches of single instances stay far below that, and
scheduling by cached prefix raises it; fewer tokens to compute lower the time to first token and carry more load.

**Here**: the published trace (12,031 requests, block hashes of 512 tokens). What an infinite cache would find is
computed here, in plain Python, from the hashes alone. Needs the trace under `STEELYARD_DATA`.
"""

from __future__ import annotations

import os

import numpy as np
import pytest

pytest.importorskip("numba")
pytest.importorskip("pyarrow")

from steelyard.errors import InputError
from steelyard.simulation.api import simulate
from steelyard.simulation.result import Simulation
from steelyard.traffic.build import Traffic, traffic
from steelyard.traffic.trace import Trace

BLOCKS = (100_000, 200_000, 800_000, 10_000_000)


@pytest.fixture(scope="module")
def trace() -> Trace:
    """The conversation trace; skips without it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEELYARD_DATA", os.environ.get("STEELYARD_DATA", "../shared"))
        try:
            return traffic(Traffic("mooncake_conversation"))
        except InputError:
            pytest.skip("the Mooncake trace is not under STEELYARD_DATA")


def _infinite(trace: Trace) -> float:
    """Share of prompt tokens in full blocks seen before under the same prefix; the last token of a prompt never."""
    assert trace.prefix_hashes is not None and trace.prefix_offsets is not None
    seen: set[tuple[int, ...]] = set()
    hits, size = 0, trace.prefix_block_tokens
    for i in np.argsort(trace.arrived_at, kind="stable"):
        blocks = trace.prefix_hashes[trace.prefix_offsets[i] : trace.prefix_offsets[i + 1]].tolist()
        prefix: tuple[int, ...] = ()
        found, whole = 0, int(trace.isl[i]) // size
        for k, block in enumerate(blocks[:whole]):
            prefix = (hash(prefix), block)
            if prefix in seen and found == k and (k + 1) * size < trace.isl[i]:
                found += 1
            seen.add(prefix)
        hits += found * size
    return hits / float(np.sum(trace.isl))


def _served(trace: Trace, slower: float = 0.5, **flags: object) -> Simulation:
    return simulate(
        "llama-3.1-70b", "h200_sxm:8", trace=trace.scaled(slower), tp=8, weights="fp8", kv="fp8", flags=flags
    )


def _share(run: Simulation) -> float:
    return float(np.sum(run.records.cached_tokens)) / float(np.sum(run.records.isl))


def test_hits_grow_with_the_cache_up_to_what_the_trace_allows(trace: Trace) -> None:
    most = _infinite(trace)
    assert 0.3 < most < 0.45
    shares = [_share(_served(trace, num_gpu_blocks_override=blocks)) for blocks in BLOCKS]
    assert all(np.diff(shares) > 0)
    assert shares[0] < 0.25 * most
    assert 0.98 * most < shares[-1] <= most


def test_the_time_to_first_token_falls_and_more_load_is_carried(trace: Trace) -> None:
    without, found = (_served(trace, 0.4, enable_prefix_caching=x).summary() for x in (False, True))
    for name in ("mean", "p50", "p90", "p99"):
        assert found["ttft_s"][name] < 0.75 * without["ttft_s"][name]
    assert found["energy_j"] < without["energy_j"]
    over, still = (_served(trace, 0.52, enable_prefix_caching=x).summary() for x in (False, True))
    assert over["ttft_s"]["p50"] > 10 * without["ttft_s"]["p50"]  # beyond what it can compute
    assert still["ttft_s"]["p50"] < 2 * found["ttft_s"]["p50"]


def test_routing_by_prefix_finds_what_spreading_loses(trace: Trace) -> None:
    runs = {
        router: simulate("llama-3.1-8b", "h200_sxm:8", trace=trace, tp=1, dp=8, router=router)
        for router in ("round-robin", "least-loaded", "prefix")
    }
    shares = {name: _share(run) for name, run in runs.items()}
    assert shares["prefix"] > 2.5 * max(shares["round-robin"], shares["least-loaded"])
    means = {name: run.summary()["ttft_s"]["mean"] for name, run in runs.items()}
    assert means["prefix"] < 0.9 * min(means["round-robin"], means["least-loaded"])
