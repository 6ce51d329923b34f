"""Fitting parameters to measured times: log-space least squares that leans on a prior.

    minimise  sum softL1(log(predicted / measured) / noise)^2 + sum ((log p - log prior) / sigma)^2

``sigma`` is how far machines differ from what their family predicts: a few rows of a near twin move little, many rows
of a stranger move much. A :class:`Task` is one section of a calibration file: rows, a model of them, a prior, and which
parameters may move; :func:`fit_task` fits the rows it may see and scores the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from steelyard._version import __version__
from steelyard.cost.parameters import Calibrated
from steelyard.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "NOISE",
    "Errors",
    "Free",
    "Section",
    "Task",
    "errors_of",
    "fit_parameters",
    "fit_task",
    "fit_values",
    "need_scipy",
    "sections_table",
]

Array = NDArray[np.float64]
Index = NDArray[np.int_]
Bounds = Mapping[str, tuple[float, float]]
T = TypeVar("T")

NOISE = 0.08
"""Log-space scatter at which a row starts to count as an outlier (repeat measurements differ by some 3 %)."""
SIGMA = 0.5
"""Log-space width of the prior of a parameter that is not named."""
FIT_ROWS = 3000
"""Rows of one section a fit looks at; more are drawn at random and change errors by less than 0.2 points."""


def need_scipy() -> None:
    """Raise :class:`InputError` with the command to type when SciPy or pandas is missing."""
    try:
        import pandas  # noqa: F401
        import scipy.optimize  # noqa: F401
    except ImportError:
        message = "fitting needs SciPy and pandas: pip install 'steelyard[calibrate]'"
        raise InputError(message, field="calibrate") from None


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
        return {name: float(getattr(self, name)) for name in self.__slots__}


def errors_of(predicted_s: Array, measured_s: Array) -> Errors:
    """Errors of predictions, seconds against seconds."""
    log = np.log(np.asarray(measured_s, dtype=np.float64) / predicted_s)
    ape = np.abs(np.expm1(-log)) * 100.0
    low, high = np.quantile(log, [0.1, 0.9])
    errors = (ape.mean(), np.median(ape), np.quantile(ape, 0.9), log.mean(), log.std(), low, high)
    return Errors(int(log.size), *(float(x) for x in errors))


def fit_values(
    predict: Callable[[dict[str, float]], Array],
    start: Mapping[str, float],
    measured_s: Array,
    *,
    bounds: Bounds,
    sigma: float | Mapping[str, float] = SIGMA,
    noise: float = NOISE,
    weights: Array | None = None,
) -> dict[str, float]:
    """The positive figures that fit some rows, leaning on where they start.

    Args:
        predict: figures by name to seconds per row.
        start: the prior, by name.
        measured_s: seconds per row.
        bounds: least and largest value by name.
        sigma: log-space width of the prior, one for all or by name.
        noise: log-space scatter of a row.
        weights: of the rows; default all 1.
    """
    from scipy.optimize import least_squares

    names = list(start)
    if not names or measured_s.size == 0:
        return dict(start)
    low, high = (np.log([bounds[n][side] for n in names]) for side in (0, 1))
    centre = np.clip(np.log([max(start[n], 1e-15) for n in names]), low + 1e-6, high - 1e-6)
    width = np.array([sigma if isinstance(sigma, float) else sigma.get(n, SIGMA) for n in names])
    target = np.log(measured_s)
    scale = np.ones_like(target) if weights is None else np.sqrt(weights)

    def values(z: Array) -> dict[str, float]:
        return dict(zip(names, np.exp(z).tolist(), strict=True))

    def residual(z: Array) -> Array:
        log = (np.log(predict(values(z))) - target) / noise
        robust = np.sign(log) * np.sqrt(2.0 * (np.sqrt(1.0 + log * log) - 1.0))
        return np.concatenate([robust * scale, (z - centre) / width])

    found = least_squares(residual, centre, bounds=(low, high), diff_step=1e-3, x_scale=0.3, max_nfev=200)
    return values(found.x)


def fit_parameters(predict: Callable[[T], Array], prior: T, measured_s: Array, names: Sequence[str], **given: Any) -> T:
    """The prior, a frozen dataclass, with the fields ``names`` fitted; ``given`` as in :func:`fit_values`."""
    base: Any = prior
    start = {n: float(getattr(base, n)) for n in names}
    fitted = fit_values(lambda values: predict(replace(base, **values)), start, measured_s, **given)
    made: T = replace(base, **fitted)
    return made


@dataclass(frozen=True, slots=True)
class Free:
    """Which parameters of a section may move."""

    bounds: Bounds
    """All of them, with their least and largest values."""
    few: tuple[str, ...]
    """What ten or twenty rows can say something about."""
    few_sigma: float | Mapping[str, float]
    """How far machines differ from what others predict of them, log space (docs/methods/calibration.md)."""
    names: tuple[str, ...] = ()
    """What many rows can tell; empty: every bounded parameter."""


@dataclass(frozen=True, eq=False)
class Task:
    """One section of one calibration file."""

    op: str
    """The file: ``gemm``, ``attention``, ``moe``, ``collective`` or ``vector``."""
    section: str
    """Dotted table inside the file; empty = the file's own."""
    title: str
    rows: pd.DataFrame
    """Measured calls: the columns the price needs, ``time_s``, and ``fitted``: rows a fit may see."""
    keys: tuple[str, ...]
    """Columns whose values choose a kernel; the price is called once for each of their combinations."""
    price: Callable[..., Array]
    """``(parameters, columns, *keys)`` to seconds."""
    prior: Calibrated
    free: Free
    source: str = ""
    split: str = ""
    facts: str = ""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def time_s(self) -> Array:
        """Measured seconds."""
        return np.asarray(self.rows["time_s"], dtype=np.float64)

    @property
    def everywhere(self) -> Index:
        """Every position."""
        return np.arange(len(self))

    def predictor(self, index: Index) -> Callable[[Any], Array]:
        """Parameters to seconds of the rows at ``index``."""
        part = self.rows.iloc[index]
        columns = {str(c): part[c].to_numpy() for c in part.columns}
        groups = part.groupby(list(self.keys), sort=False).indices if self.keys else {(): np.arange(len(part))}
        parts = [
            (where, {c: v[where] for c, v in columns.items()}, key if isinstance(key, tuple) else (key,))
            for key, where in groups.items()
        ]

        def predict(parameters: Any) -> Array:
            out = np.empty(len(part))
            for where, chosen, key in parts:
                out[where] = self.price(parameters, chosen, *key)
            return out

        return predict

    def predict(self, parameters: Any, index: Index) -> Array:
        """Seconds of the rows at ``index``."""
        return self.predictor(index)(parameters)

    def fit(self, index: Index, *, few: bool = False, seed: int = 0, **given: Any) -> Any:
        """Parameters fitted to the rows at ``index``; ``few`` moves few of them, and little.

        ``given``: ``noise`` and ``sigma`` as in :func:`fit_values`, where they are not the task's.
        """
        if index.size > FIT_ROWS:
            index = np.sort(np.random.default_rng(seed).choice(index, FIT_ROWS, replace=False))
        names = self.free.few if few else self.free.names or tuple(self.free.bounds)
        about = {"sigma": self.free.few_sigma if few else SIGMA, "bounds": self.free.bounds, **given}
        return fit_parameters(self.predictor(index), self.prior.parameters, self.time_s[index], names, **about)

    def errors(self, parameters: Any, index: Index) -> Errors:
        """Errors on the rows at ``index``."""
        return errors_of(self.predict(parameters, index), self.time_s[index])


@dataclass(frozen=True, eq=False)
class Section:
    """One fitted section with its scores."""

    op: str
    section: str
    title: str
    parameters: Any
    rows: int
    held_out: Errors
    before: Errors
    """The same rows with the borrowed parameters."""
    provenance: Mapping[str, Any]
    facts: str = ""


def fit_task(task: Task) -> Section:
    """Fit the rows of a task that may be seen, and score the others (every other row where all may be seen)."""
    seen = np.asarray(task.rows["fitted"], dtype=np.bool_)
    inside, outside = np.flatnonzero(seen), np.flatnonzero(~seen)
    if outside.size == 0:
        inside, outside = inside[::2], inside[1::2]
    parameters = task.fit(inside)
    before = task.errors(task.prior.parameters, outside)
    provenance = {
        "kind": "fitted",
        "source": task.source,
        "fitted_rows": int(inside.size),
        "split": task.split,
        "prior": task.prior.source,
        "borrowed_mean_ape": before.mean_ape,
    }
    held_out = task.errors(parameters, outside)
    return Section(
        task.op, task.section, task.title, parameters, int(inside.size), held_out, before, provenance, task.facts
    )


def sections_table(sections: Sequence[Section]) -> dict[str, dict[str, Any]]:
    """Op to the nested table of its calibration file: facts, parameters, residual and provenance of each section."""
    tables: dict[str, dict[str, Any]] = {}
    for s in sections:
        level = tables.setdefault(s.op, {})
        for part in filter(None, s.section.split(".")):
            level = level.setdefault(part, {})
        if s.facts:
            level["facts"] = s.facts
        level["parameters"] = {f.name: float(getattr(s.parameters, f.name)) for f in fields(s.parameters)}
        level["residual"] = s.held_out.table()
        level["provenance"] = {**s.provenance, "steelyard": __version__}
    return tables
