"""What a client sees of a request, where the server in front of the engine holds prompts or tokens back."""

from __future__ import annotations

from typing import Any

import numpy as np

from steelyard.deployment.engine_config import EngineConfig

__all__ = ["seen_by_clients"]


def seen_by_clients(requests: Any, config: EngineConfig) -> None:
    """Move the times of finished requests to those their clients measure, in place.

    A server that looks for new prompts every ``n`` steps lets one wait for half of them; one that sends ``k`` tokens at
    a time shows the first when it has ``k``:

        first + (n - 1) / 2 tpot + (k - 1) tpot,   last + (n - 1) / 2 tpot,   tpot = (last - first) / (osl - 1)

    Where a measured run is known (:class:`~steelyard.deployment.engine.Moved`) first tokens come so many times as late.

    Args:
        requests: records of the kernel. config: of the engine that answers.
    """
    poll, stream, late = config.scheduler_recv_interval - 1, config.stream_interval - 1, config.moved.first
    if not poll and not stream and late == 1.0:
        return
    done = (requests["first_at"] >= 0) & (requests["last_at"] >= requests["first_at"])
    first, last = requests["first_at"][done], requests["last_at"][done]
    tokens = np.maximum(requests["osl"][done] - 1, 1)
    tpot = (last - first) / tokens
    usual = float(tpot[tokens > 1].mean()) if np.any(tokens > 1) else 0.0
    arrived = requests["arrived_at"][done]
    waited = 0.5 * poll * np.where(tpot > 0, tpot, usual) + (late - 1.0) * (first - arrived)
    requests["scheduled_at"][done] = arrived + late * (requests["scheduled_at"][done] - arrived)
    requests["last_at"][done] = last + waited
    requests["first_at"][done] = np.minimum(first + waited + np.minimum(stream, tokens) * tpot, last + waited)
