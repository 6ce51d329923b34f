"""Levels of the KV cache below the devices: host memory, drives, a pool that replicas share.

What the devices let go (idle prefixes, and with ``swap`` the caches of requests that give way) falls to the first
level, what that lets go to the next. A prompt whose prefix lies there is loaded or computed again, whichever is
predicted to be over first:

    load = wait for the link + latency + bytes / (ratio bandwidth)

With ``piecewise`` every block of a layer is a copy of its own, keys and values apart, as swapping was in vLLM up to
0.6. The host issues one after another, so a block takes

    copies max(launch, bytes / (copies bandwidth))

with the time in which the software of the machine launches a kernel. Steps wait for what is copied out and in, and
every request that gives way is swapped while there is room.

(Mooncake, arXiv:2407.00079; LMCache and CacheGen, arXiv:2310.07240, whose codec is the ``ratio``; FastSwitch,
arXiv:2411.18424, for swapping; a pool over the network also stands for memory borrowed from others, Infinite-LLM,
arXiv:2401.02669.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np

from steelyard.cost.kv_pool import KvPool
from steelyard.deployment.plan import Plan
from steelyard.errors import InputError, Problem, raise_all
from steelyard.machine.classes import stack_named
from steelyard.machine.cluster import Cluster
from steelyard.simulation.kernel.methods import TIER
from steelyard.simulation.kernel.state import UNIT
from steelyard.techniques._base import Citation, PoolEnd, PoolFit, Technique
from steelyard.traffic.trace import Trace
from steelyard.units import format_quantity, parse_quantity
from steelyard.workload.protocol import Workload
from steelyard.workload.shapes import Shapes

__all__ = ["KINDS", "KvTiers", "Tier", "parse_tier", "tier_arrays"]


@dataclass(frozen=True, slots=True)
class Kind:
    """What a level is when nothing else is said."""

    latency_s: float
    shared: bool
    source: str


#: Sequential reads of one data-centre drive, bytes/s: Samsung PM9A3 data sheet, 6,900 MB/s. One per device, as in a
#: DGX H100 (eight drives for eight devices).
DRIVE_BYTES_PER_S = 6.9e9
#: Most bytes of a level.
MOST_BYTES = 1e18

#: Levels by name. Latencies: a chain of copies from pinned memory, a read of a drive, a request over the network
#: (guesses of the right size; they matter for short prefixes only).
KINDS: Mapping[str, Kind] = {
    "cpu": Kind(20e-6, False, "the machine's host link"),
    "ssd": Kind(100e-6, False, "Samsung PM9A3 data sheet, one drive per device"),
    "pool": Kind(50e-6, True, "the network between nodes"),
}


@dataclass(frozen=True, slots=True)
class Tier:
    """One level.

    Args:
        kind: a name of :data:`KINDS`; all but ``pool`` belong to one replica each.
        capacity_bytes: of a replica, or of the pool.
        bandwidth_bytes_per_s: of a replica's reads, or of the pool's; 0 = by the kind.
        ratio: uncompressed over stored bytes (CacheGen reports 3.5-4.3 with little loss of quality).
    """

    kind: str
    capacity_bytes: float
    bandwidth_bytes_per_s: float = 0.0
    ratio: float = 1.0

    def __post_init__(self) -> None:
        problems = []
        if self.kind not in KINDS:
            problems.append(Problem("kv_tiers", f"expected one of {', '.join(KINDS)}, got {self.kind!r}"))
        if not 0 < self.capacity_bytes <= MOST_BYTES:
            message = f"expected a capacity above 0 B and at most 1 EB, got {self.capacity_bytes:g} B"
            problems.append(Problem("kv_tiers", message))
        if self.bandwidth_bytes_per_s < 0 or not np.isfinite(self.bandwidth_bytes_per_s):
            message = f"expected a bandwidth of at least 0, got {self.bandwidth_bytes_per_s:g}"
            problems.append(Problem("kv_tiers", message))
        if not 1 <= self.ratio <= 1e6:
            problems.append(Problem("kv_tiers", f"expected a ratio from 1 to 1,000,000, got {self.ratio:g}"))
        raise_all(problems)

    def __str__(self) -> str:
        bandwidth = f"@{self.bandwidth_bytes_per_s:.15g}B/s" if self.bandwidth_bytes_per_s else ""
        ratio = f"/{self.ratio:g}" if self.ratio != 1 else ""
        return f"{self.kind}:{self.capacity_bytes:.15g}B{bandwidth}{ratio}"


def parse_tier(text: str) -> Tier:
    """Read ``cpu:200GB`` or ``pool:10TB@25GB/s``; ``/4`` behind it compresses what it holds (``pool:2TB@25GB/s/4``).

    Raises:
        InputError: it cannot be read.
    """
    kind, colon, rest = text.partition(":")
    kind = kind.strip().lower()
    if not colon or kind not in KINDS:
        words = (
            f"expected one of {', '.join(KINDS)}, got {kind!r:.80}"
            if kind not in KINDS
            else f"expected a size: {kind}:200GB"
        )
        raise InputError(words, field="kv_tiers")
    size, _, speed = rest.partition("@")
    ratio = 1.0
    head, slash, tail = (speed or size).rpartition("/")
    if slash and tail.replace(".", "", 1).isdecimal():
        ratio = float(tail)
        size, speed = (size, head) if speed else (head, "")
    return Tier(
        kind,
        parse_quantity(size, "B", f"kv_tiers.{kind}"),
        parse_quantity(speed, "B/s", f"kv_tiers.{kind}") if speed else 0.0,
        ratio,
    )


@dataclass(frozen=True)
class KvTiers(Technique):
    """The levels, from the nearest on."""

    name: ClassVar[str] = "kv-tiers"
    layer: ClassVar[str] = "kvcache"
    paper: ClassVar[Citation] = Citation(
        "Mooncake: a KVCache-centric disaggregated architecture for LLM serving", "arXiv:2407.00079"
    )
    effect: ClassVar[str] = "prefixes and preempted requests keep their cache on host memory, drives or a pool"
    serving: ClassVar[bool] = True
    in_steps: ClassVar[bool] = True
    first: ClassVar[str] = "levels"

    levels: Annotated[tuple[Tier, ...], "KIND:SIZE[@BANDWIDTH][/RATIO] of cpu, ssd or pool, from the nearest on"] = ()
    swap: Annotated[bool, "preempted requests may leave their cache on the first level"] = False
    piecewise: Annotated[bool, "a copy for every block of a layer, which the step waits for"] = False

    @classmethod
    def item(cls, text: str) -> Tier:
        """One level."""
        return parse_tier(text)

    def problems(self) -> list[Problem]:
        """No level, or one twice."""
        kinds = [t.kind for t in self.levels]
        if not kinds:
            message = (
                "swap needs a level to swap to: cpu:200GB,swap" if self.swap else "expected levels: cpu:200GB,ssd:2TB"
            )
            return [Problem("kv_tiers", message)]
        if self.piecewise and (not self.swap or kinds != ["cpu"]):
            return [
                Problem("kv_tiers", "piecewise copies are those of swapping to host memory: cpu:4GiB,swap,piecewise")
            ]
        if len(set(kinds)) < len(kinds):
            return [Problem("kv_tiers", f"each level once, got {', '.join(kinds)}")]
        return []

    def fit(self, pool: PoolFit) -> None:
        """Levels below the device."""
        record = pool.record
        record["tiers"], record["swap"], record["plain"] = len(self.levels), int(self.swap), 0
        if self.piecewise:
            record["swap_waits"], record["swap_copies"] = 1, copies_of_a_block(pool.replica.model, pool.replica.plan)
        for tier in self.levels:
            pool.sources[f"cache level {tier.kind}"] = KINDS[tier.kind].source
        pool.notes.append("levels of the cache: writes run behind the steps; a load waits for its link")

    def arrays(self, methods: Any, ends: Sequence[PoolEnd], trace: Trace, units: int) -> Any:
        """Empty levels; a shared one is shared by the replicas of one pool."""
        tiers, rows, below = [], [], []
        begin = 0
        for record, end in zip(methods.z, ends, strict=True):
            if end.kv.block_bytes <= 0:  # encoders
                rows.append(np.zeros((end.replicas, len(self.levels)), dtype=np.int64))
                continue
            own, where, held = tier_arrays(self.levels, end.cluster, end.plan, end.kv, end.replicas, units)
            if copies := float(record["swap_copies"]):
                launch_s = stack_named(end.cluster.machine.launch).launch_s
                own["block_s"] = np.maximum(own["block_s"], copies * launch_s)
            tiers.append(own)
            rows.append(where + begin)
            below.append(held)
            begin += len(own)
        return methods._replace(
            tiers=np.concatenate(tiers),
            tier_rows=np.concatenate(rows),
            below=np.concatenate(below),
            swapped=np.zeros(len(trace) if self.swap else 1, dtype=np.int32),
        )

    def report(self, counts: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
        """What was loaded and kept."""
        loaded = counts["loaded_tokens"] / max(counts["prompt_tokens"], 1.0)
        text = f"{loaded:.1%} of the prompt tokens loaded from lower levels"
        text += f" ({format_quantity(counts['loaded_bytes'], 'B')})"
        if self.swap:
            text += f"; {counts['swapped_tokens']:,} tokens of requests that gave way kept"
            text += f" ({format_quantity(counts['swapped_bytes'], 'B')})"
        yield "cache levels", text


def copies_of_a_block(model: Workload, plan: Plan) -> int:
    """Copies of a block of a device: one for every layer of its stage, two where keys and values are apart."""
    if not isinstance(model, Shapes):
        return 2 * -(-model.depth // plan.pp)
    kept = ((x.count, x.attention) for x in model.layers if x.attention is not None and x.attention.causal)
    return -(-sum(count * (1 if a.is_mla or a.joint_kv else 2) for count, a in kept) // plan.pp)


def block_seconds(tier: Tier, cluster: Cluster, plan: Plan, pool: KvPool) -> float:
    """Seconds to load one block of all layers onto all devices of a replica: every device over its own link, except
    from a pool or at a bandwidth that was given, which all share."""
    stored = pool.block_bytes / tier.ratio
    if tier.bandwidth_bytes_per_s:
        return stored * plan.replica_devices / tier.bandwidth_bytes_per_s
    if tier.kind == "ssd":
        return stored / DRIVE_BYTES_PER_S
    if tier.kind == "pool":
        bandwidth = cluster.inter_bandwidth_bytes_per_s
    else:
        hosts = cluster.machine.links("host")
        bandwidth = hosts[0].bandwidth_bytes_per_s if hosts else 0.0
    if bandwidth <= 0:
        raise InputError(f"{cluster.machine.name} states no link to {tier.kind}: give one (@25GB/s)", field="kv_tiers")
    return stored / bandwidth


def tier_arrays(
    tiers: Sequence[Tier], cluster: Cluster, plan: Plan, pool: KvPool, replicas: int, units: int
) -> tuple[Any, Any, Any]:
    """``(tiers [row], rows [replica, level], units held [row, unit])`` of the kernel.

    Raises:
        InputError: a level without a known link.
    """
    rows = np.zeros((replicas, max(1, len(tiers))), dtype=np.int64)
    records: list[Any] = []
    for level, tier in enumerate(tiers):
        record = np.zeros(1, dtype=TIER)
        record["capacity"] = int(tier.capacity_bytes * tier.ratio / (pool.block_bytes * plan.replica_devices))
        record["latency_s"] = KINDS[tier.kind].latency_s
        record["block_s"] = block_seconds(tier, cluster, plan, pool)
        record["oldest"] = record["newest"] = -1
        if KINDS[tier.kind].shared:
            rows[:, level] = len(records)
            records.append(record)
        else:
            rows[:, level] = len(records) + np.arange(replicas)
            records += [record.copy() for _ in range(replicas)]
    held = np.zeros((max(1, len(records)), max(1, units)), dtype=UNIT)
    held["refs"] = -1
    return np.concatenate(records) if records else np.zeros(1, dtype=TIER), rows, held
