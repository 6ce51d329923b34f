"""Many fine-tuned variants of one model at once (S-LoRA, arXiv:2311.03285; vLLM multi-LoRA): bytes, times, traffic.

An adapter of rank ``r`` adds to each targeted product of ``k`` inputs and ``n`` outputs two thin ones, ``A [k, r]`` and
``B [r, n]``. A step reads the adapters of its requests once each and multiplies its tokens with their own (grouped
products, Punica, arXiv:2310.18547):

    time = 3 kernels x products + distinct x bytes / bandwidth + tokens x max(2 r (k + n) / peak, moved / bandwidth)

Where a step is no captured graph, the host launches these kernels beside the model's own, and the slower of host and
device counts. Engines whose host prepares adapters while the device waits pay for that in every step (``adapter_s``).

At most ``max_loras`` are in the memory of a replica; another one takes the place of the one unused longest and comes
over the host link first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from steelyard.deployment.plan import Plan
from steelyard.deployment.sharding import shard
from steelyard.errors import InputError, Problem
from steelyard.machine.cluster import Cluster
from steelyard.simulation.kernel.methods import SEAT
from steelyard.simulation.sizes import check_bytes
from steelyard.techniques._base import Citation, PoolEnd, PoolFit, Technique
from steelyard.traffic.trace import Trace
from steelyard.units import Quantity
from steelyard.workload.protocol import Workload
from steelyard.workload.step import Step

__all__ = ["TARGETS", "AdapterCost", "Lora", "adapter_cost", "draw_adapters"]

#: Which products have an adapter, by the block they are in.
TARGETS: Mapping[str, tuple[str, ...]] = {"attention": ("attention",), "mlp": ("mlp",), "all": ("attention", "mlp")}
#: Kernels for each product that has an adapter: its buffer is cleared, into the rank, out of it (vLLM).
KERNELS = 3.0
#: Start to drain of one thin grouped product inside a captured graph, s: Punica (arXiv:2310.18547) measured 2 ms per
#: token more for a model of 32 layers with seven targets, two kernels each, on an A100.
LAUNCH_S = 4.5e-6
#: Host time of launching one from Python through Triton, s (as vLLM's kernels of prompts; guess for others).
TRITON_S = 45e-6
#: Of peak bandwidth that gathered thin matrices reach (guess; SGMV's figures show 40-70 %).
GATHER_FRAC = 0.6
#: Bytes of one element of an adapter, which is kept in 16 bits.
ELEMENT_BYTES = 2.0
#: Adapters in the memory of a replica when nothing else is said.
RESIDENT = 8


@dataclass(frozen=True)
class Lora(Technique):
    """The adapters of a service and how they are requested."""

    name: ClassVar[str] = "lora"
    layer: ClassVar[str] = "adapters"
    paper: ClassVar[Citation] = Citation("S-LoRA: serving thousands of concurrent LoRA adapters", "arXiv:2311.03285")
    effect: ClassVar[str] = "thin products per adapter, loads over the host link, memory of resident adapters"
    serving: ClassVar[bool] = True
    in_steps: ClassVar[bool] = True
    first: ClassVar[str] = "adapters"
    keys: ClassVar[Mapping[str, str]] = {"adapters": "count", "base": "base_frac"}

    count: Annotated[int, Quantity("1", "different adapters", ge=1, le=1_000_000)]
    zipf: Annotated[float, Quantity("1", "exponent of their popularity; 0 = all alike", ge=0, le=1000)] = 1.0
    rank: Annotated[int, Quantity("1", "rank of all of them", ge=1, le=100_000)] = 16
    targets: Annotated[str, "products that have one: attention, mlp, all"] = "all"
    max_loras: Annotated[
        int | None, Quantity("1", "in the memory of a replica at once (default: all, 8 at most)", ge=1, le=1_000_000)
    ] = None
    base_frac: Annotated[float, Quantity("1", "share of the requests that need none", ge=0, le=1)] = 0.0

    @property
    def resident(self) -> int:
        """Adapters in the memory of a replica at once."""
        return min(RESIDENT, self.count) if self.max_loras is None else self.max_loras

    def problems(self) -> list[Problem]:
        """Unknown targets."""
        if self.targets in TARGETS:
            return []
        return [Problem("lora.targets", f"expected one of {', '.join(TARGETS)}, got {self.targets!r}")]

    def trace(self, trace: Trace, seed: int) -> Trace:
        """An adapter drawn for every request, unless the trace names them itself."""
        if trace.adapter is not None:
            if int(trace.adapter.max()) >= self.count:
                message = f"the trace asks for adapter {int(trace.adapter.max())}, there are {self.count}"
                raise InputError(message, field="lora")
            return trace
        return replace(trace, adapter=draw_adapters(self, len(trace), seed).astype(np.int64))

    def fit(self, pool: PoolFit) -> None:
        """Times of loading and of the thin products; memory of those that are resident."""
        r = pool.replica
        cost = adapter_cost(self, r.model, r.plan, r.cluster)
        pool.record["plain"] = 0
        pool.record["max_loras"] = self.resident
        for name in ("load_s", "step_s", "each_s", "token_s"):
            pool.record[f"lora_{name}"] = getattr(cost, name)
        pool.record["lora_step_s"] += r.engine.adapter_s
        pool.record["lora_launch_s"] = cost.kernels * max(pool.config.launch_s, r.launch_s, TRITON_S)
        pool.device_bytes += cost.bytes * self.resident
        pool.notes.append(
            f"{self.count} adapters of rank {self.rank}, {cost.bytes / 1e6:,.1f} MB each on a device, "
            f"{self.resident} resident"
        )
        pool.guesses["adapter kernels"] = "4.5 us per thin product and 60 % of bandwidth for gathered weights"

    def arrays(self, methods: Any, ends: Sequence[PoolEnd], trace: Trace, units: int) -> Any:
        """Places for adapters in every replica, all empty."""
        replicas = sum(e.replicas for e in ends)
        words = f"{replicas:,} replicas that each know {self.count:,} adapters, {self.resident:,} resident,"
        check_bytes({words: ("lora", replicas * (self.count * 4 + self.resident * SEAT.itemsize))})
        seats = np.zeros((replicas, self.resident), dtype=SEAT)
        seats["adapter"] = seats["stamp"] = -1
        assert trace.adapter is not None
        return methods._replace(
            adapter_of=trace.adapter.astype(np.int32),
            seats=seats,
            seat_of=np.full((replicas, self.count), -1, dtype=np.int32),
        )

    def report(self, counts: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
        """How often one had to be loaded."""
        loads = f"loaded {counts['adapter_loads']:,} times"
        yield "adapters", f"{loads}; {self.resident} of {self.count:,} resident per replica"
        if counts["adapter_waits"]:
            bound = f"requests waited for one of the {self.resident} places for adapters while others were let by"
            yield "adapter slots", f"{bound}; more: max_loras={min(self.count, 2 * self.resident)}"


def draw_adapters(adapters: Lora, requests: int, seed: int = 0) -> NDArray[np.int32]:
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
    kernels: float
    """Of a step on one device."""
    load_s: float
    step_s: float
    each_s: float
    token_s: float


def adapter_cost(adapters: Lora, model: Workload, plan: Plan, cluster: Cluster) -> AdapterCost:
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
        kernels=KERNELS * products,
        load_s=size / link,
        step_s=KERNELS * LAUNCH_S * products * plan.pp,
        each_s=size / (GATHER_FRAC * bandwidth) * plan.pp,
        token_s=max(flops, moved / bandwidth) * plan.pp,
    )
