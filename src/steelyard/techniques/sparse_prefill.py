"""Prompts whose tokens attend to part of the keys before them, chosen by an index that is built on the way.

Of ``L^2 / 2`` pairs of a prompt a share ``share`` is computed, and at most ``tokens`` keys per query, so that attention
takes ``O(L tokens)`` instead of ``O(L^2)``. The index scores ``probes`` queries against all keys (MInference,
arXiv:2407.02490: the last 64), or each query against ``search`` keys per halving of the context (HiP, arXiv:2406.09827:
a tree of blocks, ``O(L log L)``). The kernel runs as one with a window that has as many pairs; ``rate`` is its speed
per pair relative to that. A share ``full`` of the layers is left as it is; answers attend to all tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from steelyard.errors import Problem
from steelyard.techniques._base import Citation, Technique
from steelyard.techniques.sparsity import no_full_attention, with_sparse
from steelyard.units import Quantity

__all__ = ["SparsePrefill"]


@dataclass(frozen=True)
class SparsePrefill(Technique):
    """See the module's text."""

    name: ClassVar[str] = "sparse-prefill"
    layer: ClassVar[str] = "kernel"
    costs: ClassVar[str] = "accuracy of long prompts"
    paper: ClassVar[Citation] = Citation(
        "MInference 1.0: accelerating pre-filling for long-context LLMs via dynamic sparse attention",
        "arXiv:2407.02490",
    )
    effect: ClassVar[str] = "tokens of a prompt attend to part of those before them: long prompts take less time"
    slot: ClassVar[str] = "sparse-prefill"
    first: ClassVar[str] = "share"

    share: Annotated[float, Quantity("1", "share of the pairs of query and key that are computed", gt=0, le=1)] = 0.1
    tokens: Annotated[int, Quantity("1", "keys per query at most; 0 = no limit", ge=0, le=1e9)] = 0
    probes: Annotated[int, Quantity("1", "queries scored against all keys to choose", ge=0, le=1e9)] = 64
    search: Annotated[
        int, Quantity("1", "keys scored per query and halving of the context to choose", ge=0, le=1e6)
    ] = 0
    rate: Annotated[float, Quantity("1", "speed per pair relative to a dense kernel", gt=0, le=1)] = 1.0
    full: Annotated[float, Quantity("1", "share of the layers left as they are", ge=0, le=1)] = 0.0

    def applies(self, scenario: Any) -> list[Problem]:
        """A model without full attention."""
        return no_full_attention(self.name, scenario.transformer)

    def scenario(self, scenario: Any) -> Any:
        """The model with sparse prompts in its layers of full attention."""
        changes = {
            "prompt_share": min(1.0, self.share / self.rate),
            "prompt_tokens": self.tokens / self.rate,
            "probes": float(self.probes),
            "search": float(self.search),
        }
        most = f", at most {self.tokens:,} keys per query" if self.tokens else ""
        note = f"sparse-prefill: {self.share:.3g} of the pairs of a prompt are computed{most}"
        return with_sparse(scenario, changes, self.full, note)
