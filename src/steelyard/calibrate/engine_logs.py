"""``steelyard calibrate --engine``: an engine's host times from the logs of benchmarks of one deployment.

Every log's load (its lengths and arrivals) is replayed through the simulator; the times of the engine are fitted until
mean, median and 90th percentile of the measured times agree (:func:`~steelyard.calibrate.fit_engine.fit_engine`). Of
three or more logs every third is left out of a first fit, which says how far the figures carry; what is written is
fitted to all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from steelyard.calibrate.fit_engine import EngineFit, fit_engine, values_of
from steelyard.calibrate.toml_files import document, write_files
from steelyard.deployment.engine import Engine, default_engine, engines, find_engine
from steelyard.deployment.plan import Plan
from steelyard.deployment.sharding import check_sharding
from steelyard.errors import InputError
from steelyard.folders import user_folder
from steelyard.machine.cluster import parse_cluster
from steelyard.simulation.replay import Log, read_log
from steelyard.workload.catalogue import load_model
from steelyard_validation.readers._serve import Service
from steelyard_validation.readers._whole import Deployment

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FITTED", "EngineCalibration", "LogScore", "calibrate_engine", "deployment", "engine_file", "write_engine"]

Floats = NDArray[np.float64]

#: What is fitted. A log of one model cannot tell ``layer_s`` from ``step_s``.
FITTED: Final = ("step_s", "step_s_per_sequence", "request_s")
#: Log-space noise of the mean of a run: repeats of a run differ by a percent.
NOISE: Final = (0.01, 0.02)
#: Every how many logs one is left out.
LEAVE_OUT: Final = 3
#: Gauss-Newton steps.
ROUNDS: Final = 8
#: Percentiles compared beside the mean.
PERCENTILES: Final = (50.0, 90.0)


@dataclass(frozen=True, slots=True)
class LogScore:
    """Errors of the mean times of one log, simulated over measured less one."""

    name: str
    load: str
    requests: int
    left_out: bool
    """Not in the fit that ``after`` is of."""
    tpot_before: float
    tpot_after: float
    ttft_before: float
    ttft_after: float


@dataclass(frozen=True, slots=True)
class EngineCalibration:
    """What a calibration found."""

    engine: Engine
    before: Mapping[str, float]
    """The fitted figures as they were, s."""
    after: Mapping[str, float]
    logs: tuple[LogScore, ...]
    bounds: tuple[str, ...]
    """Figures that ended at zero: the kernels alone are predicted slower than the log."""


def deployment(
    model: str,
    on: str,
    engine: str,
    *,
    weights: str = "",
    activations: str = "",
    kv: str = "",
    communication: str = "",
    tp: int | None = None,
    pp: int | None = None,
    dp: int | None = None,
    ep: int = 1,
    skew: float = 0.0,
) -> Deployment:
    """The deployment the logs were taken of. Raises :class:`InputError` on unknown names and impossible degrees."""
    cluster = parse_cluster(on)
    found = load_model(model)
    rest = (pp or 1) * (dp or 1)
    plan = Plan(
        weights, activations, kv, communication, tp or max(1, cluster.count // rest), pp or 1, dp or 1, ep
    ).resolved(found.transformer.native_weights)
    check_sharding(found.transformer, plan)
    if plan.devices > cluster.count:
        raise InputError(f"the plan needs {plan.devices} devices, {on!r} has {cluster.count}", field="on")
    chosen = find_engine(engine) if engine else default_engine(cluster.machine)
    return Deployment(found, replace(cluster, count=plan.devices), plan, chosen, skew)


def calibrate_engine(
    at: Deployment,
    files: Sequence[str],
    *,
    flags: Mapping[str, Any] | None = None,
    rate: str = "",
    concurrency: int | None = None,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> EngineCalibration:
    """Fit :data:`FITTED` of the deployment's engine to logs.

    Args:
        at: what was measured.
        files: logs of ``vllm bench serve``, aiperf, guidellm, or records of requests, one load each.
        flags: engine flags of the runs.
        rate, concurrency, seed: how requests were sent, where the logs do not say.

    Raises:
        InputError: a log cannot be read or has no times, or nothing of it fits the deployment.
    """
    if not files:
        raise InputError("give the logs of one or more benchmark runs", field="engine")
    logs = [read_log(f, rate=rate, concurrency=concurrency, seed=seed) for f in files]
    measured = [_statistics(x.recorded.tpot_s, x.recorded.ttft_s) for x in logs]
    for name, (tpot, ttft) in zip(files, measured, strict=True):
        if not np.isfinite(tpot).any() and not np.isfinite(ttft).any():
            raise InputError(f"{name} has neither times to first token nor times per output token", field="engine")
    given = dict(flags or {})

    def played(log: Log, engine: Engine) -> tuple[Floats, Floats]:
        return _simulated(replace(at, engine=engine), log, given)

    def fit(chosen: Sequence[int]) -> EngineFit:
        def predict(engine: Engine) -> tuple[Floats, Floats]:
            answers = [played(logs[i], engine) for i in chosen]
            return np.concatenate([a for a, _ in answers]), np.concatenate([b for _, b in answers])

        return fit_engine(
            at.engine,
            FITTED,
            predict,
            np.concatenate([measured[i][0] for i in chosen]),
            np.concatenate([measured[i][1] for i in chosen]),
            noise=NOISE,
            rounds=ROUNDS,
        )

    every = range(len(logs))
    left = [i for i in every if len(logs) >= LEAVE_OUT and i % LEAVE_OUT == LEAVE_OUT - 1]
    kept = [i for i in every if i not in left]
    parts = 2 if left else 1
    if progress:
        progress("fitting", 0, parts)
    judged = fit(kept)
    if progress:
        progress("fitting all", 1, parts)
    final = fit(list(every)) if left else judged
    scores = []
    for i in every:
        pairs = [played(logs[i], engine) for engine in (at.engine, judged.engine)]
        errors = [[float(found[0] / true[0] - 1.0) for found, true in zip(p, measured[i], strict=True)] for p in pairs]
        scores.append(
            LogScore(
                Path(files[i]).name,
                logs[i].load,
                len(logs[i].trace),
                i in left,
                errors[0][0],
                errors[1][0],
                errors[0][1],
                errors[1][1],
            )
        )
    zero = tuple(name for name, value in final.values.items() if value == 0.0)
    return EngineCalibration(final.engine, values_of(at.engine, FITTED), final.values, tuple(scores), zero)


def _statistics(tpot: Any, ttft: Any) -> tuple[Floats, Floats]:
    """Mean and :data:`PERCENTILES` of both times; NaN where a log has none."""
    found = []
    for values in (tpot, ttft):
        x = np.asarray([] if values is None else values, dtype=np.float64)
        x = x[np.isfinite(x)]
        found.append(np.array([x.mean(), *np.percentile(x, PERCENTILES)]) if x.size else np.full(3, math.nan))
    return found[0], found[1]


def _simulated(at: Deployment, log: Log, flags: Mapping[str, Any]) -> tuple[Floats, Floats]:
    """The same figures of the simulation of a log's load."""
    service = Service.for_trace(at, log.trace, flags)
    q = service.play(log.trace, service.flagged(flags)).requests
    osl = np.asarray(log.trace.osl, dtype=np.float64)
    ttft = np.asarray(q["first_at"] - q["arrived_at"], dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        tpot = np.where(osl > 1, (q["last_at"] - q["first_at"]) / (osl - 1), np.nan)
    return _statistics(tpot, ttft)


def engine_file(found: EngineCalibration, source: str) -> str:
    """The catalogue file of a calibrated engine."""
    engine = found.engine
    plain = {f.name: _plain(getattr(engine, f.name)) for f in fields(Engine)}
    plain["guess"] = [g for g in engine.guess if g not in found.after]
    comments = (f"{', '.join(found.after)} fitted by `steelyard calibrate --engine` to {source}",)
    return document({"engine": [plain]}, comments)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [asdict(v) if hasattr(v, "__dataclass_fields__") else v for v in value]
    return value


def write_engine(found: EngineCalibration, source: str, out: str = "") -> Path:
    """Write ``engines/NAME.toml`` below ``out`` (default: the user's catalogue), where it wins over ours."""
    folder = Path(out) if out else user_folder()
    path = write_files(folder, {f"engines/{found.engine.name}.toml": engine_file(found, source)})[0]
    engines.cache_clear()
    return path
