"""What one engine step processes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from steelyard.workload.op import Array, Size

__all__ = ["Step"]


@dataclass(frozen=True, eq=False)
class Step:
    """What one engine step processes, per replica. Every field may be an array over scenarios.

    ``new`` tokens for each of ``batch`` sequences, whose caches then hold ``context`` tokens (new ones included).
    A prefill has ``new == context``; a decode has ``new == 1``. ``expert_tokens`` is how many tokens the experts see
    when other replicas share them (attention data parallelism), default the tokens of the step; ``skew`` is the
    exponent of the power law of expert popularity (0 = balanced). ``first``: the sequences begin with this step, in
    which an encoder, where there is one, reads its source. ``guesses``: several new tokens of an answer are verified
    together; else several are of a prompt.
    """

    batch: Size
    new: Size
    context: Size
    logits: Size | None = None
    expert_tokens: Size | None = None
    skew: float = 0.0
    first: bool = False
    guesses: bool = False

    @property
    def tokens(self) -> Array:
        """New tokens over all sequences."""
        return np.asarray(np.asarray(self.batch, dtype=np.float64) * self.new, dtype=np.float64)

    @property
    def logit_rows(self) -> Array:
        """Tokens whose next-token distribution is computed: one per sequence unless stated."""
        return np.asarray(self.batch if self.logits is None else self.logits, dtype=np.float64)

    def routed(self, exponent: float) -> Step:
        """The step with experts chosen by a power law of this exponent."""
        return replace(self, skew=exponent)

    @classmethod
    def prefill(cls, batch: Size, prompt: Size, **more: Any) -> Step:
        """All prompt tokens of ``batch`` sequences in one step."""
        return cls(batch=batch, new=prompt, context=prompt, first=True, **more)

    @classmethod
    def decode(cls, batch: Size, context: Size, **more: Any) -> Step:
        """One new token for each of ``batch`` sequences; the cache then holds ``context`` tokens each."""
        return cls(batch=batch, new=1, context=context, **more)
