"""The nearest change with which a network fits a machine, tried before it is said."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from steelyard.deployment.runtime import runtimes
from steelyard.errors import InputError
from steelyard.estimation.network import answer_net
from steelyard.scenario.network import read_net_scenario
from steelyard.scenario.words import Problems

if TYPE_CHECKING:
    from steelyard.estimation.network import NetEstimate

__all__ = ["network_remedy"]

#: Parts of the first stage along each side that are tried.
_PATCHES = (2, 3, 4)
#: Shares of the usual side of an image that are tried.
_SIDES = (7 / 8, 3 / 4, 5 / 8, 1 / 2)


def network_remedy(found: NetEstimate) -> str:
    """The nearest change that fits, as options: a smaller batch; where activations have a memory of their own, other
    kernels, parts of the first stage, a smaller image."""
    s = found.scenario
    if found.past_index:
        return f"--batch {max(1, s.batch // 2)}"
    if found.too_much:
        return "no --folding: multipliers are then chosen for the device"
    if found.storage_capacity_bytes:
        return next(_apart(found), "none: a smaller network or a larger machine")
    fixed = found.weight_bytes + s.cluster.machine.reserved_bytes
    each = (found.peak_memory_bytes - fixed) / s.batch
    most = int((found.capacity_bytes - fixed) // each) if each else 0
    return f"--batch {most}" if most >= 1 else "none: its weights alone do not fit with a batch of 1"


def _apart(found: NetEstimate) -> Iterator[str]:
    """What fits where activations have a memory of their own, the nearest first."""
    s = found.scenario
    if s.batch > 1 and (one := _answered(found, {"batch": 1})) is not None and one.fits:
        yield "--batch 1"
    kernels: dict[str, dict[str, Any]] = {"": {}} if _stores(found) else {}
    for runtime in runtimes().values():
        if not runtime.runs(s.cluster.machine) or runtime is s.runtime:
            continue
        options, words = f"--runtime {runtime.name}", {"runtime": runtime.name}
        if (one := _answered(found, words)) is None or not _stores(one):
            continue
        if one.fits:
            yield options
        kernels[options] = words
    parts = [f"patch-inference:{n}" for n in _PATCHES if all(t.name != "patch-inference" for t in s.techniques)]
    more: list[tuple[str, dict[str, Any]]]
    more = [(f"--with {name}", {"techniques": [*s.techniques, name]}) for name in parts]
    if len({*(sides := _sides(found))}) == 1 and not s.words.get("size"):
        more += [(f"--size {size}", {"size": str(size)}) for share in _SIDES if (size := round(sides[0] * share))]
    for added, fields in more:
        for options, words in kernels.items():
            if (one := _answered(found, {**words, **fields})) is not None and one.fits:
                yield f"{options} {added}".strip()


def _stores(found: NetEstimate) -> bool:
    return found.weight_bytes <= found.storage_capacity_bytes


def _sides(found: NetEstimate) -> list[int]:
    """Rows and columns of the image; none: the input is no image."""
    graph = found.scenario.phases[0].graph
    shape = graph.tensors[graph.inputs[0]].shape if graph.inputs else ()
    return [d for d in shape[2:] if isinstance(d, int)] if len(shape) == 4 else []


def _answered(found: NetEstimate, words: dict[str, Any]) -> NetEstimate | None:
    said = {name: value for name, value in found.scenario.words.items() if value not in (None, "")}
    try:
        return answer_net(read_net_scenario({**said, **words}, Problems()))
    except InputError:
        return None
