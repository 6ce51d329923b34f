"""The one interval: the central 80 % of a lognormal around a prediction, as it is shown and as it is validated.

Three spreads (standard deviations of log(true / predicted)) make it up:

* of the cost models, from rows left out of their fits (:func:`~steelyard.cost.cost.spread_of_sum` combines them);
* of borrowing, where parameters come from another machine (:data:`BORROWED_SPREAD`);
* the system's own (:data:`SYSTEM_SPREAD`): what no model explains.

A served request's time to first token has a further one (:data:`FIRST_TOKEN_SPREAD`).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from steelyard.interval import Z80, interval80

__all__ = [
    "BORROWED_SPREAD",
    "FIRST_TOKEN_SPREAD",
    "POWER_SPREAD",
    "SYSTEM_SPREAD",
    "Z80",
    "interval80",
    "known_conditions",
    "stretched",
    "widened",
    "with_system",
]

#: Spread of what no cost model explains: version of the software, clocks, the client. Checked on whole-model rows
#: left out of every fit (docs/validation).
SYSTEM_SPREAD = 0.12
#: Least spread of a cost model whose parameters are borrowed, by how far the machine is from those they were fitted on.
#: From leaving machines out: an 80 % interval needs a factor of 1.2 for another board of the same product, of 1.35 for
#: another product of the family (H20 from H100 and H200: 1.3 to 1.7) and of 2 for machines in general (Arc B60 from
#: NVIDIA parts: 3.5 and more in attention). Links between devices are no machines: their own residuals hold.
BORROWED_SPREAD: Mapping[str, float] = MappingProxyType(
    {"none": 0.0, **{k: float(np.log(x)) / Z80 for k, x in {"die": 1.2, "family": 1.35, "generic": 2.0}.items()}}
)

#: Further spread of a served request's time to first token: the server in front of the engine, the client, the moment
#: within a step. From closed loops left out of the engines' fits (docs/methods/whole_models.md): 0.24 of dense models,
#: 0.37 with experts.
FIRST_TOKEN_SPREAD = 0.3

#: Spread of the power that devices draw in a step beside that of its time: energies of operations, clocks, the part.
#: From the rows of one DGX Spark, whose median error is 15 %; energies of ML.ENERGY played no part.
POWER_SPREAD = 0.12


def with_system(spread: Any) -> Any:
    """A spread of the cost models together with the system's own: ``sqrt(spread^2 + SYSTEM_SPREAD^2)``."""
    return np.hypot(spread, SYSTEM_SPREAD)


def known_conditions(spread: Any, system: float) -> Any:
    """A spread that holds the system's own, where the conditions of the run are known to leave only ``system`` of it.

    Args:
        spread: standard deviation of log(true / predicted) as :func:`with_system` makes it.
        system: what is left, as a recipe states it.
    """
    return np.sqrt(np.maximum(np.asarray(spread) ** 2 - SYSTEM_SPREAD**2, 0.0) + system**2)


def widened(value: Any, low: Any, high: Any, spread: Any, *, at_least: Any = 0.0) -> tuple[Any, Any]:
    """An interval with a further, independent spread: half-widths add in quadrature in log space.

    Args:
        value, low, high: a prediction and its interval, numbers or arrays above 0.
        spread: standard deviation of log(true / predicted) of what the interval leaves out.
        at_least: physical limit of the value, in its unit.

    Returns:
        ``(low, high)``.
    """
    more = Z80 * np.asarray(spread, dtype=np.float64)
    return stretched(value, low, high, more, more, at_least=at_least)


def stretched(value: Any, low: Any, high: Any, down: Any, up: Any, *, at_least: Any = 0.0) -> tuple[Any, Any]:
    """:func:`widened` by half-widths of its own on both sides, in log space and four times out of five inside."""
    lower, upper = np.hypot(np.log(value / low), down), np.hypot(np.log(high / value), up)
    return np.minimum(np.maximum(value * np.exp(-lower), at_least), value), value * np.exp(upper)
