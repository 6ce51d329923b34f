"""Finetuning in the room that serving leaves (FlexLLM, arXiv:2402.18789).

Every step is filled with tokens of finetuning sequences as long as it stays within a time and within the token budget.
Only adapters are trained, so a token costs a forward pass and the backward pass of the activations, the work of two
forward passes; gradients of the frozen weights are not needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from steelyard.techniques._base import Citation, PoolFit, Technique
from steelyard.units import Quantity, figure

__all__ = ["WORK", "Finetune"]

#: Forward passes of work per finetuning token with frozen weights.
WORK = 2.0


@dataclass(frozen=True)
class Finetune(Technique):
    """Finetuning beside serving."""

    name: ClassVar[str] = "finetune"
    layer: ClassVar[str] = "serving"
    paper: ClassVar[Citation] = Citation(
        "FlexLLM: a system for co-serving large language model inference and parameter-efficient finetuning",
        "arXiv:2402.18789",
    )
    effect: ClassVar[str] = "steps are filled with finetuning tokens up to a time"
    serving: ClassVar[bool] = True
    in_steps: ClassVar[bool] = True
    first: ClassVar[str] = "limit"
    keys: ClassVar[Mapping[str, str]] = {"limit": "limit_s"}

    limit_s: Annotated[float, Quantity("s", "step time up to which tokens are added (the SLO of TPOT)", gt=0, le=1e6)]
    context: Annotated[int, Quantity("1", "tokens of one training sequence", ge=1, le=100_000_000)] = 1024

    @classmethod
    def from_flag(cls, text: str, label: str) -> Finetune:
        """Read ``30ms`` or ``finetune:30ms,context=2048``."""
        return cls.read(text.strip().removeprefix("finetune:"), label)

    def fit(self, pool: PoolFit) -> None:
        """Work per token and the time of a step."""
        record = pool.record
        record["plain"] = 0
        record["limit_s"], record["train_work"], record["train_context"] = self.limit_s, WORK, self.context
        pool.notes.append(
            f"finetuning fills steps up to {self.limit_s * 1e3:g} ms, two forward passes of work per token"
        )

    def report(self, counts: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
        """Tokens trained on."""
        rate, tokens = counts["trained_tokens_per_s"], counts["trained_tokens"]
        yield "finetuning", f"{figure(rate)} tokens/s trained on beside ({tokens:,} in all)"
