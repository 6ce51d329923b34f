"""Fitting few parameters to few rows: log-space least squares that leans on a prior.

minimises  sum softL1(log(predicted / measured) / NOISE)^2 + sum ((log p - log prior) / sigma)^2

``sigma`` is how far machines differ from what their family predicts: a few rows of a near twin move little, many rows
of a stranger move much.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from steelyard.errors import InputError

__all__ = ["NOISE", "Errors", "errors_of", "fit_parameters", "need_scipy"]

Array = NDArray[np.float64]
T = TypeVar("T")

NOISE = 0.08
"""Log-space scatter at which a row starts to count as an outlier."""


def need_scipy() -> None:
    """Raise :class:`InputError` with the command to type when SciPy is missing."""
    try:
        import scipy.optimize  # noqa: F401
    except ImportError:
        raise InputError(
            "fitting needs SciPy and pandas: pip install 'steelyard[calibrate]'", field="calibrate"
        ) from None


DEFAULT_SIGMA = 0.5
"""Log-space width of the prior of a parameter that is not named."""


@dataclass(frozen=True, slots=True)
class Errors:
    """Absolute percentage errors and the log-space residuals, measured over predicted."""

    rows: int
    mean_ape: float
    median_ape: float
    p90_ape: float
    log_bias: float
    log_std: float
    log_low10: float
    log_high90: float

    def table(self) -> dict[str, float]:
        """The fields by name."""
        return {name: getattr(self, name) for name in self.__slots__}


def errors_of(predicted_s: Array, measured_s: Array) -> Errors:
    """Errors of predictions, seconds against seconds."""
    log = np.log(np.asarray(measured_s, dtype=np.float64) / predicted_s)
    ape = np.abs(np.expm1(-log)) * 100.0
    return Errors(
        int(log.size),
        float(ape.mean()),
        float(np.median(ape)),
        float(np.quantile(ape, 0.9)),
        float(log.mean()),
        float(log.std()),
        float(np.quantile(log, 0.1)),
        float(np.quantile(log, 0.9)),
    )


def fit_parameters(
    predict: Callable[[T], Array],
    prior: T,
    measured_s: Array,
    names: Sequence[str],
    *,
    sigma: float | Mapping[str, float] = 0.5,
    bounds: Mapping[str, tuple[float, float]],
    noise: float = NOISE,
    weights: Array | None = None,
) -> T:
    """The parameters that fit some rows, leaning on a prior.

    Args:
        predict: parameters to seconds per row.
        prior: a frozen dataclass to start from and lean on.
        measured_s: seconds per row.
        names: positive fields to move.
        sigma: log-space width of the prior, one for all or by name.
        bounds: least and largest value by name.
        noise: log-space scatter of a row.
        weights: of the rows; default all 1.

    Returns:
        The prior with ``names`` replaced.
    """
    from scipy.optimize import least_squares

    if not names or measured_s.size == 0:
        return prior
    low, high = (np.log([bounds[n][side] for n in names]) for side in (0, 1))
    centre = np.clip(np.log([max(float(getattr(prior, n)), 1e-15) for n in names]), low + 1e-6, high - 1e-6)
    width = np.array([sigma if isinstance(sigma, float) else sigma.get(n, DEFAULT_SIGMA) for n in names])
    target = np.log(measured_s)
    scale = np.ones_like(target) if weights is None else np.sqrt(weights)
    changing: Any = prior

    def build(z: Array) -> T:
        made: T = replace(changing, **{n: float(v) for n, v in zip(names, np.exp(z), strict=True)})
        return made

    def residual(z: Array) -> Array:
        log = (np.log(predict(build(z))) - target) / noise
        robust = np.sign(log) * np.sqrt(2.0 * (np.sqrt(1.0 + log * log) - 1.0))
        return np.concatenate([robust * scale, (z - centre) / width])

    found = least_squares(residual, centre, bounds=(low, high), diff_step=1e-3, x_scale=0.3, max_nfev=200)
    return build(found.x)
