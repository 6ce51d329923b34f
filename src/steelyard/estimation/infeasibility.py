"""What would make a workload fit: the nearest change, found by asking the memory model again."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

from steelyard.cost.memory import MemoryUse, memory_use
from steelyard.cost.unlike_memory import fullest
from steelyard.deployment.engine_choice import keeps, reads
from steelyard.deployment.formats import find_format
from steelyard.deployment.offload import parse_offload
from steelyard.deployment.plan import DEGREES
from steelyard.errors import InputError
from steelyard.estimation.estimate import answer
from steelyard.estimation.start_up import stored_parts
from steelyard.estimation.static_batch import end_bytes, with_encoder
from steelyard.machine.host import find_host, usual_host
from steelyard.scenario.fields import GROUPS
from steelyard.scenario.scenario import Scenario, check
from steelyard.units import format_quantity

__all__ = ["Change", "changes", "in_host_memory", "memory_of", "nearest_change", "remedy", "shortfall"]

#: Most devices a change may ask for.
MAX_DEVICES = 4096


@dataclass(frozen=True, eq=False)
class Change:
    """One change that makes a scenario fit."""

    text: str
    scenario: Scenario
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """The options to give, by name (``kv``, ``weights``, ``batch``, ``isl``, ``on``, ``tp``, ``pp``)."""


def memory_of(scenario: Scenario, weights: float | None = None) -> MemoryUse:
    """Memory of a scenario on its fullest device, as :func:`~steelyard.estimation.estimate.answer` computes it.

    Args:
        scenario: the scenario.
        weights: bytes of its weights there, when they are known already.
    """
    one = memory_use(
        scenario.transformer,
        scenario.plan,
        scenario.cluster.machine,
        scenario.engine,
        scenario.replica_batch,
        scenario.held_tokens,
        exact_weights=scenario.exact_weight_bytes,
        weights=weights,
        host=scenario.cluster.host,
    )
    depth, one = scenario.transformer.depth, with_encoder(scenario, one, scenario.replica_batch)
    return fullest(one, end_bytes(scenario), scenario.plan, depth, scenario.cluster, scenario.engine)


def shortfall(scenario: Scenario) -> str:
    """How much is missing, in words."""
    use = memory_of(scenario)
    if float(use.host) > use.host_capacity:
        needed, there = format_quantity(float(use.host), "B"), format_quantity(use.host_capacity, "B")
        return f"needs {needed} of host memory, the host has {there} usable (--host ddr5-5600x2:SIZE says how much)"
    total, capacity = format_quantity(float(use.total), "B"), format_quantity(use.capacity, "B")
    return f"needs {total} per device of {capacity} usable, {format_quantity(-float(use.headroom), 'B')} short"


def nearest_change(scenario: Scenario) -> Change | None:
    """The first change that fits, in the order of :func:`changes`; None when none does."""
    return next(changes(scenario), None)


def remedy(scenario: Scenario) -> str:
    """What would make it fit, in words: the nearest change, and weights in host memory with the speed of that."""
    found = nearest_change(scenario)
    beside = in_host_memory(scenario) if found is None or "offload" not in found.arguments else None
    return "; or ".join(change.text for change in (found, beside) if change is not None) or "none found"


def in_host_memory(scenario: Scenario) -> Change | None:
    """The fewest weights that have to lie in host memory, with the speed of that; None where that is not done.

    Experts where there are some, else layers, where the engine computes with them there; else bytes of every device.
    For engines that compute there, and cards of desktops.
    """
    machine, engine, model = scenario.cluster.machine, scenario.engine, scenario.transformer
    if (
        scenario.plan.offload
        or scenario.cluster.unlike
        or not machine.links("host")
        or not (engine.host_computes or not machine.node)
    ):
        return None
    host = find_host(usual_host(machine))

    def placed(words: str, use: str) -> Scenario:
        plan = replace(scenario.plan, offload=f"{words},{use}")
        return replace(scenario, plan=plan, cluster=replace(scenario.cluster, host=host))

    if not engine.host_computes:
        kinds, use = [("cpu:{}GiB", 4096)], "streamed"
    else:
        use = "either" if engine.stream_tokens else "computed"
        kinds = [("experts:{}", model.depth)] if model.experts else []
        kinds.append(("layers:{}", model.depth))
    for words, top in kinds:
        sizes = range(top, -1, -1) if words.startswith("layers") else range(1, top + 1)
        at = bisect_left(sizes, True, key=lambda n: bool(memory_of(placed(words.format(n), use)).headroom >= 0))
        if at == len(sizes):
            continue
        asked = words.format(sizes[at])
        candidate = placed(asked, use)
        if not _fits(candidate):
            return None
        speed = float(answer(candidate).tokens_per_s_per_user)
        text = f"{parse_offload(asked).words} in host memory (--offload {asked}): {speed:.3g} tokens/s per user"
        return Change(text, candidate, {"offload": asked})
    return None


def changes(scenario: Scenario) -> Iterator[Change]:
    """Changes that make a scenario fit, nearest first.

    In order: 8-bit KV cache, 8-bit weights, 4-bit weights, two of these together, smaller batch, shorter prompt, twice
    the devices and so on; then narrower formats together with a smaller batch or a shorter prompt.
    Every one is checked with the same memory model and sharding rules as the estimate.
    """
    formats = list(_format_changes(scenario))
    for change in chain(formats, _smaller(scenario), _more_devices(scenario)):
        if _fits(change.scenario):
            yield change
    for narrow in (c for c in reversed(formats) if not _fits(c.scenario)):
        for change in _smaller(narrow.scenario):
            if _fits(change.scenario):
                yield Change(
                    f"{narrow.text} and {change.text}", change.scenario, {**narrow.arguments, **change.arguments}
                )


def _fits(scenario: Scenario) -> bool:
    try:
        check(scenario)
    except InputError:
        return False
    return bool(memory_of(scenario).fits)


def _with_formats(scenario: Scenario, **formats: str) -> Scenario:
    """The scenario with some formats replaced; activations follow the weights again."""
    plan = replace(scenario.plan, **formats)  # type: ignore[arg-type]
    if "weights" in formats:
        plan = replace(plan, activations="")
    return replace(scenario, plan=plan.resolved(scenario.transformer, scenario.cluster.machine))


def _format_changes(scenario: Scenario) -> Iterator[Change]:
    weights, kv = (scenario.plan.format(r).stored_bits for r in ("weight", "kv"))
    eight, *ladder = scenario.engine.narrower
    machine = scenario.cluster.machine
    narrow = [f for f in ladder if find_format(f).stored_bits < weights and reads(scenario.engine, machine, f)]
    smaller = kv > find_format(eight).stored_bits and keeps(scenario.engine, machine, eight)
    caches = [{"kv": eight}] if smaller else []
    options: list[dict[str, str]] = [*caches, *({"weights": f} for f in narrow)]
    options += [{"weights": f, **cache} for f in narrow for cache in caches]
    for formats in options:
        words = " and ".join(f"{'KV cache' if k == 'kv' else k} in {v} (--{k} {v})" for k, v in formats.items())
        yield Change(words, _with_formats(scenario, **formats), formats)


def _smaller(scenario: Scenario) -> Iterator[Change]:
    """The largest smaller batch, then the longest shorter prompt."""
    dp, (name, length, _), (requests, prompt, answers) = scenario.plan.dp, GROUPS["batch"], scenario.sizes
    stored = sum(stored_parts(scenario).values())  # the same whatever the batch and the lengths
    replica = _most(lambda n: scenario.sized(n * dp, prompt, answers), scenario.replica_batch - 1, stored)
    if replica:
        batch = min(replica * dp, requests - 1)
        text = f"{name} {batch} instead of {requests} (--{name} {batch})"
        yield Change(text, scenario.sized(batch, prompt, answers), {name: batch})
    shorter = _most(lambda n: scenario.sized(requests, n, answers), prompt - 1, stored)
    if shorter:
        text = f"prompts of {shorter} tokens instead of {prompt} (--{length} {shorter})"
        yield Change(text, scenario.sized(requests, shorter, answers), {length: shorter})


def _most(make: Any, top: int, stored: float) -> int:
    """The largest ``n <= top`` for which ``make(n)`` fits, 0 when none does. Memory grows with ``n``: bisection."""
    if top < 1 or not memory_of(make(1), stored).fits:
        return 0
    low, high = 1, top + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if memory_of(make(middle), stored).fits else (low, middle)
    return low


def _more_devices(scenario: Scenario) -> Iterator[Change]:
    """Twice the devices, again and again: tensor parallel inside a node as far as heads divide, stages across nodes
    and of engines that split layers.
    """
    cluster, plan, factor = scenario.cluster, scenario.plan, 2
    if cluster.unlike:
        return
    while cluster.count * factor <= MAX_DEVICES:
        on = replace(cluster, count=cluster.count * factor)
        splits = [factor // (1 << k) for k in range(factor.bit_length())]
        widest = plan.tp if scenario.engine.splits_layers else max(cluster.per_node, plan.tp)
        for wider in sorted(splits, key=lambda w: (plan.tp * w > widest, -w)):
            cut = dict(zip(DEGREES, (plan.tp * wider, plan.pp * (factor // wider)), strict=False))
            candidate = replace(scenario, cluster=on, plan=replace(plan, **cut))  # type: ignore[arg-type]
            if _fits(candidate):
                degrees = {name: value for name, value in cut.items() if value != getattr(plan, name)}
                words = " and ".join(f"{name} {value}" for name, value in degrees.items())
                options = " ".join(f"--{name} {value}" for name, value in degrees.items())
                yield Change(
                    f"{on.count} devices with {words} (--on {on} {options})", candidate, {"on": str(on), **degrees}
                )
                return
        factor *= 2
