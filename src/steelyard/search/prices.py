"""Prices of one replica's steps on the points the screen asks about, every point at once.

The kernels of a step fall into those that depend on its new tokens, on the rows whose logits are wanted, and on the
sequences (see :mod:`steelyard.cost.step_table`, whose sums these are). The points of all kinds that decode are
laid one behind the other in a single array of steps, those of prompts in another, so that a replica costs two
lowerings, whatever the number of points.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from steelyard.cost.cost import Cost
from steelyard.cost.program import Kernel, Program
from steelyard.cost.step_table import PROBES, classify
from steelyard.search.demand import Demand
from steelyard.search.options import ReplicaOption
from steelyard.workload.step import Step

__all__ = ["BATCHES", "Classes", "StepPrices", "step_prices", "with_hops"]

Floats = NDArray[np.float64]

#: Requests of a rank's step at which decode steps are priced: every eighth of an octave at the low end, then quarters.
BATCHES = np.unique(np.rint(2.0 ** np.arange(0, 10.01, 0.25)))
#: New tokens at which the token kernels are priced beyond the batches.
TOKENS = np.unique(np.rint(2.0 ** np.arange(10.25, 14.6, 0.25)))
#: Chunks of one prompt that are priced one by one; longer prompts are sampled.
CHUNKS = 8


@dataclass(frozen=True, eq=False)
class StepPrices:
    """Times (s) and energies of one device (J) of the parts of a replica's steps."""

    points: Floats
    """``[t]`` new tokens of a step."""
    token: Floats
    """``[2, t]`` time and energy of what all tokens share."""
    decode_token: Floats
    """``[2, t]`` of what only decoded tokens do (latent attention)."""
    prompt_token: Floats
    """``[2, t]`` of what only prompt tokens do."""
    rows: Floats
    """``[2, b]`` by rows, at :data:`BATCHES`."""
    attention: Floats
    """``[2, b]`` sequence kernels of decodes at the mean context, at :data:`BATCHES`."""
    prompt: Floats
    """``[2, c, k]`` sequence kernels of a whole prompt of length class ``k`` under token budget ``c``."""
    overhead_s: float
    per_row_s: float
    launch_s: float
    """Host time to launch a step that is no graph."""
    static_w: float
    cap_w: float
    spread: float
    encode: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Time and energy of the pass over the images of a prompt, before its first step; time of the host before that."""


@dataclass(frozen=True, eq=False)
class Classes:
    """Which kernels of a step depend on what, by name; the same for all degrees that cut the same things."""

    decode: Mapping[str, str]
    """``token``, ``rows`` or ``sequence``."""
    prompt: Mapping[str, str]
    common: frozenset[str]
    """Token kernels that decodes and prompts share."""


def step_prices(
    replica: ReplicaOption,
    demand: Demand,
    classes: dict[tuple[bool, ...], Classes] | None = None,
    encode: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> StepPrices:
    """Price a replica, without the hops between its stages (:func:`with_hops`).

    Args:
        replica: what prices the steps, and its token budgets.
        demand: lengths at which sequence kernels are priced.
        classes: what earlier calls for the same model found out.
        encode: of a mean request's images, see :class:`StepPrices`.
    """
    pricer, plan, engine = replica.pricer, replica.plan, replica.engine
    model = pricer.model
    points = np.concatenate([BATCHES, TOKENS])
    chunk, before, copies = _chunks(replica.budgets, demand.prompt_tokens)
    latent = model.latent
    decoding = np.concatenate([points, BATCHES, BATCHES])
    context = np.repeat([1.0, 1.0, max(demand.context_tokens, 2.0)], [len(points), len(BATCHES), len(BATCHES)])
    logits = np.concatenate([np.ones(len(points)), BATCHES, np.ones(len(BATCHES))])
    token_at, rows_at, sequence_at = (
        slice(0, len(points)),
        slice(len(points), len(points) + len(BATCHES)),
        slice(len(points) + len(BATCHES), None),
    )

    def priced(program: Program, kernels: Iterable[Kernel]) -> Cost:
        return pricer.cost(Program(model.name, tuple(kernels), plan, step=program.step, absorb=program.absorb))

    known = {} if classes is None else classes
    cuts = (plan.tp > 1, plan.cp > 1, plan.ep > 1, plan.shares_experts, plan.ep == plan.tp)
    if cuts not in known:
        decode, facts = classify(pricer.lower(PROBES, True).kernels)
        prompt, prompt_facts = classify(pricer.lower(PROBES, False).kernels) if latent else (decode, facts)
        shared = frozenset(n for n, c in decode.items() if c == "token" and facts[n] == prompt_facts.get(n))
        known[cuts] = Classes(decode, prompt, shared)
    kinds, prompt_kinds, common = known[cuts].decode, known[cuts].prompt, known[cuts].common
    lowered = pricer.lower(Step(decoding, 1, context, logits), True)
    whole = priced(lowered, lowered.kernels)
    size, ones = len(chunk), np.ones(len(points) if latent else 0)
    alone = points[: len(ones)]  # latent attention: the token kernels of prompts on the same points, behind the chunks
    steps = Step(np.append(np.ones(size), alone), np.append(chunk, ones), np.append(before + chunk, ones), 1)
    lowered = pricer.lower(steps, False)
    prompting = lowered.kernels
    prompted = priced(
        lowered, [k for k in prompting if prompt_kinds.get(k.name, "sequence") != "rows" and k.name not in common]
    )

    def of(kind: str) -> Callable[[str], bool]:
        return lambda name: prompt_kinds.get(name, "sequence") == kind

    token = _part(whole, decoding, lambda name: name in common)[:, token_at]
    decode_token = _part(whole, decoding, lambda name: kinds.get(name) == "token" and name not in common)[:, token_at]
    prompt_token = np.zeros_like(token)
    if latent:
        prompt_token = _part(prompted, np.append(chunk, ones), of("token"))[:, size:]
    rows = _part(whole, decoding, lambda name: kinds.get(name) == "rows")[:, rows_at]
    attention = _part(whole, decoding, lambda name: kinds.get(name, "sequence") == "sequence")[:, sequence_at]
    prompts = _part(prompted, np.append(chunk, ones), of("sequence"))[:, :size] * copies
    launches = sum(float(np.max(np.asarray(k.count))) for k in prompting)
    middle = -1 - int(np.searchsorted(-BATCHES[::-1], -32.0))
    spread = np.broadcast_to(np.asarray(whole.log_spread(), dtype=np.float64), decoding.shape)[middle]
    shape = (2, len(replica.budgets), len(demand.prompt_tokens), CHUNKS)
    return StepPrices(
        points,
        token,
        decode_token,
        prompt_token,
        rows,
        attention,
        prompts.reshape(shape).sum(axis=3),
        engine.step_s + engine.layer_s * model.depth,
        engine.step_s_per_sequence,
        pricer.launch_s * launches,
        whole.static_w,
        whole.cap_w,
        float(spread),
        encode,
    )


def with_hops(prices: StepPrices, replica: ReplicaOption) -> StepPrices:
    """The prices of one stage's worth of layers with the hops of a replica's pipeline; stages have the same kernels."""
    if replica.plan.pp == 1:
        return prices
    hop = np.asarray(replica.pricer.hop_s(prices.points))
    return replace(prices, token=prices.token + np.stack([hop, np.zeros(len(hop))]))


def _chunks(budgets: NDArray[np.int64], lengths: Floats) -> tuple[Floats, Floats, Floats]:
    """``(tokens, tokens before, how many it stands for)`` of the chunks of each length under each budget, flat."""
    c, k = np.meshgrid(budgets.astype(np.float64), lengths, indexing="ij")
    count = np.ceil(k / c)[..., None]
    drawn = np.minimum(count, CHUNKS)
    at = np.arange(CHUNKS)[None, None, :]
    place = np.floor((at + 0.5) / drawn * count)  # evenly spread; every chunk when there are few
    size = np.minimum(c[..., None], k[..., None])
    size = np.where(count <= 1, k[..., None], k[..., None] / count)
    copies = np.where(at < drawn, count / drawn, 0.0)
    place = np.minimum(place, count - 1)
    return size.repeat(CHUNKS, axis=2).ravel(), (place * size).ravel(), copies.ravel()


def _part(cost: Cost, like: Floats, chosen: Callable[[str], bool]) -> Floats:
    """``[2, n]`` time and energy of the kernels with some names."""
    found = np.zeros((2, len(like)))
    for k in cost.kernels:
        if chosen(k.kernel.name):
            found[0] += k.time_s
            found[1] += k.energy_j
    return found
