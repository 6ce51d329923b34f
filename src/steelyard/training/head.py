"""Scores over the vocabulary and their loss: all at once, or with the head in one kernel over parts of the tokens."""

from __future__ import annotations

from typing import Any

import numpy as np

from steelyard.cost.site import Site
from steelyard.cost.train_kernels import elementwise_time
from steelyard.deployment.train_plan import TrainPlan
from steelyard.training.asked import Asked, asked

__all__ = ["FUSED_LOGIT_BYTES", "FUSED_LOSS_BYTES", "loss_asks", "rows_at_once"]

#: Of a score where head and loss are one kernel: read twice, its gradient written over it.
FUSED_LOSS_BYTES = 6.0
#: The same, held at the peak.
FUSED_LOGIT_BYTES = 4.0


def rows_at_once(tokens: Any, vocab: Any, width: Any) -> Any:
    """Tokens whose scores there are at once where head and loss are one kernel.

    ``2^ceil(log2(tokens / ceil(vocab / width)))``: so many that scores take no more than what goes into the head.

    Source: Liger Kernel (arXiv:2410.10989), fused linear cross entropy.
    """
    parts = np.ceil(np.asarray(vocab, dtype=np.float64) / width)
    return np.minimum(2.0 ** np.ceil(np.log2(np.maximum(1.0, np.ceil(tokens / parts)))), tokens)


def loss_asks(logits: Any, plan: TrainPlan, site: Site) -> tuple[Asked, ...]:
    """Prices of softmax and cross entropy over so many scores, forward and, where not in one kernel, backward."""
    if plan.loss == "fused":
        return (asked(elementwise_time, logits * FUSED_LOSS_BYTES, site=site),)
    half = asked(elementwise_time, logits * plan.framework.loss_bytes / 2.0, site=site)
    return half, half
