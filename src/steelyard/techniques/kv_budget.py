"""A budget of the cache: each token of an answer attends to part of the earlier ones.

Of ``L`` tokens it attends to ``min(s L, T)`` (``budget`` s, ``tokens`` T). Where the rest is decides what that saves:

    rest=dropped   evicted: memory and reads fall                      H2O, arXiv:2306.14048
    rest=kept      selected: reads fall, memory stays                  Quest, arXiv:2406.10774
    rest=host      selected from host memory: ``resident`` of a token's cache stays, ``fetched`` of what was chosen
                   crosses the link at every step                      ShadowKV, arXiv:2410.21465

Keys kept as ``rank`` numbers a token are multiplied out for the chosen tokens of every head at every step: ``2 rank d``
operations each, the product of a sequence's own matrix.

Choosing reads ``index`` of every cached token's bytes at one of ``every`` steps (Quest: smallest and largest key of a
page of 16 tokens, 2 / 16 of the keys = 0.0625 of the cache). A share ``streaming`` of the heads attends to the ``near``
first and latest tokens only and keeps no others (DuoAttention, arXiv:2410.10819; LServe, arXiv:2502.14866); a share
``full`` of the layers is left as it is (LongGen, arXiv:2410.01485). With ``prompts`` the tokens of prompts attend to
the same share, and such heads to near tokens there, too; ``tokens`` is a limit of answers (sparse-prefill has one of
prompts). Layers that have a window, an indexer or compressed entries of their own stay as they are.

What PyTorch selects is first ``gathered``: read and written once more, for a kernel that reads whole caches (ALISA,
arXiv:2403.17312). Copies from the host that are known before a layer's queries, as FlexGen's of a whole cache, run
under other kernels: a share ``overlap`` of them, ``T = max(C, overlap A) + (1 - overlap) A`` of copies ``A`` and what
computes ``C``; by default none, since what is chosen hangs on the queries.

What it costs in accuracy is not predicted. The prompt is computed with all its tokens before any is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import numpy as np

from steelyard.cost.cost import Cost
from steelyard.cost.effect import Effect, at_time, shown_s, total_s
from steelyard.cost.kernel import Program
from steelyard.cost.step import Replica
from steelyard.errors import Problem
from steelyard.techniques._base import Citation, Technique
from steelyard.techniques.sparsity import no_full_attention, with_sparse
from steelyard.units import Quantity

__all__ = ["KvBudget"]

#: Where the cache is that a token does not attend to.
RESTS = ("dropped", "kept", "host")


@dataclass(frozen=True)
class FetchedUnder(Effect):
    """Copies of the cache from the host, under what computes."""

    overlap: float

    def priced(self, cost: Cost, program: Program, replica: Replica) -> Cost:
        """Copies with the time that shows beside all kernels of the layers, those priced apart among them."""
        copies = [k for k in cost.kernels if k.kernel.name.endswith(".fetch")]
        if not copies or program.step is None:
            return cost
        rest = replica.plain.lower(program.step, program.absorb).without({k.kernel.name for k in cost.kernels})
        beside = (*cost.kernels, *replica.plain.cost(rest).kernels)
        copying = total_s(copies)
        computing = total_s(k for k in beside if k.kernel.in_layers) - copying
        left = shown_s(copying, computing, self.overlap) / np.maximum(copying, 1e-30)
        kernels = (at_time(k, k.time_s * left) if k in copies else k for k in cost.kernels)
        return replace(cost, kernels=tuple(kernels))


@dataclass(frozen=True)
class KvBudget(Technique):
    """See the module's text."""

    name: ClassVar[str] = "kv-budget"
    layer: ClassVar[str] = "kvcache"
    costs: ClassVar[str] = "accuracy on what was dropped"
    paper: ClassVar[Citation] = Citation(
        "H2O: heavy-hitter oracle for efficient generative inference of large language models", "arXiv:2306.14048"
    )
    effect: ClassVar[str] = "tokens of an answer attend to part of the cache: shorter steps, more requests at once"
    slot: ClassVar[str] = "kv-budget"
    first: ClassVar[str] = "budget"
    keys: ClassVar[Mapping[str, str]] = {"overlap": "overlap_frac"}

    budget: Annotated[float, Quantity("1", "share of the context that a new token attends to", gt=0, le=1)] = 0.2
    tokens: Annotated[int, Quantity("1", "tokens it attends to at most; 0 = no limit", ge=0, le=1e9)] = 0
    rest: Annotated[str, "where the others are: dropped, kept or host"] = "dropped"
    index: Annotated[
        float, Quantity("1", "read of every cached token to choose, as a share of its cache", ge=0, le=1)
    ] = 0.0
    every: Annotated[int, Quantity("1", "steps that use one choice", ge=1, le=1e6)] = 1
    resident: Annotated[
        float, Quantity("1", "share of a token's cache that stays on the device, with rest=host", ge=0, le=1)
    ] = 0.1
    fetched: Annotated[
        float, Quantity("1", "share of what was chosen that crosses the link, with rest=host", ge=0, le=1)
    ] = 0.5
    gathered: Annotated[bool, "chosen entries are copied together before a kernel for whole caches reads them"] = False
    overlap_frac: Annotated[
        float, Quantity("1", "share of the copies from the host that runs while others compute", ge=0, le=1)
    ] = 0.0
    rank: Annotated[
        int, Quantity("1", "ranks from which the keys of chosen tokens are rebuilt; 0 = kept whole", ge=0, le=100_000)
    ] = 0
    streaming: Annotated[float, Quantity("1", "share of the heads that attend to near tokens only", ge=0, le=1)] = 0.0
    near: Annotated[int, Quantity("1", "tokens such heads keep, first and latest", ge=1, le=1e9)] = 384
    full: Annotated[float, Quantity("1", "share of the layers left as they are", ge=0, le=1)] = 0.0
    prompts: Annotated[bool, "the share and the streaming heads hold in prompts, too"] = False

    def problems(self) -> list[Problem]:
        """An unknown place; shares of a cache so small that no number of tokens would fill a device."""
        found = [
            Problem(self.name, f"expected {name} as 0 or at least 1e-06, got {share:g}")
            for name, share in (("resident", self.resident), ("full", self.full))
            if 0 < share < 1e-6
        ]
        if self.rest not in RESTS:
            found.append(Problem(self.name, f"expected rest as dropped, kept or host, got {self.rest!r:.80}"))
        return found

    def applies(self, scenario: Any) -> list[Problem]:
        """A model without full attention, a device without a host."""
        found = no_full_attention(self.name, scenario.transformer)
        if self.rest == "host" and not scenario.cluster.machine.links("host"):
            name = scenario.cluster.machine.name
            found.append(Problem(self.name, f"rest=host needs a link to a host, which {name} has not"))
        whole = not self.resident and not self.full and self.streaming < 1
        if self.rest == "host" and whole and scenario.verb != "estimate":
            words = "expected resident above 0: blocks of a cache on the device are what requests are seated by"
            found.append(Problem(self.name, words))
        return found

    def conflict(self, other: Technique) -> str:
        """Prompts are made sparse once."""
        if self.overlap_frac and other.slot == "weights elsewhere":
            return "copies of weights and of the cache would run under the same kernels: leave out overlap"
        twice = self.prompts and other.name == "sparse-prefill"
        return "prompts are made sparse by one of them: leave out prompts" if twice else ""

    def changes(self) -> Mapping[str, Any]:
        """Fields of :class:`~steelyard.workload.shapes.Sparse`."""
        host = self.rest == "host"
        found: dict[str, Any] = {
            "share": self.budget,
            "tokens": self.tokens,
            "streaming": self.streaming,
            "near": self.near if self.streaming else 0,
            "drops": self.rest == "dropped",
            "resident": self.resident if host else 1.0,
            "fetched": self.fetched if host else 0.0,
            "gathered": self.gathered,
            "rank": self.rank,
            "index": self.index,
            "indexes": bool(self.index) and not host,
            "every": self.every,
        }
        if self.prompts:
            found |= {"prompt_share": self.budget, "prompt_streaming": bool(self.streaming)}
        return found

    @property
    def step_effect(self) -> FetchedUnder | None:
        """Copies under other kernels."""
        return FetchedUnder(self.overlap_frac) if self.rest == "host" and self.overlap_frac else None

    def scenario(self, scenario: Any) -> Any:
        """The model with the budget on its layers of full attention."""
        where = {"dropped": "not kept", "kept": "kept", "host": "in host memory"}[self.rest]
        most = f", at most {self.tokens:,} tokens" if self.tokens else ""
        note = f"kv-budget: answers attend to {self.budget:.3g} of the context{most}; the rest is {where}"
        return with_sparse(scenario, self.changes(), self.full, note)
