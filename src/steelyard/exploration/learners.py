"""A space of networks as a Gymnasium environment: an action is an architecture, the reward how good it is.

Every step proposes an architecture; the observation is what the last one scored and took, relative to an architecture
of the middle; the reward is its relative score, less by how much it breaks the limits. An episode is so many proposals.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from steelyard.errors import InputError, check_whole, show
from steelyard.exploration.networks import read_task
from steelyard.scenario.words import Problems

__all__ = ["network_env"]

#: Architectures whose middle figures are compared relative to, and bounds of an observation.
_DRAWN, _MOST = 500, 1e3


def network_env(space: str, *, steps: int = 32, penalty: float = 1.0, **words: Any) -> Any:
    """An environment over a space; see :class:`gymnasium.Env`.

    ``reward = score / |middle score| - penalty x by how much the limits are broken, relative``

    Args:
        space: as for ``search_network``.
        steps: proposals of an episode.
        penalty: of a limit that is broken by its own size.
        words: as for ``search_network``: ``on``, ``latency``, ``score``, ``macs``, ``parameters``, ``batch`` ...

    Returns:
        Its ``action_space`` is ``MultiDiscrete`` with the choices of each place; ``info`` of a step has the
        ``architecture``, its ``score``, ``latency_s`` on each device and ``broken``.

    Raises:
        InputError: a field is wrong; Gymnasium is not installed (``pip install 'steelyard[gym]'``).
    """
    made = _class()
    check_whole(steps, "steps", 1, 1_000_000, "steps of an episode")
    if not 0 <= penalty < 1e6:
        raise InputError(f"expected a penalty of 0 or more, got {show(str(penalty))}", field="penalty")
    return made(read_task(space, words, Problems()), steps, float(penalty))


@cache
def _class() -> Any:
    try:
        import gymnasium
    except ImportError:
        raise InputError("this needs Gymnasium: pip install 'steelyard[gym]'", field="gym") from None

    class NetworkEnv(gymnasium.Env):  # type: ignore[misc]
        """A space of networks."""

        metadata: dict[str, Any] = {"render_modes": []}

        def __init__(self, task: Any, steps: int, penalty: float) -> None:
            self.task, self.steps, self.penalty = task, steps, penalty
            drawn = task.price(task.space.draw(_DRAWN)).values
            middle = np.abs(np.nanmedian(np.where(np.isfinite(drawn), drawn, np.nan), axis=0))
            self.middle = np.where(np.isfinite(middle) & (middle > 0), middle, 1.0)
            self.action_space = gymnasium.spaces.MultiDiscrete(np.array(task.space.sizes, dtype=np.int64))
            shape = (2 + len(task.sheets),)
            self.observation_space = gymnasium.spaces.Box(-_MOST, _MOST, shape, np.float32)
            self.tried = 0

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
            """Begin an episode: nothing was proposed."""
            super().reset(seed=seed)
            self.tried = 0
            return np.zeros(self.observation_space.shape, dtype=np.float32), {}

        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            """Price an architecture."""
            code = self.task.space.settled(np.asarray(action, dtype=np.int64)[None])
            figures = self.task.price(code)
            values, broken = figures.values[0], float(figures.broken[0])
            relative = np.where(np.isfinite(values), values, _MOST * self.middle) / self.middle
            relative[0] = -relative[0]
            seen = np.clip(np.append(relative, broken), -_MOST, _MOST).astype(np.float32)
            self.tried += 1
            info = {
                "architecture": self.task.space.spell(code[0].tolist()),
                "score": float(-values[0]),
                "latency_s": dict(zip(self.task.devices, values[1:].tolist(), strict=True)),
                "broken": broken,
            }
            reward = float(seen[0]) - self.penalty * min(broken, _MOST)
            return seen, reward, False, self.tried >= self.steps, info

    return NetworkEnv
