"""``search bits``: widths of weights and activations of every layer of a network, within limits.

A layer costs what it does in a network that is of its widths throughout: arithmetic in the narrowest format of the
machine that holds both, weights and activations moved at their widths. All other kernels, and the host, cost each layer
an equal share of what they do in that network.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from steelyard.deployment.runtime import Precision
from steelyard.errors import InputError, UnknownName, complete, show
from steelyard.exploration.additive import Sum
from steelyard.exploration.allocation import (
    Allocating,
    Allocation,
    Measure,
    allocate,
    axis_of,
    read_limits,
    read_losses,
    singles,
)
from steelyard.exploration.one_network import OneNetwork, one_network
from steelyard.provenance import provenance_of
from steelyard.scenario.words import Problems

__all__ = ["PROXIES", "search_bits"]

#: Losses without any data: formulas, no accuracy.
PROXIES: Mapping[str, str] = {
    "noise": "sum over layers of 4^-w + 4^-a, the noise of rounding to w and a bits over the signal",
}
#: Widths in bits.
WIDTHS = (2, 3, 4, 5, 6, 8, 16, 32)
_CHOICE = re.compile(r"(?:w(\d+)a(\d+)|(\d+))", re.IGNORECASE)
_FIGURES = {"latency": "latency_s", "energy": "energy_j", "memory": "memory_bytes"}


@complete
def search_bits(
    model: Any,
    *,
    on: str,
    bits: str | int | Sequence[str | int] = "4,8,w8a16",
    sensitivity: str = "noise",
    latency: Any = None,
    energy: Any = None,
    memory: Any = None,
    front: str = "",
    points: int = 12,
    progress: Callable[[int, int], object] | None = None,
    **words: Any,
) -> Allocation:
    """Bits of every layer's weights and activations that lose least within limits.

    Args:
        model: the network.
        on: the machine.
        bits: what a layer may have: ``4`` (weights and activations), ``w4a8``; a list or separated by commas.
        sensitivity: ``noise`` (a formula, no accuracy), or a CSV with the columns ``layer``, ``bits`` and ``loss``; a
            layer that it names takes only the bits that it has there.
        latency: limit of a pass, s.
        energy: limit of a pass, J.
        memory: limit of the bytes of all weights.
        front: figure over which the front is found: ``latency``, ``energy`` or ``memory``; empty: the first limited.
        points: of the front, about.
        progress: is called with programs solved and all.
        words: fields of ``estimate``: ``batch``, ``runtime``, ``size`` ...

    Raises:
        InputError: a field is wrong; the machine has no arithmetic for some bits.
        DoesNotFit: no choice keeps the limits.
    """
    problems = Problems()
    pairs = problems.read(_pairs, bits)
    given = {"latency": latency, "energy": energy, "memory": memory}
    limits = read_limits(given, _FIGURES, problems)
    axis = axis_of(front, limits, _FIGURES, problems)
    problems.done()
    assert pairs is not None
    said = {k: v for k, v in words.items() if v not in (None, "")}
    network = one_network(model, on, said)
    task = _task(network, pairs, sensitivity)
    inputs = {"model": str(model), "on": on, "bits": bits, "sensitivity": sensitivity, **given}
    inputs |= {"front": front, "points": points, **said}
    return allocate(task, "loss", axis, limits, points, provenance_of(inputs), progress)


def _pairs(bits: str | int | Sequence[str | int]) -> list[tuple[int, int]]:
    """Widths of weights and activations. Raises :class:`InputError`."""
    texts = [t.strip() for t in str(bits).split(",")] if isinstance(bits, str | int) else [str(b) for b in bits]
    found = []
    for text in texts:
        match = _CHOICE.fullmatch(text)
        w, a = (int(match[1] or match[3]), int(match[2] or match[3])) if match else (0, 0)
        if w not in WIDTHS or a not in WIDTHS:
            widths = ", ".join(map(str, WIDTHS))
            raise InputError(f"expected bits such as 4 or w4a8 of {widths}, got {show(text)}", field="bits")
        found.append((w, a))
    if len(set(found)) < len(found):
        raise InputError("each choice of bits once", field="bits")
    return found


def _name(pair: tuple[int, int]) -> str:
    return f"w{pair[0]}a{pair[1]}"


def _precision(network: OneNetwork, pair: tuple[int, int]) -> Precision:
    """How a layer of these widths is kept and multiplied."""
    w, a = pair
    usual = network.scenario.precision
    wide = usual.activations if usual.bits == 16.0 else "fp16"
    weights = "fp32" if w == 32 else wide if w == 16 else f"int{w}"
    activations = "fp32" if a == 32 else wide if a == 16 else "int4" if a <= 4 else "int8"
    known = "fp32" if max(pair) == 32 else wide if w == 16 else "w8a16" if a == 16 else "int8"
    return Precision(known, weights, activations, between=float(a), kept=float(w))


def _task(network: OneNetwork, pairs: Sequence[tuple[int, int]], sensitivity: str) -> Allocating:
    count = len(network.layers)
    kernel, joule, weights, waits, steps = (np.zeros((count, len(pairs))) for _ in range(5))
    power = 0.0
    for k, pair in enumerate(pairs):
        try:
            priced = network.price(precision=_precision(network, pair))
        except InputError as error:
            raise InputError(f"{_name(pair)}: {error.message}", field="bits") from None
        layer, (spent, power) = network.layer_of(priced), network.energy_of(priced)
        mine = layer >= 0
        for total, each in ((kernel, priced.kernel_s[:, 0]), (joule, spent)):
            np.add.at(total[:, k], layer[mine], each[mine])
            total[:, k] += each[~mine].sum() / count
        waits[:, k], steps[:, k] = float(priced.host_s[0]) / count, priced.step_s / count
    for i, node in enumerate(network.layers):
        weights[i] = [network.weights(node) * w / 8 for w, _ in pairs]
    table, title = _losses(network, pairs, sensitivity)
    able = np.isfinite(table)
    stored = network.scenario.precision.stored_bits / 8
    others = network.graph.parameters - sum(network.weights(n) for n in network.layers)

    def whole(shared: float, each: np.ndarray) -> Sum:
        return Sum(shared, each[able])

    measures = {
        "loss": Measure((whole(0.0, np.where(able, table, 0.0)),)),
        "latency_s": Measure((whole(0.0, kernel + steps), whole(0.0, waits + steps))),
        "energy_j": Measure((whole(0.0, joule + power * steps), whole(0.0, joule + power * (steps + waits - kernel)))),
        "memory_bytes": Measure((whole(others * stored, weights),)),
    }
    names = [_name(p) for p in pairs]
    ledger = network.ledger()
    ledger.assume("a layer costs as in a network of its widths throughout, with its share of all other kernels there")
    ledger.assume("without arithmetic as narrow, a layer is computed in the next wider format and moved at its widths")
    if sensitivity in PROXIES:
        ledger.assume(f"{sensitivity} is a proxy, {title}: it is no accuracy")
    choices = tuple(tuple(n for n, ok in zip(names, row, strict=True) if ok) for row in able)
    return Allocating(
        *("bits", network.scenario.name, (network.scenario.cluster.machine.name,), network.names, choices),
        groups=singles(len(c) for c in choices),
        measures=measures,
        spread=network.spread,
        ledger=ledger,
        goal_title=title,
        proxy=sensitivity in PROXIES,
    )


def _losses(network: OneNetwork, pairs: Sequence[tuple[int, int]], sensitivity: str) -> tuple[np.ndarray, str]:
    """The loss of every layer and choice; NaN where the user's table has none, and what it is."""
    if sensitivity in PROXIES:
        row = [4.0**-w + 4.0**-a for w, a in pairs]
        return np.tile(row, (len(network.layers), 1)), PROXIES[sensitivity]
    if not sensitivity.lower().endswith((".csv", ".txt")):
        known = UnknownName("proxy", sensitivity, PROXIES, hint="or a CSV of layer,bits,loss")
        raise InputError(known.message, field="sensitivity")
    found = read_losses(sensitivity, network.names, ("bits",))
    names = {_name(p): i for i, p in enumerate(pairs)} | {str(p[0]): i for i, p in enumerate(pairs) if p[0] == p[1]}
    table = np.full((len(network.layers), len(pairs)), np.nan)
    for i, layer in enumerate(network.names):
        if layer not in found:
            table[i] = 0.0
            continue
        for (text,), value in found[layer].items():
            if not _CHOICE.fullmatch(text):
                raise InputError(f"{layer}: expected bits such as 8 or w4a8, got {show(text)}", field="sensitivity")
            place = names.get(text.lower())
            if place is None:
                continue
            if np.isfinite(table[i, place]):
                raise InputError(f"{layer} {_name(pairs[place])} is given twice", field="sensitivity")
            table[i, place] = value
        if not np.isfinite(table[i]).any():
            said = f"{layer} has none of the bits {', '.join(names)} there"
            raise InputError(said, field="sensitivity")
    return table, f"the table {sensitivity}"
