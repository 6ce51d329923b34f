"""Many fine-tuned variants of one model at once (S-LoRA, arXiv:2311.03285; vLLM multi-LoRA): bytes, times, traffic.

An adapter of rank ``r`` adds to each targeted product of ``k`` inputs and ``n`` outputs two thin ones, ``A [k, r]`` and
``B [r, n]``. A step reads the adapters of its requests once each and multiplies its tokens with their own (grouped
products, Punica, arXiv:2310.18547):

    time = 2 launches x products + distinct x bytes / bandwidth + tokens x max(2 r (k + n) / peak, moved / bandwidth)

At most ``max_loras`` are in the memory of a replica; another one takes the place of the one unused longest and comes
over the host link first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steelyard.deployment.plan import Plan
from steelyard.deployment.sharding import shard
from steelyard.errors import InputError, Problem, raise_all
from steelyard.machine.cluster import Cluster
from steelyard.simulation.kernel.methods import read_words
from steelyard.workload.protocol import Workload
from steelyard.workload.step import Step

__all__ = ["TARGETS", "AdapterCost", "Adapters", "adapter_cost", "draw_adapters", "parse_adapters"]

#: Which products have an adapter, by the block they are in.
TARGETS: Mapping[str, tuple[str, ...]] = {"attention": ("attention",), "mlp": ("mlp",), "all": ("attention", "mlp")}
#: Start to drain of one thin grouped product inside a captured graph, s (guess: the shortest kernels of the vector
#: calibration take 2-3 us).
LAUNCH_S = 2.5e-6
#: Of peak bandwidth that gathered thin matrices reach (guess; SGMV's figures show 40-70 %).
GATHER_FRAC = 0.6
#: Bytes of one element of an adapter, which is kept in 16 bits.
ELEMENT_BYTES = 2.0


@dataclass(frozen=True, slots=True)
class Adapters:
    """The adapters of a service and how they are asked for.

    Args:
        count: different ones. zipf: exponent of their popularity, 0 = all alike.
        rank: of all of them. targets: a name of :data:`TARGETS`.
        max_loras: in the memory of a replica at once.
        base_frac: share of the requests that need none.
    """

    count: int
    zipf: float = 1.0
    rank: int = 16
    targets: str = "all"
    max_loras: int = 8
    base_frac: float = 0.0

    def __post_init__(self) -> None:
        problems = []
        for name in ("count", "rank", "max_loras"):
            if getattr(self, name) < 1:
                problems.append(Problem(f"lora.{name}", f"expected at least 1, got {getattr(self, name)}"))
        if self.zipf < 0:
            problems.append(Problem("lora.zipf", f"expected at least 0, got {self.zipf:g}"))
        if not 0 <= self.base_frac <= 1:
            problems.append(Problem("lora.base", f"expected a share from 0 to 1, got {self.base_frac:g}"))
        if self.targets not in TARGETS:
            problems.append(Problem("lora.targets", f"expected one of {', '.join(TARGETS)}, got {self.targets!r}"))
        raise_all(problems)


def parse_adapters(text: str) -> Adapters:
    """Read ``100``, ``lora:100,zipf=1.2,rank=16,targets=attention,max_loras=8,base=0.2``.

    Raises:
        InputError: every problem.
    """
    body = text.strip()
    body = body if body.lower().startswith("lora") else f"lora:{body}"
    known: dict[str, float | str] = {
        "adapters": 8,
        "zipf": 1.0,
        "rank": 16,
        "targets": "all",
        "max_loras": 8,
        "base": 0.0,
    }
    _, given = read_words(body, "lora", known)
    try:
        count = int(given.get("", given.get("adapters", 0)))
    except ValueError:
        raise InputError(f"expected a number of adapters, got {given['']!r}", field="lora") from None
    return Adapters(
        count,
        float(given.get("zipf", 1.0)),
        int(given.get("rank", 16)),
        str(given.get("targets", "all")),
        int(given.get("max_loras", min(8, max(count, 1)))),
        float(given.get("base", 0.0)),
    )


def draw_adapters(adapters: Adapters, requests: int, seed: int = 0) -> NDArray[np.int32]:
    """The adapter of each request, -1 for none: ``P(adapter k) ~ 1 / k^zipf``."""
    rng = np.random.default_rng([seed, 0x10EA])
    weights = np.arange(1, adapters.count + 1, dtype=np.float64) ** -adapters.zipf
    drawn = rng.choice(adapters.count, size=requests, p=weights / weights.sum())
    none = rng.random(requests) < adapters.base_frac
    return np.where(none, -1, drawn).astype(np.int32)


@dataclass(frozen=True, slots=True)
class AdapterCost:
    """What adapters cost on one device of a replica."""

    bytes: float
    """Of one adapter."""
    load_s: float
    step_s: float
    each_s: float
    token_s: float

    def record(self, record: Any, max_loras: int) -> None:
        """Write it into a record of :data:`~steelyard.simulation.kernel.methods.METHOD`."""
        record["plain"] = 0
        record["max_loras"] = max_loras
        for name in ("load_s", "step_s", "each_s", "token_s"):
            record[f"lora_{name}"] = getattr(self, name)


def adapter_cost(adapters: Adapters, model: Workload, plan: Plan, cluster: Cluster) -> AdapterCost:
    """Bytes and times of adapters of a model under a resolved plan.

    Each device holds its share of ``A`` or ``B`` as the product it belongs to is split; pipeline stages hold their
    layers.

    Raises:
        InputError: the model has no such products.
    """
    machine = cluster.machine
    elements, products, moved = 0.0, 0.0, 0.0
    for op in model.graph(Step.decode(1, 1)).ops:
        weighted = any(t.role == "weight" for t in op.inputs) and len(op.inputs) == 2 and op.map == "mul" and op.reduced
        if not weighted or op.block not in TARGETS[adapters.targets] or "e" in op.ranks:
            continue
        _, n, k, groups = (float(np.max(np.asarray(x))) for x in shard(op, plan).gemm_shape())
        count = float(np.asarray(op.count)) / plan.pp
        elements += count * groups * (n + k)
        products += count
        moved += count * groups * (k + 2 * n) * ELEMENT_BYTES
    if elements == 0:
        raise InputError(f"{model.name} has no products in {adapters.targets!r}", field="lora.targets")
    size = elements * adapters.rank * ELEMENT_BYTES
    bandwidth = machine.root.bandwidth_bytes_per_s
    peak = max((e.peak.get("bf16", e.peak.get("fp16", 0.0)) for e in machine.compute), default=0.0)
    flops = 2.0 * elements * adapters.rank / peak if peak else 0.0
    hosts = machine.links("host")
    link = hosts[0].bandwidth_bytes_per_s if hosts else bandwidth
    return AdapterCost(
        bytes=size,
        load_s=size / link,
        step_s=2.0 * LAUNCH_S * products * plan.pp,
        each_s=size / (GATHER_FRAC * bandwidth) * plan.pp,
        token_s=max(flops, moved / bandwidth) * plan.pp,
    )
